"""The loader benchmark: all backends do the same work, the record holds what was promised, and nothing is left behind."""

import csv
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastfashion import bench as bench_loader
from fastfashion import provenance
from fastfashion.bench import OURS, BenchRequest, Work
from fastfashion.errors import ConfigError
from fastfashion.load.crops import is_native
from fastfashion.pack import PackRequest, pack
from fastfashion.provenance import git_commit, package_versions
from loader import BACKENDS, measure, table_text

IMAGE_FOLDER, WEBDATASET = "ImageFolder + DataLoader + Pillow", "webdataset + Pillow"
FAST = ("threads", "dali", "resident", IMAGE_FOLDER, WEBDATASET)  # those that the whole benchmark is tested with
COLUMNS = ["id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", "productDisplayName"]
NUM_IMAGES = 64


@pytest.fixture(scope="module")
def request_small(tmp_path_factory: pytest.TempPathFactory) -> BenchRequest:
    """A set of 64 noisy images of 60x80, three classes and one row without a class."""
    home = tmp_path_factory.mktemp("bench")
    source = home / "source"
    (source / "images").mkdir(parents=True)
    random = np.random.default_rng(5)
    with (source / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(NUM_IMAGES):
            kind = "NA" if number == 11 else ("Topwear", "Shoes", "Watches")[number % 3]
            writer.writerow([7000 + number, "Men", "Apparel", kind, "Thing", "Blue", "Summer", 2012, "Casual", f"Thing {number}"])
            coarse = Image.fromarray(random.integers(0, 256, (20, 15, 3), dtype=np.uint8))
            noise = random.normal(0, 12, (80, 60, 3))
            pixels = np.clip(np.asarray(coarse.resize((60, 80))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(source / "images" / f"{7000 + number}.jpg", quality=90)
    pack(PackRequest(source=source, out=home / "tiny", resolutions=("full",), workers=1, rows_per_shard=25))
    return BenchRequest(shards=home / "tiny", threads=1, batch_size=16, num_images=NUM_IMAGES, rounds=2, known=BACKENDS)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def lasting_threads() -> set[threading.Thread]:
    """Those that a process waits for; libraries keep daemons besides (fsspec's event loop)."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


@pytest.fixture
def nothing_left(temporary: Path) -> Iterator[None]:
    """No file, process or thread outlives the test."""
    processes, before = multiprocessing.active_children(), lasting_threads()
    yield
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")] == []  # torch's own, made on import
    assert multiprocessing.active_children() == processes
    assert lasting_threads() <= before


def epoch(name: str, work: Work, folder: Path) -> tuple[list[int], np.ndarray]:
    """Rows in the order of delivery, and the images by row: uint8 (N, H, W, 3)."""
    folder.mkdir()
    with BACKENDS[name].open(work, folder) as batches:
        parts = list(batches())
    assert all(rows.dtype == torch.int64 and images.dtype == torch.uint8 for rows, images in parts)
    rows = torch.cat([rows for rows, _ in parts]).numpy()
    images = torch.cat([images for _, images in parts]).numpy()[rows >= 0]
    rows = rows[rows >= 0]
    return rows.tolist(), images[np.argsort(rows)]


@pytest.mark.usefixtures("nothing_left")
def test_a_benchmark_gives_what_was_promised_and_leaves_only_its_record(request_small: BenchRequest, tmp_path: Path) -> None:
    out = tmp_path / "results/new/loader.json"
    result = measure(replace(request_small, backends=FAST, profile=True, command="python bench/loader.py"))
    bench_loader.write_record(out, result)
    assert {key: result[key] for key in ("set", "resolution", "size", "threads", "batch_size", "num_images", "rounds")} == {
        "set": "tiny",
        "resolution": "full",
        "size": "80x64",
        "threads": 1,
        "batch_size": 16,
        "num_images": NUM_IMAGES,
        "rounds": 2,
    }
    assert result["ceiling_images_per_s"] > 0
    assert result["decoder"] == ("own" if is_native() else "python")
    assert [row["backend"] for row in result["rows"]] == list(FAST)
    assert [row["backend"] for row in result["rows"] if not row["decodes"]] == ["resident"]
    for row in result["rows"]:
        if row["images_per_s"] is None:
            assert row["backend"] == "dali" and not sys.platform.startswith("linux")
            continue
        assert 0 < row["low"] <= row["images_per_s"] <= row["high"]
        assert row["of_ceiling"] > 0 and row["of_image_folder"] > 0 and (row["of_threads"] == 1 or row["backend"] != "threads")
    assert len(result["busy_main"]["by_round"]) == 2 and result["busy_main"]["ratio"] > 0.9
    for name in OURS:
        assert set(result["profile"][name]) == {"read", "decode", "resize", "copy", "wait"}
    assert result["profile"]["threads"]["decode"] > 0 and result["profile"]["resident"]["decode"] == 0
    assert result["profile"]["threads"]["resize"] > 0 and result["profile"]["resident"]["resize"] > 0
    assert set(result["machine"]) == {"cpu", "gpu", "cores", "python", "platform"}
    assert result["versions"]["torch"] and "nvidia-dali-cuda120" in result["versions"]
    assert result["commit"] is None or re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", result["commit"])
    assert result["command"].startswith("python bench/loader.py --shards tiny ")
    assert json.loads(out.read_text(encoding="utf-8")) == result
    assert [path.name for path in out.parent.iterdir()] == ["loader.json"]
    assert str(request_small.shards.parent) not in out.read_text(encoding="utf-8")
    table = table_text(result).splitlines()
    for said in ("tiny", "full", "80x64", "threads 1", "64 images", "2 rounds"):
        assert said in table[0]
    assert [line.split("  ")[0] for line in table[2:8]] == ["threads", "dali", IMAGE_FOLDER, WEBDATASET, "decode only", "resident"]
    assert table[9].startswith("threads, ms an image: read") and "busy" in table[-1]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "threads" and not name.startswith("FFCV")])
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
@pytest.mark.usefixtures("nothing_left")
def test_every_backend_delivers_the_same_images(request_small: BenchRequest, tmp_path: Path, name: str, threads: int) -> None:
    work = replace(request_small, threads=threads, num_images=50).work()  # not a multiple of the batch
    try:
        found_rows, found = epoch(name, work, tmp_path / "found")
    except (ImportError, ConfigError) as error:
        pytest.skip(f"{name} cannot run here: {error}")
    rows, expected = epoch("threads", work, tmp_path / "expected")
    assert sorted(found_rows) == sorted(rows) == list(range(50)) and rows != list(range(50))
    if name != WEBDATASET or threads == 1:  # webdataset's workers take turns with batches of their own
        assert found_rows == rows
    assert found.shape == expected.shape == (50, 80, 64, 3)
    # All enlarge bilinearly; they round differently, by one grey level here and there.
    difference = np.abs(found.astype(float) - expected.astype(float)).mean(axis=(1, 2, 3))
    mirrored = np.abs(expected[:, :, ::-1].astype(float) - expected.astype(float)).mean(axis=(1, 2, 3))
    shifted = np.abs(np.roll(expected, 1, axis=1).astype(float) - expected.astype(float)).mean(axis=(1, 2, 3))
    if name == "SPDL":  # FFmpeg does not interpolate chroma, of which these images are full: only the flip and the place can be checked
        assert (difference < 0.6 * mirrored).all()
        return
    assert difference.max() < 1.0
    assert mirrored.min() > 5 and shifted.min() > 5  # so the tolerance finds a missed flip and a box one pixel off


def test_a_set_smaller_than_asked_for_is_measured_whole_and_says_so(
    request_small: BenchRequest, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    for module in ("nvidia.dali", "webdataset"):
        monkeypatch.setitem(sys.modules, module, None)  # what Python itself does for "not importable"
    result = bench_loader.bench(replace(request_small, num_images=1000, rounds=1, backends=FAST))
    assert result["num_images"] == NUM_IMAGES
    by_name = {row["backend"]: row for row in result["rows"]}
    for name in ("dali", WEBDATASET):
        row = by_name[name]
        assert [row[key] for key in ("images_per_s", "low", "high", "of_ceiling")] == [None] * 4
        assert name.split()[0] in row["why"]
        assert row["why"].splitlines()[0] in bench_loader.table_text(result)
    assert by_name["threads"]["images_per_s"] > 0 and by_name[IMAGE_FOLDER]["images_per_s"] > 0


def test_an_error_in_the_middle_closes_loaders_and_removes_files(
    request_small: BenchRequest, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    def fail(data: Any, **how: Any) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(bench_loader, "decode_rgb", fail)  # the ceiling comes last, when all loaders are open
    with pytest.raises(OSError, match="disk gone"):
        bench_loader.bench(replace(request_small, backends=FAST))


def test_a_backend_that_loses_a_batch_is_no_result(
    request_small: BenchRequest, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    whole = bench_loader.Loader

    def open_short(spec: Any) -> Any:
        loader = whole(spec)
        steps = loader.steps
        monkeypatch.setattr(loader, "steps", lambda number: steps(number, 1))
        return loader

    monkeypatch.setattr(bench_loader, "Loader", open_short)
    with pytest.raises(RuntimeError, match="threads: expected 64 images, each once; found 48"):
        bench_loader.bench(replace(request_small, backends=("threads",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "rounds: expected 1 or more, found 0"),
        ({"num_images": 15}, "images: expected 16 or more, a whole batch, found 15"),
        ({"threads": 0}, "workers: expected 1 or more, found 0"),
        ({"batch_size": 0}, "batch-size: expected 1 or more, found 0"),
        ({"size": "80by64"}, "HxW"),
        ({"backends": ("tensorflow",)}, "--backend tensorflow: expected one of threads; dali; resident; ImageFolder"),
    ],
)
def test_a_request_that_cannot_be_measured_is_refused(request_small: BenchRequest, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        replace(request_small, **changes)


def test_records_know_no_commit_outside_a_checkout_and_no_version_of_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert git_commit() is None
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)  # somebody else's checkout around an installed package
    (tmp_path / "provenance.py").touch()
    assert git_commit() is None
    assert package_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__, "no-such-package": None}


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    rates = {"threads": [100.0, 300.0, 200.0], bench_loader.CEILING: [200.0, 300.0, 800.0], bench_loader.IMAGE_FOLDER: [50.0, 100.0, 100.0]}
    row = bench_loader._row("threads", rates, {})
    assert (row["images_per_s"], row["low"], row["high"]) == (200, 100, 300)
    assert (row["of_ceiling"], row["of_image_folder"], row["of_threads"]) == (0.5, 2, 1)
