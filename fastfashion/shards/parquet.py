"""Parquet tables read as untrusted data: the footer first, by code of ours, and values only if the footer is as expected.

pyarrow (26.0.1) ends the process when it reads the columns of a damaged footer. Thrift's compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md, fields: parquet.thrift of apache/parquet-format.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastfashion.words import why

if TYPE_CHECKING:
    import pyarrow as pa

TEXT, WHOLE, NUMBER, TRUTH = "text", "whole numbers", "numbers", "true or false"
FINGERPRINT = "fingerprint"
NEVER_NULL = ("id", "path", FINGERPRINT)  # texts; whole numbers and truths are never null either
MAX_TEXT_BYTES = 1 << 16
TEXT_RATIO, TEXT_SLACK_BYTES = 64, 1 << 24  # a table's texts have at most 64 times the bytes of its file, and 16 MiB
MAX_FOOTER_BYTES = 1 << 22  # 18 columns take some 3 KB a group of rows
_MAGIC = b"PAR1"
_BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(3, 13)
_COMPRESSIONS = ("none", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")


@dataclass(frozen=True)
class Footer:
    num_rows: int
    group_rows: tuple[int, ...]  # of each row group
    names: tuple[str, ...]  # of columns and of fields within columns
    compressions: dict[str, str]  # by column, if a group has another than none and SNAPPY


class UnfitError(ValueError):
    """What is wrong with a table, as text that follows the path of the file."""


def parse_table(
    data: bytes,
    needed: Mapping[str, str],
    *,
    num_rows: int,
    counted_in: str,
    more: Mapping[str, str] = MappingProxyType({}),
    unread: Mapping[str, str] = MappingProxyType({}),
) -> "pa.Table":
    """The `needed` columns of a Parquet file's bytes, and those of `more` that it has; `unread` columns must be there, and are not read.

    Raises UnfitError if that is not a table, has not `num_rows`, the number in the file `counted_in`, or columns of other types. In this
    thread alone: one of pyarrow's that still holds Python's bytes while the interpreter ends aborts the process (bench/LOG.md).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {**needed, **more, **unread}
    try:
        footer = read_footer(data)
        _check_footer(footer, types, len(data), num_rows, counted_in)
        # In a dictionary, a text that a million rows repeat is there once: its length is known before it is expanded.
        texts = [name for name, kind in types.items() if kind == TEXT and name in footer.names]
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, read_dictionary=texts)
        _check_columns(file.schema_arrow, types, {*needed, *unread})
        names = [name for name in file.schema_arrow.names if name in types and name not in unread]
        columns = {}
        for name in names:
            columns[name] = file.read(columns=[name], use_threads=False)[name]
            pa.default_memory_pool().release_unused()  # what reading took, of which a catalog of 6 MB would leave 10 more
        table = pa.table(columns)
        if len(table) != num_rows:
            raise UnfitError(f"expected {num_rows} rows, found {len(table)}")
        text_bytes = _check_texts(table, [name for name in texts if name in names])
        if text_bytes > TEXT_SLACK_BYTES + TEXT_RATIO * len(data):
            raise UnfitError(f"its texts are {text_bytes} bytes long, and the file {len(data)}")
        return pa.table({name: _plain(table[name], types[name], name) for name in names})
    except UnfitError:
        raise
    except (OSError, ValueError, OverflowError, MemoryError, KeyError, pa.ArrowException) as error:
        raise UnfitError(f"not readable ({' '.join(why(error).split())})") from error


def _check_footer(footer: Footer, types: Mapping[str, str], num_bytes: int, num_rows: int, counted_in: str) -> None:
    """Before anything is read: 700 KB of Parquet can be 100 million rows."""
    if {footer.num_rows, sum(footer.group_rows)} != {num_rows} or min(footer.group_rows, default=0) < 0:
        raise UnfitError(f"expected {num_rows} rows as in {counted_in}, found {footer.num_rows}")
    if num_rows > num_bytes:
        raise UnfitError(f"{num_rows} rows in {num_bytes} bytes: expected at least one byte per row")
    for name, compression in footer.compressions.items():
        if name in types:
            raise UnfitError(f"column {name} is compressed by {compression}; expected SNAPPY or none")


def _check_columns(schema: "pa.Schema", types: Mapping[str, str], needed: Set[str]) -> None:
    import pyarrow as pa

    is_ = pa.types
    fits = {
        TEXT: lambda kind: is_.is_dictionary(kind) and (is_.is_string(kind.value_type) or is_.is_large_string(kind.value_type)),
        WHOLE: is_.is_integer,
        NUMBER: lambda kind: is_.is_integer(kind) or is_.is_floating(kind),
        TRUTH: is_.is_boolean,
    }
    times = Counter(schema.names)
    if missing := [name for name in types if name in needed and not times[name]]:
        raise UnfitError(f"expected columns {', '.join(missing)}, found {', '.join(schema.names[:20])}")
    for name in (name for name in types if times[name]):
        if times[name] > 1 or not fits[types[name]](schema.field(name).type):
            found = f"{times[name]} such columns" if times[name] > 1 else schema.field(name).type
            raise UnfitError(f"expected {types[name]} in the column {name}, found {found}")


def _check_texts(table: "pa.Table", names: Iterable[str]) -> int:
    """The bytes of all texts. Raises ValueError for a long one, and for what is not UTF-8."""
    import pyarrow.compute as pc

    total = 0
    for name in names:
        for chunk in table[name].chunks:
            chunk.validate(full=True)
            lengths = pc.binary_length(chunk.dictionary)
            if (longest := pc.max(lengths).as_py() or 0) > MAX_TEXT_BYTES:
                raise UnfitError(f"a text of {longest} bytes in the column {name}, more than {MAX_TEXT_BYTES}")
            total += pc.sum(pc.take(lengths, chunk.indices)).as_py() or 0
    return total


def _plain(column: "pa.ChunkedArray", kind: str, name: str) -> "pa.ChunkedArray":
    import pyarrow as pa

    if column.null_count and (kind in (WHOLE, TRUTH) or name in NEVER_NULL):
        raise UnfitError(f"{column.null_count} rows without {name}")
    if kind == TEXT:
        return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    return column.cast(pa.int64()) if kind == WHOLE else column


def read_footer(data: bytes) -> Footer:
    """Read the footer of a file's bytes; raises ValueError if they are not a Parquet file, or its footer is damaged."""
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
