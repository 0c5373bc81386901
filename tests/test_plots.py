import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from fastfashion.evaluate.plots import plot_confusion, plot_per_class, plot_reliability, plot_training

SIZES = [2, 45, 143]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def assert_readable(path: Path, folder: Path) -> None:
    """An image of sane size that is neither blank nor accompanied by left-overs."""
    assert [file.name for file in folder.iterdir()] == [path.name]
    image = pixels(path)
    height_px, width_px = image.shape[:2]
    assert 200 <= height_px <= 4000
    assert 300 <= width_px <= 4000
    assert len(np.unique(image[::2, ::2] @ np.array([65536, 256, 1]))) > 10
    assert (image[[0, -1]] == 255).all() and (image[:, [0, -1]] == 255).all(), "ink touches the edge: something is cut off"


def names_of(num_classes: int) -> list[str]:
    return [f"Loungewear and Nightwear {i}" if i % 9 == 0 else f"Class {i}" for i in range(num_classes)]


def confusion_of(num_classes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.diag(rng.integers(1, 15_000, num_classes)) + rng.binomial(3, 0.05, (num_classes, num_classes))


def scores_of(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(num_classes), rng.integers(1, 15_000, num_classes)


def history_of(num_epochs: int, tasks: Sequence[str], num_steps: int = 20, scale: float = 1.0) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(num_steps * max(num_epochs, 1)):
        epoch = step // num_steps
        lines.append({"kind": "step", "step": step, "epoch": epoch, "loss": scale / (1 + step), "lr": 1e-3})
        if num_epochs and step % num_steps == num_steps - 1:
            scores = {"accuracy": 1 - 0.5 / (2 + epoch), "macro_f1": 1 - 0.9 / (2 + epoch), "loss": scale / (2 + epoch)}
            lines.append({"kind": "epoch", "epoch": epoch, "step": step, "val": dict.fromkeys(tasks, scores)})
    return lines


@pytest.mark.parametrize("num_classes", SIZES)
def test_confusion(tmp_path: Path, num_classes: int) -> None:
    path = tmp_path / "confusion.png"
    assert plot_confusion(path, confusion_of(num_classes), names_of(num_classes), title="run a") == path
    assert_readable(path, tmp_path)


@pytest.mark.parametrize("num_classes", SIZES)
def test_per_class(tmp_path: Path, num_classes: int) -> None:
    path = tmp_path / "per_class.png"
    assert plot_per_class(path, *scores_of(num_classes), names_of(num_classes), title="run a") == path
    assert_readable(path, tmp_path)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(history_of(5, ["subCategory"]), id="one task"),
        pytest.param(history_of(5, ["gender", "masterCategory", "subCategory", "articleType", "season", "usage"]), id="six tasks"),
        pytest.param(history_of(1, ["subCategory"]), id="one epoch"),
        pytest.param(history_of(0, []), id="no epoch"),
        pytest.param(history_of(0, [])[:1], id="one step"),
        pytest.param([line for line in history_of(3, ["gender"]) if line["kind"] == "epoch"], id="no step"),
        pytest.param([], id="nothing"),
    ],
)
def test_training(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    path = tmp_path / "training.png"
    assert plot_training(path, history, title="run a") == path
    assert_readable(path, tmp_path)


BINS = np.arange(15)
DEFAULT_NAME = "masterCategory+subCategory+season-by-subCategory+season-tf_efficientnetv2_s-scratch-best-160x128-stratified-seed12"


@pytest.mark.parametrize(
    ("plot", "data"),
    [
        *((plot_confusion, (confusion_of(n), names_of(n))) for n in SIZES),
        *((plot_per_class, (*scores_of(n), names_of(n))) for n in SIZES),
        (plot_training, (history_of(5, ["subCategory", "season"]),)),
        (plot_reliability, (BINS + 1, (BINS + 0.5) / 15, (BINS + 0.4) / 15)),
    ],
)
def test_a_title_with_a_default_name_does_not_widen_the_image(tmp_path: Path, plot: Callable[..., Path], data: tuple[Any, ...]) -> None:
    title = f"{DEFAULT_NAME}: subCategory, test part of the stratified split"
    short, long = (pixels(plot(tmp_path / f"{name[:5]}.png", *data, title=name)) for name in ("run a", title))
    assert long.shape[1] <= max(1.02 * short.shape[1], 950)
    assert short.shape[0] <= long.shape[0] <= short.shape[0] + 250


def test_training_leaves_gaps_for_what_is_missing(tmp_path: Path) -> None:
    history = history_of(4, ["gender", "usage"])
    history[3] = history[3] | {"loss": None}
    history[7] = history[7] | {"loss": float("nan")}
    history[-1] = history[-1] | {"val": {"gender": {"accuracy": 0.5}}}
    assert_readable(plot_training(tmp_path / "training.png", history, title="run a"), tmp_path)


def test_training_takes_the_last_of_repeated_lines(tmp_path: Path) -> None:
    history = history_of(2, ["gender"])
    stale = [line | {"loss": 9.0} for line in history[-10:-1]]
    once = plot_training(tmp_path / "once.png", history, title="run a")
    resumed = plot_training(tmp_path / "resumed.png", stale + history, title="run a")
    np.testing.assert_array_equal(pixels(once), pixels(resumed))


@pytest.mark.parametrize(
    ("plot", "one", "other"),
    [
        pytest.param(plot_confusion, (confusion_of(9), names_of(9)), (confusion_of(9, seed=1), names_of(9)), id="confusion"),
        pytest.param(plot_confusion, (confusion_of(61), names_of(61)), (confusion_of(61, seed=1), names_of(61)), id="no counts"),
        pytest.param(plot_per_class, (*scores_of(9), names_of(9)), (*scores_of(9, seed=1), names_of(9)), id="per class"),
        pytest.param(plot_training, (history_of(3, ["a"]),), (history_of(3, ["a"], scale=2.0),), id="training"),
    ],
)
def test_pixels_follow_the_data(tmp_path: Path, plot: Callable[..., Path], one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    first = pixels(plot(tmp_path / "first.png", *one, title="run a"))
    again = pixels(plot(tmp_path / "again.png", *one, title="run a"))
    different = pixels(plot(tmp_path / "different.png", *other, title="run a"))
    renamed = pixels(plot(tmp_path / "renamed.png", *one, title="run b"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, different)
    assert not np.array_equal(first, renamed)


def test_classes_that_do_not_occur_are_left_out(tmp_path: Path) -> None:
    confusion, names = confusion_of(4), names_of(4)
    f1, support = scores_of(4)
    without = (
        plot_confusion(tmp_path / "a.png", confusion, names, title="run a"),
        plot_per_class(tmp_path / "b.png", f1, support, names, title="run a"),
    )
    padded = np.zeros((6, 6), dtype=np.int64)
    padded[1:5, 1:5] = confusion
    padded_names = ["absent", *names, "absent too"]
    with_absent = (
        plot_confusion(tmp_path / "c.png", padded, padded_names, title="run a"),
        plot_per_class(tmp_path / "d.png", np.pad(f1, 1), np.pad(support, 1), padded_names, title="run a"),
    )
    for few, many in zip(without, with_absent, strict=True):
        np.testing.assert_array_equal(pixels(few), pixels(many))


def test_a_class_that_was_only_predicted_is_drawn(tmp_path: Path) -> None:
    path = plot_confusion(tmp_path / "confusion.png", np.array([[5, 1], [0, 0]]), ["Men", "Women"], title="run a")
    assert_readable(path, tmp_path)


def test_dollar_signs_are_no_mathematics(tmp_path: Path) -> None:
    names = [r"$\frac{1$", "under $20, over $10"]
    plot_confusion(tmp_path / "a.png", np.array([[5, 1], [2, 7]]), names, title=r"$\frac{1$")
    plot_per_class(tmp_path / "b.png", np.array([0.2, 0.7]), np.array([6, 9]), names, title=r"$\frac{1$")
    plot_training(tmp_path / "c.png", history_of(2, names), title=r"$\frac{1$")
    plot_training(tmp_path / "d.png", history_of(2, names[:1]), title="run a")
    assert len(list(tmp_path.glob("*.png"))) == 4  # matplotlib would have raised at the broken formula


@pytest.mark.parametrize(
    ("plot", "data", "message"),
    [
        (plot_confusion, (confusion_of(3), names_of(2)), r"confusion: expected shape \(2, 2\) to match 2 class names, found \(3, 3\)"),
        (plot_confusion, (np.zeros((2, 2), dtype=np.int64), names_of(2)), "at least 1 sample, found 0"),
        (plot_confusion, (np.eye(2), names_of(2)), "integer counts, found dtype float64"),
        (plot_per_class, (*scores_of(3), names_of(2)), r"f1: expected shape \(2,\) to match 2 class names, found \(3,\)"),
        (plot_per_class, (np.ones(2), np.ones(3), names_of(2)), r"support: expected shape \(2,\) to match 2 class names, found \(3,\)"),
        (plot_per_class, (np.ones(2), np.zeros(2, dtype=np.int64), names_of(2)), "at least 1 class with samples, found 0"),
    ],
)
def test_bad_input_leaves_no_file(tmp_path: Path, plot: Callable[..., Path], data: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot(tmp_path / "plot.png", *data, title="run a")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_keeps_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plot_training(tmp_path / "training.png", history_of(1, ["a"]), title="run a")
    before = path.read_bytes()

    def half_a_image(self: Any, file: BinaryIO, **options: Any) -> None:
        file.write(b"\x89PNG")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_a_image)
    with pytest.raises(OSError, match="disk full"):
        plot_training(path, history_of(2, ["a"]), title="run a")
    assert [file.name for file in tmp_path.iterdir()] == ["training.png"]
    assert path.read_bytes() == before


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from fastfashion.evaluate.plots import plot_training
assert "matplotlib" not in sys.modules
plot_training(Path({str(tmp_path)!r}) / "new folder" / "training.png", [], title="run a")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "new folder" / "training.png").exists()
