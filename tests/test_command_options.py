"""What is given to a command or function becomes a request, or an error that names the option."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from fastfashion import command_options as options
from fastfashion.calls import in_arguments
from fastfashion.command_options import ask
from fastfashion.errors import ConfigError

TRAIN, PREVIEW, SYNTH, SPLITS = options.TrainRequest, options.PreviewRequest, options.SynthRequest, options.SplitsRequest
RUN_TOO = {"run": "runs/a"}


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        *(
            (SYNTH, {"size": size}, f"--size {size}: expected height x width")
            for size in ("80", "80x", "x80", "80X64", "0x5", "9x80", "80x5000")
        ),
        *((SYNTH, {"out": place}, "--out: expected a path") for place in ("", 5, ["a"])),
        (SYNTH, {"rows": 2.5}, "--rows: expected int, found 2.5"),
        (SYNTH, {"workers": -1}, "--workers: expected 1 to 1024, found -1"),
        (options.ShardRequest, {"source": "data", "res": 32.5}, "--res: expected a name or several, found 32.5"),
        (options.ShardRequest, {"source": "data", "label_columns": 5}, "--label-columns: expected a name or several, found 5"),
        (options.ShardRequest, {"source": ""}, "--source: expected a path or an address, found an empty text"),
        (options.VerifyRequest, {"shards": 5}, "shards: expected a path, an address or an opened packed set, found int"),
        (options.AuditRequest, {"shards": "set", "runs": 5}, "--run: expected the folder of a run"),
        (options.AuditRequest, {"shards": "set", "corrections": "a.csv"}, "--corrections a.csv: only labels that --run judges"),
        *((SPLITS, {"shards": "set", "task": task}, "--task: expected") for task in ("", 5, "season,season", ["a", "b", "a"], {"a": 1})),
        (SPLITS, {"shards": "set", "split_by": ["season"]}, r"--split-by: expected str, found \['season'\]"),
        (SYNTH, {"size": (80, 60)}, r"--size: expected str, found \(80, 60\)"),
        (options.PredictRequest, RUN_TOO | {"paths": BytesIO(b"")}, "paths: expected paths, PIL images, arrays or bytes, found BytesIO"),
        (SPLITS, {"shards": "set", "fold": 5}, "--fold: expected 0 to below 5, found 5"),
        *((PREVIEW, {"shards": "set", "count": rows}, f"--rows: expected 1 to 512, found {rows}") for rows in (0, -4, 513)),
        *((PREVIEW, {"shards": "set", "row": row}, "--row: expected") for row in (1.5, "x", ["x"], [1.5])),
        *((PREVIEW, {"shards": "set", "settings": settings}, "--set: expected settings such as") for settings in (5, "a.b=1")),
        (TRAIN, {"shards": "set", "epochs": 0}, "--epochs: expected 1 or more, found 0"),
        (TRAIN, {"shards": "set", "protocol": "random"}, "--protocol: expected stratified, reference, folds, file or column, "),
        *((TRAIN, {"shards": "set", "name": name}, f"--name {name}: expected a name, not a path") for name in ("", "..", "a/b", ".")),
        (TRAIN, {"shards": "set", "out": "new", "runs": "other"}, "--out is the old name of --runs, and one is new, the other other"),
        *((options.ReproduceRequest, {name: 0}, f"--{name}: expected 1 or more, found 0") for name in ("seeds", "epochs", "nproc")),
        (options.DownloadRequest, {"which": "medium"}, "which: expected small or full, found 'medium'"),
        (options.PredictRequest, RUN_TOO | {"paths": 5}, "paths: expected paths, PIL images, arrays or bytes, found int"),
        *((options.PredictRequest, RUN_TOO | {"paths": paths}, "paths: expected a path") for paths in ("", ["a.jpg", ""])),
        (options.PredictRequest, RUN_TOO | {"paths": None}, "paths: expected paths, PIL images, arrays or bytes, found NoneType"),
        (options.ExportRequest, {"run": "", "to": "hub"}, "run: expected the folder of a run, .* found an empty text"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_option(kind: Any, given: dict[str, Any], said: str) -> None:
    """Arguments by position have no flag: an error does not name one."""
    with pytest.raises(ConfigError, match=f"^{said}") as refused:
        ask(kind, given, lambda text: None)
    said = in_arguments(str(refused.value), {"name", "runs", "out", "run", "corrections", "settings"})
    assert "--" not in said and not said.startswith("set:")


@pytest.mark.parametrize(
    ("given", "other", "is_same"),
    [
        ({"epochs": 2}, {"train.epochs": "3"}, False),
        ({"epochs": 2}, {"train.epochs": "2"}, True),
        ({"size": "64x48"}, {"data.size": "48x64"}, False),
        ({"pretrained": False}, {"model.pretrained": "no"}, True),
        ({"pretrained": False}, {"model.pretrained": True}, False),
        ({"on_bad": "skip"}, {"data.on_bad": "stop"}, False),
    ],
)
def test_an_option_and_its_setting_may_not_contradict(given: dict[str, Any], other: dict[str, Any], is_same: bool) -> None:
    request = ask(TRAIN, {"shards": "set", "settings": other} | given, lambda text: None)
    if is_same:
        assert request.config().data.shards == "set"
        return
    with pytest.raises(ConfigError, match="leave one out"):
        request.config()


def test_none_means_the_default() -> None:
    names = ("seed", "task", "out", "fold", "protocol")
    assert ask(SPLITS, {"shards": "set"} | dict.fromkeys(names), print) == ask(SPLITS, {"shards": "set"}, print)


@pytest.mark.parametrize(("given", "found"), [("12", (12,)), (3, (3,)), ([1, "2"], (1, 2)), ((), ()), (range(2), (0, 1))])
def test_rows_are_numbers_and_a_text_is_not_taken_for_its_digits(given: Any, found: tuple[int, ...]) -> None:
    assert ask(PREVIEW, {"shards": Path("set"), "row": given}, print).row == found


@pytest.mark.parametrize(
    ("given", "found"), [(32, ("32",)), ("32,full", ("32", "full")), (["32", 32, "full"], ("32", "full")), (None, ("224",))]
)
def test_resolutions_are_named_as_tasks_are(given: Any, found: tuple[str, ...]) -> None:
    assert ask(options.ShardRequest, {"source": "data", "res": given}, print).res == found
