"""Packages that only some work needs, which an extra of fastfashion installs: pip install 'fastfashion[report]'."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from fastfashion.errors import ConfigError


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'fastfashion[{extra}]'"


def lacks(*modules: str) -> str | None:
    """The first of these modules that is not installed; None if all are. Imports none of them."""
    return next((module for module in modules if not _is_there(module)), None)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def require(extra: str, what: str, *modules: str) -> None:
    """Raise ConfigError, with the command that installs it, if one of these modules is not installed; `what`: the work that needs it."""
    if (module := lacks(*modules)) is not None:
        raise _missing(extra, what, module, "is not installed")


@contextmanager
def needs(extra: str, what: str, instead: str = "") -> Iterator[None]:
    """Inside this context, an import that fails becomes a ConfigError with the command that installs the extra; `instead`: another way."""
    try:
        yield
    except ImportError as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise _missing(extra, what, error.name or "a package", why, instead) from error


def _missing(extra: str, what: str, module: str, why: str, instead: str = "") -> ConfigError:
    return ConfigError(f"{what} needs {module}, which {why}: {install(extra)}{f', or {instead}' if instead else ''}")
