"""A loader costs what it uses: a packed set opens without pandas, and what was opened may be sent to another process."""

import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import PackedSmall

from fastfashion.catalog import Vocab, joint_split
from fastfashion.catalog.columns import codes, texts_at, values
from fastfashion.shards import PackedSet, Resolution, open_packed_set

HOME = Path(__file__).parents[1]


def in_a_fresh_process(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_column_is_as_in_the_pandas_table(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    assert packed.columns.column_names == list(packed.table.columns)
    for name in packed.table:
        ours, theirs = packed.column(str(name)), packed.table[name].to_numpy()
        assert ours.dtype == theirs.dtype, name
        pd.testing.assert_series_equal(pd.Series(ours), pd.Series(theirs))
    assert packed.ids.tolist() == packed.table["id"].tolist()


@pytest.mark.parametrize("chunks", [[["a", None, "c", "b"]], [["b", "x"], [], ["a", None, "b"]]])
def test_codes_of_arrow_are_those_of_pandas(chunks: list[list[str | None]]) -> None:
    column = pa.chunked_array(chunks, pa.string())
    texts = column.to_pylist()
    found = codes(("a", "b"), column)
    assert found.dtype == np.int64
    assert found.tolist() == codes(("a", "b"), pd.Series(texts, dtype=object)).tolist() == [{"a": 0, "b": 1}.get(str(t), -1) for t in texts]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.chunked_array([[1, 2], [3]], pa.int64()), np.array([1, 2, 3])),
        (pa.chunked_array([[1, None]], pa.int64()), np.array([1.0, np.nan])),
        (pa.chunked_array([[True], [False]], pa.bool_()), np.array([True, False])),
        (pa.chunked_array([["ä", None]], pa.string()), np.array(["ä", None], dtype=object)),
    ],
)
def test_a_column_as_numpy(column: pa.ChunkedArray, expected: np.ndarray) -> None:
    found = values(column)
    assert found.dtype == expected.dtype
    pd.testing.assert_series_equal(pd.Series(found), pd.Series(expected))


def test_the_texts_of_rows() -> None:
    column = pa.chunked_array([["a", "ä"], [], ["c"]], pa.string())
    assert texts_at(column, np.array([2, 0, 2, 1, 1])[::2]) == ["c", "c", "ä"]
    assert texts_at(column, np.zeros(0, dtype=np.int64)) == []


@pytest.mark.parametrize("protocol", ["reference", "stratified", "folds"])
def test_a_split_is_the_same_from_either_table(packed_small: PackedSmall, protocol: str) -> None:
    packed = open_packed_set(packed_small.out)
    tasks = ["subCategory", "gender"]
    ours, theirs = (joint_split(table, packed.vocab, tasks, tasks, protocol, 1) for table in (packed.columns, packed.table))
    np.testing.assert_array_equal(ours.train, theirs.train)
    for task in tasks:
        for part, rows in ours.of(task).parts().items():
            np.testing.assert_array_equal(rows, theirs.of(task).parts()[part])


OPENED = """
import pickle, sys
from pathlib import Path
from fastfashion.catalog import ids_hash, joint_split
from fastfashion.shards import open_packed_set
packed = open_packed_set(Path(sys.argv[1]))
split = joint_split(packed.columns, packed.vocab, ["subCategory"], ["subCategory"], "stratified")
images = packed.open("full")
assert packed.vocab.codes(packed.columns, ["subCategory"]).shape == (len(packed), 1)
assert images.encoded(7).any() and ids_hash(packed.ids) and images.where(3)
print(*sys.modules)
"""
NOT_FOR_A_SET = {"torch", "pandas", "cv2", "PIL", "scipy", "matplotlib", "typer", "rich", "requests", "fsspec", "upath", "jinja2", "tqdm"}


def test_a_set_opens_and_splits_without_pandas_and_torch(packed_small: PackedSmall) -> None:
    loaded = {name.partition(".")[0] for name in in_a_fresh_process(OPENED, packed_small.out).split()}
    assert {"pyarrow", "numpy", "fastfashion"} <= loaded
    assert not NOT_FOR_A_SET & loaded


READ = """
import pickle, sys, zlib
images = pickle.loads(open(sys.argv[1], "rb").read())
print(*[zlib.crc32(images.encoded(row).data) for row in (0, 31, 59)], images.where(31))
assert not images.unlike(__import__("numpy").array([5]), [images.encoded(5)])
"""


def opened_and_read(packed_small: PackedSmall) -> Resolution:
    images = open_packed_set(packed_small.out).open("full")
    for row in range(60):
        images.encoded(row)
    images.unlike(np.arange(60), [images.encoded(row) for row in range(60)])
    return images


def test_what_was_opened_is_sent_to_another_process_without_its_images(packed_small: PackedSmall, tmp_path: Path) -> None:
    images = opened_and_read(packed_small)
    sent = pickle.dumps(images)
    assert len(sent) < 20_000 < sum(images.num_bytes)
    (tmp_path / "images").write_bytes(sent)
    found = in_a_fresh_process(READ, tmp_path / "images")
    assert found.split(maxsplit=3)[:3] == [str(images.crc32[row]) for row in (0, 31, 59)]
    assert found.split(maxsplit=3)[3].strip() == images.where(31)


def read_in_child(images: Resolution, pipe: "multiprocessing.connection.Connection") -> None:
    pipe.send([images.encoded(row).tobytes() for row in (0, 31, 59)])


def test_what_was_opened_is_read_in_a_forked_child(packed_small: PackedSmall) -> None:
    images = opened_and_read(packed_small)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(images, theirs))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == [images.encoded(row).tobytes() for row in (0, 31, 59)]
    child.join(60)
    assert child.exitcode == 0


def test_a_set_of_other_columns_is_a_set(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    changed: PackedSet = replace(packed, columns=packed.columns.slice(0, 9), vocab=Vocab({"gender": ("Men",)}))
    assert (len(changed), len(changed.table), len(changed.ids)) == (9, 9, 9)


FIRST_BATCH = """
import sys
import fastfashion as ff
loader = ff.loader(sys.argv[1], backend="threads", batch_size=16, device="cpu")
batches = iter(loader)
assert next(batches).images.shape[1:] == (80, 64, 3) and len(loader) == 3 and loader.state_dict()["samples"] and len(loader.ids) == 60
print(*sys.modules)  # and ends with an iterator that is alive
"""
NOT_FOR_A_LOADER = {"timm", "torchvision", "wandb", "huggingface_hub", "typer", "rich", "pandas", "matplotlib", "sklearn", "scipy", "cv2"}


def test_a_loader_gives_its_first_batch_without_what_it_does_not_use(packed_small: PackedSmall) -> None:
    command = [sys.executable, "-c", FIRST_BATCH, str(packed_small.out)]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.split())
    assert {"torch", "pyarrow", "fastfashion.load.threads"} <= loaded
    assert not NOT_FOR_A_LOADER & {name.partition(".")[0] for name in loaded}
    assert "nvidia.dali" not in loaded
