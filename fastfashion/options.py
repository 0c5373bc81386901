"""Command-line options that have the same name and meaning everywhere, and how a command ends."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import typer

from fastfashion.config import ALL
from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.files import NO_UTF8, is_remote, location
from fastfashion.terminal import make_safe
from fastfashion.words import os_error_text, why

SHARDS_HOME = Path("shards")
STORAGE = ("botocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "huggingface_hub")  # whose errors are the user's to cure
_debug = False


def _set_debug(value: bool) -> bool:
    global _debug  # an error can rise before a command's own parameters exist
    _debug = _debug or value
    return value


def is_debug() -> bool:
    return _debug


def Shards(panel: str | None = None) -> Any:
    what = "Folder of a packed set, or its s3:// or https:// address; the one under shards/ by default."
    return typer.Option("--shards", help=what, parser=location, metavar="PATH", rich_help_panel=panel)


def Location(what: str, panel: str | None = None) -> Any:
    return typer.Option(help=what, parser=location, metavar="PATH", rich_help_panel=panel)


def OutFile(what: str, panel: str | None = None) -> Any:
    """`--out` of a command that writes one file; checked before there is any work to lose."""
    return typer.Option("--out", help=what, metavar="FILE", callback=_check_out_file, rich_help_panel=panel)


def OutFolder(what: str, panel: str | None = None) -> Any:
    """The same of a command that writes a folder, on a disk or, for shards, on object storage."""
    return typer.Option("--out", help=what, parser=_location, metavar="FOLDER", callback=_check_out_folder, rich_help_panel=panel)


def _location(given: str | Path) -> Path:
    return location(given) if isinstance(given, str) else given  # a default comes as a path


def _check_out_file(path: Path | None) -> Path | None:
    if path is not None:
        check_place(path, "--out", is_folder=False)
    return path


def _check_out_folder(path: Path | None) -> Path | None:
    if path is not None and not is_remote(path):
        check_place(path, "--out", is_folder=True)
    return path


def check_place(path: Path, option: str, *, is_folder: bool) -> None:
    """Raises ConfigError where a file, or a folder, could not be written at `path`: before the work, rather than after it."""
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


def Source(panel: str | None = None) -> Any:
    return Location("Zip or folder of images and a table, or its s3:// or https:// address; the one under data/ by default.", panel)


def Table(panel: str | None = None) -> Any:
    return typer.Option("--table", help="The CSV, in --source or anywhere; styles.csv, or the only one, by default.", rich_help_panel=panel)


def IdColumn(panel: str | None = None) -> Any:
    return typer.Option("--id-column", help="Its column with paths or names of the images.", rich_help_panel=panel)


def Task(panel: str | None = None) -> Any:
    return typer.Option("--task", help="Label to predict, several with commas, or all.", rich_help_panel=panel)


def Tasks(what: str, panel: str | None = None) -> Any:
    return typer.Option("--task", help=f"{what}, with commas or again and again; all by default.", rich_help_panel=panel)


def Protocol(panel: str | None = None) -> Any:
    return typer.Option("--protocol", help="How to split: stratified (default), reference or folds.", rich_help_panel=panel)


def Size(panel: str | None = None) -> Any:
    return typer.Option(
        "--size", help="Input of the model, HxW in pixels, such as 80x64; the images' own shape by default.", rich_help_panel=panel
    )


def Corrections(panel: str | None = None) -> Any:
    return typer.Option("--corrections", help="CSV of id, task, label: labels to put right.", rich_help_panel=panel)


def _check_workers(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise ConfigError(f"--workers: expected 0 or more, found {value}")
    return value


def Workers(panel: str | None = None, *, what: str = "Loader threads a process; its share of cores.") -> Any:
    return typer.Option("--workers", help=what, callback=_check_workers, rich_help_panel=panel)


def Raw(panel: str | None = None) -> Any:
    return typer.Option("--raw", help="In CSV, leave cells such as =1+1 as they are, for programs.", rich_help_panel=panel)


def Json(panel: str | None = None) -> Any:
    return typer.Option("--json", help="One JSON object in the last line of stdout.", rich_help_panel=panel)


def Debug(panel: str | None = None) -> Any:
    return typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug, is_eager=True, rich_help_panel=panel)


def find_shards(given: Path | None) -> Path:
    """The packed set that is meant: the one given, or the only one under shards/."""
    if given is not None:
        return given
    found = sorted({path.parent.parent for path in SHARDS_HOME.glob("*/*/manifest.json")})
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"which packed set? There are {', '.join(map(str, found))}: choose with --shards")
    if begun := sorted(path.parent.parent for path in SHARDS_HOME.glob("*/.staging/plan.json")):
        raise ConfigError(f"no packed set under shards/: packing {begun[0]} was interrupted; the same fastfashion shard command resumes it")
    raise ConfigError("no packed set under shards/: make one with fastfashion shard --res 224, or name one with --shards")


def find_source(given: Path | None, home: Path = Path("data")) -> Path:
    """The data set that is meant: the one given, or the only zip or packable folder under data/."""
    if given is not None:
        return given
    found = sorted([*home.glob("*.zip"), *(table.parent for table in home.glob("*/styles.csv"))])
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"which data set? There are {', '.join(map(str, found))}: choose with --source")
    raise InputError(
        f"no data set under {home}/: name one with --source, or get one:\n"
        f"  fastfashion download small --out {home}   60x80 images\n"
        f"  fastfashion download full --out {home}    originals up to 1800x2400\n"
        f"  fastfashion synth --out {home}/synth      a drawn stand-in, in seconds"
    )


def parse_tasks(given: list[str] | None) -> tuple[str, ...]:
    """The names in what `Tasks` was given, with commas or again and again; empty stands for all."""
    names = tuple(name.strip() for text in given or [] for name in text.split(","))
    return () if names == (ALL,) else names


def parse_image_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of a WxH such as 600x800, the way sizes of photographs are spoken of."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--res {text}: expected width x height in pixels, such as 600x800")
    return int(width), int(height)


def run_command(app: typer.Typer) -> None:
    """Run a typer app: errors that users can cure (the disk's among them) print as text and exit with 2, Ctrl-C exits with 130."""
    make_safe()
    try:
        app()
    except SystemExit as ending:
        if ending.code == 130:  # what typer makes of Ctrl-C
            print("stopped", file=sys.stderr)
        raise
    except (FastfashionError, OSError) as error:
        if _debug:
            traceback.print_exc()
        say_error(os_error_text(error) if isinstance(error, OSError) else str(error))
        sys.exit(2)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in STORAGE:
            raise
        if _debug:
            traceback.print_exc()
        say_error(f"object storage: {type(error).__name__}: {error}; check the address, the network and the credentials")
        sys.exit(2)


def say_error(message: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(f"error: {message}" if rank == "0" else f"error on rank {rank}: {message}", file=sys.stderr)
