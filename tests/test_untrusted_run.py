"""Runs that somebody else made, or a disk damaged: one line that says what is wrong where, before anything is built or contacted."""

import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import workers
from conftest import PackedSmall
from hostile import special_files, wrong_json, wrong_texts
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from fastfashion import dist
from fastfashion.cli import app
from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.evaluate import EvaluateRequest, evaluate_run
from fastfashion.evaluate.compare import compare
from fastfashion.files import plain, publish_json
from fastfashion.model import artifact
from fastfashion.model.artifact import load_artifact
from fastfashion.runs import open_run, read_config, trained_on
from fastfashion.runs.files import TRAINED_ON, TRAINED_ON_ROWS, read_metrics, read_report, read_status
from fastfashion.serve.limits import Limits
from fastfashion.serve.products import _read as read_features
from fastfashion.serve.state import open_state
from fastfashion.train import checkpoint
from fastfashion.train.job import resolve, train
from fastfashion.untrusted import described, file_sha256
from fastfashion.words import os_error_text

ALONE = dist.World(device=torch.device("cpu"))
SETTINGS = {"model.name": "test_resnet", "model.pretrained": False, "data.size": "32x32", "data.workers": 1, "train.batch_size": 16}
SETTINGS |= {"data.task": "gender,season", "train.epochs": 1, "train.precision": "fp32", "train.checkpoint_every_steps": 1}


@dataclass(frozen=True)
class Whole:
    """A run of one epoch that was tested, and the set that it is of."""

    run: Path
    shards: Path
    image: Path


@pytest.fixture(scope="module")
def whole(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(resolve(RunConfig(data=DataConfig(shards=str(packed_small.out))).with_recipe("fast", SETTINGS)), run, ALONE)
    evaluate_run(EvaluateRequest(run=run), ALONE)
    return Whole(run, packed_small.out, next((packed_small.source / "images").iterdir()))


@pytest.fixture
def run(whole: Whole, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.run, tmp_path / "run", ignore=shutil.ignore_patterns("plots", "events*")))


# --- what is done to a run --------------------------------------------------------------------------------------------------------


def put(name: str, data: bytes | str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(data.encode() if isinstance(data, str) else data)


def change(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Edit a JSON file, and give a description the checksum of what it says then: this one was made by somebody, not damaged."""

    def make(run: Path) -> None:
        values = json.loads((run / name).read_text())
        edit(values)
        form = {"best/model.json": artifact.FORMAT, "trained_on.json": trained_on.FORMAT}.get(name)
        (run / name).write_text(json.dumps(values if form is None else described(form, values)))

    return make


def weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        tensors = load_file(run / "best/model.safetensors")
        edit(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, run / "best/model.safetensors")
        resealed(run)

    return make


def weights_bytes(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        path = run / "best/model.safetensors"
        path.write_bytes(edit(path.read_bytes()))
        resealed(run)

    return make


def resealed(run: Path) -> None:
    change("best/model.json", lambda values: values.update(sha256=file_sha256(run / "best/model.safetensors")))(run)


def rows(edit: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        arrays = {name: array.copy() for name, array in load_arrays(run / "trained_on.safetensors").items()}
        edit(arrays)
        save_arrays(arrays, run / "trained_on.safetensors")
        change("trained_on.json", lambda values: values.update(sha256=file_sha256(run / "trained_on.safetensors")))(run)

    return make


def answers(edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda run: edit(pd.read_parquet(run / "predictions.parquet")).to_parquet(run / "predictions.parquet", index=False)


def flip(name: str, at: int) -> Callable[[Path], object]:
    def make(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[at] ^= 1
        (run / name).write_bytes(data)

    return make


def fifo(name: str) -> Callable[[Path], object]:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return make


def many_equal_rows(run: Path) -> None:
    """Five million rows in some kilobytes; the report says as many."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5_000_000, dtype=np.int32)), ["Men"])
    names = ["id", *(f"{task}_{what}" for task in ("gender", "season") for what in ("label", "prediction"))]
    pq.write_table(pa.table(dict.fromkeys(names, column)), run / "predictions.parquet")
    change("report.json", lambda values: values["split"].update(num_rows=5_000_000))(run)


def compressed(run: Path) -> None:
    """Bytes that may be thousands of times as many when they are read."""
    pq.write_table(pq.read_table(run / "predictions.parquet"), run / "predictions.parquet", compression="zstd")


def lines(edit: Callable[[list[str]], object]) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        known = (run / "metrics.jsonl").read_text().splitlines()
        edit(known)
        (run / "metrics.jsonl").write_text("\n".join(known) + "\n")

    return make


def twice(values: dict[str, Any]) -> None:
    values["classes"]["gender"][1] = values["classes"]["gender"][0]


def first_id_again(arrays: dict[str, np.ndarray]) -> None:
    ids = arrays["ids"].tobytes().split(b"\0")
    arrays["ids"] = np.frombuffer(b"\0".join([ids[1], *ids[1:]]), dtype=np.uint8)


HEADER = '{"a":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,16000000000]}}'
MODEL, REPORT, LIST, CONFIG = "best/model.json", "report.json", "trained_on.json", "config.json"
READERS_OF_MODEL = ("predict", "evaluate", "serve", "export")
# What is done, which commands refuse it, and what they say.
CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "model.json empty": (put(MODEL, ""), READERS_OF_MODEL, r"model\.json: not as expected"),
    "model.json a list": (put(MODEL, "[]"), ("predict",), r"model\.json: not as expected"),
    "model.json deep": (put(MODEL, "[" * 100_000), ("predict",), r"model\.json: not as expected"),
    "model.json no UTF-8": (put(MODEL, b'{"format": "\xff"}'), ("predict",), r"model\.json: not as expected"),
    "model.json NaN": (
        lambda run: (run / MODEL).write_text((run / MODEL).read_text().rstrip()[:-1] + ', "x": NaN}'),
        ("predict",),
        r"model\.json: not as expected",
    ),
    "model.json of a later version": (
        put(MODEL, '{"format": "fastfashion-model", "version": 9}'),
        ("predict", "weights"),
        "version 2 to 4",
    ),
    "model.json of another kind": (put(MODEL, '{"format": "other", "version": 2}'), ("predict",), "expected fastfashion-model"),
    "model.json missing": (lambda run: (run / MODEL).unlink(), ("predict", "serve"), r"model\.json is missing"),
    "model.json a FIFO": (fifo(MODEL), ("predict", "evaluate"), r"model\.json: not a regular file"),
    "model.json too large": (lambda run: os.truncate(run / MODEL, 1 << 27), ("predict",), r"model\.json: more than \d+ bytes"),
    "model.json with a changed letter": (flip(MODEL, 90), (*READERS_OF_MODEL, "weights"), r"model\.json: damaged"),
    "no classes": (change(MODEL, lambda v: v.update(classes={})), ("predict",), "expected a label"),
    "classes no list": (change(MODEL, lambda v: v.update(classes={"gender": "Men"})), ("predict",), "not as expected"),
    "a label that leads elsewhere": (
        change(MODEL, lambda v: v.update(classes={f"../../../{task}": names for task, names in v["classes"].items()})),
        READERS_OF_MODEL,
        "no name of a label",
    ),
    "a class twice": (change(MODEL, twice), ("predict",), "names, each once"),
    "many classes": (
        change(MODEL, lambda v: v["classes"].update(gender=[str(n) for n in range(300_000)])),
        READERS_OF_MODEL,
        r"does not fit test_resnet .*heads\.gender\.weight is \[3, \d+\] of floats, expected \[300000,",
    ),
    "a task more": (change(MODEL, lambda v: v["classes"].update(usage=["a"])), ("predict",), r"heads\.usage\.bias is missing"),
    "a size of a million": (change(MODEL, lambda v: v.update(size="1000000x1000000")), ("predict",), "size: expected HxW"),
    "a size of 9999": (change(MODEL, lambda v: v.update(size="9999x9999")), ("predict", "serve"), "each 16 to 4096"),
    "an unknown model": (change(MODEL, lambda v: v.update(model="resnet19")), ("predict",), "unknown model"),
    "a model of the Hub": (change(MODEL, lambda v: v.update(model="hf-hub:some/body")), READERS_OF_MODEL, "unknown model"),
    "another model": (
        change(MODEL, lambda v: v.update(model="vit_giant_patch14_dinov2")),
        ("predict", "evaluate"),
        "does not fit vit_giant_patch14_dinov2",
    ),
    "flip_average in words": (change(MODEL, lambda v: v.update(flip_average="yes")), ("predict",), "not as expected"),
    "weights with a changed bit": (flip("best/model.safetensors", -3), (*READERS_OF_MODEL, "weights"), r"model\.safetensors: damaged"),
    "weights cut": (weights_bytes(lambda data: data[:-20]), ("predict", "evaluate"), "not a readable model"),
    "weights with a hole of a terabyte": (lambda run: os.truncate(run / "best/model.safetensors", 1 << 40), ("predict",), "not a readable"),
    "a list with a hole of a terabyte": (lambda run: os.truncate(run / "trained_on.safetensors", 1 << 40), ("evaluate",), "not readable"),
    "weights empty": (weights_bytes(lambda data: b""), ("predict",), "not a readable model"),
    "weights with a header of 2^60 bytes": (
        weights_bytes(lambda data: (1 << 60).to_bytes(8, "little") + data[8:]),
        ("predict",),
        "not a rea",
    ),
    "weights past their end": (
        weights_bytes(lambda data: len(HEADER).to_bytes(8, "little") + HEADER.encode() + bytes(64)),
        ("predict",),
        "not a readable",
    ),
    "weights a FIFO": (fifo("best/model.safetensors"), ("predict", "evaluate"), r"model\.safetensors: not a regular file"),
    "NaN in weights": (
        weights(lambda t: t["heads.season.weight"].view(-1)[3:4].fill_(float("nan"))),
        (*READERS_OF_MODEL, "weights"),
        r"the tensor heads\.season\.weight holds NaN",
    ),
    "infinity in weights": (weights(lambda t: t["mean"].fill_(float("inf"))), READERS_OF_MODEL, "the tensor mean holds NaN"),
    "numbers of 8 bits": (
        weights(lambda t: t.update(std=t["std"].to(torch.float8_e4m3fn))),
        ("predict", "weights"),
        r"the tensor std is of a kind that cannot be computed with \(torch\.float8_e4m3fn",
    ),
    "NaN in answers": (weights(lambda t: t["backbone.bn1.running_var"].fill_(-1)), READERS_OF_MODEL, "outputs NaN for gender"),
    "a temperature of 0": (weights(lambda t: t["temperatures"].fill_(0)), ("predict", "serve"), "temperatures holds a number that is not"),
    "another shape": (
        weights(lambda t: t.update({"mean": torch.ones(3)})),
        ("predict",),
        r"mean is \[3\] of floats, expected \[1, 3, 1, 1\]",
    ),
    "another type": (weights(lambda t: t.update(std=t["std"].int())), ("predict",), "std is .* of integers, expected .* of floats"),
    "a tensor less": (weights(lambda t: t.pop("backbone.bn1.weight")), ("predict",), r"backbone\.bn1\.weight is missing"),
    "a tensor more": (weights(lambda t: t.update(more=torch.ones(1))), ("predict",), "more is not part of that model"),
    "config.json empty": (put(CONFIG, ""), ("evaluate", "export", "resume", "audit"), r"config\.json: not as expected"),
    "config.json a list": (put(CONFIG, "[]"), ("evaluate",), r"config\.json: not as expected"),
    "config.json a FIFO": (fifo(CONFIG), ("evaluate", "export"), "not a regular file"),
    "an unknown setting": (change(CONFIG, lambda v: v["optim"].update(rate=1)), ("evaluate", "resume"), r"unknown setting 'optim\.rate'"),
    "a rate of NaN": (change(CONFIG, lambda v: v["optim"].update(lr=float("nan"))), ("evaluate",), r"config\.json: not as expected"),
    "half an epoch": (change(CONFIG, lambda v: v["train"].update(epochs=2.5)), ("evaluate", "resume"), r"train\.epochs: expected int"),
    "a number without end": (put(CONFIG, '{"train": {"epochs": 1' + "0" * 5000 + "}}"), ("evaluate",), r"config\.json: "),
    "a section that is none": (change(CONFIG, lambda v: v.update(train=3)), ("evaluate",), r"config\.json: not as expected"),
    "corrections that are a FIFO": (
        lambda run: (
            special_files(run / "odd"),
            change(CONFIG, lambda v: v["data"].update(corrections=str(run / "odd/fifo")))(run),
        ),
        ("evaluate", "audit"),
        "not a regular file",
    ),
    "report cut": (lambda run: os.truncate(run / REPORT, 100), ("compare", "export"), r"report\.json: not readable.*test the run again"),
    "a report of text": (
        change(REPORT, lambda v: v["tasks"]["gender"].update(accuracy="high")),
        ("compare", "export"),
        "not readable as a",
    ),
    "an accuracy of 7": (change(REPORT, lambda v: v["tasks"]["gender"].update(accuracy=7)), ("compare",), r"report\.json: not readable"),
    "NaN in a report": (change(REPORT, lambda v: v["tasks"]["gender"].update(n=float("nan"))), ("compare", "export"), "not readable as a"),
    "a report without a split": (change(REPORT, lambda v: v.pop("split")), ("compare", "export"), "not readable as a report"),
    "predictions missing": (lambda run: (run / "predictions.parquet").unlink(), ("compare",), r"predictions\.parquet: cannot be read"),
    "predictions that are text": (put("predictions.parquet", "PAR1 no"), ("compare",), r"not readable \(no Parquet file\)"),
    "predictions cut": (lambda run: os.truncate(run / "predictions.parquet", 900), ("compare",), "no Parquet file"),
    "ids that are numbers": (answers(lambda t: t.assign(id=range(len(t)))), ("compare",), "expected text in the column id, found int64"),
    "no predictions": (
        answers(lambda t: t.drop(columns="gender_prediction")),
        ("compare",),
        "expected columns gender_prediction, found row, id",
    ),
    "fewer rows than reported": (answers(lambda t: t.iloc[1:]), ("compare",), r"expected \d+ rows as in report\.json, found"),
    "an id of two rows": (answers(lambda t: t.assign(id="one")), ("compare",), "expected an id, once"),
    "a row without an answer": (
        answers(lambda t: t.assign(gender_prediction=[None, *t.gender_prediction[1:]])),
        ("compare",),
        "a predictio",
    ),
    "predictions with another compression": (compressed, ("compare",), "column id is compressed by ZSTD"),
    "many rows in few bytes": (many_equal_rows, ("compare",), r"5000000 rows in \d+ bytes"),
    "a list of ids cut": (lambda run: os.truncate(run / LIST, 100), ("evaluate", "resume", "audit"), r"trained_on\.json: not as expected"),
    "a list of a later version": (change(LIST, lambda v: v.update(version=7)), ("evaluate",), "version 1 or 2"),
    "a changed count": (flip(LIST, -120), ("evaluate",), r"trained_on\.json: (damaged|not as expected)"),
    "a list of other labels": (change(LIST, lambda v: v["lists"]["val"].pop("gender")), ("evaluate",), "val: expected the labels gender"),
    "a row that is none": (rows(lambda a: a["train"].__setitem__(0, 60_000)), ("evaluate", "resume"), "train: expected whole numbers"),
    "rows a billion times": (
        rows(lambda a: a.update(times=np.full(len(a["train"]), 10**9, dtype=np.uint32))),
        ("evaluate", "resume"),
        "times: expected",
    ),
    "an id of two places": (rows(first_id_again), ("evaluate", "resume"), "an id occurs twice"),
    "floats for rows": (rows(lambda a: a.update(train=a["train"].astype(np.float32))), ("evaluate",), "train: expected whole numbers"),
    "a damaged line of metrics": (
        lines(lambda known: known.__setitem__(1, known[1][:30])),
        ("evaluate", "resume"),
        r"metrics\.jsonl:2: not",
    ),
    "a step below zero": (lines(lambda known: known.append('{"kind": "step", "epoch": 0, "step": -1}')), ("evaluate",), "not a line of"),
    "an epoch without scores": (lines(lambda known: known.append('{"kind": "epoch", "epoch": 0, "step": 1}')), ("resume",), "without val"),
    "status.json of zeros": (put("status.json", bytes(50)), ("resume",), r"status\.json: not as expected"),
    "a summary of text": (
        change("status.json", lambda v: v["summary"].update(steps="all")),
        ("resume as it is",),
        r"status\.json: its summary",
    ),
    "no whole checkpoint": (
        lambda run: [flip(str(path.relative_to(run)), 50)(run) for path in run.glob("checkpoints/*.json")],
        ("resume",),
        "none of its .* checkpoints is whole",
    ),
}


def command(what: str, run: Path, whole: Whole, out: Path) -> None:
    """As the command line does it, in this process."""
    usual = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    training = ["train", str(whole.shards), *usual]
    arguments = {
        "predict": ["predict", str(run), str(whole.image)],
        "evaluate": ["evaluate", str(run)],
        "compare": ["compare", str(run), str(whole.run)],
        "export": ["export", str(run), "--to", "hub", "--out", str(out)],
        "audit": ["audit", str(whole.shards), "--run", str(run), "--out", str(out)],
        "weights": [*training, "--weights", str(run), "--runs", str(out), "--name", "other"],
        "resume as it is": [*training, "--runs", str(run.parent), "--name", run.name],
    }
    more = ["--set=train.epochs=2", "--allow-config-change=train.epochs"]
    arguments["resume"] = [*arguments["resume as it is"], *more]
    if what == "serve":
        open_state(run, ALONE.device, Limits()).close()
    else:
        app(arguments[what], standalone_mode=False)


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_not_as_it_should_be_is_one_line_for_whoever_reads_that_part(
    case: str, run: Path, whole: Whole, tmp_path: Path
) -> None:
    damage, commands, said = CASES[case]
    damage(run)
    for what in commands:
        with pytest.raises((FastfashionError, OSError), match=said) as caught:
            command(what, run, whole, tmp_path / "out")
        text = os_error_text(caught.value) if isinstance(caught.value, OSError) else str(caught.value)
        assert "\n" not in text and len(text) < 1000, (what, text)


def test_nothing_of_the_table_is_refused_where_nothing_was_done(run: Path, whole: Whole, tmp_path: Path) -> None:
    for what in sorted({what for _, commands, _ in CASES.values() for what in commands}, key=lambda what: what == "resume"):
        command(what, run, whole, tmp_path / what)


@pytest.mark.parametrize("case", ["many classes", "NaN in weights", "a damaged line of metrics"])
def test_the_command_line_exits_with_2_and_one_line(case: str, run: Path, whole: Whole, tmp_path: Path) -> None:
    damage, _, _ = CASES[case]
    damage(run)
    done = workers.fastfashion("evaluate", str(run), cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line[:7] for line in done.stderr.splitlines() if line.startswith("error")] == ["error: "]


READ: dict[str, Callable[[Path], object]] = {
    "config.json": read_config,
    "report.json": read_report,
    "trained_on.json": trained_on.read_trained_on,
    "status.json": read_status,
    "best/model.json": lambda run: artifact.read_description(run / "best"),
    "metrics.jsonl": read_metrics,
    "checkpoints": lambda run: checkpoint.read_description(next(run.glob("checkpoints/*.json"))),
}


@pytest.mark.parametrize("name", READ)
def test_each_value_of_each_file_put_wrong_is_an_error_of_one_line_or_allowed(name: str, run: Path) -> None:
    path = run / name if name != "checkpoints" else next(run.glob("checkpoints/*.json"))
    document = json.loads(path.read_text().splitlines()[-1] if name == "metrics.jsonl" else path.read_text())
    document.pop("description_sha256", None)
    form = {"best/model.json": artifact.FORMAT, "trained_on.json": trained_on.FORMAT, "checkpoints": checkpoint.FORMAT}.get(name)
    refused = 0
    texts = [text.encode() for _, text in wrong_json(document)] + list(wrong_texts(document).values())
    for text in texts:
        data = text
        if form is not None:
            try:
                values = json.loads(text)
                data = json.dumps(described(form, values)).encode() if isinstance(values, dict) else text
            except (ValueError, RecursionError):
                pass
        path.write_bytes(data + b"\n")
        try:
            READ[name](run)
        except FastfashionError as error:
            refused += 1
            assert "\n" not in str(error) and path.name in str(error)
    assert refused > len(texts) / 4


def test_a_message_does_not_repeat_a_value_as_long_as_its_file(run: Path) -> None:
    change(CONFIG, lambda values: values["data"].update(protocol="x" * 900_000))(run)
    with pytest.raises(InputError, match=r"config\.json: .* \(\d+ characters left out\) … x+'\Z") as caught:
        read_config(run)
    assert len(str(caught.value)) < 5000


def test_no_damaged_footer_of_predictions_ends_compare_otherwise(run: Path, whole: Whole) -> None:
    """pandas reads JSON in it, and pyarrow types."""
    path = run / "predictions.parquet"
    data = path.read_bytes()
    at = data.index(b'"numpy_type"')
    path.write_bytes(data[:at] + b'"number_type' + data[at + 12 :])
    with suppress(FastfashionError):
        compare(run, whole.run)


def test_a_set_whose_labels_the_run_does_not_know_is_an_error_of_one_line(run: Path, whole: Whole, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole.shards, tmp_path / "set"))
    pd.read_parquet(out / "catalog.parquet").assign(season="other").to_parquet(out / "catalog.parquet", index=False)
    with pytest.raises(InputError, match=r"\Aseason: none of the \d+ tested rows has a label that the model knows; check .*\Z"):
        evaluate_run(EvaluateRequest(run=run, shards=out), ALONE)


def test_reports_from_before_the_hash_of_their_ids_are_compared_by_their_rows(run: Path, whole: Whole) -> None:
    change(REPORT, lambda values: [task.pop("test_ids_sha256") for task in values["tasks"].values()])(run)
    assert compare(run, whole.run)["tasks"]["gender"]["p_value"] == 1


# --- a changed byte, half a line, older versions ----------------------------------------------------------------------------------


def test_no_changed_byte_of_a_kept_models_description_gives_another_model(run: Path) -> None:
    path = run / MODEL
    whole, (_, known) = path.read_bytes(), load_artifact(run / "best")
    refused = 0
    for at in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 7
        path.write_bytes(changed)
        try:
            assert artifact.read_description(run / "best") == known
        except InputError:
            refused += 1
    assert refused > len(whole) / 6


def test_a_model_from_before_descriptions_had_checksums_is_read(run: Path) -> None:
    values = json.loads((run / MODEL).read_text())
    for key in ("sha256", "description_sha256", "channels_last"):
        del values[key]
    (run / MODEL).write_text(json.dumps(values | {"version": 2}))
    assert load_artifact(run / "best")[1].classes == values["classes"]


def test_half_a_last_line_of_metrics_is_skipped_and_said_and_a_resume_goes_on_without_it(
    run: Path, whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_metrics(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epo')
    notes: list[str] = []
    assert read_metrics(run, notes) == known
    assert len(notes) == 1 and f"metrics.jsonl:{len(known) + 1}: half a line" in notes[0]
    assert notes[0] in evaluate_run(EvaluateRequest(run=run), ALONE)["notes"]
    command("resume", run, whole, tmp_path)
    assert "half a line" in capsys.readouterr().err
    assert read_metrics(run)[: len(known)] == known


def test_what_is_not_finite_is_written_as_null_and_what_older_runs_wrote_is_read(tmp_path: Path) -> None:
    assert plain({"a": [float("nan"), -float("inf"), 1.5]}) == {"a": [None, None, 1.5]}
    publish_json(tmp_path / "x.json", {"a": float("inf")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None}
    line = '{"kind": "step", "epoch": 0, "step": 1, "loss": NaN, "grad_norm": -Infinity, "command": "a: NaN b"}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    (found,) = read_metrics(tmp_path)
    assert found["loss"] is None and found["grad_norm"] is None and found["command"] == "a: NaN b"


def kept_features(tmp_path: Path, **tensors: torch.Tensor) -> bool:
    """Whether a file of features of products is used."""
    path = tmp_path / "products.safetensors"
    good = {"rows": torch.tensor([2, 5]), "features": torch.zeros(2, 8, dtype=torch.float16)}
    save_file(good | tensors, path, metadata={"key": "k"})
    return read_features(path, "k", np.array([2, 5, 7]), 8) is not None


def test_features_of_products_are_used_only_where_they_are_this_models(tmp_path: Path) -> None:
    assert kept_features(tmp_path)
    for wrong in (
        {"rows": torch.tensor([2, 6])},
        {"rows": torch.tensor([2, 5, 7])},
        {"rows": torch.tensor([[2, 5]])},
        {"rows": torch.tensor([2.0, 5.0])},
        {"features": torch.zeros(2, 9)},
        {"features": torch.full((2, 8), float("nan"))},
        {"more": torch.zeros(1)},
    ):
        assert not kept_features(tmp_path, **wrong), wrong
    (tmp_path / "products.safetensors").write_bytes(b"no features")
    assert read_features(tmp_path / "products.safetensors", "k", np.array([2]), 8) is None


# --- first weights ----------------------------------------------------------------------------------------------------------------


class Aliased:
    """Pickled, it is a call that a reader of tensors must not make."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made",)


def compressed(path: Path) -> None:
    import zipfile

    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("code.pth", lambda path: torch.save(Aliased(), path), "files that run code when they are loaded"),
        ("list.pth", lambda path: torch.save([1, 2], path), "expected a state dict of tensors by name, found list"),
        ("packed.pth", compressed, "its tensors are compressed"),
        ("nan.pth", lambda path: torch.save({"conv1.weight": torch.full((3,), float("nan"))}, path), r"conv1\.weight holds NaN"),
        ("large.pth", lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40), "MB, more than 8 times the .* MB"),
        ("large.safetensors", lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40), "MB, more than 8 times the"),
        ("pipe.pth", os.mkfifo, "no such file"),
    ],
)
def test_files_of_first_weights_run_no_code_and_do_not_grow(
    name: str, make: Callable[[Path], object], said: str, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=said):
        command("weights", tmp_path / name, whole, tmp_path / "out")
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()


# --- addresses --------------------------------------------------------------------------------------------------------------------


@dataclass
class Counting:
    url: str
    asked: list[str]


@pytest.fixture(scope="module")
def server(whole: Whole) -> Iterator[Counting]:
    """A web server with the packed set, which counts what it is asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(whole.shards))

        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield Counting(f"http://127.0.0.1:{listening.server_address[1]}", asked)
        listening.shutdown()
        thread.join()


def test_no_command_contacts_an_address_that_a_run_names(
    run: Path, whole: Whole, server: Counting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.asked.clear()
    change(CONFIG, lambda values: values["data"].update(shards=server.url))(run)
    refusal = rf"its settings name the packed set {server.url}, which was not contacted.*--shards {server.url}"
    with pytest.raises(InputError, match=refusal):
        command("evaluate", run, whole, tmp_path)
    for name in (TRAINED_ON, TRAINED_ON_ROWS):  # as of a run from before there were lists of ids
        (run / name).rename(run / f"{name}.kept")
    with pytest.raises(InputError, match="its own set cannot be opened"):
        app(["evaluate", str(run), "--shards", str(whole.shards), "--rows", "unseen"], standalone_mode=False)
    for name in (TRAINED_ON, TRAINED_ON_ROWS):
        (run / f"{name}.kept").rename(run / name)
    for what in ("predict", "compare", "export", "audit"):
        command(what, run, whole, tmp_path / "out")
    assert "was not contacted" in capsys.readouterr().out  # what export says
    state = open_state(run, ALONE.device, Limits())
    assert state.products is None and "was not contacted" in state.no_products
    state.close()
    assert server.asked == []
    assert evaluate_run(EvaluateRequest(run=run, shards=whole.shards), ALONE)["tasks"].keys() == {"gender", "season"}
    assert server.asked == []


def test_the_address_is_used_where_it_is_given(run: Path, server: Counting) -> None:
    from fastfashion.files import location

    change(CONFIG, lambda values: values["data"].update(shards=server.url))(run)
    assert len(open_run(run, location(server.url)).split.rows("test")) > 0
    assert server.asked
