"""Two hosts: network namespaces of this machine, joined by a cable that is cut in mid-training."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PackedSmall
from test_faults import BASE, checkpoints_of, lines_of, status_of, wait_for

pytestmark = pytest.mark.dist

ADDRESSES = {"ff-one": "10.77.0.1", "ff-two": "10.77.0.2"}
CABLE = "ffcable"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    try:
        for name in ADDRESSES:
            ip("netns", "add", name)
        ip("link", "add", f"{CABLE}1", "netns", "ff-one", "type", "veth", "peer", "name", f"{CABLE}1", "netns", "ff-two")
        for name, address in ADDRESSES.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"{CABLE}1")
            for device in ("lo", f"{CABLE}1"):
                ip("-n", name, "link", "set", device, "up")
        yield
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here (root and iproute2 make them): {error}")
    finally:
        for name in ADDRESSES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def test_a_host_that_is_cut_off_leaves_the_other_to_go_on_alone(hosts: None, packed_small: PackedSmall, tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in (BASE | {"train.timeout_s": 4, "train.epochs": 30}).items()]
    run = tmp_path / "run"
    train = ["-m", "fastfashion.train", str(packed_small.out), *settings, "--runs", str(tmp_path), "--name", "run"]
    agents, logs = {}, {}
    for name, address in ADDRESSES.items():
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3"]
        torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400", "--rdzv-id=two", f"--local-addr={address}"]
        is_host = str(name == "ff-one").lower()  # by itself torchrun asks for the address of the machine's name
        torchrun += [f"--rdzv-conf=is_host={is_host},last_call_timeout=3,keep_alive_interval=1"]
        command = ["ip", "netns", "exec", name, *torchrun]
        logs[name] = tmp_path / f"{name}.txt"
        with logs[name].open("w") as log:
            environment = os.environ | {"GLOO_SOCKET_IFNAME": f"{CABLE}1", "OMP_NUM_THREADS": "1"}
            agents[name] = subprocess.Popen([*command, *train], stderr=log, env=environment, start_new_session=True)
    try:
        wait_for(lambda: (run / "metrics.jsonl").is_file() and [line["processes"] for line in lines_of(run, "start")] == [2])
        wait_for(lambda: len(checkpoints_of(run)) > 1)
        ip("-n", "ff-two", "link", "set", f"{CABLE}1", "down")
        cut_at = time.monotonic()
        assert agents["ff-one"].wait(120) == 0, logs["ff-one"].read_text()
        print(f"{time.monotonic() - cut_at:.0f} s from the cut to the end")
    finally:
        for agent in agents.values():
            subprocess.run(["pkill", "-KILL", "-s", str(agent.pid)], check=False)
            agent.wait()
    told = "".join(log.read_text() for log in logs.values())
    assert "another process of this run did not answer in time" in told or "has ended" in told
    assert [line["processes"] for line in lines_of(run, "start")][-1] == 1
    assert status_of(run)["state"] == "finished"
    steps, epochs = lines_of(run, "step"), lines_of(run, "epoch")
    assert [line["epoch"] for line in epochs] == list(range(30))
    done = [line["step"] for line in steps]
    assert done == sorted(set(done))
    rows = [sum(line["rows"] for line in steps if line["epoch"] == epoch) for epoch in range(30)]
    hashes = [sum(int(line["rows_hash"], 16) for line in steps if line["epoch"] == epoch) % 2**64 for epoch in range(30)]
    assert len(set(rows)) == 1 and len(set(hashes)) == 1  # none lost, none doubled, in no epoch
