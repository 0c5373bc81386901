"""Our reader of JPEG headers, on headers made by hand: no other decoder sees a byte of them."""

from fastfashion.jpeg_header import read, unlisted

SOI = b"\xff\xd8"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def frame(sampling: list[tuple[int, int]], process: int = 0xC0, precision: int = 8, numbers: tuple[int, ...] = (1, 2, 3, 4)) -> bytes:
    components = b"".join(bytes([number, across << 4 | down, 0]) for number, (across, down) in zip(numbers, sampling, strict=False))
    return segment(process, bytes([precision, 0, 16, 0, 24, len(sampling)]) + components)


def scan(count: int) -> bytes:
    return segment(0xDA, bytes([count]) + b"".join(bytes([i + 1, 0]) for i in range(count)) + b"\0\x3f\0")


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
YUV420 = [(2, 2), (1, 1), (1, 1)]


def header_of(sampling: list[tuple[int, int]], before: bytes = JFIF, **options: int) -> bytes:
    return SOI + before + frame(sampling, **options) + scan(len(sampling))


def test_the_header_of_an_everyday_jpeg_is_read_and_listed() -> None:
    header = read(header_of(YUV420))
    assert (header.height_px, header.width_px, header.precision, header.process) == (16, 24, 8, 0xC0)
    assert header.sampling == ((2, 2), (1, 1), (1, 1))
    assert header.jfif and header.adobe is None and header.icc is None
    assert unlisted(header) is None
