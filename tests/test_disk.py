"""A full disk is said with the file, what it needs and what is free; what a killed process leaves is removed by the next."""

import errno
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PackedSmall, digests, no_file_above
from safetensors.torch import save_file

from fastfashion.csv_files import publish_csv
from fastfashion.disk import disk_full, room_for
from fastfashion.errors import DiskFullError, FastfashionError, InputError, PackedSetError
from fastfashion.files import hold, publish, publish_folder, publish_json
from fastfashion.pack import PackRequest, pack
from fastfashion.scratch import PREFIX, scratch, sweep
from fastfashion.sources.synth import write_synth
from fastfashion.train.checkpoint import Checkpoints, Progress

LARGE = 200_000  # bytes that each writer below wants to write
LIMIT = 50_000


def write_csv(folder: Path) -> None:
    publish_csv(folder / "table.csv", ["id"], ([str(number)] for number in range(LARGE // 5)))


def write_json(folder: Path) -> None:
    publish_json(folder / "values.json", ["x" * 100] * (LARGE // 100))


def write_safetensors(folder: Path) -> None:
    publish(folder / "w.safetensors", lambda beside: save_file({"w": torch.zeros(LARGE // 4)}, beside), LARGE)


def write_folder(folder: Path) -> None:
    publish_folder(folder / "best", lambda beside: save_file({"w": torch.zeros(LARGE // 4)}, beside / "w.safetensors"))


def write_parquet(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    table = pd.DataFrame({"x": np.random.default_rng(0).random(LARGE // 8)})
    publish(folder / "t.parquet", lambda beside: table.to_parquet(beside, index=False))


def write_image(folder: Path) -> None:
    from PIL import Image

    publish(folder / "sheet.png", lambda beside: Image.effect_noise((600, 600), 90).save(beside, "PNG"))


WRITERS: list[tuple[Callable[[Path], None], str]] = [
    (write_csv, r"table\.csv"),
    (write_json, r"values\.json"),
    (write_safetensors, r"w\.safetensors"),
    (write_folder, r"best"),
    (write_parquet, r"t\.parquet"),
    (write_image, r"sheet\.png"),
]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_what_does_not_fit_is_said_with_its_file_and_nothing_is_left(write: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    write(tmp_path)
    before = digests(tmp_path)
    with no_file_above(LIMIT), pytest.raises(DiskFullError) as raised:
        write(tmp_path)
    message = str(raised.value)
    assert f"{tmp_path}/{name}: ".replace("\\", "") in message and " MB are free" in message and "\n" not in message
    assert raised.value.errno == errno.EFBIG
    assert digests(tmp_path) == before


def test_what_is_needed_is_said_where_it_is_known(tmp_path: Path) -> None:
    with no_file_above(LIMIT), pytest.raises(DiskFullError, match=r"w\.safetensors: .*: 0\.2 MB are needed, [\d.]+ MB are free; "):
        write_safetensors(tmp_path)
    with no_file_above(LIMIT), pytest.raises(DiskFullError, match=r"table\.csv: .*: more than 0\.1 MB are needed, [\d.]+ MB are free; "):
        write_csv(tmp_path)


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up")])
def test_quota_and_space_are_told_apart_in_this_process_and_others(number: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=rf"x: {said}: ") as raised, room_for(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.errno) == (str(raised.value), number)
    assert isinstance(again, FastfashionError)


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    for error in (PermissionError(errno.EACCES, "no"), ValueError("x"), InputError("y")):
        with pytest.raises(type(error)) as raised, room_for(tmp_path):
            raise error
        assert raised.value is error and disk_full(error) is None


def test_a_lock_that_does_not_fit_is_said_with_its_file_and_nothing_is_left(tmp_path: Path) -> None:
    with (
        no_file_above(0),
        pytest.raises(DiskFullError, match=rf"^{tmp_path}/\.lock: "),
        hold(tmp_path / ".lock", "packer", PackedSetError),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_synth_that_does_not_fit_names_its_folder_and_leaves_nothing(tmp_path: Path) -> None:
    with no_file_above(1000), pytest.raises(DiskFullError, match=rf"{tmp_path}/drawn: "):
        write_synth(tmp_path / "drawn", rows=4, width_px=60, height_px=80)
    assert list(tmp_path.iterdir()) == []


def test_packing_that_does_not_fit_says_how_much_is_needed_and_publishes_nothing(packed_small: PackedSmall, tmp_path: Path) -> None:
    request = PackRequest(source=packed_small.source, out=tmp_path / "out", resolutions=("32",), rows_per_shard=25, workers=1)
    with (
        no_file_above(20_000),
        pytest.raises(PackedSetError, match=r"about \d+ MB more are needed, \d+ MB are free; nothing was published"),
    ):
        pack(request)
    assert not (tmp_path / "out" / "32").exists()
    assert pack(request).kept == 60


def test_a_checkpoint_that_does_not_fit_is_a_warning_and_the_one_before_stays(tmp_path: Path) -> None:
    told: list[str] = []
    with Checkpoints(tmp_path, 2, told.append, lambda tensors: None) as checkpoints:
        checkpoints.save(1, Progress(step=1), {"w": torch.zeros(LARGE // 4)})
        checkpoints.wait()
        before = digests(tmp_path)
        with no_file_above(LIMIT):
            checkpoints.save(2, Progress(step=2), {"w": torch.zeros(LARGE // 4)})
            checkpoints.wait()
        assert digests(tmp_path) == before
    [warning] = told
    assert "the checkpoint of step 2 was not saved" in warning and "0.2 MB are needed" in warning and "the one of step 1 stays" in warning


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_disk_that_is_really_full_it_is_the_same(small_disk: Path) -> None:
    for write, name in WRITERS:
        with pytest.raises(DiskFullError, match=rf"{name}: the disk is full: .*MB are free; free some space") as raised:
            write(small_disk)
        assert raised.value.errno == errno.ENOSPC
        assert list(small_disk.iterdir()) == []


WORKS = """
import sys, time
from pathlib import Path
from fastfashion.scratch import scratch, signals_raise
with signals_raise(), scratch(Path(sys.argv[1])) as folder:
    (folder / "half.onnx").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def start(where: Path, program: str = WORKS) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program, str(where)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)])
def test_a_signal_leaves_nothing(number: signal.Signals, status: int, tmp_path: Path) -> None:
    process = start(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    assert process.wait(30) == status
    assert list(tmp_path.iterdir()) == []


def test_what_sigkill_leaves_goes_with_the_next_start_and_what_lives_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}of-nobody-new").mkdir()  # as between making the folder and locking it
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "theirs")
    killed, lives = start(tmp_path), start(tmp_path)
    killed.kill()
    killed.wait()
    with scratch(tmp_path) as mine:
        assert mine.is_dir() and len(list(tmp_path.glob(f"{PREFIX}*/half.onnx"))) == 1
    lives.terminate()
    lives.wait()
    assert {path.name for path in tmp_path.iterdir()} == {f"{PREFIX}of-nobody-new", "theirs", f"{PREFIX}link"}
    os.utime(tmp_path / f"{PREFIX}of-nobody-new", (1, 1))
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", f"{PREFIX}link"}


def test_uploads_to_a_storage_leave_nothing_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastfashion.files import location

    pytest.importorskip("upath")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = start(tmp_path)
    killed.kill()
    killed.wait()
    out: Any = location("memory://disk/uploads/values.json")
    publish_json(out, [1])
    assert out.read_text() == "[\n  1\n]\n" and list(tmp_path.iterdir()) == []
    with no_file_above(LIMIT), pytest.raises(DiskFullError, match=r"values\.json: .*MB are free"):
        write_json(out.parent)
    assert list(tmp_path.iterdir()) == []
