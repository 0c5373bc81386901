"""Packing that is killed, stopped, starved of disk, or raced: nothing is lost, nothing is published half, and the next run resumes."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import digests, make_source, table_row
from workers import Started, begin, die_at_change

from fastfashion.errors import PackedSetError
from fastfashion.pack import PackProgress, PackRequest, pack
from fastfashion.pack.engines import own_process
from fastfashion.shards import open_packed_set

HOME = Path(__file__).parents[1]
RESOLUTIONS = ("full", "64")
ROWS_PER_SHARD = 5


@dataclass(frozen=True)
class Packing:
    """What a process packs, as the command does; and what befalls it, if anything."""

    source: Path
    out: Path
    workers: int
    stuck_at: int = 0  # the block after which it waits for something that never comes
    killed_at: int = 0  # the block after which it is killed
    killed_at_change: int = 0  # to the disk, in this process
    killed_at_rename: int = 0  # in this process: with several workers, while it publishes

    def __call__(self) -> None:
        blocks = itertools.count(1)

        def on_packed(images: int, num_bytes: int, rejected: int) -> None:
            block = next(blocks)
            if block == self.killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if block == self.stuck_at:
                print("waiting", flush=True)
                time.sleep(600)

        if self.killed_at_change:
            die_at_change(self.killed_at_change)
        if self.killed_at_rename:
            die_at_change(self.killed_at_rename, only=frozenset({"os.rename"}))
        with own_process():
            pack(request(self.source, self.out, self.workers), PackProgress(on_packed=on_packed))


def request(source: Path, out: Path, workers: int = 1) -> PackRequest:
    return PackRequest(source=source, out=out, resolutions=RESOLUTIONS, rows_per_shard=ROWS_PER_SHARD, workers=workers)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source of 300 images, two of which are broken, and the set that an undisturbed run makes of it."""
    home = tmp_path_factory.mktemp("many")
    source = make_source(home / "set", rows=300, width_px=300, height_px=400)
    for row in (30, 290):
        (source / "images" / f"{table_row(row)[0]}.jpg").write_bytes(b"junk")
    pack(request(source, home / "whole"))
    return source, home / "whole"


@pytest.fixture
def start() -> Iterator[Callable[[Packing], Started]]:
    """Starts a packing process of its own; what is left of it is killed when the test ends."""
    started: list[Started] = []

    def run(packing: Packing) -> Started:
        started.append(Started(packing, cwd=HOME))
        return started[-1]

    yield run
    for child in started:
        child.kill()
        child.wait()


def children(pid: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int], within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if not any(state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z" for state in states):
            return True
        time.sleep(0.02)
    return False


def num_staged(out: Path) -> int:
    return len(list((out / ".staging" / "blocks").glob("*.json")))


def published(out: Path) -> list[str]:
    """What a reader could take for a packed set, or a part of one."""
    return [name for name in digests(out) if not name.startswith(".")]


def fatal(number: int, source: Path, out: Path) -> Packing:
    """The n-th packing that is killed: at a change to the disk, twice after some blocks, and while it publishes."""
    moment = random.Random(number).randrange
    packing = Packing(source, out, 1 + number % 2)
    return [
        replace(packing, killed_at_change=moment(1, 60)),
        replace(packing, killed_at=moment(2, 15)),
        replace(packing, killed_at=moment(2, 15)),
        replace(packing, killed_at_rename=moment(1, 12)),
    ][number % 4]


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    kills: int, many: tuple[Path, Path], start: Callable[[Packing], Started], tmp_path: Path
) -> None:
    source, whole = many
    out = tmp_path / "out"
    number = resumed = 0
    while number < kills:
        staged = num_staged(out)
        child = start(fatal(number, source, out))
        workers: list[int] = []
        while child.poll() is None:
            with suppress(FileNotFoundError):
                workers = children(child.pid) or workers
            time.sleep(0.01)
        if child.returncode == 0:  # it was done before the moment came, for what had been staged
            assert digests(out) == digests(whole)
            shutil.rmtree(out)
            continue
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert gone(workers), "a worker process outlived its parent"
        number += 1
        resumed += num_staged(out) > staged > 0
        if (out / "full").exists() and (out / "64").exists():
            shutil.rmtree(out)  # killed after it published, in which nothing is left to be done
    assert resumed >= kills // 5, "the kills did not hit runs that resume staged work"
    summary = pack(request(source, out, workers=2))
    assert summary.resumed + summary.packed_now == summary.kept == 298
    assert digests(out) == digests(whole)


def started_and_stuck(start: Callable[[Packing], Started], source: Path, out: Path, workers: int) -> Started:
    """A run that has packed some, and waits for an image that never comes."""
    child = start(Packing(source, out, workers, stuck_at=8))
    while child.stdout != "waiting\n":
        assert child.poll() is None, child.stderr
        time.sleep(0.01)
    return child


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_publishes_nothing_and_the_next_packs_only_what_is_missing(
    many: tuple[Path, Path], start: Callable[[Packing], Started], workers: int, tmp_path: Path
) -> None:
    source, whole = many
    out = tmp_path / "out"
    child = started_and_stuck(start, source, out, workers)
    child.kill()
    child.wait()
    assert published(out) == []
    with pytest.raises(PackedSetError, match="the same command resumes it"):
        open_packed_set(out)
    blocks = {int(path.stem) for path in (out / ".staging" / "blocks").glob("*.json")}
    assert len(blocks) >= 7
    broken = {30 // ROWS_PER_SHARD, 290 // ROWS_PER_SHARD}
    summary = pack(request(source, out))
    assert summary.resumed == len(blocks) * ROWS_PER_SHARD - len(blocks & broken)
    assert summary.resumed + summary.packed_now == summary.kept == 298
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_run_ends_within_seconds_with_its_workers_and_can_be_gone_on_with(
    many: tuple[Path, Path], start: Callable[[Packing], Started], number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    source, whole = many
    out = tmp_path / "out"
    child = started_and_stuck(start, source, out, workers)
    processes = children(child.pid)
    child.send_signal(number)
    assert child.wait(timeout=10) not in (0, None)
    assert gone(processes)
    assert published(out) == []
    assert not list(out.rglob("*.partial"))
    assert num_staged(out) >= 7
    assert pack(request(source, out)).resumed > 0
    assert digests(out) == digests(whole)


def test_the_command_says_that_it_was_stopped_and_exits_as_shells_expect(many: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = many[0], tmp_path / "out"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        child = begin("shard", "--source", source, "--out", out, "--res", "full", "--workers", "2", cwd=HOME)
        deadline = time.monotonic() + 60
        lock = out / ".packing.lock"  # the first run may have left it, which hinders nobody
        while not lock.exists() or f"process {child.pid} " not in lock.read_text():
            assert child.poll() is None and time.monotonic() < deadline, "it never came to packing"
            time.sleep(0.002)
        child.send_signal(number)
        _, said = child.communicate(timeout=10)
        assert child.returncode == code, said
        assert "the same command resumes from there" in said
        assert "Traceback" not in said


def test_a_second_packer_is_told_who_holds_the_folder(many: tuple[Path, Path], start: Callable[[Packing], Started], tmp_path: Path) -> None:
    source, whole = many
    out = tmp_path / "out"
    first = started_and_stuck(start, source, out, 1)
    staged = digests(out)
    with pytest.raises(PackedSetError, match=rf"out: another packer holds it: process {first.pid} on .*, since .* UTC; wait for it to end"):
        pack(request(source, out))
    assert digests(out) == staged
    first.kill()
    first.wait()
    pack(request(source, out))
    assert digests(out) == digests(whole)


KILLER = """
import os, signal, sys, time
from pathlib import Path
from fastfashion.pack import PackRequest, PackProgress, block, pack

def deadly(job, data, make=block.make_versions):
    if data == b"deadly":
        with open(sys.argv[4], "a") as log:
            log.write("died\\n")
        if len(open(sys.argv[4]).readlines()) <= int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)
        data = Path(sys.argv[6]).read_bytes()
    return make(job, data)

block.make_versions = deadly  # in the worker processes too, which run this file as they start

if __name__ == "__main__":
    source, out, workers = sys.argv[1:4]
    try:
        pack(PackRequest(source=Path(source), out=Path(out), resolutions=("full", "64"), rows_per_shard=5, workers=int(workers)))
    except ValueError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_is_replaced_once_and_then_the_run_stops_with_the_shards_name(
    many: tuple[Path, Path], deaths: int, tmp_path: Path
) -> None:
    source, whole = many
    deadly = tmp_path / "set"
    shutil.copytree(source, deadly, copy_function=os.link)
    image = deadly / "images" / f"{table_row(17)[0]}.jpg"
    image.unlink()
    image.write_bytes(b"deadly")
    (tmp_path / "child.py").write_text(KILLER)
    out = tmp_path / "out"
    original = source / "images" / image.name
    command = [sys.executable, tmp_path / "child.py", deadly, out, 2, tmp_path / "deaths", deaths, original]
    done = subprocess.run([str(part) for part in command], cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    if deaths == 1:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "deaths").read_text() == "died\n" * 2
        assert digests(out)["full/00004.tar"] == digests(whole)["full/00004.tar"]
        assert len(open_packed_set(out)) == 298
    else:
        assert done.returncode == 1
        assert "full/00003.tar: the process that packs it died 2 times (exit code -9)" in done.stderr
        assert f"ids {table_row(15)[0]} to {table_row(19)[0]}" in done.stderr
        assert published(out) == []
        assert not list(out.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 3 MB; skips where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if not done or done.returncode:
        pytest.skip(f"no small disk: mounting a tmpfs takes root and mount(8){': ' + done.stderr.strip() if done else ''}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_with_what_is_needed_and_the_next_run_with_space_completes(
    many: tuple[Path, Path], small_disk: Path, workers: int, tmp_path: Path
) -> None:
    source, whole = many
    out = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    with pytest.raises(PackedSetError, match=r"disk/out: the disk is full: about \d+ MB more are needed, \d+ MB are free; nothing was"):
        pack(request(source, out, workers))
    assert published(out) == []
    assert not list(out.rglob("*.partial"))
    staged = num_staged(out)
    assert staged > 0
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    summary = pack(request(source, out, workers))
    assert summary.resumed >= (staged - 2) * ROWS_PER_SHARD
    assert digests(out) == digests(whole)


class Stop(Exception):
    pass


def stop(images: int, num_bytes: int, rejected: int) -> None:
    raise Stop


def stop_after(blocks: int) -> PackProgress:
    told = iter(range(blocks - 1))
    return PackProgress(on_packed=lambda *sums: None if next(told, None) is not None else stop(*sums))


@pytest.mark.parametrize("damage", ["cut", "no index", "half a record"])
def test_staged_work_that_is_not_whole_is_packed_again(many: tuple[Path, Path], damage: str, tmp_path: Path) -> None:
    source, whole = many
    out = tmp_path / "out"
    with pytest.raises(Stop):
        pack(request(source, out), stop_after(3))
    staged = num_staged(out)
    if damage == "cut":
        os.truncate(out / ".staging" / "full" / "00000.tar", 5000)
    elif damage == "no index":
        (out / ".staging" / "64" / "00001.idx").unlink()
    else:
        (out / ".staging" / "blocks" / "00001.json").write_text('{"kept": {"id"')
    assert pack(request(source, out)).resumed == (staged - 1) * ROWS_PER_SHARD
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("change", ["quality", "rows_per_shard", "table"])
def test_staged_work_of_other_settings_or_another_table_is_not_used(many: tuple[Path, Path], change: str, tmp_path: Path) -> None:
    source, out = many[0], tmp_path / "out"

    settings = {"source": source, "out": out, "resolutions": ("full", "64"), "rows_per_shard": 5}
    with pytest.raises(Stop):
        pack(PackRequest(**settings), PackProgress(on_packed=stop))
    assert published(out) == []
    assert len(list((out / ".staging" / "blocks").iterdir())) == 1
    if change == "table":
        copy = tmp_path / "copy"
        shutil.copytree(source, copy, copy_function=os.link)
        (copy / "styles.csv").unlink()
        (copy / "styles.csv").write_text((source / "styles.csv").read_text().replace("Casual", "Everyday"))
        settings["source"] = copy
    other = {"quality": {"quality": 91}, "rows_per_shard": {"rows_per_shard": 30}, "table": {}}[change]
    summary = pack(PackRequest(**settings | other))
    assert (summary.resumed, summary.packed_now) == (0, 298)
    pack(PackRequest(**settings | other | {"out": tmp_path / "fresh"}))
    assert digests(out) == digests(tmp_path / "fresh")


def test_staged_work_is_not_used_after_a_image_was_replaced(many: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(many[0], source)

    request = PackRequest(source=source, out=out, resolutions=("full",), rows_per_shard=20)
    with pytest.raises(Stop):
        pack(request, PackProgress(on_packed=stop))
    first, second = sorted((source / "images").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    assert pack(request).resumed == 0
    identity = open_packed_set(out).table["id"].tolist().index(first.stem)
    assert open_packed_set(out).open("full").encoded(identity).tobytes() == second.read_bytes()
