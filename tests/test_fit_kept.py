"""A model keeps its fit: files, the page and exports show it the pixels that the loader shows for the packed set."""

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall, psnr_db, smooth_image
from PIL import Image, ImageOps
from serving import TASKS, make_run

from fastfashion.config import DataConfig
from fastfashion.errors import InputError
from fastfashion.export.card import hub_card, onnx_card
from fastfashion.export.export import ExportRequest, export
from fastfashion.export.onnx_model import self_description
from fastfashion.export.space_app import fitted
from fastfashion.export.subject import open_subject
from fastfashion.load import Loader
from fastfashion.load.fit import Fit
from fastfashion.model.artifact import FORMAT, load_artifact
from fastfashion.predict.decode_cost import cost
from fastfashion.predict.decoding import Decoders
from fastfashion.predict.inputs import InputImage
from fastfashion.predict.predictor import Predictor, load_encoded, load_images
from fastfashion.serve.limits import Limits
from fastfashion.serve.state import State
from fastfashion.shards import open_packed_set
from fastfashion.untrusted import described

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "squash": {},
    "crop": {"fit": "crop", "crop_pct": 0.875},
    "pad": {"fit": "pad", "pad_color": "128"},  # the mean of test_resnet's normalisation
    "white": {"fit": "pad", "pad_color": "255"},
}
SHAPES = [(60, 80), (80, 60), (17, 300), (300, 16), (640, 517), (1, 1), (39, 39)]  # width, height


@pytest.fixture(scope="module")
def runs(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("runs")
    return {name: make_run(home / name, packed_small.out, size="64x33", model="test_resnet", **how) for name, how in SETTINGS.items()}


@pytest.fixture(params=SETTINGS)
def run(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def seen(predictor: Predictor, image: Image.Image) -> np.ndarray:
    """What the model sees of an image: uint8 (H, W, 3)."""
    out = np.zeros((1, predictor.size.height_px, predictor.size.width_px, 3), dtype=np.uint8)
    assert load_encoded([png(image)], out, fit=predictor.fit) == {}
    return out[0]


def test_the_description_keeps_the_fit_and_that_of_squash_is_written_as_before(runs: dict[str, Path]) -> None:
    kept = {name: json.loads((path / "best/model.json").read_text()) for name, path in runs.items()}
    assert {name: (said["version"], said.get("fit")) for name, said in kept.items()} == {
        "squash": (3, None),
        "crop": (4, {"mode": "crop", "crop_pct": 0.875, "pad_color": [124, 116, 104]}),
        "pad": (4, {"mode": "pad", "crop_pct": 1.0, "pad_color": [128, 128, 128]}),
        "white": (4, {"mode": "pad", "crop_pct": 1.0, "pad_color": [255, 255, 255]}),
    }
    for name, path in runs.items():
        expected = Fit.of(DataConfig(**SETTINGS[name]))
        assert load_artifact(path / "best")[1].fit == Predictor(path, CPU).fit == expected


WRONG = [
    {"mode": "stretch"},
    {"crop_pct": 0},
    {"crop_pct": 1.5},
    {"pad_color": [1, 2]},
    {"pad_color": [256, 0, 0]},
    {"pad_color": [-1, 0, 0]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_description_with_another_fit_is_refused(wrong: dict[str, Any], runs: dict[str, Path], tmp_path: Path) -> None:
    said = json.loads((runs["pad"] / "best/model.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(runs["pad"] / "best/model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps(described(FORMAT, said | {"fit": said["fit"] | wrong})))
    with pytest.raises(InputError, match=r"model\.json: not as expected"):
        load_artifact(tmp_path)


def test_files_and_the_page_show_what_the_loader_shows_of_the_packed_set(run: Path, packed_small: PackedSmall) -> None:
    predictor, packed = Predictor(run, CPU, workers=1), open_packed_set(packed_small.out)
    with Loader(predictor.spec(packed, np.arange(len(packed)), 16)) as loader:
        expected = np.concatenate([batch.images[batch.rows >= 0].numpy() for batch in loader.steps(0)])
    paths = [packed_small.source / "images" / f"{identity}.jpg" for identity in packed.table["id"]]
    found = np.zeros_like(expected)
    images = [InputImage(path.name, path.read_bytes) for path in paths]
    assert load_images(images, found, lambda encoded, out: load_encoded(encoded, out, fit=predictor.fit)) == {}
    np.testing.assert_array_equal(found, expected)
    with closing(State(run=run, predictor=predictor, limits=Limits(), products=None, no_products="")) as state:
        for line, wanted in zip(state.batch(paths[:6]), expected, strict=False):  # in processes that may die
            np.testing.assert_array_equal(line.pixels, wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_space_shows_its_model_the_same(run: Path, shape: tuple[int, int]) -> None:
    subject, image = open_subject(run), smooth_image(4, *shape)
    about = json.loads(json.dumps(self_description(subject)))
    shown = np.asarray(fitted(image, *about["input"]["shape"][1:3], **about["fit"]))
    assert np.abs(shown.astype(int) - seen(subject.predictor, image)).max() <= 1


def test_the_lines_of_the_onnx_card_show_the_model_the_same(run: Path) -> None:
    subject, image = open_subject(run), smooth_image(4, 97, 80)
    (code,) = [part.partition("```")[0] for part in onnx_card(subject, None).split("```python\n")[1:]]
    lines = code.splitlines()
    first = next(i for i, line in enumerate(lines) if "Image.open" in line)
    names: dict[str, Any] = {"np": np, "Image": Image, "ImageOps": ImageOps, "image": image}
    exec("\n".join(lines[first + 1 : next(i for i, line in enumerate(lines) if line.startswith("for task"))]), names)
    assert np.abs(names["pixels"][0].astype(int) - seen(subject.predictor, image)).max() <= 1


@pytest.mark.parametrize("shape", [(97, 80), (60, 80), (33, 120)], ids=str)
def test_timms_transform_of_an_exported_folder_shows_the_model_the_same(run: Path, shape: tuple[int, int], tmp_path: Path) -> None:
    """From the folder's own settings, with the lines that its card adds for another colour."""
    import timm

    summary = export(ExportRequest(run=run, to="hub", out=tmp_path / "hub", tasks=(TASKS[0],)))
    settings = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True))
    transform = timm.data.create_transform(**settings)
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))

    def shown(image: Image.Image) -> np.ndarray:
        return ((transform(image) * std + mean) * 255).round().permute(1, 2, 0).numpy()

    subject, image = open_subject(run), smooth_image(4, *shape)
    expected, card = seen(subject.predictor, image), hub_card(subject, TASKS[0])
    said = {"squash": ("squash", 1), "crop": ("center", 0.875)}.get(run.name, ("border", 1))
    assert (settings["crop_mode"], settings["crop_pct"]) == said
    assert [note.partition(": ")[0] for note in summary.notes if note.startswith("timm")] == (
        ["timm's transform pads with the mean of the normalisation, the run with 255,255,255"] if run.name == "white" else []
    )
    if subject.predictor.fit.mode == "pad":
        color = subject.predictor.fit.pad_color
        assert f"image = ImageOps.pad(image, (33, 64), Image.Resampling.BILINEAR, color={color})" in card
        padded = ImageOps.pad(image, (33, 64), Image.Resampling.BILINEAR, color=color)
        assert np.abs(shown(padded) - expected).max() <= 1
    if run.name == "squash":
        assert np.abs(shown(image) - expected).max() <= 1
    elif run.name == "crop":
        assert psnr_db(shown(image), expected) > 30  # half a pixel of the input elsewhere: timm rounds after the resize
    elif run.name == "pad":  # without the card's line it may be a pixel elsewhere, where an odd number of them is left over
        assert min(np.abs(np.roll(shown(image), by, (0, 1)) - expected).max() for by in ((0, 0), (0, 1), (1, 0))) <= 1


def test_what_an_image_costs_to_decode_is_by_the_box_that_is_decoded() -> None:
    """A crop needs more pixels than the whole image squashed does, a letterbox fewer."""
    file = io.BytesIO()
    Image.new("RGB", (500, 250)).save(file, "JPEG")
    squash, crop, zoomed, pad = (
        cost(file.getvalue(), 64, 64, fit).num_bytes for fit in (Fit(), Fit(mode="crop"), Fit(mode="crop", crop_pct=0.3), Fit(mode="pad"))
    )
    assert pad < squash == crop < zoomed


def test_a_worker_decodes_any_fit_of_a_large_image_in_the_memory_that_it_costs() -> None:
    file = io.BytesIO()
    smooth_image(3, 4000, 3000).save(file, "JPEG")
    fits = [Fit(), *(Fit(mode="crop", crop_pct=share) for share in (1.0, 0.3, 0.1, 0.001)), Fit(mode="pad")]
    out = np.zeros((1, 96, 64, 3), dtype=np.uint8)
    with closing(Decoders(1)) as decoders:
        for fit in fits:
            assert decoders.fit([file.getvalue()], out, fit=fit) == {}, fit
    assert cost(file.getvalue(), 96, 64).num_bytes < cost(file.getvalue(), 96, 64, fits[4]).num_bytes / 2
