"""What a loader needs, made once from a packed set, the settings of its data, and rows.

packed set + Selection + DataConfig + World ─► make_spec ─► LoaderSpec ─► Loader
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastfashion import dist
from fastfashion.config import AugmentConfig, DataConfig, Size
from fastfashion.load.batch import Profile
from fastfashion.load.fit import Fit
from fastfashion.load.plan import Plan
from fastfashion.shards import PackedSet, Resolution

if TYPE_CHECKING:
    import torch

SIZE_STEP_PX = 16  # automatic sizes are multiples of it; the usual backbones divide by 32, padding the odd half
MAX_AUTO_SHORT_PX = 224


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows to load, with their labels, in which order and batches. `Plan` explains the fields that it has, too."""

    rows: np.ndarray  # int64 (n,)
    batch_size: int  # global
    tasks: tuple[str, ...] = ()  # T
    labels: np.ndarray | None = None  # int64 (N, T) by row of the set; None: those of `tasks` in the set
    seed: int = 0
    augment: AugmentConfig | None = None
    shuffle: bool | None = None
    drop_last: bool = False
    weights: np.ndarray | None = None
    shard_starts: np.ndarray | None = None  # None: the set's own
    numbers: np.ndarray | None = None
    micro_batches: int = 1  # batches of a rank in a step; the same samples as with more ranks


@dataclass(frozen=True, kw_only=True)
class LoaderSpec:
    """What to load, for which rank, with which backend: a plain value, from which any process may open a loader."""

    images: Resolution
    plan: Plan
    labels: np.ndarray  # int64 (N, T) by row of the set
    tasks: tuple[str, ...] = ()  # T
    num_classes: tuple[int, ...] = ()  # T
    size: Size
    device: "torch.device"
    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1
    backend: str = "auto"
    decoder: str = "own"  # of plain JPEGs on the CPU: one of config.DECODERS
    workers: int = 1  # threads of this process
    prefetch: int = 3  # batches that are prepared while one is in use
    on_bad: str = "stop"  # at a decode error: raise PackedSetError, or "skip": mask the image and list it in `skipped`
    hw_decoder_load: float | None = None  # share of JPEGs for the GPU's decoder engine; None: load/dali.py's default
    profile: Profile | None = None  # to fill
    cache_dir: str = ""  # for shards of a set on object storage; default: a folder of the user's cache
    cache_bytes: int = 100 * 10**9

    @property
    def images_shape(self) -> tuple[int, int, int, int]:
        """(B, H, W, 3) of every batch of this rank."""
        return self.plan.num_slots(self.world_size * self.micro_batches), self.size.height_px, self.size.width_px, 3

    @property
    def chosen_backend(self) -> str:
        """The backend; for "auto", DALI on a GPU, and threads without one, where they are faster (bench/results/)."""
        if self.backend != "auto":
            return self.backend
        return "dali" if self.device.type == "cuda" else "threads"

    @property
    def seeks(self) -> bool:
        """Whether seek tables would make loading faster: where images are decoded for their crops, by the decoder of our own."""
        crops = self.plan.augment is not None and self.plan.augment.min_area < 1
        return crops and self.chosen_backend == "threads" and self.decoder == "own"

    def sizes_px(self, rows: np.ndarray) -> np.ndarray:
        """Height and width of whole images: int32 (n, 2)."""
        return np.stack([self.images.height_px[rows], self.images.width_px[rows]], axis=1).astype(np.int32)

    def to_device(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The tensor on the loader's device; on the CPU without `.to`, which may wait a millisecond for Python's lock."""
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=self.device.type == "cuda")


def make_spec(packed: PackedSet, chosen: Selection, data: DataConfig, world: dist.World) -> LoaderSpec:
    """How to load rows of a packed set: resolution, size, backend, threads, order and cache are those of `data`.

    Raises ConfigError for a task, resolution or size that the set does not have, InputError if there are no rows.
    """
    fit = Fit.of(data)
    images, size = choose_images(packed, data.resolution, data.size, fit.crop_pct, data.min_side_px)
    labels = chosen.labels
    if labels is None:
        codes = packed.vocab.codes(packed.columns, chosen.tasks) if chosen.tasks else None
        labels = np.zeros((len(packed), 0), dtype=np.int64) if codes is None else codes
    windowed, starts = data.shuffle == "window", chosen.shard_starts
    if windowed and starts is None:
        starts = np.flatnonzero(np.diff(images.shard, prepend=-1))
    plan = Plan(
        rows=chosen.rows,
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=chosen.batch_size,
        seed=chosen.seed,
        augment=chosen.augment,
        shuffle=chosen.shuffle,
        drop_last=chosen.drop_last,
        weights=chosen.weights,
        shard_starts=starts,
        numbers=chosen.numbers,
        window_shards=data.window_shards if windowed else 0,
        fit=fit,
        size=size,
    )
    return LoaderSpec(
        images=images,
        plan=plan,
        labels=labels,
        tasks=chosen.tasks,
        num_classes=tuple(len(packed.vocab.names(task)) for task in chosen.tasks),
        size=size,
        device=world.device,
        rank=world.rank,
        world_size=world.size,
        micro_batches=chosen.micro_batches,
        backend=data.backend,
        decoder=data.decoder,
        workers=data.workers or dist.cores_per_process(world.local_size),
        on_bad=data.on_bad,
        cache_dir=data.cache_dir,
        cache_bytes=int(data.cache_gb * 1e9),
    )


def in_order(spec: LoaderSpec, rows: np.ndarray, labels: np.ndarray) -> LoaderSpec:
    """The same images, batches and backend for other rows, whole and in their order: for validation."""
    plan = replace(spec.plan, rows=rows, augment=None, shuffle=None, weights=None, drop_last=False)
    return replace(spec, plan=plan, labels=labels, micro_batches=1)


def choose_images(packed: PackedSet, resolution: str, size: str, crop_pct: float = 1.0, min_side_px: int = 0) -> tuple[Resolution, Size]:
    """Resolve "auto": the input size, and the smallest packed resolution that is large enough for it, or for a crop of this share.

    An automatic size has the shape of the images (the median's), with the shorter side at most 224, and at least `min_side_px`.
    """
    wanted = None if size == "auto" else Size.parse(size)
    if resolution == "auto":
        short_px = (min(wanted.height_px, wanted.width_px) if wanted else MAX_AUTO_SHORT_PX) / crop_pct
        enough = [name for name in packed.resolutions if name.isdecimal() and int(name) >= round(short_px)]
        resolution = enough[0] if enough else packed.resolutions[-1]
    images = packed.open(resolution)
    if wanted:
        return images, wanted
    height, width = float(np.median(images.height_px)), float(np.median(images.width_px))
    scale = max(min(1.0, MAX_AUTO_SHORT_PX / min(height, width)), min_side_px / min(height, width))
    sides = [max(SIZE_STEP_PX, round(side * scale / SIZE_STEP_PX) * SIZE_STEP_PX) for side in (height, width)]
    return images, Size(*sides)
