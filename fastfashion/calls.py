"""How the functions of `import fastfashion` take the options of a command as arguments, and name them in errors.

    class SynthRequest ─► @call(SynthRequest) ─► ff.synth(out="data/synth", *, rows=1200, size="800x600", …)

Errors are written in the words of the command line; here they name arguments instead of flags:

    "choose another --out"  ─►  "choose another out"        "--set data.on_bad=skip"  ─►  'settings={"data.on_bad": "skip"}'

A whole command (`fastfashion verify SET --repair`) stays one: it is for a shell.
"""

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING
from typing import Any, ParamSpec, TypeVar

from fastfashion.command_options import TrainRequest, ask
from fastfashion.errors import FastfashionError
from fastfashion.fields import Option, name_of, options_of

P = ParamSpec("P")
R = TypeVar("R")

# Flags of `train` that are settings, if a function does not have them as arguments.
SETTINGS = {name.replace("_", "-"): about.setting for name, (_, about) in options_of(TrainRequest).items() if about.setting}
SETTINGS["workers"] = "data.workers"
_CHOICES = {"auto", "folds", "hub", "must", "never", "no", "onnx", "reference", "skip", "space", "stop", "stratified", "unseen"}
_COMMAND = re.compile(r"(?:fastfashion [a-z][a-z-]*|torchrun|ray start|pip install|curl)\b.*?(?=[,;)\n]|:(?:\s|$)| or |$)")
_ALLOWED = r"--allow-config-change [a-z_]+\.[a-z0-9_]+"
_FLAG = re.compile(
    r"--set (?P<key>[a-z_]+\.[a-z0-9_]+)(?:=(?P<set>…|[^\s,;:)]*[^\s,;:).]))?"
    r"|--(?P<flag>[a-z][a-z0-9-]*[a-z0-9])(?:[ =](?!-)(?P<value>'[^']*'|[^\s,;:)]*[^\s,;:).]))?"
)


def call(kind: type[Any], *, computes: bool = True) -> Callable[[Callable[[Any], R]], Any]:
    """A function of keyword arguments, out of one of a request; `computes`: with torch, whose generators are left as they were."""
    known = {name_of(name, about): name for name, (_, about) in options_of(kind).items() if about.only != "cli"}
    signature = signature_of(kind)

    def made(operation: Callable[[Any], R]) -> Any:
        @functools.wraps(operation)
        def function(*args: Any, **kwargs: Any) -> R:
            old = {name: kwargs.pop(name) for name in list(kwargs) if name in known and name not in signature.parameters}
            given = {known[name]: value for name, value in (signature.bind(*args, **kwargs).arguments | old).items()}
            run: Any = given.get("run")
            if hasattr(run, "packed") and hasattr(run, "path") and given.get("shards") is None and "shards" in known:
                given["shards"] = run.packed  # an opened run knows its set
            with errors_say_arguments(known), _generators_kept() if computes else nullcontext():
                result = operation(ask(kind, given, lambda text: warnings.warn(in_arguments(text, known), FutureWarning, stacklevel=4)))
            return _named(result, known) if inspect.isgenerator(result) else result  # type: ignore[return-value]

        function.__signature__ = signature.replace(return_annotation=inspect.signature(operation).return_annotation)  # type: ignore[attr-defined]
        function.__annotations__ = {"return": inspect.signature(operation).return_annotation}
        arguments = [f"    {name}: {about.help}" for name, about in arguments_of(kind)]
        function.operation = operation  # type: ignore[attr-defined]
        function.__doc__ = "\n".join([inspect.getdoc(operation) or "", "", "Arguments:", *arguments])
        return function

    return made


def arguments_of(kind: type[Any]) -> list[tuple[str, Option]]:
    """The names that a function of a request has, those by position first; old forms are taken, but not among them."""
    found = [(name_of(name, about), about) for name, (_, about) in options_of(kind).items() if about.only != "cli" and not about.old]
    return sorted(found, key=lambda item: not (item[1].argument or item[1].positional))


def signature_of(kind: type[Any]) -> inspect.Signature:
    fields = {name_of(name, about): each for name, (each, about) in options_of(kind).items()}
    parameters = []
    for name, about in arguments_of(kind):
        by_position = about.argument or about.positional
        default = inspect.Parameter.empty if about.required else None if fields[name].default is MISSING else fields[name].default
        how = inspect.Parameter.POSITIONAL_OR_KEYWORD if by_position else inspect.Parameter.KEYWORD_ONLY
        annotation = about.accepts or inspect.formatannotation(fields[name].type)
        parameters.append(inspect.Parameter(name, how, default=default, annotation=annotation))
    return inspect.Signature(parameters)


def embedded(function: Callable[P, R]) -> Callable[P, R]:
    """A function with a signature of its own, as one of `call`."""
    names = inspect.signature(function).parameters

    @functools.wraps(function)
    def embedded_function(*args: P.args, **kwargs: P.kwargs) -> R:
        with errors_say_arguments(names), _generators_kept():
            return function(*args, **kwargs)

    return embedded_function


def _named(values: Iterator[Any], names: Collection[str]) -> Iterator[Any]:
    with errors_say_arguments(names):
        yield from values


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Building a model draws from torch's global generators."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        yield


@contextmanager
def errors_say_arguments(names: Collection[str]) -> Iterator[None]:
    """Inside this context, FastfashionErrors name the arguments `names` of a function, and settings, if they were written with flags."""
    try:
        yield
    except Exception as error:  # while the interpreter ends, an iterator that is left is closed, and our own names are gone
        if isinstance(error, FastfashionError):
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
    """One flag, with its value if it has one."""
    if found["key"]:
        return _setting(found["key"], found["set"], names)
    flag, value, tail = found["flag"], found["value"], ""
    if value is not None and not (value in _CHOICES or re.search(r"[A-Z0-9./…]", value)):
        value, tail = None, found[0][found.end("flag") - found.start() :]  # no value, but the next word of the sentence
    if flag == "debug":
        return "its __cause__" + (tail or "")
    if flag.startswith("no-"):
        return f"{flag[3:].replace('-', '_')}=False" + (tail or ("" if value is None else f" {value}"))
    name = "settings" if flag == "set" else flag.replace("-", "_")
    if name not in names and flag in SETTINGS:
        return _setting(SETTINGS[flag], value, names) + tail
    return (name if value is None else f"{name}={_value(value)}") + tail


def _setting(key: str, value: str | None, names: Collection[str]) -> str:
    section, _, name = key.partition(".")
    if section == "data" and name in names and value is not None:  # such as on_bad of ff.loader
        return f"{name}={_value(value)}"
    if "settings" not in names or value is None:
        return key if value is None else f"{key}={value}"
    return f'settings={{"{key}": {_value(value)}}}'


def _value(text: str) -> str:
    if text == "no":
        return "False"
    return text if re.fullmatch(r"[-+.0-9e…]+|'.*'|True|False", text) else f'"{text}"'
