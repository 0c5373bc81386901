"""Packing from and to object storage: a real S3-compatible server on loopback, spoken to as any other."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import PackedSmall, S3Server, digests, zip_folder

from fastfashion.errors import PackedSetError
from fastfashion.files import location
from fastfashion.pack import PackRequest, Progress, pack
from fastfashion.pack.repair import repair
from fastfashion.shards import open_packed_set
from fastfashion.shards.verify import verify


def remote_digests(url: str, tmp_path: Path) -> dict[str, str]:
    """sha256 of every object below a URL, fetched with s3fs alone."""
    folder: Any = location(url)
    folder.fs.invalidate_cache()
    folder.fs.get(folder.path, str(tmp_path / "fetched"), recursive=True)
    return digests(tmp_path / "fetched")


def request(source: Path, out: Path, **more: Any) -> PackRequest:
    return PackRequest(source=source, out=out, resolutions=("full", "32"), rows_per_shard=25, **more)


def put(file: Path, url: str) -> Path:
    target: Any = location(url)
    target.fs.put(str(file), target.path, recursive=file.is_dir())
    return target


@pytest.mark.parametrize("workers", [1, 2])
def test_a_zip_on_s3_packed_to_s3_has_the_bytes_of_a_local_set(
    s3: S3Server, packed_small: PackedSmall, workers: int, tmp_path: Path
) -> None:
    archive = put(zip_folder(packed_small.source, tmp_path / "set.zip"), f"s3://shop/in{workers}/set.zip")
    out = location(f"s3://shop/out{workers}")
    summary = pack(request(archive, out, workers=workers))
    assert (summary.kept, summary.packed_now) == (60, 60)
    assert remote_digests(str(out), tmp_path) == digests(packed_small.out)
    assert pack(request(archive, out)).packed_now == 0
    assert verify(out).damage == ()


def test_a_folder_on_s3_is_a_source_too(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    pack(request(put(packed_small.source, "s3://shop/folder"), tmp_path / "out"))
    assert digests(tmp_path / "out") == digests(packed_small.out)


def test_an_interrupted_upload_is_no_set_until_the_manifest_is_there_and_is_gone_on_with(
    s3: S3Server, packed_small: PackedSmall, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(*sums: int) -> None:
        raise Stop

    out = location("s3://shop/stopped")
    with pytest.raises(Stop):
        pack(request(packed_small.source, out), Progress(on_packed=stop))
    assert (out / "full" / "00000.tar").exists()
    assert not (out / "full" / "manifest.json").exists()
    with pytest.raises(PackedSetError, match="s3://shop/stopped"):
        open_packed_set(out)
    summary = pack(request(packed_small.source, out))
    assert (summary.resumed, summary.packed_now) == (25, 35)
    assert remote_digests(str(out), tmp_path) == digests(packed_small.out)


def test_a_flipped_bit_on_s3_is_found_and_repaired(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    out = put(packed_small.out, "s3://shop/hurt")
    data = bytearray((out / "32" / "00001.tar").read_bytes())
    data[3000] ^= 4
    (out / "32" / "00001.tar").write_bytes(bytes(data))
    [found] = verify(out).damage
    assert (found.where, found.resolution, found.shard) == ("32/00001.tar", "32", 1)
    assert repair(out, packed_small.source, [found], workers=1) == ["32/00001.tar"]
    assert verify(out).damage == ()
    assert remote_digests(str(out), tmp_path) == digests(packed_small.out)


def test_the_command_line_takes_addresses(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    archive = put(zip_folder(packed_small.source, tmp_path / "set.zip"), "s3://shop/cli/set.zip")
    command = [sys.executable, "-m", "fastfashion", "shard", "--source", str(archive), "--out", "s3://shop/cli/out", "--res", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "s3://shop/cli/out: 60 of 60 rows packed" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "set.zip"]
    missing = subprocess.run([*command[:5], "s3://shop/nothing.zip"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "s3://shop/nothing.zip: no such file" in missing.stderr


def test_a_scheme_that_nothing_here_speaks_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastfashion", "shard", "--source", "ftpx://host/set.zip", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ftpx://host/set.zip" in done.stderr
    assert "Traceback" not in done.stderr
