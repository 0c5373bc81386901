"""The bytes of a packed set, written down: packing the same tomorrow, elsewhere or with more workers gives these."""

import base64
import hashlib
import importlib.metadata
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import COLUMNS

from fastfashion.errors import PackedSetError
from fastfashion.images import codec, resampling
from fastfashion.pack import PackRequest, pack, packer, request
from fastfashion.pack.repair import repair
from fastfashion.shards import open_packed_set
from fastfashion.shards.verify import verify

# Made once by Pillow: 48x64, 4:2:0.
JPEG = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpRUk//
2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCABAADADASIAAhEBAxEB/8QA
GwAAAwEAAwEAAAAAAAAAAAAABAUGAwABAgf/xAAjEAACAgIDAAICAwAAAAAAAAABAgADBBEFEiEiMRNBFSNR/8QAGAEAAwEBAAAAAAAAAAAAAAAAAwQFAgb/
xAAgEQACAgICAgMAAAAAAAAAAAABAwACBBESIRMxBSJB/9oADAMBAAIRAxEAPwCntcdTFN9gFk3uyPifYkzcvq33BMwrP6EoGvj9yq43JVU9ME5u5XQ6Ml05
o1edpp/JHK83uaOBalNGBxzt24Lb45nPyAfudZW1G4ptyyra3A0SaShluFTK6+74n2T3I5HyPsYW5AKn2JsxS7eSwxoT3Wc+nIa46sIvstZnjzhKTYRuJ1x2
7fUqOAUIRuZZlCy9x2lb0O5ryeIVo3r9SPylIsM+i8n1so0P8kbl4TNYSBM4lA4bMFkvBP2ntSzGF1YvcbIhNWGOw8jjGwh0+pPaSPcZU5QPQk82IFP1DMQF
D5N86sVmd4CBzNHGvZfL8hmZ6hXU3Zyy6aYNVWT7qE5y/hr2JO38gyORuO/HnhXRkDJTfJO6R5Ww7CNaLAK4lQ+w+tj0ksW8h7gWsK/UC5SzbGeOOu6tMeRP
yMxxGIaVbtNUajNVC6+ZjrM/ur0Igv4suxOo+o+WtwxaFI+oljNMSOZZPQn/2Q==
"""
VERSIONS = {"simplejpeg": "1.9.0", "pillow": "12.3.0", "pyarrow": "26.0.1"}
# Depend on no library: the images' own bytes, the tar and index formats, JSON and CSV.
PLAIN: dict[str, str] = {
    "full/00000.idx": "202c03cc23c420df",
    "full/00000.tar": "2b0bf6d3cce2fde0",
    "full/00001.idx": "0b1c97d70f468337",
    "full/00001.tar": "474dda2729285a54",
    "rejected.csv": "50d6f9f430b96855",
    "vocab.json": "a44ad25ef5db4595",
}
# Depend on the JPEG encoder, the resampler and the Parquet writer, with the versions in VERSIONS (the first two are in the manifest, too).
BY_VERSION: dict[str, str] = {
    "16/00000.idx": "8df38e8c6de88013",
    "16/00000.tar": "107d4b273a3c88f8",
    "16/00001.idx": "75c574691cddc886",
    "16/00001.tar": "461dab5f5bf49ddf",
    "16/index.parquet": "747917d755952412",
    "16/manifest.json": "ccc89705dbe372e8",
    "48/00000.idx": "6e9dd407bb4f6975",
    "48/00000.tar": "07d75de5c85dd673",
    "48/00001.idx": "ecfc3de6175e9974",
    "48/00001.tar": "95763205092ea5e5",
    "48/index.parquet": "a832782ad3f5e46e",
    "48/manifest.json": "65b9eec471ed10de",
    "catalog.parquet": "285f61cf7bceecfb",
    "full/index.parquet": "230c4fa4ecc10519",
    "full/manifest.json": "ca7168f1fa3c0f70",
    "set.json": "2f07ff9096a98eb8",
}
# The same source when Pillow resized: manifests named no resampler.
BY_PILLOW: dict[str, str] = {
    "16/00000.tar": "7f65e71ab092f583",
    "16/00001.tar": "af83cc3b2ebcf8c9",
    "16/manifest.json": "910fa6f92a3ccd96",
    "48/00000.tar": "cea5058c51138527",
    "48/00001.tar": "4ffe115dbacef8e2",
    "48/manifest.json": "75da53e3ea51271c",
}


def bitmap(seed: int, width_px: int = 60, height_px: int = 80) -> bytes:
    """A 24-bit BMP by hand: bands and a gradient in integer arithmetic, so that no encoder's version is in it."""
    y, x = np.mgrid[:height_px, :width_px]
    pixels = np.stack([(x * 3 + seed * 50) % 256, (y * 2 + x) % 256, (x // 16 + y // 16 + seed) % 4 * 60 + 30], axis=-1).astype(np.uint8)
    padded = np.zeros((height_px, -(-width_px * 3 // 4) * 4), np.uint8)
    padded[:, : width_px * 3] = pixels.reshape(height_px, -1)
    size = 54 + padded.size
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", size, 0, 0, 54, 40, width_px, height_px, 1, 24, 0, padded.size, 0, 0, 0, 0)
    return head + padded.tobytes()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "set"
    (folder / "images").mkdir(parents=True)
    rows = [f"{number},Men,Apparel,Topwear,Tshirts,Größe {number},Summer,2012,Casual,Name" for number in range(7)]
    (folder / "styles.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8")
    for number in range(5):
        (folder / "images" / f"{number}.jpg").write_bytes(bitmap(number))
    (folder / "images" / "5.jpg").write_bytes(base64.b64decode(JPEG))
    (folder / "images" / "6.jpg").write_bytes(b"no image")
    return folder


def digests(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def packed(source: Path, out: Path, workers: int = 1) -> dict[str, str]:
    pack(PackRequest(source=source, out=out, resolutions=("full", "48", "16"), rows_per_shard=3, workers=workers))
    return digests(out)


@pytest.fixture(scope="module", params=[1, 8, 0], ids=["one worker", "eight workers", "no compiler"])
def found(request: pytest.FixtureRequest, source: Path) -> dict[str, str]:
    out = source.parent / f"out{request.param}"
    if request.param:
        return packed(source, out, request.param)
    with pytest.MonkeyPatch.context() as patch:
        for module in (codec, resampling):
            patch.setattr(module, "_native", None)
        return packed(source, out)


def test_what_depends_on_no_library_has_the_bytes_written_down(found: dict[str, str]) -> None:
    assert {name: found[name] for name in PLAIN} == PLAIN


def test_with_the_versions_written_down_every_file_has_the_bytes_written_down(found: dict[str, str]) -> None:
    here = {name: importlib.metadata.version(name) for name in VERSIONS}
    assert here == VERSIONS, "the goldens were made with the versions of constraints.txt: install those (make install)"
    assert found == PLAIN | BY_VERSION


def test_a_set_from_before_our_resampler_opens_and_is_repaired_to_its_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(request, "MADE_BY", {})
        patch.setattr(packer, "Job", partial(packer.Job, by_pillow=True))
        before = packed(source, tmp_path / "set")
    assert {name: before[name] for name in BY_PILLOW} == BY_PILLOW
    assert verify(tmp_path / "set").damage == ()
    assert open_packed_set(tmp_path / "set").open("16").encoded(0).tobytes()[:3] == b"\xff\xd8\xff"
    for name in ("16/00001.tar", "48/00000.tar"):
        (tmp_path / "set" / name).unlink()
    assert repair(tmp_path / "set", source, verify(tmp_path / "set").damage, 1) == ["16/00001.tar", "48/00000.tar"]
    assert digests(tmp_path / "set") == before
    with pytest.raises(
        PackedSetError, match=r"(16|48): packed with other settings or .*, resampler not named \(here fastfashion 1\); remove"
    ):
        packed(source, tmp_path / "set")
    pack(PackRequest(source=source, out=tmp_path / "set", resolutions=("32",), rows_per_shard=3))
    assert verify(tmp_path / "set").damage == ()


def test_the_versions_written_down_are_those_that_are_installed_by_default() -> None:
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line.partition("==")[0] in VERSIONS)
    assert pinned == VERSIONS, "pack the golden set again with these versions, compare by eye, and write the new digests down"
