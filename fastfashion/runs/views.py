"""view.json: the view under which a run sees its set, so that it can be tested when the files that named it are gone."""

from dataclasses import asdict, dataclass
from pathlib import Path

from fastfashion.catalog.views import NO_VIEW, View
from fastfashion.config import DataConfig
from fastfashion.errors import ConfigError, InputError
from fastfashion.files import publish_json
from fastfashion.runs.files import VIEW, read_if_there
from fastfashion.untrusted import Format, described, parse_description

FORMAT = Format("fastfashion-view", oldest=1, newest=1, sealed=1)
MAX_BYTES = 1 << 26
ADVICE = "put it back from a copy, or train again"


@dataclass(frozen=True, kw_only=True)
class _Description:
    where: str
    class_map: dict[str, dict[str, str]]
    classes: dict[str, tuple[str, ...]]
    min_class_size: int


def write_view(run: Path, view: View) -> None:
    """Publish a view; nothing for a run that sees all of its set. Raises OSError if it cannot be written."""
    if view:
        publish_json(run / VIEW, described(FORMAT, asdict(view)))


def read_view(run: Path, data: DataConfig) -> View:
    """The view of a run. Raises InputError if its file is damaged, or missing where the run's settings name a view."""
    found = read_if_there(run / VIEW, MAX_BYTES, InputError)
    named = data.where or data.classes or data.class_map or data.min_class_size
    if found is None:
        if named:
            raise InputError(f"{run / VIEW}: missing, and the run's settings name a view of its set; {ADVICE}")
        return NO_VIEW
    known = parse_description(found, FORMAT, _Description, str(run / VIEW), InputError, ADVICE)
    return View(where=known.where, class_map=known.class_map, classes=known.classes, min_class_size=known.min_class_size)


def check_same_view(run: Path, data: DataConfig, view: View) -> None:
    """Raises ConfigError if a run that has trained saw its set otherwise: the files of its settings have changed since."""
    if read_view(run, data) != view:
        raise ConfigError(
            f"{run}: its classes were chosen by other files than {' and '.join(filter(None, (data.classes, data.class_map)))} are now; put "
            "the old ones back, or train under another --name"
        )
