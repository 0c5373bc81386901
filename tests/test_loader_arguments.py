"""Every argument of ff.loader with values of all kinds: what is meant is loaded, what is not is refused in the words of the function."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall

import fastfashion as ff
from fastfashion.errors import ConfigError
from fastfashion.load import Loader

ONES = np.ones(60)


def load(packed_small: PackedSmall, **changes: Any) -> Loader:
    known: dict[str, Any] = {"split": "all", "batch_size": 7, "size": "32x24", "workers": 1, "task": None}
    return ff.loader(packed_small.out, **known | changes)


@pytest.mark.parametrize(
    "split",
    [
        pd.Series([5, 3, 44]),
        pd.Index([5, 3, 44]),
        pd.Series([5, 3, 44], dtype="Int64"),
        np.array([5, 3, 44], dtype=np.int32),
        np.array([5, 3, 44], dtype=np.uint8),
        np.array([5, 3, 44], dtype=object),
        (np.int64(5), 3, 44),
        (row for row in (5, 3, 44)),
        {5: "a", 3: "b", 44: "c"}.keys(),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_a_list_of_rows_may_have_any_type_and_is_not_shuffled_unless_asked(packed_small: PackedSmall, split: Any) -> None:
    with load(packed_small, split=split) as loader:
        assert [row for batch in loader for row in batch.rows.tolist()] == [5, 3, 44]


@pytest.mark.parametrize("made", [pd.Series, np.array, lambda ids: pd.Series(ids, dtype="string"), list])
def test_a_list_of_ids_may_have_any_type(packed_small: PackedSmall, made: Any) -> None:
    with load(packed_small) as loader:
        ids, men = loader.ids.tolist(), loader.table["gender"] == "Men"
    with load(packed_small, split=made([ids[5], ids[3]])) as loader:
        assert loader.rows.tolist() == [5, 3]
    for mask in (men, men.astype("boolean"), men.tolist()):
        with load(packed_small, split=mask) as loader:
            assert loader.rows.tolist() == np.flatnonzero(men).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": {1, 2}}, r"split: expected .*, found a set, which has no order"),
        ({"split": {1: 2}}, r"split: expected .*, found \{1: 2\}"),
        ({"split": None}, r"split: expected .*, found None"),
        ({"split": 3}, r"split: expected .*, found 3$"),
        ({"split": [1.0, 2.0]}, r"found 1.0 in it; rows are whole numbers, ids are text"),
        ({"split": np.array([1.5])}, r"found 1.5 in it; rows are whole numbers"),
        ({"split": [1, "996"]}, r"found 1 in it; rows are whole numbers"),
        ({"split": [[1], [1, 2]]}, r"found \[1\] in it"),
        ({"split": [2**70]}, r"split: expected rows from 0 to 59, found 1180591620717411303424"),
        ({"size": (80, 60, 3)}, r"size: expected HxW, .*found \(80, 60, 3\)"),
        ({"size": ("80", "60")}, r"size: expected HxW"),
        ({"size": None}, r"size: expected HxW"),
        ({"size": True}, r"size: expected HxW"),
        ({"fit": "Squash"}, r"^fit: expected squash, crop or pad, found 'Squash'"),
        ({"fit": None}, r"^fit: expected text, found None"),
        ({"backend": None}, r"^backend: expected text, found None"),
        ({"backend": "Threads"}, r"^backend: expected auto, dali, threads or resident"),
        ({"protocol": "random"}, r"^protocol: expected stratified"),
        ({"on_bad": True}, r"^on_bad: expected text, found True"),
        ({"workers": -1}, r"^workers: expected 0 to 1024, found -1"),
        ({"batch_size": 0}, r"^batch_size: expected 1 or more, found 0"),
        ({"seed": -1}, r"^seed: expected 0 to below 2\^63, found -1"),
        ({"seed": 2**64}, r"^seed: expected a number below 2\^63, found 18446744073709551616"),
        ({"window": 0}, r"^window: expected 1 or more, found 0"),
        ({"fold": 9}, r"^fold: expected 0 to below 5, found 9"),
        ({"split_seed": -1, "split": "train"}, r"^split_seed: expected 0 or more, found -1"),
        ({"settings": {"data.workers": -1}}, r"^data.workers: expected 0 to 1024"),  # the setting that was given
        ({"settings": {1: 1}}, r"settings: 1 means nothing to a loader"),
        ({"settings": {"data.task": "season"}}, r"settings: data.task means nothing to a loader.*; use the argument task"),
        ({"cache_dir": 3}, r"^cache_dir: expected text, found 3"),
        ({"shuffle": np.ones(3)}, r"^shuffle: expected True, False, epoch or window"),
        ({"shuffle": "no"}, r"^shuffle: expected True, False, epoch or window, found 'no'"),
        ({"drop_last": "no"}, r"^drop_last: expected True or False, found 'no'"),
        ({"augment": "no"}, r"^augment: expected True, False or settings"),
        ({"augment": 0}, r"^augment: expected True, False or settings"),
        ({"augment": {1: 1}}, r"unknown setting 'augment.1'"),
        ({"rank": 0, "world_size": 0}, r"^world_size: expected 1 or more, found 0"),
        ({"rank": True, "world_size": 2}, r"^rank: expected int, found True"),
        ({"rank": 0, "world_size": 1.5}, r"^world_size: expected int, found 1.5"),
        ({"weights": ONES}, r"^weights: expected shuffle=True, found shuffle=False"),  # they would change nothing
        ({"shuffle": True, "weights": ONES * np.nan}, r"^weights: expected finite numbers, 0 or more, found nan for row 0$"),
        ({"shuffle": True, "weights": ONES * 1e308}, r"^weights: expected numbers with a finite sum.*found a sum of inf"),
        ({"shuffle": True, "weights": ["a"] * 60}, r"^weights: expected a number for each of the 60 rows"),
        ({"shuffle": True, "weights": {"a": 1}}, r"^weights: expected a number for each of the 60 rows"),
        ({"shuffle": True, "weights": ONES * 1j}, r"^weights: expected a number for each of the 60 rows"),
    ],
)
def test_what_an_argument_cannot_be_is_refused_in_the_words_of_the_function(
    packed_small: PackedSmall, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        load(packed_small, **changes)
    assert "--" not in str(error.value) and len(str(error.value)) < 400


def test_numbers_of_numpy_and_other_forms_mean_what_they_say(packed_small: PackedSmall) -> None:
    off = load(packed_small, augment=np.bool_(False), shuffle=np.bool_(True), cache_dir=None, rank=np.int64(1), world_size=np.int64(2))
    square, weighted = load(packed_small, size=80), load(packed_small, weights=iter([1] * 60), shuffle=True, cache_dir=Path("cache"))
    with off, square, weighted:
        plan = off.spec.plan
        assert (plan.augment, plan.shuffled, off.spec.cache_dir, off.spec.rank) == (None, True, "", 1)
        assert (str(square.spec.size), weighted.spec.cache_dir) == ("80x80", "cache")
