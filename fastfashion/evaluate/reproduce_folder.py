"""What must be the same for results to be in one table: the settings of their runs, and their images."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfashion.catalog import ids_hash
from fastfashion.config import DataConfig, RunConfig, Size, parse_settings
from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.runs.folder import changes, changes_that_count
from fastfashion.shards import PackedSet


def check_folder(path: Path, heads: str, config: RunConfig, sets: Mapping[str, PackedSet]) -> None:
    """Write `path`, which says what a folder of runs was started with; raises ConfigError where that was something else."""
    images = {name: ids_hash(packed.table["id"].tolist()) for name, packed in sets.items()}
    if path.is_file():
        heads_then, then, known = _started_with(json.loads(path.read_text(encoding="utf-8")))
        differ = {
            key: values for key, values in changes_that_count(changes(_spelled(then), _spelled(config))).items() if key != "data.shards"
        }
        if heads_then != heads:
            differ["labels of a model"] = (heads_then or "its own", heads or "its own")
        if differ:
            listed = "; ".join(f"{key}: {before} there, {now} now" for key, (before, now) in differ.items())
            raise ConfigError(f"{path.parent}: started with other settings ({listed}); name another --out, or use those settings")
        for name, ids in images.items():
            if known.get(name, ids) != ids:
                raise ConfigError(f"{path.parent}: started with other {name} images than {sets[name].path} has; name another --out")
        images = known | images
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_json(path, {"heads": heads, "config": config.to_dict(), "ids_sha256": images})


def _spelled(config: RunConfig) -> RunConfig:
    """A size that is one number is a square of two."""
    return config if config.data.size == "auto" else config.replace({"data.size": str(Size.parse(config.data.size))})


def _started_with(kept: Mapping[str, Any]) -> tuple[str, RunConfig, dict[str, str]]:
    """Heads, settings and images of a folder. Folders of older versions have the options as they were typed."""
    if "config" in kept:
        config = RunConfig.from_dict(kept["config"])
    else:
        given = dict(_settings_of(kept["train_options"]))
        first = {} if given.get("model.pretrained", True) else kept["from_scratch"]
        config = RunConfig(data=DataConfig(shards="")).replace(kept["settings"] | first | given)
    return kept["heads"], config, dict(kept.get("ids_sha256", {}))


def _settings_of(options: Sequence[str]) -> Iterator[tuple[str, Any]]:
    left = iter(options)
    for option in left:
        if option == "--no-pretrained":
            yield "model.pretrained", False
        elif option == "--epochs":
            yield "train.epochs", next(left)
        elif option == "--set":
            yield from parse_settings([next(left)]).items()
        else:  # --nproc: other processes take the same steps
            next(left, None)
