"""What is below a source and no part of it: hidden files, what systems leave behind, packed sets and runs of our own."""

from collections import defaultdict
from collections.abc import Collection, Iterable

JUNK = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
HIDDEN, SET = "hidden, or left behind by a system", "a packed set"

# By the names directly in a folder; one group of them is enough. Names alone mean the same in a zip and on object storage.
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
MARKS: frozenset[str] = frozenset().union(*(group for groups in _MARKS.values() for group in groups))


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def what_folder(names: Collection[str]) -> str | None:
    """A packed set, a run, …, by the names directly in a folder; None where it may be part of a source."""
    found = MARKS.intersection(names)
    return next((what for what, groups in _MARKS.items() if any(group <= found for group in groups)), None) if found else None


class Rules:
    """The same rules for a list of names such as `a/b/1.jpg`, of a zip or of object storage."""

    def __init__(self, names: Iterable[str]) -> None:
        self._marks: defaultdict[str, set[str]] = defaultdict(set)  # folder -> the marks directly in it
        known = {""}
        for name in names:
            folder, _, file = name.rpartition("/")
            if file in MARKS:
                self._marks[folder].add(file)
            while folder not in known:
                known.add(folder)
                folder, _, file = folder.rpartition("/")
                if file in MARKS:
                    self._marks[folder].add(file)
        self._verdicts: dict[str, tuple[str, str] | None] = {"": None}

    @property
    def top(self) -> set[str]:
        """The marks that are not below any folder."""
        return self._marks[""]

    def passed_over(self, name: str) -> tuple[str, str] | None:
        """Why a file is no part of the source, and the file or the folder that is the reason; None where it may be part of it."""
        folder, _, file = name.rpartition("/")
        return self._verdict(folder) or ((HIDDEN, name) if is_hidden(file) else None)

    def _verdict(self, folder: str) -> tuple[str, str] | None:
        below = []
        while folder not in self._verdicts:
            below.append(folder)
            folder = folder.rpartition("/")[0]
        verdict = self._verdicts[folder]
        for folder in reversed(below):
            if verdict is None:
                hidden = is_hidden(folder.rpartition("/")[2])
                what = HIDDEN if hidden else what_folder(self._marks.get(folder, ()))
                verdict = (what, folder) if what else None
            self._verdicts[folder] = verdict
        return verdict
