"""What happens to loaders in a long life: epochs without leaks, ends half-way, forks, signals, images and shards that go bad."""

import gc
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from workers import fastfashion

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.load import Loader, LoaderSpec, Plan
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import shard_name

BACKENDS = ["threads", "dali", "resident"]
HOME = Path(__file__).parents[1]
ON_LINUX = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts file descriptors in /proc, which this system does not have"
)


def spec_of(shards: Path, backend: str, **changes: Any) -> LoaderSpec:
    packed = open_packed_set(shards)
    images = packed.open("full")
    plan = Plan(
        rows=np.arange(len(packed)),
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=changes.pop("batch_size", 7),
        augment=changes.pop("augment", AugmentConfig()),
    )
    labels = packed.vocab.codes(packed.table, ["subCategory"])
    known = {"size": Size(32, 32), "device": torch.device("cpu"), "workers": 2, "backend": backend}
    return LoaderSpec(images=images, plan=plan, labels=labels, **known | changes)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    return request.param


@pytest.fixture
def loader(packed_small: PackedSmall, backend: str) -> Iterator[Loader]:
    loader = Loader(spec_of(packed_small.out, backend))
    yield loader
    loader.close()


def children() -> list[str]:
    return [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


def resident_kib() -> int:
    gc.collect()
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))


@ON_LINUX
def test_ten_epochs_leave_the_process_as_the_first_did(loader: Loader) -> None:
    def state() -> tuple[int, int, list[str]]:
        gc.collect()  # what earlier tests left
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), children()

    for epoch in range(2):
        list(loader.steps(epoch))
    (threads, *before), memory = state(), resident_kib()
    for epoch in range(2, 60):
        for _ in loader.steps(epoch):
            pass
    now, *after = state()
    assert after == before
    assert now < threads + 5  # a leak would be 58; a thread of an earlier test's client may come or go
    # 58 epochs of 60 images of 32x32 are 10 MB of batches; a leak of the encoded or decoded images would be more.
    assert resident_kib() - memory < 8_000


def test_a_consumer_that_fails_leaves_a_usable_loader(loader: Loader) -> None:
    whole = [batch.rows.tolist() for batch in loader.steps(1)]
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            for _ in loader.steps(0):
                raise ZeroDivisionError
    assert [batch.rows.tolist() for batch in loader.steps(1)] == whole


def test_a_forked_child_has_its_own_batches_and_leaves_the_parents_alone(loader: Loader) -> None:
    whole = [batch.rows.tolist() for batch in loader.steps(1)]
    batches = loader.steps(0)
    next(batches)

    def child() -> bool:
        with pytest.raises(ConfigError, match="belongs to the parent of this process"):
            next(batches)
        return [batch.rows.tolist() for batch in loader.steps(1)] == whole

    assert in_a_forked_child(child) == 0
    assert len(list(batches)) == loader.num_steps - 1  # the parent's own continues


def in_a_forked_child(work: Callable[[], bool]) -> int:
    """Exit code of a forked process: 0 where `work` returns true there. Fails where it hangs."""
    child = os.fork()
    if child == 0:
        outcome = 1
        try:
            outcome = 0 if work() else 2
        finally:
            os._exit(outcome)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def test_a_spec_from_before_a_fork_opens_a_loader_in_the_child(packed_small: PackedSmall, backend: str) -> None:
    """A spec is a plain value; only an opened loader belongs to a process."""
    spec = spec_of(packed_small.out, backend)
    with closing(Loader(spec)) as loader:
        expected = [batch.rows.tolist() for batch in loader.steps(0)]

    def child() -> bool:
        with closing(Loader(spec)) as loader:
            return [batch.rows.tolist() for batch in loader.steps(0)] == expected

    assert in_a_forked_child(child) == 0


def test_a_second_live_iterator_is_refused_and_harms_nothing(loader: Loader) -> None:
    """Two of one DALI loader handed out each other's images, without an error."""
    whole = [batch.images.clone() for batch in loader.steps(0)]
    first = loader.steps(0)
    seen = [next(first).images.clone()]
    second = loader.steps(1)
    with pytest.raises(ConfigError, match="another live iterator"):
        next(second)
    seen += [batch.images.clone() for batch in first]
    assert len(seen) == len(whole) and all(torch.equal(a, b) for a, b in zip(seen, whole, strict=True))


def test_one_left_half_way_or_taken_to_its_last_batch_makes_room_for_another(loader: Loader) -> None:
    expected = [batch.rows.tolist() for batch in loader.steps(1)]
    half = loader.steps(0)
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert [batch.rows.tolist() for batch in loader.steps(1)] == expected
    for _ in loader.steps(0):
        break
    counted = loader.steps(0)
    for _ in range(loader.num_steps):
        next(counted)  # and never asked for more
    assert [batch.rows.tolist() for batch in loader.steps(1)] == expected
    half = loader.steps(0)
    next(half)
    half = loader.steps(1)  # the name is given to another
    assert [batch.rows.tolist() for batch in half] == expected


def test_a_closed_loader_says_so(loader: Loader) -> None:
    batches = loader.steps(0)
    next(batches)
    loader.close()
    for attempt in (batches, loader.steps(1)):
        with pytest.raises(ConfigError, match="closed"):
            next(attempt)


CHILD = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loader_life import spec_of
from fastfashion.load import Loader

if __name__ == "__main__":
    loader = Loader(spec_of(Path(sys.argv[2]), sys.argv[3]))
    batches = loader.steps(0)
    next(batches)
    print("ready", flush=True)
    if sys.argv[4] == "wait":
        time.sleep(60)
    elif sys.argv[4] == "fail":
        raise ValueError("of the consumer")
    elif sys.argv[4] == "close":
        loader.close()
"""


ENDS = {"fail": 1, "close": 0, "leave": 0, "wait": -signal.SIGINT}
LEFT = [("threads", how) for how in ENDS] + [("dali", "leave"), ("resident", "wait")]  # the others differ in nothing but these
LEFT += [pytest.param(name, how, marks=pytest.mark.slow) for name in BACKENDS for how in ENDS if (name, how) not in LEFT]


@pytest.mark.parametrize(("backend", "how"), LEFT)
def test_a_process_ends_at_once_however_it_leaves_its_loader(packed_small: PackedSmall, backend: str, how: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    command = [sys.executable, "-c", CHILD, str(HOME / "tests"), str(packed_small.out), backend, how]
    child = subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        if how == "wait":
            child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == ENDS[how], said
    assert ("of the consumer" in said) == (how == "fail")
    if how in ("close", "leave"):
        assert said == ""  # an iterator left in the middle of an epoch has nothing to say


LEFT_OVER = """
import gc, os, pickle, sys, threading
import fastfashion as ff

def half_way(loader):
    batches = iter(loader)
    next(batches)
    return batches

def opened():
    return ff.loader(sys.argv[1], backend=sys.argv[2], batch_size=4, size="32x32", device="cpu")

class Ring:
    def __init__(self):
        self.ring, self.batches = self, half_way(opened())

half_way(opened())  # garbage at once
Ring()
gc.collect()
loader = opened()
batches = half_way(loader)
for child in ("idle", "own") if sys.argv[2] != "dali" else ():  # DALI may hang in the exit of a forked child
    if os.fork() == 0:
        if child == "own":
            next(iter(loader))
        sys.exit(0)  # as programs end, not os._exit
    assert os.wait()[1] == 0
next(batches)
sent = half_way(pickle.loads(pickle.dumps(loader)))
never = iter(opened())
closed = opened()
invalid = half_way(closed)
closed.close()

def work(loader, first):
    while True:
        for _ in loader:
            first.set()

if sys.argv[2] != "dali":  # DALI's own exit fails while a thread still runs a pipeline
    first = threading.Event()
    threading.Thread(target=work, args=(opened(), first), daemon=True).start()
    first.wait()
"""


def test_nothing_is_said_of_what_is_left_half_way(packed_small: PackedSmall, backend: str) -> None:
    """At garbage collection, at exit, in forked children that end as programs do, and in a thread that Python ends."""
    command = [sys.executable, "-c", LEFT_OVER, str(packed_small.out), backend]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def damage(shards: Path, rows: list[int]) -> None:
    """Images that are zeros; sizes stay."""
    images = open_packed_set(shards).open("full")
    for row in rows:
        with (shards / "full" / shard_name(int(images.shard[row]))).open("r+b") as file:
            file.seek(int(images.offset[row]))
            file.write(bytes(int(images.num_bytes[row])))


def test_what_may_be_skipped_is_masked_counted_and_listed(packed_small: PackedSmall, backend: str, tmp_path: Path) -> None:
    shards = tmp_path / "damaged"
    shutil.copytree(packed_small.out, shards)
    damage(shards, [5, 40, 41])
    loader, whole = (Loader(spec_of(folder, backend, on_bad="skip")) for folder in (shards, packed_small.out))
    try:
        for epoch in range(2):
            for batch, expected in zip(loader.steps(epoch), whole.steps(epoch), strict=True):
                bad = torch.isin(expected.rows, torch.tensor([5, 40, 41]))
                assert batch.rows[bad].tolist() == [-1] * int(bad.sum()) and (batch.labels[bad] == -1).all()
                assert not batch.images[bad].any()
                torch.testing.assert_close(batch.images[~bad], expected.images[~bad], rtol=0, atol=0)
                assert batch.rows[~bad].tolist() == expected.rows[~bad].tolist()
                assert batch.num_labelled == expected.num_labelled
        assert sorted(loader.skipped) == [5, 40, 41] and whole.skipped == {}
        assert "full/" in loader.skipped[40].where and loader.skipped[40].reason
    finally:
        loader.close()
        whole.close()


TRAIN = ["--model", "test_vit", "--no-pretrained", "--size", "32x32", "--epochs", "2", "--batch-size", "8", "--nproc", "2"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.dist)])
def test_processes_train_around_damaged_images_on_request(processes: int, packed_small: PackedSmall, tmp_path: Path) -> None:
    def train(*more: str) -> subprocess.CompletedProcess[str]:
        options = [*TRAIN[:-2], "--nproc", processes, "--runs", tmp_path, "--name", "run", "--set", "data.resolution=full"]
        return fastfashion("train", shards, *options, *more, cwd=tmp_path)

    shards = tmp_path / "damaged"
    shutil.copytree(packed_small.out, shards)
    split = json.loads((packed_small.out / "vocab.json").read_text())
    assert split["subCategory"]
    damage(shards, list(range(20)))
    stopped = train()
    assert stopped.returncode != 0
    assert "fastfashion verify" in stopped.stderr and "--set data.on_bad=skip" in stopped.stderr and "at byte" in stopped.stderr
    assert "Traceback" not in stopped.stderr.replace('Traceback (most recent call last):\n  File "<frozen', "")
    done = train("--set", "data.on_bad=skip")
    assert done.returncode == 0, done.stderr
    assert "were skipped because of decode errors" in done.stderr
    listed = (tmp_path / "run" / "skipped.csv").read_text().splitlines()
    assert listed[0] == "row,where,reason" and 10 < len(listed) <= 21


@pytest.mark.dist
def test_a_shard_that_vanishes_while_training_stops_every_rank_with_its_name(packed_small: PackedSmall, tmp_path: Path) -> None:
    shards = tmp_path / "vanishing"
    shutil.copytree(packed_small.out, shards)
    hook = tmp_path / "child.py"
    hook.write_text(
        "import os, runpy, sys\n"
        "from pathlib import Path\n"
        "from fastfashion.shards.reader import PackedSet\n"
        "whole = PackedSet.open\n"
        "def open_and_lose(self, name):\n"  # after the sizes were checked, before any shard is mapped
        "    opened = whole(self, name)\n"
        "    if 'RANK' in os.environ and os.environ['RANK'] == '1':\n"
        "        (self.path / name / '00001.tar').unlink(missing_ok=True)\n"
        "    return opened\n"
        "PackedSet.open = open_and_lose\n"
        "sys.argv = ['fastfashion.train', *sys.argv[1:]]\n"
        "runpy.run_module('fastfashion.train', run_name='__main__')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(hook), str(shards), *TRAIN[:-2]]
    command += ["--set", "data.resolution=full", "--runs", str(tmp_path), "--name", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "00001.tar" in done.stderr
    assert "fastfashion verify" in done.stderr


RANK = """
import hashlib, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loader_life import AugmentConfig, Loader, spec_of
from fastfashion import dist

if __name__ == "__main__":
    world = dist.start()
    for backend in sys.argv[4].split(","):
        for augment in (AugmentConfig(mixup=0.5, erase=0.5, hue=0.1), None):
            spec = spec_of(Path(sys.argv[2]), backend, augment=augment, rank=world.rank, world_size=world.size)
            loader = Loader(spec)
            seen = []
            for step, batch in enumerate(loader.steps(3, 2)):
                for row, label, image in zip(batch.rows.tolist(), batch.labels.tolist(), batch.images.numpy(), strict=True):
                    if row >= 0:
                        seen.append([step, row, label, hashlib.sha256(image.tobytes()).hexdigest()])
            loader.close()
            everybody = dist.gather(world, seen)
            if world.is_main:
                with open(sys.argv[3], "a") as out:
                    out.write(json.dumps(sorted(one for part in everybody for one in part)) + "\\n")
    dist.stop()
    dist.end_worker(world)
"""


@pytest.mark.dist
def test_two_processes_over_gloo_load_together_what_one_does_alone(packed_small: PackedSmall, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    backends = [name for name in BACKENDS if name != "dali" or importlib.util.find_spec("nvidia.dali")]
    seen = {}
    for world_size in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world_size), str(tmp_path / "rank.py")]
        command += [str(HOME / "tests"), str(packed_small.out), str(tmp_path / f"{world_size}.jsonl"), ",".join(backends)]
        done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        seen[world_size] = (tmp_path / f"{world_size}.jsonl").read_text().splitlines()
    assert len(seen[1]) == 2 * len(backends)
    for one, two in zip(seen[1], seen[2], strict=True):
        assert json.loads(one) == json.loads(two)
    whole = json.loads(seen[1][1])  # evaluation from its third step on, of nine with seven rows each or six
    assert [row for _, row, _, _ in whole] == list(range(60 * 2 // 9, 60))
