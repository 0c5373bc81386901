"""Images to answers: the best classes of every head, with calibrated probabilities.

    Image, Image, … ─► threads: read ─► processes: decode, resize ─► batch ───┐
    packed set ─► Loader ──────────────────────────────────────────────► batch ─┴► model ─► softmax ─► top k ─► Answers

Files go through the code of the loader (`load/crops.py`), so that an image has the same pixels here and in a packed set; they are decoded
in processes that may die (`predict/decoding.py`), so that a file that kills a decoder is one error among the answers.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch

from fastfashion import dist
from fastfashion.config import Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.load import Loader, LoaderSpec, Selection, make_spec
from fastfashion.load.crops import OWN
from fastfashion.load.dali import has_dali
from fastfashion.model.artifact import load_artifact
from fastfashion.model.net import probabilities
from fastfashion.predict.decode_worker import load_encoded
from fastfashion.predict.decoding import Decoders
from fastfashion.predict.inputs import Input, InputImage, SetInput
from fastfashion.runs.files import BEST, CONFIG, read_config
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.sources.ranges import UnreachableError

CHUNK = 16  # images a task of a thread, as in the loader
PREFETCH = 3  # batches in progress while one is answered
NO_CODE = -1

Decode = Callable[[Sequence[bytes], np.ndarray], dict[int, str]]
_Started = tuple[list[str], np.ndarray, list[Future[dict[int, str]]]]  # a batch in progress: names, uint8 (B, H, W, 3) being filled, tasks


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The model's answers for some images. An image that could not be read has codes -1 and probabilities NaN."""

    names: list[str]
    errors: dict[int, str]  # by place in `names`
    codes: dict[str, np.ndarray]  # task -> int64 (n, k), the most probable class first
    probabilities: dict[str, np.ndarray]  # task -> float32 (n, k)


class Predictor:
    """A run's best model, ready to answer.

    Raises InputError if `run` holds no model; ConfigError for a task that it does not have.
    """

    def __init__(self, run: Path, device: torch.device, *, workers: int = 1, tasks: Sequence[str] = ()) -> None:
        self.run, self.device, self.workers = run, device, workers
        model, description = load_artifact(run / BEST)
        self.model, self.description = model.to(device), description
        self.size, self.fit = Size.parse(description.size), description.fit
        if unknown := [task for task in tasks if task not in description.classes]:
            raise ConfigError(f"unknown task {unknown[0]!r}: {run} has heads for {', '.join(description.classes)}")
        self.classes = {task: names for task, names in description.classes.items() if not tasks or task in tasks}

    @property
    def decoder(self) -> str:
        """The data.decoder that it was trained with; own for a model without the settings of its run."""
        return read_config(self.run).data.decoder if (self.run / CONFIG).is_file() else OWN

    def probabilities(self, images: np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 (B, H, W, 3) of the model's size to calibrated probabilities {task: float32 (B, C)}, on the model's device.

        Raises InputError if one is not a number.
        """
        tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        with torch.inference_mode():
            return probabilities(self.model(tensor.to(self.device)), self.classes, str(self.run))

    def embedding(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) to features of unit length, float32 (B, F), on the model's device."""
        tensor = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
        with torch.inference_mode():
            return torch.nn.functional.normalize(self.model.embedding(tensor.to(self.device)).float(), dim=1)

    def answer(self, inputs: Iterable[Input], *, top: int = 3, batch_size: int = 256) -> Iterator[Answers]:
        """Answers for every image, in the order of the inputs, a batch at a time.

        Raises PackedSetError if a packed set cannot be opened; an error of a single image is in its Answers.
        """
        batch_size = self.size.batch(batch_size)
        for is_file, group in groupby(inputs, key=lambda one: isinstance(one, InputImage)):
            if is_file:
                yield from self._answer_images((one for one in group if isinstance(one, InputImage)), top, batch_size)
            else:
                for one in group:
                    assert isinstance(one, SetInput)
                    yield from self._answer_set(one.path, top, batch_size)

    def _answer_images(self, images: Iterator[InputImage], top: int, batch_size: int) -> Iterator[Answers]:
        decoders = Decoders(self.workers, decoder=self.decoder)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="predict")
        ahead: deque[_Started] = deque()
        try:
            while batch := list(islice(images, batch_size)):
                ahead.append(self._start(pool, partial(decoders.fit, fit=self.fit), batch))
                while len(ahead) > PREFETCH or (ahead and all(task.done() for task in ahead[0][2])):
                    yield self._finish(ahead.popleft(), top)
            while ahead:
                yield self._finish(ahead.popleft(), top)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            decoders.close()
            pool.shutdown()

    def _start(self, pool: ThreadPoolExecutor, decode: Decode, batch: list[InputImage]) -> _Started:
        images = np.empty((len(batch), self.size.height_px, self.size.width_px, 3), dtype=np.uint8)
        chunks = range(0, len(batch), CHUNK)
        tasks = [pool.submit(load_images, batch[at : at + CHUNK], images[at : at + CHUNK], decode) for at in chunks]
        return [one.name for one in batch], images, tasks

    def _finish(self, started: _Started, top: int) -> Answers:
        names, images, tasks = started
        errors = {i * CHUNK + place: text for i, task in enumerate(tasks) for place, text in task.result().items()}
        return self.answers(names, self.probabilities(images), errors, top)

    def _answer_set(self, path: Path, top: int, batch_size: int) -> Iterator[Answers]:
        packed = open_packed_set(path)
        ids = packed.table["id"].to_numpy()
        spec = self.spec(packed, np.arange(len(packed)), batch_size)
        with Loader(spec) as loader:
            for step, batch in zip(spec.plan.steps(0), loader.steps(0), strict=True):
                rows = step.rows.tolist()
                names = [f"{path}/{ids[row]}" for row in rows]
                errors = {i: loader.skipped[row].reason for i, row in enumerate(rows) if row in loader.skipped}
                yield self.answers(names, self.probabilities(batch.images[: len(rows)]), errors, top)

    def spec(self, packed: PackedSet, rows: np.ndarray, batch_size: int) -> LoaderSpec:
        """How to load rows of a set, int64 (n,), whole and in order: as the run did, at its resolution if the set has it."""
        trained = read_config(self.run).data
        resolution = trained.resolution if trained.resolution in packed.resolutions else "auto"
        backend = "threads" if trained.backend == "dali" and not has_dali() else trained.backend  # it may have trained elsewhere
        own = {"size": str(self.size), "workers": self.workers, "backend": backend, **self.fit.settings()}
        data = replace(trained, resolution=resolution, on_bad="skip", shuffle="epoch", **own)
        return make_spec(packed, Selection(rows=rows, batch_size=batch_size), data, dist.World(device=self.device))

    def answers(self, names: list[str], probabilities: dict[str, torch.Tensor], errors: dict[int, str], top: int) -> Answers:
        """The `top` best of probabilities {task: (B, C)}."""
        codes, best = {}, {}
        wrong = sorted(errors)
        for task, values_BC in probabilities.items():
            values, places = values_BC.topk(min(top, values_BC.shape[1]), dim=1)
            codes[task], best[task] = places.cpu().numpy(), values.cpu().numpy()
            codes[task][wrong], best[task][wrong] = NO_CODE, np.nan
        return Answers(names=names, errors=errors, codes=codes, probabilities=best)


def drawn(size: Size, count: int) -> np.ndarray:
    """Smooth random images, uint8 (n, H, W, 3), the same each time: something to try a model with if there is no packed set."""
    coarse = torch.rand((count, 3, 8, 6), generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, (size.height_px, size.width_px), mode="bilinear")
    return fine.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def load_images(images: Sequence[InputImage], out: np.ndarray, decode: Decode = load_encoded) -> dict[int, str]:
    """Fill `out`, uint8 (n, H, W, 3), with images; returns why those could not be read that are left black, by place.

    `decode` is `load_encoded` with a fit: here, or in a process that may die.
    """
    errors: dict[int, str] = {}
    encoded: list[bytes] = []
    for place, image in enumerate(images):
        try:
            encoded.append(image.read())
        except UnreachableError:
            raise
        except (InputError, OSError) as error:
            errors[place] = str(error)
            encoded.append(b"")
    for place, text in decode(encoded, out).items():
        errors.setdefault(place, text)
    return errors
