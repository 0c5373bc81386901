"""Every backend makes the same images on every device, training learns, and a killed run resumes exactly.

plan ─► threads on the CPU: the reference
   └──► DALI on the CPU, on the GPU; resident ─► difference in grey levels, by image ─► against a tolerance
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastfashion.config import AugmentConfig, RunConfig
from fastfashion.dist import cores_per_process, num_threads
from fastfashion.errors import ConfigError
from fastfashion.load import Loader
from fastfashion.runs.files import read_metrics
from fastfashion.shards import open_packed_set
from fastfashion.train.checkpoint import read_checkpoint
from fastfashion.train.learner import below
from gpu_record import FULL, TINY, Check, Record
from gpu_sets import KINDS, OF_KINDS, SMALL_40, STOCKS, Stock, make_spec, prepare, rows_of_kind, stock_of
from gpu_train import run_config, run_training

# Mean difference, grey levels of 0..255, that no image may exceed. The CPU's backends stay below 0.45 (1800x2400, where threads decode
# at a smaller scale), most below 0.05; a crop box that is off by one pixel makes 2 and more, which each test compares with.
TOLERANCE = 1.0
CROPS = "crops and flips"
WORK = {
    "whole images": None,
    CROPS: AugmentConfig(),
    "crops, flips, colour, erasing": AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, grayscale=0.2, erase=0.3),
    "crops, flips, mixing": AugmentConfig(mixup=0.4, cutmix=1.0),
}
CASES = [*product(STOCKS, WORK), (SMALL_40, CROPS)]
DALI_CPU = "dali on cpu"
EPOCH = 1
SET_UP_S = 1200  # an upper bound: nothing is left out for lack of time


@pytest.fixture(scope="module", params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What to compare where: a few dozen small images on a CPU, 1800x2400 and all kinds of files on a GPU."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device here")
    home = tmp_path_factory.mktemp(f"gpu-{request.param}")
    scale = TINY if request.param == "cpu" else replace(FULL, draw_s=0, photos_a_core=1)
    places = {"out": home, "sets": home / "sets", "real_zip": None}
    check = Check(**places, device=request.param, scale=scale, threads=cores_per_process(1), with_dali=True, command="pytest")
    record = Record(path=home / "sets.json", check=check, stage="sets", ends_at=time.monotonic() + SET_UP_S)
    record.begin("the packed sets of the tests")
    prepare(record)
    assert record.values["failed"] == record.values["skipped"] == []
    return check


@dataclass(frozen=True, kw_only=True)
class Images:
    """An epoch as a backend made it: rows int64 (n,), labels int64 (n, T), images int16 (n, H, W, 3)."""

    rows: np.ndarray
    labels: np.ndarray
    images: np.ndarray


def epoch_of(
    check: Check,
    stock: Stock,
    augment: AugmentConfig | None,
    rows: np.ndarray,
    backend: str,
    device: str,
    load: float | None = None,
    **shape: Any,
) -> Images:
    """Read when the last batch is made, so that a buffer that is used again too early is seen."""
    where = check.torch_device if device == "cuda" else torch.device("cpu")
    spec = make_spec(check, stock, device=where, augment=augment, rows=rows, backend=backend, hw_decoder_load=load, batch_size=32, **shape)
    with closing(Loader(spec)) as loader:
        parts = [(batch.rows, batch.labels, batch.images) for batch in loader.steps(EPOCH)]
        found, labels, images = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in range(3))
    return Images(rows=found, labels=labels, images=images.astype(np.int16))


def assert_same_images(a: Images, b: Images, one_pixel_off: float, what: str) -> None:
    assert np.array_equal(a.rows, b.rows) and np.array_equal(a.labels, b.labels), what
    by_image = np.abs(a.images - b.images).mean(axis=(1, 2, 3))
    worst = by_image.max()
    assert worst <= TOLERANCE < one_pixel_off, f"{what}: row {a.rows[by_image.argmax()]} differs by {worst:.3f} grey levels in the mean"


def compare_backends(
    check: Check, stock: Stock, augment: AugmentConfig | None, rows: np.ndarray, loads: tuple[float, ...] = (), **shape: Any
) -> None:
    """Every backend and device against threads on the CPU, and the GPU's DALI against the CPU's."""
    reference = epoch_of(check, stock, augment, rows, "threads", "cpu", **shape)
    assert 50 < reference.images.mean() < 250  # an image, not black
    one_pixel_off = float(np.median(np.abs(np.diff(reference.images, axis=2)).mean(axis=(1, 2, 3))))
    dali = epoch_of(check, stock, augment, rows, "dali", "cpu", **shape)
    assert_same_images(dali, reference, one_pixel_off, DALI_CPU)
    resident = epoch_of(check, stock, augment, rows, "resident", check.device, **shape)
    assert_same_images(resident, reference, one_pixel_off, f"resident on {check.device}")
    for load in (None, *loads) if check.device == "cuda" else ():
        try:
            found = epoch_of(check, stock, augment, rows, "dali", "cuda", load, **shape)
        except ConfigError as error:
            if load is None:
                raise
            print(f"hw_decoder_load {load} cannot run here: {error}")  # a GPU without a JPEG engine
            continue
        assert_same_images(found, reference, one_pixel_off, f"dali on cuda, hw_decoder_load {load}")
        assert_same_images(found, dali, one_pixel_off, f"dali on cuda, hw_decoder_load {load}, against {DALI_CPU}")


def some_rows(check: Check, stock: Stock) -> np.ndarray:
    return np.arange(min(check.scale.num_compared, len(open_packed_set(check.sets / stock.name))))


@pytest.mark.parametrize(("stock", "work"), CASES, ids=[f"{stock.name} at {stock.resolution}, {work}" for stock, work in CASES])
def test_every_backend_makes_the_same_images(check: Check, stock: Stock, work: str) -> None:
    compare_backends(check, stock, WORK[work], some_rows(check, stock), (0.0, 1.0) if work == CROPS and stock in STOCKS else ())


@pytest.mark.parametrize("fit", [{"fit": "crop", "crop_pct": 0.875}, {"fit": "pad", "pad_color": "200,40,90"}], ids=lambda fit: fit["fit"])
@pytest.mark.parametrize("work", [*WORK][:3])
def test_every_backend_fits_images_alike(check: Check, fit: dict[str, Any], work: str) -> None:
    small = stock_of("small")
    compare_backends(check, small, WORK[work], some_rows(check, small), size="64x96", fit=fit)


@pytest.mark.parametrize("kind", KINDS)
def test_every_backend_reads_every_kind_of_file(check: Check, kind: str) -> None:
    rows = rows_of_kind(open_packed_set(check.sets / OF_KINDS.name), kind)
    assert len(rows) == 8
    compare_backends(check, OF_KINDS, AugmentConfig(), rows)


def test_each_work_changes_the_images(check: Check) -> None:
    small = stock_of("small")
    made = [epoch_of(check, small, augment, some_rows(check, small), "threads", "cpu").images for augment in WORK.values()]
    assert all((one != other).any() for one, other in combinations(made, 2))


@pytest.mark.slow
def test_training_learns_and_a_killed_run_ends_with_the_same_weights(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Three runs of the same settings on kernels that repeat exactly: whole, whole once more, and killed after a checkpoint and resumed."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS, when it starts, needs in order to repeat exactly
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(num_threads(1))  # as the killed process: another number adds in another order
    config = run_config(check, "drawn", size="32x32", backend="auto", epochs=check.scale.epochs, log_every_steps=4, deterministic=True)
    train_and_kill(check, config, tmp_path / "killed")
    for name in ("whole", "repeated"):
        run_training(check, config, tmp_path / name)
    summary = run_training(check, config, tmp_path / "killed")
    whole, repeated, resumed = (final_weights(tmp_path / name) for name in ("whole", "repeated", "killed"))
    assert largest_difference(whole, repeated) == largest_difference(whole, resumed) == 0
    assert 0 < summary.resumed_at_step < summary.steps
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole") if line["kind"] == "step"]
    quarter = max(1, len(losses) // 4)
    assert np.mean(losses[-quarter:]) < np.mean(losses[:quarter])


def train_and_kill(check: Check, config: RunConfig, run: Path) -> None:
    """Kill a run as soon as its first checkpoint is there."""
    settings = [f"--set={section}.{key}={value}" for section, values in config.to_dict().items() for key, value in values.items()]
    command = [sys.executable, "-m", "fastfashion.train", *settings, "--shards", config.data.shards]
    command += ["--out", str(run.parent), "--name", run.name]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if check.device == "cpu" else {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | hidden)
    try:
        end = time.monotonic() + check.scale.start_s
        while not checkpoints_of(run) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
    finally:
        process.kill()
        status = process.wait()
    assert status == -signal.SIGKILL and checkpoints_of(run)


def checkpoints_of(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*.json"))


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return below("model/", read_checkpoint(checkpoints_of(run)[-1]).tensors)


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
