"""Which settings differ between two configs, and which of them matter when a run is resumed: config.py declares it with each setting."""

from typing import Any

from fastfashion.config import Change, RunConfig, changeable

FREE, ALLOWED, FIXED = (changeable(change) for change in (Change.FREE, Change.ALLOWED, Change.FIXED))


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, with both values."""
    old, new = flat(before), flat(now)
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def changes_that_count(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {key: values for key, values in changed.items() if key not in FREE}


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings, as `section.key`."""
    return {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}
