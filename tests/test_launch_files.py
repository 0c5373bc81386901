"""The launch files of tools/: linted, and run dry with stand-ins for the cluster's own commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOOLS = Path(__file__).parents[1] / "tools"
SBATCH, JOB = TOOLS / "slurm/train.sbatch", TOOLS / "kubernetes/train.yaml"
# In place of torchrun: its own parser, and then fastfashion's, read what they would be given.
TORCHRUN = f"""#!{sys.executable}
import sys
sys.argv[0] = "torchrun"
from torch.distributed.run import parse_args
found = parse_args(sys.argv[1:])
assert found.module and found.training_script == "fastfashion.train", found
assert found.max_restarts == 3 and found.rdzv_backend == "c10d" and found.rdzv_endpoint.endswith(":29400")
import typer
from fastfashion.command_line import command
from fastfashion.train.__main__ import EXAMPLE, TrainRequest, train
app = typer.Typer()
command(app, TrainRequest, "train", EXAMPLE)(train)
typer.main.get_command(app).make_context("train", found.training_script_args)
print("nodes", found.nnodes, "each", found.nproc_per_node, "id", found.rdzv_id, flush=True)
"""
SRUN = '#!/usr/bin/env bash\nexec "$@"\n'
SCONTROL = '#!/usr/bin/env bash\n[ "$1" = show ] && { echo node-a; echo node-b; } || echo "scontrol $*"\n'


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment as Slurm makes it, with stand-ins for its commands first on the path."""
    for name, text in (("torchrun", TORCHRUN), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    known = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_GPUS_PER_NODE": "4"}
    return os.environ | known | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OUT": str(tmp_path)}


def test_the_slurm_script_is_clean() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck: apt install shellcheck")
    done = subprocess.run(["shellcheck", str(SBATCH)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("state", "requeued"), [("interrupted", True), ("finished", False)])
def test_the_slurm_script_starts_torchrun_and_requeues_what_was_interrupted(
    state: str, requeued: bool, cluster: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/status.json").write_text(json.dumps({"state": state}, indent=2))
    done = subprocess.run(["bash", str(SBATCH)], env=cluster, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "nodes 2 each 4 id 77" in done.stdout
    assert ("scontrol requeue 77" in done.stdout) == requeued


def test_the_slurm_script_hands_its_signal_on_and_waits(cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin/srun").write_text(
        "#!/usr/bin/env bash\n"
        'trap \'mkdir -p $OUT/slurm; sleep 0.3; echo "{\\"state\\": \\"interrupted\\"}" > $OUT/slurm/status.json; exit 143\' TERM\n'
        "echo started\nwhile :; do sleep 0.05; done\n"
    )
    process = subprocess.Popen(["bash", str(SBATCH)], env=cluster, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(10)  # USR1
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "scontrol requeue 77" in rest


def test_the_kubernetes_job_is_valid_and_starts_torchrun(cluster: dict[str, str]) -> None:
    service, job = yaml.safe_load_all(JOB.read_text())
    checker = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: pip install 'fastfashion[dev]'")
    for each in (service, job):
        checker.validate(each, checker.latest_version(), strict=True)
    pod = job["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    endpoint = f"--rdzv-endpoint={job['metadata']['name']}-0.{service['metadata']['name']}:29400"
    assert endpoint in container["command"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    done = subprocess.run(container["command"], env=cluster, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "nodes 1:2 each gpu" in done.stdout


def test_the_stand_in_would_notice_a_wrong_option(cluster: dict[str, str]) -> None:
    given = ["torchrun", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=a:29400", "-m", "fastfashion.train", "--tusk=season"]
    done = subprocess.run(given, env=cluster, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "--tusk" in done.stderr
