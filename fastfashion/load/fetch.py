"""One shard from object storage or a web server to a file: with patience, and checked."""

import asyncio
import errno
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from fastfashion.errors import PackedSetError
from fastfashion.remote import (
    PATIENCE_S,
    LeastRate,
    Patience,
    UnexpectedBodyError,
    at_most,
    describe,
    is_missing,
    is_web,
    passes,
    retrying,
    say_waiting,
)
from fastfashion.shards.layout import ShardEntry, hash_file, shard_name

POLL_S = 0.02
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
            try:
                self._transfer_patiently(address, to, entry.num_bytes)
            except UnexpectedBodyError as error:
                found.append(str(error))
                continue
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

    def _transfer_patiently(self, address: Any, to: Path, num_bytes: int) -> None:
        """Retry storage that does not answer, after longer and longer waits of `patience_s` in all."""
        patience = Patience(self._patience_s)

        def retry(error: Exception) -> bool:
            return passes(error) and not is_missing(error) and not self._is_ours(error)

        def on_wait(error: Exception) -> None:
            if not self._told:
                self._told = True
                say_waiting(address, error, patience)

        try:
            retrying(lambda: self._transfer(address, to, num_bytes), patience, retry, on_wait=on_wait, pause=self.pause)
        except Exception as error:
            if self._is_ours(error):
                raise
            if is_missing(error):
                raise PackedSetError(f"{address}: the shard is gone; {self._check}") from error
            tried = f", tried for {patience.waited_s:.0f} s" if retry(error) else ""
            raise PackedSetError(f"{address}: cannot be fetched{tried} ({describe(error)}); {self._check}") from error
        self._told = False

    @staticmethod
    def _is_ours(error: Exception) -> bool:
        """Whether it is no failure of the storage: the cache was closed, the body is another one, or the disk here is full."""
        return isinstance(error, Closed | UnexpectedBodyError) or getattr(error, "errno", None) in _OURS

    def _transfer(self, address: Any, to: Path, num_bytes: int) -> None:
        """Copy a file here; left half-way when the source is closed, where fsspec speaks with the storage asynchronously.

        Raises UnexpectedBodyError as soon as there are more than `num_bytes`.
        """
        storage, counted = address.fs, _counted(address, num_bytes)
        if not storage.async_impl:
            storage.get_file(address.path, str(to), callback=counted)
            return
        ended = threading.Event()

        async def copy() -> None:
            try:
                await storage._get_file(address.path, str(to), callback=counted)
            finally:
                ended.set()

        with at_most(num_bytes):
            task = asyncio.run_coroutine_threadsafe(copy(), storage.loop)
        try:
            while not wait([task], timeout=POLL_S).done:
                self.pause(0)
        except BaseException:
            task.cancel()
            ended.wait(1)  # then it writes no more
            raise
        task.result()


def _counted(address: Path, num_bytes: int) -> Any:
    """For fsspec to tell what comes of a file: at once how long a storage says that it is, which of a web server may be an error page."""
    from fsspec.callbacks import Callback  # type: ignore[import-untyped]

    rate = LeastRate()

    class Counted(Callback):  # type: ignore[misc, unused-ignore]
        def set_size(self, size: int | None) -> None:
            if size is not None and size > num_bytes and not is_web(address):
                raise UnexpectedBodyError(f"{size} bytes")

        def relative_update(self, inc: int = 1) -> None:
            if inc:
                rate.add(inc)

    return Counted()
