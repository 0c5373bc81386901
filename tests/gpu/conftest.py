"""Packed sets for the tests of this folder, which run on a CPU and, with the mark gpu, on a GPU."""

import time
from dataclasses import replace

import pytest

from fastfashion.dist import cores_per_process
from gpu_record import FULL, TINY, Check, Record
from gpu_sets import prepare

SET_UP_S = 1200  # an upper bound: nothing is left out for lack of time


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What to compare where: a few dozen small images on a CPU, 1800x2400 and all kinds of files on a GPU."""
    import torch

    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device here")
    home = tmp_path_factory.mktemp(f"gpu-{request.param}")
    scale = TINY if request.param == "cpu" else replace(FULL, draw_s=0, photos_a_core=1)
    places = {"out": home, "sets": home / "sets", "real_zip": None}
    check = Check(**places, device=request.param, scale=scale, threads=cores_per_process(1), with_dali=True, command="pytest")
    record = Record(path=home / "sets.json", check=check, stage="sets", ends_at=time.monotonic() + SET_UP_S)
    record.begin("the packed sets of the tests")
    prepare(record)
    assert record.values["failed"] == record.values["skipped"] == []
    return check
