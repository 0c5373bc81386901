"""The loader: an iterable of batches that knows where it is, and continues from there in another process.

LoaderSpec ─► Loader ─► feed: what to load ─► backend: dali | threads | resident ─► Batch, Batch, …
"""

import atexit
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from fastfashion import dist
from fastfashion.calls import errors_say_arguments
from fastfashion.config import BACKENDS
from fastfashion.errors import ConfigError
from fastfashion.files import is_remote
from fastfashion.load.batch import Batch, Profile, Skipped
from fastfashion.load.buffers import Owner
from fastfashion.load.crops import is_native, slow_note
from fastfashion.load.feed import Backend, Feed, finish
from fastfashion.load.spec import LoaderSpec
from fastfashion.load.state import Position, check_state, describe, identity_of, is_count
from fastfashion.shards.layout import WITH_SEEK
from fastfashion.shards.seek import LEAST_WIDTH_PX

if TYPE_CHECKING:
    import pandas as pd

    from fastfashion.load.prefetch import ShardCache
    from fastfashion.load.seek_cache import MadeTables
    from fastfashion.shards import PackedSet


class Loader(IterableDataset[Batch]):
    """One rank's batches, epoch after epoch, in the order of the plan.

    Iterating gives the rest of the current epoch; the next iteration then belongs to the next one. Where rows are not shuffled, an
    iteration that was left early is not continued: the next one starts at the first row. One iterator at a time. Opening raises ConfigError
    if the backend is unknown or cannot run here. `names` are the arguments of the function that a user called, for errors.
    `placed`: rank and world were chosen; otherwise they are those of torch.distributed, which must not be initialised later.
    """

    _turn: object | None  # of the live iterator

    def __init__(self, spec: LoaderSpec, packed: "PackedSet | None" = None, names: Collection[str] = (), *, placed: bool = True) -> None:
        self.spec, self._packed, self._names, self._placed = spec, packed, names, placed
        self.skipped: dict[int, Skipped] = {}  # by row, under on_bad="skip"
        self._position, self._loaded, self._offset = Position(), False, 0
        self._closed = False
        self._start_here()
        self._open()

    # What a training loop uses.

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._position.epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self.num_steps * self.spec.micro_batches

    def __iter__(self) -> Iterator[Batch]:
        """The current epoch from the current position.

        Raises ConfigError while another iterator is neither finished nor closed, after `close`, and in a DataLoader with several workers.
        """
        return self._iterate(self._next_start, moves=True)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; its position is kept if it is the current one.

        A smaller number directly after `load_state_dict` comes from a wrapper that counts from 0 in each process, as accelerate does: it
        warns, and that number and later ones are counted from the epoch of the state.
        """
        if not is_count(epoch):
            raise ConfigError(f"epoch: expected 0 or more, a whole number below 2^63, found {epoch!r}")
        if self._loaded and epoch + self._offset < self.epoch:
            self._offset = self.epoch - int(epoch)
            warnings.warn(
                f"set_epoch({epoch}) after a state of epoch {self.epoch} was loaded: it is taken for a count from the start of this "
                f"process, so epoch {self.epoch} continues and later numbers are counted from there",
                stacklevel=2,
            )
        if epoch + self._offset != self.epoch:
            self._move(Position(epoch=int(epoch) + self._offset))

    def state_dict(self, batch: Batch | None = None) -> dict[str, Any]:
        """The position in the global order, as plain JSON: the same on all ranks; any batch size, world size and backend continues from it.

        It counts the batches that were handed out; with a `batch` of this loader, those up to it, whatever was drawn after it.
        """
        if not isinstance(batch, Batch | None):
            raise ConfigError(f"batch: expected a Batch of this loader, found {type(batch).__name__}; a wrapper may have taken it apart")
        return describe(self._identity, self._position if batch is None else self._after(batch))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state: the same rows and the same pixels follow as would have followed there.

        An iterator of this loader that is still alive becomes invalid. Raises ConfigError, with what differs, for a state of other rows, of
        another seed or order, and for anything that is not a state.
        """
        position = check_state(self._identity, state)
        if position.samples >= self.spec.plan.num_samples:
            position = Position(epoch=position.epoch + 1)
        self._move(position)
        self._loaded, self._offset = True, 0

    def close(self) -> None:
        """End all threads; also at the end of a `with` block, when the loader is garbage, and at exit."""
        self._closed = True
        self._move(self._position)
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        spec, at = self.spec, self._position
        what = f"{len(spec.plan.rows)} rows of {spec.images.folder.parent.name}, {spec.plan.batch_size} images of {spec.size} per step"
        rank = f", rank {spec.rank} of {spec.world_size}" if spec.world_size > 1 else ""
        return f"Loader({what}{rank}, {spec.chosen_backend} on {spec.device}, epoch={at.epoch}, samples={at.samples})"

    # What is loaded.

    @property
    def table(self) -> "pd.DataFrame":
        """The catalog of the packed set, a line for each row that `batch.rows` can name."""
        return self._set.table

    @property
    def ids(self) -> np.ndarray:
        """The ids of the packed set by row: str objects (N,)."""
        return self._set.ids

    @property
    def rows(self) -> np.ndarray:
        """The rows of the packed set that this loader loads: int64 (n,)."""
        return self.spec.plan.rows

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class names by task; a label code is the place in them."""
        return {task: self._set.vocab.names(task) for task in self.spec.tasks}

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self.spec.plan.num_steps

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start`; the loader's own position stays. Raises ConfigError as `__iter__`."""
        if not (is_count(epoch) and is_count(start) and start <= self.num_steps):
            raise ConfigError(f"steps: expected an epoch from 0 and a step from 0 to {self.num_steps}, found epoch {epoch}, step {start}")
        samples = self.spec.plan.edge(start)
        return self._iterate(lambda: Position(epoch=epoch, samples=samples), moves=False)

    # How it works.

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return identity_of(self.spec)

    @property
    def _set(self) -> "PackedSet":
        if self._packed is None:
            raise ConfigError("this loader was opened from a LoaderSpec alone, which has no table")
        return self._packed

    def _start_here(self) -> None:
        """What belongs to one process."""
        self._owner, self._lock = Owner(), threading.Lock()
        self._turn = None
        self._opened: _Opened | None = None
        self._iterators: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()

    def _open(self) -> "_Opened":
        """The backend of this process; a child opens its own."""
        if self._closed:
            raise ConfigError("this loader is closed: open another one")
        if not self._owner.is_here:
            self._start_here()
        if self._opened is None:
            self._opened = _Opened.of(self.spec)
            weakref.finalize(self, _end, self._opened, self._iterators)
            _watch_exit()
        return self._opened

    def _iterate(self, start: Callable[[], Position], *, moves: bool) -> Iterator[Batch]:
        batches = self._run(start, moves=moves)
        self._iterators.add(batches)
        return batches

    def _run(self, start: Callable[[], Position], *, moves: bool) -> Generator[Batch, None, None]:
        with errors_say_arguments(self._names) if self._names else nullcontext():
            if (worker := get_worker_info()) is not None and worker.num_workers > 1:
                raise ConfigError(f"num_workers={worker.num_workers}: each would load every batch; use 0, it has its own threads")
            if not self._placed and self.spec.world_size == 1 and (size := dist.here().size) > 1:
                raise ConfigError(
                    f"torch.distributed was initialised after this loader was opened, and each of its {size} processes would get all rows: "
                    "open the loader afterwards, or give it rank and world_size"
                )
            if _program_ends():
                return
            opened, turn = self._open(), self._take_turn()
            at = start()
            feed, backend = opened.feed, opened.backend
            made = backend.batches(feed.planned(at.epoch, at.samples, with_shards=backend.needs_shards))
            try:
                for one in made:
                    started = time.perf_counter()
                    batch = finish(opened.spec, one, self.skipped)
                    opened.profile.add(copy_s=time.perf_counter() - started)
                    if moves:
                        self._position = self._after(batch)
                    if one.planned.is_last:  # with it, a consumer may iterate again at once
                        assert next(made, None) is None, "the backend has more batches than the epoch"
                        self._end_turn(turn)
                        yield batch
                        return
                    yield batch
                    self._check_turn(turn)
            except Exception:
                if not _program_ends():
                    raise
                return
            finally:
                made.close()
                self._end_turn(turn)

    def _next_start(self) -> Position:
        """Where an iteration starts."""
        if not self.spec.plan.shuffled and not self._loaded:
            self._position = Position(epoch=self.epoch)
        self._loaded = False
        return self._position

    def _after(self, batch: Batch) -> Position:
        if batch.samples >= self.spec.plan.num_samples:
            return Position(epoch=batch.epoch + 1)
        return Position(epoch=batch.epoch, samples=batch.samples)

    def _move(self, position: Position) -> None:
        self._position, self._turn = position, None

    def _take_turn(self) -> object:
        with self._lock:
            if self._turn is not None:
                raise ConfigError(
                    "this loader has another live iterator, and batches of the two would be mixed: finish that one, close it "
                    "(`batches.close()`), or open a second loader; where nothing names it any more, as after an exception whose traceback "
                    "is kept, `loader.load_state_dict(loader.state_dict())` continues without it"
                )
            self._turn = object()
            return self._turn

    def _end_turn(self, turn: object) -> None:
        with self._lock:
            if self._turn is turn:
                self._turn = None

    def _check_turn(self, turn: object) -> None:
        if not self._owner.is_here:
            raise ConfigError("this iterator belongs to the parent of this process: iterate the loader again here")
        if self._closed:
            raise ConfigError("this loader is closed: open another one")
        if self._turn is not turn:
            raise ConfigError("this iterator is invalid: the loader was moved by load_state_dict or set_epoch; iterate it again")

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens a backend of its own."""
        here = ("_owner", "_lock", "_turn", "_opened", "_iterators")
        return {name: value for name, value in self.__dict__.items() if name not in here} | {"spec": replace(self.spec, profile=None)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_here()


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A backend at work, and what it works for."""

    spec: LoaderSpec
    feed: Feed
    backend: Backend
    profile: Profile
    cache: "ShardCache | None"
    tables: "MadeTables | None"
    owner: Owner

    @classmethod
    def of(cls, spec: LoaderSpec) -> "_Opened":
        """Raises ConfigError if the backend is unknown or cannot run here."""
        if spec.chosen_backend not in BACKENDS:
            raise ConfigError(f"unknown loader backend {spec.backend!r}: choose one of {', '.join(BACKENDS)}")
        cache = None
        if is_remote(spec.images.folder):  # read through a cache of its shards
            from fastfashion.load.prefetch import open_cached

            images, cache = open_cached(spec.images, spec.cache_dir, spec.cache_bytes, seeks=spec.seeks and is_native())
            spec = replace(spec, images=images)
        tables = None
        if _makes_tables(spec):
            from fastfashion.load.seek_cache import MadeTables, seek_folder

            tables = MadeTables(spec.images, seek_folder(spec.cache_dir))
            spec = replace(spec, images=replace(spec.images, seek=replace(spec.images.seek, made=tables.table, _tables={})))
        profile = spec.profile or Profile(enabled=False)
        try:
            backend = open_backend(spec, profile)
        except BaseException:
            if cache is not None:
                cache.close()
            raise
        return cls(spec=spec, feed=Feed(spec, cache), backend=backend, profile=profile, cache=cache, tables=tables, owner=Owner())

    def close(self) -> None:
        if self.owner.is_here:
            if self.cache is not None:
                self.cache.close()  # first: a thread may be waiting for a shard
            self.backend.close()
            if self.tables is not None:
                self.tables.close()


_EXIT = threading.Event()  # all threads of the program but daemons have ended


@cache
def _watch_exit() -> None:
    """To be called after the first `weakref.finalize`, so that the event is set before loaders are closed."""
    atexit.register(_EXIT.set)


def _program_ends() -> bool:
    """Whether loaders are being closed for good: a daemon thread that still iterates then finds its epoch at an end."""
    return _EXIT.is_set()


def _end(opened: _Opened, iterators: "weakref.WeakSet[Generator[Batch, None, None]]") -> None:
    """Leave nothing to do for the time when Python takes modules apart: of a loader that is garbage, or at exit."""
    if not opened.owner.is_here:
        return
    opened.close()  # first: a daemon thread that waits for a batch then finds its epoch at an end
    for batches in list(iterators):
        with suppress(ValueError):  # that thread is in it
            batches.close()


def open_backend(spec: LoaderSpec, profile: Profile) -> Backend:
    """The backend that `spec` names; raises ConfigError if it cannot run here."""
    if spec.chosen_backend == "dali":
        from fastfashion.load.dali import DaliBackend

        return DaliBackend(spec, profile)
    if spec.chosen_backend == "threads":
        from fastfashion.load.threads import open_threads

        return open_threads(spec, profile)
    from fastfashion.load.resident import open_resident

    return open_resident(spec, profile)


def _makes_tables(spec: LoaderSpec) -> bool:
    """Whether images are large enough for seek tables, and their set was packed without."""
    images = spec.images
    return spec.seeks and images.manifest.version < WITH_SEEK and is_native() and int(images.width_px.max()) >= LEAST_WIDTH_PX


def notes(spec: LoaderSpec) -> list[str]:
    """What makes loading slower than it could be, a sentence each."""
    found = [slow_note()] if spec.chosen_backend != "dali" else []
    if _makes_tables(spec):
        from fastfashion.load.seek_cache import note

        found.append(note(spec.cache_dir))
    if is_remote(spec.images.folder) and spec.plan.shuffled and not spec.plan.window_shards:
        from fastfashion.load.prefetch import thrashing_note

        found.append(thrashing_note(spec.images, spec.cache_bytes))
    return [text for text in found if text]
