"""One image of every kind that is accepted, with the pixels that it must have everywhere: as drawn, not as decoded by our code."""

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from odd_writers import (
    ADOBE_GAMMA,
    ADOBE_XYZ,
    JFIF,
    P3_XYZ,
    SRGB_XYZ,
    adobe,
    block_jpeg,
    bmp,
    cmyk_profile,
    exif_block,
    gray_profile,
    in_space,
    jpeg_segment,
    lab_to_srgb,
    png,
    png_chunk,
    rgb_profile,
    srgb_curve,
    tiff,
)
from PIL import Image, features

HEIGHT, WIDTH = 64, 96
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


@dataclass(frozen=True, kw_only=True)
class OddImage:
    data: bytes
    expected: np.ndarray  # uint8 (H, W, 3), as drawn, upright, over white
    tolerance: int = 0  # grey levels, of which a lossy format needs some
    kind: str = "OTHER"  # name of image.Kind
    suffix: str = ".jpg"


def drawn() -> np.ndarray:
    """Smooth, and no two corners or channels alike: lossy formats keep it, and a turn, a flip or a swap of channels shows."""
    down, across = np.meshgrid(np.linspace(0, 1, HEIGHT), np.linspace(0, 1, WIDTH), indexing="ij")
    channels = [40 + 170 * across, 210 - 150 * down, 60 + 90 * across * down + 40 * down]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def gray_drawn() -> np.ndarray:
    return drawn()[..., 0] // 2 + drawn()[..., 1] // 2


def three(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=2)


def saved(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def over_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255
    return np.rint(colors * part + 255 * (1 - part)).astype(np.uint8)


def alpha_drawn() -> np.ndarray:
    """Everything from nothing to full, and beneath nothing a colour that must not show."""
    alpha = np.rint(np.linspace(0, 255, WIDTH)).astype(np.uint8)[None].repeat(HEIGHT, axis=0)
    alpha[: HEIGHT // 4] = 0
    return alpha


def turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """How the pixels must be stored so that the orientation `turn` shows them (CIPA DC-008, table 6)."""
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }
    return np.ascontiguousarray(stored[turn])


def exif_segment(turn: int) -> bytes:
    return jpeg_segment(0xE1, b"Exif\0\0" + exif_block(turn))


def after_start(data: bytes, segment: bytes) -> bytes:
    return data[:2] + segment + data[2:]


@cache
def odd_images() -> dict[str, OddImage]:
    return {**_png(), **_webp(), **_tiff(), **_bmp(), **_frames(), **_jpeg(), **_cmyk(), **_block_jpeg(), **_profiles()}


def _png() -> dict[str, OddImage]:
    color, gray, alpha = drawn(), gray_drawn(), alpha_drawn()
    rgba = np.dstack([color, alpha])
    shown = over_white(color, alpha)
    palette = Image.fromarray(color).quantize(64)
    palette_colors = np.asarray(palette.convert("RGB"))
    clear = np.asarray(palette) == int(np.asarray(palette)[0, 0])
    wide = color.astype(np.uint16) * 256 + np.arange(WIDTH, dtype=np.uint16)[None, :, None]  # low bytes that mean something
    wide_gray = gray.astype(np.uint16) * 256 + 77
    key, gray_key = wide[10, 20], int(wide_gray[5, 5])
    keyed = np.where((wide == key).all(axis=-1, keepdims=True), 255, color).astype(np.uint8)
    text = b"Comment\0" + b"x" * 3_000_000
    packed = b"Comment\0\0" + zlib.compress(b"y" * 3_000_000)
    images = {
        "png rgba": OddImage(data=png(rgba, 6), expected=shown, tolerance=1),
        "png la": OddImage(data=png(np.dstack([gray, alpha]), 4), expected=over_white(three(gray), alpha), tolerance=1),
        "png palette": OddImage(data=saved(palette, "PNG"), expected=palette_colors),
        "png palette with transparency": OddImage(
            data=saved(palette, "PNG", transparency=int(np.asarray(palette)[0, 0])),
            expected=np.where(clear[..., None], 255, palette_colors).astype(np.uint8),
        ),
        "png 1 bit": OddImage(
            data=saved(Image.fromarray(gray > 120), "PNG"), expected=three(np.where(gray > 120, 255, 0).astype(np.uint8))
        ),
        "png 16 bits gray": OddImage(data=png(wide_gray[..., None], 0), expected=three(gray)),
        "png 16 bits rgb": OddImage(data=png(wide, 2), expected=color),
        "png 16 bits rgba": OddImage(data=png(np.dstack([wide, alpha.astype(np.uint16) * 257]), 6), expected=shown, tolerance=1),
        "png 16 bits gray with a key": OddImage(
            data=png(wide_gray[..., None], 0, png_chunk(b"tRNS", struct.pack(">H", gray_key))),
            expected=three(np.where(wide_gray == gray_key, 255, gray).astype(np.uint8)),
        ),
        "png 16 bits rgb with a key": OddImage(data=png(wide, 2, png_chunk(b"tRNS", key.astype(">u2").tobytes())), expected=keyed),
        "png 8 bits rgb with a key": OddImage(
            data=png(color, 2, png_chunk(b"tRNS", color[10, 20].astype(">u2").tobytes())),
            expected=np.where((color == color[10, 20]).all(axis=-1, keepdims=True), 255, color).astype(np.uint8),
        ),
        "png 4 bits gray with a key": OddImage(data=four_bits(gray, 7), expected=three(np.where(gray >> 4 == 7, 255, (gray >> 4) * 17))),
        "png eXIf after its pixels": OddImage(data=png(turned(color, 6), 2, after=png_chunk(b"eXIf", exif_block(6, ">"))), expected=color),
        "png eXIf before its pixels": OddImage(data=png(turned(color, 8), 2, png_chunk(b"eXIf", exif_block(8))), expected=color),
        "png with a large text": OddImage(data=png(color, 2, png_chunk(b"tEXt", text)), expected=color),
        "png with a large packed text": OddImage(data=png(color, 2, png_chunk(b"zTXt", packed)), expected=color),
        "png with a large text behind": OddImage(data=png(color, 2, after=png_chunk(b"zTXt", packed)), expected=color),
        "png with a bad crc in a text": OddImage(data=png(color, 2, png_chunk(b"tEXt", b"Comment\0hello", crc=1)), expected=color),
    }
    return {name: OddImage(**{**vars(image), "suffix": ".png"}) for name, image in images.items()}


def four_bits(gray: np.ndarray, key: int) -> bytes:
    """A PNG of the four highest bits, of which one value is transparent."""
    rows = (gray[:, ::2] >> 4 << 4) | gray[:, 1::2] >> 4
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", key))]
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def _webp() -> dict[str, OddImage]:
    color = drawn()
    lossless: dict[str, Any] = {"lossless": True, "exact": True}
    odd = next(
        data
        for cut in range(1, 40)
        if struct.unpack_from("<L", data := saved(color[:, :-cut], "WEBP", **lossless), 16)[0] % 2  # bytes of its VP8L chunk
    )
    width = Image.open(io.BytesIO(odd)).width
    block = exif_block(6)
    stored = turned(color[:, :width], 6)
    images = {
        "webp": OddImage(data=saved(color, "WEBP", quality=95), expected=color, tolerance=12),
        "webp with transparency": OddImage(
            data=saved(np.dstack([color, alpha_drawn()]), "WEBP", **lossless), expected=over_white(color, alpha_drawn()), tolerance=1
        ),
        "webp turned by exif": OddImage(data=saved(stored, "WEBP", exif=block, **lossless), expected=color[:, :width]),
        "webp turned by exif with a prefix": OddImage(
            data=saved(stored, "WEBP", exif=b"Exif\0\0" + block, **lossless), expected=color[:, :width]
        ),
        "webp of an odd chunk and exif": OddImage(data=with_exif_chunk(odd, exif_block(3)), expected=color[:, :width][::-1, ::-1]),
    }
    return {name: OddImage(**{**vars(image), "suffix": ".webp"}) for name, image in images.items()}


def with_exif_chunk(simple: bytes, block: bytes) -> bytes:
    """The lossless WebP in the extended form, with EXIF behind its pixels (RFC 9649)."""
    image = Image.open(io.BytesIO(simple))
    chunk = simple[12 : 20 + struct.unpack_from("<L", simple, 16)[0]]
    size = struct.pack("<L", image.width - 1)[:3] + struct.pack("<L", image.height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<L", 10) + b"\x08\0\0\0" + size + chunk + bytes(len(chunk) % 2)
    body += b"EXIF" + struct.pack("<L", len(block)) + block + bytes(len(block) % 2)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def _tiff() -> dict[str, OddImage]:
    color, gray, alpha = drawn(), gray_drawn(), alpha_drawn()
    wide = gray.astype(np.uint16) * 257
    images = {
        "tiff lzw": OddImage(data=saved(color, "TIFF", compression="tiff_lzw"), expected=color),
        "tiff jpeg": OddImage(data=saved(color, "TIFF", compression="jpeg", quality=95), expected=color, tolerance=12),
        "tiff rgba": OddImage(data=tiff(np.dstack([color, alpha]), extra=[(338, 3, 2)]), expected=over_white(color, alpha), tolerance=1),
        "tiff 16 bits": OddImage(data=tiff(wide), expected=three(gray)),
        "tiff 16 bits, white is zero": OddImage(data=tiff(65535 - wide, photometric=0), expected=three(gray)),
        "tiff 16 bits rgb": OddImage(data=tiff(color.astype(np.uint16) * 257), expected=color),
        "tiff 12 bits": OddImage(data=tiff(gray.astype(np.uint16) * 16 + 5, bits=12), expected=three(gray)),
        "tiff float": OddImage(data=tiff((gray / 255).astype(np.float32)), expected=three(gray)),
        "tiff int16": OddImage(data=tiff((gray.astype(np.int16) << 7) + 3), expected=three(gray)),
        "tiff int32": OddImage(data=tiff((gray.astype(np.int32) << 23) + 9), expected=three(gray)),
        "tiff uint32": OddImage(data=tiff((gray.astype(np.uint32) << 24) + 9), expected=three(gray)),
        "tiff rgba, premultiplied": OddImage(
            data=tiff(np.dstack([np.rint(color * (alpha[..., None] / 255)).astype(np.uint8), alpha]), extra=[(338, 3, 1)]),
            expected=over_white(color, alpha),
            tolerance=1,
        ),
        "tiff gray with alpha": OddImage(
            data=tiff(np.dstack([gray, alpha]), photometric=1, extra=[(338, 3, 2)]), expected=over_white(three(gray), alpha), tolerance=1
        ),
        "tiff orientation in xmp alone": OddImage(data=saved(color, "TIFF", tiffinfo={700: XMP}), expected=color),
        "tiff turned": OddImage(data=tiff(turned(color, 6), extra=[(274, 3, 6)]), expected=color),
    }
    return {name: OddImage(**{**vars(image), "suffix": ".tif"}) for name, image in images.items()}


def _bmp() -> dict[str, OddImage]:
    color, gray, alpha = drawn(), gray_drawn(), alpha_drawn()
    up = color[::-1].astype(np.uint16)
    ramp = b"".join(bytes([v, v, v, 0]) for v in range(256))
    runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in gray[::-1].tolist()) + b"\0\1"
    five = (up[..., 0] >> 3) << 10 | (up[..., 1] >> 3) << 5 | up[..., 2] >> 3
    six = (up[..., 0] >> 3) << 11 | (up[..., 1] >> 2) << 5 | up[..., 2] >> 3
    bgra = np.dstack([color[::-1, :, ::-1], alpha[::-1]]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    images = {
        "bmp rle8": OddImage(data=bmp(runs, HEIGHT, WIDTH, 8, compression=1, palette=ramp), expected=three(gray)),
        "bmp 16 bits": OddImage(data=bmp(five.astype("<u2").tobytes(), HEIGHT, WIDTH, 16), expected=color, tolerance=8),
        "bmp 5-6-5": OddImage(
            data=bmp(six.astype("<u2").tobytes(), HEIGHT, WIDTH, 16, compression=3, masks=(0xF800, 0x7E0, 0x1F, 0)),
            expected=color,
            tolerance=8,
        ),
        "bmp 32 bits": OddImage(data=bmp(bgra, HEIGHT, WIDTH, 32), expected=color),
        "bmp with transparency": OddImage(
            data=bmp(bgra, HEIGHT, WIDTH, 32, compression=3, masks=masks), expected=over_white(color, alpha), tolerance=1
        ),
    }
    return {name: OddImage(**{**vars(image), "suffix": ".bmp"}) for name, image in images.items()}


def _frames() -> dict[str, OddImage]:
    """What holds several images: the first counts."""
    color = drawn()
    palette = Image.fromarray(color).quantize(255)
    colors = np.asarray(palette.convert("RGB"))
    second = Image.fromarray(255 - color)
    images = {
        "gif": OddImage(data=saved(palette, "GIF", save_all=True, append_images=[second]), expected=colors, suffix=".gif"),
        "gif with transparency": OddImage(
            data=saved(palette, "GIF", transparency=int(np.asarray(palette)[0, 0])),
            expected=np.where((np.asarray(palette) == np.asarray(palette)[0, 0])[..., None], 255, colors).astype(np.uint8),
            suffix=".gif",
        ),
        "apng": OddImage(data=saved(color, "PNG", save_all=True, append_images=[second]), expected=color, suffix=".png"),
        "mpo": OddImage(
            data=saved(color, "MPO", save_all=True, append_images=[second], quality=95), expected=color, tolerance=6, kind="COLOR"
        ),
    }
    if features.check("avif"):
        images["avif"] = OddImage(data=saved(color, "AVIF", quality=95, subsampling="4:4:4"), expected=color, tolerance=6, suffix=".avif")
        images["avif turned"] = OddImage(
            data=saved(turned(color, 6), "AVIF", quality=95, subsampling="4:4:4", exif=exif_block(6)),
            expected=color,
            tolerance=6,
            suffix=".avif",
        )
    return images


def _jpeg() -> dict[str, OddImage]:
    color, gray = drawn(), gray_drawn()
    whole = saved(color, "JPEG", quality=95, subsampling=0)
    images = {
        "jpeg 4:4:4": OddImage(data=whole, expected=color, tolerance=4, kind="COLOR"),
        "jpeg 4:2:2": OddImage(data=saved(color, "JPEG", quality=95, subsampling=1), expected=color, tolerance=6, kind="COLOR"),
        "jpeg 4:2:0": OddImage(data=saved(color, "JPEG", quality=95, subsampling=2), expected=color, tolerance=6, kind="COLOR"),
        "jpeg progressive": OddImage(data=saved(color, "JPEG", quality=95, progressive=True), expected=color, tolerance=6, kind="COLOR"),
        "jpeg gray": OddImage(data=saved(gray, "JPEG", quality=95), expected=three(gray), tolerance=3, kind="GRAY"),
        "jpeg gray progressive": OddImage(
            data=saved(gray, "JPEG", quality=95, progressive=True), expected=three(gray), tolerance=3, kind="GRAY"
        ),
        "jpeg restart markers": OddImage(
            data=saved(color, "JPEG", quality=95, restart_marker_blocks=3), expected=color, tolerance=6, kind="COLOR"
        ),
        "jpeg rgb": OddImage(data=saved(color, "JPEG", quality=95, keep_rgb=True), expected=color, tolerance=4),
        "jpeg exif behind fill bytes": OddImage(
            data=after_start(saved(turned(color, 6), "JPEG", quality=95, subsampling=0), b"\xff\xff\xff" + exif_segment(6)),
            expected=color,
            tolerance=4,
        ),
        "jpeg orientation in xmp alone": OddImage(
            data=after_start(whole, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)), expected=color, tolerance=4, kind="COLOR"
        ),
        "jpeg with stray bytes": OddImage(data=whole[:20] + b"\0stray\0" + whole[20:], expected=color, tolerance=4),
    }
    for turn in range(1, 9):
        data = after_start(saved(turned(color, turn), "JPEG", quality=95, subsampling=0), exif_segment(turn))
        images[f"jpeg orientation {turn}"] = OddImage(data=data, expected=color, tolerance=4, kind="COLOR")
    return images


def without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def _cmyk() -> dict[str, OddImage]:
    color = drawn()
    inks = np.dstack([255 - color, np.zeros_like(color[..., 0])])
    whole = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=95, subsampling=0)
    return {
        "jpeg cmyk": OddImage(data=whole, expected=color, tolerance=4),
        "jpeg cmyk without adobe's marker": OddImage(data=without_adobe(whole), expected=color, tolerance=4),
    }


def _block_jpeg() -> dict[str, OddImage]:
    """Frames that no available encoder writes: blocks of one brightness each, all of one colour."""
    luma = (60 + 130 * np.random.default_rng(3).random((HEIGHT // 8, WIDTH // 8))).astype(np.uint8)
    blue, red, black = (np.full_like(luma, value) for value in (110, 150, 255))
    large = np.kron(luma, np.ones((8, 8))).astype(float)
    # T.871: R = Y + 1.402 (Cr - 128), G = Y - 0.344136 (Cb - 128) - 0.714136 (Cr - 128), B = Y + 1.772 (Cb - 128)
    colors = np.stack([large + 1.402 * 22, large + 0.344136 * 18 - 0.714136 * 22, large - 1.772 * 18], axis=-1)
    expected = np.rint(np.clip(colors, 0, 255)).astype(np.uint8)
    images = {}
    for name, across, down in (("4:1:1", 4, 1), ("4:4:0", 1, 2), ("4:1:0", 4, 2)):
        data = block_jpeg(HEIGHT, WIDTH, [(1, across, down, luma), (2, 1, 1, blue), (3, 1, 1, red)])
        images[f"jpeg {name}"] = OddImage(data=data, expected=expected, tolerance=1)
    usual = [(1, 2, 2, luma), (2, 1, 1, blue), (3, 1, 1, red)]
    images["jpeg of blocks"] = OddImage(data=block_jpeg(HEIGHT, WIDTH, usual), expected=expected, tolerance=1, kind="COLOR")
    images["jpeg of blocks with restarts"] = OddImage(
        data=block_jpeg(HEIGHT, WIDTH, usual, restart=2), expected=expected, tolerance=1, kind="COLOR"
    )
    images["jpeg of three scans"] = OddImage(data=block_jpeg(HEIGHT, WIDTH, usual, apart=True), expected=expected, tolerance=1)
    letters = [(82, 1, 1, luma), (71, 1, 1, blue), (66, 1, 1, red)]
    planes = np.stack([large, np.full_like(large, 110), np.full_like(large, 150)], axis=-1).astype(np.uint8)
    images["jpeg rgb by its letters"] = OddImage(data=block_jpeg(HEIGHT, WIDTH, letters, b""), expected=planes)
    # Adobe stores inks the other way round: brightness of what is stored is the image's, and no black is 255
    inks = [(1, 1, 1, luma), (2, 1, 1, blue), (3, 1, 1, red), (4, 1, 1, black)]
    images["jpeg ycck"] = OddImage(data=block_jpeg(HEIGHT, WIDTH, inks, adobe(2)), expected=255 - expected, tolerance=1)
    images["jpeg gray of blocks"] = OddImage(
        data=block_jpeg(HEIGHT, WIDTH, [(1, 1, 1, luma)], JFIF), expected=three(large.astype(np.uint8)), kind="GRAY"
    )
    return images


def ink_corners() -> np.ndarray:
    """Lab of each mixture of four full inks, relative to the paper, such as a press might print."""
    corners = np.zeros((2, 2, 2, 2, 3))
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        light = (100 - 33 * c - 42 * m - 5 * y - 10 * c * m) * (0.15 if k else 1)
        corners[c, m, y, k] = light, (70 * m - 35 * c) * (0.1 if k else 1), (85 * y - 45 * c - 5 * m) * (0.1 if k else 1)
    return corners


def _profiles() -> dict[str, OddImage]:
    color, gray, alpha = drawn(), gray_drawn(), alpha_drawn()
    p3, wide = rgb_profile(P3_XYZ), rgb_profile(ADOBE_XYZ, ADOBE_GAMMA)
    in_p3, in_adobe = in_space(color, P3_XYZ), in_space(color, ADOBE_XYZ, ADOBE_GAMMA)
    same = rgb_profile(SRGB_XYZ, name="something")
    packed = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(p3))
    darker = np.rint(255 * srgb_curve(gray / 255) ** (1 / 1.8)).astype(np.uint8)
    patches = np.kron(np.arange(16).reshape(4, 4), np.ones((HEIGHT // 4, WIDTH // 4), int))
    inks = np.array([[255 * (number >> bit & 1) for bit in (3, 2, 1, 0)] for number in range(16)], np.uint8)[patches]
    printed = lab_to_srgb(ink_corners().reshape(16, 3))[patches]
    press = cmyk_profile(ink_corners())
    return {
        "jpeg with an srgb profile": OddImage(
            data=saved(color, "JPEG", quality=95, subsampling=0, icc_profile=same), expected=color, tolerance=4, kind="COLOR"
        ),
        "jpeg display p3": OddImage(data=saved(in_p3, "JPEG", quality=95, subsampling=0, icc_profile=p3), expected=color, tolerance=8),
        "jpeg adobe rgb": OddImage(data=saved(in_adobe, "JPEG", quality=95, subsampling=0, icc_profile=wide), expected=color, tolerance=9),
        "png display p3": OddImage(data=png(in_p3, 2, packed), expected=color, tolerance=2, suffix=".png"),
        "png display p3 with transparency": OddImage(
            data=png(np.dstack([in_p3, alpha]), 6, packed), expected=over_white(color, alpha), tolerance=2, suffix=".png"
        ),
        "webp adobe rgb": OddImage(
            data=saved(in_adobe, "WEBP", lossless=True, icc_profile=wide), expected=color, tolerance=3, suffix=".webp"
        ),
        "tiff adobe rgb": OddImage(data=saved(in_adobe, "TIFF", icc_profile=wide), expected=color, tolerance=3, suffix=".tif"),
        "png 16 bits display p3": OddImage(data=png(in_p3.astype(np.uint16) * 257, 2, packed), expected=color, tolerance=2, suffix=".png"),
        "jpeg gray of gamma 1.8": OddImage(
            data=saved(darker, "JPEG", quality=98, icc_profile=gray_profile(1.8)), expected=three(gray), tolerance=4
        ),
        "jpeg gray with an rgb profile": OddImage(
            data=saved(gray, "JPEG", quality=95, icc_profile=p3), expected=three(gray), tolerance=3, kind="GRAY"
        ),
        "jpeg cmyk with a profile": OddImage(
            data=saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0, icc_profile=press), expected=printed, tolerance=4
        ),
        "tiff cmyk with a profile": OddImage(
            data=saved(Image.fromarray(inks, "CMYK"), "TIFF", icc_profile=press), expected=printed, tolerance=2, suffix=".tif"
        ),
    }
