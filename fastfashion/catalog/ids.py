"""From the text of the id column to ids that can be names of files, and back.

An id is the text if that is unique and can be a file's name; else the text with _ for what cannot be in a name, such as / and ., and
made unique by a hash of the text. The text itself stays in the column `path` of the catalog.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastfashion.images.codec import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

# An id becomes a tar member's name, for which USTAR has 100 bytes, and webdataset cuts that at the first dot.
USABLE_ID = re.compile(r"[^./\\\x00-\x1f\x7f]+")
MAX_ID_BYTES = 90
_HASH_DIGITS = 8
_FLOAT = re.compile(r"\d+\.0")


def is_usable(identity: str) -> bool:
    return bool(USABLE_ID.fullmatch(identity)) and len(identity.encode()) <= MAX_ID_BYTES


def same_text(text: str) -> str:
    """One spelling for all of one path: composed letters (NFC), slashes, no ./ at the start."""
    text = unicodedata.normalize("NFC", text).replace("\\", "/")
    while text.startswith("./"):
        text = text[2:]
    return text


def went_through_floats(texts: Sequence[str]) -> bool:
    """Whether all ids are numbers such as 26366.0: a program read the column as floats."""
    return bool(texts) and all(map(_FLOAT.fullmatch, texts))


def stem(text: str) -> str:
    """An image's name without its suffix, any other text as it is."""
    return text.rpartition(".")[0] if text.lower().endswith(SUFFIXES) else text


def old_id(text: str) -> str:
    """The id that sets of format version 2 have for a text: the name of the file without folder and suffix."""
    return stem(text.replace("\\", "/").rpartition("/")[2])


def make_ids(texts: Sequence[str], *, by_stem: bool) -> list[str]:
    """The id of each row; `texts` differ from each other. `by_stem`: 12.jpg is 12, as in Kaggle's layout, if that is unique."""
    wanted = [stem(text) if by_stem else text for text in texts]
    counts = Counter(wanted)
    ids = [want if counts[want] == 1 and is_usable(want) else "" for want in wanted]
    taken = set(ids)
    for row, text in enumerate(texts):
        if not ids[row]:
            ids[row] = _derived(text, taken)
            taken.add(ids[row])
    return ids


def _derived(text: str, taken: set[str]) -> str:
    name = re.sub(r"[./\\\x00-\x1f\x7f]", "_", text)
    if name not in taken and is_usable(name):
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
    kept = name.encode()[-(MAX_ID_BYTES - _HASH_DIGITS - 1) :].decode(errors="ignore")  # the end of a path says more than its beginning
    return f"{kept}_{digest}"


class RowFinder:
    """Rows of a catalog by what people type: an id, or the text of the table that it came from."""

    def __init__(self, table: "pd.DataFrame") -> None:
        self._rows: dict[str, int] = {}
        if "path" in table:
            self._rows = {same_text(text): row for row, text in enumerate(table["path"])}
        self._rows |= {identity: row for row, identity in enumerate(table["id"])}

    def find(self, text: str) -> int | None:
        row = self._rows.get(text)
        return self._rows.get(same_text(text)) if row is None else row
