"""Where a loader is, as plain JSON, and whether a state fits another loader."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastfashion.catalog.columns import texts_at
from fastfashion.errors import ConfigError
from fastfashion.load.spec import LoaderSpec

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Position:
    """The epoch, and how many of its samples are done, over all ranks, in its order."""

    epoch: int = 0
    samples: int = 0


def identity_of(spec: LoaderSpec) -> dict[str, Any]:
    """What must be the same for a position to mean the same: rows, seed and order; and the set's name, for messages."""
    return {
        "seed": spec.plan.seed,
        "order": _order(spec),
        "num_rows": len(spec.plan.rows),
        "ids_sha256": _sha256("\n".join(texts_at(spec.images.ids, spec.plan.rows)).encode()),
        "set": spec.images.folder.parent.name,
    }


def describe(identity: Mapping[str, Any], position: Position) -> dict[str, Any]:
    """A state of a loader of that identity."""
    return {"version": VERSION, "epoch": position.epoch, "samples": position.samples, **identity}


def check_state(own: Mapping[str, Any], state: Mapping[str, Any]) -> Position:
    """The position that a state means; raises ConfigError if it is none, or is of other rows, another seed or another order.

    own: the identity of the loader that it is for.
    """
    numbers = ("version", "seed", "epoch", "samples", "num_rows")
    needed = describe(own, Position()).keys()
    if not isinstance(state, Mapping) or not needed <= state.keys():
        missing = sorted(needed - state.keys()) if isinstance(state, Mapping) else []
        found = f"one without {', '.join(missing)}" if missing else repr(type(state).__name__)
        raise ConfigError(f"state: expected what state_dict() of a loader gave, found {found}")
    for name in numbers:
        if not is_count(state[name]):
            raise ConfigError(f"state: {name}: expected a whole number from 0 to below 2^63, found {state[name]!r}")
    if state["version"] > VERSION:
        raise ConfigError(f"state: it is of version {state['version']}, and this version of fastfashion reads {VERSION}; upgrade it")
    if state["ids_sha256"] != own["ids_sha256"]:
        raise ConfigError(
            f"state: it is of other rows: {state['num_rows']} of the set {state['set']}, ids {str(state['ids_sha256'])[:12]}; this loader "
            f"has {own['num_rows']} of {own['set']}, ids {own['ids_sha256'][:12]}. Open it with the same set, split, task, protocol, "
            "split_seed and fold"
        )
    if state["seed"] != own["seed"]:
        raise ConfigError(f"state: expected seed {own['seed']}, that of this loader, found {state['seed']}; open it with that seed")
    if state["order"] != own["order"]:
        raise ConfigError(f"state: expected the order {own['order']!r}, found {state['order']!r}; open the loader with the same shuffle")
    return Position(epoch=int(state["epoch"]), samples=int(state["samples"]))


def is_count(value: object) -> bool:
    """Whether it is a whole number, Python's or numpy's, that an epoch or a number of samples can be."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < 2**63


def _order(spec: LoaderSpec) -> str:
    """In which order an epoch has the rows, beside the seed."""
    plan = spec.plan
    if not plan.shuffled:
        return "rows"
    if plan.window_shards:
        assert plan.shard_starts is not None
        return f"window of {plan.window_shards} shards {_sha256(plan.shard_starts.astype('<i8').tobytes())[:12]}"
    return "epoch" if plan.weights is None else f"epoch, weights {_sha256(plan.weights.astype('<f8').tobytes())[:12]}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
