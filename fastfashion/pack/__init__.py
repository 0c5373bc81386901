"""From a source of images to a packed set."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfashion.pack.estimate import DryRun, dry_run
    from fastfashion.pack.packer import pack
    from fastfashion.pack.progress import Progress, bar_progress
    from fastfashion.pack.request import PackRequest, PackSummary

__all__ = ["DryRun", "PackRequest", "PackSummary", "Progress", "bar_progress", "dry_run", "pack"]

_ROOMS = {"DryRun": "estimate", "dry_run": "estimate", "pack": "packer", "Progress": "progress", "bar_progress": "progress"}


def __getattr__(name: str) -> Any:
    """Hand on a name when it is first asked for: worker processes need `engines` alone, and start in a third of the time without pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS.get(name, 'request')}"), name)
