"""The page in a real browser, on a wide and a narrow screen: as a visitor sees it, with mouse and with keyboard."""

import csv
import importlib.util
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import PackedSmall, smooth_image
from serving import TASKS, ServedRun, make_run

from fastfashion.files import publish_json
from fastfashion.runs.files import REPORT

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium: pip install selenium")

from selenium.common.exceptions import ElementClickInterceptedException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the page needs Gradio: pip install 'fastfashion[serve]'"),
]

SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}
PATIENCE_S = 120
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars")


@pytest.fixture(scope="module")
def server(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRun]:
    run = make_run(tmp_path_factory.mktemp("runs") / "random", packed_small.out)
    numbers = {"n": 9, "accuracy": 0.625, "macro_f1": 0.5, "balanced_accuracy": 0.5, "top3_accuracy": 0.75, "calibration_error": 0.125}
    numbers |= {"chance_accuracy": 0.25, "intervals": {"accuracy": [0.4, 0.8]}, "classes": []}
    numbers |= {f"{key}_duplicate_in_training": {"n": 0, "accuracy": None} for key in ("with", "without")}
    split = {"protocol": "stratified", "seed": 0, "by": [], "num_rows": 9, "train_rows": 42}
    publish_json(run / REPORT, {"run": "random", "split": split, "tasks": dict.fromkeys(TASKS, numbers)})
    (run / "plots").mkdir()
    smooth_image(2, 300, 200).save(run / "plots" / "confusion_season.png")
    served = ServedRun(run, "--max-files", "8", "--max-pixels", "1000000")
    yield served
    served.close()


@pytest.fixture(scope="module", params=list(SCREENS))
def browser(request: pytest.FixtureRequest, server: ServedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the page open, and a folder for downloads."""
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not program or not driver:
        pytest.skip("no Chromium here; Debian: apt install chromium chromium-driver")
    width_px, height_px = SCREENS[request.param]
    home = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={home / 'profile'}", f"--window-size={max(500, width_px)},{height_px}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(home)})
    if width_px < 500:  # a phone
        metrics = {"width": width_px, "height": height_px, "pixelRatio": 1.0, "mobile": True, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.home = home
    yield opened
    opened.quit()


@pytest.fixture
def page(browser: Any, server: ServedRun) -> Any:
    """The browser, the page freshly opened."""
    browser.get(server.url)
    return browser


def wait(browser: Any, what: Callable[[Any], Any]) -> Any:
    return WebDriverWait(browser, PATIENCE_S).until(what)


def one(browser: Any, selector: str) -> Any:
    """The element, as soon as there is one."""
    return wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, selector))[0]


def open_tab(browser: Any, name: str) -> None:
    """With the mouse, as soon as nothing that is still loading covers it."""
    tabs = wait(browser, lambda driver: [tab for tab in driver.find_elements(By.CSS_SELECTOR, "[role=tab]") if text_of(tab) == name])
    uncovered = WebDriverWait(browser, PATIENCE_S, ignored_exceptions=[ElementClickInterceptedException])
    uncovered.until(lambda driver: tabs[0].click() or True)


def text_of(element: Any) -> str:
    return str(element.get_attribute("textContent")).strip()


def upload(browser: Any, where: str, *paths: Path) -> None:
    one(browser, f"{where} input[type=file]").send_keys("\n".join(map(str, paths)))


def image(folder: Path, name: str = "shirt.jpg", seed: int = 1) -> Path:
    smooth_image(seed, 60, 80).save(folder / name, "JPEG")
    return folder / name


def test_a_image_is_answered_with_bars_maps_and_products(page: Any, tmp_path: Path) -> None:
    upload(page, "#image", image(tmp_path))
    heads = wait(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#answers .head"))
    assert [text_of(head.find_element(By.TAG_NAME, "h3")) for head in heads] == list(TASKS)
    assert all("%" in text_of(line) for line in heads[0].find_elements(By.CSS_SELECTOR, "li"))
    assert len(wait(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#maps img"))) == len(TASKS)
    widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
    scrolls, fits = page.execute_script(widths)
    assert scrolls <= fits, "the page is wider than the screen"


def test_examples_and_nearest_products_work_at_once(page: Any) -> None:
    examples = wait(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#examples button img"))
    assert len(examples) == 5
    page.execute_script("arguments[0].closest('button').click()", examples[0])
    shown = wait(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#nearest img"))
    assert len(shown) == 6
    assert all(page.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", one) for one in shown)


@pytest.mark.parametrize("hostile", ["html", "bomb"])
def test_a_hostile_image_gets_an_error_on_the_page(page: Any, hostile: str, tmp_path: Path) -> None:
    path = tmp_path / f"{hostile}.jpg"
    if hostile == "html":
        path.write_text("<!doctype html><script>document.title = 'owned'</script>", encoding="utf-8")
    else:
        smooth_image(1, 1200, 1200).save(path, "JPEG")
    upload(page, "#image", path)
    said = {"html": "HTML", "bomb": "1200x1200 pixels"}[hostile]
    wait(page, lambda driver: said in " ".join(map(text_of, driver.find_elements(By.CSS_SELECTOR, "#answers .error"))))
    assert page.title == "fastfashion"


def test_a_batch_becomes_a_table_and_a_csv(page: Any, tmp_path: Path) -> None:
    open_tab(page, "Many images")
    (tmp_path / "page.jpg").write_text("<html>", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(image(tmp_path, "b.jpg", 2), "../b.jpg")
        archive.write(tmp_path / "b.jpg", "b.jpg")
    upload(page, "#files", image(tmp_path, "a.jpg"), tmp_path / "page.jpg", tmp_path / "more.zip")
    wait(page, lambda driver: "more" in text_of(one(driver, "#files")))
    button = one(page, "#ask")
    button.send_keys(Keys.ENTER)  # as with the keyboard
    lines = wait(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#table tbody tr"))
    names = [text_of(line.find_element(By.CSS_SELECTOR, "td.name")) for line in lines]
    assert sorted(names) == ["a.jpg", "more.zip/../b.jpg", "more.zip/b.jpg", "page.jpg"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#table tr.bad")) == 2
    save = one(page, "#save")
    wait(page, lambda driver: save.is_enabled())
    page.execute_script("arguments[0].click()", save)
    wait(page, lambda driver: list(page.home.glob("answers*.csv")))
    (path,) = page.home.glob("answers*.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["path"] for row in rows) == sorted(names)
    assert {row["path"]: bool(row["error"]) for row in rows}["a.jpg"] is False


def test_too_many_files_get_an_error_on_the_page(page: Any, tmp_path: Path) -> None:
    open_tab(page, "Many images")
    upload(page, "#files", *(image(tmp_path, f"{number}.jpg", number) for number in range(9)))
    wait(page, lambda driver: "8" in text_of(one(driver, "#files")))
    one(page, "#ask").send_keys(Keys.ENTER)
    said = wait(page, lambda driver: " ".join(map(text_of, driver.find_elements(By.CSS_SELECTOR, "#table .error"))))
    assert "9 files; at most 8" in said


def test_test_numbers_plots_and_the_api_stand_on_the_page(page: Any) -> None:
    open_tab(page, "Test results")
    assert "0.625" in text_of(one(page, "#results table"))
    plot = one(page, "#results .plots img")
    wait(page, lambda driver: driver.execute_script("return arguments[0].naturalWidth", plot) == 300)
    open_tab(page, "HTTP API")
    wait(page, lambda driver: "curl --data-binary" in driver.find_element(By.TAG_NAME, "body").text)


def test_the_keyboard_reaches_everything_in_order(page: Any) -> None:
    one(page, "#examples button img")
    seen = []
    for _ in range(40):
        page.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(
            page.execute_script("const e = document.activeElement; return e.outerHTML.slice(0, 300) + '|' + (e.closest('[id]') || e).id")
        )
    joined = "\n".join(seen)
    assert "One image" in joined or 'role="tab"' in joined
    assert any("image" in line.rpartition("|")[2] or "file" in line for line in seen), joined
    assert any("example" in line for line in seen), joined


def test_the_page_asks_nobody_but_its_own_server(page: Any, server: ServedRun) -> None:
    """All that its tests above have had it do."""
    asked = set()
    for line in page.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = urlsplit(message["params"]["request"]["url"])
            if address.scheme in ("http", "https", "ws", "wss"):
                asked.add(address.netloc)
    assert asked == {urlsplit(server.url).netloc}
    refused = [line["message"] for line in page.get_log("browser") if "Content Security Policy" in line["message"]]
    assert refused == []


def test_a_notebook_on_this_machine_may_show_the_page_in_a_frame(browser: Any, server: ServedRun, tmp_path: Path) -> None:
    (tmp_path / "notebook.html").write_text(f"<iframe src='{server.url}' width='100%' height='800'></iframe>", encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as notebook:
        Thread(target=notebook.serve_forever, daemon=True).start()
        browser.get(f"http://localhost:{notebook.server_port}/notebook.html")
        browser.switch_to.frame(0)
        one(browser, "#image")
        notebook.shutdown()


def test_what_another_sites_page_asks_is_refused(browser: Any, server: ServedRun, tmp_path: Path) -> None:
    """By what a real browser says of it: a question without permission to read the answer, an image, a fetch."""
    url = server.url
    code = f"fetch('{url}api/answer', {{method: 'POST', mode: 'no-cors', body: 'x'}}); fetch('{url}api/model').catch(() => 0)"
    (tmp_path / "foreign.html").write_text(f"<script>{code}</script><img src='{url}run/plots/confusion_season.png'>", encoding="utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        browser.get_log("performance")
        browser.get(f"http://localhost:{other.server_port}/foreign.html")
        found: dict[str, int] = {}

        def three_answers(driver: Any) -> bool:
            for line in driver.get_log("performance"):
                message = json.loads(line["message"])["message"]
                if message["method"] == "Network.responseReceivedExtraInfo":
                    found[message["params"]["requestId"]] = message["params"]["statusCode"]
            return sum(status == 403 for status in found.values()) == 3

        wait(browser, three_answers)
        other.shutdown()


def test_the_api_tab_shows_the_address_that_the_page_was_loaded_from(browser: Any, server: ServedRun) -> None:
    address = server.url.replace("127.0.0.1", "localhost")
    assert address != server.url
    browser.get(address)
    open_tab(browser, "HTTP API")
    wait(browser, lambda driver: f"'{address}api/answer?top=3'" in driver.find_element(By.TAG_NAME, "body").text)
    assert server.url not in browser.find_element(By.TAG_NAME, "body").text
