"""Arguments of the Python API: what may be handed over, and how errors name it.

Errors are written in the words of the command line; in the API they say arguments instead of flags:

    "choose another --out"  ─►  "choose another out"        "--on-bad skip"  ─►  'settings={"data.on_bad": "skip"}'

A whole command (`fastfashion verify SET --repair`) stays one: it is for a shell.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.files import location

P = ParamSpec("P")
R = TypeVar("R")

# Flags of `train` that are no arguments of the API, but settings.
SETTINGS = {
    "corrections": "data.corrections",
    "keep-optimizer": "train.keep_optimizer",
    "max-time": "train.max_time",
    "on-bad": "data.on_bad",
    "protocol": "data.protocol",
    "seed": "train.seed",
    "split-by": "data.split_by",
    "sync-bn": "train.sync_bn",
    "weights": "model.weights",
    "workers": "data.workers",
}
_CHOICES = {"auto", "folds", "hub", "must", "never", "no", "onnx", "reference", "skip", "space", "stop", "stratified", "unseen"}
_COMMAND = re.compile(r"(?:fastfashion [a-z][a-z-]*|torchrun|ray start|pip install|curl)\b.*?(?=[,;)\n]|:(?:\s|$)| or |$)")
_ALLOWED = r"--allow-config-change [a-z_]+\.[a-z0-9_]+"
_FLAG = re.compile(
    r"--set (?P<key>[a-z_]+\.[a-z0-9_]+)(?:=(?P<set>…|[^\s,;:)]*[^\s,;:).]))?"
    r"|--(?P<flag>[a-z][a-z0-9-]*[a-z0-9])(?:[ =](?!-)(?P<value>'[^']*'|[^\s,;:)]*[^\s,;:).]))?"
)


def embedded(function: Callable[P, R]) -> Callable[P, R]:
    """A function for somebody else's program: errors name its arguments, and torch's generators are left as they were."""
    names = inspect.signature(function).parameters
    computes = function.__name__ not in ("synth", "shard", "open_packed_set", "compare")  # with torch

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with errors_say_arguments(names), _generators_kept() if computes else nullcontext():
            return function(*args, **kwargs)

    return call


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Building a model draws from torch's global generators."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


class EmbeddedLoader:
    """A loader whose errors name arguments."""

    def __init__(self, loader: Any, names: Collection[str]) -> None:
        self._loader, self._names = loader, names
        self.num_steps: int = loader.num_steps
        self.skipped: dict[int, Any] = loader.skipped

    def steps(self, epoch: int, start: int = 0) -> Iterator[Any]:
        with errors_say_arguments(self._names):
            yield from self._loader.steps(epoch, start)

    def close(self) -> None:
        self._loader.close()


def place_of(place: Any) -> Path:
    """Where something is that was named, or opened by `open_packed_set`; raises ConfigError for anything else."""
    if isinstance(place, str):
        return location(place)
    if isinstance(place, Path) or hasattr(place, "fs"):  # a UPath
        return place
    if hasattr(place, "vocab") and hasattr(place, "path"):
        return place.path
    raise ConfigError(f"expected a path, an address or an opened packed set, found {type(place).__name__}")


def names_of(names: str | Iterable[str]) -> tuple[str, ...]:
    """Several names, which may be one text with commas, as on the command line; a text is never taken for its letters."""
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else tuple(names)


def run_of(run: Any, shards: Any = None) -> tuple[Path, Path | None]:
    """The folder of a run that was named, opened by `open_run` or returned by `train_run`; and its packed set, where known."""
    folder = run
    if isinstance(run, Mapping):
        folder = run.get("run")
    elif hasattr(run, "packed") and hasattr(run, "path"):
        folder, shards = run.path, run.packed if shards is None else shards
    if not isinstance(folder, str | Path):
        raise ConfigError(f"run: expected the folder of a run, or what open_run or train_run returned, found {type(run).__name__}")
    return Path(folder), None if shards is None else place_of(shards)


@contextmanager
def errors_say_arguments(names: Collection[str]) -> Iterator[None]:
    """Within it, FastfashionErrors name the arguments `names` of a function, and settings, where they were written with flags."""
    try:
        yield
    except FastfashionError as error:
        error.args = tuple(in_arguments(part, names) if isinstance(part, str) else part for part in error.args)
        raise


def in_arguments(message: str, names: Collection[str]) -> str:
    """A message in the words of a function that has the arguments `names`."""
    parts, at = [], 0
    for command in _COMMAND.finditer(message):
        parts += [_outside_commands(message[at : command.start()], names), command[0]]
        at = command.end()
    return "".join([*parts, _outside_commands(message[at:], names)])


def _outside_commands(text: str, names: Collection[str]) -> str:
    def allowed(found: re.Match[str]) -> str:
        return f"allow_config_change={re.findall(r'--allow-config-change ([^ ,;:)]+)', found[0])}"

    text = re.sub(rf"{_ALLOWED}(?: {_ALLOWED})*", allowed, text)
    return _FLAG.sub(lambda found: _said(found, names), text)


def _said(found: re.Match[str], names: Collection[str]) -> str:
    """One flag, with its value where it has one."""
    if found["key"]:
        return _setting(found["key"], found["set"], names)
    flag, value, tail = found["flag"], found["value"], ""
    if value is not None and not (value in _CHOICES or re.search(r"[A-Z0-9./…]", value)):
        value, tail = None, found[0][found.end("flag") - found.start() :]  # no value, but the next word of the sentence
    if flag == "debug":
        return "its __cause__" + (tail or "")
    if flag.startswith("no-"):
        return f"{flag[3:].replace('-', '_')}=False" + (tail or ("" if value is None else f" {value}"))
    name = flag.replace("-", "_")
    if name not in names and flag in SETTINGS:
        return _setting(SETTINGS[flag], value, names) + tail
    return (name if value is None else f"{name}={_value(value)}") + tail


def _setting(key: str, value: str | None, names: Collection[str]) -> str:
    if "settings" not in names or value is None:
        return key if value is None else f"{key}={value}"
    return f'settings={{"{key}": {_value(value)}}}'


def _value(text: str) -> str:
    if text == "no":
        return "False"
    return text if re.fullmatch(r"[-+.0-9e…]+|'.*'|True|False", text) else f'"{text}"'
