"""The packing benchmark: stand-ins like photographs, contestants that do the same work, a record that says what was measured."""

import json
import multiprocessing
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import digests, make_source
from PIL import Image
from sklearn.datasets import load_sample_image

import memory
import peers
import shard
from fastfashion.catalog import read_styles
from fastfashion.errors import ConfigError
from fastfashion.images.codec import decode_rgb
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import open_packed_set
from fastfashion.sources import open_source
from photos import DESCRIPTION, PhotoSpec, make_photos, octaves, repeat_photos
from shard import BenchShardRequest, bench, table_text

STAND_IN_ROWS = {
    "pack 224",
    "pack 512",
    "pack 224 512",
    "pack 224 512 full",
    "pack 224, 1 worker",
    "Pillow 224",
    "Pillow 224 512 and copy",
    "img2dataset 224",
    "decode only",
    "copy and fsync",
}
SMALL = PhotoSpec(count=8, width_px=300, height_px=400)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight stand-ins of 300x400."""
    folder = tmp_path_factory.mktemp("bench-shard") / "photos"
    make_photos(folder, SMALL, workers=1)
    return folder


@pytest.fixture
def request_small(photos: Path) -> BenchShardRequest:
    return BenchShardRequest(num_images=8, workers=1, rounds=1, width_px=300, height_px=400, photos=photos)


@pytest.fixture
def without_img2dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)  # what Python itself does for "not importable"
    peers.load_resizer.cache_clear()


def needs_img2dataset() -> None:
    try:
        peers.load_resizer(224)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no img2dataset: {error}; {peers.INSTALL_IMG2DATASET}")


@pytest.mark.slow
def test_a_benchmark_measures_everybody_and_leaves_only_its_record(request_small: BenchShardRequest, tmp_path: Path) -> None:
    source, out = make_source(tmp_path / "real"), tmp_path / "results/new/shard.json"
    before, children = sorted(request_small.photos.parent.iterdir()), set(multiprocessing.active_children())
    result = bench(replace(request_small, workers=2, rounds=2, source=source, out=out))
    assert json.loads(out.read_text(encoding="utf-8")) == result
    assert [path.name for path in out.parent.iterdir()] == ["shard.json"]
    assert sorted(request_small.photos.parent.iterdir()) == before
    assert set(multiprocessing.active_children()) <= children

    by_name = {row["contestant"]: row for row in result["rows"]}
    assert by_name.keys() == STAND_IN_ROWS | {"source, pack full", "source, pack full 40"}
    real_rows = read_styles(open_source(source).read_table(), "styles.csv").num_rows
    table = table_text(result)
    for name, row in by_name.items():
        assert name in table
        if row["images_per_s"] is None:
            assert name == "img2dataset 224" and "to install it: pip install" in row["why"]
            continue
        assert row["num_images"] == (real_rows if name.startswith("source") else 8)
        for figures in (row["images_per_s"], row["core_s_per_image"]):
            assert len(figures["by_round"]) == 2
            assert 0 < figures["low"] <= figures["median"] <= figures["high"]
    ratios = {ratio["ratio"]: ratio for ratio in result["ratios"]}
    assert all(len(ratio["by_round"]) == 2 and min(ratio["by_round"]) > 0 for ratio in ratios.values())
    assert {"pack 224: share of the ceiling", "2 workers: times the rate of 1"} <= ratios.keys()
    assert ratios["pack 224: times Pillow's rate"]["at_least"] == 6
    assert ratios["pack 224 512: time of pack 512"]["at_most"] == 1.2
    assert result["photos"]["width_px"] == 300 and result["source"] == "real"
    assert str(tmp_path) not in json.dumps(result)


@pytest.mark.usefixtures("without_img2dataset")
def test_without_img2dataset_its_row_says_how_to_install_it(request_small: BenchShardRequest) -> None:
    result = bench(request_small)
    row = next(row for row in result["rows"] if row["contestant"] == "img2dataset 224")
    assert row["images_per_s"] is None and row["core_s_per_image"] is None
    assert "albumentations" in row["why"] and "pip install --no-deps img2dataset albumentations==" in row["why"]
    assert row["why"] in table_text(result)
    assert all("img2dataset" not in ratio["ratio"] for ratio in result["ratios"])
    assert "pack 224, 1 worker" not in {row["contestant"] for row in result["rows"]}  # all have one worker here


@pytest.mark.usefixtures("without_img2dataset")
def test_packing_that_loses_a_image_is_no_result(request_small: BenchShardRequest, tmp_path: Path) -> None:
    damaged = tmp_path / "photos"
    files = make_photos(damaged, SMALL, workers=1)
    files[3].write_bytes(files[3].read_bytes()[:-2000])
    with pytest.raises(RuntimeError, match="pack 224: expected 8 images, found 7 done"):
        bench(replace(request_small, photos=damaged))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_a_peer_that_loses_a_image_is_no_result(photos: Path, tmp_path: Path) -> None:
    needs_img2dataset()
    files = repeat_photos(sorted(photos.glob("*.jpg")), tmp_path / "source", 8)
    files[0].unlink()
    files[0].write_bytes(b"\xff\xd8\xff no image")
    contestants, missing = shard._contestants(BenchShardRequest(num_images=8, workers=1), tmp_path, files)
    assert missing == {}
    with pytest.raises(RuntimeError, match=re.escape("img2dataset 224: expected 8 images, found 7 done, [7] left")):
        shard._time("img2dataset 224", contestants["img2dataset 224"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_everybody_makes_images_of_the_same_size_and_content(photos: Path, tmp_path: Path) -> None:
    needs_img2dataset()
    files = repeat_photos(sorted(photos.glob("*.jpg")), tmp_path / "source", 8)
    pack(PackRequest(source=tmp_path / "source", out=tmp_path / "packed"))
    packed = open_packed_set(tmp_path / "packed")
    for name in ("pillow", "img2dataset"):
        (tmp_path / name / "224").mkdir(parents=True)
    peers.with_pillow(tmp_path / "pillow", (224,), False, files)
    peers.with_img2dataset(tmp_path / "img2dataset", 224, files)
    for row, identity in enumerate(packed.table["id"]):
        ours = decode_rgb(packed.open("224").encoded(row)).astype(float)
        assert ours.shape == (299, 224, 3)
        for name in ("pillow", "img2dataset"):
            theirs = np.asarray(Image.open(tmp_path / name / "224" / f"{identity}.jpg").convert("RGB")).astype(float)
            assert theirs.shape == ours.shape
            assert np.abs(theirs - ours).mean() < 5


def test_the_copy_is_of_all_bytes_and_pillows_copy_too(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.glob("*.jpg"))
    peers.copy_files(tmp_path / "joined", files)
    assert (tmp_path / "joined").read_bytes() == b"".join(file.read_bytes() for file in files)
    (tmp_path / "full").mkdir()
    peers.with_pillow(tmp_path, (), True, files)
    assert digests(tmp_path / "full").items() == digests(photos).items() - {(DESCRIPTION, digests(photos)[DESCRIPTION])}


def test_the_same_seed_makes_the_same_stand_ins_whatever_the_workers(photos: Path, tmp_path: Path) -> None:
    make_photos(tmp_path / "again", SMALL, workers=2)
    make_photos(tmp_path / "other", replace(SMALL, seed=1), workers=1)
    first, again, other = (digests(folder) for folder in (photos, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert len(set(first.values()) | set(other.values())) == 2 * (SMALL.count + 1)  # every image another, and its description


def test_stand_ins_are_made_once_and_a_folder_with_others_is_left_alone(photos: Path, tmp_path: Path) -> None:
    stamps = {path.name: path.stat().st_mtime_ns for path in photos.iterdir()}
    assert make_photos(photos, SMALL, workers=1) == sorted(photos.glob("*.jpg"))
    assert {path.name: path.stat().st_mtime_ns for path in photos.iterdir()} == stamps
    with pytest.raises(ConfigError, match="count 8 instead of 9"):
        make_photos(photos, replace(SMALL, count=9), workers=1)
    (tmp_path / "mine.jpg").touch()
    with pytest.raises(ConfigError, match=f"without {DESCRIPTION}"):
        make_photos(tmp_path, SMALL, workers=1)


def slope(image: np.ndarray) -> float:
    """Exponent of the amplitude spectrum of a (H, W) image between 1/64 and 1/4 of a cycle a pixel."""
    side = min(image.shape)
    square = image[:side, :side] - image[:side, :side].mean()
    window = np.hanning(side)
    amplitude = np.abs(np.fft.fft2(square * window * window[:, None]))
    frequency = np.hypot(np.fft.fftfreq(side), np.fft.fftfreq(side)[:, None])
    edges = np.geomspace(1 / 64, 1 / 4, 9)
    bands = [(frequency >= low) & (frequency < high) for low, high in pairwise(edges)]
    means = [(np.log(frequency[band].mean()), np.log(amplitude[band].mean())) for band in bands]
    return float(np.polyfit(*zip(*means, strict=True), 1)[0])


def test_the_texture_has_the_spectrum_of_photographs() -> None:
    real = [slope(load_sample_image(name).mean(axis=2)) for name in ("china.jpg", "flower.jpg")]
    texture = slope(octaves(640, 640, np.random.default_rng(3)))
    assert abs(slope(np.random.default_rng(3).standard_normal((640, 640)))) < 0.1  # white noise, which no photograph is
    assert min(real) - 0.15 < texture < max(real) + 0.15
    assert texture == pytest.approx(-1, abs=0.15)


def test_a_stand_in_of_full_size_takes_as_many_bytes_as_a_photograph(tmp_path: Path) -> None:
    files = make_photos(tmp_path / "photos", PhotoSpec(count=2, width_px=1800, height_px=2400), workers=1)
    for file in files:
        with Image.open(file) as image:
            assert image.size == (1800, 2400)
        assert 450_000 < file.stat().st_size < 950_000


def test_images_repeat_under_other_ids_without_taking_room(photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.glob("*.jpg"))
    links = repeat_photos(images, tmp_path / "source", 20)
    source = open_source(tmp_path / "source")
    styles = read_styles(source.read_table(), "styles.csv")
    assert len(source.images) == styles.num_rows == len(set(styles.table["id"])) == len(links) == 20
    assert [link.stat().st_ino for link in links] == [images[row % 8].stat().st_ino for row in range(20)]


def test_peak_memory_is_told_apart_by_parent_and_largest_child() -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc")
    hold = "block = bytearray({} * 10**6); import time; time.sleep(0.3)"
    small, large = hold.format(10), hold.format(300)
    parent = (
        "import subprocess, sys; block = bytearray(100 * 10**6)\n"
        f"for code in ({small!r}, {large!r}): subprocess.run([sys.executable, '-c', code], check=True)"
    )
    parent_mb, child_mb = memory.peak_mb([sys.executable, "-c", parent])
    assert 100 < parent_mb < 200
    assert 300 < child_mb < 400
    with pytest.raises(RuntimeError, match="no such luck"):
        memory.peak_mb([sys.executable, "-c", "raise SystemExit('no such luck')"])


@pytest.mark.slow
def test_memory_is_measured_with_few_and_with_eight_times_as_many_rows(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc")
    monkeypatch.setattr(memory, "SMALL_ROWS", 3)
    found = memory.measure_memory(sorted(photos.glob("*.jpg")), rows=16, workers=2, folder=tmp_path)
    assert [(peak["images"], peak["rows"]) for peak in found] == [("stand-in", 2), ("stand-in", 16), ("60x80", 3), ("60x80", 24)]
    assert all(20 < peak["worker_mb"] < 2000 and 20 < peak["parent_mb"] < 2000 for peak in found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "--rounds: expected 1 or more, found 0"),
        ({"num_images": 0}, "--images: expected 1 or more, found 0"),
        ({"workers": 0}, "--workers: expected 1 or more, found 0"),
        ({"width_px": 31}, "width_px: expected 32 or more, found 31"),
        ({"out": Path()}, "expected a file to write"),
        ({"photos": Path(__file__)}, "expected a folder, found a file"),
        ({"source": Path("no/such/zip")}, "no such file or folder"),
    ],
)
def test_a_request_that_cannot_be_measured_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        BenchShardRequest(**changes)


def test_the_peers_tasks_import_neither_pandas_nor_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import peers, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(peers.__file__).parent,
    )
    assert {"pandas", "torch", "numpy", "cv2"}.isdisjoint(done.stdout.split())


def test_a_ratio_is_of_wall_seconds_in_the_same_round() -> None:
    def timings(*seconds: float) -> list[shard.Timing]:
        return [shard.Timing(seconds=each, core_s=1.0) for each in seconds]

    measured = {shard.PILLOW: timings(8, 9), shard.OURS: timings(2, 3), shard.OURS_FULL: timings(6, 6)}
    measured |= {shard.OURS_BOTH: timings(3, 2), shard.COPY: timings(1, 2), shard.OURS_ALONE: timings(4, 4.5)}
    found = {
        ratio.name: shard._ratio(ratio, measured)["by_round"] for ratio in shard.ratios(2) if measured.keys() >= {*ratio.over, *ratio.under}
    }
    assert found == {
        "pack 224: times Pillow's rate": [4, 3],
        "pack 224 512 full: time of pack 224 512 and a copy": [1.5, 1.5],
        "2 workers: times the rate of 1": [2, 1.5],
    }
