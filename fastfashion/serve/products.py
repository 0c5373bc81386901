"""The products of the training set that look most like an image, by the model's own features.

training rows ─► Loader ─► embedding, unit length ─► run/products.safetensors, made once ─► nearest by cosine
"""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fastfashion.errors import FastfashionError, InputError
from fastfashion.files import publish
from fastfashion.images import codec
from fastfashion.load import Loader
from fastfashion.model.weights import WEIGHTS, read_shapes
from fastfashion.predict.decoding import Decoders
from fastfashion.predict.predictor import Predictor
from fastfashion.runs import OpenRun
from fastfashion.runs.files import BEST
from fastfashion.words import counted, why

FILE = "products.safetensors"
MAX_PRODUCTS = 200_000  # of more, evenly spread ones: 200 MB of features
BATCH_ON_CPU, BATCH_ON_GPU = 16, 256  # other requests wait for at most one such batch
SHOWN_HEIGHT_PX, SHOWN_SHORT_PX = 192, 120

Runner = Callable[[Callable[[], torch.Tensor]], torch.Tensor]  # where the model runs
Kept = tuple[np.ndarray, torch.Tensor]  # rows, int64 (n,), and their features, float16 (n, F)


class Products:
    """Features of the training rows, and how many are computed; `problem` says why they will never be `ready`."""

    def __init__(self, opened: OpenRun, predictor: Predictor, decoders: Decoders) -> None:
        rows = np.unique(opened.split.train)
        if len(rows) > MAX_PRODUCTS:
            rows = rows[np.linspace(0, len(rows) - 1, MAX_PRODUCTS).astype(np.int64)]
        self.rows, self.problem, self.done = rows.astype(np.int64), "", 0
        self._opened, self._predictor = replace(opened, model=predictor.model), predictor  # one model in memory is enough
        self._decoders = decoders
        self._shown = opened.packed.open_for(SHOWN_SHORT_PX)
        self._features: torch.Tensor | None = None  # float16 (n, F)
        self._spec = predictor.spec(opened.packed, self.rows, BATCH_ON_GPU if predictor.device.type == "cuda" else BATCH_ON_CPU)

    @property
    def ready(self) -> bool:
        return self._features is not None

    def start(self, run_model: Runner) -> threading.Thread:
        """Read the features from the run's folder, or make them, on a thread of its own."""
        thread = threading.Thread(target=self._prepare, args=(run_model,), name="products", daemon=True)
        thread.start()
        return thread

    def nearest(self, feature: torch.Tensor, count: int) -> list[tuple[int, float]]:
        """Rows of the set and their cosine to a feature of unit length, float32 (F,); nothing if they are not ready."""
        if self._features is None:
            return []
        cosines = torch.cat([part.float() @ feature.cpu() for part in self._features.split(1 << 16)])
        values, places = cosines.topk(min(count, len(self.rows)))
        return [(int(self.rows[place]), float(value)) for value, place in zip(values, places.tolist(), strict=True)]

    def caption(self, row: int) -> tuple[str, list[str]]:
        """The id of a row, and its labels for the run's tasks."""
        line = self._opened.packed.table.iloc[row]
        codes = self._opened.codes[row].tolist()
        names = [self._opened.vocab.names(task)[code] for task, code in zip(self._opened.tasks, codes, strict=True) if code >= 0]
        return str(line["id"]), names

    def jpeg(self, row: int) -> bytes:
        """A row's image, at most SHOWN_HEIGHT_PX high; raises InputError if it does not decode."""
        pixels = self._decoders.decode_rgb(bytes(self._shown.read(row)), min_height_px=SHOWN_HEIGHT_PX)
        height, width = pixels.shape[:2]
        scale = min(1.0, SHOWN_HEIGHT_PX / height)
        return codec.encode_jpeg(codec.resize(pixels, round(height * scale), max(1, round(width * scale))), 88, "420")

    def examples(self, count: int = 5) -> list[bytes]:
        """JPEGs of up to `count` test rows, evenly spread over the classes of the first task; those that do not decode are left out."""
        rows = self._opened.split.rows("test")
        rows = rows[np.argsort(self._opened.codes[rows, 0], kind="stable")]
        chosen = rows[np.linspace(0, len(rows) - 1, count + 2).astype(np.int64)[1:-1]]
        found = []
        for row in chosen:
            with contextlib.suppress(FastfashionError):
                found.append(self.jpeg(int(row)))
        return found

    def _prepare(self, run_model: Runner) -> None:
        path, key = self._predictor.run / FILE, self._key()
        try:
            kept = _read(path, key, self.rows, self._predictor.model.head(self._opened.tasks[0]).in_features)
            if kept is None:
                kept = self._make(run_model)
                self._keep(path, key, *kept)
            self.rows, self._features = kept
        except CancelledError:
            self.problem = "the server is stopping"
        except (FastfashionError, OSError, RuntimeError) as error:
            self.problem = str(error)
            print(f"no nearest products: {error}", file=sys.stderr, flush=True)

    def _make(self, run_model: Runner) -> Kept:
        print(f"features of {counted(len(self.rows), 'product')} are computed, once; the page works meanwhile", file=sys.stderr, flush=True)
        parts, kept = [], []
        with Loader(self._spec) as loader:
            for batch in loader.steps(0):
                real = batch.rows >= 0
                parts.append(run_model(lambda images=batch.images: self._predictor.embedding(images))[real].half().cpu())  # type: ignore[misc]
                kept.append(batch.rows[real].cpu().numpy())
                self.done += len(kept[-1])
        return np.concatenate(kept), torch.cat(parts)

    def _keep(self, path: Path, key: str, rows: np.ndarray, features: torch.Tensor) -> None:
        from safetensors.torch import save_file

        tensors = {"rows": torch.from_numpy(rows), "features": features}
        try:
            publish(path, lambda beside: save_file(tensors, beside, metadata={"key": key}))
        except OSError as error:
            print(f"{path}: cannot be saved ({why(error)}); it will be computed again next time", file=sys.stderr, flush=True)

    def _key(self) -> str:
        """A hash of the weights, the rows and the images."""
        known = hashlib.sha256((self._predictor.run / BEST / WEIGHTS).read_bytes())
        known.update(self.rows.tobytes())
        known.update(f"{self._spec.images.manifest.index_sha256} {self._spec.images.name}".encode())
        return known.hexdigest()


def _read(path: Path, key: str, rows: np.ndarray, num_features: int) -> Kept | None:
    """The rows that decoded, and their features; None if there are none for this `key`. Reading safetensors runs no code."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or os.path.getsize(path) == 0:  # noqa: PTH202
        return None
    try:
        shapes = read_shapes(path)
        if shapes != {"rows": (shapes["rows"][0][:1], False), "features": ((*shapes["rows"][0][:1], num_features), True)}:
            return None
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            features, kept = file.get_tensor("features"), file.get_tensor("rows").numpy()
    except (SafetensorError, OSError, LookupError, InputError):
        return None
    return (kept, features) if np.isin(kept, rows).all() and torch.isfinite(features).all() else None
