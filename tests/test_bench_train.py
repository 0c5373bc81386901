"""The benchmark of training: what it says is consistent with its own record."""

import json
from pathlib import Path

import pytest
from conftest import PackedSmall

from fastfashion.errors import ConfigError
from train import BenchTrainRequest, bench, table_text

SETTINGS = {"model.name": "test_vit", "data.size": "32x32", "train.batch_size": 4, "data.workers": 1}


@pytest.mark.slow
def test_it_compares_the_loader_with_one_batch_and_says_what_a_checkpoint_costs(packed_small: PackedSmall, tmp_path: Path) -> None:
    out = tmp_path / "results" / "train.json"
    result = bench(BenchTrainRequest(shards=packed_small.out, settings=SETTINGS, steps=6, rounds=3, out=out))
    assert json.loads(out.read_text()) == result
    rates = {name: found["by_round"] for name, found in result["images_per_s"].items()}
    assert set(rates) == {"same batch", "loader", "checkpoint"} and all(len(found) == 3 and min(found) > 0 for found in rates.values())
    loader, same = rates["loader"], rates["same batch"]
    assert min(loader) / max(same) - 0.01 <= result["of_same_batch"]["median"] <= max(loader) / min(same) + 0.01
    assert result["checkpoint_stall_s"] > 0 and 0 <= result["checkpoint_share"] < 1
    text = table_text(result)
    assert f"{result['of_same_batch']['median']:.4f}" in text
    assert ("one every 10 minutes" in text) == (result["checkpoint_s"]["median"] > 0)


def test_more_steps_than_the_set_has_are_refused(packed_small: PackedSmall) -> None:
    with pytest.raises(ConfigError, match=r"--steps 1000: needs \d+ images .* the set has 41 training rows; choose fewer steps$"):
        bench(BenchTrainRequest(shards=packed_small.out, settings=SETTINGS, steps=1000))
    with pytest.raises(ConfigError, match="--steps: expected 4 or more, found 3"):
        BenchTrainRequest(shards=packed_small.out, steps=3)
