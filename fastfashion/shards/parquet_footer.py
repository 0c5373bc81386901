"""What the footer of a Parquet file says of rows and compression, read before pyarrow gets the file.

pyarrow (26.0.1) ends the process when it reads the columns of a damaged footer. Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md, fields: parquet.thrift of apache/parquet-format.
"""

from dataclasses import dataclass
from typing import Any

MAX_FOOTER_BYTES = 1 << 22  # 18 columns take some 3 KB a group of rows
_MAGIC = b"PAR1"
_BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(3, 13)
_COMPRESSIONS = ("none", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")


@dataclass(frozen=True)
class Footer:
    num_rows: int
    group_rows: tuple[int, ...]  # of each row group
    names: tuple[str, ...]  # of columns and of fields within columns
    compressions: dict[str, str]  # by column, where a group has another than none and SNAPPY


def read_footer(data: bytes) -> Footer:
    """Read the footer of a file's bytes; raises ValueError where they are no Parquet file, or its footer is damaged."""
    size = int.from_bytes(data[-8:-4], "little")
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC or size > len(data) - 12:
        raise ValueError("no Parquet file")
    if size > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {size} bytes, more than {MAX_FOOTER_BYTES}")
    try:
        said = _Thrift(data[-8 - size : -8]).struct(depth=0)
        groups = said[4, _LIST]
        columns = [column[3, _STRUCT] for group in groups for column in group[1, _LIST]]
        # Snappy expands a byte to 22 at most, others to thousands.
        found = {b".".join(column[3, _LIST]).decode(): column[4, _I32] for column in columns if column[4, _I32] not in (0, 1)}
        return Footer(
            num_rows=said[3, _I64],
            group_rows=tuple(group[3, _I64] for group in groups),
            names=tuple(element[4, _BINARY].decode() for element in said[2, _LIST] if (5, _I32) not in element),
            compressions={name: _COMPRESSIONS[codec] if 0 <= codec < 8 else str(codec) for name, codec in found.items()},
        )
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"its footer is damaged ({type(error).__name__}: {error})") from error


class _Thrift:
    """Reads a struct to its fields by number and type; pyarrow ignores a field of another type than in parquet.thrift, too."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[tuple[int, int], Any]:
        if depth > 16:
            raise ValueError("its footer is damaged (structs within structs)")
        fields: dict[tuple[int, int], Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number, kind] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            return [self._value(head & 15, depth + 1) for _ in range(self._countable(count))]
        if kind == _MAP:
            count = self._countable(self._varint())
            kinds = self._byte() if count else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(count)]
        if kind in (1, 2, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ValueError(f"its footer is damaged (a field of type {kind})")

    def _countable(self, count: int) -> int:
        if count > len(self._data) - self._at:  # each takes at least a byte
            raise ValueError("its footer is damaged (a list that is longer than it)")
        return count

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError("its footer is damaged (a text that is longer than it)")
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("its footer is damaged (a number of more than 64 bits)")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
