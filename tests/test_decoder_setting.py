"""data.decoder reaches the native code from every caller, and nothing but pixels within two grey levels depends on it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PackedSmall

import fastfashion as ff
from fastfashion.bench import BenchRequest
from fastfashion.errors import ConfigError
from fastfashion.load import Loader, crops
from fastfashion.predict import decode_worker
from fastfashion.shards import open_packed_set

pytestmark = pytest.mark.skipif(not crops.is_native(), reason="fastfashion.images._native was not built: it takes libjpeg-turbo's headers")
OWN_ARGUMENT = 12  # of _native.load_crops


class Recorded:
    """The native code, and which decoders were asked of it."""

    def __init__(self, native: Any) -> None:
        self._native, self.decoders = native, set[str]()

    def load_crops(self, *arguments: Any) -> None:
        self.decoders.add("own" if arguments[OWN_ARGUMENT] else "turbo")
        self._native.load_crops(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    recorded = Recorded(crops._native)
    monkeypatch.setattr(crops, "_native", recorded)
    return recorded.decoders


def one_epoch(packed: PackedSmall, **settings: Any) -> np.ndarray:
    """All images, by row, as the model sees them without augmentation."""
    with ff.loader(packed.out, split="all", task=None, size="80x64", workers=1, **settings) as loader:
        batches = list(loader)
    images = {row: image for batch in batches for row, image in zip(batch.rows.tolist(), batch.images.numpy(), strict=True) if row >= 0}
    return np.stack([images[row] for row in sorted(images)])


def load_threads(packed: PackedSmall, tmp_path: Path, decoder: str) -> None:
    one_epoch(packed, backend="threads", settings={"data.decoder": decoder})


def load_resident(packed: PackedSmall, tmp_path: Path, decoder: str) -> None:
    one_epoch(packed, backend="resident", settings={"data.decoder": decoder})


def preview(packed: PackedSmall, tmp_path: Path, decoder: str) -> None:
    ff.preview(packed.out, rows=2, out=tmp_path / "preview.png", settings={"data.decoder": decoder})


def bench_loader(packed: PackedSmall, tmp_path: Path, decoder: str) -> None:
    with closing(Loader(BenchRequest(shards=packed.out, batch_size=8, num_images=8, decoder=decoder).work().spec)) as loader:
        assert len(list(loader)) == 1


def predict(packed: PackedSmall, tmp_path: Path, decoder: str) -> None:
    encoded = [open_packed_set(packed.out).open("full").encoded(0).tobytes()]
    fit = {"mode": "squash", "crop_pct": 1.0, "pad_color": [0, 0, 0]}
    errors, pixels = decode_worker.work({"work": "fit", "size": (32, 24), "max_pixels": 10**6, "fit": fit, "decoder": decoder}, encoded)
    assert not errors and pixels.any()


@pytest.mark.parametrize("decoder", ["own", "turbo"])
@pytest.mark.parametrize("caller", [load_threads, load_resident, preview, bench_loader, predict])
def test_every_caller_decodes_with_the_one_that_is_set(
    caller: Callable[[PackedSmall, Path, str], None], decoder: str, packed_small: PackedSmall, tmp_path: Path, asked: set[str]
) -> None:
    caller(packed_small, tmp_path, decoder)
    assert asked == {decoder}


def test_own_is_the_default_and_its_pixels_are_within_two_grey_levels(packed_small: PackedSmall, asked: set[str]) -> None:
    own, turbo = (one_epoch(packed_small, backend="threads", **more) for more in ({}, {"settings": {"data.decoder": "turbo"}}))
    assert asked == {"own", "turbo"}
    assert (np.abs(own.astype(int) - turbo) <= 2).mean() >= 0.999


def test_an_unknown_decoder_is_refused(packed_small: PackedSmall) -> None:
    with pytest.raises(ConfigError, match=r"data\.decoder: expected own or turbo, found 'gpu'"):
        one_epoch(packed_small, settings={"data.decoder": "gpu"})


@pytest.mark.parametrize(("decoder", "times"), [("own", 0), ("turbo", 1)])
def test_the_command_of_a_record_names_another_decoder_once(decoder: str, times: int) -> None:
    assert BenchRequest(shards=Path("shards/small"), decoder=decoder).line().count("--decoder turbo") == times
