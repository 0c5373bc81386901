"""Places that people name: the set or data set they mean, and whether a place can be written before the work starts."""

import os
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError, InputError
from fastfashion.files import NO_UTF8, is_remote, location
from fastfashion.words import why

SHARDS_HOME = Path("shards")


def place_of(place: Any) -> Path:
    """The path of a text, a path, an address or an opened packed set; raises ConfigError for anything else."""
    if place == "":  # such as "$OUT" without a value: the current folder is "."
        raise ConfigError("expected a path or an address, found an empty text")
    if isinstance(place, str):
        return location(place)
    if isinstance(place, Path) or hasattr(place, "fs"):  # a UPath
        return place
    if hasattr(place, "vocab") and hasattr(place, "path"):
        return place.path
    raise ConfigError(f"expected a path, an address or an opened packed set, found {type(place).__name__}")


def run_of(run: Any) -> Path:
    """The folder of a run that was named, opened by `open_run` or returned by `train_run`."""
    if hasattr(run, "packed") and hasattr(run, "path"):
        return Path(run.path)
    folder = getattr(run, "run", run)
    if not isinstance(folder, str | Path) or folder == "":
        found = type(run).__name__ if folder != "" else "an empty text"
        raise ConfigError(f"expected the folder of a run, or what open_run or train_run returned, found {found}")
    return Path(folder)


def find_shards(given: Any = None) -> Path:
    """The packed set that is meant: the one given, or the only one under shards/."""
    if given is not None:
        return place_of(given)
    found = sorted({path.parent.parent for path in SHARDS_HOME.glob("*/*/manifest.json")})
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"which packed set? There are {', '.join(map(str, found))}: name one as the first argument")
    if partial := sorted(path.parent.parent for path in SHARDS_HOME.glob("*/.staging/plan.json")):
        raise ConfigError(f"no packed set under shards/: packing {partial[0]} was interrupted; the same shard command resumes it")
    raise ConfigError("no packed set under shards/: make one with fastfashion shard --res 224, or name one as the first argument")


def find_source(given: Any = None, home: Path = Path("data")) -> Path:
    """The data set that is meant: the one given, or the only zip or packable folder under data/."""
    if given is not None:
        return place_of(given)
    found = sorted([*home.glob("*.zip"), *(table.parent for table in home.glob("*/styles.csv"))])
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"which data set? There are {', '.join(map(str, found))}: choose with --source")
    raise InputError(
        f"no data set under {home}/: name one with --source, or get one:\n"
        f"  fastfashion download small --out {home}   60x80 images\n"
        f"  fastfashion download full --out {home}    originals up to 1800x2400\n"
        f"  fastfashion synth --out {home}/synth      a synthetic stand-in, in seconds"
    )


def check_place(path: Path, option: str, *, is_folder: bool) -> None:
    """Raises ConfigError if a file, or a folder, could not be written at `path`; a remote folder is not checked."""
    if is_folder and is_remote(path):
        return
    expected = "folder" if is_folder else "file"
    if NO_UTF8.search(str(path)):  # pyarrow and safetensors cannot write there
        raise ConfigError(f"{option} {path}: expected a name in UTF-8; choose another {option}")
    try:
        if path.exists() and path.is_dir() is not is_folder:
            found = "a folder" if path.is_dir() else "a file"
            raise ConfigError(f"{option} {path}: expected a {expected}, found {found} of that name; choose another {option}")
        above = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    except OSError as error:  # a name too long, a parent that is a file, links in a circle
        raise ConfigError(f"{option} {path}: cannot be written ({why(error)}); choose another {option}") from error
    if not above.is_dir() and above != path.absolute():
        raise ConfigError(f"{option} {path}: {above} is a file, expected a folder; choose another {option}")
    if not os.access(above, os.W_OK | (os.X_OK if above.is_dir() else 0)):
        raise ConfigError(f"{option} {path}: {above} cannot be written to (permission denied); choose another {option}")
