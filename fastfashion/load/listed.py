"""The rows of a packed set that somebody lists, as rows, ids or a mask, and a weight for each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fastfashion.errors import ConfigError

EXPECTED = "split: expected train, val, test, all, or a list of rows or ids"


def listed_rows(ids: np.ndarray, listed: Any, where: object) -> np.ndarray:
    """The rows of a list of rows, of ids, or of a mask: int64 (n,). Raises ConfigError for anything else.

    ids: of all rows of the set, text (N,). where: the set, for messages.
    """
    values = _array(listed)
    kind = _kind(values)
    if kind is bool:
        if len(values) != len(ids):
            raise ConfigError(f"split: expected a mask of {len(ids)} rows, found {len(values)}")
        return np.flatnonzero(values.astype(bool))
    if kind is int:
        wrong = values[(values < 0) | (values >= len(ids))]
        if len(wrong):
            raise ConfigError(f"split: expected rows from 0 to {len(ids) - 1}, found {wrong[0]}; ids are text")
        return values.astype(np.int64)
    row_of = {identity: row for row, identity in enumerate(ids.tolist())}
    rows = [row_of.get(identity, -1) for identity in values.tolist()]
    if -1 in rows:
        missing = [values.tolist()[place] for place, row in enumerate(rows) if row < 0]
        raise ConfigError(f"split: {len(missing)} of {len(rows)} ids are not in {where}, the first is {missing[0]!r}")
    return np.array(rows, dtype=np.int64)


def _kind(values: np.ndarray) -> type:
    """The one type of all values: bool, int (also of none) or str."""
    if values.dtype != object:
        kinds = {{"b": bool, "i": int, "u": int, "U": str}.get(values.dtype.kind, values.dtype.type)}
    else:
        kinds = {type(value) for value in values.tolist()}
    for kind in (int, bool, str):
        if kinds <= {kind} or not len(values):
            return kind
    other = next((value for value in values.tolist() if type(value) is not str), values[:1].tolist()[0])
    raise ConfigError(f"{EXPECTED}, found {_short(other)} in it; rows are whole numbers, ids are text")


def listed_weights(weights: Any, num_rows: int, rows: np.ndarray) -> np.ndarray:
    """The weights of `rows`: float64 (n,). Raises ConfigError unless there is a number for each row of the set, with a finite sum."""
    expected = f"weights: expected a number for each of the {num_rows} rows of the set"
    try:
        found = np.asarray(list(weights) if isinstance(weights, Iterator) else weights)
        values = found.astype(np.float64, casting="unsafe" if found.dtype == object else "same_kind")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{expected}, found {_short(weights)}") from error
    if values.shape != (num_rows,):
        raise ConfigError(f"{expected}, found an array of shape {values.shape}")
    wrong = np.flatnonzero(~(values >= 0) | np.isinf(values))
    if len(wrong):
        raise ConfigError(f"weights: expected finite numbers, 0 or more, found {values[wrong[0]]} for row {wrong[0]}")
    with np.errstate(over="ignore"):
        total = values[rows].sum()
    if not 0 < total < np.inf:
        raise ConfigError(f"weights: expected numbers with a finite sum, not all 0 in the rows of the split, found a sum of {total}")
    return values[rows]


def _array(listed: Any) -> np.ndarray:
    """(n,), of the elements' own types."""
    if isinstance(listed, set | frozenset):
        raise ConfigError(f"{EXPECTED}, found a set, which has no order: give sorted(…)")
    if isinstance(listed, Mapping | bytes) or (not isinstance(listed, Iterable) and not hasattr(listed, "__array__")):
        raise ConfigError(f"{EXPECTED}, found {_short(listed)}")
    if isinstance(listed, list | tuple):
        values = np.empty(len(listed), dtype=object)  # numpy would turn numbers beside text into text
        values[:] = [value.item() if isinstance(value, np.generic) else value for value in listed]
        return values
    if not hasattr(listed, "__array__"):
        return _array(list(listed))
    values = np.asarray(listed)
    if values.ndim != 1:
        raise ConfigError(f"{EXPECTED}, found an array of shape {values.shape}")
    return values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}"
