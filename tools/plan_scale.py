"""What planning and publishing cost as a set grows: python tools/plan_scale.py 100000 1000000

Writes a zip of ROWS one-byte members with a table of as many rows, and plans it as `fastfashion shard` does; then publishes ROWS records of
made-up images (random fingerprints), as at the end of a run. No image is decoded. Each size runs in a process of its own; prints a
JSON line each with seconds and the peak of its memory.
"""

import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

TABLE = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
ROWS_PER_SHARD = 1000


def write_zip(path: Path, rows: int) -> None:
    """A zip64 with styles.csv and images/<id>.jpg of one byte each, by hand: zipfile would need as much memory as what is measured."""
    with path.open("wb") as file:
        directory: list[tuple[bytes, int, int, int]] = []

        def member(name: bytes, data: bytes) -> None:
            directory.append((name, file.tell(), len(data), zlib.crc32(data)))
            head = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0x21, directory[-1][3], len(data), len(data), len(name), 0)
            file.write(head + name + data)

        lines = (f"{10_000_000 + n},Men,Apparel,Topwear,Tshirts,Blue,Summer,2012,Casual,A shirt with the number {n}" for n in range(rows))
        member(b"styles.csv", "\n".join([TABLE, *lines]).encode())
        for number in range(rows):
            member(f"images/{10_000_000 + number}.jpg".encode(), b"x")
        start = file.tell()
        for name, offset, size, crc in directory:
            extra = struct.pack("<2HQ", 1, 8, offset)
            fields = (45, 45, 0, 0, 0, 0x21, crc, size, size, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)
            file.write(struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name + extra)
        end = file.tell()
        count = len(directory)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - start, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def measure(archive: Path, rows: int) -> dict[str, float | int]:
    """Plan the archive and publish as many made-up records, with the packer's own code."""
    import pyarrow as pa

    from fastfashion.pack.packer import commit
    from fastfashion.pack.plan import make_plan
    from fastfashion.pack.request import PackRequest
    from fastfashion.pack.staging import IMAGES, KEPT, BlockRecord, Staging
    from fastfashion.shards.layout import ShardEntry

    started = time.perf_counter()
    request = PackRequest(source=archive, out=archive.parent / "out", resolutions=("full",), rows_per_shard=ROWS_PER_SHARD)
    plan = make_plan(request)
    planned = time.perf_counter()
    plan_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    staging = Staging(request.out, ("full",))
    staging.prepare({})
    numbers = np.random.default_rng(0)
    fingerprint_bytes = 57
    records = []
    for number in range(len(plan)):
        ids = [identity for identity, _, _ in plan.block(number).samples]
        digits = numbers.bytes(fingerprint_bytes * len(ids)).hex()
        size = 2 * fingerprint_bytes
        same = [100] * len(ids)
        kept = {"id": ids, "height": same, "width": same, "fingerprint": [digits[at : at + size] for at in range(0, len(digits), size)]}
        images = dict.fromkeys(("offset", "size", "height", "width", "crc32", "kind"), same)
        entry = ShardEntry(number=number, num_rows=len(ids), num_bytes=1, sha256="0" * 64, idx_sha256="0" * 64)
        records.append(
            BlockRecord(
                number=number,
                kept=pa.table(kept, schema=KEPT),
                images={"full": pa.table(images, schema=IMAGES)},
                rejected=[],
                shards={"full": entry},
            )
        )
    recorded = time.perf_counter()
    commit(request, staging, plan.styles, records, [])
    return {
        "rows": rows,
        "blocks": len(plan),
        "plan_s": round(planned - started, 1),
        "plan_peak_mb": plan_peak // 1024,
        "blocks_s": round(recorded - planned, 1),
        "publish_s": round(time.perf_counter() - recorded, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    for rows in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "set.zip"
            write_zip(archive, rows)
            subprocess.run([sys.executable, __file__, "--measure", str(archive), str(rows)], check=True)


if __name__ == "__main__":
    main()
