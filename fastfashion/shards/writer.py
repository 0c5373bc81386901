"""Writing shards: a plain USTAR tar and its DALI/WebDataset index, streamed, hashed as written, published by rename."""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from fastfashion.files import publish
from fastfashion.shards.layout import ShardEntry, shard_name

_BLOCK_BYTES = tarfile.BLOCKSIZE
_RECORD_BYTES = tarfile.RECORDSIZE  # what tar(1) pads an archive to


class ShardWriter:
    """Writes one shard; as a context manager it publishes on success and leaves nothing on an exception.

    Bytes depend on the members alone: USTAR, mtime 0, uid and gid 0, mode 0644.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / shard_name(number)
        self._beside = self._path.with_name(f".{self._path.name}.partial")
        self._number = number
        self._hash = hashlib.sha256()
        self._offset = 0
        self._index: list[str] = []
        self.entry: ShardEntry | None = None

    def __enter__(self) -> "ShardWriter":
        self._file = self._beside.open("wb")
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, int]:
        """Append one sample, `{extension: bytes}`; returns each member's offset in the tar, in bytes."""
        offsets = {}
        components = []
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            self._write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
            offsets[extension] = self._offset
            shown = info.name.replace(" ", "_")  # DALI cuts the line at spaces, and reads by offset, not by this name
            components.append(f"{extension} {self._offset} {len(data)} {shown}")
            self._write(data)
            self._write(bytes(-len(data) % _BLOCK_BYTES))
        self._index.append(" ".join(components))
        return offsets

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self._index:
                end = self._offset + 2 * _BLOCK_BYTES
                self._write(bytes(end + -end % _RECORD_BYTES - self._offset))
                self._file.flush()
                os.fsync(self._file.fileno())
                index = f"v1.2 {len(self._index)}\n" + "\n".join(self._index) + "\n"
                publish(self._path.with_suffix(".idx"), lambda beside: beside.write_text(index, encoding="utf-8"))
                self._beside.replace(self._path)
                self.entry = ShardEntry(
                    number=self._number, num_rows=len(self._index), num_bytes=self._offset, sha256=self._hash.hexdigest()
                )
        finally:
            self._file.close()
            self._beside.unlink(missing_ok=True)
