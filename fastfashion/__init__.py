"""fastfashion: pack product photographs, feed them to the GPU at full speed, train, and prove how good the result is.

For notebooks and programs, `import fastfashion as ff` has ten names, which fastfashion/api.py documents:

    ff.synth  ff.shard  ff.open_packed_set  ff.open_loader  ff.train_run  ff.evaluate_run  ff.compare  ff.open_run  ff.predict  ff.export

They come when they are first asked for, so that importing costs nothing.
"""

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "compare",
    "evaluate_run",
    "export",
    "open_loader",
    "open_packed_set",
    "open_run",
    "predict",
    "shard",
    "synth",
    "train_run",
]


def __getattr__(name: str) -> object:
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__[1:])}")
    import importlib

    return getattr(importlib.import_module("fastfashion.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
