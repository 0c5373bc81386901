"""Where each MCU of a baseline JPEG begins, read bit by bit in plain Python from ITU-T T.81: the tests' oracle of the native scan."""

from collections.abc import Iterator
from dataclasses import dataclass, field

_SOF0, _DHT, _SOS, _DRI = 0xC0, 0xC4, 0xDA, 0xDD


@dataclass
class Scan:
    """A baseline JPEG of one scan; sizes in MCUs."""

    across: int = 0
    down: int = 0
    interval: int = 0  # MCUs between restart markers, 0 without them
    blocks: list[tuple[int, int, int]] = field(default_factory=list)  # of an MCU: component, its DC and its AC table
    tables: dict[tuple[int, int], dict[tuple[int, int], int]] = field(default_factory=dict)  # class, number -> (length, code) -> symbol
    data: bytes = b""  # the entropy-coded data, as in the file

    def marks(self) -> list[tuple[int, int, int, int, int]]:
        """For each MCU: its number, the bits before it as in the file (stuffed bytes count), and the DC predictors there."""
        assert not self.interval, "an image with restart markers has no marks"
        predictors, bits, found = [0, 0, 0], _Bits(self.data), []
        for number in range(self.across * self.down):
            found.append((number, bits.place, *predictors))
            for component, dc, ac in self.blocks:
                predictors[component] += bits.signed(bits.symbol(self.tables[0, dc]))
                k = 1
                while k < 64:
                    run, size = divmod(bits.symbol(self.tables[1, ac]), 16)
                    if size == 0 and run != 15:
                        break
                    k += run + 1
                    bits.signed(size)
                assert k <= 64, "a run past the end of its block"
        return found


class _Bits:
    """The bits of entropy-coded data; `place` counts those of stuffed bytes, too."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def bit(self) -> int:
        byte, shift = divmod(self.place, 8)
        value = self._data[byte] >> (7 - shift) & 1
        self.place += 1
        if shift == 7 and self._data[byte] == 0xFF:
            assert self._data[byte + 1] == 0, "a marker"
            self.place += 8
        return value

    def symbol(self, table: dict[tuple[int, int], int]) -> int:
        code = 0
        for length in range(1, 17):
            code = code << 1 | self.bit()
            if (length, code) in table:
                return table[length, code]
        raise AssertionError("no such code")

    def signed(self, size: int) -> int:
        value = 0
        for _ in range(size):
            value = value << 1 | self.bit()
        return value if size == 0 or value >> (size - 1) else value - (1 << size) + 1


def read_scan(data: bytes) -> Scan:
    """Read the headers of a baseline JPEG, and find the data of its first scan."""
    scan = Scan()
    sampling: list[tuple[int, int, int]] = []
    for marker, body, end in _segments(data):
        if marker == _SOF0:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            sampling = [(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * body[5], 3)]
            if len(sampling) == 1:  # T.81, A.2.2: a scan of one component has MCUs of one block
                sampling = [(sampling[0][0], 1, 1)]
            scan.across = -(-width // (8 * max(across for _, across, _ in sampling)))
            scan.down = -(-height // (8 * max(down for *_, down in sampling)))
        elif marker == _DHT:
            scan.tables |= _huffman(body)
        elif marker == _DRI:
            scan.interval = int.from_bytes(body, "big")
        elif marker == _SOS:
            tables = {body[at]: (body[at + 1] >> 4, body[at + 1] & 15) for at in range(1, 1 + 2 * body[0], 2)}
            scan.blocks = [(i, *tables[n]) for i, (n, across, down) in enumerate(sampling) for _ in range(across * down)]
            scan.data = data[end:]
            return scan
    raise AssertionError("no scan")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, body and end of each segment."""
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : end], end
        at = end


def _huffman(body: bytes) -> dict[tuple[int, int], dict[tuple[int, int], int]]:
    found = {}
    while body:
        symbols, code = iter(body[17 : 17 + sum(body[1:17])]), 0
        table = found[body[0] >> 4, body[0] & 15] = {}
        for length, count in enumerate(body[1:17], start=1):
            for _ in range(count):
                table[length, code] = next(symbols)
                code += 1
            code <<= 1
        body = body[17 + sum(body[1:17]) :]
    return found
