"""One column of a catalog as numpy, whether the catalog is a table of pyarrow's or of pandas'.

pyarrow's own `to_numpy` imports pandas where that is installed (26.0.1), which takes longer than opening a set does.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Table: TypeAlias = "pa.Table | pd.DataFrame"


def values(column: Any) -> np.ndarray:
    """A column of either kind, (N,): numbers as they are or, with empty ones, as float64, truths as bool, texts as objects.

    It may be the memory of the table itself, and is not to be written to.
    """
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    if pa.types.is_boolean(column.type):
        return np.from_dlpack(column.cast(pa.uint8()).combine_chunks()).astype(bool)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return np.from_dlpack(column.combine_chunks()) if not column.null_count else np.array(column.to_pylist(), dtype=np.float64)
    found = np.empty(len(column), dtype=object)
    found[:] = column.to_pylist()
    return found


def texts_at(column: "pa.ChunkedArray", rows: np.ndarray) -> list[str]:
    """The texts of rows, int64 (n,)."""
    import pyarrow as pa

    places = pa.Int64Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, dtype=np.int64))])
    return column.take(places).to_pylist()


def codes(names: Sequence[str], column: Any) -> np.ndarray:
    """int64 (N,): the place in `names` of each text of a column, -1 where it is none of them or there is no text."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        import pandas as pd

        known: Any = pd.Index(list(names), dtype="object")
        return known.get_indexer(pd.Index(column, dtype=object)).astype(np.int64)
    place = {name: code for code, name in enumerate(names)}
    chunks = column.dictionary_encode(null_encoding="encode").chunks
    return np.concatenate(
        [
            np.array([place.get(text, -1) for text in chunk.dictionary.to_pylist()], dtype=np.int64)[np.from_dlpack(chunk.indices)]
            for chunk in chunks
        ]
    )
