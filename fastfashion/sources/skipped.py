"""What is below a source but is not part of it: hidden files, leftovers of operating systems, packed sets and runs of our own."""

from collections import defaultdict
from collections.abc import Collection, Iterable

JUNK = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
HIDDEN, SET = "hidden, or left behind by a system", "a packed set"

# By the names directly in a folder, one group of them is enough. Names alone mean the same in a zip and on object storage.
_MARKS: dict[str, tuple[frozenset[str], ...]] = {
    SET: (
        frozenset({"set.json", "catalog.parquet"}),
        frozenset({"manifest.json", "index.parquet"}),
        frozenset({"catalog.parquet", "vocab.json"}),  # interrupted before set.json
        frozenset({".packing.lock"}),  # being packed
        frozenset({".staging"}),
    ),
    "a training run": tuple(
        frozenset({"config.json", name})
        for name in ("metrics.jsonl", "best", "checkpoints", "status.json", "report.json", "predictions.parquet", "plots")
    ),
    "an audit's report": (frozenset({"audit.json"}), frozenset({"suspects.csv"})),
}
_MARK_NAMES: frozenset[str] = frozenset().union(*(group for groups in _MARKS.values() for group in groups))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def what_folder(names: Collection[str]) -> str | None:
    """A packed set, a run, …, by the names directly in a folder; None if it may be part of a source."""
    found = _MARK_NAMES.intersection(names)
    return next((what for what, groups in _MARKS.items() if any(group <= found for group in groups)), None) if found else None


class SkipRules:
    """The same rules for a list of names such as `a/b/1.jpg`, of a zip or of object storage."""

    def __init__(self, names: Iterable[str]) -> None:
        self._marks: defaultdict[str, set[str]] = defaultdict(set)  # folder -> the marks directly in it
        for name in names:
            parts = name.split("/")
            for depth, part in enumerate(parts):
                if part in _MARK_NAMES:
                    self._marks["/".join(parts[:depth])].add(part)
        self._of_folder: dict[str, tuple[str, str] | None] = {"": None}

    @property
    def top(self) -> set[str]:
        """The marks that are not below any folder."""
        return self._marks[""]

    def reason(self, name: str) -> tuple[str, str] | None:
        """Why a file is not part of the source, and the file or folder that is the cause; None if it may be part of it."""
        folder, _, file = name.rpartition("/")
        return self._reason_of_folder(folder) or ((HIDDEN, name) if is_hidden(file) else None)

    def _reason_of_folder(self, folder: str) -> tuple[str, str] | None:
        below = []
        while folder not in self._of_folder:
            below.append(folder)
            folder = folder.rpartition("/")[0]
        found = self._of_folder[folder]
        for folder in reversed(below):
            if found is None:
                what = HIDDEN if is_hidden(folder.rpartition("/")[2]) else what_folder(self._marks.get(folder, ()))
                found = (what, folder) if what else None
            self._of_folder[folder] = found
        return found
