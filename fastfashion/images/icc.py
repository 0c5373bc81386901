"""Colours of an ICC profile to sRGB, relative colorimetric, through LittleCMS (Pillow's).

Relative colorimetric: a colour that sRGB has comes out as that very colour, whatever else the profile can hold; what sRGB lacks is
clipped. Perceptual tables would move all colours a little, each maker's in another way, and matrix profiles have none.
A profile that changes nothing by more than one grey level is sRGB, whatever its name. Damaged profiles, and those of another kind of
image (inks on RGB), count as none.
"""

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

MAX_PROFILE_BYTES = 16 << 20  # profiles of presses have up to 10 MiB
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # ICC.1, table 19, by Pillow's mode
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")  # a device link or a list of named colours is not for images
_CACHED = 64
_SAME_LEVELS = 1


class _Unknown:
    """Not looked at yet; None is an answer."""


_known: dict[tuple[bytes, str], "ImageCms.ImageCmsTransform | None"] = {}
_UNKNOWN = _Unknown()


def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether an image of Pillow's `mode` ("L", "RGB", "CMYK") with this profile needs no conversion."""
    return not profile or _transform(profile, mode) is None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode "L", "RGB" or "CMYK" in sRGB: of mode "RGB" where the profile changes it, else the same image."""
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image
    image = image if image.mode == transform.input_mode else image.convert(transform.input_mode)
    return transform.apply(image)


def _transform(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    """From the profile to sRGB; None where there is nothing to do. Made once for each profile: 4 ms, with inks 47."""
    key = hashlib.sha256(profile).digest(), mode
    found = _known.get(key, _UNKNOWN)  # without a lock, which a fork might leave locked for ever: at worst it is made twice
    if isinstance(found, _Unknown):
        found = _build(profile, mode)
        if len(_known) >= _CACHED:
            _known.clear()
        _known[key] = found
    return found


def _build(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    space = _SPACES.get(profile[16:20])
    suits = space == mode or (space, mode) == ("RGB", "L")
    if space is None or not suits or profile[12:16] not in _CLASSES or profile[36:40] != b"acsp" or len(profile) > MAX_PROFILE_BYTES:
        return None
    from PIL import ImageCms  # few images have a profile

    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, space, "RGB", renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (OSError, ImageCms.PyCMSError):
        return None
    if space == "CMYK":
        return transform
    colors = _sample_colors(gray=mode == "L")
    shown = Image.fromarray(colors).convert(space)
    changed = np.abs(np.asarray(transform.apply(shown)).astype(int) - colors).max()
    return transform if changed > _SAME_LEVELS else None


def _sample_colors(gray: bool) -> np.ndarray:
    """uint8 (n, 1, 3): all greys, and 6 levels of each channel."""
    greys = np.arange(256, dtype=np.uint8).repeat(3).reshape(-1, 1, 3)
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    return greys if gray else np.concatenate([greys, np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)])
