"""Exports answer as the run does, are what their readers expect, and run by themselves; nothing that is read runs code."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall, digests, no_file_above, smooth_image
from PIL import Image
from typer.testing import CliRunner
from workers import begin, free_port

from fastfashion import dist
from fastfashion.cli import app
from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, DiskFullError, InputError
from fastfashion.evaluate import EvaluateRequest, evaluate_run
from fastfashion.export import export as exporting
from fastfashion.export.card import hub_card, onnx_card, space_card
from fastfashion.export.export import ExportRequest, export
from fastfashion.export.subject import open_subject
from fastfashion.model.artifact import FORMAT, load_artifact, save_artifact
from fastfashion.scratch import LOCK, PREFIX
from fastfashion.train.job import resolve, train
from fastfashion.untrusted import described

TASKS = ["masterCategory", "season"]
# Both have few weights; test_vit is made for one size of input, test_resnet has convolutions.
SETTINGS = {"model.pretrained": False, "train.epochs": 6, "train.batch_size": 16, "train.precision": "fp32", "data.size": "32x32"}
SETTINGS |= {"optim.ema_decay": 0.0, "train.validate_every": 6}


def trained(shards: Path, run: Path, **settings: Any) -> Path:
    world = dist.World(device=torch.device("cpu"))
    config = RunConfig(data=DataConfig(shards=str(shards))).replace(SETTINGS | {key.replace("__", "."): v for key, v in settings.items()})
    train(resolve(config), run, world)
    return run


@pytest.fixture(scope="module")
def run(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads, averaged with the mirror image, each with a temperature of its own, and answers that depend on the image."""
    folder = tmp_path_factory.mktemp("runs") / "shop"
    trained(packed_small.out, folder, model__name="test_resnet", data__task=",".join(TASKS))
    model, description = load_artifact(folder / "best")
    model.temperatures.copy_(torch.tensor([0.5, 0.25]))
    save_artifact(folder / "best", model.state_dict(), description)
    evaluate_run(EvaluateRequest(run=folder), dist.World(device=torch.device("cpu")))
    probabilities = pd.read_parquet(folder / "predictions.parquet")[[f"{task}_probability" for task in TASKS]]
    assert (probabilities.max() - probabilities.min() > 0.02).all()
    return folder


@pytest.fixture(scope="module")
def onnx_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("onnx") / "out"
    done = CliRunner().invoke(app, ["export", str(run), "--to", "onnx", "--int8", "--out", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["largest_difference"] <= summary["tolerance"] == 1e-4
    assert (summary["images"], summary["tasks"]) == ("test", TASKS)
    assert {"README.md", "export.json", "model.onnx", "model_int8.onnx"} == set(summary["files"]) == {p.name for p in folder.iterdir()}
    for loss in summary["int8"].values():
        assert loss["n"] > 0 and loss["difference"] == pytest.approx(loss["int8_accuracy"] - loss["accuracy"])
    return folder


def test_onnx_answers_what_evaluate_wrote_down_for_batches_of_any_size(run: Path, onnx_folder: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    about = json.loads(session.get_modelmeta().custom_metadata_map["fastfashion"])
    assert list(about["classes"]) == [output.name for output in session.get_outputs()] == TASKS
    images = np.concatenate([images for images, _ in open_subject(run).images("test", 10_000)])
    table = pd.read_parquet(run / "predictions.parquet").sort_values("row")
    assert len(table) == len(images) > 4
    for size in (1, 3, len(images)):
        answers = session.run(None, {"images": images[:size]})
        for task, values in zip(TASKS, answers, strict=True):
            np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
            np.testing.assert_allclose(values.max(axis=1), table[f"{task}_probability"][:size], atol=1e-4)
            assert [about["classes"][task][code] for code in values.argmax(axis=1)] == table[f"{task}_prediction"][:size].tolist()


def test_an_onnx_file_says_nothing_of_the_machine_it_was_made_on(onnx_folder: Path) -> None:
    package = str(Path(exporting.__file__).parents[2]).encode()
    for path in onnx_folder.iterdir():
        data = path.read_bytes()
        assert package not in data and str(onnx_folder).encode() not in data and b"site-packages" not in data, path.name


def test_eight_bits_answer_nearly_the_same(run: Path, onnx_folder: Path) -> None:
    import onnx
    import onnxruntime

    kinds = {tensor.data_type for tensor in onnx.load(onnx_folder / "model_int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    images = np.concatenate([images for images, _ in open_subject(run).images("test", 10_000)])
    sessions = [onnxruntime.InferenceSession(str(onnx_folder / name)) for name in ("model.onnx", "model_int8.onnx")]
    full, small = (session.run(None, {"images": images}) for session in sessions)
    assert max(np.abs(a - b).mean() for a, b in zip(full, small, strict=True)) < 0.05


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_timm_loads_a_hub_folder_and_answers_as_the_run(model: str, run: Path, packed_small: PackedSmall, tmp_path: Path) -> None:
    """With timm's own transform, from an image file, as the card says."""
    import timm

    if model == "test_vit":
        run = trained(
            packed_small.out, tmp_path / "run", model__name=model, data__task="season", model__flip_average=False, train__epochs=1
        )
    summary = export(ExportRequest(run=run, to="hub", out=tmp_path / "hub"))
    assert summary.folders == ({"season": "."} if model == "test_vit" else {task: task for task in TASKS})
    folder = tmp_path / "hub" / summary.folders["season"]
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pth", ".pt", ".pkl")]
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
    image = smooth_image(5, 60, 80)
    inputs = transform(image)[None]
    subject = open_subject(run)
    with torch.inference_mode():
        logits = loaded(inputs)
        if subject.predictor.description.flip_average:
            logits = (logits + loaded(inputs.flip(3))) / 2
    pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))[None]
    np.testing.assert_allclose(logits.softmax(1).numpy(), subject.probabilities(pixels)["season"], atol=1e-4)
    assert json.loads((folder / "config.json").read_text())["label_names"] == subject.predictor.classes["season"]


def test_the_model_card_is_what_the_hub_reads_and_has_the_reports_numbers(run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export(ExportRequest(run=run, to="hub", out=tmp_path / "hub", tasks=("season",)))
    card = ModelCard.load(tmp_path / "hub/README.md")
    scores = json.loads((run / "report.json").read_text())["tasks"]["season"]
    assert (card.data.library_name, card.data.pipeline_tag, card.data.model_name) == ("timm", "image-classification", "shop")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"accuracy": scores["accuracy"], "f1": scores["macro_f1"]}
    assert f"{scores['accuracy']:.4f}" in card.text and "Summer" in card.text and "random" in card.text
    (code,) = [part.partition("```")[0] for part in card.text.split("```python\n")[1:]]
    smooth_image(3, 60, 80).save(tmp_path / "hub/image.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "hub", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("Summer", "Winter")


def test_names_from_the_data_stay_text_in_a_card(run: Path) -> None:
    named = open_subject(run)
    named.predictor.run, named.predictor.classes = Path('x"\n---\nsdk: docker'), {"a|b\n<script>": ["`c`", "{{ 1 + 1 }}"]}
    for card in (onnx_card(named, None), space_card(named), hub_card(named, "a|b\n<script>")):
        assert card.count("\n---\n") == 1 and "\nsdk: docker" not in card
        assert "a&#124;b &lt;script> (2): &#96;c&#96;, {{ 1 + 1 }}\n" in card and "<script>" not in card.partition("\n---\n")[2]


@pytest.fixture(scope="module")
def space(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gradio")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("space") / "out"
    summary = export(ExportRequest(run=run, to="space", out=folder))
    assert set(summary.files) == {"README.md", "app.py", "export.json", "model.onnx", "requirements.txt"}
    return folder


def test_a_space_runs_by_itself_and_answers_over_http(space: Path, run: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file
    from huggingface_hub import RepoCard

    card = RepoCard.load(space / "README.md").data.to_dict()
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert f"gradio=={card['sdk_version']}" in (space / "requirements.txt").read_text()
    assert sys.version.startswith(f"{card['python_version']}.")
    assert "import fastfashion" not in (space / "app.py").read_text() and "from fastfashion" not in (space / "app.py").read_text()
    port = free_port()
    environment = os.environ | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(tmp_path / "tmp"),
    }
    log = tmp_path / "log"
    with (
        log.open("w") as said,
        subprocess.Popen([sys.executable, "app.py"], cwd=space, stdout=said, stderr=said, env=environment) as server,
    ):
        try:
            client = connect(Client, port, server, log)
            image = smooth_image(11, 60, 80)
            image.save(tmp_path / "image.png")
            answers = client.predict(handle_file(tmp_path / "image.png"), api_name="/answer")
            (tmp_path / "page.jpg").write_text("<html>no image</html>")
            with pytest.raises(Exception, match="cannot identify image"):
                client.predict(handle_file(tmp_path / "page.jpg"), api_name="/answer")
            again = client.predict(handle_file(tmp_path / "image.png"), api_name="/answer")
        finally:
            server.terminate()
    assert answers == again
    pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))[None]
    expected = open_subject(run).probabilities(pixels)
    for task, answer in zip(TASKS, answers, strict=True):
        assert answer["confidences"][0]["confidence"] == pytest.approx(float(expected[task].max()), abs=1e-4)
        assert answer["label"] == open_subject(run).predictor.classes[task][int(expected[task].argmax())]


def connect(client: Any, port: int, server: subprocess.Popen[bytes], log: Path) -> Any:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            return client(f"http://127.0.0.1:{port}/", verbose=False)
        except Exception:  # not up yet
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_without_the_packed_set_drawn_images_check_the_export(run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "report.json")))
    config = json.loads((moved / "config.json").read_text())
    config["data"]["shards"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    summary = export(ExportRequest(run=moved, to="hub"))
    assert summary.images == "drawn" and summary.out == str(moved / "export/hub")
    assert "Not tested" in (moved / "export/hub/season/README.md").read_text()
    with pytest.raises(ConfigError, match="name it with --shards"):
        export(ExportRequest(run=moved, to="onnx", int8=True))
    with pytest.raises(ValueError, match="no such folder"):
        export(ExportRequest(run=moved, to="hub", shards=tmp_path / "gone"))


def test_what_answers_differently_is_not_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="nothing was published"):
        export(ExportRequest(run=run, to="hub", out=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_written_to_and_an_export_can_be_renewed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not an export"):
        export(ExportRequest(run=run, to="hub", out=tmp_path))
    with pytest.raises(InputError, match="a file is there"):
        export(ExportRequest(run=run, to="hub", out=tmp_path / "mine.txt"))
    for _ in range(2):
        export(ExportRequest(run=run, to="hub", out=tmp_path / "hub", tasks=("season",)))
        (tmp_path / "hub/.git").mkdir(exist_ok=True)
    assert (tmp_path / "hub/.git").is_dir() and (tmp_path / "mine.txt").read_text() == "keep me"
    assert not list((tmp_path / "hub").glob(".*partial"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"to": "tflite"}, "expected onnx, hub or space"),
        ({"to": "hub", "int8": True}, "only --to onnx"),
        ({"to": "hub", "tasks": ("usage",)}, "has heads for masterCategory, season"),
    ],
)
def test_a_wrong_option_is_answered_with_what_is_right(arguments: dict[str, Any], said: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export(ExportRequest(run=run, **arguments))
    assert not (run / "export").exists()


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


def test_reading_a_run_or_an_export_runs_no_code_from_it(run: Path, onnx_folder: Path, tmp_path: Path) -> None:
    """Pickles wherever a careless reader would look for weights, and names for which timm would fetch other models."""
    import timm

    made = tmp_path / "made"
    bomb = pickle.dumps(Bomb(made))
    for name in ("model.safetensors", "model.json"):
        copy = Path(shutil.copytree(run, tmp_path / f"run-{name}", ignore=shutil.ignore_patterns("checkpoints")))
        (copy / "best" / name).write_bytes(bomb)
        with pytest.raises(InputError, match=r"not a readable model|not as expected"):
            export(ExportRequest(run=copy, to="hub"))
    copy = Path(shutil.copytree(run, tmp_path / "run-extra", ignore=shutil.ignore_patterns("checkpoints")))
    for name in ("model.pth", "pytorch_model.bin", "model.pkl", "__init__.py"):
        (copy / "best" / name).write_bytes(bomb)
    folder = Path(export(ExportRequest(run=copy, to="hub", tasks=("season",))).out)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "export.json", "model.safetensors"}
    (folder / "model.safetensors").rename(folder / "kept")
    (folder / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(Exception, match=r"(?i)weights.only|safetensors|unpickl|persistent|invalid"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    with pytest.raises(InputError, match="not a model"):
        (tmp_path / "model.onnx").write_bytes(bomb)
        exporting.OnnxModel(tmp_path / "model.onnx")
    description = json.loads((copy / "best/model.json").read_text())
    for name in ("hf-hub:somebody/something", f"local-dir:{folder}", "../../timm"):
        (copy / "best/model.json").write_text(json.dumps(described(FORMAT, description | {"model": name})))
        with pytest.raises(ConfigError, match="unknown model"):
            export(ExportRequest(run=copy, to="hub"))
    assert not made.exists()
    pickle.loads(bomb)  # it would have gone off
    assert made.exists()


def leftovers(*folders: Path) -> list[str]:
    return [path.name for folder in folders for path in folder.iterdir() if path.name.startswith((PREFIX, "tmp", "fastfashion"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_export_that_is_ended_leaves_nothing_or_the_next_one_clears_it(number: signal.Signals, run: Path, tmp_path: Path) -> None:
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    process = begin("export", run, "--to", "hub", "--task", "season", "--out", out, env=os.environ | {"TMPDIR": str(temporary)})
    while len(list(tmp_path.glob(f"{PREFIX}*/{LOCK}"))) < 2:  # beside OUT: the folder of other packages' files, and where it works
        assert process.poll() is None, "it was over before it could be ended"
        time.sleep(0.002)
    process.send_signal(number)
    assert process.wait(60) == (143 if number == signal.SIGTERM else -9)
    assert (len(leftovers(tmp_path)) == 1) == (number == signal.SIGTERM)
    assert not out.exists()
    assert leftovers(temporary) == []
    export(ExportRequest(run=run, to="hub", out=out, tasks=("season",)))
    assert leftovers(tmp_path, temporary) == ["tmp"] and {"config.json", "export.json"} <= {path.name for path in out.iterdir()}


def test_the_command_works_beside_its_target_alone_and_a_program_keeps_its_folder_for_temporary_files(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    made = []
    monkeypatch.setattr("tempfile.mkdtemp", lambda *given, make=tempfile.mkdtemp, **named: made.append(make(*given, **named)) or made[-1])
    (tmp_path / "out").mkdir()  # empty, so that it works in there
    asked = ["export", str(run), "--to", "onnx", "--out", str(tmp_path / "out"), "--task", "season", "--int8"]
    assert CliRunner().invoke(app, asked, catch_exceptions=False).exit_code == 0
    assert list((tmp_path / "tmp").iterdir()) == [] and {path.name for path in tmp_path.iterdir()} == {"tmp", "out"}
    assert len(made) > 2 and all(folder.startswith(str(tmp_path / "out")) for folder in made)
    made.clear()
    export(ExportRequest(run=run, to="onnx", out=tmp_path / "out", tasks=("season",), int8=True))  # in somebody else's program
    assert list((tmp_path / "tmp").iterdir()) == [] and leftovers(tmp_path / "out") == []
    assert any(folder.startswith(str(tmp_path / "tmp")) for folder in made)


def test_an_export_that_does_not_fit_says_how_much_is_needed_and_leaves_what_was_there(run: Path, tmp_path: Path) -> None:
    request = ExportRequest(run=run, to="hub", out=tmp_path / "out", tasks=("season",))
    export(request)
    before = digests(tmp_path)
    with no_file_above(20_000), pytest.raises(DiskFullError, match=rf"{tmp_path}/out: .* MB are needed, .* MB are free; "):
        export(request)
    assert digests(tmp_path) == before
