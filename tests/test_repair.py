"""Repair: just the damaged shards are packed again, to the bytes that they had, or the reason why not is said."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import digests, make_source
from workers import fastfashion

from fastfashion.errors import PackedSetError
from fastfashion.pack import PackRequest, pack
from fastfashion.pack.repair import repair
from fastfashion.shards.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source of 30 large images, one of which is broken, and its set of three resolutions, each made from the one above."""
    home = tmp_path_factory.mktemp("repair")
    source = make_source(home / "set", rows=30, width_px=300, height_px=400)
    next((source / "images").iterdir()).write_bytes(b"junk")
    pack(PackRequest(source=source, out=home / "packed", resolutions=("full", "96", "32"), rows_per_shard=10))
    return source, home / "packed"


@pytest.fixture
def copy(whole: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[1], tmp_path / "set"))


def flip(path: Path, at: int = 3000) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_shards_get_their_bytes_back_and_nothing_else_is_touched(whole: tuple[Path, Path], copy: Path, workers: int) -> None:
    flip(copy / "full" / "00001.tar")
    flip(copy / "96" / "00002.tar")
    flip(copy / "32" / "00000.tar")
    flip(copy / "32" / "00001.idx")
    (copy / "32" / "00002.tar").unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert repair(copy, whole[0], verify(copy).damage, workers) == [
        "32/00000.tar",
        "32/00001.tar",
        "32/00002.tar",
        "96/00002.tar",
        "full/00001.tar",
    ]
    assert digests(copy) == digests(whole[1])
    changed = {
        path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns
    }
    tars = {"full/00001.tar", "96/00002.tar", "32/00000.tar", "32/00001.tar", "32/00002.tar"}
    assert changed == tars | {name.replace(".tar", ".idx") for name in tars}
    assert repair(copy, whole[0], verify(copy).damage, workers) == []


@pytest.mark.parametrize("name", ["32/index.parquet", "32/manifest.json", "catalog.parquet", "set.json"])
def test_without_the_files_that_say_what_a_shard_holds_nothing_is_repaired(whole: tuple[Path, Path], copy: Path, name: str) -> None:
    flip(copy / name, at=200)
    flip(copy / "full" / "00001.tar")
    before = digests(copy)
    with pytest.raises(PackedSetError, match=rf"{name} is damaged .*only shards can be repaired: pack the set again"):
        repair(copy, whole[0], verify(copy).damage, 1)
    assert digests(copy) == before


def test_a_source_that_has_changed_is_refused_and_the_damaged_shard_left_alone(
    whole: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    flip(copy / "full" / "00001.tar")
    before = digests(copy)
    other = tmp_path / "other"
    shutil.copytree(whole[0], other)
    table = (other / "styles.csv").read_text()
    (other / "styles.csv").write_text(table.replace("Casual", "Everyday"))
    with pytest.raises(PackedSetError, match=r"full/00001\.tar: packing it again from this source gives other bytes"):
        repair(copy, other, verify(copy).damage, 1)
    (other / "styles.csv").write_text("\n".join(table.splitlines()[:15]) + "\n")
    with pytest.raises(PackedSetError, match=r"full/00001\.tar: .*other lacks its image \d+; is that its source\?"):
        repair(copy, other, verify(copy).damage, 1)
    assert digests(copy) == before


def test_other_library_versions_than_those_of_the_set_are_refused(
    whole: tuple[Path, Path], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copy / "96" / "00001.tar")
    flip(copy / "full" / "00001.tar")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    with pytest.raises(PackedSetError, match=r"96: packed with simplejpeg [\d.]+ \(here 99\.0\), pillow [\d.]+ \(here 99\.0\)"):
        repair(copy, whole[0], verify(copy).damage, 1)
    full = [found for found in verify(copy).damage if found.resolution == "full"]
    assert repair(copy, whole[0], full, 1) == ["full/00001.tar"]  # whose bytes no library made


def test_the_command_exits_with_1_on_damage_and_0_once_it_is_repaired(whole: tuple[Path, Path], copy: Path) -> None:
    fine = fastfashion("verify", "set", cwd=copy.parent)
    assert (fine.returncode, "every byte as packed" in fine.stderr) == (0, True)
    flip(copy / "96" / "00001.tar")
    hurt = fastfashion("verify", "set", "--json", cwd=copy.parent)
    assert hurt.returncode == 1
    assert "96/00001.tar" in hurt.stderr
    assert "fastfashion verify set --repair --source" in hurt.stderr
    assert [found["where"] for found in json.loads(hurt.stdout)["damage"]] == ["96/00001.tar"]
    repaired = fastfashion("verify", "set", "--repair", "--source", str(whole[0]), "--workers", "1", "--json", cwd=copy.parent)
    assert repaired.returncode == 0, repaired.stderr
    document = json.loads(repaired.stdout)
    assert (document["repaired"], document["damage"]) == (["96/00001.tar"], [])
    assert [found["where"] for found in document["damage_before"]] == ["96/00001.tar"]
    before, after = repaired.stderr.split("packed again: 96/00001.tar")
    assert "1 damaged\n  96/00001.tar: " in before and "every byte as packed" in after
    assert digests(copy) == digests(whole[1])
    nothing = fastfashion("verify", "nowhere", cwd=copy.parent)
    assert (nothing.returncode, "nowhere: no such folder" in nothing.stderr) == (2, True)
