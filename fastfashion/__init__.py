"""fastfashion: pack product images, load them at full speed, train, and prove how good the result is.

For notebooks and programs, `import fastfashion as ff` has the names of `__all__`, which fastfashion/api.py documents:

    ff.download  ff.synth  ff.shard  ff.verify  ff.audit  ff.splits  ff.preview  ff.open_packed_set  ff.loader  ff.train_run
    ff.evaluate_run  ff.compare  ff.open_run  ff.predict  ff.export  ff.serve  ff.FastfashionError

They are imported when they are first used, so that importing costs nothing.
"""

import sys
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "FastfashionError",
    "__version__",
    "audit",
    "compare",
    "download",
    "evaluate_run",
    "export",
    "loader",
    "open_loader",
    "open_packed_set",
    "open_run",
    "predict",
    "preview",
    "serve",
    "shard",
    "splits",
    "synth",
    "train_run",
    "verify",
]


class _Package(ModuleType):
    """Importing fastfashion.predict.inputs binds the folder `predict` here; the function of that name stays."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name.startswith("_") or name not in __all__:
        known = [each for each in __all__ if each != "__version__"]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(known)}")
    import importlib

    return getattr(importlib.import_module("fastfashion.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
