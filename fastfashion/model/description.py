"""What is written beside a run's weights, model.json: whose they are, and for which classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from fastfashion.catalog.styles import USABLE_LABEL
from fastfashion.config import Size
from fastfashion.errors import FastfashionError, InputError
from fastfashion.model.weights import DESCRIPTION, WEIGHTS, checksum, weights_file
from fastfashion.untrusted import Format, Sha256, parse_description, parse_json, read_limited

FORMAT = Format("fastfashion-model", oldest=2, newest=3, sealed=3)  # 2: with temperatures and flip_average; 3: with checksums
WAY_OUT = "put best/ back from a copy, or train again"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]
MAX_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What stands beside the weights: backbone, input size (HxW, RGB, 0 to 255), class names by task, mirrored or not."""

    model: Name
    size: str
    classes: dict[Name, list[str]]
    flip_average: bool
    channels_last: bool = True  # the memory layout in which it was trained; a few models fail in this one
    sha256: Sha256 | None = field(default=None, compare=False)  # of the weights' file; None in version 2

    def __post_init__(self) -> None:
        Size.parse(self.size)
        if not self.classes:
            raise ValueError("classes: expected a label, found none")
        for task, names in self.classes.items():
            if not USABLE_LABEL.fullmatch(task):  # files are named after it
                raise ValueError(f"classes: no name of a label: {task!r}")
            if not names or len(set(names)) != len(names):
                raise ValueError(f"classes of {task}: expected names, each once")


def read_description(folder: Path) -> ModelDescription:
    """That of best/. Raises InputError where it, or the file of weights beside it, is not what was written; OSError as `open`."""
    data = read_limited(folder / DESCRIPTION, MAX_BYTES)
    description = parse_description(data, FORMAT, ModelDescription, str(folder / DESCRIPTION), InputError, WAY_OUT)
    try:
        found = checksum(folder / WEIGHTS) if description.sha256 else None
    except (FastfashionError, OSError):
        raise
    except Exception as error:  # safetensors has errors of its own
        raise InputError(f"{folder}: not a readable model: {error}; {WAY_OUT}") from error
    if found != description.sha256:
        raise InputError(f"{folder / WEIGHTS}: damaged, or of another model: its checksum is not the one in {DESCRIPTION}; {WAY_OUT}")
    return description


def described(given: str) -> ModelDescription | None:
    """What --weights says of itself; None where it is no run's. Raises InputError where a run's description is damaged."""
    folder = weights_file(given).parent
    if not (folder / DESCRIPTION).is_file():
        return None
    if folder != Path(given) / "best":  # a folder of something else may have a file of that name
        try:
            head = parse_json(read_limited(folder / DESCRIPTION, MAX_BYTES), dict[str, object], "", InputError, "")
        except FastfashionError:
            return None
        if head.get("format") != FORMAT.name:
            return None
    return read_description(folder)
