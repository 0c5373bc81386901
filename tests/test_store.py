"""The store has one owner: files that are old, cut or left by a dead server are removed, and one address leaves room for others."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastfashion.predict.semaphore import BusyError, FairSemaphore
from fastfashion.scratch import LOCK, PREFIX
from fastfashion.serve.addresses import ANSWER, UPLOAD
from fastfashion.serve.asgi import Message, Receive, Scope, Send
from fastfashion.serve.bodies import Bodies
from fastfashion.serve.limits import Limits
from fastfashion.serve.responses import Responses
from fastfashion.serve.store import AGE_S, EXAMPLES, FILE_BYTES, Store, open_store
from fastfashion.serve.uploads import Uploads


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, 10 * FILE_BYTES)


def keep(store: Store, files: int, address: str = "a") -> Path:
    """A file that takes as much room as that number of empty files."""
    kept = store.add("a.jpg", address)
    store.grow(kept, (files - 1) * FILE_BYTES)
    kept.path.touch()
    return store.finish(kept)


def test_a_store_has_so_much_room_and_one_address_half_of_it(store: Store) -> None:
    """An empty file takes room too, or a small request would fill the disk with folders."""
    paths = [keep(store, 2), keep(store, 1), keep(store, 2)]
    with pytest.raises(BusyError, match="no room"):
        keep(store, 1)
    keep(store, 5, "b")
    for address in "bc":
        with pytest.raises(BusyError, match="no room"):
            keep(store, 1, address)
    assert all(store.known(str(path)) == path for path in paths)
    assert len(list(store.folder.iterdir())) == 4


def test_what_is_old_goes_and_makes_room(store: Store) -> None:
    """Files of the store, and what anything else left in its folder; never what is still coming in, examples, or the lock."""
    old, strange, coming = keep(store, 4), store.folder / "tmpx", store.add("b.jpg", "a")
    (store.folder / LOCK).touch()
    store.examples.mkdir()
    strange.touch()
    (store.folder / "link").symlink_to(store.folder)
    for path in store.folder.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    store.sweep()
    assert old.exists() and not strange.exists()
    store._kept[old.parent.name].since_s -= AGE_S + 1
    store.grow(coming, 4 * FILE_BYTES)
    assert store.known(str(old)) is None
    assert {path.name for path in store.folder.iterdir()} == {LOCK, EXAMPLES, coming.path.parent.name}
    store.remove(coming)
    assert not store._held.total()


@pytest.mark.parametrize("wrong", [BusyError("no room"), OSError(errno.ENOSPC, "full")])
def test_nothing_stays_of_a_table_that_has_no_room(store: Store, wrong: Exception) -> None:
    def write(path: Path) -> None:
        path.write_bytes(bytes(9))
        raise wrong

    with pytest.raises(type(wrong)):
        store.put("answers.csv", write)
    with pytest.raises(BusyError, match="no room"):
        store.put("answers.csv", lambda path: path.write_bytes(bytes(5 * FILE_BYTES)))
    assert not list(store.folder.iterdir()) and not store._held.total()
    assert store.known(str(store.put("answers.csv", Path.touch)))


def test_a_file_is_known_once_it_is_whole_and_no_longer_than_it_is_there(store: Store) -> None:
    kept = store.add("a.jpg")
    kept.path.write_bytes(b"half")
    assert store.known(str(kept.path)) is None
    path = store.finish(kept)
    assert store.known(str(path)) == path
    path.unlink()
    os.mkfifo(path)
    assert store.known(str(path)) is None
    path.unlink()
    assert store.known(str(path)) is None


def test_a_store_ends_with_its_server_and_one_of_a_killed_server_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\nfrom fastfashion.serve.store import open_store\n"
    code += "with open_store(9) as store: (store.folder / 'x').touch(); print(store.folder, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    other = Path(process.stdout.readline().strip())
    foreign = tmp_path / f"{PREFIX}of-nobody"
    foreign.mkdir()
    with open_store(9) as store:
        assert other.is_dir()  # its server lives
        assert store.folder.stat().st_mode & 0o077 == 0
    assert not store.folder.exists()
    process.kill()
    process.wait()
    assert other.is_dir()
    with open_store(9):
        assert not other.exists()
    assert foreign.is_dir()  # it has no lock, so it may be anybody's


def test_a_share_leaves_room_for_others_and_whoever_waits_is_served_in_turn() -> None:
    async def talk() -> list[str]:
        room, order = FairSemaphore(4, share=2, max_waiting=2), []

        async def hold(name: str, amount: int, over: asyncio.Event) -> None:
            async with room.taking(amount, name[0]):
                order.append(name)
                await over.wait()

        over, never = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(hold(name, amount, over)) for name, amount in [("a1", 1), ("a2", 9), ("a3", 1), ("b1", 2)]]
        await asyncio.sleep(0)
        assert order == ["a1", "a3", "b1"]  # a2 would be more than half together with a1
        gone = asyncio.create_task(hold("a4", 1, never))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 requests of this address"):
            await hold("a5", 1, over)
        gone.cancel()
        over.set()
        await asyncio.gather(*tasks)
        async with room.taking(2, "a"), room.taking(2, "b"):
            assert room._free == 0
        assert room._free == 4 and not room._held and not room._line
        return order

    assert asyncio.run(talk())[-1] == "a2"


def test_one_address_waits_for_its_own_answers_and_is_refused_when_too_many_wait() -> None:
    """Others are answered meanwhile; requests of this machine have no share of their own."""

    async def talk() -> dict[str, list[int]]:
        over, statuses = asyncio.Event(), dict[str, list[int]]()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            if scope["client"][0] != "10.0.0.2":
                await over.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        layer = Responses(Bodies(slow, Limits(queue=4)))

        async def ask(address: str) -> None:
            async def receive() -> Message:
                return {"type": "http.request", "body": b"image", "more_body": False}

            async def send(message: Message) -> None:
                if "status" in message:
                    statuses.setdefault(address, []).append(message["status"])

            scope = {"type": "http", "method": "POST", "path": ANSWER, "headers": [], "client": (address, 1)}
            await layer(scope, receive, send)

        tasks = [asyncio.create_task(ask(address)) for address in ["10.0.0.1"] * 7 + ["127.0.0.1"] * 9]
        for _ in range(20):
            await asyncio.sleep(0)
        await ask("10.0.0.2")
        assert statuses == {"10.0.0.1": [503], "10.0.0.2": [200]}
        over.set()
        await asyncio.gather(*tasks)
        return statuses

    assert asyncio.run(talk()) == {"10.0.0.1": [503] + [200] * 6, "10.0.0.2": [200], "127.0.0.1": [200] * 9}


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 503), (errno.EDQUOT, 503)])
def test_a_full_disk_is_an_error_and_keeps_nothing(store: Store, number: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "grow", lambda *_: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    form = b'--line\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nx\r\n--line--\r\n'
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": form, "more_body": False}

    async def send(message: Message) -> None:
        said.append(message)

    head = [(b"content-type", b"multipart/form-data; boundary=line")]
    scope = {"type": "http", "method": "POST", "path": UPLOAD, "query_string": b"", "headers": head, "client": ("10.0.0.1", 1)}
    asyncio.run(Responses(Uploads(None, store))(scope, receive, send))  # type: ignore[arg-type]
    assert said[0]["status"] == status and os.strerror(number).encode() in said[1]["body"]
    assert list(store.folder.iterdir()) == []
