"""Images that need not be shrunk keep their bytes if all decoders read those alike; the others are encoded again."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import digests, make_source, smooth_image
from odd_images import odd_images
from PIL import Image
from test_pack import add_row
from test_real_world import encoded
from test_shards import sign

from fastfashion.files import publish
from fastfashion.images.codec import Kind
from fastfashion.pack import PackRequest, dry_run, pack
from fastfashion.pack.repair import repair
from fastfashion.pack.text import dry_run_text, summary_text
from fastfashion.shards import open_packed_set
from fastfashion.shards.verify import verify


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


IMAGE = smooth_image(7, 60, 80)
KEPT = {
    "color": encoded(IMAGE, quality=70),
    "finer": encoded(IMAGE, quality=99, subsampling=0),
    "gray": encoded(IMAGE.convert("L")),
    "comment": encoded(IMAGE, comment=b"kept, too"),
}
ENCODED_AGAIN = {
    "progressive": encoded(IMAGE, progressive=True),
    "turned": encoded(IMAGE, exif=turned()),
    "png": encoded(IMAGE, "PNG"),
    "cmyk": encoded(IMAGE.convert("CMYK")),
    "profile": odd_images()["jpeg display p3"].data,
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A source, its set, and what packing said."""
    home = tmp_path_factory.mktemp("small-images")
    source = make_source(home / "source", rows=0)
    for name, data in (KEPT | ENCODED_AGAIN).items():
        add_row(source, name, data)
    add_row(source, "large", encoded(smooth_image(1, 300, 240)))
    said = summary_text(pack(PackRequest(source=source, out=home / "set", resolutions=("100", "60", "48"))))
    return source, home / "set", said


def images_of(out: Path, resolution: str) -> dict[str, bytes]:
    packed = open_packed_set(out)
    opened = packed.open(resolution)
    return {identity: opened.encoded(row).tobytes() for row, identity in enumerate(packed.table["id"])}


@pytest.mark.parametrize("resolution", ["100", "60"])
def test_plain_upright_baseline_jpegs_that_are_not_shrunk_keep_their_bytes(packed: tuple[Path, Path, str], resolution: str) -> None:
    found = images_of(packed[1], resolution)
    assert {name: found[name] for name in KEPT} == KEPT
    assert all(found[name] != data for name, data in ENCODED_AGAIN.items())


@pytest.mark.parametrize("resolution", ["100", "60", "48"])
def test_what_the_index_calls_each_image_of_a_numbered_resolution_is_what_it_is(packed: tuple[Path, Path, str], resolution: str) -> None:
    opened = open_packed_set(packed[1]).open(resolution)
    found = images_of(packed[1], resolution)
    for (name, data), kind in zip(found.items(), opened.kind.tolist(), strict=True):
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG" and "progression" not in image.info and image.getexif() == {}, name
            assert kind == {"L": Kind.GRAY, "RGB": Kind.COLOR}[image.mode], name
    assert opened.kind.tolist().count(Kind.GRAY) == (resolution != "48")


def test_what_is_shrunk_is_encoded_as_ever(packed: tuple[Path, Path, str]) -> None:
    found = images_of(packed[1], "48")
    assert all(found[name] != data for name, data in KEPT.items())
    assert np.asarray(Image.open(io.BytesIO(found["gray"]))).shape == (64, 48, 3)


def test_packing_says_how_many_images_are_smaller_than_the_resolution(packed: tuple[Path, Path, str]) -> None:
    said = {line.split(":")[0].strip(): line for line in packed[2].splitlines()}
    assert said["100"].endswith("; 9 of 10 are smaller than 100, and not enlarged")
    assert "smaller" not in said["60"] + said["48"]  # a shorter side of 60 is not smaller than 60


def test_the_summary_and_the_manifest_have_it_for_programs(packed: tuple[Path, Path, str]) -> None:
    again = pack(PackRequest(source=packed[0], out=packed[1], resolutions=("100", "60")))
    assert {name: sizes["smaller"] for name, sizes in again.resolutions.items()} == {"100": 9, "60": 0}
    assert json.loads((packed[1] / "100" / "manifest.json").read_text())["encoder"]["unshrunk"] == "kept"


def test_a_dry_run_says_it_of_the_images_that_it_looked_at(packed: tuple[Path, Path, str], tmp_path: Path) -> None:
    plan = dry_run(PackRequest(source=packed[0], out=tmp_path / "new", resolutions=("full", "100", "60")))
    assert plan.smaller == {"100": 9, "60": 0}
    assert "judging by 10 images, of which 9 are smaller than 100 and not enlarged" in dry_run_text(plan)


def as_before(out: Path) -> None:
    """Make a set's manifests those of version 2, which do not speak of `unshrunk`."""
    for path in (out / "set.json", *out.glob("*/manifest.json")):
        values: dict[str, Any] = json.loads(path.read_text()) | {"version": 2}
        if values.get("encoder"):
            values["encoder"] = {name: value for name, value in values["encoder"].items() if name != "unshrunk"}
        sign(path, values)


def test_sets_of_version_2_take_further_resolutions_and_are_repaired_as_they_were_packed(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", rows=12, width_px=40, height_px=50)
    out = tmp_path / "set"
    pack(PackRequest(source=source, out=out, resolutions=("32",), rows_per_shard=5))  # all are shrunk: the bytes of version 2
    as_before(out)
    assert pack(PackRequest(source=source, out=out, resolutions=("32",), rows_per_shard=5)).packed_now == 0
    assert pack(PackRequest(source=source, out=out, resolutions=("32", "224"), rows_per_shard=5)).packed_now == 12
    assert verify(out).damage == ()
    before = digests(out)
    for shard in (out / "32" / "00001.tar", out / "224" / "00000.tar"):
        data = bytearray(shard.read_bytes())
        data[700] ^= 1
        publish(shard, lambda beside, data=data: beside.write_bytes(data))  # type: ignore[misc]
    assert repair(out, source, verify(out).damage, 1) == ["224/00000.tar", "32/00001.tar"]
    assert digests(out) == before
