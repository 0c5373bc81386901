"""The real archive where it is available, small hand-made data sets in its layout, and a packed set of one."""

import csv
import hashlib
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch, here and in processes; two that wait for each other are slower than one

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from fastfashion.catalog import Styles, read_styles
from fastfashion.pack import PackRequest, PackSummary, pack
from fastfashion.sources import Source, open_source

if TYPE_CHECKING:
    from serving import ServedRun

settings.register_profile("shared machine", deadline=None)  # a busy machine is no failure
settings.load_profile("shared machine")

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: tests are the same with a Hub and without


for _ignored, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_ignored) is signal.SIG_IGN:  # started in the background of a shell, or under nohup, which processes inherit
        signal.signal(_ignored, _usual)


REAL_ZIP_VARIABLE = "FASTFASHION_REAL_ZIP"
REAL_ZIP_DEFAULT = Path(__file__).parents[1] / "../shared/data/fashion-product-images-small.zip"

COLUMNS = ["id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", "productDisplayName"]
KINDS = [
    ("Apparel", "Topwear", "Tshirts"),
    ("Apparel", "Bottomwear", "Jeans"),
    ("Footwear", "Shoes", "Heels"),
    ("Apparel", "Topwear", "Shirts"),
    ("Accessories", "Watches", "Watches"),
]


@pytest.fixture(scope="session")
def real_zip() -> Path:
    """The real zip; skips where it is missing."""
    path = Path(os.environ.get(REAL_ZIP_VARIABLE, REAL_ZIP_DEFAULT))
    if not path.is_file():
        pytest.skip(f"no real data: {path} is not a file; put it at {REAL_ZIP_DEFAULT} or name it in ${REAL_ZIP_VARIABLE}")
    return path


@pytest.fixture(scope="session")
def real_source(real_zip: Path) -> Source:
    return open_source(real_zip)


@pytest.fixture(scope="session")
def real_styles(real_source: Source) -> Styles:
    return read_styles(real_source.read_table(), "styles.csv")


def smooth_image(seed: int, width_px: int, height_px: int, mode: str = "RGB") -> Image.Image:
    """An image without sharp edges: JPEG keeps it well, and a shift or a swap of channels shows."""
    coarse = np.random.default_rng(seed).integers(30, 226, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC).convert(mode)


def table_row(number: int) -> list[str]:
    """Line `number` of the hand-made table: 3 masterCategories, 4 subCategories, and labels that are missing in both ways."""
    master, sub, article = KINDS[number % 5]
    identity = str(10_000 + number if number % 3 == 0 else 995 + number)  # as strings in another order than as numbers
    colour = "NA" if number % 11 == 3 else ("Black", "White", "Blue")[number % 3]
    season = "" if number % 13 == 5 else ("Summer", "Winter")[number // 2 % 2]
    usage = ("NA", "Casual", "Sports", "Casual", "")[number % 5]
    year = "" if number == 7 else str(2010 + number % 4)
    return [identity, ("Men", "Women", "Boys")[number % 3], master, sub, article, colour, season, year, usage, f"Brand {article} {number}"]


def make_source(folder: Path, rows: int = 60, *, width_px: int = 60, height_px: int = 80) -> Path:
    """A data set in Kaggle's layout, the same each time.

    From the third row on, one each of: grayscale, odd size, another container (PNG), a name with an unquoted comma. Rows 8 and 9 are
    pixel-identical twins with different bytes.
    """
    (folder / "images").mkdir(parents=True)
    table = [table_row(number) for number in range(rows)]
    with (folder / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, line in enumerate(table):
            if number == 6:
                file.write(",".join(line) + ", pack of 3\n")
            else:
                writer.writerow(line)
    for number, (identity, *_) in enumerate(table):
        size = (width_px + 1, height_px - 3) if number == 4 else (width_px, height_px)
        image = smooth_image(8 if number == 9 else number, *size, mode="L" if number == 3 else "RGB")
        form = "PNG" if number == 5 else "JPEG"
        image.save(folder / "images" / f"{identity}.jpg", form, quality=92, comment=b"twin" if number == 9 else b"")
    return folder


def zip_folder(folder: Path, path: Path, prefix: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    """Every file of a folder in a zip, below `prefix`."""
    with zipfile.ZipFile(path, "a", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return path


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by relative path."""
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """A harmless full disk: EFBIG. Python ignores SIGXFSZ, and what is limited may be raised again."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images of the same shape."""
    assert a.shape == b.shape
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@dataclass(frozen=True)
class PackedSmall:
    """The hand-made source of 60 rows, and the set packed from it."""

    source: Path
    out: Path
    summary: PackSummary


@pytest.fixture(scope="session")
def packed_small(tmp_path_factory: pytest.TempPathFactory) -> PackedSmall:
    home = tmp_path_factory.mktemp("small")
    source = make_source(home / "source")
    out = home / "packed"
    summary = pack(PackRequest(source=source, out=out, resolutions=("full", "32"), rows_per_shard=25))
    return PackedSmall(source, out, summary)


S3_SERVER = """
import sys
from pathlib import Path
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
port, folder = int(sys.argv[1]), Path(sys.argv[2])
storage = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
storage.create_bucket("shop", "us-east-1")
for file in folder.rglob("*"):
    if file.is_file():
        storage.put_object("shop", file.relative_to(folder).as_posix(), file.read_bytes())
server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class S3Server:
    """An S3 server in a process of its own, with a bucket `shop`, which holds what is in a folder; changes end with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """At the port that it had before, if any."""
        command = [sys.executable, "-c", S3_SERVER, str(self.port), str(self.folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def is_up(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.kill()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that the environment points every client at; its bucket holds what tests before this one have put there."""
    s3fs = pytest.importorskip("s3fs")
    if not s3_server.is_up():  # the test before this one has killed it
        s3_server.start()
    known = {"ENDPOINT_URL": s3_server.endpoint, "ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in known.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3_server


@pytest.fixture(scope="session")
def untrained_run(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on `packed_small` whose classifier has random weights; for tests that change nothing in it."""
    from serving import make_run

    return make_run(tmp_path_factory.mktemp("runs") / "random", packed_small.out)


@pytest.fixture(scope="session")
def served(untrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator["ServedRun"]:
    """`untrained_run` on the page, with small limits; `served.home` is the folder for its temporary files."""
    from serving import ServedRun

    home = tmp_path_factory.mktemp("tmp")
    server = ServedRun(untrained_run, "--max-mb", "1", "--max-pixels", "1000000", "--max-files", "20", home=home)
    yield server
    server.close()
