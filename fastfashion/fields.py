"""A field of a dataclass that people set: one declaration makes its command-line option, its API argument, its help and its check.

config.py declares settings with `setting`, command_options.py options with `option`; command_line.py makes typer's signature of such a
dataclass, calls.py a Python function, tools/reference.py the tables in docs/.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, get_args

from fastfashion.errors import ConfigError

T = TypeVar("T")


class Change(Enum):
    """Whether a setting may differ when a run is resumed."""

    FREE = "free"  # it changes where and how fast, not what is computed
    ALLOWED = "allowed"  # by name: it changes the result, but the checkpoint and the position in the data stay valid
    FIXED = "fixed"  # another value is another run: its rows, their order, its tensors or its first weights differ


class Writes(Enum):
    """What is written at a place; commands check it before they start to work."""

    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Option:
    """Help, limits and names of one field."""

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None  # included, as `most`; `above` and `below` are not
    above: float | None = None
    most: float | None = None
    below: float | None = None
    change: Change = Change.FIXED  # of a setting
    find: Callable[[Any], Any] | None = None  # makes the value of what was given, or of None
    name: str = ""  # if the option has another name than the field
    flag: str = ""  # if it is not --NAME
    panel: str = ""  # the heading it has in --help
    argument: bool = False  # by position on the command line and in Python
    positional: bool = False  # by position in Python alone
    many: bool = False  # may be given several times
    required: bool = False
    hidden: bool = False  # not in --help; docs/cli.md lists it
    only: str = ""  # "cli" or "api", if the other one does not have it
    accepts: str = ""  # the type that Python functions take, if it is wider than the field's
    writes: Writes | None = None
    metavar: str = ""
    setting: str = ""  # section.key that it is a short form of
    shown_default: str = ""  # where the value itself is found later
    old: str = ""  # of an old form: what to use

    @property
    def expected(self) -> str:
        """The limits in words, such as "0 to below 1" or "stop or skip"."""
        if self.choices:
            return listed(self.choices)
        if self.above is not None:
            return f"above {_number(self.above)}" + ("" if self.most is None else f", at most {_number(self.most)}")
        if self.least is None:
            return ""
        if self.most is None and self.below is None:
            return f"{_number(self.least)} or more"
        return f"{_number(self.least)} to {_number(self.most) if self.most is not None else f'below {_number(self.below)}'}"

    def allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return not (
            (self.least is not None and not value >= self.least)
            or (self.above is not None and not value > self.above)
            or (self.most is not None and not value <= self.most)
            or (self.below is not None and not value < self.below)
        )


def setting(default: T, help: str, change: Change = Change.FIXED, **limits: Any) -> T:
    """A field of a section of RunConfig."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, change=change, **limits)})


def option(help: str, default: Any = None, **about: Any) -> Any:
    """A field of a request; `about` as the fields of Option."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **about)})


def options_of(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    """The declared fields of a dataclass or one of its instances, by name."""
    return {each.name: (each, each.metadata["option"]) for each in dataclasses.fields(kind) if "option" in each.metadata}


def check(values: Any, called: Callable[[str, Option], str]) -> None:
    """Raise ConfigError for the first field of a dataclass outside of its limits; `called` names it for the message."""
    for name, (_, about) in options_of(values).items():
        value = getattr(values, name)
        for each in value if isinstance(value, tuple) else () if value is None else (value,):
            if not about.allows(each):
                raise ConfigError(f"{called(name, about)}: expected {about.expected}, found {each!r}")


def name_of(field: str, about: Option) -> str:
    """The option's name, as Python functions call it."""
    return about.name or field


def flag_of(field: str, about: Option) -> str:
    """As the command line calls it: --name, or the name alone of an argument by position."""
    if about.argument:
        return name_of(field, about)
    return about.flag.partition("/")[0] or f"--{name_of(field, about).replace('_', '-')}"


def cast(key: str, kind: Any, value: Any) -> Any:
    """Text or a JSON value as the type of a field, or ConfigError."""
    kind = next((each for each in get_args(kind) if each is not type(None)), kind) if not isinstance(kind, type) else kind
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        if kind not in (int, float, str):
            return value
        if kind is str and isinstance(value, Iterable) and not isinstance(value, str):
            raise ValueError  # several values, or bytes
        found = kind(value)
        most = 2**63 if kind is int else math.inf
        if kind is not str and (isinstance(value, bool) or not -most < found < most or (isinstance(value, float) and found != value)):
            raise ValueError  # no number, one without end, or half of one; nan is in no range
        return found
    except (KeyError, TypeError, ValueError, OverflowError):
        expected = "a number below 2^63" if kind is int and type(value) is int else getattr(kind, "__name__", kind)
        raise ConfigError(f"{key}: expected {expected}, found {value!r}") from None


class Result:
    """Base of what functions return: a dataclass that can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))  # type: ignore[call-overload]

    def __getitem__(self, name: str) -> Any:
        """A field by its name, as in the document of --json."""
        return getattr(self, name)


def listed(names: Any) -> str:
    """Names joined as "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else str(last)


def _number(value: float | None) -> str:
    if isinstance(value, int):
        return f"2^{value.bit_length() - 1}" if value >= 2**32 and value.bit_count() == 1 else str(value)
    return f"{value:g}"
