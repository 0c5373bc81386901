"""Telling how far packing is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastfashion.words import counted


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Called a few times a second, with images and encoded bytes done since the last call, and all that is rejected so far."""

    on_start: Callable[[int], None] = lambda total: None
    on_resume: Callable[[int], None] = lambda images: None  # images that an earlier run has packed
    on_packed: Callable[[int, int, int], None] = lambda images, num_bytes, rejected: None


@contextmanager
def bar_progress() -> Iterator[Progress]:
    """A progress bar on the terminal: images with rate and time left, megabytes written, rejected."""
    import sys

    from fastfashion.bars import tqdm

    with tqdm(unit=" images", disable=None, dynamic_ncols=True) as bar:
        written = before = 0

        def on_resume(images: int) -> None:
            nonlocal before
            bar.write(f"resuming: {counted(images, 'image')} packed by an interrupted run", file=sys.stderr)
            bar.initial, before = bar.n, written  # the rate is that of this run

        def on_packed(images: int, num_bytes: int, rejected: int) -> None:
            nonlocal written
            written += num_bytes
            rate = (written - before) / 1e6 / max(1e-9, bar.format_dict["elapsed"])
            bar.set_postfix_str(f"{rate:.1f} MB/s, {rejected} rejected", refresh=False)
            bar.update(images)

        yield Progress(on_start=bar.reset, on_resume=on_resume, on_packed=on_packed)
