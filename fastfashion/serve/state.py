"""The answers for the page and the HTTP API: one model on one thread, so that memory stays flat however many ask at once.

request ─► gate (too many waiting: BusyError) ─► room for its bytes ─► line of small or of large images ─► check, decode, in a process that
may die ─► the model's thread ─► Look
"""

import asyncio
import sys
import time
from asyncio import wrap_future
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fastfashion.errors import FastfashionError, InputError
from fastfashion.predict.decode_cost import cost
from fastfashion.predict.decoding import LARGE_BYTES, Decoders, Memory, is_large
from fastfashion.predict.inputs import InputImage, in_zip, named, read_file, refused
from fastfashion.predict.outputs import records
from fastfashion.predict.predictor import Answers, Predictor, drawn
from fastfashion.predict.semaphore import FairSemaphore
from fastfashion.runs import open_run
from fastfashion.serve.cam import NoMapError, activation_maps, overlay
from fastfashion.serve.limits import Gate, Limits, Place, check_image, check_zip
from fastfashion.serve.products import Products
from fastfashion.words import why as reason

T = TypeVar("T")
TOP, NEAREST = 3, 6
BATCH = 32  # images a step of a batch; single images are answered in between


@dataclass(frozen=True, kw_only=True)
class Look:
    """All that the page shows of one image."""

    answers: dict[str, list[dict[str, Any]]]  # task -> [{"label", "probability"}, …], the most probable first
    overlays: dict[str, np.ndarray]  # task -> uint8 (H, W, 3), where the model looked for its best class
    no_overlay: str  # why there are none
    nearest: list[tuple[int, float]]  # rows of the training set and their cosine
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchLine:
    """An image of a batch: its answer as in JSON lines, and the pixels that the model saw, uint8 (H, W, 3), None if there are none."""

    record: dict[str, Any]
    pixels: np.ndarray | None


@dataclass(kw_only=True)
class State:
    """A run, opened for asking."""

    run: Path
    predictor: Predictor
    limits: Limits
    products: Products | None
    no_products: str  # why there are none
    decoders: Decoders = field(default_factory=lambda: Decoders(1))
    gate: Gate = field(init=False)
    waiting: FairSemaphore = field(init=False)  # for the bytes of large bodies
    _model: ThreadPoolExecutor = field(init=False, repr=False)
    _lines: dict[bool, ThreadPoolExecutor] = field(init=False, repr=False)  # whether large -> a thread for each process that decodes

    def __post_init__(self) -> None:
        self.gate, self.waiting = Gate(self.limits.queue), FairSemaphore(self.limits.waiting_bytes)
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        counts = {False: self.decoders.workers, True: max(1, self.decoders.large)}
        self._lines = {large: ThreadPoolExecutor(count, thread_name_prefix="decode") for large, count in counts.items()}

    def run_model(self, work: Callable[[], T]) -> T:
        """Run on the model's thread, in turn; raises CancelledError once the server ends."""
        return self._on_model(work).result()

    def _on_model(self, work: Callable[[], T]) -> Future[T]:
        return _submit(self._model, work)

    def _decoding(self, data: bytes, place: Place | None = None) -> Future[np.ndarray]:
        """uint8 (1, H, W, 3) of an image once it is decoded, in line with others that are as large; raises BusyError."""
        size = self.predictor.size
        large = is_large(cost(data, size.height_px, size.width_px, self.predictor.fit), data)
        if place:
            place.move(large)
        return _submit(self._lines[large], lambda: self._decode(data))

    def close(self) -> None:
        for pool in (self._model, *self._lines.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        self.decoders.close()

    @asynccontextmanager
    async def admit(self, num_bytes: int | None) -> AsyncIterator[Place]:
        """A place for a request whose body has `num_bytes`, and room to read it if it is large. Raises BusyError."""
        most = 2 * self.limits.image_bytes  # as base64 in JSON
        num_bytes = most if num_bytes is None else min(num_bytes, most)
        large = num_bytes > LARGE_BYTES
        with self.gate.enter(large) as place:
            async with self.waiting.taking(num_bytes) if large else nullcontext():
                yield place

    async def answer(self, data: bytes, top: int, place: Place) -> dict[str, list[dict[str, Any]]]:
        """The best classes of one encoded image, by task; no thread waits for its turn. Raises InputError or BusyError."""
        pixels = await wrap_future(self._decoding(data, place))
        return await wrap_future(self._on_model(lambda: self._best(self.predictor.probabilities(pixels), top)))

    async def look(self, path: Path, top: int = TOP, num_nearest: int = NEAREST) -> Look:
        """The answers for a file, with where the model looked and the nearest products. Raises InputError or BusyError."""
        image = named(path.name, lambda: read_file(path, self.limits.image_bytes))
        try:
            num_bytes = path.stat().st_size
        except OSError as error:
            raise InputError(f"cannot be read: {reason(error)}") from error
        started = time.perf_counter()
        async with self.admit(num_bytes) as place:
            pixels = await wrap_future(self._decoding(await asyncio.to_thread(image.read), place))
            return await wrap_future(self._on_model(lambda: self._look(pixels, top, num_nearest, started)))

    def _look(self, pixels: np.ndarray, top: int, num_nearest: int, started: float) -> Look:
        answers = self._best(self.predictor.probabilities(pixels), top)
        codes = {task: self.predictor.classes[task].index(best[0]["label"]) for task, best in answers.items()}
        overlays, why = {}, ""
        try:
            maps = activation_maps(self.predictor.model, torch.from_numpy(pixels[0]).to(self.predictor.device), codes)
            overlays = {task: overlay(pixels[0], one) for task, one in maps.items()}
        except NoMapError as error:
            why = str(error)
        nearest = []
        if self.products is not None and self.products.ready:
            nearest = self.products.nearest(self.predictor.embedding(pixels)[0], num_nearest)
        return Look(answers=answers, overlays=overlays, no_overlay=why, nearest=nearest, seconds=time.perf_counter() - started)

    def batch(self, paths: Sequence[Path]) -> Iterator[BatchLine]:
        """The answers for uploaded files and zips, an image a line. Raises InputError if they are too many, BusyError."""
        images = self._images(paths)
        if len(images) > self.limits.batch_files:
            raise InputError(f"{len(images)} images; at most {self.limits.batch_files} are answered at once: send fewer")
        with self.gate.enter():
            for at in range(0, len(images), BATCH):
                yield from self._batch(images[at : at + BATCH])

    def _batch(self, files: list[InputImage]) -> Iterator[BatchLine]:
        images = self._blank(len(files))
        errors: dict[int, str] = {}
        for place, image in enumerate(files):
            try:
                images[place] = self._decoding(image.read()).result()[0]
            except (InputError, OSError) as error:
                errors[place] = str(error)
        probabilities = self.run_model(lambda: self.predictor.probabilities(images))
        answers = self.predictor.answers([image.name for image in files], probabilities, errors, top=1)
        for place, record in enumerate(records(answers, self.predictor.classes)):
            yield BatchLine(record=record, pixels=None if place in errors else images[place])

    def _images(self, paths: Sequence[Path]) -> list[InputImage]:
        if len(paths) > self.limits.batch_files:
            raise InputError(f"{len(paths)} files; at most {self.limits.batch_files} images are answered in one request: send fewer")
        found: list[InputImage] = []
        for path in paths:
            if path.suffix.lower() != ".zip":
                found.append(named(path.name, lambda path=path: read_file(path, self.limits.image_bytes)))  # type: ignore[misc]
                continue
            try:
                check_zip(path, self.limits)
                found += in_zip(path, path.name, self.limits.image_bytes)
            except (InputError, OSError) as error:
                found.append(refused(path.name, str(error)))
        return found

    def _decode(self, data: bytes) -> np.ndarray:
        """uint8 (1, H, W, 3); raises InputError."""
        check_image(data, self.limits)
        pixels = self._blank(1)
        if wrong := self.decoders.fit([data], pixels, self.limits.image_pixels, self.predictor.fit):
            raise InputError(wrong[0])
        return pixels

    def _blank(self, count: int) -> np.ndarray:
        size = self.predictor.size
        return np.zeros((count, size.height_px, size.width_px, 3), dtype=np.uint8)

    def _best(self, probabilities: dict[str, torch.Tensor], top: int) -> dict[str, list[dict[str, Any]]]:
        answers: Answers = self.predictor.answers([""], probabilities, {}, top=top)
        return next(iter(records(answers, self.predictor.classes)))["answers"]


def _submit(pool: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
    """Raises CancelledError once the server ends."""
    try:
        return pool.submit(work)
    except RuntimeError as error:
        raise CancelledError from error


def open_state(run: Path, device: torch.device, limits: Limits, *, shards: Path | None = None, workers: int = 1) -> State:
    """Open a run for asking; without its packed set there are no nearest products, with a note on the page.

    Raises InputError if there is no model, or one that answers NaN.
    """
    memory = Memory(one_bytes=limits.decoding_bytes, all_bytes=limits.decoding_bytes)
    predictor = Predictor(run, device, workers=workers)
    decoders = Decoders(workers, large=max(1, workers // 2), memory=memory, decoder=predictor.decoder)
    predictor.probabilities(drawn(predictor.size, 2))  # a model that answers NaN is refused here, and not at every request
    products, why = None, ""
    try:
        opened = open_run(run, shards)
        for note in opened.notes:
            print(note, file=sys.stderr)
        products = Products(opened, predictor, decoders)
    except (FastfashionError, OSError) as error:
        why = str(error)
        print(f"no nearest products: {why}", file=sys.stderr)
    return State(run=run, predictor=predictor, limits=limits, products=products, no_products=why, decoders=decoders)
