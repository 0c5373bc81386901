"""A run as a Hugging Face Space: its ONNX file and `space_app.py`, which needs nothing of fastfashion."""

import importlib.metadata
import shutil
from pathlib import Path

from fastfashion.export import space_app

# What app.py was tested with, if this machine has no other version of it.
NEEDS = {"gradio": "6.0", "onnxruntime": "1.20", "numpy": "1.26", "pillow": "11.0"}


def write_app(folder: Path) -> None:
    """Write app.py and requirements.txt."""
    shutil.copyfile(space_app.__file__, folder / "app.py")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")


def requirements() -> list[str]:
    """The installed versions, pinned since a Space may be rebuilt at any time; a lower bound for what is not installed."""
    return [f"{name}=={version}" if (version := _installed(name)) else f"{name}>={least}" for name, least in NEEDS.items()]


def gradio_version() -> str:
    """The version that a Space's card must name."""
    return _installed("gradio") or NEEDS["gradio"]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
