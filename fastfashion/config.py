"""The settings of a run: frozen, keyword-only dataclasses, checked when they are built.

A field says name, type, default, help, limits, and whether it may change when a run is resumed; docs/settings.md is made from them.
A run's `config.json` is `RunConfig.to_dict()`: complete, nothing left to a default that could change later.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastfashion.errors import ConfigError
from fastfashion.fields import Change, Option, cast, check, options_of, setting
from fastfashion.recipes import FROM_SCRATCH, FROZEN, recipe

PROTOCOLS = ("stratified", "reference", "folds", "file", "column")
FOLDS = 5  # parts of the folds protocol
ALL, DEFAULT_TASK, DEFAULT_RECIPE = "all", "subCategory", "fast"
FITS = ("squash", "crop", "pad")
DEFAULT_PAD_COLOR = "124,116,104"  # ImageNet's mean, which the backbones' normalisation makes 0: what convolutions pad with
BACKENDS = ("auto", "dali", "threads", "resident")
DECODERS = ("own", "turbo")
OPTIMIZERS = ("adamw", "adam", "sgd")
PRECISIONS = ("auto", "fp32", "bf16")
TRACKERS = ("wandb", "mlflow")
REMOVED = {"train.first_size": 1.0, "optim.logit_adjust": 0.0}  # an older config.json may hold them, at these values
BATCH_PIXELS = 1 << 28  # of a batch that is answered: 256 images of 1024x1024
FREE, ALLOWED, FIXED = Change.FREE, Change.ALLOWED, Change.FIXED


def _require(ok: bool, what: str, expected: str, found: object) -> None:
    if not ok:
        raise ConfigError(f"{what}: expected {expected}, found {found!r}")


@dataclass(frozen=True)
class Size:
    """Height and width of the model's input, in pixels; written HxW."""

    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        _require(16 <= self.height_px <= 4096 and 16 <= self.width_px <= 4096, "size", "HxW, each 16 to 4096 pixels", str(self))

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


class _Section:
    """A section of RunConfig, whose fields are checked against their limits."""

    def __post_init__(self) -> None:
        check(self, lambda name, _: f"{type(self).__name__.removesuffix('Config').lower()}.{name}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Section):
    """Which images, in which shape, split how, loaded how."""

    shards: str = setting("", "Folder or address of the packed set.", FREE)
    resolution: str = setting("auto", "Packed resolution to read; auto: the smallest that is large enough.")
    size: str = setting("auto", "Input size of the model, HxW in pixels, such as 80x64; auto: from the images' shape.")
    min_side_px: int = setting(0, "With size auto: enlarge images whose shorter side is below this.", least=0, most=1024)
    fit: str = setting("squash", "Fit images to data.size: squash (stretch), crop (cut to its shape) or pad (letterbox).", choices=FITS)
    crop_pct: float = setting(1.0, "Share of the sides that evaluation with fit crop keeps; ImageNet's is 0.875.", above=0, most=1)
    pad_color: str = setting(DEFAULT_PAD_COLOR, "Colour around images with fit pad: R,G,B or one grey level, 0 to 255.")
    task: str = setting("subCategory", "Label to predict, or several separated by commas, or all.")
    split_by: str = setting("", "Tasks that keep their own splits, separated by commas; default: subCategory or the first task.")
    fold: int = setting(0, "Part to test with the folds protocol.", least=0, below=FOLDS)
    oversample: float = setting(
        0.0, "Oversample: repeat rows of classes below this share sqrt(this / share) times per epoch; 0: off.", least=0, below=1
    )
    corrections: str = setting("", "CSV of id, task, label with labels to correct.", ALLOWED)
    protocol: str = setting("stratified", "How to split: stratified (default), reference, folds, file or column.", choices=PROTOCOLS)
    split_file: str = setting("", "CSV or Parquet of id and split, for the file protocol.")
    split_column: str = setting("", "Column of the table that names each row's part, for the column protocol.")
    where: str = setting("", "Use only rows that meet a condition, such as: gender == 'Women' and year >= 2012.")
    classes: str = setting("", "Use only the classes in this CSV of task, class (or JSON).")
    class_map: str = setting("", "Rename, merge or drop classes by this CSV of task, class, to (or JSON).")
    min_class_size: int = setting(0, "Leave out classes of fewer rows than this.", least=0)
    split_seed: int = setting(0, "Seed of the stratified protocol; several train.seed can share one split.")
    backend: str = setting("auto", "Loader backend; auto: dali on a GPU, threads without one.", FREE, choices=BACKENDS)
    decoder: str = setting("own", "Decoder of plain JPEGs on the CPU: own, or turbo (libjpeg-turbo); not for dali.", FREE, choices=DECODERS)
    workers: int = setting(0, "Loader threads per process; 0: its share of the cores.", FREE, least=0, most=1024)
    shuffle: str = setting("epoch", "epoch: permute all rows; window: permute shards, then rows in a window.", choices=("epoch", "window"))
    window_shards: int = setting(16, "Shards in a window.", least=1)
    on_bad: str = setting("stop", "On a decode error: stop, or skip (count and list the image).", FREE, choices=("stop", "skip"))
    cache_dir: str = setting("", "Folder for shards from object storage, and seek tables; default: a folder in the user's cache.", FREE)
    cache_gb: float = setting(100.0, "Size limit of shards in data.cache_dir, in 10^9 bytes, for all sets together.", FREE, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(len(set(self.tasks)) == len(self.tasks) > 0, "data.task", "labels, each once, with commas between", self.task)
        if self.size != "auto":
            Size.parse(self.size)
        parse_color(self.pad_color)
        for protocol, name, given in (("file", "split_file", self.split_file), ("column", "split_column", self.split_column)):
            if (self.protocol == protocol) != bool(given):
                verb = "a value with" if self.protocol == protocol else "none without"
                raise ConfigError(f"data.{name}: expected {verb} data.protocol={protocol}, found {given!r}")

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
class AugmentConfig(_Section):
    """Random changes of a training image, all of them part of the epoch plan. 0 switches one off."""

    min_area: float = setting(0.6, "Smallest crop, as a share of the image; with fit crop, of the largest crop.", ALLOWED, above=0, most=1)
    max_stretch: float = setting(1.2, "Largest change of the crop's aspect ratio.", ALLOWED, least=1, most=4)
    flip: float = setting(0.5, "Probability of a horizontal flip.", ALLOWED, least=0, most=1)
    brightness: float = setting(0.0, "Change brightness by a factor in 1 ± this.", ALLOWED, least=0, most=1)
    contrast: float = setting(0.0, "Change contrast by a factor in 1 ± this.", ALLOWED, least=0, most=1)
    saturation: float = setting(0.0, "Change saturation by a factor in 1 ± this.", ALLOWED, least=0, most=1)
    hue: float = setting(0.0, "Turn the hue by up to this share of the circle.", ALLOWED, least=0, most=0.5)
    grayscale: float = setting(0.0, "Probability of a grayscale image.", ALLOWED, least=0, most=1)
    erase: float = setting(0.0, "Probability of erasing a random box.", ALLOWED, least=0, most=1)
    mixup: float = setting(0.0, "Mix images in pairs, in shares from Beta(this, this); 0: off.", ALLOWED, least=0, most=10)
    cutmix: float = setting(0.0, "The same for CutMix; if both are on, each pair draws one of them.", ALLOWED, least=0, most=10)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Section):
    """The timm backbone and its first weights."""

    name: str = setting("resnet18", "Any timm model.")
    pretrained: bool = setting(True, "Start from ImageNet weights.")
    weights: str = setting("", "Start from this .safetensors, .pth or .bin file or run's folder instead.")
    freeze: bool = setting(False, "Keep the backbone as it is and train the heads alone, on features computed once (linear probe).")
    layer_decay: float = setting(1.0, "Multiply the learning rate by this for each layer down from the heads.", ALLOWED, above=0, most=1)
    dropout: float = setting(0.0, "Dropout before the heads.", ALLOWED, least=0, below=1)
    flip_average: bool = setting(True, "Average the answers for an image and its mirror image; training is unchanged.", ALLOWED)


@dataclass(frozen=True, kw_only=True)
class OptimConfig(_Section):
    """Optimizer, schedule with linear warm-up, gradient clipping, and an average of the weights."""

    optimizer: str = setting("adamw", "adamw, adam, or sgd with Nesterov momentum 0.9.", choices=OPTIMIZERS)
    lr: float = setting(1e-3, "Peak learning rate.", ALLOWED, above=0)
    weight_decay: float = setting(0.05, "Weight decay.", ALLOWED, least=0)
    schedule: str = setting("cosine", "After the warm-up: cosine decay to zero, or constant.", ALLOWED, choices=("cosine", "constant"))
    warmup_share: float = setting(0.05, "Share of all steps used for warm-up.", ALLOWED, least=0, below=1)
    clip_norm: float = setting(1.0, "Clip the gradient to this norm; 0: no clipping.", ALLOWED, least=0)
    ema_decay: float = setting(0.999, "Decay of the moving average of the weights; 0: no average.", least=0, below=1)
    label_smoothing: float = setting(0.0, "Label smoothing.", ALLOWED, least=0, below=1)
    task_weights: str = setting("", "Weights of tasks in the loss, such as season=0.5,gender=0.5; default: 1 each.", ALLOWED)
    fused: bool = setting(True, "Update all weights in one kernel.", ALLOWED)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(math.isfinite(self.lr), "optim.lr", "above 0", self.lr)
        _require(all(weight >= 0 for weight in self.weights.values()), "optim.task_weights", "0 or more each", self.task_weights)

    @property
    def weights(self) -> dict[str, float]:
        """Those that are set, by task; raises ConfigError if they are not task=number."""
        try:
            return {task.strip(): float(weight) for task, weight in (part.split("=") for part in _names(self.task_weights))}
        except ValueError:
            raise ConfigError(f"optim.task_weights: expected task=weight with commas between, found {self.task_weights!r}") from None


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Section):
    """How long, in which batches, what is kept, and when to stop early."""

    epochs: int = setting(10, "Epochs to train.", ALLOWED, least=1)
    batch_size: int = setting(128, "Images per step, over all processes.", least=1)
    accumulate: int = setting(1, "Micro-batches per step, run one after the other to save memory.", ALLOWED, least=1)
    seed: int = setting(0, "Seed of initial weights, order and augmentation.", least=0, below=2**63)
    precision: str = setting("auto", "auto: bf16 autocast on CUDA, fp32 on the CPU.", ALLOWED, choices=PRECISIONS)
    deterministic: bool = setting(False, "Compute the same bits on the same machine and number of processes; slower on a GPU.", ALLOWED)
    sync_bn: bool = setting(False, "Synchronise batch norm over all processes.", ALLOWED)
    compile: bool = setting(False, "Use torch.compile.", ALLOWED)
    cuda_graphs: bool = setting(False, "Record the GPU's work once and replay it (torch.compile); needs CUDA.", ALLOWED)
    log_every_steps: int = setting(20, "Steps between log lines.", FREE, least=1)
    validate_every: int = setting(1, "Epochs between validations; the last one is always validated.", ALLOWED, least=1)
    select: str = setting(
        "accuracy",
        "Validation metric that picks the epoch to keep; last: the last.",
        ALLOWED,
        choices=("accuracy", "macro_f1", "last"),
    )
    early_stop_epochs: int = setting(0, "Stop after this many epochs without a new best; 0: never.", ALLOWED, least=0)
    loss_spike: float = setting(3.0, "Stop if the loss is this many times its mean and that of guessing; 0: never.", ALLOWED, least=0)
    max_time: str = setting("", "Save a checkpoint and stop after this time: 30s, 90m, 1h30m.", FREE)
    checkpoint_every_steps: int = setting(0, "Steps between checkpoints within an epoch; 0: by time alone.", FREE, least=0)
    checkpoint_every_minutes: float = setting(10.0, "Minutes between checkpoints; 0: not by time.", FREE, least=0)
    keep_checkpoints: int = setting(2, "Checkpoints to keep while training; the best one is always kept.", FREE, least=1)
    keep_optimizer: bool = setting(True, "Keep the last checkpoint of a finished run, so that it can train further.", FREE)
    max_restarts: int = setting(3, "Restart all processes up to this many times after one has died, with --nproc.", FREE, least=0)
    timeout_s: float = setting(600.0, "Seconds to wait for the other processes.", FREE, least=1)
    track: str = setting("", "Also log to wandb, mlflow, or both separated by a comma.", FREE)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(set(self.trackers) <= set(TRACKERS), "train.track", " or ".join(TRACKERS), self.track)
        parse_duration(self.max_time)

    @property
    def trackers(self) -> tuple[str, ...]:
        return _names(self.track)


def _names(text: str) -> tuple[str, ...]:
    """The names in a text, commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_color(text: str) -> tuple[int, int, int]:
    """RGB in grey levels of a text such as 255 or 124,116,104. Raises ConfigError for anything else."""
    levels = [int(level) if re.fullmatch(r"\s*\d{1,3}\s*", level) else 256 for level in text.split(",")]
    _require(len(levels) in (1, 3) and max(levels) <= 255, "data.pad_color", "R,G,B or one number, each 0 to 255", text)
    red, green, blue = levels if len(levels) == 3 else levels * 3
    return red, green, blue


def parse_duration(text: str) -> float:
    """Seconds in a text such as 45s, 90m or 1h30m; infinite if it is empty. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    _require(match is not None, "train.max_time", "hours, minutes and seconds such as 45s, 90m or 1h30m", text)
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
        return cls(data=DataConfig()).replace(flat)

    def with_recipe(self, name: str, settings: Mapping[str, Any]) -> "RunConfig":
        """A copy with a named recipe and, on top of it, `settings`; random first weights add FROM_SCRATCH in between, model.freeze FROZEN.

        From trained first weights fast is finetune. Raises ConfigError if there is no such recipe, for finetune from random weights, and
        as `replace`.
        """
        first = self.replace({**recipe(name), **settings}).model
        trained = first.pretrained or bool(first.weights)
        if name == "finetune" and not trained:
            raise ConfigError("recipe finetune: expected trained first weights, found random ones; use fast, or leave --no-pretrained out")
        name = "finetune" if name == DEFAULT_RECIPE and trained else name
        more = {} if trained else FROM_SCRATCH.get(name, {})
        more = more | (FROZEN if first.freeze and name != "reference" else {})
        return self.replace({**recipe(name), **more, **settings})

    def replace(self, settings: Mapping[str, Any]) -> "RunConfig":
        """A copy with `{"section.key": value}` replaced; values may be text. Raises ConfigError on an unknown or ill-typed key."""
        sections = {f.name: options_of(f.type) for f in dataclasses.fields(self)}
        changes: dict[str, dict[str, Any]] = {}
        for key, value in settings.items():
            if key in REMOVED:
                _require(cast(key, float, value) == REMOVED[key], key, f"{REMOVED[key]:g}, since this setting was removed", value)
                continue
            section, _, name = key.partition(".")
            known = sections.get(section, {})
            if name not in known:
                choices = [f"{section}.{n}" for n in known] or list(sections)
                raise ConfigError(f"unknown setting {key!r}: expected section.key=value; there are {', '.join(choices)}")
            changes.setdefault(section, {})[name] = cast(key, known[name][0].type, value)
        return dataclasses.replace(self, **{s: dataclasses.replace(getattr(self, s), **entries) for s, entries in changes.items()})


def settings() -> Iterator[tuple[str, "dataclasses.Field[Any]", Option]]:
    """(section.key, field, what is declared of it) of every setting."""
    for section in dataclasses.fields(RunConfig):
        for name, (each, about) in options_of(section.type).items():
            yield f"{section.name}.{name}", each, about


def changeable(*changes: Change) -> frozenset[str]:
    """The settings that are one of these when a run is resumed."""
    return frozenset(key for key, _, about in settings() if about.change in changes)


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Split the `section.key=value` of `--set`."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}: expected section.key=value, for example --set optim.lr=0.0005")
        found[key.strip()] = value.strip()
    return found
