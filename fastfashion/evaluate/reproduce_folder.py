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
    """Write `path`, which says what a folder of runs was begun with; raises ConfigError where that was something else."""
    images = {name: ids_hash(packed.table["id"].tolist()) for name, packed in sets.items()}
    if path.is_file():
        begun_heads, begun, known = _begun_with(json.loads(path.read_text(encoding="utf-8")))
        differ = {
            key: values for key, values in changes_that_count(changes(_spelled(begun), _spelled(config))).items() if key != "data.shards"
        }
        if begun_heads != heads:
            differ["labels of a model"] = (begun_heads or "its own", heads or "its own")
        if differ:
            listed = "; ".join(f"{key}: {before} there, {now} now" for key, (before, now) in differ.items())
            raise ConfigError(f"{path.parent}: begun with other settings ({listed}); name another --out, or use those settings")
        for name, ids in images.items():
            if known.get(name, ids) != ids:
                raise ConfigError(f"{path.parent}: begun with other {name} images than {sets[name].path} has; name another --out")
        images = known | images
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_json(path, {"heads": heads, "config": config.to_dict(), "ids_sha256": images})


def _spelled(config: RunConfig) -> RunConfig:
    """A size that is one number is a square of two."""
    return config if config.data.size == "auto" else config.replace({"data.size": str(Size.parse(config.data.size))})


def _begun_with(begun: Mapping[str, Any]) -> tuple[str, RunConfig, dict[str, str]]:
    """Heads, settings and images of a folder. Folders of older versions have the options as they were typed."""
    if "config" in begun:
        config = RunConfig.from_dict(begun["config"])
    else:
        given = dict(_settings_of(begun["train_options"]))
        first = {} if given.get("model.pretrained", True) else begun["from_scratch"]
        config = RunConfig(data=DataConfig(shards="")).replace(begun["settings"] | first | given)
    return begun["heads"], config, dict(begun.get("ids_sha256", {}))


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
