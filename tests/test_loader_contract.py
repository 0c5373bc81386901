"""What a training loop of one's own may rely on: ff.loader, its state, its batches."""

import gc
import json
import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall

import fastfashion as ff
from fastfashion.errors import ConfigError, InputError
from fastfashion.load import Batch, Loader

BACKENDS = ["threads", "resident", pytest.param("dali", marks=pytest.mark.slow)]
Opener = Callable[..., Loader]


@pytest.fixture
def opened(packed_small: PackedSmall) -> Iterator[Opener]:
    """Loaders of the small set, closed at the end; whole small epochs by default."""
    loaders: list[Loader] = []
    known: dict[str, Any] = {"split": "all", "shuffle": True, "augment": True, "batch_size": 7, "size": "32x24", "workers": 2, "seed": 5}

    def make(**changes: Any) -> Loader:
        loaders.append(ff.loader(packed_small.out, **known | changes))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def rows_of(batches: Any) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist() if row >= 0]


def seen(batches: Any) -> list[tuple[int, bytes]]:
    """Row and pixels of each image, in order."""
    return [
        (row, image.numpy().tobytes())
        for batch in batches
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
        if row >= 0
    ]


def test_epochs_follow_each_other_each_row_once_in_another_order(opened: Opener) -> None:
    loader = opened()
    assert (len(loader), loader.epoch) == (9, 0)
    epochs = [rows_of(loader) for _ in range(3)]
    assert loader.epoch == 3
    assert all(sorted(rows) == list(range(60)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    loader.set_epoch(1)
    assert rows_of(loader) == epochs[1]
    assert rows_of(loader) == epochs[2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [3, 7, 8, 60])
def test_a_state_continues_with_the_same_images_at_any_batch_size_and_backend(opened: Opener, batch_size: int, backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    kinds = {"threads", backend} == {"threads"}
    whole, first = opened(backend=backend), opened()
    expected = [seen(whole), seen(whole)]
    for done in (1, 4, 8):
        first.load_state_dict(opened().state_dict())
        before = seen(islice(first, done))
        second = opened(batch_size=batch_size, backend=backend, workers=1)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        after = seen(second)
        assert [row for row, _ in before + after] == [row for row, _ in expected[0]]
        assert after == expected[0][len(before) :]
        assert not kinds or before + after == expected[0]
        assert seen(second) == expected[1]  # and the next epoch is whole


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2), (2, 5)])
def test_a_state_of_any_rank_continues_on_any_number_of_processes(opened: Opener, before: int, after: int) -> None:
    expected = seen(opened())
    ranks = [opened(rank=rank, world_size=before) for rank in range(before)]
    first = [list(islice(loader, 5)) for loader in ranks]
    states = [loader.state_dict() for loader in ranks]
    assert all(state == states[0] for state in states)
    others = [opened(rank=rank, world_size=after, batch_size=10) for rank in range(after)]
    for loader, state in zip(others, states * after, strict=False):
        loader.load_state_dict(state)
    rest = [list(loader) for loader in others]
    assert sorted(one for batches in (*first, *rest) for one in seen(batches)) == sorted(expected)
    in_order = [seen([batch]) for group in (first, rest) for step in zip(*group, strict=True) for batch in step]
    assert [one for part in in_order for one in part] == expected


def test_a_state_in_the_last_step_gives_the_next_epoch(opened: Opener) -> None:
    loader = opened()
    for number, _ in enumerate(loader, 1):
        if number == len(loader):
            state = loader.state_dict()
    assert (state["epoch"], state["samples"]) == (1, 0)
    other = opened()
    other.load_state_dict(state)
    assert other.epoch == 1
    assert rows_of(other) == rows_of(loader)


def test_a_state_counts_what_was_handed_out_and_not_what_was_drawn_ahead(opened: Opener) -> None:
    loader, expected = opened(), seen(opened())
    ahead = iter(loader)
    batches = [next(ahead) for _ in range(5)]  # as a wrapper does that looks ahead
    other = opened()
    other.load_state_dict(loader.state_dict(batches[2]))
    assert seen(batches[:3]) + seen(other) == expected


def test_set_epoch_keeps_the_position_in_the_current_epoch_alone(opened: Opener) -> None:
    loader, epochs = opened(), [rows_of(opened().steps(epoch)) for epoch in range(4)]
    first = rows_of(islice(loader, 4))
    loader.set_epoch(0)
    assert first + rows_of(loader) == epochs[0]
    rows_of(islice(loader, 2))
    loader.set_epoch(3)
    assert rows_of(loader) == epochs[3]
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(ConfigError, match=r"epoch: expected 0 or more"):
            loader.set_epoch(wrong)  # type: ignore[arg-type]


def test_a_wrapper_that_counts_from_zero_in_each_process_continues_the_epoch_of_the_state(opened: Opener) -> None:
    epochs = [rows_of(opened().steps(epoch)) for epoch in range(6)]
    loader = opened()
    loader.set_epoch(3)
    first = rows_of(islice(loader, 4))
    resumed = opened()
    resumed.load_state_dict(loader.state_dict())
    with pytest.warns(UserWarning, match=r"set_epoch\(0\) after a state of epoch 3 was loaded"):
        resumed.set_epoch(0)
    assert first + rows_of(resumed) == epochs[3]
    for number in (1, 2):
        resumed.set_epoch(number)
        assert rows_of(resumed) == epochs[3 + number]


def test_validation_that_was_left_early_starts_at_its_first_row_but_continues_from_a_state(opened: Opener) -> None:
    loader = opened(shuffle=False, augment=False)
    assert rows_of(islice(loader, 2)) == list(range(13))  # a sanity check of two batches, say
    assert rows_of(loader) == list(range(60))
    first = rows_of(islice(loader, 3))
    other = opened(shuffle=False, augment=False)
    other.load_state_dict(loader.state_dict())
    assert first + rows_of(other) == list(range(60))
    assert rows_of(other) == list(range(60))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 6}, r"state: expected seed 6, that of this loader, found 5"),
        ({"split": list(range(59))}, r"state: it is of other rows: 60 of the set .*; this loader has 59"),
        ({"split": list(range(59, -1, -1))}, r"state: it is of other rows: 60 of the set .* ids "),
        ({"shuffle": "window", "window": 2}, r"state: expected the order 'window of 2 shards .*', found 'epoch'"),
        ({"weights": np.arange(60)}, r"state: expected the order 'epoch, weights .*', found 'epoch'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_in_words(opened: Opener, changes: dict[str, Any], said: str) -> None:
    state = opened().state_dict()
    with pytest.raises(ConfigError, match=said):
        opened(**changes).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": -1}, r"state: samples: expected a whole number from 0 to below 2\^63, found -1"),
        ({"epoch": 1.0}, r"state: epoch: expected a whole number"),
        ({"version": 99}, r"state: it is of version 99.*upgrade"),
        (None, r"state: expected what state_dict\(\) of a loader gave, found one without epoch"),
        ("text", r"state: expected what state_dict\(\) of a loader gave, found 'str'"),
    ],
)
def test_what_is_no_state_is_refused(opened: Opener, change: Any, said: str) -> None:
    loader = opened()
    state: Any = {} if change is None else change if isinstance(change, str) else loader.state_dict() | change
    with pytest.raises(ConfigError, match=said):
        loader.load_state_dict(state)
    assert (loader.epoch, len(rows_of(loader))) == (0, 60)


def test_samples_beyond_an_epoch_give_the_next_one(opened: Opener) -> None:
    loader = opened(drop_last=True, batch_size=50)
    loader.load_state_dict(opened(drop_last=False).state_dict() | {"samples": 58})
    assert loader.epoch == 1
    assert len(rows_of(loader)) == 50


def test_steps_outside_of_an_epoch_are_refused(opened: Opener) -> None:
    loader = opened()
    for epoch, start in ((0, -1), (0, 10), (-1, 0)):
        with pytest.raises(ConfigError, match=r"steps: expected an epoch from 0 and a step from 0 to 9"):
            list(loader.steps(epoch, start))
    assert list(loader.steps(0, 9)) == []


def test_an_iterator_that_the_loader_was_moved_under_says_so(opened: Opener) -> None:
    loader = opened()
    for move in (lambda: loader.set_epoch(7), lambda: loader.load_state_dict(loader.state_dict())):
        batches = iter(loader)
        next(batches)
        move()
        with pytest.raises(ConfigError, match="this iterator is invalid"):
            next(batches)
        assert len(rows_of(loader)) in (60, 54)


def test_a_second_live_iterator_is_refused_and_the_first_one_goes_on(opened: Opener) -> None:
    loader = opened()
    first = iter(loader)
    batches = [next(first)]
    with pytest.raises(ConfigError, match="another live iterator"):
        next(iter(loader))
    assert rows_of([*batches, *first]) == rows_of(opened())


@pytest.mark.parametrize(("place", "refused"), [({}, True), ({"rank": 0, "world_size": 1}, False)])
def test_a_loader_from_before_the_process_group_is_refused_in_it(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, place: dict[str, int], refused: bool
) -> None:
    """Lightning starts a group in `fit`: each of its processes would get all rows."""
    loader = opened(**place)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    if refused:
        with pytest.raises(ConfigError, match="initialised after this loader was opened, and each of its 2 processes would get all rows"):
            next(iter(loader))
    else:
        assert len(rows_of(loader)) == 60


def test_a_closed_loader_says_so_and_garbage_says_nothing(opened: Opener, packed_small: PackedSmall) -> None:
    with opened() as loader:
        batches = iter(loader)
        next(batches)
    for attempt in (batches, iter(loader)):
        with pytest.raises(ConfigError, match="this loader is closed"):
            next(attempt)
    loader.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = ff.loader(packed_small.out, batch_size=7, size="32x24")
        next(iter(left))
        del left
        gc.collect()


def _rows_in_a_process(loader: Loader, answers: Any) -> None:
    answers.put(rows_of(loader))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_loader_is_sent_to_a_child_where_it_continues_and_here_it_stays(opened: Opener, how: str) -> None:
    loader, expected = opened(), rows_of(opened())
    first = rows_of(islice(loader, 3))
    context: Any = multiprocessing.get_context(how)
    answers = context.Queue()
    child = context.Process(target=_rows_in_a_process, args=(loader, answers))
    child.start()
    assert first + answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    assert first + rows_of(loader) == expected


def test_it_is_cheap_to_pickle(opened: Opener) -> None:
    loader = opened()
    rows_of(loader)
    assert len(pickle.dumps(loader)) < 100_000  # not the images, which are 60 of 3 KB, nor their memory maps


def test_a_dataloader_hands_on_whole_batches_of_one_worker_and_refuses_more(opened: Opener) -> None:
    loader, expected = opened(), rows_of(opened())
    assert len(torch.utils.data.DataLoader(loader, batch_size=None)) == 9
    assert rows_of(torch.utils.data.DataLoader(loader, batch_size=None)) == expected
    for workers in (1, 2):
        loader = opened()
        through: Any = torch.utils.data.DataLoader(loader, batch_size=None, num_workers=workers, multiprocessing_context="fork")
        if workers == 1:
            batches = list(through)
            assert rows_of(batches) == expected
            assert loader.state_dict(batches[3])["samples"] == len(rows_of(batches[:4]))
        else:
            with pytest.raises(ConfigError, match=r"num_workers=2"):
                list(through)


# What is loaded.


def test_a_split_is_that_of_training_and_a_list_is_what_it_names(opened: Opener, packed_small: PackedSmall) -> None:
    parts = {part: set(rows_of(opened(split=part))) for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    ids = opened().ids
    assert rows_of(opened(split=[ids[5], ids[3], ids[44]], shuffle=False)) == [5, 3, 44]
    assert rows_of(opened(split=[5, 3, 44], shuffle=False)) == [5, 3, 44]
    assert rows_of(opened(split=np.arange(60) % 2 == 0, shuffle=False)) == list(range(0, 60, 2))
    table = opened().table
    assert (table["id"].to_numpy() == ids).all()
    for wrong, said in (
        ([60], r"split: expected rows from 0 to 59, found 60"),
        (["nobody"], r"split: 1 of 1 ids are not in .*, the first is 'nobody'"),
        (np.zeros(59, dtype=bool), r"split: expected a mask of 60 rows, found 59"),
        ("tests", r"split: expected train, val, test, all, or a list of rows or ids, found 'tests'"),
        (np.zeros((2, 2), dtype=int), r"split: expected train, .*found an array of shape \(2, 2\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            opened(split=wrong)
    with pytest.raises(InputError, match="no rows"):
        opened(split=[])


def test_defaults_are_those_of_training_for_train_and_plain_images_otherwise(packed_small: PackedSmall) -> None:
    settings = {"batch_size": 60, "size": "32x24", "task": None}
    with ff.loader(packed_small.out, **settings) as train, ff.loader(packed_small.out, split="val", **settings) as val:
        assert train.spec.plan.shuffled and train.spec.plan.augment is not None and train.spec.plan.augment.min_area == 0.97
        assert not val.spec.plan.shuffled and val.spec.plan.augment is None
        assert next(iter(val)).labels.shape == (len(val.rows), 0)
    plain = ff.loader(packed_small.out, augment=False, **settings)
    mixed = ff.loader(packed_small.out, augment={"mixup": 0.2}, **settings)
    with plain, mixed:
        assert plain.spec.plan.shuffled and plain.spec.plan.augment is None
        assert mixed.spec.plan.augment is not None and (mixed.spec.plan.augment.mixup, mixed.spec.plan.augment.min_area) == (0.2, 0.97)


def test_rows_come_as_often_as_their_weights_say(opened: Opener) -> None:
    weights = np.where(np.arange(60) < 10, 3.0, 0.6)  # 10 rows half of the time
    weights[59] = 0
    loader = opened(weights=weights)
    counts = np.array([np.bincount(rows_of(loader), minlength=60) for _ in range(200)])
    expected = 60 * weights / weights.sum()
    assert (counts.sum(axis=1) == 60).all()
    assert (counts >= np.floor(expected)).all() and (counts <= np.ceil(expected)).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.15)  # four standard errors of a mean of 200
    even = opened(weights=np.full(60, 0.1))
    assert sorted(rows_of(even)) == list(range(60))
    for wrong, said in (
        (np.ones(59), "weights: expected a number for each of the 60 rows"),
        (-np.ones(60), "0 or more"),
        (np.zeros(60), "not all 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            opened(weights=wrong)
    with pytest.raises(ConfigError, match="weights: not with shuffle in windows"):
        opened(weights=weights, shuffle="window")


def test_drop_last_gives_whole_batches_alone(opened: Opener) -> None:
    loader = opened(drop_last=True)
    batches = list(loader)
    assert [len(rows_of([batch])) for batch in batches] == [7] * 8 and len(loader) == 8
    assert set(rows_of(batches)) != set(rows_of(loader))  # others are left out in another epoch
    with pytest.raises(ConfigError, match="drop_last: expected at least one whole batch of 61, found 60 rows"):
        opened(drop_last=True, batch_size=61)


def test_targets_are_what_cross_entropy_ignores_and_what_mixup_means(opened: Opener) -> None:
    loader = opened(task="subCategory,season", augment={"mixup": 1.0}, rank=2, world_size=4, batch_size=13)
    functional, classes = torch.nn.functional, loader.classes
    some_padding = False
    for batch in loader:
        for column, task in enumerate(("subCategory", "season")):
            target, soft, codes = batch.target(task), batch.soft_target(task), batch.labels[:, column]
            assert (target[codes < 0] == -100).all() and (target[codes >= 0] == codes[codes >= 0]).all()
            logits = torch.randn(len(codes), len(classes[task]))
            assert batch.partners is not None and batch.shares is not None
            own, partner = (
                functional.cross_entropy(logits, each, reduction="none", ignore_index=-1) for each in (codes, codes[batch.partners])
            )
            found = functional.cross_entropy(logits, soft, reduction="none")
            torch.testing.assert_close(found, batch.shares * own + (1 - batch.shares) * partner)
            some_padding |= bool((batch.rows < 0).any())
    assert some_padding
    for wrong in (None, "colour"):
        with pytest.raises(ConfigError, match=r"task: expected one of subCategory, season"):
            batch.target(wrong)


def test_normalized_images_are_those_of_torchvision(opened: Opener) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    batch = next(iter(opened()))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    scaled = functional.to_dtype(batch.images.permute(0, 3, 1, 2), torch.float32, scale=True)
    found = batch.normalized(mean, std)
    torch.testing.assert_close(found, functional.normalize(scaled, mean, std))
    assert found.is_contiguous(memory_format=torch.channels_last) and found.dtype == torch.float32
    assert batch.normalized(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_what_is_no_argument_is_said_in_the_words_of_the_function(opened: Opener) -> None:
    for changes, said in (
        ({"settings": {"model.name": "resnet18"}}, r"settings: model.name means nothing to a loader"),
        ({"shuffle": "sometimes"}, r"shuffle"),
        ({"rank": 1}, r"rank and world_size: expected both or neither"),
        ({"rank": 2, "world_size": 2}, r"rank: expected 0 to 1, found 2"),
        (
            {"batch_size": 3, "rank": 0, "world_size": 2, "augment": {"mixup": 0.2}},
            r"batch_size: expected 4 or more for 2 processes, found 3",
        ),
        ({"backend": "quick"}, r"backend"),
        ({"size": (8, 8)}, r"size: expected HxW"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            opened(**changes)
        assert "--" not in str(error.value)


def test_a_batch_moves_to_a_device_whole(opened: Opener) -> None:
    batch = next(iter(opened(augment={"mixup": 1.0})))
    assert batch.to("cpu") is batch
    moved: Batch = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5 and all(tensor.is_meta for tensor in tensors)


def test_a_batch_is_compared_by_identity_and_shown_in_a_line(opened: Opener) -> None:
    loader = opened(task="subCategory")
    first, second = islice(loader, 2)
    assert first in [second, first] and first != second
    assert repr(first) == "Batch(7 images of 32x24, tasks: subCategory (4 classes), epoch=0, samples=6, device=cpu)"
    assert repr(loader).endswith(", 7 images of 32x24 per step, threads on cpu, epoch=0, samples=13)")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": 0.5}, r"mean: expected three numbers in 0..1, of red, green and blue, found 0.5"),
        ({"mean": (123.0, 116.0, 103.0)}, r"mean: expected three numbers in 0..1"),  # in grey levels: all images would be black
        ({"std": (0.2, 0.0, 0.2)}, r"std: expected three numbers in 0..1"),
        ({"std": (0.2, 0.2)}, r"std: expected three numbers in 0..1"),
        ({"dtype": torch.uint8}, r"dtype: expected a floating-point one"),
        ({"dtype": "float16"}, r"dtype: expected a floating-point one"),
    ],
)
def test_what_is_no_mean_std_or_float_is_refused(opened: Opener, changes: Any, said: str) -> None:
    batch = next(iter(opened()))
    with pytest.raises(ConfigError, match=said):
        batch.normalized(**changes)


def test_numbers_of_numpy_are_numbers_and_those_that_no_epoch_has_are_refused(opened: Opener) -> None:
    loader = opened()
    loader.load_state_dict(loader.state_dict() | {"epoch": np.int64(10**6), "samples": np.int32(58)})
    assert len(rows_of(loader)) == 2 and json.dumps(loader.state_dict())
    attempts: list[Callable[[], Any]] = [
        lambda: loader.set_epoch(2**63),
        lambda: loader.load_state_dict(loader.state_dict() | {"epoch": 2**64}),
        lambda: loader.steps("a"),  # type: ignore[arg-type]
        lambda: loader.steps(1.5),  # type: ignore[arg-type]
        lambda: loader.state_dict({"images": None}),  # type: ignore[arg-type]
    ]
    for attempt in attempts:
        with pytest.raises(ConfigError, match=r"expected"):
            attempt()


def test_a_lost_iterator_is_replaced(opened: Opener) -> None:
    loader = opened()
    lost = iter(loader)
    first = rows_of([next(lost)])
    loader.load_state_dict(loader.state_dict())  # as the error says
    assert first + rows_of(loader) == rows_of(opened())
