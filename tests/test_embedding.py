"""fastfashion in somebody else's program: nothing of the program is changed, and errors speak the program's language."""

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import PackedSmall
from serving import make_run
from test_loader_life import damage

import fastfashion as ff
from fastfashion.calls import SETTINGS, in_arguments
from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, FastfashionError, PackedSetError

HOME = Path(__file__).parents[1]
COMMAND = re.compile(r"(?:fastfashion [a-z-]+|torchrun|ray start|pip install|curl)[^,;)\n]*")  # to type, flags and all
TINY = {"model": "test_vit", "pretrained": False, "size": "32x32", "epochs": 1, "batch_size": 16, "settings": {"train.precision": "fp32"}}


def run_host(tmp_path: Path, program: str, *arguments: object, nproc: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of somebody else's, as a process of its own, or as several that torchrun starts."""
    script = tmp_path / "host.py"
    script.write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc)] if nproc > 1 else [sys.executable]
    known = os.environ | {"PYTHONPATH": f"{HOME}{os.pathsep}{HOME / 'tests'}"} | environment
    done = subprocess.run(
        [*command, str(script), *map(str, arguments)], cwd=tmp_path, env=known, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


STATE = """
import json, logging, multiprocessing, os, random, signal, sys, threading, warnings
import numpy as np
import torch
import cv2, matplotlib, pandas, pyarrow, scipy.stats, sklearn.metrics, timm, tqdm  # what importing these changes is theirs
import torch.utils.tensorboard, torch._dynamo

def state():
    return {
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.valid_signals() if isinstance(number, signal.Signals)},
        **{f"environment: {name}": value for name, value in os.environ.items()},
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "logging": (str(logging.root.handlers), logging.root.level, logging.root.manager.disable, str(logging.getLogger("PIL").handlers)),
        "warnings": len(warnings.filters),
        "random": hash(random.getstate()),
        "numpy": hash(np.random.get_state()[1].tobytes()) + np.random.get_state()[2],
        "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "flags": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, str(torch.get_default_dtype())),
        "grad": torch.is_grad_enabled(),
        "matplotlib": (matplotlib.get_backend(), hash(str(matplotlib.rcParams))),
        "processes": multiprocessing.get_start_method(allow_none=True),
        "hooks": (str(sys.excepthook), str(threading.excepthook), str(sys.stdout), str(sys.path)),
        "folder": os.getcwd(),
        "group": torch.distributed.is_initialized(),
    }

def unchanged(before, what):
    after = state()
    changed = {key: (before.get(key), after.get(key)) for key in before | after if before.get(key) != after.get(key)}
    assert not changed, (what, changed)
"""

ALL_FUNCTIONS = (
    STATE
    + """
shards = sys.argv[1]
from pathlib import Path
from fastfashion.errors import FastfashionError

def told(number, frame):
    raise AssertionError("not called")

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGUSR1, told)
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    torch.set_num_threads(3)
    logging.basicConfig(level=logging.WARNING)
    warnings.simplefilter("error")
    before = state()
    import fastfashion as ff
    unchanged(before, "import")
    ff.synth(rows=60, size="64x48", workers=1)
    unchanged(before, "synth")
    ff.shard(res=32, workers=1)
    unchanged(before, "shard")
    loader = ff.loader(shards, size="32x32", batch_size=8)
    for batch in loader.steps(0):
        break
    loader.close()
    unchanged(before, "loader")
    trained = ff.train_run(shards, task="masterCategory", name="first", model="test_vit", pretrained=False, size="32x32", epochs=1,
                           batch_size=16, settings={"train.precision": "fp32", "train.deterministic": True})
    unchanged(before, "train_run")
    ff.evaluate_run(trained)
    unchanged(before, "evaluate_run")
    ff.compare(trained, trained)
    ff.verify(shards), ff.audit(shards), ff.splits(shards), ff.preview(shards, workers=1)
    unchanged(before, "verify, audit, splits, preview")
    opened = ff.open_run(trained)
    unchanged(before, "open_run")
    answers = list(ff.predict(opened, shards, workers=1))
    assert len(answers) > 50
    list(ff.predict(opened, sorted(Path("data/synth/images").glob("*.jpg"))[:3], workers=1))
    unchanged(before, "predict")
    ff.export(opened, "hub")
    unchanged(before, "export")
    print("unchanged")
"""
)


def test_the_functions_leave_the_program_as_it_was(packed_small: PackedSmall, tmp_path: Path) -> None:
    """With warnings as errors, its own signal handlers, its own threads, generators, environment, logging and plots."""
    done = run_host(tmp_path, ALL_FUNCTIONS, packed_small.out)
    assert done.stdout.splitlines()[-1] == "unchanged"


IN_A_GROUP = (
    STATE
    + """
import fastfashion as ff
from fastfashion.errors import ConfigError

if __name__ == "__main__":
    shards = sys.argv[1]
    torch.set_num_threads(3)
    try:
        ff.loader(shards, size="32x32", batch_size=8)
        raise AssertionError("each would get all rows")
    except ConfigError as error:
        assert "init_process_group" in str(error), error
    torch.distributed.init_process_group("gloo")
    warnings.simplefilter("error")
    rank, before = torch.distributed.get_rank(), state()
    loader = ff.loader(shards, size="32x32", batch_size=8)
    rows = [batch.rows[batch.rows >= 0].tolist() for batch in loader.steps(0)]
    loader.close()
    unchanged(before, "loader")
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, rows)
    trained = ff.train_run(shards, task="season", name="together", model="test_resnet", pretrained=False, size="32x32", epochs=1,
                           batch_size=16, settings={"train.precision": "fp32"})
    unchanged(before, "train_run")
    if rank == 0:
        assert ff.evaluate_run(trained)["tasks"]["season"]["n"] > 0  # this process alone: nobody waits for the other
        unchanged(before, "evaluate_run")
        print(json.dumps(gathered))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""
)


@pytest.mark.dist
def test_in_a_process_group_each_rank_has_its_share_and_the_group_stays_the_programs(packed_small: PackedSmall, tmp_path: Path) -> None:
    done = run_host(tmp_path, IN_A_GROUP, packed_small.out, nproc=2)
    first, second = json.loads(done.stdout.splitlines()[-1])
    loader = ff.loader(packed_small.out, size="32x32", batch_size=8)
    alone = [sorted(batch.rows[batch.rows >= 0].tolist()) for batch in loader.steps(0)]
    loader.close()
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == alone
    assert {len(a) for a in first} <= {3, 4} and {len(a) for a in second} <= {3, 4}
    (start, *_) = (json.loads(line) for line in (tmp_path / "runs/together/metrics.jsonl").read_text().splitlines())
    assert start["processes"] == 2


THREADS = """
import torch
from fastfashion import dist
dist.start()
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("wished", "expected"),
    [("1", "1"), ("999", None), *(pytest.param(*each, marks=pytest.mark.slow) for each in (("", None), ("1,2", "1"), ("many", None)))],
)
def test_a_process_of_ours_takes_no_more_threads_than_omp_num_threads_and_its_cores(
    tmp_path: Path, wished: str, expected: str | None
) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert run_host(tmp_path, THREADS, OMP_NUM_THREADS=wished).stdout.strip() == (expected or str(cores))


@pytest.mark.dist
def test_nothing_is_left_in_tmpdir_by_a_training_of_two_processes(packed_small: PackedSmall, tmp_path: Path) -> None:
    """timm imports wandb, which makes two folders there; workers end by os._exit."""
    pytest.importorskip("wandb", reason="wandb is not installed (the [track] extra)")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "fastfashion", "train", str(packed_small.out), "--model", "test_vit", "--no-pretrained"]
    command += ["--size", "32x32", "--epochs", "1", "--batch-size", "16", "--nproc", "2", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in temporary.rglob("*") if not path.name.startswith("torchinductor_")] == []  # torch's own, one a user


def test_what_the_api_has_opened_or_returned_is_taken_in_place_of_a_path(packed_small: PackedSmall, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", packed_small.out)
    opened, packed = ff.open_run(run), ff.open_packed_set(packed_small.out)
    by_path = list(ff.predict(run, packed_small.out, workers=1))
    assert list(ff.predict(opened, packed, workers=1)) == list(ff.predict(str(run), [packed], workers=1)) == by_path
    report = ff.evaluate_run(opened)
    assert ff.compare(opened, run)["tasks"].keys() == report["tasks"].keys()
    assert ff.open_run(opened, packed).path == run
    loader = ff.loader(packed, size="32x24", batch_size=8)
    loader.close()
    assert Path(ff.export(opened, "hub", shards=packed, out=tmp_path / "hub").out).is_dir()


@pytest.mark.parametrize("wrong", [7, None, object(), torch.nn.Linear(1, 1)])
def test_what_is_no_run_and_no_set_is_said_in_words(packed_small: PackedSmall, wrong: object) -> None:
    calls = [
        lambda: list(ff.predict(wrong, packed_small.out)),
        lambda: ff.evaluate_run(wrong),
        lambda: ff.compare(wrong, wrong),
        lambda: ff.open_run(wrong),
        lambda: ff.export(wrong, "hub"),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"^(run|first): expected the folder of a run, or what open_run or train_run returned, found"):
            call()
    if wrong is not None:  # which means the only one under shards/
        with pytest.raises(ConfigError, match="expected a path, an address or an opened packed set, found"):
            ff.loader(wrong)  # type: ignore[arg-type]


def test_errors_name_arguments_and_settings(packed_small: PackedSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", packed_small.out)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: ff.train_run(), r"or name one as the first argument$"),
        (lambda: ff.shard(packed_small.source, quality=0), r"^quality: expected 1 to 100"),
        (lambda: ff.shard(packed_small.source, max_pixels=0), r"^max_pixels: expected"),
        (lambda: ff.shard(packed_small.source, max_rejected=-1), r"^max_rejected: expected"),
        (lambda: ff.shard(packed_small.source, max_pixels=10, max_rejected=3), r"more than max_rejected=3;.*higher max_rejected"),
        (lambda: ff.shard(packed_small.source, label_columns=["id"]), r"^label_columns: 'id'"),
        (lambda: ff.shard(packed_small.source, label_columns="season,id"), r"^label_columns: 'id'"),
        (lambda: ff.shard(packed_small.source, run), r"choose another out$"),
        (lambda: ff.synth(size="large"), r"^size=?.*large: expected height x width"),
        (lambda: ff.train_run(packed_small.out, name="none", resume="must", **TINY), r"resume=\"must\", but there is no run"),
        (lambda: ff.train_run(packed_small.out, **TINY | {"batch_size": 0}), r"batch_size"),
        (
            lambda: ff.train_run(packed_small.out, **TINY | {"settings": {"model.weights": "none.pth"}}),
            r'weights="none.pth"',
        ),
        (lambda: ff.loader(packed_small.out, device="moon"), r"^device: expected cpu, cuda, cuda:N or mps, found 'moon'$"),
        (lambda: ff.predict(run, packed_small.out, device="mps"), r"^device: 'mps', but this machine has no GPU of Apple's"),
        (lambda: ff.evaluate_run(run, device="cuda:99"), r"^device: 'cuda:99', but this machine has"),
        (lambda: ff.predict(run, packed_small.out, top=0), r"^top: expected 1 or more, found 0$"),
        (lambda: ff.export(run, "moon"), r"^to: expected onnx, hub or space, found 'moon'$"),
        (lambda: ff.export(run, "hub", int8=True), r'^int8: only to="onnx" has it'),
        (lambda: ff.export(run, "hub", out=packed_small.out), r"choose another out, or empty it"),
    ]
    for call, expected in cases:
        with pytest.raises(FastfashionError) as raised:
            call()
        assert re.search(expected, str(raised.value)), (expected, str(raised.value))
        assert not re.search(r"(?<!\w)--[a-z]", COMMAND.sub("", str(raised.value))), str(raised.value)


def test_an_image_that_does_not_decode_is_said_in_arguments_while_iterating(packed_small: PackedSmall, tmp_path: Path) -> None:
    shards = tmp_path / "damaged"
    shutil.copytree(packed_small.out, shards)
    damage(shards, list(range(60)))
    loader = ff.loader(shards, size="32x32", batch_size=8, settings={"data.resolution": "full"})
    with pytest.raises(PackedSetError, match=r'with fastfashion verify .*, or leave .*on_bad="skip"'):
        next(loader.steps(0))
    loader.close()
    ended = ff.loader(shards, size="32x32", batch_size=8, settings={"data.resolution": "full", "data.on_bad": "skip"})
    assert all((batch.rows < 0).all() for batch in ended.steps(0))
    ended.close()


# Flags of commands that the API does not have, or that it gives a fixed value; errors that name them cannot reach it.
COMMANDS_ONLY = {"format", "json", "nproc-per-node", "verbose"}


def flags_in_messages() -> Iterator[tuple[str, str]]:
    """(file:line, flag) of every flag that a text outside the command line names, but for whole commands to type."""
    no_messages = ("api.py", "calls.py", "config.py", "fields.py", "command_line.py", "command_options.py", "provenance.py")
    no_messages += ("train/__main__.py", "sources/kaggle_api.py", "serve/render.py")
    for path in sorted((HOME / "fastfashion").rglob("*.py")):
        name = path.relative_to(HOME / "fastfashion").as_posix()
        if (
            name.startswith(("cli/", "bench.py", "doctor", "evaluate/reproduce", "evaluate/published")) or name in no_messages
        ):  # of commands alone
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        whole = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        inside = documentation | {id(part) for node in whole for part in ast.walk(node) if part is not node}
        plain = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        texts = [(node.lineno, written(node)) for node in [*whole, *plain] if id(node) not in inside]
        for line, text in texts:
            yield from ((f"{name}:{line}", flag) for flag in re.findall(FLAG, COMMAND.sub("", text)))
            assert not re.search(FLAG, COMMAND.sub("", in_arguments(text, ()))), (name, line, in_arguments(text, ()))


FLAG = r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])"


def written(node: ast.JoinedStr | ast.Constant) -> str:
    """A text, with X for what is put into it."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)


def test_values_are_written_as_python() -> None:
    names = inspect.signature(ff.train_run).parameters
    said = {
        "choose another --name, or resume it with --allow-config-change optim.lr --allow-config-change train.epochs": (
            "choose another name, or resume it with allow_config_change=['optim.lr', 'train.epochs']"
        ),
        "--no-pretrained and --pretrained": "pretrained=False and pretrained",
        "start another: --name OTHER --weights runs/x/best": 'start another: name="OTHER" weights="runs/x/best"',
        "--resume --name, --out": "resume name, out",
        "with --set train.accumulate=2": 'with settings={"train.accumulate": 2}',
        "use --weights FILE or --no-pretrained": 'use weights="FILE" or pretrained=False',
        "fail in the same way; --debug shows where it failed": "fail in the same way; its __cause__ shows where it failed",
        "with fastfashion verify s3://b/set --repair, or --set data.on_bad=skip": (
            'with fastfashion verify s3://b/set --repair, or settings={"data.on_bad": "skip"}'
        ),
    }
    assert {text: in_arguments(text, names) for text in said} == said


def test_every_flag_that_a_message_names_is_an_argument_or_a_setting() -> None:
    """What a new message says is in the API's words, too; otherwise it would name something that the API does not have."""
    known = {name.replace("_", "-") for function in ff.__all__[2:] for name in inspect.signature(getattr(ff, function)).parameters}
    known |= SETTINGS.keys() | COMMANDS_ONLY | {"debug", "set"}
    unknown = {(where, flag) for where, flag in flags_in_messages() if flag.removeprefix("no-") not in known}
    assert unknown == set()
    for flag, key in SETTINGS.items():
        section, _, name = key.partition(".")
        assert name in RunConfig(data=DataConfig(shards="")).to_dict()[section], flag
