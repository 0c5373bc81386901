"""Our reader of JPEG headers, on headers made by hand: no other decoder sees a byte of them."""

import struct
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_writers import JFIF, adobe, exif_block, jpeg_segment, rgb_profile

from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.images.codec import Kind
from fastfashion.images.jpeg_header import Component, read, unlisted
from fastfashion.images.metadata import UPRIGHT, Orientation, read_orientation

START = b"\xff\xd8"
GRAY = ((1, 1),)
YUV420, YUV422, YUV444 = ((2, 2), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((1, 1), (1, 1), (1, 1))


def frame(
    sampling: tuple[tuple[int, int], ...],
    process: int = 0xC0,
    precision: int = 8,
    numbers: tuple[int, ...] = (1, 2, 3, 4),
    size: tuple[int, int] = (16, 24),
) -> bytes:
    components = b"".join(bytes([number, across << 4 | down, 0]) for number, (across, down) in zip(numbers, sampling, strict=False))
    return jpeg_segment(process, struct.pack(">BHHB", precision, *size, len(sampling)) + components)


def scan(count: int) -> bytes:
    return jpeg_segment(0xDA, bytes([count]) + b"".join(bytes([i + 1, 0]) for i in range(count)) + b"\0\x3f\0")


def jpeg(sampling: tuple[tuple[int, int], ...] = YUV420, before: bytes = JFIF, in_first_scan: int = 0, **how: object) -> bytes:
    """All of a JPEG but its pixels."""
    return START + before + frame(sampling, **how) + scan(in_first_scan or len(sampling))  # type: ignore[arg-type]


def exif(turn: int, order: str = "<") -> bytes:
    return jpeg_segment(0xE1, b"Exif\0\0" + exif_block(turn, order))


def icc(profile: bytes, parts: int = 1) -> list[bytes]:
    step = -(-len(profile) // parts)
    return [jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, parts]) + profile[i * step : (i + 1) * step]) for i in range(parts)]


def test_what_the_header_says_is_read() -> None:
    header = read(jpeg(YUV422, b"\xff\xfe\0\x09comment" + adobe(1) + exif(6, ">"), process=0xC2, size=(480, 640)))
    assert (header.process, header.precision, header.height_px, header.width_px, header.first_scan) == (0xC2, 8, 480, 640, 3)
    assert header.components == (Component(1, 2, 1), Component(2, 1, 1), Component(3, 1, 1))
    assert (header.jfif, header.adobe, header.icc, header.orientation) == (False, 1, None, Orientation(6, usual=True))
    assert read(jpeg(GRAY)).jfif


LISTED = {
    "4:2:0": jpeg(YUV420),
    "4:2:2": jpeg(YUV422),
    "4:4:4": jpeg(YUV444),
    "gray": jpeg(GRAY),
    "gray without a marker": jpeg(GRAY, b""),
    "gray, whatever its number": jpeg(GRAY, numbers=(0,)),
    "progressive": jpeg(process=0xC2),
    "progressive, brightness first": jpeg(process=0xC2, in_first_scan=1),
    "camera: neither JFIF nor Adobe": jpeg(before=b""),
    "adobe": jpeg(before=adobe(1)),
    "jfif and adobe": jpeg(before=JFIF + adobe(1)),
    "numbered from 0, jfif": jpeg(numbers=(0, 1, 2)),
}
UNLISTED = {
    "extended": (jpeg(process=0xC1), "coding process 1 "),
    "lossless": (jpeg(process=0xC3), "coding process 3 "),
    "hierarchical": (jpeg(process=0xC5), "coding process 5 "),
    "arithmetic": (jpeg(process=0xC9), "coding process 9 "),
    "arithmetic progressive": (jpeg(process=0xCA), "coding process 10 "),
    "12 bits": (jpeg(precision=12), "12 bits"),
    "no lines (DNL)": (jpeg(size=(0, 24)), "24x0 pixels"),
    "no columns": (jpeg(size=(16, 0)), "0x16 pixels"),
    "4:4:0": (jpeg(((1, 2), (1, 1), (1, 1))), "sampling 1x2 1x1 1x1"),
    "4:1:1": (jpeg(((4, 1), (1, 1), (1, 1))), "sampling 4x1 1x1 1x1"),
    "4:1:0": (jpeg(((4, 2), (1, 1), (1, 1))), "sampling 4x2 1x1 1x1"),
    "2x4": (jpeg(((2, 4), (1, 1), (1, 1))), "sampling 2x4 1x1 1x1"),
    "4:4:4 of twos": (jpeg(((2, 2), (2, 2), (2, 2))), "sampling 2x2 2x2 2x2"),
    "chroma finer than brightness": (jpeg(((1, 1), (2, 2), (2, 2))), "sampling 1x1 2x2 2x2"),
    "chroma unlike chroma": (jpeg(((2, 2), (2, 1), (1, 1))), "sampling 2x2 2x1 1x1"),
    "gray of 2x2": (jpeg(((2, 2),)), "sampling 2x2 "),
    "factor 0": (jpeg(((0, 1), (1, 1), (1, 1))), "sampling 0x1"),
    "factor 15": (jpeg(((15, 15), (15, 15), (15, 15))), "sampling 15x15"),
    "two components": (jpeg(((1, 1), (1, 1))), "sampling 1x1 1x1 "),
    "four components": (jpeg(((1, 1), (1, 1), (1, 1), (1, 1)), adobe(2)), "sampling 1x1 1x1 1x1 1x1"),
    "no component": (jpeg((), in_first_scan=1), "sampling "),
    "rgb": (jpeg(YUV444, adobe(0)), "colour transform 0"),
    "jfif and rgb": (jpeg(YUV444, JFIF + adobe(0)), "colour transform 0"),
    "rgb by its letters": (jpeg(YUV444, b"", numbers=(82, 71, 66)), "numbered"),
    "numbered alike": (jpeg(numbers=(1, 1, 1)), "numbered"),
    "numbered from 0 without a marker": (jpeg(before=b"", numbers=(0, 1, 2)), "neither JFIF nor"),
    "a scan a component": (jpeg(in_first_scan=1), "scans of their own"),
    "stray bytes": (jpeg(before=JFIF + b"\0\0\0"), "stray"),
    "a restart marker before the scan": (jpeg(before=JFIF + b"\xff\xd0"), "stray"),
}


@pytest.mark.parametrize("name", LISTED)
def test_everyday_frames_are_listed(name: str) -> None:
    data = LISTED[name]
    assert unlisted(read(data)) is None
    assert codec.kind(data) is (Kind.GRAY if name.startswith("gray") else Kind.COLOR)


@pytest.mark.parametrize("name", UNLISTED)
def test_every_other_frame_is_not_and_the_reason_is_said(name: str) -> None:
    data, reason = UNLISTED[name]
    found = unlisted(read(data))
    assert found is not None and reason in found
    assert codec.kind(data) is Kind.OTHER


def test_no_frame_is_listed_but_the_four() -> None:
    """All sampling factors of one and three components that the format can write, and more."""
    factors = [(across, down) for across in range(5) for down in range(5)]
    listed = [(one,) for one in factors if unlisted(read(jpeg((one,)))) is None]
    listed += [three for one in factors for two in factors if unlisted(read(jpeg(three := (one, two, two)))) is None]
    assert listed == [GRAY, YUV444, YUV422, YUV420]


@pytest.mark.parametrize("name", UNLISTED)
def test_no_fast_decoder_sees_a_frame_that_is_not_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be called is taken away: neither it nor Pillow is handed a frame made by hand."""

    def fast(*args: object, **named: object) -> None:
        raise AssertionError("a fast decoder was called")

    def ordinary(*args: object) -> None:
        raise InputError("this one is Pillow's")

    monkeypatch.setattr("simplejpeg.decode_jpeg", fast)
    monkeypatch.setattr("simplejpeg.decode_jpeg_header", fast)
    monkeypatch.setattr("fastfashion.images.pillow.open_image", ordinary)
    for least in ({}, {"min_height_px": 1, "min_width_px": 1}):
        with pytest.raises(InputError, match="this one is Pillow's"):
            codec.decode_rgb(UNLISTED[name][0], **least)


NO_HEADER: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a JPEG"),
    "a PNG": (b"\x89PNG\r\n\x1a\n", "not a JPEG"),
    "start alone": (b"\xff\xd8\xff", "ends before"),
    "only fill": (START + b"\xff" * 100_000, "ends before"),
    "only zeros behind 0xFF": (START + b"\xff\0" * 4_000, "ends before"),
    "cut in a segment": (jpeg()[:30], "ends before"),
    "cut before the scan": (START + JFIF + frame(YUV420), "ends before"),
    "end before the scan": (START + JFIF + frame(YUV420) + b"\xff\xd9" + scan(3), "ends before"),
    "a second start": (START + JFIF + START + frame(YUV420) + scan(3), "ends before"),
    "length 0": (START + b"\xff\xe0\0\0" + frame(YUV420) + scan(3), "ends before"),
    "no frame": (START + JFIF + scan(3), "without a frame header"),
    "two frames": (START + frame(YUV420) + frame(YUV420) + scan(3), "two frame headers"),
    "a frame of 3 bytes": (START + jpeg_segment(0xC0, b"\x08\0\1") + scan(3), "3 bytes"),
    "a frame that says three components and has one": (START + jpeg_segment(0xC0, b"\x08\0\1\0\1\3\1\x11\0") + scan(3), "9 bytes"),
    "an empty scan header": (START + frame(YUV420) + jpeg_segment(0xDA, b""), "without"),
    "more markers than any file has": (START + b"\xff\xe5\0\2" * 20_000 + frame(YUV420) + scan(3), "more than 10000 markers"),
}


@pytest.mark.parametrize("name", NO_HEADER)
def test_what_has_no_header_is_refused_with_the_reason(name: str) -> None:
    data, reason = NO_HEADER[name]
    for buffer in (data, memoryview(data), np.frombuffer(data, np.uint8)):
        with pytest.raises(InputError, match=reason):
            read(buffer)
        assert codec.kind(buffer) is Kind.OTHER


def test_a_profile_counts_where_all_its_parts_came_once() -> None:
    profile = rgb_profile([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    one, two, three = icc(profile, 3)
    assert read(jpeg(before=b"".join(icc(profile)))).icc == profile
    assert read(jpeg(before=one + two + three)).icc == profile
    assert read(jpeg(before=three + JFIF + one + exif(1) + two)).icc == profile
    for wrong in (one + two, one + two + two, one + two + three + three, one + two + three.replace(b"\3\3", b"\4\3", 1)):
        assert read(jpeg(before=wrong)).icc is None


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (exif(1) + JFIF, Kind.COLOR),
        (JFIF + exif(8, ">"), Kind.COLOR),
        (JFIF + b"\xff\xff" + exif(6), Kind.OTHER),  # fill bytes are legal, and some decoders do not look behind them
        (exif(6) + exif(3), Kind.OTHER),
        (exif(9), Kind.OTHER),
        (jpeg_segment(0xE1, b"Exif\0\0II"), Kind.OTHER),
        (jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0 tiff:Orientation='6'"), Kind.COLOR),
    ],
    ids=["first", "behind jfif", "fill bytes", "twice", "no such turn", "cut", "xmp"],
)
def test_an_orientation_that_decoders_read_alike_is_plain(before: bytes, kind: Kind) -> None:
    assert codec.kind(jpeg(before=before)) is kind


def test_exif_behind_the_frame_is_read_and_not_plain() -> None:
    data = START + JFIF + frame(YUV420) + exif(6) + scan(3)
    assert read(data).orientation == Orientation(6, usual=False)
    assert codec.kind(data) is Kind.OTHER


def ifd(order: str, entries: list[tuple[int, int, int, bytes]], count: int | None = None) -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(f"{order}HHL", tag, kind, number) + value for tag, kind, number, value in entries)
    return head + struct.pack(f"{order}LH", 8, len(entries) if count is None else count) + body + bytes(4)


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (ifd("<", [(0x10F, 2, 4, b"abc\0"), (0x112, 3, 1, b"\6\0\0\0")]), Orientation(6, usual=True)),
        (ifd(">", [(0x112, 3, 1, b"\0\3\0\0")]), Orientation(3, usual=True)),
        (b"Exif\0\0" * 2 + ifd("<", [(0x112, 3, 1, b"\6\0\0\0")]), Orientation(6, usual=True)),
        (ifd("<", [(0x112, 4, 1, b"\5\0\0\0")]), Orientation(5, usual=False)),
        (ifd("<", [(0x112, 1, 1, b"\5\0\0\0")]), Orientation(5, usual=False)),
        (ifd("<", [(0x112, 3, 2, b"\5\0\0\0")]), Orientation(1, usual=False)),
        (ifd("<", [(0x112, 2, 1, b"\6\0\0\0")]), Orientation(1, usual=False)),
        (ifd("<", [(0x112, 3, 1, b"\0\0\0\0")]), Orientation(1, usual=False)),
        (ifd("<", [(0x112, 3, 1, b"\6\0\0\0")], count=60_000), Orientation(6, usual=False)),
        (ifd("<", []), UPRIGHT),
        (ifd("<", [], count=3), Orientation(1, usual=False)),
        (b"II*\0\xff\xff\xff\xff", Orientation(1, usual=False)),
        (b"MM*\0\0\0\0\x08", Orientation(1, usual=False)),
        (b"", Orientation(1, usual=False)),
    ],
)
def test_an_exif_block_says_its_orientation(block: bytes, found: Orientation) -> None:
    assert read_orientation(block) == found


SEGMENTS = [JFIF, adobe(1), exif(6), frame(YUV420), frame(GRAY), scan(3), scan(1), *icc(bytes(300), 2), b"\xff", b"\xff\xd9", b"\0"]


def refused_or(act: Callable[[], object]) -> object:
    try:
        return act()
    except InputError:
        return None


@given(st.lists(st.one_of(st.sampled_from(SEGMENTS), st.binary(max_size=40)), max_size=12), st.booleans())
def test_any_bytes_have_an_answer_or_an_input_error(parts: list[bytes], started: bool) -> None:
    data = (START if started else b"") + b"".join(parts)
    header = refused_or(lambda: read(data))
    assert codec.kind(data) in Kind
    if header is None or unlisted(header) is not None:  # type: ignore[arg-type]
        assert codec.kind(data) is Kind.OTHER


@given(st.sampled_from([*LISTED.values(), *(data for data, _ in UNLISTED.values())]), st.data())
def test_a_damaged_header_has_an_answer_or_an_input_error(data: bytes, choose: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(choose.draw(st.integers(1, 5))):
        damaged[choose.draw(st.integers(0, len(data) - 1))] = choose.draw(st.integers(0, 255))
    cut = bytes(damaged[: choose.draw(st.integers(0, len(data)))])
    refused_or(lambda: read(cut))
    assert codec.kind(bytes(damaged)) in Kind


@given(st.binary(max_size=400), st.sampled_from([b"", b"II*\0", b"MM\0*", b"Exif\0\0II*\0\x08\0\0\0", exif_block(6)]))
def test_any_exif_block_has_an_orientation(tail: bytes, head: bytes) -> None:
    assert 1 <= read_orientation(head + tail).turn <= 8


@pytest.mark.parametrize("unit", [b"\xff", b"\xff\0", b"\0", b"\xff\xd0", b"\xff\xe5\0\2", b"\xff\xe1\0\x08Exif\0\0"])
def test_work_grows_no_faster_than_the_file(unit: bytes) -> None:
    """Counted in lines of ours that run, not in seconds."""

    def steps(size: int) -> int:
        data, count = START + unit * (size // len(unit)), 0

        def trace(frame: object, event: str, arg: object) -> object:
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            refused_or(lambda: read(data))
        finally:
            sys.settrace(before)
        return count

    small, large = steps(20_000), steps(80_000)
    assert large <= 4 * small + 100
