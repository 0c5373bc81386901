"""Load on a page that `fastfashion serve` shows: so many clients, each asking again as soon as it is answered.

    fastfashion serve runs/NAME --port 7860 &
    python tools/serve_load.py http://127.0.0.1:7860/ picture.jpg --clients 50 --seconds 60 --out bench/results/serve.json

Says how many requests were answered, turned away (503, asked again) or lost, how long answers took, and, where the server is a
process of this machine (--pid), what memory it had over time: flat means that the second half needed no more than the first.
"""

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fastfashion.provenance import git_commit, machine_info, package_versions

TIMEOUT_S = 60
WAIT_S = 0.25  # of a client that was turned away


@dataclass
class Tally:
    """What the clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    turned_away: int = 0
    lost: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def client(url: str, picture: bytes, until: float, tally: Tally) -> None:
    """One visitor with one connection."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_S)
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            connection.request("POST", "/api/answer?top=1", picture)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            with tally.lock:
                tally.lost.append(repr(error))
            connection.close()
            continue
        with tally.lock:
            if response.status == 200:
                tally.milliseconds.append(1000 * (time.monotonic() - started))
                tally.answers.add(json.dumps(json.loads(body)["answers"]))
            elif response.status == 503:
                tally.turned_away += 1
            else:
                tally.lost.append(f"{response.status}: {body[:200].decode(errors='replace')}")
        if response.status == 503:
            time.sleep(WAIT_S)


def memory_mb(pid: int) -> float:
    """Resident memory of a process of this machine."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"error: process {pid} has no memory to show: has the server ended?")


def run(options: argparse.Namespace) -> dict[str, object]:
    picture, tally = options.picture.read_bytes(), Tally()
    started = time.monotonic()
    until = started + options.seconds
    clients = [threading.Thread(target=client, args=(options.url, picture, until, tally)) for _ in range(options.clients)]
    for one in clients:
        one.start()
    memory = []
    while options.pid and time.monotonic() < until:
        memory.append(round(memory_mb(options.pid), 1))
        time.sleep(1)
    for one in clients:
        one.join()
    seconds = time.monotonic() - started
    times = sorted(tally.milliseconds)
    if not times:
        raise SystemExit(f"error: {options.url} answered nothing: {tally.lost[:1]}")
    half = len(memory) // 2
    return {
        "clients": options.clients,
        "seconds": round(seconds, 1),
        "answered": len(times),
        "answers_per_s": round(len(times) / seconds, 1),
        "turned_away": tally.turned_away,
        "lost": len(tally.lost),
        "first_lost": tally.lost[:3],
        "different_answers": len(tally.answers),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
        "longest_ms": round(times[-1], 1),
        "memory_mb": {
            "first": memory[:1],
            "first_half_max": max(memory[:half], default=None),
            "second_half_max": max(memory[half:], default=None),
        },
        "command": " ".join(["python", *sys.argv]),
        "commit": git_commit(),
        "machine": machine_info(),
        "versions": package_versions(["fastfashion", "torch", "timm", "gradio"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the page")
    parser.add_argument("picture", type=Path, help="what everyone asks about")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pid", type=int, default=0, help="process of the server, to watch its memory")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    options = parser.parse_args()
    result = run(options)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if result["lost"] or result["different_answers"] != 1 else 0)


if __name__ == "__main__":
    main()
