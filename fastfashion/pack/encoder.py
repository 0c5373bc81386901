"""What the bytes of a numbered resolution depend on besides its images: the field `encoder` of its manifest."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

UNSHRUNK, CASCADE = "unshrunk", "cascade"


def encoder_settings(quality: int, subsampling: str) -> dict[str, Any]:
    """Ours. `unshrunk`: plain, upright, baseline JPEGs that need not be shrunk keep their bytes.

    A manifest also has `cascade`: the resolutions made in the same pass, each from a larger one.
    """
    versions = {name.lower(): importlib.metadata.version(name) for name in ("simplejpeg", "Pillow")}
    return {"format": "jpeg", "quality": quality, "subsampling": subsampling, "resize": "bicubic", UNSHRUNK: "kept"} | versions


def encoder_differences(found: Mapping[str, Any], quality: int, subsampling: str) -> list[str]:
    """How a manifest's settings differ from ours. Sets of version 2 have no `unshrunk`: there every image was encoded."""
    ours = encoder_settings(quality, subsampling)
    theirs = {UNSHRUNK: ours[UNSHRUNK], **found}
    names = [name for name in dict.fromkeys([*ours, *theirs]) if name != CASCADE]
    return [f"{name} {theirs.get(name)} (here {ours.get(name)})" for name in names if theirs.get(name) != ours.get(name)]
