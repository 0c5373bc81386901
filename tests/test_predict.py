"""`fastfashion predict`: the same pixels and answers from wherever an image comes; what cannot be read is a line with an error."""

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall, smooth_image
from odd_zips import Entry, odd_zip, write_zip
from PIL import Image
from serving import TASKS

from fastfashion import dist
from fastfashion.errors import ConfigError, InputError
from fastfashion.evaluate import predict as predict_batches
from fastfashion.load import Loader
from fastfashion.predict.inputs import InputImage, SetInput, find_inputs
from fastfashion.predict.outputs import FORMATS, choose_format, frame, records, write_answers
from fastfashion.predict.predictor import PREFETCH, Answers, Predictor, load_encoded, load_images
from fastfashion.runs.files import read_config
from fastfashion.serve.limits import Limits
from fastfashion.serve.state import State
from fastfashion.shards import open_packed_set
from fastfashion.sources.reader import Reader

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(untrained_run: Path) -> Path:
    return untrained_run


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor(run, CPU, workers=2)


@pytest.fixture(scope="module")
def odd_folder(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good images, and what else is found in folders of images."""
    folder = tmp_path_factory.mktemp("odd")
    sources = sorted((packed_small.source / "images").iterdir())
    (folder / "b.jpg").write_bytes(sources[0].read_bytes())
    (folder / "c").mkdir()
    smooth_image(3, 90, 70).save(folder / "c" / "d.png")
    (folder / "page.jpg").write_text("<!doctype html><html>404</html>", encoding="utf-8")
    (folder / "cut.jpg").write_bytes(sources[1].read_bytes()[:300])
    (folder / "empty.jpeg").touch()
    (folder / "notes.txt").write_text("not an image by name", encoding="utf-8")
    return folder


def all_rows(predictor: Predictor, inputs: list[str], top: int = 3, batch_size: int = 7) -> pd.DataFrame:
    batches = predictor.answer(find_inputs(inputs), top=top, batch_size=batch_size)
    return pd.concat([frame(batch, predictor.classes) for batch in batches], ignore_index=True)


def test_a_image_has_the_same_pixels_as_a_file_and_in_a_packed_set(predictor: Predictor, packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    spec = predictor.spec(packed, np.arange(len(packed)), 16)
    assert spec.images.name == "full"
    with closing(Loader(spec)) as loader:
        from_set = np.concatenate([batch.images[batch.rows >= 0].numpy() for batch in loader.steps(0)])
    files = [packed_small.source / "images" / f"{identity}.jpg" for identity in packed.table["id"]]
    from_files = np.zeros_like(from_set)
    assert load_images([InputImage(path.name, path.read_bytes) for path in files], from_files) == {}
    assert len(from_set) == 60 and from_set.std() > 20
    np.testing.assert_array_equal(from_files, from_set)


@pytest.mark.parametrize(
    ("kept", "installed", "used"), [("resident", False, "resident"), ("dali", True, "dali"), ("dali", False, "threads")]
)
def test_a_set_is_read_with_the_backend_and_cache_of_the_run(
    predictor: Predictor, packed_small: PackedSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, installed: bool, used: str
) -> None:
    config = read_config(predictor.run)
    data = replace(config.data, backend=kept, cache_dir=str(tmp_path), cache_gb=3.0)
    monkeypatch.setattr(sys.modules[Predictor.__module__], "read_config", lambda run: replace(config, data=data))
    monkeypatch.setattr(sys.modules[Predictor.__module__], "has_dali", lambda: installed)
    spec = predictor.spec(open_packed_set(packed_small.out), np.arange(5), 16)
    assert (spec.backend, spec.cache_dir, spec.cache_bytes, spec.on_bad) == (used, str(tmp_path), 3 * 10**9, "skip")


def test_pixels_are_those_of_the_whole_image_squeezed_to_the_input(predictor: Predictor) -> None:
    """Against Pillow's own antialiased filter of the same shape, on a smooth image of another shape."""
    image = smooth_image(5, 200, 120)
    file = io.BytesIO()
    image.save(file, "PNG")
    out = np.zeros((1, 64, 48, 3), dtype=np.uint8)
    assert load_encoded([file.getvalue()], out) == {}
    expected = np.asarray(image.resize((48, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(out[0].astype(int) - expected).max() <= 2


def test_answers_are_those_of_evaluation(predictor: Predictor, packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    spec = predictor.spec(packed, np.arange(len(packed)), 16)
    with closing(Loader(spec)) as loader:
        expected = predict_batches(predictor.model, loader.steps(0), dist.World(device=CPU)).probabilities
    found = all_rows(predictor, [str(packed_small.out)], top=99)
    assert found["path"].tolist() == [f"{packed_small.out}/{identity}" for identity in packed.table["id"]]
    assert found["error"].isna().all()
    for task in TASKS:
        names = np.array(predictor.classes[task], dtype=object)
        assert found[task].tolist() == names[expected[task].argmax(axis=1)].tolist()
        columns = [name for name in found if name.startswith(task) and name.endswith("_probability")]
        assert len(columns) == len(names)
        np.testing.assert_allclose(found[columns].to_numpy(), -np.sort(-expected[task], axis=1), atol=1e-5)
        np.testing.assert_allclose(found[columns].sum(axis=1), 1, atol=1e-5)


def test_a_set_a_folder_a_zip_and_single_files_answer_the_same(
    predictor: Predictor, packed_small: PackedSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = packed_small.source / "images"
    with zipfile.ZipFile(tmp_path / "some.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in images.iterdir():
            archive.write(path, f"deep/er/{path.name}")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(bytes(path) + b"\n" for path in sorted(images.iterdir())))))
    ways = [str(packed_small.out), str(images), str(tmp_path / "some.zip"), "-"]
    tables = []
    for way in ways:
        table = all_rows(predictor, [way])
        table["path"] = table["path"].map(lambda path: path.rpartition("/")[2].removesuffix(".jpg"))
        tables.append(table.sort_values("path", ignore_index=True))
    assert len(tables[0]) == 60
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=1e-5, rtol=0)


def test_what_cannot_be_read_is_a_line_with_an_error(predictor: Predictor, odd_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(odd_folder / "b.jpg", "../../b.jpg")
        archive.write(odd_folder / "b.jpg", "b.jpg")
        archive.write(odd_folder / "b.jpg", "__MACOSX/._b.jpg")
        archive.write(odd_folder / "notes.txt", "notes.txt")
    (tmp_path / "broken.zip").write_bytes((tmp_path / "evil.zip").read_bytes()[:-30])
    newer = bytearray((tmp_path / "evil.zip").read_bytes())
    newer[newer.index(b"PK\1\2") + 6] = 99  # the version of the format that is needed to read it, times ten
    (tmp_path / "newer.zip").write_bytes(newer)
    (tmp_path / "nothing").mkdir()
    paths = [str(odd_folder), *(str(tmp_path / name) for name in ("evil.zip", "broken.zip", "newer.zip", "nothing", "nowhere.jpg"))]
    table = all_rows(predictor, paths, batch_size=3).set_index("path")["error"]
    errors = {path: None if pd.isna(error) else error for path, error in table.items()}
    assert {path.removeprefix(f"{odd_folder}/") for path in errors if path.startswith(f"{odd_folder}/")} == {
        "b.jpg",
        "c/d.png",
        "page.jpg",
        "cut.jpg",
        "empty.jpeg",
    }
    assert errors[f"{odd_folder}/b.jpg"] is None and errors[f"{odd_folder}/c/d.png"] is None
    assert "HTML" in errors[f"{odd_folder}/page.jpg"] and errors[f"{odd_folder}/empty.jpeg"] == "empty file"
    assert "does not decode" in errors[f"{odd_folder}/cut.jpg"]
    assert errors[f"{tmp_path}/evil.zip/b.jpg"] is None and "leads out" in errors[f"{tmp_path}/evil.zip/../../b.jpg"]
    assert "not a readable zip" in errors[f"{tmp_path}/broken.zip"]
    assert "version 9.9 of the zip format" in errors[f"{tmp_path}/newer.zip/../../b.jpg"] and errors[f"{tmp_path}/newer.zip/b.jpg"] is None
    assert "no images in it" in errors[f"{tmp_path}/nothing"]
    assert errors[f"{tmp_path}/nowhere.jpg"] == "no such file"
    assert len(errors) == 12


@pytest.fixture(scope="module")
def odd_zip_of(odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, str]]:
    data, good, said = odd_zip((odd_folder / "b.jpg").read_bytes(), [])
    path = tmp_path_factory.mktemp("odd zip") / "odd.zip"
    path.write_bytes(data)
    return path, good, said


def check_odd(errors: dict[str, str | None], odd_zip_of: tuple[Path, list[str], dict[str, str]]) -> None:
    _, good, said = odd_zip_of
    assert errors.keys() == {*good, *said}
    assert {name: errors[name] for name in good} == dict.fromkeys(good)
    assert {name: errors[name] for name, words in said.items() if not re.search(words, errors[name] or "")} == {}


def test_one_odd_entry_of_a_zip_is_one_line_of_predict(predictor: Predictor, odd_zip_of: tuple[Path, list[str], dict[str, str]]) -> None:
    table = all_rows(predictor, [str(odd_zip_of[0])])
    errors = {path.removeprefix(f"{odd_zip_of[0]}/"): error for path, error in zip(table["path"], table["error"], strict=True)}
    check_odd({path: None if pd.isna(error) else error for path, error in errors.items()}, odd_zip_of)


def test_one_odd_entry_of_a_zip_is_one_line_of_the_page(predictor: Predictor, odd_zip_of: tuple[Path, list[str], dict[str, str]]) -> None:
    state = State(run=predictor.run, predictor=predictor, limits=Limits(), products=None, no_products="")
    with closing(state):
        records = [line.record for line in state.batch([odd_zip_of[0]])]
    check_odd({record["path"].removeprefix("odd.zip/"): record["error"] for record in records}, odd_zip_of)


def test_a_zip_of_65000_images_answers_after_a_few_are_read(
    predictor: Predictor, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [Entry(data=b"x", name=b"%05d.jpg" % number, offset=0) for number in range(65_000)]
    entries[0] = Entry(data=(odd_folder / "b.jpg").read_bytes(), name=b"00000.jpg")
    (tmp_path / "many.zip").write_bytes(write_zip(entries))
    read: list[str] = []
    original = Reader.read
    monkeypatch.setattr(Reader, "read", lambda self, member, most: (read.append(member.name), original(self, member, most))[1])
    answers = predictor.answer(find_inputs([str(tmp_path / "many.zip")]), batch_size=4)
    first = next(answers)
    assert first.names[0].endswith("many.zip/00000.jpg") and sorted(first.errors) == [1, 2, 3]
    assert len(read) <= 4 * (PREFETCH + 1)
    answers.close()


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_that_is_not_utf8_and_one_too_long_are_lines_in_every_format(
    form: str, predictor: Predictor, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, out = bytes(tmp_path) + b"/caf\xe9.jpg", tmp_path / f"answers.{form}"
    Path(os.fsdecode(odd)).write_bytes((odd_folder / "b.jpg").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(odd + b"\n" + b"x" * 5000 + b"\n"), encoding="utf-8"))
    counts = write_answers(predictor.answer(find_inputs([os.fsdecode(odd), "-"])), predictor.classes, form, out)
    assert (counts.images, counts.errors) == (3, 1)
    text = pd.read_parquet(out).to_csv() if form == "parquet" else out.read_text(encoding="utf-8").replace(r"\\", "\\")
    assert text.count(r"caf\xe9.jpg") == 2 and "cannot be read: File name too long" in text


def test_a_folder_below_that_cannot_be_read_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for _ in range(17):  # 4250 characters, and a path may have 4095
        Path("d" * 250).mkdir()
        monkeypatch.chdir("d" * 250)
    good, lost = (one for one in find_inputs([str(tmp_path)]) if isinstance(one, InputImage))
    assert good.name == f"{tmp_path}/b.jpg" and lost.name.startswith(f"{tmp_path}/ddd")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        lost.read()


def test_a_label_called_like_a_probability_is_text_in_parquet(tmp_path: Path) -> None:
    task = "win_probability"
    answers = Answers(names=["a"], errors={}, codes={task: np.array([[1]])}, probabilities={task: np.array([[0.5]], dtype=np.float32)})
    write_answers([answers], {task: ["low", "high"]}, "parquet", tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet").loc[0, [task, f"{task}_probability"]].tolist() == ["high", 0.5]


def test_a_bomb_is_refused_by_its_header(predictor: Predictor) -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 9000), 1).save(file, "PNG")
    assert len(file.getvalue()) < 30_000
    out = np.ones((1, 64, 48, 3), dtype=np.uint8)
    assert load_encoded([file.getvalue()], out) == {} and out.min() == 255  # the usual limit lets it through
    assert "9000x9000 pixels, more than the 40000000" in load_encoded([file.getvalue()], out, max_pixels=40_000_000)[0]
    assert not out.any()


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(form: str, predictor: Predictor, odd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / f"answers.{form}"
    answers = list(predictor.answer(find_inputs([str(odd_folder)]), top=2, batch_size=2))
    expected = [record for batch in answers for record in records(batch, predictor.classes)]
    counts = write_answers(iter(answers), predictor.classes, form, out)
    assert (counts.images, counts.errors) == (5, 3)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if form == "jsonl":
        assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == expected
    elif form == "table":
        text = out.read_text(encoding="utf-8")
        assert text.count("error: ") == 3 and all(record["path"] in text for record in expected)
    else:
        table = pd.read_csv(out, dtype={"path": str}) if form == "csv" else pd.read_parquet(out)
        assert table["path"].tolist() == [record["path"] for record in expected]
        assert table["error"].notna().tolist() == [record["error"] is not None for record in expected]
        for place, record in enumerate(expected):
            for task, best in (record["answers"] or {}).items():
                assert table[task][place] == best[0]["label"] and table[f"{task}_2"][place] == best[1]["label"]
                assert table[f"{task}_2_probability"][place] == pytest.approx(best[1]["probability"], abs=1e-5)


def test_formats_tasks_and_runs_that_do_not_exist_are_refused(run: Path, tmp_path: Path) -> None:
    assert [choose_format("auto", Path(name)) for name in ("a.csv", "a.jsonl", "a.parquet")] == ["csv", "jsonl", "parquet"]
    for asked, out in (("xml", None), ("auto", Path("a.doc")), ("parquet", None)):
        with pytest.raises(ConfigError, match=r"table, csv, jsonl|--out"):
            choose_format(asked, out)
    with pytest.raises(ConfigError, match="unknown task 'colour'"):
        Predictor(run, CPU, tasks=["colour"])
    with pytest.raises(InputError, match="no trained model"):
        Predictor(tmp_path, CPU)
    assert list(find_inputs([])) == [] and isinstance(next(find_inputs([str(tmp_path)])), InputImage)


def test_a_folder_may_be_named_from_where_one_stands(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(odd_folder.parent)
    images = [one for one in find_inputs([odd_folder.name]) if isinstance(one, InputImage)]
    assert len(images) == 5
    assert images[0].name == f"{odd_folder.name}/b.jpg" and images[0].read() == (odd_folder / "b.jpg").read_bytes()


def test_a_packed_set_is_known_by_its_files(packed_small: PackedSmall) -> None:
    assert list(find_inputs([str(packed_small.out)])) == [SetInput(packed_small.out)]


def test_the_command_reads_stdin_writes_a_file_and_counts(run: Path, odd_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastfashion", "predict", str(run), "-", "--out", "a.csv", "--task", "season", "--top", "1", "--json"]
    done = subprocess.run(
        command, input=f"{odd_folder}\n", cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["images"], summary["errors"], summary["out"]) == (2, 3, "a.csv")
    assert pd.read_csv(tmp_path / "a.csv").columns.tolist() == ["path", "season", "season_probability", "error"]
    assert "2 of 5 images answered in" in done.stderr and "; 3 could not be read" in done.stderr


def test_a_command_that_is_ended_leaves_nothing_half(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastfashion", "predict", str(run), "-", "--out", str(tmp_path / "a.csv")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)  # names may still come
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(300) == 143  # a hang, not a busy machine, is what is looked for
    assert list(tmp_path.iterdir()) == []
