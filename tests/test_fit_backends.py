"""data.fit in all backends, training, evaluation and preview: every backend makes the same images of the same plan."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall, make_source, smooth_image
from test_pack import add_row

from fastfashion import dist
from fastfashion.config import AugmentConfig, DataConfig, RunConfig, Size
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate import EvaluateRequest, evaluate_run
from fastfashion.load import Loader, Selection, crops, dali, make_spec, resident
from fastfashion.load.fit import Fit
from fastfashion.pack import PackRequest, pack
from fastfashion.predict.inputs import find_inputs
from fastfashion.predict.predictor import Predictor
from fastfashion.runs.folder import check_run_folder
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.train.job import resolve, train

CPU = torch.device("cpu")
# Height, width.
SHAPES = [(80, 60), (61, 83), (97, 31), (30, 120), (20, 300), (300, 20), (17, 17), (64, 48), (81, 61), (33, 57), (1, 40), (50, 1)]
SETTINGS: dict[str, dict[str, Any]] = {
    "squash": {},
    "crop": {"fit": "crop"},
    "crop 0.875": {"fit": "crop", "crop_pct": 0.875},
    "pad": {"fit": "pad", "pad_color": "250,7,90"},
}
COLOURED = AugmentConfig(min_area=0.2, brightness=0.3, contrast=0.3, saturation=0.5, hue=0.1, grayscale=0.3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """Images of many shapes: JPEGs in colour and in gray, PNGs."""
    home = tmp_path_factory.mktemp("shapes")
    source = make_source(home / "source", rows=0)
    for number, (form, mode) in enumerate((("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"))):
        for height, width in SHAPES:
            file = io.BytesIO()
            smooth_image(height + number, width, height, mode).save(file, form)
            add_row(source, str(10_000 * (number + 1) + height * 10 + width), file.getvalue())
    summary = pack(PackRequest(source=source, out=home / "set", resolutions=("full",), rows_per_shard=11))
    assert summary.rejected == 0, (home / "set/rejected.csv").read_text()
    return open_packed_set(home / "set")


def load(
    packed: PackedSet, size: Size, backend: str, augment: AugmentConfig | None, *, epoch: int = 1, **data: Any
) -> tuple[np.ndarray, np.ndarray]:
    """All rows by row: uint8 (N, H, W, 3), and whether a pixel is inside its image's place, bool (N, H, W)."""
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    settings = DataConfig(resolution="full", size=str(size), backend=backend, workers=2, **data)
    chosen = Selection(rows=np.arange(len(packed)), batch_size=8, seed=3, augment=augment)
    spec = make_spec(packed, chosen, settings, dist.World(device=CPU))
    images = np.zeros((len(packed), size.height_px, size.width_px, 3), dtype=np.uint8)
    inside = np.ones(images.shape[:3], dtype=bool)
    with Loader(spec) as loader:
        for batch, step in zip(loader.steps(epoch), spec.plan.steps(epoch), strict=True):
            real = batch.rows >= 0
            images[batch.rows[real].numpy()] = batch.images[real].numpy()
            for row, (y0, x0, y1, x1) in zip(step.rows, () if step.places is None else step.places.tolist(), strict=False):
                inside[row] = False
                inside[row, y0:y1, x0:x1] = True
    return images, inside


def core_of(inside: np.ndarray, border: int = 4) -> np.ndarray:
    """Pixels that are farther than `border` from the edge of their place."""
    padded = np.pad(inside, ((0, 0), (border, border), (border, border)))
    deep = inside.copy()
    for shift in (-border, border):
        deep &= np.roll(padded, shift, 1)[:, border:-border, border:-border] & np.roll(padded, shift, 2)[:, border:-border, border:-border]
    return deep


@pytest.mark.parametrize("fit", SETTINGS)
@pytest.mark.parametrize("augment", [None, AugmentConfig(min_area=0.2, max_stretch=1.4), COLOURED], ids=["whole", "cropped", "coloured"])
@pytest.mark.parametrize("size", [Size(64, 48), Size(33, 57)], ids=str)
def test_all_backends_make_the_same_images(
    fit: str, augment: AugmentConfig | None, size: Size, odd: PackedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "OVERSAMPLE", 1e9)  # decode in full: what scaled decoding costs is another test's
    (threads, inside), (host, _), (by_dali, _) = (
        load(odd, size, name, augment, **SETTINGS[fit]) for name in ("threads", "resident", "dali")
    )
    monkeypatch.setattr(resident, "HostStore", resident.DeviceStore)
    on_device, _ = load(odd, size, "resident", augment, **SETTINGS[fit])
    # `threads` resizes Y, Cb and Cr of a crop, the others RGB that the decoder rounded: two grey levels before contrast and saturation.
    near = 2 if augment is not COLOURED else 6
    for other in (host, on_device):
        assert np.abs(threads.astype(int) - other).max() <= near
    # DALI repeats the border where we leave out what lies beyond it.
    difference = np.abs(threads.astype(int) - by_dali).max(axis=3)
    assert difference[core_of(inside)].max() <= near + 1
    assert inside.all() == (fit != "pad")
    for images in (threads, host, on_device, by_dali):
        assert (images[~inside] == (250, 7, 90)).all()


def test_dali_pads_what_it_cuts_out_of_whole_images(odd: PackedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of nvJPEG, on the CPU."""
    expected, _ = load(odd, Size(64, 48), "dali", AugmentConfig(), **SETTINGS["pad"])
    monkeypatch.setattr(dali, "uses_nvjpeg", lambda spec: True)
    found, _ = load(odd, Size(64, 48), "dali", AugmentConfig(), **SETTINGS["pad"])
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 20 and difference.mean() < 0.5  # gray images are decoded by us
    np.testing.assert_array_equal(found[: len(SHAPES)], expected[: len(SHAPES)])


@pytest.mark.parametrize("fit", SETTINGS)
def test_fits_differ_by_far_more_than_backends(fit: str, odd: PackedSet) -> None:
    found, _ = load(odd, Size(64, 48), "threads", None, **SETTINGS[fit])
    for other in SETTINGS.keys() - {fit}:
        assert np.abs(found.astype(int) - load(odd, Size(64, 48), "threads", None, **SETTINGS[other])[0]).mean() > 2


@pytest.fixture(scope="module")
def trained(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "padded"
    settings = {"model.name": "test_resnet", "model.pretrained": False, "train.epochs": 1, "train.batch_size": 16, "data.size": "64x33"}
    config = RunConfig(data=DataConfig(shards=str(packed_small.out), fit="pad", pad_color="255")).replace(settings)
    train(resolve(config), run, dist.World(device=CPU))
    return run


def test_a_run_trains_is_tested_and_answers_with_its_fit(trained: Path, packed_small: PackedSmall) -> None:
    assert json.loads((trained / "config.json").read_text())["data"]["fit"] == "pad"
    predictor = Predictor(trained, CPU, workers=1)
    assert predictor.fit == Fit(mode="pad", pad_color=(255, 255, 255))
    evaluate_run(EvaluateRequest(run=trained), dist.World(device=CPU))
    table = pd.read_parquet(trained / "predictions.parquet").sort_values("row")
    ids = open_packed_set(packed_small.out).table["id"].to_numpy()[table["row"]]
    paths = [str(packed_small.source / "images" / f"{identity}.jpg") for identity in ids]
    answers = [batch.probabilities["subCategory"][:, 0] for batch in predictor.answer(find_inputs(paths))]
    np.testing.assert_allclose(np.concatenate(answers), table["subCategory_probability"], atol=1e-5)


@pytest.mark.parametrize("change", [{"data.fit": "crop"}, {"data.pad_color": "0"}], ids=str)
def test_a_run_is_not_resumed_with_another_fit(change: dict[str, str], trained: Path) -> None:
    config, (key,) = RunConfig.from_dict(json.loads((trained / "config.json").read_text())), change
    check_run_folder(trained, config)
    with pytest.raises(TrainingError, match=key):
        check_run_folder(trained, config.replace(change))
    with pytest.raises(ConfigError, match="a checkpoint does not fit another value"):
        check_run_folder(trained, config.replace(change), allowed={key})


def test_a_run_from_before_there_were_fits_squashes(trained: Path) -> None:
    said = json.loads((trained / "config.json").read_text())
    for key in ("fit", "crop_pct", "pad_color"):
        del said["data"][key]
    assert Fit.of(RunConfig.from_dict(said).data) == Fit(mode="squash")


def test_the_loader_of_a_program_of_ones_own_has_a_fit(odd: PackedSet) -> None:
    import fastfashion as ff

    white = {"data.pad_color": "255"}
    for fit in ("squash", "crop", "pad"):
        with ff.loader(odd, split="all", task=None, size=(64, 48), fit=fit, backend="threads", settings=white) as loader:
            found = np.concatenate([batch.images[batch.rows >= 0].numpy() for batch in loader])
        expected, _ = load(odd, Size(64, 48), "threads", None, fit=fit, pad_color="255")
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ConfigError, match="fit: expected squash, crop or pad, found 'stretch'"):
        ff.loader(odd, fit="stretch")
