"""The epoch plan, the loader, and the backends that execute the plan."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfashion.load.batch import Batch, Profile, Skipped
    from fastfashion.load.loader import Loader, notes
    from fastfashion.load.plan import Plan
    from fastfashion.load.spec import LoaderSpec, Selection, choose_images, in_order, make_spec

_HOMES = {"Batch": "batch", "Profile": "batch", "Skipped": "batch", "Loader": "loader", "notes": "loader", "Plan": "plan"}
__all__ = ["Batch", "Loader", "LoaderSpec", "Plan", "Profile", "Selection", "Skipped", "choose_images", "in_order", "make_spec", "notes"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a process that decodes needs `crops` alone, and starts in a tenth of the time without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'spec')}"), name)
