"""Training from sets on object storage and web servers: the same batches, whatever happens to the server, in bounded disk space."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall, S3Server
from workers import fastfashion

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.files import location
from fastfashion.load import Batch, Loader, LoaderSpec, Plan, notes
from fastfashion.load.cache import Closed, cache_path
from fastfashion.load.prefetch import ShardCache, open_cached
from fastfashion.pack import PackRequest, pack
from fastfashion.retry import passes
from fastfashion.shards import Resolution, open_packed_set
from fastfashion.shards.layout import shard_name

pytest.importorskip("upath")
PLENTY = 10**9
NUM_SHARDS = 15


@pytest.fixture(scope="module")
def local_set(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in 15 shards."""
    out = tmp_path_factory.mktemp("many") / "set"
    pack(PackRequest(source=packed_small.source, out=out, resolutions=("32",), rows_per_shard=4))
    return out


@pytest.fixture(scope="module")
def here(local_set: Path) -> Resolution:
    return open_packed_set(local_set).open("32")


class Website(http.server.ThreadingHTTPServer):
    """Serves a folder, counts who asks for which shard, and does to shards what `trouble` says: of a name, for the n-th time."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gets: Counter[str] = Counter()
        self.trouble: Callable[[str, int], str] = lambda name, nth: ""
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Visit)
        threading.Thread(target=self.serve_forever, args=(0.02,), name="website", daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def images(self) -> Resolution:
        return open_packed_set(location(self.address)).open("32")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Visit(http.server.SimpleHTTPRequestHandler):
    server: Website

    def __init__(self, request: Any, client_address: Any, server: Website) -> None:
        super().__init__(request, client_address, server, directory=str(server.folder))

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.split("/")[-1]
        if not name.endswith(".tar"):
            return super().do_GET()
        self.server.gets[name] += 1
        trouble = self.server.trouble(name, self.server.gets[name])
        if trouble.isdecimal():
            return self.send_error(int(trouble))
        body = Path(self.translate_path(self.path)).read_bytes()
        if trouble == "flip":
            body = body[:700] + bytes([body[700] ^ 1]) + body[701:]
        if trouble == "short":
            body = body[:5000]
        if trouble == "slow":
            time.sleep(0.03)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if trouble == "hang":
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.go_on.wait(60)
        if trouble != "cut":
            self.wfile.write(body[len(body) // 2 :])
        return None


@pytest.fixture
def website(local_set: Path) -> Iterator[Website]:
    with Website(local_set) as site:
        yield site
        site.go_on.set()
        site.shutdown()


@contextmanager
def cached(images: Resolution, cache_dir: Path, limit: int = PLENTY, **more: Any) -> Iterator[ShardCache]:
    cache = open_cached(images, str(cache_dir), limit, **more)[1]
    with closing(cache):
        yield cache
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("shards-")] == []
    assert list(cache_dir.glob("*.partial")) == []


def plan_of(images: Resolution, *, window_shards: int = 0, batch_size: int = 4, shuffled: bool = True) -> Plan:
    return Plan(
        rows=np.arange(len(images.shard)),
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=batch_size,
        seed=3,
        augment=AugmentConfig() if shuffled else None,
        shard_starts=np.flatnonzero(np.diff(images.shard, prepend=-1)),
        window_shards=window_shards,
    )


def batches(images: Resolution, plan: Plan, cache_dir: Path | str = "", backend: str = "threads", **more: Any) -> Iterator[Batch]:
    labels = np.arange(len(images.shard))[:, None]
    how = {"size": Size(32, 24), "device": torch.device("cpu"), "workers": 2, "cache_dir": str(cache_dir)}
    spec = LoaderSpec(images=images, plan=plan, labels=labels, backend=backend, **how | more)  # type: ignore[arg-type]
    with closing(Loader(spec)) as loader:
        for epoch in range(2):
            yield from loader.steps(epoch)


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        for name in ("images", "labels", "rows"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)


def read_all(cache: ShardCache, here: Resolution, plan: Plan, epoch: int = 0) -> Iterator[int]:
    """Rows of an epoch through the cache, each compared with the local set's bytes, a step at a time."""
    for step, part in cache.ahead((step, step.part(0, 1, plan.num_slots(1))) for step in plan.steps(epoch)):
        for row in part.fetch.tolist():
            np.testing.assert_array_equal(cache.images.encoded(row), here.encoded(row))
        yield len(step.rows)


def folder_bytes(folder: Path) -> int:
    """The size of a folder's files at one moment, while files come and go."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total


class Folder:
    """A set behind `python -m http.server`, which knows nothing but whole files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-u", "-m", "http.server", str(self.port), "--bind", "127.0.0.1", "--directory", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().split("port ")[1].split()[0])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["s3", "http"])
def storage(request: pytest.FixtureRequest, local_set: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """Where the set lies, what kills its server, and what brings it back with the same content."""
    if request.param == "http":
        server = Folder(local_set)
        yield location(f"http://127.0.0.1:{server.port}"), server.kill, server.start
        server.kill()
        return
    s3: S3Server = request.getfixturevalue("s3")
    if not (s3.folder / "load").exists():
        shutil.copytree(local_set, s3.folder / "load")
        s3.kill()
        s3.start()
    yield location("s3://shop/load"), s3.kill, s3.start


def test_batches_are_those_of_the_local_set_and_shards_are_fetched_once(
    storage: Any, here: Resolution, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, plan = open_packed_set(storage[0]).open("32"), plan_of(here)
    assert_same(list(batches(images, plan, tmp_path)), list(batches(here, plan)))
    assert {path.name for path in tmp_path.glob("*.tar")} == {f"{entry.sha256}.tar" for entry in here.manifest.shards}
    storage[1]()
    try:  # nothing is asked for any more
        assert_same(list(batches(images, plan, tmp_path)), list(batches(here, plan)))
    finally:
        storage[2]()
    assert capfd.readouterr().err == ""


def test_a_server_that_is_killed_in_mid_epoch_and_comes_back_leaves_the_batches_as_they_are(
    storage: Any, here: Resolution, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where, kill, start_again = storage
    images, plan = open_packed_set(where).open("32"), plan_of(here, window_shards=2)
    limit = 4 * max(entry.num_bytes for entry in here.manifest.shards)  # so that the first batches do not fetch everything
    expected = list(batches(here, plan))
    stream = batches(images, plan, tmp_path, cache_bytes=limit)
    found = [next(stream) for _ in range(2)]
    assert len(list(tmp_path.glob("*.tar"))) < 8
    kill()
    restart = threading.Timer(0.3, start_again)
    restart.start()
    found += list(stream)
    restart.join()
    assert_same(found, expected)
    said = capfd.readouterr().err
    if "http:" in str(where):  # the client for S3 tries again itself at first, and says nothing
        assert "/32/000" in said and "retrying for 300 s" in said
    assert said.count("\n") <= 1


@pytest.mark.parametrize("backend", ["dali", "resident"])
def test_the_other_backends_read_through_the_cache_too(website: Website, here: Resolution, backend: str, tmp_path: Path) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    plan = plan_of(here, window_shards=3)
    assert_same(list(batches(website.images(), plan, tmp_path, backend)), list(batches(here, plan, "", backend)))
    assert set(website.gets.values()) == {1}


@pytest.mark.parametrize("backend", ["threads", "dali", "resident"])
def test_an_unavailable_shard_stops_every_backend_with_its_name(website: Website, here: Resolution, backend: str, tmp_path: Path) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    website.trouble = lambda name, nth: "404" if name == "00009.tar" else ""
    with pytest.raises(PackedSetError, match=r"/32/00009\.tar: the shard is gone; .*verify"):
        list(batches(website.images(), plan_of(here), tmp_path, backend))


READER = """
import sys
import numpy as np
from fastfashion.files import location
from fastfashion.load.plan import Plan
from fastfashion.load.prefetch import open_cached
from fastfashion.config import AugmentConfig
from fastfashion.shards import open_packed_set
url, folder, limit, local, rank, world, window = sys.argv[1:]
here = open_packed_set(location(local)).open("32")
images, cache = open_cached(open_packed_set(location(url)).open("32"), folder, int(limit))
starts = np.flatnonzero(np.diff(here.shard, prepend=-1))
plan = Plan(rows=np.arange(60), heights_px=here.height_px, widths_px=here.width_px, batch_size=4, seed=3, augment=AugmentConfig(),
            shard_starts=starts, window_shards=int(window))
rows = 0
for epoch in range(2):
    for _, part in cache.ahead((step, step.part(int(rank), int(world), plan.num_slots(int(world)))) for step in plan.steps(epoch)):
        for row in part.fetch.tolist():
            assert images.encoded(row).tobytes() == here.encoded(row).tobytes()
            rows += 1
cache.close()
print(rows)
"""


def reader(site: Website, folder: Path, limit: int = PLENTY, *, rank: int = 0, world: int = 1, window: int = 0) -> "subprocess.Popen[str]":
    arguments = [site.address, folder, limit, site.folder, rank, world, window]
    command = [sys.executable, "-c", READER, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> int:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return int(out)


@pytest.mark.parametrize("world", [1, 2])
def test_processes_of_a_machine_fetch_each_shard_once_together(website: Website, world: int, tmp_path: Path) -> None:
    website.trouble = lambda name, nth: "slow"
    both = [reader(website, tmp_path, rank=rank % world, world=world) for rank in range(2)]
    assert [finish(process) for process in both] == [120 // world] * 2
    assert sorted(website.gets) == [shard_name(number) for number in range(NUM_SHARDS)]
    assert set(website.gets.values()) == {1}


def test_two_processes_with_little_room_between_them_both_come_to_the_end(website: Website, here: Resolution, tmp_path: Path) -> None:
    limit = 3 * max(entry.num_bytes for entry in here.manifest.shards)
    both = [reader(website, tmp_path, limit, rank=rank, world=2, window=3) for rank in range(2)]
    largest = 0
    while any(process.poll() is None for process in both):
        largest = max(largest, folder_bytes(tmp_path))
        time.sleep(0.002)
    assert [finish(process) for process in both] == [60, 60]
    assert 0 < largest <= limit


def mapped_but_deleted(folder: Path) -> int:
    return sum(str(folder) in line and "(deleted)" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize(("window_shards", "room_for"), [(2, 3), (2, 6), (0, 5), (0, 12)])
def test_the_folder_never_takes_more_than_the_limit(
    website: Website, here: Resolution, window_shards: int, room_for: int, tmp_path: Path
) -> None:
    limit = room_for * max(entry.num_bytes for entry in here.manifest.shards)
    plan = plan_of(here, window_shards=window_shards)
    with cached(website.images(), tmp_path, limit) as cache:
        for epoch in range(2):
            for _ in read_all(cache, here, plan, epoch):
                assert folder_bytes(tmp_path) <= limit
            if Path("/proc/self/maps").exists():
                assert mapped_but_deleted(tmp_path) == 0  # the disk space is free
    if window_shards and room_for == 6:
        assert max(website.gets.values()) <= 2  # once an epoch


def test_shards_of_the_sets_used_longest_ago_give_way_and_foreign_files_do_not(website: Website, here: Resolution, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(bytes(10**6))
    sizes = [entry.num_bytes for entry in here.manifest.shards]
    old, older = tmp_path / f"{'a' * 64}.tar", tmp_path / f"{'b' * 64}.tar"
    for age, path in ((60, old), (90, older)):
        path.write_bytes(bytes(max(sizes)))
        os.utime(path, (time.time() - age, time.time() - age))
    with cached(website.images(), tmp_path, 2 * max(sizes)) as cache:
        cache.images.encoded(0)
        assert (old.exists(), older.exists()) == (True, False)
        cache.images.encoded(4)
        assert not old.exists()
        os.utime(cache.local(1), (1, 1))
        cache.local(1)  # is a use
        cache.images.encoded(8)
        assert sorted(int(images_of(here, path)) for path in tmp_path.glob("*.tar")) == [1, 2]
    assert (tmp_path / "notes.txt").exists()


def images_of(here: Resolution, path: Path) -> int:
    return next(entry.number for entry in here.manifest.shards if entry.sha256 == path.stem)


@pytest.mark.parametrize("trouble", ["503", "429", "cut", "short", "flip"])
def test_what_goes_wrong_once_is_fetched_again(
    website: Website, here: Resolution, trouble: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    website.trouble = lambda name, nth: trouble if (name, nth) == ("00003.tar", 1) else ""
    with cached(website.images(), tmp_path) as cache:
        assert sum(read_all(cache, here, plan_of(here, shuffled=False))) == 60
    assert website.gets == {shard_name(number): 1 + (number == 3) for number in range(NUM_SHARDS)}
    said = capfd.readouterr().err
    assert ("00003.tar: cannot be fetched" in said) == (trouble in ("503", "429", "cut"))


@pytest.mark.parametrize(
    ("trouble", "message", "gets"),
    [
        ("404", r"the shard is gone", 1),
        ("403", r"cannot be fetched \(the server answers 403 Forbidden; access is denied", 1),
        ("503", r"cannot be fetched, tried for 1 s \(the server answers 503 Service Unavailable", 3),
        ("flip", r"expected sha256 {sha256} \({size} bytes\), found [0-9a-f]{{64}} \({size} bytes\) and then [0-9a-f]{{64}} ", 2),
        ("short", r"expected sha256 {sha256} \({size} bytes\), found [0-9a-f]{{64}} \(5000 bytes\) and then ", 2),
    ],
)
def test_what_stays_wrong_is_an_error_when_it_is_needed_and_never_a_file(
    website: Website, here: Resolution, trouble: str, message: str, gets: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = here.manifest.shards[3]
    website.trouble = lambda name, nth: trouble if name == "00003.tar" else ""
    pattern = f"{website.address}/32/00003.tar: {message.format(sha256=entry.sha256, size=entry.num_bytes)}"
    with cached(website.images(), tmp_path, patience_s=0.6) as cache:
        steps = read_all(cache, here, plan_of(here, shuffled=False))
        assert [next(steps) for _ in range(3)] == [4, 4, 4]
        with pytest.raises(PackedSetError, match=rf"{pattern}.*fastfashion verify {website.address}"):
            next(steps)
        assert website.gets["00003.tar"] == gets
        website.trouble = lambda name, nth: ""
        assert sum(read_all(cache, here, plan_of(here, shuffled=False))) == 60  # the next epoch tries again
    assert len(list(tmp_path.glob("*.tar"))) == NUM_SHARDS
    assert capfd.readouterr().err.count("retrying") == (trouble == "503")


def test_a_cached_file_that_was_cut_is_fetched_again(website: Website, here: Resolution, tmp_path: Path) -> None:
    with cached(website.images(), tmp_path) as cache:
        os.truncate(cache.local(3), 100)
    with cached(website.images(), tmp_path) as cache:
        np.testing.assert_array_equal(cache.images.encoded(12), here.encoded(12))
    assert website.gets == {"00003.tar": 2}


def test_a_set_that_is_packed_again_at_its_address_is_fetched_again(
    website: Website, here: Resolution, packed_small: PackedSmall, tmp_path: Path
) -> None:
    with cached(website.images(), tmp_path / "cache") as cache:
        cache.images.encoded(0)
    website.folder = tmp_path / "set"
    pack(PackRequest(source=packed_small.source, out=website.folder, resolutions=("32",), rows_per_shard=4, quality=50))
    with cached(website.images(), tmp_path / "cache") as cache:
        new = open_packed_set(website.folder).open("32")
        assert cache.images.encoded(0).tobytes() == new.encoded(0).tobytes() != here.encoded(0).tobytes()


def test_a_fetcher_that_is_killed_hands_its_shard_to_who_waits_for_it(website: Website, here: Resolution, tmp_path: Path) -> None:
    website.trouble = lambda name, nth: "hang" if nth == 1 else ""
    victim = reader(website, tmp_path)
    assert website.half_sent.wait(30)
    [first, *_] = [name for name, count in website.gets.items() if count]
    with cached(website.images(), tmp_path) as cache:
        found: list[Path] = []
        waiting = threading.Thread(target=lambda: found.append(cache.local(int(first[:5]))))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and list(tmp_path.glob("*.tar")) == []  # what is half here is under no final name
        assert website.gets[first] == 1
        victim.kill()
        victim.communicate()
        assert len(list(tmp_path.glob("*.partial"))) >= 1
        waiting.join(30)
        assert not waiting.is_alive() and website.gets[first] == 2
        assert list(tmp_path.glob("*.partial")) == []  # those of its other threads are swept away
        website.trouble = lambda name, nth: ""
        assert sum(read_all(cache, here, plan_of(here))) == 60


@pytest.mark.parametrize("whose", ["threads", "consumer"])
def test_closing_half_way_ends_everything(website: Website, whose: str, tmp_path: Path) -> None:
    website.trouble = lambda name, nth: "hang"
    before = {thread.ident for thread in threading.enumerate()}
    errors: list[BaseException] = []

    def consume() -> None:
        try:
            next(cache.ahead((step, step.part(0, 1, 4)) for step in plan.steps(0))) if whose == "threads" else cache.local(0)
        except BaseException as error:
            errors.append(error)

    with cached(website.images(), tmp_path) as cache:
        plan = plan_of(cache.images)
        consumer = threading.Thread(target=consume)
        consumer.start()
        assert website.half_sent.wait(30)
        assert list(tmp_path.glob("*.partial")) != []
        cache.close()
        consumer.join(30)
        assert [type(error) for error in errors] == [Closed]
    website.go_on.set()
    left = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    assert [name for name in left if name != "fsspecIO" and "process_request" not in name] == []


def test_a_loader_is_closed_while_it_waits_for_a_shard(website: Website, tmp_path: Path) -> None:
    images = website.images()
    plan = plan_of(images, window_shards=2)
    first = {shard_name(number) for step in range(5) for number in images.shard[plan.step(0, step).rows].tolist()}
    website.trouble = lambda name, nth: "" if name in first else "hang"
    stream = batches(images, plan, tmp_path)
    next(stream)
    next(stream)  # of the steps in progress, the last needs a shard that does not come
    assert website.half_sent.wait(30)
    stream.close()  # and closes the loader
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("loader", "planner", "shards"))] == []
    assert list(tmp_path.glob("*.partial")) == []


def test_an_epoch_that_is_left_half_way_lets_go_of_its_shards(website: Website, here: Resolution, tmp_path: Path) -> None:
    limit = 4 * max(entry.num_bytes for entry in here.manifest.shards)
    with cached(website.images(), tmp_path, limit) as cache:
        for epoch in range(6):
            steps = read_all(cache, here, plan_of(here, window_shards=2), epoch)
            next(steps)
            steps.close()
        assert sum(read_all(cache, here, plan_of(here, window_shards=2))) == 60


def test_a_limit_that_cannot_be_kept_is_refused(website: Website, here: Resolution, tmp_path: Path) -> None:
    largest = max(entry.num_bytes for entry in here.manifest.shards)
    with pytest.raises(ConfigError, match=r"data\.cache_gb .*: expected at least .* the size of a shard of http://"):
        open_cached(website.images(), str(tmp_path), largest - 1)
    with (
        cached(website.images(), tmp_path, 2 * largest) as cache,
        pytest.raises(ConfigError, match=r"a step needs \d+ shards of .*data\.shuffle=window"),
    ):
        list(read_all(cache, here, plan_of(here, batch_size=30)))


@pytest.mark.parametrize(("limit", "window", "noted"), [(10**6, 0, False), (10**5, 0, True), (10**5, 2, False)])
def test_a_permutation_of_more_than_the_cache_holds_is_noted(website: Website, limit: int, window: int, noted: bool) -> None:
    images = website.images()
    plan, labels, cpu = plan_of(images, window_shards=window), np.zeros((len(images.shard), 0), dtype=np.int64), torch.device("cpu")
    found = notes(LoaderSpec(images=images, plan=plan, labels=labels, size=Size(32, 24), device=cpu, cache_bytes=limit))
    assert ("data.shuffle=window" in "".join(found)) == noted


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("") == tmp_path / "fastfashion" / "shards"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_path("") == Path("/home/someone/.cache/fastfashion/shards")
    assert cache_path("~/mine") == Path("/home/someone/mine")


FULL_DISK = """
import resource, sys
from fastfashion.errors import ConfigError
from fastfashion.files import location
from fastfashion.load.prefetch import open_cached
from fastfashion.shards import open_packed_set
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    open_cached(open_packed_set(location(sys.argv[1])).open("32"), sys.argv[2], 10**9)[0].encoded(0)
except ConfigError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_named_at_once(website: Website, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, website.address, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"{tmp_path}: cannot hold shards" in done.stdout and "data.cache_dir" in done.stdout
    assert " MB are needed, " in done.stdout and " MB are free" in done.stdout
    assert (done.stderr, website.gets) == ("", {"00000.tar": 1})
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_place_where_no_folder_can_be_made_is_named(website: Website, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/cache: cannot hold shards .*data\.cache_dir"):
        open_cached(website.images(), str(tmp_path / "file" / "cache"), PLENTY)


def test_failures_that_pass_are_distinguished_from_those_that_do_not() -> None:
    errors = pytest.importorskip("botocore.exceptions")
    translate = pytest.importorskip("s3fs.errors").translate_boto_error
    endpoint: dict[str, Any] = {"endpoint_url": "http://nowhere"}
    for error in (
        errors.EndpointConnectionError(**endpoint),
        errors.ReadTimeoutError(**endpoint),
        errors.ConnectionClosedError(**endpoint),
        ConnectionResetError(),
        *(translate(errors.ClientError({"Error": {"Code": code}}, "GetObject")) for code in ("SlowDown", "InternalError", "503", "502")),
    ):
        assert passes(error), error
    for error in (
        errors.NoCredentialsError(),
        IsADirectoryError(),
        ValueError(),
        *(translate(errors.ClientError({"Error": {"Code": code}}, "GetObject")) for code in ("AccessDenied", "NoSuchKey", "400")),
    ):
        assert not passes(error), error


def test_training_and_evaluation_take_an_address(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    remote: Any = location("s3://shop/to-train-on")
    remote.fs.put(str(packed_small.out), remote.path, recursive=True)
    losses = {}
    for name, shards in (("local", str(packed_small.out)), ("remote", str(remote))):
        options = [shards, "--model", "test_vit", "--no-pretrained", "--size", "32x32", "--epochs", "1", "--batch-size", "16"]
        options += ["--set", "train.log_every_steps=1", "--set", "data.cache_dir=cache", "--name", name]
        done = fastfashion("train", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = (json.loads(line) for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses["remote"] == losses["local"] and losses["local"]
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 3
    done = fastfashion("evaluate", "runs/remote", cwd=tmp_path)
    assert done.returncode == 2 and f"{remote}, which was not contacted" in done.stderr
    done = fastfashion("evaluate", "runs/remote", "--shards", remote, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test rows of the stratified split" in done.stdout


def test_storage_that_lets_nobody_in_is_an_error_in_one_line(s3: S3Server, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    done = fastfashion("train", "s3://shop/set", "--no-pretrained", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "error: s3://shop/set: cannot be read (NoCredentialsError" in done.stderr and "Traceback" not in done.stderr
