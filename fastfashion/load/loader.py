"""The choice of a backend.

plan + packed set ─► open_loader ─► dali | threads | resident ─► Batch, Batch, …
"""

from dataclasses import replace

from fastfashion.config import BACKENDS
from fastfashion.errors import ConfigError
from fastfashion.files import is_remote
from fastfashion.load.spec import Loader, LoaderSpec


def open_loader(spec: LoaderSpec) -> Loader:
    """Open a backend; "auto" is DALI on a GPU and threads without one, where they are faster (bench/results/).

    A set on object storage is read through a cache of its shards. Raises ConfigError if the backend is unknown or cannot run here.
    """
    if is_remote(spec.images.folder) and spec.cache is None:
        from fastfashion.load.prefetch import open_cached

        permuted = spec.plan.augment is not None and not spec.plan.window_shards
        images, cache = open_cached(spec.images, spec.cache_dir, spec.cache_bytes, permuted=permuted)
        spec = replace(spec, images=images, cache=cache)
    backend = spec.chosen_backend
    if backend == "dali":
        from fastfashion.load.dali import DaliLoader

        return DaliLoader(spec)
    if backend == "threads":
        from fastfashion.load.threads import ThreadsLoader

        return ThreadsLoader(spec)
    if backend == "resident":
        from fastfashion.load.resident import open_resident

        return open_resident(spec)
    raise ConfigError(f"unknown loader backend {spec.backend!r}: choose one of {', '.join(BACKENDS)}")
