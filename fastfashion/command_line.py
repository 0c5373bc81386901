"""How the command line reads the options of a command, prints its answer, and ends.

class SynthRequest ─► command(app, SynthRequest, …) ─► fastfashion synth --rows 1200 --size 800x600 --json
"""

import contextlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar, get_args

import typer

from fastfashion.command_options import IN, LIMITS, MODEL, OUT, RUN, Request, ask
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.fields import Option, flag_of, options_of
from fastfashion.terminal import make_safe
from fastfashion.words import os_error_text

R = TypeVar("R", bound=Request)
PANELS = (IN, MODEL, OUT, LIMITS, RUN)
STORAGE = ("botocore", "aiohttp", "fsspec", "s3fs", "gcsfs", "huggingface_hub")  # whose errors are the user's to fix
COMMANDS: dict[str, tuple[type[Request], Callable[..., Any], str]] = {}  # request, function and example of each, for docs/cli.md
_debug = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command has to say: a document for --json, and a text for people."""

    document: Any
    text: str = ""
    is_report: bool = False  # the text is what was asked for: it goes to stdout, without --json
    status: int = 0
    after: Callable[[], object] = lambda: None  # once it is printed


def command(app: typer.Typer, kind: type[R], name: str, example: str) -> Callable[[Callable[[R], Answer | None]], None]:
    """Add a function of a request to an app: its docstring is the help, its answer is printed."""

    def add(function: Callable[[R], Answer | None]) -> None:
        def run(**given: Any) -> None:
            if (old := given.pop("old_shards", None)) is not None:
                say_warning(f"--shards is an old form, which the next release refuses: use fastfashion {name} {old}")
                if given["shards"] not in (None, old):
                    raise ConfigError(f"--shards {old}: the set is {given['shards']} already, the first argument: leave one out")
                given["shards"] = old
            request = ask(kind, given, say_warning)
            with contextlib.redirect_stdout(sys.stderr) if request.as_json else contextlib.nullcontext():
                answer = function(request)
            if answer is not None:
                show(answer, as_json=request.as_json)

        run.__signature__ = inspect.Signature(_parameters(kind))  # type: ignore[attr-defined]
        run.__doc__, run.__annotations__ = function.__doc__, {}
        COMMANDS[name] = kind, function, example
        app.command(name, epilog=f"Example: {example}")(run)

    return add


def show(answer: Answer, *, as_json: bool) -> None:
    """Print an answer: with --json one document on stdout and the text on stderr. Ends with the answer's status."""
    if answer.text:
        print(answer.text, file=sys.stdout if answer.is_report and not as_json else sys.stderr)
    if as_json:
        print_document(answer.document, sys.stdout)
    answer.after()
    if answer.status:
        raise typer.Exit(answer.status)


def print_document(document: Any, file: TextIO) -> None:
    print(json.dumps(document.to_dict() if hasattr(document, "to_dict") else document, default=str), file=file, flush=True)


def _parameters(kind: type[Request]) -> list[inspect.Parameter]:
    """Arguments, options in the order of their panels, then those of every command."""
    shared = options_of(Request)
    own = [(name, each, about) for name, (each, about) in options_of(kind).items() if name not in shared]
    own.sort(key=lambda item: PANELS.index(item[2].panel) if item[2].panel in PANELS else -1)
    last = [(name, each, about) for name, (each, about) in shared.items()]
    found = []
    for name, each, about in [*own, *last]:
        if about.only == "api":
            continue
        found.append(_parameter(name, each, about))
        if name == "shards" and about.argument and not about.many:  # the form of earlier releases
            old = replace(about, argument=False, hidden=True, metavar="SET")
            found.append(_parameter("old_shards", each, replace(old, name="shards")))
    return found


def _parameter(name: str, each: "Field[Any]", about: Option) -> inspect.Parameter:
    kinds = [kind for kind in get_args(each.type) if kind is not type(None)] if not isinstance(each.type, type) else [each.type]
    kind = str if about.many or kinds[0] in (Path, Any) or kinds[0] not in (bool, int, float) else kinds[0]
    default = None if each.default in (MISSING, ()) or about.argument else each.default
    annotation: Any = list[kind] if about.many else kind  # type: ignore[valid-type]
    info: Any
    if about.argument:
        info = typer.Argument(help=about.help, metavar=about.metavar or None, show_default=False)
    else:
        info = typer.Option(
            about.flag if about.flag else flag_of(name, about),
            help=about.help,
            metavar=about.metavar or None,
            hidden=about.hidden,
            rich_help_panel=about.panel or None,
            show_default=about.shown_default or (bool(default) and kind is not bool),
            callback=_set_debug if name == "debug" else None,
            is_eager=name == "debug",
        )
    if about.required:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, info])
    default = str(default) if isinstance(default, Path) else default
    if about.many and default is not None:
        default = list(default) if isinstance(default, tuple) else [default]
    optional = annotation if default is not None else annotation | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[optional, info])


def _set_debug(value: bool) -> bool:
    global _debug  # an error can rise before a command's own parameters exist
    _debug = _debug or value
    return value


def is_debug() -> bool:
    return _debug


def run_command(app: typer.Typer) -> None:
    """Run a typer app: errors that users can fix (also those of the disk) print as text and exit with 2, Ctrl-C exits with 130."""
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


def say_warning(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {message}", file=sys.stderr)
