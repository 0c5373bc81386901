"""One shard from object storage or a web server to a file: with patience, and checked."""

import asyncio
import errno
import sys
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from fastfashion.errors import PackedSetError
from fastfashion.shards.layout import ShardEntry, hash_file, shard_name

PATIENCE_S = 300.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
POLL_S = 0.02
SILENCE_S = 60.0  # of a web server in mid-file, after which it is asked again

# By name, since the packages behind s3:// and https:// need not be installed: Python's, aiohttp's, botocore's and urllib3's.
_PASSING = {
    *("ConnectionError", "TimeoutError", "gaierror", "ClientConnectionError", "ClientPayloadError"),
    *("HTTPClientError", "IncompleteRead", "ResponseParserError"),
}
_PASSING_CODES = {errno.EIO, errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.ENETUNREACH, errno.EHOSTUNREACH}
_PASSING_STATUS = {408, 429}  # and 500 to 599
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE}  # of the disk that is written to


class Closed(RuntimeError):
    """What a thread that waits for a shard meets when the cache is closed."""


class Source:
    """The shards of one folder. `closed` ends all fetching at once."""

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self.closed = threading.Event()
        self._folder, self._patience_s = folder, patience_s
        self._told = False  # that the storage is waited for
        self._check = f"check the set with fastfashion verify {folder.parent}"

    def fetch(self, entry: ShardEntry, to: Path) -> None:
        """Fill a file with a shard; one that is not what was packed is fetched once more.

        Raises PackedSetError where it is gone, is not to be had within `patience_s`, or is still not what was packed; OSError where the
        file cannot be written; Closed.
        """
        address: Any = self._folder / shard_name(entry.number)
        found: list[str] = []
        for _ in range(2):
            self._transfer_patiently(address, to)
            num_bytes, sha256 = hash_file(to, on_bytes=lambda num_bytes: self.pause(0))
            if sha256 == entry.sha256:
                return
            found.append(f"{sha256} ({num_bytes} bytes)")
        raise PackedSetError(
            f"{address}: expected sha256 {entry.sha256} ({entry.num_bytes} bytes), found {' and then '.join(found)}; {self._check}"
        )

    def pause(self, seconds: float) -> None:
        """Wait; raises Closed as soon as the source is closed."""
        if self.closed.wait(seconds):
            raise Closed(f"{self._folder}: no more shards are fetched, the cache was closed")

    def _transfer_patiently(self, address: Any, to: Path) -> None:
        """Storage that does not answer is asked again, after longer and longer waits of `patience_s` in all."""
        waited_s, wait_s = 0.0, FIRST_WAIT_S
        while True:
            try:
                self._transfer(address, to)
                self._told = False
                return
            except Exception as error:
                if isinstance(error, Closed) or getattr(error, "errno", None) in _OURS:
                    raise
                if isinstance(error, FileNotFoundError):
                    raise PackedSetError(f"{address}: the shard is gone; {self._check}") from error
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if not passes(error):
                    raise PackedSetError(f"{address}: cannot be fetched ({reason}); {self._check}") from error
                if waited_s >= self._patience_s:
                    raise PackedSetError(f"{address}: cannot be fetched, tried for {waited_s:.0f} s ({reason}); {self._check}") from error
            if waited_s == 0 and not self._told:
                self._told = True
                print(f"{address}: cannot be fetched ({reason}); trying again for {self._patience_s:.0f} s", file=sys.stderr, flush=True)
            wait_s = min(wait_s, self._patience_s - waited_s)
            self.pause(wait_s)
            waited_s, wait_s = waited_s + wait_s, min(2 * wait_s, LONGEST_WAIT_S)

    def _transfer(self, address: Any, to: Path) -> None:
        """Copy a file here; left half-way when the source is closed, where fsspec speaks with the storage asynchronously."""
        storage = address.fs
        if not storage.async_impl:
            storage.get_file(address.path, str(to))
            return
        ended = threading.Event()

        async def copy() -> None:
            try:
                await storage._get_file(address.path, str(to), **_options(storage))
            finally:
                ended.set()

        task = asyncio.run_coroutine_threadsafe(copy(), storage.loop)
        try:
            while not wait([task], timeout=POLL_S).done:
                self.pause(0)
        except BaseException:
            task.cancel()
            ended.wait(1)  # then it writes no more
            raise
        task.result()


def passes(error: Exception) -> bool:
    """Whether a failure is of a kind that passes: no connection, a broken one, no answer, a server in trouble."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _PASSING_STATUS
    if any(kind.__name__ in _PASSING for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING_CODES


def _options(storage: Any) -> dict[str, Any]:
    """aiohttp would end a transfer after five minutes, however well it goes."""
    if "http" not in storage.protocol:
        return {}
    import aiohttp

    return {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)}
