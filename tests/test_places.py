"""A place that cannot be read or written, for every command: named in words, with what to do, and before any work is done."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import PackedSmall
from serving import make_run

from fastfashion.cli import main
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import open_packed_set

LONG = "x" * 300
FOLDERS = {  # commands that write a folder; their other arguments name nothing that is there: the place is checked first
    "synth": ["synth"],
    "shard": ["shard", "--source", "nowhere"],
    "audit": ["audit", "nowhere"],
    "train": ["train", "nowhere"],
    "export": ["export", "nowhere", "--to", "hub"],
    "reproduce": ["reproduce", "fashion-product-images", "nowhere"],
    "download": ["download", "small"],
}
FILES = {
    "splits": ["splits", "nowhere"],
    "preview": ["preview", "nowhere"],
    "predict": ["predict", "nowhere", "nowhere"],
    "bench-loader": ["bench-loader", "nowhere"],
}


def said_of(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a command in this process: exit status 2, and nothing that only a programmer reads."""
    monkeypatch.setattr(sys, "argv", ["fastfashion", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    last = said.err[said.err.index("error: ") :]
    assert "Errno" not in said.err and "Traceback" not in said.err and len(last.splitlines()) <= 6, said.err
    return last


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inside").write_text("x")
    return tmp_path


@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_a_place_that_cannot_be_written_is_named_before_any_work(
    command: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (FOLDERS | FILES)[command]
    wrong, found = ("file", "expected a folder, found a file") if command in FOLDERS else ("folder", "expected a file, found a folder")
    for place, said in ((wrong, found), ("file/out", "file is a file, expected a folder"), (LONG, "the name is too long")):
        text = said_of(*arguments, "--out", place, monkeypatch=monkeypatch, capsys=capsys)
        assert f"--out {place}: " in text and said in text and "choose another --out" in text
    assert sorted(path.name for path in home.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_a_folder_without_permission_is_named_before_any_work(
    command: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "closed").mkdir(mode=0o500)
    said = said_of(*(FOLDERS | FILES)[command], "--out", "closed/out", monkeypatch=monkeypatch, capsys=capsys)
    assert "closed cannot be written to (permission denied)" in said


@pytest.fixture(scope="module")
def run(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", packed_small.out, size="32x32", model="test_resnet", tasks=("season",))


SMALL = ["--task", "season", "--size", "32x32", "--model", "test_resnet", "--no-pretrained"]
INPUTS = {  # PLACE is what is wrong, SET and RUN for what is right
    "shard": ["shard", "--source", "PLACE"],
    "shard table": ["shard", "--source", "SOURCE", "--table", "PLACE"],
    "verify": ["verify", "PLACE"],
    "repair": ["verify", "SET", "--repair", "--source", "PLACE"],
    "audit": ["audit", "PLACE"],
    "audit run": ["audit", "SET", "--run", "PLACE"],
    "audit corrections": ["audit", "SET", "--run", "RUN", "--corrections", "PLACE"],
    "splits": ["splits", "PLACE"],
    "preview": ["preview", "PLACE"],
    "train": ["train", "PLACE", *SMALL],
    "train corrections": ["train", "SET", "--corrections", "PLACE", *SMALL],
    "train weights": ["train", "SET", "--weights", "PLACE", "--size", "32x32", "--model", "test_resnet"],
    "evaluate": ["evaluate", "PLACE"],
    "evaluate shards": ["evaluate", "RUN", "--shards", "PLACE"],
    "compare": ["compare", "PLACE", "RUN"],
    "reproduce": ["reproduce", "fashion-product-images", "PLACE"],
    "predict": ["predict", "PLACE", "SOURCE"],
    "export": ["export", "PLACE", "--to", "hub"],
    "serve": ["serve", "PLACE", "--port", "0"],
    "bench-loader": ["bench-loader", "PLACE"],
}
FINE = {("repair", place) for place in ("nowhere", "file", "folder", "file/x", LONG)}  # a whole set needs no source


@pytest.mark.parametrize("command", INPUTS)
def test_a_place_that_cannot_be_read_is_named_with_what_to_do(
    command: str, home: Path, packed_small: PackedSmall, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"SET": str(packed_small.out), "RUN": str(run), "SOURCE": str(packed_small.source)}
    for place in ("nowhere", "file", "folder", "file/x", LONG):
        if (command, place) in FINE:
            continue
        shutil.rmtree(home / "runs", ignore_errors=True)
        said = said_of(*(here.get(part, part).replace("PLACE", place) for part in INPUTS[command]), monkeypatch=monkeypatch, capsys=capsys)
        assert place in said, said
        assert len(said.replace(LONG, "")) > len("error: : not readable"), said


def test_an_interrupted_set_says_so_and_the_same_command_resumes_it(
    home: Path, packed_small: PackedSmall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = PackRequest(source=packed_small.source, out=Path("shards/set"), resolutions=("32",), rows_per_shard=25)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("fastfashion.pack.packer.commit", interrupt)
        pack(request)
    for command in (["verify", "shards/set"], ["audit", "shards/set"], ["splits", "shards/set"], ["preview", "shards/set"]):
        said = said_of(*command, monkeypatch=monkeypatch, capsys=capsys)
        assert "shards/set: packing it was interrupted" in said
        assert f"fastfashion shard --source {packed_small.source} --res 32 --out shards/set" in said
    assert "packing shards/set was interrupted" in said_of("splits", monkeypatch=monkeypatch, capsys=capsys)
    assert pack(request).resumed == 60
    assert len(open_packed_set(Path("shards/set"))) == 60


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt
