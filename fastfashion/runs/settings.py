"""Which settings may differ when a run is resumed. Each is in one of three groups; a test demands that of new ones, too."""

from typing import Any

from fastfashion.config import RunConfig

# Free: they change where and how fast, not what is computed.
FREE = frozenset(
    {"data.shards", "data.backend", "data.workers", "data.on_bad", "data.cache_dir", "data.cache_gb"}
    | {"train.log_every_steps", "train.max_time", "train.checkpoint_every_steps", "train.checkpoint_every_minutes"}
    | {"train.keep_checkpoints", "train.keep_optimizer", "train.max_restarts", "train.timeout_s", "train.track"}
)
# Allowed by name: they change the result, but leave the checkpoint and the place in the data valid.
ALLOWED = frozenset(
    {"optim.lr", "optim.weight_decay", "optim.schedule", "optim.warmup_share", "optim.clip_norm", "optim.label_smoothing", "optim.fused"}
    | {"optim.task_weights", "model.dropout", "model.flip_average", "data.corrections"}
    | {"train.epochs", "train.precision", "train.select", "train.early_stop_epochs", "train.loss_spike", "train.deterministic"}
    | {"train.accumulate", "train.sync_bn", "train.compile", "train.cuda_graphs", "train.validate_every"}
    | {f"augment.{name}" for name in ("min_area", "max_stretch", "flip", "brightness", "contrast", "saturation", "hue", "grayscale")}
    | {"augment.erase", "augment.mixup", "augment.cutmix"}
)
# Fixed: another value would be another run. Its rows, their order, its tensors, or what it says of its first weights would not be true.
FIXED = frozenset(
    {"data.resolution", "data.size", "data.task", "data.split_by", "data.fold", "data.protocol", "data.split_seed", "data.oversample"}
    | {"data.shuffle", "data.window_shards", "model.name", "model.pretrained", "model.weights"}
    | {"optim.optimizer", "optim.ema_decay", "train.batch_size", "train.seed"}
)


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, with both values."""
    old, new = flat(before), flat(now)
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def changes_that_count(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {key: values for key, values in changed.items() if key not in FREE}


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings, as `section.key`."""
    return {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}
