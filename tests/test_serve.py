"""`fastfashion serve` over HTTP: answers, limits, hostile uploads, passwords; and its parts."""

import asyncio
import base64
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall, smooth_image
from PIL import Image
from serving import TASKS, ServedRun, make_run
from torch import nn
from workers import fastfashion

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.predict.semaphore import BusyError
from fastfashion.runs import open_run
from fastfashion.runs.files import REPORT
from fastfashion.serve import render
from fastfashion.serve.auth import parse_auth
from fastfashion.serve.cam import NoMapError, _feature_map, _pooled_alone, activation_maps, overlay
from fastfashion.serve.limits import Gate, Limits, check_image, check_zip
from fastfashion.serve.page import make_examples, results
from fastfashion.serve.products import FILE
from fastfashion.serve.state import State, open_state
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import shard_name

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="the page needs Gradio: pip install 'fastfashion[serve]'"
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(untrained_run: Path) -> Path:
    return untrained_run


@pytest.fixture(scope="module")
def state(run: Path) -> Iterator[State]:
    opened = open_state(run, CPU, Limits(batch_files=10), workers=1)
    assert opened.products is not None
    opened.products.start(opened.run_model).join()
    yield opened
    opened.close()


def test_without_its_set_a_run_says_once_why_there_are_no_nearest_products(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.jpg").write_bytes(jpeg())
    with closing(open_state(run, CPU, Limits(), shards=tmp_path / "nowhere")) as opened:
        assert capsys.readouterr().err == f"no nearest products: {opened.no_products}\n"
        assert "nowhere" in opened.no_products
        assert asyncio.run(opened.look(tmp_path / "one.jpg")).answers
        assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def server(served: ServedRun) -> ServedRun:
    return served


def jpeg(seed: int = 1, width_px: int = 60, height_px: int = 80) -> bytes:
    file = io.BytesIO()
    smooth_image(seed, width_px, height_px).save(file, "JPEG", quality=92)
    return file.getvalue()


def bomb() -> bytes:
    """20 kB that are 81 million pixels."""
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    return file.getvalue()


def ask(url: str, data: bytes | None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode(errors="replace")


def test_the_api_answers_as_the_page_documents(server: ServedRun) -> None:
    status, found = ask(f"{server.url}api/answer?top=2", jpeg())
    assert status == 200 and list(found["answers"]) == list(TASKS) and found["milliseconds"] > 0
    for best in found["answers"].values():
        assert [list(one) for one in best] == [["label", "probability"]] * 2
        assert 1 >= best[0]["probability"] >= best[1]["probability"] >= 0
    status, known = ask(f"{server.url}api/model", None)
    assert status == 200 and known["size"] == "64x48" and list(known["classes"]) == list(TASKS)
    assert ask(f"{server.url}api/answer?top=none", jpeg())[0] == 400


def test_json_is_the_address_once_it_answers(run: Path) -> None:
    server = ServedRun(run, "--json", "--workers", "1")
    try:
        document = json.loads(server.process.stdout)
        assert document == {"run": str(run), "address": server.url} and ask(f"{document['address']}api/model", None)[0] == 200
    finally:
        server.close()
    assert json.loads(server.process.stdout) == document


def test_the_api_answers_as_the_command_does(server: ServedRun, run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    done = fastfashion("predict", run, tmp_path / "a.jpg", "--format", "jsonl")
    assert json.loads(done.stdout)["answers"] == ask(f"{server.url}api/answer?top=3", jpeg())[1]["answers"]


def test_hostile_bodies_get_an_error_and_harm_nothing(server: ServedRun) -> None:
    """Before and after them the same image has the same answer."""
    before = ask(f"{server.url}api/answer", jpeg())[1]["answers"]
    for data, status, said in [
        (bomb(), 400, "9000x9000 pixels"),
        (b"<!doctype html><script>alert(1)</script>", 400, "HTML"),
        (b"", 400, "empty file"),
        (jpeg()[:200], 400, "does not decode"),
        (b"\xff\xd8\xff" + bytes(999_000), 400, "does not decode"),
        (bytes(1_000_001), 413, "more than the 1 MB"),
    ]:
        found = ask(f"{server.url}api/answer", data)
        assert found[0] == status and said in found[1]["error"], found
    assert ask(f"{server.url}run/plots/..%2f..%2fconfig.json", None)[0] == 404
    assert ask(f"{server.url}gradio_api/file=/etc/passwd", None)[0] in (403, 404)
    assert ask(f"{server.url}gradio_api/file={Path(__file__)}", None)[0] in (403, 404)
    assert ask(f"{server.url}api/answer", jpeg())[1]["answers"] == before


def test_many_at_once_lose_nothing(server: ServedRun) -> None:
    expected = ask(f"{server.url}api/answer", jpeg())[1]["answers"]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: ask(f"{server.url}api/answer", jpeg()), range(60)))
    assert [one for one in found if one[0] != 200 or one[1]["answers"] != expected] == [], server.said


def test_large_bodies_wait_for_room_before_they_are_read_and_small_ones_do_not(run: Path) -> None:
    async def main(opened: State) -> None:
        async with AsyncExitStack() as held:
            for _ in range(5):
                await held.enter_async_context(opened.admit(20_000_000))
            entered = []

            async def enter(num_bytes: int | None) -> None:
                async with opened.admit(num_bytes):
                    entered.append(num_bytes)

            waiting = [asyncio.create_task(enter(num_bytes)) for num_bytes in (20_000_000, None, 900_000)]
            await waiting[2]
            assert entered == [900_000]
        await asyncio.gather(*waiting)
        assert entered == [900_000, 20_000_000, None]

    with closing(open_state(run, CPU, Limits())) as opened:
        asyncio.run(main(opened))


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in /proc")
def test_the_largest_images_at_once_lose_nothing_and_hold_up_nobody(server: ServedRun, tmp_path: Path) -> None:
    """The load test of docs/security.md, small: its figures are of tools/serve_load.py, in bench/results/serve-memory-2-cores.json."""
    (tmp_path / "small.jpg").write_bytes(jpeg())
    out = tmp_path / "out.json"
    options = ["--largest", "12", "--seconds", "2", "--max-pixels", "1000000", "--max-mb", "1", "--pid", str(server.process.pid)]
    command = [sys.executable, "tools/serve_load.py", server.url, str(tmp_path / "small.jpg"), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["answered"] >= 12 and found["lost"] == found["turned_away"] == 0 and found["different_answers"] == 1
    assert found["small"]["beside"]["answered"] > 0
    assert 0 < found["memory_mb"]["most"] < found["memory_mb"]["before"] + 300


def test_a_password_stands_before_everything(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(FILE))
    (tmp_path / "auth").write_text("shop:s3cret:ü\n", encoding="utf-8")
    served = ServedRun(tmp_path / "run", "--auth-file", str(tmp_path / "auth"), "--shards", str(tmp_path / "nowhere"))
    try:
        right = {"authorization": "Basic " + base64.b64encode("shop:s3cret:ü".encode()).decode()}
        wrong = {"authorization": "Basic " + base64.b64encode(b"shop:other").decode()}
        for path, data in (("", None), ("config", None), ("api/model", None), ("api/answer", jpeg()), ("gradio_api/upload", b"x")):
            assert ask(served.url + path, data)[0] == 401
            assert ask(served.url + path, data, wrong | {"x-forwarded-for": f"192.0.2.{len(path)}"})[0] == 401
        assert ask(f"{served.url}api/answer", jpeg(), right)[0] == 200
        page = ask(served.url, None, right)[1]
        assert "What is in this image?" in page
        for address in ("fonts.googleapis", "cdn.", "cdnjs", "googletagmanager"):
            assert address not in page
    finally:
        served.close()


def test_a_port_that_is_taken_and_a_folder_that_is_no_run_are_refused(server: ServedRun, run: Path, tmp_path: Path) -> None:
    port = server.url.rstrip("/").rpartition(":")[2]
    for arguments, said in (([str(run), "--port", port], "cannot listen"), ([str(tmp_path), "--port", "0"], "no trained model")):
        done = fastfashion("serve", *arguments)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_batch_answers_files_and_zips_and_names_what_is_wrong(state: State, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg())
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    (tmp_path / "bomb.png").write_bytes(bomb())
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("../../good.jpg", jpeg())
        archive.writestr("in/good.jpg", jpeg())
    lines = list(state.batch(sorted(tmp_path.iterdir())))
    assert {line.record["path"]: (line.record["error"] or "")[:9] for line in lines} == {
        "bomb.png": "9000x9000",
        "good.jpg": "",
        "page.jpg": "not an im",
        "some.zip/../../good.jpg": "its name ",
        "some.zip/in/good.jpg": "",
    }
    answers = [line.record["answers"] for line in lines if line.record["answers"]]
    assert answers[0] == answers[1]
    html = render.batch_table(lines, list(TASKS), 0.1)
    assert html.count("<tr class=bad>") == 3 and "2 images answered" in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb.png", "good.jpg", "page.jpg", "some.zip"]


def test_500_files_are_refused_whole_as_files_and_in_a_zip(state: State, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(500)]
    with pytest.raises(InputError, match="500 files; at most 10"):
        list(state.batch(files))
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for path in files:
            archive.writestr(path.name, b"x")
    (line,) = state.batch([tmp_path / "many.zip"])
    assert "a zip of 500 files; at most 10" in line.record["error"]
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in files[:11]:
            archive.writestr(path.name, b"x")
    with pytest.raises(InputError, match="11 images; at most 10"):
        list(state.batch([tmp_path / "some.zip"]))


def test_a_zip_is_judged_by_its_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(30_000_000))
    check_zip(path, Limits())
    whole = path.read_bytes()
    path.write_bytes(whole[:-22])
    with pytest.raises(InputError, match="its end is missing"):
        check_zip(path, Limits())
    end = len(whole) - 22
    path.write_bytes(whole[: end + 10] + b"\xfe\xff" + whole[end + 12 :])  # 65,534 entries, it says
    with pytest.raises(InputError, match="a zip of 65534 files"):
        check_zip(path, Limits())
    path.write_bytes(whole[:end] + b"PK\x06\x07" + bytes(16) + whole[end:])
    with pytest.raises(InputError, match="zip64"):
        check_zip(path, Limits())


def test_a_member_that_unpacks_to_gigabytes_is_left_alone(state: State, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(30_000_000))
    (line,) = state.batch([tmp_path / "bomb.zip"])
    assert "more than an image may have" in line.record["error"]


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    file = io.BytesIO()
    smooth_image(1, 60, 80).save(file, "JPEG", progressive=True)
    check_image(file.getvalue(), Limits())
    with pytest.raises(InputError, match="scans"):
        check_image(file.getvalue() + b"\xff\xda" * 1000, Limits())


def test_the_gate_turns_the_next_away() -> None:
    gate = Gate(2)
    with gate.enter(), gate.enter(), pytest.raises(BusyError, match="2 requests"), gate.enter():
        pass
    with gate.enter():
        pass


def test_passwords_and_limits_are_checked() -> None:
    assert parse_auth("") == "" and parse_auth("a:b:c") == "a:b:c"
    for text in ("a", "a:", ":b"):
        with pytest.raises(ConfigError, match="user:password"):
            parse_auth(text)
    with pytest.raises(ConfigError, match="queue: expected 1 or more"):
        Limits(queue=0)


def test_nearest_products_are_the_image_itself_first_and_made_once(
    state: State, packed_small: PackedSmall, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    products = state.products
    assert products is not None and products.ready
    row = int(products.rows[7])
    look = asyncio.run(state.look(packed_small.source / "images" / f"{products.caption(row)[0]}.jpg"))
    assert look.nearest[0][0] == row and look.nearest[0][1] == pytest.approx(1, abs=2e-3)
    cosines = [cosine for _, cosine in look.nearest]
    assert cosines == sorted(cosines, reverse=True) and len(cosines) == 6
    assert f"product {products.caption(row)[0]}" in render.nearest(look, products, "")
    assert (run / FILE).is_file()
    capsys.readouterr()
    again = open_state(run, CPU, Limits())
    assert again.products is not None
    again.products.start(lambda work: pytest.fail("made again")).join()
    assert again.products.ready and "computed, once" not in capsys.readouterr().err
    again.close()


def test_images_that_do_not_decode_are_left_out_and_products_are_still_made_once(packed_small: PackedSmall, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(packed_small.out, tmp_path / "packed"))
    run = make_run(tmp_path / "run", shards)
    split, images = open_run(run).split, open_packed_set(shards).open("full")
    bad = int(np.sort(split.train)[3])
    for row in (bad, *split.rows("test")):
        with (shards / "full" / shard_name(int(images.shard[row]))).open("r+b") as file:
            file.seek(int(images.offset[row]))
            file.write(bytes(int(images.num_bytes[row])))
    first, again = (open_state(run, CPU, Limits()) for _ in range(2))
    assert first.products is not None and again.products is not None
    first.products.start(first.run_model).join()
    again.products.start(lambda work: pytest.fail("made again")).join()
    row = int(np.sort(split.train)[7])
    image = packed_small.source / "images" / f"{first.products.caption(row)[0]}.jpg"
    for opened in (first, again):
        assert opened.products is not None and opened.products.ready
        assert bad not in opened.products.rows and len(opened.products.rows) == len(split.train) - 1
        assert asyncio.run(opened.look(image)).nearest[0][0] == row
        assert make_examples(opened, tmp_path / "examples") == []
        opened.close()


@pytest.mark.parametrize("text", ['{"run": "x", "tas', '{"run": "x", "tasks": {"season": {"accuracy": 0.5}}}'])
def test_a_report_that_is_cut_or_of_another_version_leaves_a_note(text: str, tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text(text, encoding="utf-8")
    assert f"test the run again: fastfashion evaluate {tmp_path}" in results(tmp_path)


def test_without_its_packed_set_a_run_answers_and_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    opened = open_state(run, CPU, Limits(), shards=tmp_path / "gone")
    (tmp_path / "a.jpg").write_bytes(jpeg())
    look = asyncio.run(opened.look(tmp_path / "a.jpg"))
    assert look.answers and look.nearest == [] and opened.products is None
    assert "no such folder" in render.nearest(look, None, opened.no_products)
    opened.close()


def classifier(model: str, size: str = "64x64") -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(name=model, pretrained=False), {"task": 3}, Size.parse(size)).eval()


@pytest.mark.parametrize("model", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_any_backbone_with_a_map_shows_one(model: str) -> None:
    net = classifier(model, "224x224")
    image = torch.from_numpy(np.asarray(smooth_image(4, 224, 224)).copy())
    maps = activation_maps(net, image, {"task": 1})
    assert maps["task"].shape == (224, 224) and maps["task"].min() == 0 and maps["task"].max() == pytest.approx(1)
    assert overlay(image.numpy(), maps["task"]).shape == (224, 224, 3)


def test_positions_alone_say_on_average_what_the_image_says() -> None:
    """Where there is nothing but a mean between map and head, as in a ResNet."""
    net = classifier("resnet10t", "96x64")
    image = torch.from_numpy(np.asarray(smooth_image(4, 64, 96)).copy())[None]
    with torch.inference_mode():
        alone = _pooled_alone(net, _feature_map(net, image))
        torch.testing.assert_close(alone.mean(dim=(1, 2)), net.features(image), rtol=1e-4, atol=1e-5)


def test_a_map_shows_the_place_that_the_answer_comes_from() -> None:
    """A backbone made by hand: its one feature is how red a place is, so the map of a red corner is that corner."""

    class Redness(nn.Module):
        num_features = head_hidden_size = 1

        def forward_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(images_BCHW[:, :1] - images_BCHW[:, 1:2], 16)

        def forward_head(self, maps: torch.Tensor) -> torch.Tensor:
            return maps.mean(dim=(2, 3))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.forward_features(images))

    net = Classifier(Redness(), {"task": 2}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ModelConfig(pretrained=False)).eval()
    net.heads["task"].weight.data = torch.tensor([[1.0], [-1.0]])
    image = np.full((64, 48, 3), 200, dtype=np.uint8)
    image[40:, :16] = (255, 0, 0)
    maps = activation_maps(net, torch.from_numpy(image), {"task": 0})["task"]
    high, wide = np.unravel_index(maps.argmax(), maps.shape)
    assert high >= 40 and wide < 16
    assert maps[:24, 24:].max() < 0.1


def test_backbones_without_a_map_say_so() -> None:
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    with pytest.raises(NoMapError, match="single position"):
        activation_maps(classifier("resnet10t", "32x32"), image, {"task": 0})
    with pytest.raises(NoMapError, match="not a map"):
        activation_maps(classifier("vit_tiny_patch16_224", "32x32"), image, {"task": 0})


def test_text_from_outside_is_escaped(state: State, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>'\".jpg"
    (tmp_path / name).write_bytes(jpeg())
    lines = list(state.batch([tmp_path / name]))
    assert "<img src=x" not in render.batch_table(lines, list(TASKS), 0.1)
    assert "<b>" not in render.error("<b>bold</b>") and "<b>" not in render.note("<b>bold</b>")
