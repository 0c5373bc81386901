"""Writing shards: a plain USTAR tar, its DALI/WebDataset index and its seek table, streamed, hashed as written, published whole."""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fastfashion.files import is_remote, publish
from fastfashion.scratch import scratch
from fastfashion.shards import seek
from fastfashion.shards.layout import FileEntry, ShardEntry, index_name, seek_name, shard_name

MAX_NAME_BYTES = 100  # of a member in USTAR
_BLOCK_BYTES = tarfile.BLOCKSIZE
_RECORD_BYTES = tarfile.RECORDSIZE  # what tar(1) pads an archive to
_FLUSH_BYTES = 1 << 20  # written and hashed at once

# A header as tarfile writes it, cut where members differ: joining the parts takes a tenth of tarfile's time.
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_BEFORE_SIZE, _BEFORE_CHECKSUM, _AFTER_CHECKSUM = _EMPTY[MAX_NAME_BYTES:124], _EMPTY[136:148], _EMPTY[156:]
_SUM = sum(_BEFORE_SIZE) + sum(_BEFORE_CHECKSUM) + sum(_AFTER_CHECKSUM) + sum(b" " * 8)  # the checksum counts as eight spaces
_PADDING = bytes(_BLOCK_BYTES)


def member_header(name: bytes, size: int) -> bytes:
    """The USTAR header of a plain file of mode 0644, owner 0 and time 0."""
    assert 0 < len(name) <= MAX_NAME_BYTES, f"{name!r}: expected a member's name of 1 to {MAX_NAME_BYTES} bytes, found {len(name)}"
    assert size < 8**11, f"{name!r}: expected less than 8 GiB, found {size} bytes"
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_SUM + sum(name) + sum(digits))
    return name.ljust(MAX_NAME_BYTES, b"\0") + _BEFORE_SIZE + digits + _BEFORE_CHECKSUM + checksum + _AFTER_CHECKSUM


class ShardWriter:
    """Writes one shard; as a context manager it publishes on success and leaves nothing on an exception.

    Bytes depend on the members alone: USTAR, mtime 0, uid and gid 0, mode 0644. On object storage the shard is written to a
    temporary file first, and uploaded when it is whole.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number = folder, number
        self._hash, self._offset, self._written = hashlib.sha256(), 0, 0
        self._pieces: list[bytes] = []  # the bytes between _written and _offset
        self._index: list[str] = []
        self._marks: list[bytes] = []
        self.entry: ShardEntry | None = None

    def __enter__(self) -> "ShardWriter":
        self._temporary = contextlib.ExitStack()
        here = self._temporary.enter_context(scratch()) if is_remote(self._folder) else self._folder
        # with the process id, so that a process that survives its killed run cannot disturb the next run
        self._partial = here / f".{shard_name(self._number)}.{os.getpid()}.partial"
        self._file = self._partial.open("wb", buffering=0)  # unbuffered: closing writes nothing, so it cannot fail on a full disk
        return self

    def add(self, key: str, members: Mapping[str, bytes], marks: bytes = b"") -> dict[str, int]:
        """Append one sample, `{extension: bytes}`, and its entry of the seek table; returns each member's offset in the tar, in bytes."""
        offsets = {}
        components = []
        for extension, data in members.items():
            name, size = f"{key}.{extension}", len(data)
            padding = _PADDING[: -size % _BLOCK_BYTES]
            self._pieces += (member_header(name.encode(), size), data, padding)
            offset = offsets[extension] = self._offset + _BLOCK_BYTES
            self._offset = offset + size + len(padding)
            shown = name.replace(" ", "_")  # DALI cuts the line at spaces, and reads by offset, not by this name
            components.append(f"{extension} {offset} {size} {shown}")
        self._index.append(" ".join(components))
        self._marks.append(marks)
        if self._offset - self._written >= _FLUSH_BYTES:
            self._flush()
        return offsets

    def _flush(self) -> None:
        data = b"".join(self._pieces)
        self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            error.filename = str(self._folder / shard_name(self._number))  # write() does not set it
            raise
        self._pieces.clear()
        self._written = self._offset

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self._index:
                self._publish()
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            self._temporary.close()

    def _publish(self) -> None:
        """The tar last: one that is there means that the shard is complete."""
        end = self._offset + 2 * _BLOCK_BYTES
        end += -end % _RECORD_BYTES
        self._pieces.append(bytes(end - self._offset))
        self._offset = end
        self._flush()
        os.fsync(self._file.fileno())
        index = (f"v1.2 {len(self._index)}\n" + "\n".join(self._index) + "\n").encode()
        publish(self._folder / index_name(self._number), lambda beside: beside.write_bytes(index))
        table = seek.join(self._marks)
        if table:
            publish(self._folder / seek_name(self._number), lambda beside: beside.write_bytes(table))
        tar = self._folder / shard_name(self._number)
        if is_remote(tar):
            remote: Any = tar
            remote.fs.put_file(str(self._partial), remote.path)
        else:
            self._partial.replace(tar)
        self.entry = ShardEntry(
            number=self._number,
            num_rows=len(self._index),
            num_bytes=self._offset,
            sha256=self._hash.hexdigest(),
            idx_sha256=hashlib.sha256(index).hexdigest(),
            seek=FileEntry(num_bytes=len(table), sha256=hashlib.sha256(table).hexdigest()) if table else None,
        )
