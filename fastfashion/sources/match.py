"""Which file is the image of which row of a table.

A text with a folder or a suffix is a path, and the image is that file and no other. All paths of a table start at one place, the one under
which most of them are files, the earlier one of equals:

    1. the folder of the table    2. the folder of the source    3. the folder `images`, beside the table or the only one there is

A text without a folder is also searched for: by name if it has a suffix, by name without suffix if it has none. The search covers
all folders below `images` beside the table; if that has no image, those below all folders of that name; if there are none, all. An
image that is found twice is an error if a row needs it. Names match in composed and in decomposed letters (NFC, NFD), and suffixes in
upper and lower case; a backslash in a table is a slash.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastfashion.catalog.ids import same_text
from fastfashion.errors import InputError
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.sources.listing import Member

IMAGES = "images"
_DRIVE = re.compile(r"[A-Za-z]:/")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
Names = str | tuple[str, ...]  # one file, or several that share a key: most keys have one, which takes less memory than a tuple
Index = dict[str, Names]


@dataclass(frozen=True)
class Matches:
    """Images of the rows of a table, in their order; if there is none, `missing` says why, by place in the list."""

    members: list[Member | None]
    missing: dict[int, str]


class Files:
    """The images of a source by name, and how they are found.

    `table` is the name of the table in the source, or a relative path that leads out of it. `root` is the folder itself if it is on a
    disk, so that absolute paths below it are found. `aliases`: other names of folders, by links. `unread`: images of a format that is not
    read, for the reason of a row that has no other image.
    """

    def __init__(
        self,
        where: Path,
        files: Mapping[str, Member],
        table: str,
        root: str | None,
        aliases: Mapping[str, str],
        unread: Iterable[str] = (),
    ) -> None:
        self._where, self._files, self._root, self._aliases, self._unread = where, files, root, aliases, unread
        self._table_folder = posixpath.dirname(table)
        self._scope = self._choose_scope()

    def _choose_scope(self) -> tuple[str, ...]:
        """The folders below which names without a folder are searched; "" is everywhere."""
        folders = {posixpath.dirname(name) for name in self._files}
        above = {"/".join(parts[:end]) for folder in folders for parts in [folder.split("/")] for end in range(1, len(parts) + 1)}
        named = sorted(folder for folder in above if posixpath.basename(folder) == IMAGES)
        beside = posixpath.join(self._table_folder, IMAGES)
        if beside in named:
            return (beside,)
        outermost = [folder for folder in named if not any(folder.startswith(f"{other}/") for other in named)]
        return tuple(outermost) or ("",)

    @cached_property
    def scoped(self) -> list[str]:
        """The files that names without a folder may mean."""
        if self._scope == ("",):
            return list(self._files)
        starts = tuple(f"{folder}/" for folder in self._scope)
        return [name for name in self._files if name.startswith(starts)]

    @cached_property
    def _by_stem(self) -> Index:
        """Names without folder and suffix -> files of the scope.

        Of several in `images` beside the table, <id>.jpg counts, as in Kaggle's layout.
        """
        found = _index((_stem(posixpath.basename(name)), name) for name in self.scoped)
        layout = posixpath.join(self._table_folder, IMAGES)
        for key, names in found.items():
            if isinstance(names, tuple) and all(posixpath.dirname(name) == layout for name in names):
                jpgs = tuple(name for name in names if name.endswith(".jpg"))
                found[key] = jpgs[0] if len(jpgs) == 1 else names
        return found

    @cached_property
    def _by_name(self) -> Index:
        """Names without folder -> files of the scope."""
        return _index((_key(posixpath.basename(name)), name) for name in self.scoped)

    @cached_property
    def _by_path(self) -> Index:
        """Whole names -> files."""
        return _index((_key(name), name) for name in self._files)

    @cached_property
    def _by_path_and_stem(self) -> Index:
        """Whole names without suffix -> files."""
        return _index((_stem(name), name) for name in self._files)

    @cached_property
    def _unread_by_stem(self) -> Index:
        """Names without folder, with and without suffix -> files that are not read."""
        names = [(posixpath.basename(name), name) for name in self._unread]
        return _index(pair for base, name in names for pair in ((same_text(base), name), (_stem(base), name)))

    def images_by_stem(self) -> dict[str, Member]:
        """The images that a text without folder and suffix finds; without those that share such a name."""
        return {key: self._files[names] for key, names in self._by_stem.items() if isinstance(names, str)}

    def find(self, texts: Sequence[str]) -> Matches:
        """The image of each text of a table; raises InputError for a text that several images match."""
        keys = [_key(text) for text in texts]
        start = self._choose_start(key for key in keys if _is_path(key))
        found = Matches([], {})
        for place, (text, key) in enumerate(zip(texts, keys, strict=True)):
            names = self._candidates(text.replace("\\", "/"), key, start)
            if names is None:
                found.missing[place] = self._why(key, start)
            name = self._one_of(text, names) if isinstance(names, tuple) else names
            found.members.append(None if name is None else self._files[name])
        return found

    def without_row(self, members: Iterable[Member | None]) -> int:
        """How many images belong to no row: of those in the scope, or of all if a row has one out of it."""
        used = {member.name for member in members if member is not None}
        searched = set(self.scoped)
        return len((searched if used <= searched else self._files.keys()) - used)

    def _candidates(self, text: str, key: str, start: str) -> Names | None:
        """The files that a text may mean, which is `key` as it is compared."""
        if _is_path(key):
            if (path := self._resolve(start, text)) in self._files:
                return path
            names = self._at(self._resolve(start, key), key)
            if names is not None or "/" in key:
                return names
        names = self._by_name.get(key) if _has_suffix(key) else None
        return self._by_stem.get(key) if names is None else names

    def _at(self, path: str | None, key: str) -> Names | None:
        if path is None:
            return None
        return self._by_path.get(path) if _has_suffix(key) else self._by_path_and_stem.get(path)

    def _choose_start(self, paths: Iterable[str]) -> str:
        starts = list(dict.fromkeys([self._table_folder, "", *(self._scope if len(self._scope) == 1 else ())]))
        hits: Counter[str] = Counter()
        for key in paths:
            hits.update(start for start in starts if self._at(self._resolve(start, key), key) is not None)
        return max(starts, key=lambda start: hits[start])  # the first of equals

    def _resolve(self, start: str, key: str) -> str | None:
        """The name in the source that a path means; None if it leads out of it."""
        path = posixpath.normpath(posixpath.join(start, key))
        if start != self._table_folder and start and not path.startswith(f"{start}/"):
            return None  # a path below `images` may not lead out of it
        if path.startswith(("/", "../")):
            if self._root is None:
                return None
            root = same_text(self._root)
            whole = posixpath.normpath(posixpath.join(root, path))
            if not whole.startswith(f"{root}/"):
                return None
            path = whole[len(root) + 1 :]
        alias = next((folder for folder in self._aliases if path.startswith(f"{folder}/")), None) if self._aliases else None
        return path if alias is None else posixpath.normpath(posixpath.join(self._aliases[alias], path[len(alias) + 1 :]))

    def _one_of(self, text: str, names: Sequence[str]) -> str:
        """Of several files that a text matches: the one nearest the top if all have the same size and checksum in a zip."""
        if len({(self._files[name].size, self._files[name].crc32) for name in names}) == 1 and self._files[names[0]].crc32:
            return min(names, key=lambda name: (name.count("/"), name))
        shown = " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        raise InputError(
            f"{self._where}: {text!r} in the table may be {shown}; write the path into the table, such as {names[0]}, rename one, or put "
            f"those that count into a folder named {IMAGES} beside the table"
        )

    def _why(self, key: str, start: str) -> str:
        """The reason for rejected.csv, and what there is instead."""
        if _ADDRESS.match(key):
            return "no image: this is an address; download the images, and write their paths relative to the table"
        if self._resolve(start, key) is None or _DRIVE.match(key):
            return f"no image: {key} is not below {self._root or self._where}; write paths relative to the table"
        name = posixpath.basename(key)
        if reason := unsupported(name):
            return f"no image: {reason}"
        stem = posixpath.splitext(name)[0] if _has_suffix(key) else name
        if unread := _first(self._unread_by_stem.get(stem)):
            return f"no image but {unread}: {unsupported(unread)}"
        other = _first(self._by_stem.get(stem)) if _is_path(key) else ""
        return f"no image at this path; there is {other}" if other else "no image"


def _index(pairs: Iterable[tuple[str, str]]) -> Index:
    found: Index = {}
    for key, name in pairs:
        before = found.setdefault(key, name)
        if before is not name:
            found[key] = (*((before,) if isinstance(before, str) else before), name)
    return found


def _key(text: str) -> str:
    """A text as it is compared: composed letters, slashes, the suffix of an image in lower case."""
    text = same_text(text)
    body, dot, suffix = text.rpartition(".")
    return f"{body}.{suffix.lower()}" if dot and f".{suffix.lower()}" in SUFFIXES else text


def _stem(name: str) -> str:
    return same_text(posixpath.splitext(name)[0])


def _first(names: Names | None) -> str:
    return names[0] if isinstance(names, tuple) else names or ""


def _has_suffix(key: str) -> bool:
    return key.endswith(SUFFIXES)


def _is_path(key: str) -> bool:
    return "/" in key or _has_suffix(key)


def table_seen_from(source: Path, table: Path) -> str:
    """The path of a table beside a source, relative to it."""
    return Path(os.path.relpath(table.resolve(), source.resolve())).as_posix()
