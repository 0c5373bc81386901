"""Images of the page of a run, on a wide and on a narrow screen, for the README, and how long the page takes.

    python tools/page_screenshots.py runs/NAME shirt.jpg --out docs

Starts `fastfashion serve` for the run on a free port, has headless Chromium (Debian: apt install chromium chromium-driver; pip install
selenium) ask about the image, waits for the nearest products, and writes page-wide.png and page-narrow.png. With --times FILE also
how long a browser that has just started needs from the address to the place where an image is dropped, and how long from a dropped
image to the answers' bars, ten times each, on the wide screen.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from fastfashion.bench import spread
from fastfashion.provenance import git_commit, machine_info, package_versions

SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}
PATIENCE_S = 300
TIMES = 10
IMAGE, ANSWERS = "#image input[type=file]", "#answers .head"
MOST_HEIGHT_PX = 2600
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars")


def start_server(run: Path) -> tuple[subprocess.Popen[str], str]:
    """The process and its address."""
    command = [sys.executable, "-m", "fastfashion", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        print(line, end="", file=sys.stderr)
        if found := re.search(r"(http://\S+/) answers", line):
            return server, found[1]
    raise SystemExit(f"error: fastfashion serve {run} has ended")


def open_browser(profile: Path, width_px: int, height_px: int) -> Any:
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not program or not driver:
        raise SystemExit("error: no Chromium here; Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={max(500, width_px)},{height_px}"):
        options.add_argument(flag)
    if width_px < 500:  # a phone
        metrics = {"width": width_px, "height": height_px, "pixelRatio": 1.0, "mobile": True, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def set_screen(browser: Any, width_px: int, height_px: int) -> None:
    metrics = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def shoot(url: str, image: Path, out: Path, width_px: int, height_px: int) -> None:
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(Path(profile), width_px, height_px)
        try:
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                ask(browser, url, image)
                if browser.find_elements(By.CSS_SELECTOR, "#nearest img"):
                    break
                time.sleep(5)  # the training set is still being read
            time.sleep(1)
            tall = browser.execute_script("return document.documentElement.scrollHeight")
            set_screen(browser, width_px, min(MOST_HEIGHT_PX, max(height_px, tall)))
            time.sleep(1)
            browser.save_screenshot(str(out))
        finally:
            browser.quit()


def ask(browser: Any, url: str, image: Path) -> None:
    browser.get(url)
    wait_for(browser, IMAGE).send_keys(str(image.resolve()))
    wait_for(browser, "#nearest .ff")


def wait_for(browser: Any, selector: str) -> Any:
    """The first element that a selector finds, as soon as there is one."""
    return WebDriverWait(browser, PATIENCE_S, poll_frequency=0.01).until(lambda page: page.find_elements(By.CSS_SELECTOR, selector))[0]


def measure(url: str, image: Path) -> dict[str, Any]:
    """Seconds to the first screen of a fresh browser, and from a dropped image to its answers: median, least and most."""
    seconds: dict[str, list[float]] = {"first_screen_s": [], "answer_s": []}
    for _ in range(TIMES):
        with tempfile.TemporaryDirectory() as profile:
            browser = open_browser(Path(profile), *SCREENS["wide"])
            try:
                started = time.monotonic()
                browser.get(url)
                place = wait_for(browser, IMAGE)
                seconds["first_screen_s"].append(time.monotonic() - started)
                time.sleep(1)  # until the browser is at rest
                started = time.monotonic()
                place.send_keys(str(image.resolve()))
                wait_for(browser, ANSWERS)
                seconds["answer_s"].append(time.monotonic() - started)
            finally:
                browser.quit()
    return {name: spread(values, 3) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--times", type=Path, help="write how long the page takes to this JSON file")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server, url = start_server(options.run)
    try:
        for name, (width_px, height_px) in SCREENS.items():
            shoot(url, options.image, options.out / f"page-{name}.png", width_px, height_px)
            print(options.out / f"page-{name}.png")
        if options.times:
            found = measure(url, options.image) | {
                "rounds": TIMES,
                "command": " ".join(["python", *sys.argv]),
                "commit": git_commit(),
                "machine": machine_info(),
                "versions": package_versions(["fastfashion", "torch", "timm", "gradio", "selenium"]),
            }
            print(json.dumps(found, indent=2))
            options.times.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
