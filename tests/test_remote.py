"""Packing from and to object storage: a real S3-compatible server on loopback, spoken to as any other."""

from pathlib import Path
from typing import Any

import pytest
from conftest import PackedSmall, S3Server, digests, zip_folder
from workers import fastfashion

import fastfashion as ff
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import location
from fastfashion.pack import PackProgress, PackRequest, pack
from fastfashion.pack.repair import repair
from fastfashion.shards import open_packed_set
from fastfashion.shards.verify import verify
from fastfashion.sources.source import list_source


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
        pack(request(packed_small.source, out), PackProgress(on_packed=stop))
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
    done = fastfashion("shard", "--source", archive, "--out", "s3://shop/cli/out", "--res", "32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "s3://shop/cli/out: 60 of 60 rows packed" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "set.zip"]
    missing = fastfashion("shard", "--source", "s3://shop/nothing.zip", cwd=tmp_path)
    assert missing.returncode == 2
    assert "s3://shop/nothing.zip: no such file" in missing.stderr


def test_a_scheme_that_nothing_here_speaks_is_refused(tmp_path: Path) -> None:
    done = fastfashion("shard", "--source", "ftpx://host/set.zip", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "ftpx://host/set.zip" in done.stderr
    assert "Traceback" not in done.stderr


def put_empty(url: str) -> None:
    """An object of no bytes, as storage consoles make in place of a folder; pathlib would drop the slash at its end."""
    import boto3

    bucket, _, key = url.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"")


def test_empty_objects_that_stand_for_folders_are_passed_over(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    out, source = location("s3://shop/made/out"), put(packed_small.source, "s3://shop/made/source")
    for name in (*("out/", "out/full/", "out/other/", "out/32"), *("source/", "source/images/", "source/images", "source/empty/")):
        put_empty(f"s3://shop/made/{name}")
    assert pack(request(source, out)).kept == 60
    for name in ("out/", "out/full/", "out/32/", "out/64/", "out/32", "out/full_$folder$", "out", "source"):
        put_empty(f"s3://shop/made/{name}")
    assert verify(out).damage == ()
    assert open_packed_set(out).resolutions == ("32", "full")
    assert pack(request(source, out)).packed_now == 0
    assert list_source(source).files.keys() == {f.relative_to(packed_small.source).as_posix() for f in files_of(packed_small.source)}
    (out / "full" / "more.txt").write_bytes(b"")  # an empty file stays what it is
    assert [found.where for found in verify(out).damage] == ["full/more.txt"]


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_what_another_client_packs_between_two_calls_is_seen_and_kept(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    out = location("s3://shop/between")
    assert ff.shard(packed_small.source, str(out), res="full", workers=1).packed_now == 60
    assert not (out / "32").exists()  # so that this process has a listing to be wrong about
    done = fastfashion("shard", "--source", packed_small.source, "--out", out, "--res", "32", "--quality", "60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = remote_digests(str(out), tmp_path / "before")
    # what a process knows after it listed the folder as it was
    stale: Any = location(str(out))
    stale.fs.dircache.clear()
    stale.fs.dircache[stale.path] = [entry for entry in stale.fs.ls(stale.path, detail=True) if not entry["name"].endswith("/32")]
    assert [Path(entry["name"]).name for entry in stale.fs.ls(stale.path, detail=True) if entry["type"] == "directory"] == ["full"]
    with pytest.raises(PackedSetError, match=r"s3://shop/between/32: packed with other settings or .*quality 60 \(here 90\)"):
        ff.shard(packed_small.source, str(out), res=["full", 32], workers=1)
    assert remote_digests(str(out), tmp_path / "after") == before
    assert ff.shard(packed_small.source, str(out), res=["full", 32], quality=60, workers=1).packed_now == 0


def test_an_empty_path_segment_is_refused_before_anything_is_uploaded(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    done = fastfashion("shard", "--source", packed_small.source, "--out", "s3://shop//slashes", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())  # out of the box that the command line draws
    assert "s3://shop//slashes: an empty path segment; write it with one slash" in said
    assert not location("s3://shop/slashes").exists()


def test_a_source_in_a_bucket_that_is_not_there_says_so(s3: S3Server, packed_small: PackedSmall, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket/set: no such file or folder"):
        pack(request(location("s3://no-such-bucket/set"), tmp_path / "out"))
