"""Sets of the format's version 2, which did not say what each image is, open as sets of today do."""

import json
import shutil
from pathlib import Path

import numpy as np
from conftest import PackedSmall
from test_shards import sign

from fastfashion.shards import open_packed_set
from fastfashion.shards.verify import verify


def as_version_2(out: Path, to: Path) -> Path:
    """A copy of a set as fastfashion wrote it before version 3."""
    shutil.copytree(out, to)
    for path in (to / "set.json", *to.glob("*/manifest.json")):
        sign(path, json.loads(path.read_text()) | {"version": 2})
    return to


def test_a_set_of_version_2_opens_and_is_whole(packed_small: PackedSmall, tmp_path: Path) -> None:
    old = as_version_2(packed_small.out, tmp_path / "set")
    for name in ("full", "32"):
        now, before = open_packed_set(packed_small.out).open(name), open_packed_set(old).open(name)
        for row in range(60):
            np.testing.assert_array_equal(before.encoded(row), now.encoded(row))
    assert verify(old).damage == ()
