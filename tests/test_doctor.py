"""fastfashion doctor: what it says of machines that are described to it, and of this one."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kaggle_server import Kaggle, client_environment, serve, write_certificate

from fastfashion.dist import cores_per_process
from fastfashion.doctor.doctor import Probe, Report, disk, machine, report_text
from fastfashion.doctor.judge import Finding, judge

NAMES = ["Python", "cores", "memory", "GPU", "driver, CUDA", "DALI", "CPU loader", "disk", "data", "Kaggle", "Hub"]


def healthy() -> dict[str, Any]:
    """A machine without a fault: what the probes find on one with an H100."""
    return {
        "machine": {
            "python": "3.12.9",
            "system": "Linux x86_64",
            "cores": 16,
            "all_cores": 16,
            "core_quota": None,
            "memory_bytes": 128 << 30,
            "available_bytes": 120 << 30,
        },
        "gpu": {
            "torch": "2.15.0",
            "torch_cuda": "12.9",
            "gpus": [{"name": "NVIDIA H100", "memory_bytes": 80 << 30, "capability": "9.0"}],
            "driver": "575.57",
            "driver_cuda": "12.9",
            "driver_gpus": ["NVIDIA H100"],
        },
        "dali": {"builds": {"nvidia-dali-cuda120": "2.4.0"}, "num_images": 64, "device": "cuda"},
        "threads": {"native": True, "decoder": "own", "num_images": 64, "device": "cuda"},
        "disk": {"free_bytes": 10**12, "write_bytes_per_s": 1e9, "read_bytes_per_s": 2e9},
        "data": {"sources": ["data/fashion-product-images-small.zip"], "packed": []},
        "kaggle": {"credentials": None, "num_bytes": 592_000_000},
        "hub": {"endpoint": "https://huggingface.co", "offline": False, "cached": False, "model": "timm/resnet18.a1_in1k"},
    }


def test_a_machine_without_a_fault_gets_no_advice() -> None:
    findings = judge(healthy())
    assert [finding.name for finding in findings] == NAMES
    assert {finding.state for finding in findings} == {"ok"} and not any(finding.advice for finding in findings)
    text = report_text(Report(findings=findings, facts={}))
    assert "NVIDIA H100 (85.9 GB, sm 9.0)" in text and text.endswith("everything works here")


NO_GPU = {"gpu.gpus": [], "gpu.driver": None, "gpu.driver_cuda": None, "gpu.driver_gpus": [], "dali.device": "cpu"}
UNSEEN = {"gpu.gpus": []}
TWO_BUILDS = {"nvidia-dali-cuda120": "2.4.0", "nvidia-dali-cuda130": "2.4.0"}


@pytest.mark.parametrize(
    ("changes", "name", "state", "words"),
    [
        (NO_GPU, "GPU", "note", "on the CPU"),
        (NO_GPU, "DALI", "ok", "images on the CPU"),
        (UNSEEN, "GPU", "broken", "CUDA_VISIBLE_DEVICES"),
        (UNSEEN | {"gpu.torch_cuda": None}, "GPU", "broken", "built for CPUs: install one"),
        (UNSEEN | {"gpu.torch_cuda": "13.0"}, "GPU", "broken", "install a torch for CUDA 12"),
        ({"gpu.error": "no kernel image is available"}, "GPU", "broken", "no kernel image"),
        ({"gpu": {"error": "ImportError: libcudart"}}, "GPU", "broken", "libcudart"),
        ({"gpu": {"error": "no answer within 300 s", "late": True}}, "GPU", "gap", "when it is idle"),
        ({"gpu.torch_cuda": "13.0", "gpu.driver_cuda": "13.0"}, "DALI", "ok", "goes together"),
        ({"dali.builds": {"nvidia-dali-cuda130": "2.4.0"}}, "DALI", "broken", "pip install nvidia-dali-cuda120"),
        ({"dali.builds": TWO_BUILDS}, "DALI", "broken", "pip uninstall -y nvidia-dali-cuda120 nvidia-dali-cuda130"),
        ({"dali.builds": {}}, "DALI", "broken", "pip install 'fastfashion[cuda12]', or load with"),
        ({"dali.builds": {}, "gpu.driver_cuda": "13.0"}, "DALI", "broken", "pip install 'fastfashion[cuda13]', or load with"),
        (NO_GPU | {"dali.builds": {}}, "DALI", "gap", "data.backend=threads"),
        ({"dali.error": "nvImageCodec failure"}, "DALI", "broken", "nvImageCodec"),
        (NO_GPU | {"dali.error": "its process ended with status -11: "}, "DALI", "gap", "data.backend=threads"),
        ({}, "CPU loader", "ok", "decoded by a decoder of its own"),
        ({"threads.native": False}, "CPU loader", "gap", "apt install gcc libjpeg-dev"),
        ({"threads.error": "OSError: x"}, "CPU loader", "broken", "OSError: x"),
        ({"machine.python": "3.11.7"}, "Python", "note", "fastfashion train --nproc 4"),
        ({"machine.python": "3.13.0"}, "Python", "note", "gh-58573"),
        ({"machine.python": "3.13.1"}, "Python", "ok", "3.13.1"),
        ({"machine.python": "3.15.0rc1"}, "Python", "ok", "3.15.0rc1"),
        ({"machine.core_quota": 2.5}, "cores", "gap", "--workers 2"),
        ({"machine.available_bytes": 2 << 30}, "memory", "gap", "--batch-size"),
        ({"disk.free_bytes": 10**8, "disk.write_bytes_per_s": None, "disk.read_bytes_per_s": None}, "disk", "gap", "--out"),
        ({"disk.read_bytes_per_s": 1e7}, "disk", "gap", "faster disk"),
        ({"disk.error": "x: Read-only file system"}, "disk", "gap", "Read-only file system"),
        ({"data.sources": []}, "data", "note", "fastfashion download small"),
        ({"kaggle.error": "Kaggle does not give x\n  make a token at y", "data.sources": []}, "Kaggle", "gap", "make a token at y"),
        ({"kaggle.error": "ConnectionError: x"}, "Kaggle", "note", "HTTPS_PROXY"),
        ({"kaggle.credentials": "the API key from ~/.kaggle/kaggle.json"}, "Kaggle", "ok", "592 MB; the API key from"),
        ({"hub.error": "ConnectError"}, "Hub", "gap", "--weights FILE"),
        ({"hub.error": "ConnectError", "hub.cached": True}, "Hub", "note", "here already"),
        ({"hub.offline": True}, "Hub", "gap", "HF_HUB_OFFLINE"),
    ],
)
def test_each_gap_is_judged_by_what_it_costs_and_says_what_to_do(changes: dict[str, Any], name: str, state: str, words: str) -> None:
    facts = healthy()
    for path, value in changes.items():
        probe, _, key = path.partition(".")
        if key:
            facts[probe][key] = value
        else:
            facts[probe] = value
    findings = {finding.name: finding for finding in judge(facts)}
    finding = findings[name]
    assert finding.state == state, finding
    assert words in f"{finding.found} {finding.advice}"
    assert (finding.advice is None) == (state == "ok") or (name, state) == ("Hub", "note")
    assert list(findings) == NAMES
    report = Report(findings=list(findings.values()), facts=facts)
    assert report.works == all(finding.state != "broken" for finding in report.findings)
    assert "must be fixed" in report_text(report) or report.works


def test_the_machine_and_its_disk_are_measured(tmp_path: Path) -> None:
    found = machine()
    assert found["cores"] == cores_per_process(1) <= found["all_cores"]
    assert 0 < found["available_bytes"] <= found["memory_bytes"]
    measured = disk(tmp_path)
    assert measured["free_bytes"] > 0 and list(tmp_path.iterdir()) == []
    if measured["free_bytes"] > 1 << 30:
        assert measured["write_bytes_per_s"] > 0 and measured["read_bytes_per_s"] > 0
    assert "No such file" in disk(tmp_path / "nowhere")["error"]


def test_a_probe_that_dies_or_hangs_ends_alone() -> None:
    dies, hangs = Probe("nonsense"), Probe("gpu")
    assert hangs.collect(0.01)["gpu"] == {"error": "no answer within 0 s", "late": True}
    found = dies.collect(60)["nonsense"]
    assert "status 1" in found["error"] and "KeyError" in found["error"] and not found["late"]


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        known = self.path == "/api/models/timm/resnet18.a1_in1k"
        answer = json.dumps({"id": "timm/resnet18.a1_in1k"} if known else {"error": "Repository not found"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[tuple[Kaggle, dict[str, str]]]:
    """Kaggle and the Hub on loopback, and the environment that leads there."""
    certificate, kaggle = write_certificate(tmp_path), Kaggle(archive=b"x" * 123_000_000)
    servers = [serve(kaggle, certificate), ThreadingHTTPServer(("127.0.0.1", 0), Hub)]
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    environment = client_environment(tmp_path / "home", servers[0].server_address[1], certificate)
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{servers[1].server_address[1]}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"),
    }
    yield kaggle, environment
    for server in servers:
        server.shutdown()
        server.server_close()


def doctor(cwd: Path, environment: dict[str, str]) -> tuple[int, str, dict[str, Any]]:
    command = [sys.executable, "-m", "fastfashion", "doctor", "--json"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr, json.loads(done.stdout)


def test_this_machine_is_described_as_it_is(network: tuple[Kaggle, dict[str, str]], tmp_path: Path) -> None:
    _, environment = network
    (tmp_path / "here").mkdir()
    status, text, report = doctor(tmp_path / "here", environment)
    findings = {finding["name"]: Finding(**finding) for finding in report["findings"]}
    assert list(findings) == NAMES and all(name in text for name in NAMES)
    assert report["works"] == (status == 0) and status in (0, 1)
    assert findings["Kaggle"].state == "ok" and "123 MB; no credentials" in findings["Kaggle"].found
    assert findings["Hub"].state == "ok" and "not here yet" in findings["Hub"].found
    assert findings["data"].state == "note"
    assert findings["CPU loader"].state in ("ok", "gap") and report["facts"]["threads"]["num_images"] == 64
    if not report["facts"]["gpu"]["gpus"]:
        assert status == 0, text
    assert list((tmp_path / "here").iterdir()) == []


def test_what_cannot_be_reached_is_said_with_the_reason(network: tuple[Kaggle, dict[str, str]], tmp_path: Path) -> None:
    kaggle, environment = network
    kaggle.accepts = ("nobody",)
    probes = [sys.executable, "-m", "fastfashion.doctor.probe", "kaggle", "hub"]
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "KAGGLE_API_TOKEN": "KGAT_bad"}
    done = subprocess.run(probes, env=environment, capture_output=True, text=True, check=True, timeout=120)
    found = {line.pop("name"): line for line in map(json.loads, done.stdout.splitlines())}
    assert found["kaggle"]["credentials"] == "the access token from $KAGGLE_API_TOKEN"
    assert "HTTP 401" in found["kaggle"]["error"] and "KGAT_bad" not in done.stdout
    assert "refused" in found["hub"]["error"] and not found["hub"]["cached"]
