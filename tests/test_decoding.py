"""Decoding in processes that may die: the pixels are the same, and a death is one image's error.

Workers die here because a word after a valid image makes them. No file that harms a decoder is used.
"""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import smooth_image
from PIL import Image
from serving import ServedRun
from test_floors import HEAVY, modules_after

from fastfashion.config import DECODERS
from fastfashion.errors import FastfashionError, InputError
from fastfashion.images import codec
from fastfashion.load.crops import is_native
from fastfashion.predict import decoding
from fastfashion.predict.decode_worker import load_encoded
from fastfashion.predict.decoding import Decoders
from fastfashion.predict.inputs import find_inputs
from fastfashion.predict.predictor import Predictor
from fastfashion.serve.limits import Limits
from fastfashion.serve.state import open_state

HOME = Path(__file__).parents[1]
SABOTAGE = """
import sys
if "fastfashion.predict.decode_worker" in " ".join(sys.orig_argv):
    import os, signal, time
    from fastfashion.predict import decode_worker
    whole = decode_worker.load_encoded

    def load_encoded(encoded, out, max_pixels, fit, decoder):
        for data in encoded:
            if data.endswith(b"please be killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if data.endswith(b"please exit"):
                os._exit(3)
            if data.endswith(b"please hang"):
                time.sleep(600)
            if data.endswith(b"please raise"):
                raise KeyError("a bare one")
        return whole(encoded, out, max_pixels, fit, decoder)

    decode_worker.load_encoded = load_encoded
"""


@pytest.fixture(scope="module")
def sabotaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which only decoding processes end at the text of their input."""
    folder = tmp_path_factory.mktemp("sabotage")
    (folder / "sitecustomize.py").write_text(SABOTAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{HOME}")
        yield dict(os.environ)


@pytest.fixture(scope="module")
def run(untrained_run: Path) -> Path:
    return untrained_run


def encode(seed: int, form: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    smooth_image(seed, 61, 83, mode).save(file, form, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(7, exif=exif)


ODD = {
    "color": encode(1),
    "gray": encode(2, mode="L"),
    "cmyk": encode(3, mode="CMYK"),
    "progressive": encode(4, progressive=True),
    "alpha": encode(5, "PNG", "RGBA"),
    "gif": encode(6, "GIF"),
    "tiff": encode(7, "TIFF", compression="tiff_lzw"),
    "webp": encode(8, "WEBP"),
    "turned": turned(6),
}


@pytest.mark.parametrize("name", ODD)
def test_pixels_are_those_of_image_py_bit_for_bit(name: str) -> None:
    with closing(Decoders(1)) as decoders:
        for least in ({}, {"min_height_px": 20, "min_width_px": 15}):
            np.testing.assert_array_equal(decoders.decode_rgb(ODD[name], **least), codec.decode_rgb(ODD[name], **least))
        there, here = (np.ones((1, 40, 32, 3), dtype=np.uint8) for _ in range(2))
        assert decoders.fit([ODD[name]], there) == load_encoded([ODD[name]], here) == {}
        np.testing.assert_array_equal(there, here)


def test_the_processes_decode_with_the_decoder_that_is_set() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    data = io.BytesIO()
    noise.save(data, "JPEG", quality=90)
    pixels = []
    for decoder in DECODERS:
        there, here = (np.ones((1, 30, 24, 3), dtype=np.uint8) for _ in range(2))
        with closing(Decoders(1, decoder=decoder)) as decoders:
            assert decoders.fit([data.getvalue()], there) == load_encoded([data.getvalue()], here, decoder=decoder) == {}
        np.testing.assert_array_equal(there, here)
        pixels.append(here)
    assert (pixels[0] != pixels[1]).any() == is_native()  # rounded in other places


def test_what_does_not_decode_and_what_is_too_large_says_so_as_in_this_process() -> None:
    wrong = [b"", b"<html>", encode(1)[:600], encode(2), b"\0" * 50]
    there, here = (np.ones((5, 40, 32, 3), dtype=np.uint8) for _ in range(2))
    with closing(Decoders(1)) as decoders:
        assert decoders.fit(wrong, there) == load_encoded(wrong, here)
        np.testing.assert_array_equal(there, here)
        assert "61x83 pixels, more than the 5000" in decoders.fit([encode(2)], there[:1], 5000)[0]
        with pytest.raises(InputError, match="empty file"):
            decoders.decode_rgb(b"")


WAYS = [(b"please be killed", "SIGKILL"), (b"please exit", "exit code 3"), (b"please hang", "within 2 s"), (b"please raise", "KeyError")]


@pytest.mark.parametrize(("word", "said"), WAYS)
def test_a_death_is_one_images_error_and_the_others_are_intact(sabotaged: dict[str, str], word: bytes, said: str) -> None:
    images = [encode(seed) for seed in range(5)]
    expected = np.empty((5, 40, 32, 3), dtype=np.uint8)
    assert load_encoded(images, expected) == {}
    images[2] += word
    expected[2] = 0
    out = np.ones_like(expected)
    with closing(Decoders(2, timeout_s=2)) as decoders:
        for _ in range(2):  # and again, with the processes that took their places
            errors = decoders.fit(images, out)
            assert list(errors) == [2] and said in errors[2]
            np.testing.assert_array_equal(out, expected)


def flat(side_px: int = 2500) -> bytes:
    """A large image of few bytes."""
    file = io.BytesIO()
    Image.new("1", (side_px, side_px)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("slow_is_large", [True, False])
def test_small_and_large_images_do_not_wait_for_each_other(sabotaged: dict[str, str], slow_is_large: bool) -> None:
    slow, quick = (flat(), encode(1)) if slow_is_large else (encode(1), flat())
    out = np.ones((1, 8, 8, 3), dtype=np.uint8)
    decoders = Decoders(1, large=1)
    asking = threading.Thread(target=decoders.fit, args=([slow + b"please hang"], out.copy()))
    asking.start()
    wait_until(lambda: bool(decoders._started))
    assert decoders.fit([quick], out) == {} and asking.is_alive()
    decoders.close()
    asking.join(20)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts child processes in /proc, which this system does not have")
def test_closing_leaves_no_process_and_no_thread_waiting(sabotaged: dict[str, str]) -> None:
    before = children()
    decoders, said = Decoders(1), []
    out = np.empty((1, 8, 8, 3), dtype=np.uint8)
    asking = [threading.Thread(target=lambda: said.append(decoders.fit([encode(1) + b"please hang"], out))) for _ in range(3)]
    for thread in asking:
        thread.start()
    wait_until(lambda: len(children()) > len(before))
    decoders.close()
    for thread in asking:
        thread.join(20)
    assert len(said) == 3 and all(list(errors) == [0] for errors in said)
    assert children() == before
    assert "decoding has ended" in decoders.fit([encode(1)], out)[0]


def children() -> set[str]:
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


PARENT = """
import sys
import numpy as np
from pathlib import Path
from fastfashion.predict.decoding import Decoders
decoders = Decoders(2, timeout_s=3)
out = np.empty((1, 8, 8, 3), dtype=np.uint8)
data = Path(sys.argv[1]).read_bytes()
assert decoders.fit([data], out) == {}
print(*(worker.process.pid for worker in decoders._started), flush=True)
decoders.fit([data + b"please hang"], out)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(sabotaged: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    """One that hangs, too: the kernel's timer ends it."""
    (tmp_path / "image.jpg").write_bytes(encode(1))
    command = [sys.executable, "-c", PARENT, str(tmp_path / "image.jpg")]
    parent = subprocess.Popen(command, env=sabotaged, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers and all(is_alive(worker) for worker in workers)
    parent.send_signal(number)
    parent.wait(20)
    wait_until(lambda: not any(is_alive(worker) for worker in workers))


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.sys, "executable", "/bin/false")
    with closing(Decoders(1)) as decoders, pytest.raises(FastfashionError, match=r"does not start \(exit code 1\)"):
        decoders.decode_rgb(encode(1))


def test_a_worker_is_light_and_its_parent_need_not_guard_its_main_module(tmp_path: Path) -> None:
    assert modules_after("import fastfashion.predict.decode_worker").isdisjoint(HEAVY)
    (tmp_path / "image.jpg").write_bytes(encode(1))
    script = tmp_path / "host.py"  # no `if __name__ == "__main__"`: a process that imported it would start others without end
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom fastfashion.predict.decoding import Decoders\n"
        "print('started', Decoders(1).decode_rgb(Path(sys.argv[1]).read_bytes()).shape)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path / "image.jpg")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("started (83, 61, 3)\n", 0), done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(6):
        (tmp_path / f"{seed}.jfif").write_bytes(encode(seed))
    (tmp_path / "3.jfif").write_bytes(encode(3) + b"please be killed")
    return tmp_path


def test_predict_answers_all_others(sabotaged: dict[str, str], run: Path, folder: Path) -> None:
    """A batch continues, and so does the next."""
    predictor = Predictor(run, torch.device("cpu"), workers=2)
    (answers,) = predictor.answer(find_inputs([str(folder)]))
    assert list(answers.errors) == [3] and "SIGKILL" in answers.errors[3]
    (folder / "3.jfif").write_bytes(encode(3))
    (whole,) = predictor.answer(find_inputs([str(folder)]))
    others = [0, 1, 2, 4, 5]
    for task in whole.codes:
        np.testing.assert_array_equal(answers.codes[task][others], whole.codes[task][others])
        np.testing.assert_array_equal(answers.probabilities[task][others], whole.probabilities[task][others])


def test_ctrl_c_prints_nothing_from_workers(sabotaged: dict[str, str], run: Path, folder: Path) -> None:
    (folder / "3.jfif").write_bytes(encode(3) + b"please hang")
    command = [sys.executable, "-m", "fastfashion", "predict", str(run), str(folder), "--workers", "2"]
    predict = subprocess.Popen(command, env=sabotaged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def has_worker() -> bool:
        tasks = Path(f"/proc/{predict.pid}/task").iterdir()
        return any((task / "children").read_text() for task in tasks)

    wait_until(has_worker)
    time.sleep(0.5)  # the worker may be importing, or at work: it must be silent in both
    os.killpg(predict.pid, signal.SIGINT)
    _, said = predict.communicate(timeout=30)
    assert predict.returncode == 130 and said.split() == ["stopped"], said


def test_the_page_and_the_api_answer_the_next(sabotaged: dict[str, str], run: Path, folder: Path) -> None:
    served = ServedRun(run)
    try:
        before = ask(served.url, encode(1))
        status, said = ask(served.url, encode(1) + b"please be killed")
        assert status == 400 and "SIGKILL" in said
        assert before[0] == 200 and ask(served.url, encode(1))[0] == 200
    finally:
        served.close()
    with closing(open_state(run, torch.device("cpu"), Limits())) as state:
        with pytest.raises(InputError, match="SIGKILL"):
            asyncio.run(state.look(folder / "3.jfif"))
        assert asyncio.run(state.look(folder / "1.jfif")).answers
        lines = list(state.batch(sorted(folder.iterdir())))
        assert [str(line.record.get("error") or "")[:9] for line in lines] == ["", "", "", "decoding ", "", ""]


def test_more_large_images_than_there_are_threads_hold_up_nobody(sabotaged: dict[str, str], run: Path) -> None:
    served = ServedRun(run)
    try:
        large = flat() + b"please hang"
        asking = [threading.Thread(target=ask, args=(served.url, large), daemon=True) for _ in range(45)]
        for thread in asking:
            thread.start()
        assert ask(served.url, encode(1))[0] == 200
        assert all(thread.is_alive() for thread in asking)
    finally:
        served.close()


def ask(url: str, data: bytes) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}api/answer", data), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:  # the server has ended
        return 0, str(error)


UNREAD = {"phone.heic": "HEIF", "new.jxl": "JPEG XL", "logo.SVG": "vector", "layers.psd": "layers"}


def test_formats_that_are_not_read_are_named_in_folders_zips_files_and_on_the_page(run: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in UNREAD:
        (images / name).write_bytes(b"whatever is in it")
    for suffix in ("jfif", "jpe", "jif"):
        (images / f"good.{suffix}").write_bytes(encode(1))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, path.name)
        archive.writestr("__MACOSX/._phone.heic", b"")
    predictor = Predictor(run, torch.device("cpu"))
    for inputs in ([str(images)], [str(tmp_path / "images.zip")], [str(path) for path in images.iterdir()]):
        (answers,) = predictor.answer(find_inputs(inputs))
        errors = {Path(answers.names[place]).name: text for place, text in answers.errors.items()}
        assert errors.keys() == UNREAD.keys() and len(answers.names) == 7
        assert all(words in errors[name] and "convert it to JPEG or PNG" in errors[name] for name, words in UNREAD.items())
    with closing(open_state(run, torch.device("cpu"), Limits())) as state:
        records = {line.record["path"]: line.record for line in state.batch(sorted(images.iterdir()))}
    assert {name for name, record in records.items() if record.get("error")} == UNREAD.keys()
    assert all(UNREAD[name] in records[name]["error"] for name in UNREAD)
