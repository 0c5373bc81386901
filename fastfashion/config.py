"""The settings of a run: frozen, keyword-only dataclasses, checked when they are built, and recipes as named values.

A run's `config.json` is `RunConfig.to_dict()`: complete, nothing left to a default that could change later.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastfashion.errors import ConfigError

PROTOCOLS = ("stratified", "reference", "folds")
FOLDS = 5  # parts of the folds protocol
ALL, DEFAULT_TASK, DEFAULT_RECIPE = "all", "subCategory", "fast"
BACKENDS = ("auto", "dali", "threads", "resident")
SHUFFLES = ("epoch", "window")
ON_BAD = ("stop", "skip")
OPTIMIZERS = ("adamw", "adam", "sgd")  # sgd: Nesterov's momentum, 0.9
PRECISIONS = ("auto", "fp32", "bf16")
TRACKERS = ("wandb", "mlflow")
REMOVED = {"train.first_size": 1.0, "optim.logit_adjust": 0.0}  # an older config.json may hold them, at these values
BATCH_PIXELS = 1 << 28  # of a batch that is answered: 256 images of 1024x1024


def _check(ok: bool, what: str, expected: str, found: object) -> None:
    if not ok:
        raise ConfigError(f"{what}: expected {expected}, found {found!r}")


@dataclass(frozen=True)
class Size:
    """Height and width of the model's input, in pixels; written HxW."""

    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        _check(16 <= self.height_px <= 4096 and 16 <= self.width_px <= 4096, "size", "HxW, each 16 to 4096 pixels", str(self))

    def __str__(self) -> str:
        return f"{self.height_px}x{self.width_px}"

    def batch(self, wanted: int) -> int:
        """Up to `wanted` images, no more than BATCH_PIXELS together: a run says which size its images have."""
        return max(1, min(wanted, BATCH_PIXELS // (self.height_px * self.width_px)))

    @classmethod
    def parse(cls, text: str) -> "Size":
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip())
        if match is None:
            raise ConfigError(f"size: expected HxW such as 80x64, or one number for a square, found {text!r}")
        return cls(int(match[1]), int(match[2] or match[1]))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, in which shape, split how, fed by what."""

    shards: str
    resolution: str = "auto"
    size: str = "auto"
    task: str = "subCategory"  # one label, several with commas between, or "all": one head each
    split_by: str = ""  # labels whose own splits are kept: no row of their val and test parts trains; subCategory or the first by default
    fold: int = 0  # of the folds protocol: which of its FOLDS parts is tested
    oversample: float = 0.0  # rows of classes rarer than this share, in the first of split_by, stand sqrt(this / share) times in an epoch
    corrections: str = ""  # CSV of labels to put right: id, task, label
    protocol: str = "stratified"
    split_seed: int = 0  # of the stratified protocol; apart from train.seed, so that several seeds share one split
    backend: str = "auto"
    workers: int = 0  # loader threads a process; 0: all cores of the machine shared among its processes
    shuffle: str = "epoch"  # a permutation of all rows; "window": of shards, then of the rows inside a window of shards
    window_shards: int = 16
    on_bad: str = "stop"  # at an image that does not decode; "skip": leave it out, count it, list it
    cache_dir: str = ""  # where shards of sets on object storage are kept, of all of them; a folder of the user's cache by default
    cache_gb: float = 100.0  # its limit, in 10^9 bytes, for all sets together

    def __post_init__(self) -> None:
        _check(self.protocol in PROTOCOLS, "data.protocol", " or ".join(PROTOCOLS), self.protocol)
        _check(self.backend in BACKENDS, "data.backend", " or ".join(BACKENDS), self.backend)
        _check(0 <= self.workers <= 1024, "data.workers", "0 (automatic) to 1024", self.workers)
        _check(self.shuffle in SHUFFLES, "data.shuffle", " or ".join(SHUFFLES), self.shuffle)
        _check(self.window_shards >= 1, "data.window_shards", "1 or more", self.window_shards)
        _check(self.on_bad in ON_BAD, "data.on_bad", " or ".join(ON_BAD), self.on_bad)
        _check(0 <= self.fold < FOLDS, "data.fold", f"0 to {FOLDS - 1}", self.fold)
        _check(0 <= self.oversample < 1, "data.oversample", "0 (off) to below 1", self.oversample)
        _check(len(set(self.tasks)) == len(self.tasks) > 0, "data.task", "labels, each once, with commas between", self.task)
        _check(self.cache_gb > 0, "data.cache_gb", "above 0", self.cache_gb)
        if self.size != "auto":
            Size.parse(self.size)

    @property
    def protocol_seed(self) -> int:
        """What the protocol is asked for: a seed, or the fold."""
        return self.fold if self.protocol == "folds" else self.split_seed

    @property
    def tasks(self) -> tuple[str, ...]:
        return _names(self.task)

    @property
    def split_tasks(self) -> tuple[str, ...]:
        """Labels whose own splits are kept. Tasks among them are tested on their own split's rows, others on the first one's."""
        return _names(self.split_by) or ((DEFAULT_TASK,) if DEFAULT_TASK in self.tasks else self.tasks[:1])


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to a training image at random; all of it is part of the epoch plan. 0 switches a thing off."""

    min_area: float = 0.6  # smallest crop, as a share of the image
    max_stretch: float = 1.2  # largest change of the crop's aspect ratio against the image's own
    flip: float = 0.5  # probability of a horizontal flip
    brightness: float = 0.0  # times a factor uniform in [1 - brightness, 1 + brightness]; contrast and saturation likewise
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # turned by a share of the circle uniform in [-hue, hue]
    grayscale: float = 0.0  # probability
    erase: float = 0.0  # probability that a box is painted over
    mixup: float = 0.0  # alpha of Beta(alpha, alpha), the share of the own image
    cutmix: float = 0.0  # the same; with both, each pair of images draws one of them

    def __post_init__(self) -> None:
        _check(0 < self.min_area <= 1, "augment.min_area", "above 0, at most 1", self.min_area)
        _check(1 <= self.max_stretch <= 4, "augment.max_stretch", "1 to 4", self.max_stretch)
        for name in ("flip", "brightness", "contrast", "saturation", "grayscale", "erase"):
            _check(0 <= getattr(self, name) <= 1, f"augment.{name}", "0 to 1", getattr(self, name))
        _check(0 <= self.hue <= 0.5, "augment.hue", "0 to 0.5", self.hue)
        for name in ("mixup", "cutmix"):
            _check(0 <= getattr(self, name) <= 10, f"augment.{name}", "0 (off) to 10", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The timm backbone and where its first weights come from."""

    name: str = "resnet18"
    pretrained: bool = True
    weights: str = ""  # a .safetensors, .pth or .bin file, or a run's folder, instead of the Hub
    dropout: float = 0.0
    flip_average: bool = True  # answer with the mean over an image and its mirror image; training does not change

    def __post_init__(self) -> None:
        _check(0 <= self.dropout < 1, "model.dropout", "0 to below 1", self.dropout)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, Adam or SGD with linear warm-up and cosine decay to zero, gradient clipping, and an average of the weights."""

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_share: float = 0.05  # of all steps
    clip_norm: float = 1.0  # 0 switches clipping off
    ema_decay: float = 0.999  # 0 switches the average off
    label_smoothing: float = 0.0
    task_weights: str = ""  # such as season=0.5,gender=0.5; the others count 1
    fused: bool = True  # one kernel for all weights, instead of one for each operation

    def __post_init__(self) -> None:
        _check(self.optimizer in OPTIMIZERS, "optim.optimizer", " or ".join(OPTIMIZERS), self.optimizer)
        _check(self.lr > 0 and math.isfinite(self.lr), "optim.lr", "above 0", self.lr)
        _check(self.weight_decay >= 0, "optim.weight_decay", "0 or more", self.weight_decay)
        _check(self.schedule in ("cosine", "constant"), "optim.schedule", "cosine or constant", self.schedule)
        _check(0 <= self.warmup_share < 1, "optim.warmup_share", "0 to below 1", self.warmup_share)
        _check(self.clip_norm >= 0, "optim.clip_norm", "0 (off) or more", self.clip_norm)
        _check(0 <= self.ema_decay < 1, "optim.ema_decay", "0 (off) to below 1", self.ema_decay)
        _check(all(weight >= 0 for weight in self.weights.values()), "optim.task_weights", "0 or more each", self.task_weights)
        _check(0 <= self.label_smoothing < 1, "optim.label_smoothing", "0 to below 1", self.label_smoothing)

    @property
    def weights(self) -> dict[str, float]:
        """Those that are set, by task; raises ConfigError where they are not task=number."""
        try:
            return {task.strip(): float(weight) for task, weight in (part.split("=") for part in _names(self.task_weights))}
        except ValueError:
            raise ConfigError(f"optim.task_weights: expected task=weight with commas between, found {self.task_weights!r}") from None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in which portions, what is kept, and when to stop early."""

    epochs: int = 10
    batch_size: int = 128  # global: over all processes
    accumulate: int = 1  # portions that a process takes its share of a batch in, one after the other, for less memory
    seed: int = 0
    precision: str = "auto"  # bf16 autocast on CUDA, fp32 on CPU
    deterministic: bool = False  # bit for bit the same on the same machine and number of processes; slower on a GPU
    sync_bn: bool = False  # batch norm over the whole batch of all processes instead of each one's share
    compile: bool = False  # torch.compile
    cuda_graphs: bool = False  # torch.compile that records the GPU's work once and replays it; needs CUDA
    log_every_steps: int = 20
    validate_every: int = 1  # epochs; the last one is always validated
    select: str = "accuracy"  # metric that decides which epoch is the best, over labels as the loss weighs them: accuracy, macro_f1, "last"
    early_stop_epochs: int = 0  # stop after so many epochs without a new best; 0: never
    loss_spike: float = 3.0  # stop where a step's loss is so many times its running mean and what guessing costs; 0: never
    max_time: str = ""  # stop, with a checkpoint, after such a time of this start: 30s, 90m, 1h30m
    checkpoint_every_steps: int = 0  # besides the ends of epochs; 0: by time alone
    checkpoint_every_minutes: float = 10.0  # 0: not by time
    keep_checkpoints: int = 2  # the last ones, while training; the best one is always kept
    keep_optimizer: bool = True  # a finished run keeps its last checkpoint, with which it can be lengthened; the weights stay anyway
    max_restarts: int = 3  # with --nproc: how often all processes are started again where one dies
    timeout_s: float = 600.0  # how long a process waits for the others
    track: str = ""  # wandb, mlflow, or both with a comma between

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "validate_every", "log_every_steps", "keep_checkpoints"):
            _check(getattr(self, name) >= 1, f"train.{name}", "1 or more", getattr(self, name))
        for name in ("early_stop_epochs", "max_restarts", "loss_spike", "checkpoint_every_steps", "checkpoint_every_minutes"):
            _check(getattr(self, name) >= 0, f"train.{name}", "0 (off) or more", getattr(self, name))
        _check(0 <= self.seed < 2**63, "train.seed", "0 to 2^63 - 1", self.seed)
        _check(self.precision in PRECISIONS, "train.precision", " or ".join(PRECISIONS), self.precision)
        _check(self.select in ("accuracy", "macro_f1", "last"), "train.select", "accuracy, macro_f1 or last", self.select)
        _check(self.timeout_s >= 1, "train.timeout_s", "1 or more seconds", self.timeout_s)
        _check(set(self.trackers) <= set(TRACKERS), "train.track", " or ".join(TRACKERS), self.track)
        parse_duration(self.max_time)

    @property
    def trackers(self) -> tuple[str, ...]:
        return _names(self.track)


def _names(text: str) -> tuple[str, ...]:
    """The names in a text, commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_duration(text: str) -> float:
    """Seconds in a text such as 45s, 90m or 1h30m; infinite where it is empty. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    _check(match is not None, "train.max_time", "hours, minutes and seconds such as 45s, 90m or 1h30m", text)
    assert match is not None
    hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return hours * 3600 + minutes * 60 + seconds if text else math.inf


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a training run computes."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "RunConfig":
        """Build from nested plain values; raises ConfigError on an unknown or ill-typed key."""
        flat = {f"{section}.{key}": value for section, entries in values.items() for key, value in entries.items()}
        return cls(data=DataConfig(shards=str(flat.pop("data.shards", "")))).replace(flat)

    def with_recipe(self, name: str, settings: Mapping[str, Any]) -> "RunConfig":
        """A copy with a named recipe and, on top of it, `settings`; where first weights are random, with what FROM_SCRATCH has between.

        Raises ConfigError where there is no such recipe, and as `replace`.
        """
        config = self.replace({**recipe(name), **settings})
        if config.model.pretrained or config.model.weights:
            return config
        return self.replace({**recipe(name), **FROM_SCRATCH.get(name, {}), **settings})

    def replace(self, settings: Mapping[str, Any]) -> "RunConfig":
        """A copy with `{"section.key": value}` replaced; values may be text. Raises ConfigError on an unknown or ill-typed key."""
        sections = {f.name: f.type for f in dataclasses.fields(self)}
        changes: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            if key in REMOVED:
                _check(_cast(key, float, value) == REMOVED[key], key, f"{REMOVED[key]:g}, since this setting was removed", value)
                continue
            section, _, name = key.partition(".")
            known = {f.name: f.type for f in dataclasses.fields(sections[section])} if section in sections else {}  # type: ignore[arg-type]
            if name not in known:
                choices = [f"{section}.{n}" for n in known] or list(sections)
                raise ConfigError(f"unknown setting {key!r}: expected section.key=value; there are {', '.join(choices)}")
            changes.setdefault(section, {})[name] = _cast(key, known[name], value)
        return dataclasses.replace(self, **{s: dataclasses.replace(getattr(self, s), **entries) for s, entries in changes.items()})


def _cast(key: str, kind: Any, value: Any) -> Any:
    """Turn text or a JSON value into the type of a field, or raise ConfigError."""
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        found = kind(value)
        most = 2**63 if kind is int else math.inf
        if kind is not str and (isinstance(value, bool) or not -most < found < most or (isinstance(value, float) and found != value)):
            raise ValueError  # no number, one without end, or half of one; nan is in no range
        return found
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key}: expected {getattr(kind, '__name__', kind)}, found {value!r}") from None


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Split the `section.key=value` of `--set`."""
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}: expected section.key=value, for example --set optim.lr=0.0005")
        settings[key.strip()] = value.strip()
    return settings


# Recipes are differences from the defaults above, each value with its reason; what was measured stands in bench/LOG.md, "Recipes".
RECIPES: dict[str, dict[str, Any]] = {
    # Good accuracy a minute. Batches of 64: twice as many steps as 128 take nearly the same time, and after so few epochs more
    # steps tell most. Hardly any crop, since the product fills the image, and rare classes more often. Where several labels are
    # learned, most weight is on what a product is, and little on baseColour and usage, which weighted alike make up nearly half of the
    # loss. On validation rows of ResNet18 from random weights the five other labels gained 0.001 to 0.010 of accuracy each by crops and
    # weights together, usage 0.001, and baseColour lost 0.026; optim.task_weights= weighs all alike.
    "fast": {
        "train.epochs": 12,
        "train.batch_size": 64,
        "augment.min_area": 0.97,
        "augment.max_stretch": 1.1,
        "data.oversample": 0.002,
        "optim.task_weights": "subCategory=2.5,articleType=2,masterCategory=2,gender=1.5,baseColour=0.5,usage=0.5",
    },
    # Accuracy at any price: twice as long, and with mixup, without which the losses on validation rows ended at 2.84 instead of 2.57.
    # Of four runs with crops of at least 60 or 85 %, with mixup or without (ResNet18, random weights, small images at 160x128) it was
    # ahead in the mean accuracy of subCategory, masterCategory and season, by less than seeds differ, and in the macro F1 of each.
    "best": {
        "train.epochs": 24,
        "train.batch_size": 64,
        "augment.min_area": 0.85,
        "augment.mixup": 0.2,
        "data.oversample": 0.002,
    },
    # The reference project's own: pretrained, squashed 224, no augmentation, Adam 1e-4, batch 16, 10 epochs, last weights.
    "reference": {
        "data.protocol": "reference",
        "data.size": "224x224",
        "model.flip_average": False,
        "augment.min_area": 1.0,
        "augment.max_stretch": 1.0,
        "augment.flip": 0.0,
        "optim.optimizer": "adam",
        "optim.lr": 1e-4,
        "optim.weight_decay": 0.0,
        "optim.schedule": "constant",
        "optim.warmup_share": 0.0,
        "optim.clip_norm": 0.0,
        "optim.ema_decay": 0.0,
        "train.batch_size": 16,
        "train.epochs": 10,
        "train.select": "last",
        "train.precision": "fp32",
    },
}

# What a recipe has besides where first weights are random: a higher rate, warmed up for longer, and a decay that matters in a few
# thousand steps (measured with fast and ResNet18 alone). Pretrained weights keep the defaults: no other values were measured for them.
FROM_SCRATCH: dict[str, dict[str, Any]] = {
    name: {"optim.lr": 4e-3, "optim.weight_decay": 0.15, "optim.warmup_share": 0.25} for name in ("fast", "best")
}


def recipe(name: str) -> dict[str, Any]:
    """The settings of a named recipe; raises ConfigError where there is none."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]
