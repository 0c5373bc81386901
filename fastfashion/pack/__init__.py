"""From a source of images to a packed set."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfashion.pack.packer import dry_run, pack
    from fastfashion.pack.request import DryRun, PackProgress, PackRequest, PackSummary, bar_progress

__all__ = ["DryRun", "PackProgress", "PackRequest", "PackSummary", "bar_progress", "dry_run", "pack"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a worker process needs `engines` alone, and starts in a third of the time without pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{'packer' if name in ('pack', 'dry_run') else 'request'}"), name)
