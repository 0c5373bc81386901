"""Packing on a Ray cluster of two nodes on this machine, one of which is killed while it packs."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import digests, make_source
from workers import fastfashion

from fastfashion.errors import ConfigError
from fastfashion.pack import PackRequest, pack

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install 'fastfashion[ray]'")

HOME = Path(__file__).parents[1]
ROWS_PER_SHARD = 20
CHILD = """
import sys
from pathlib import Path
from fastfashion.pack import PackRequest, pack

source, out, address = sys.argv[1:4]
request = PackRequest(
    source=Path(source), out=Path(out), resolutions=("full", "64"), rows_per_shard=20, engine="ray", address=address
)
print(pack(request).packed_now)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("ray") / "set", rows=800, width_px=300, height_px=400)


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, str]:
    """Digests of what the local engine makes."""
    out = source.parent / "whole"
    pack(PackRequest(source=source, out=out, resolutions=("full", "64"), rows_per_shard=ROWS_PER_SHARD))
    return digests(out)


@pytest.fixture
def cluster() -> Iterator["object"]:
    """A head node that runs no tasks."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield started
    started.shutdown()


def test_a_node_killed_while_it_packs_costs_no_byte(source: Path, whole: dict[str, str], cluster: "object", tmp_path: Path) -> None:
    first, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    cluster.wait_for_nodes()  # type: ignore[attr-defined]
    out = tmp_path / "out"
    (tmp_path / "child.py").write_text(CHILD)
    command = [sys.executable, str(tmp_path / "child.py"), str(source), str(out), cluster.address]  # type: ignore[attr-defined]
    packing = subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while len(list((out / ".staging" / "blocks").glob("*.json"))) < 3:
            assert packing.poll() is None, packing.communicate()[1]
            assert time.monotonic() < deadline, "nothing was packed in two minutes"
            time.sleep(0.005)
        cluster.remove_node(first, allow_graceful=False)  # type: ignore[attr-defined]
        assert not out.joinpath("full").exists(), "the run was over before a node was killed"
        said, errors = packing.communicate(timeout=180)
    finally:
        packing.kill()
    assert packing.returncode == 0, errors
    assert said.splitlines()[-1] == "800"  # the rest is what Ray says of the node it lost
    assert digests(out) == whole


def test_without_a_cluster_at_the_address_it_says_how_to_start_one(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--address 127\.0\.0\.1:1: no Ray cluster answers.*ray start --head"):
        pack(PackRequest(source=source, out=tmp_path / "out", engine="ray", address="127.0.0.1:1"))


HEAD = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
TOKEN = "0123456789abcdef" * 3


@pytest.fixture
def closed_cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster that wants a token, in a process of its own."""
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as head:
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        head.communicate()


def test_a_cluster_that_wants_a_token_says_so_and_how_to_give_it(closed_cluster: str, tmp_path: Path) -> None:
    small = make_source(tmp_path / "set", rows=6)
    options = ["--source", small, "--out", tmp_path / "out", "--res", "16", "--engine", "ray", "--address", closed_cluster]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    wrong = bare | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 48}
    without = bare | {"RAY_AUTH_MODE": "token"}
    for environment, reason in (
        (bare, "this process has none. Set"),
        (wrong, "this process has none, or a wrong one. Set"),
        (without, "this process has none, or a wrong one. Set"),
    ):
        done = fastfashion("shard", *options, cwd=HOME, env=environment, timeout_s=120)
        assert done.returncode == 2, done.stderr
        assert f"--address {closed_cluster}: the Ray cluster refuses: it requires a token, and {reason}" in done.stderr
        assert "RAY_AUTH_MODE=token" in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr
        assert done.stderr.count("Failed to get cluster ID") <= 1, "it was tried for long"
    right = bare | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    done = fastfashion("shard", *options, cwd=HOME, env=right, timeout_s=120)
    assert done.returncode == 0, done.stderr
