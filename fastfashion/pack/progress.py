"""Telling how far packing is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Called after every block: pictures and encoded bytes done since the last call, and rejected so far."""

    on_start: Callable[[int], None] = lambda total: None
    on_block: Callable[[int, int, int], None] = lambda images, num_bytes, rejected: None


@contextmanager
def bar_progress() -> Iterator[Progress]:
    """A progress bar on the terminal: pictures with rate and time left, megabytes written, rejected."""
    from tqdm import tqdm

    with tqdm(unit=" pictures", disable=None, dynamic_ncols=True) as bar:
        written = 0

        def on_block(images: int, num_bytes: int, rejected: int) -> None:
            nonlocal written
            written += num_bytes
            bar.update(images)
            rate = written / 1e6 / max(1e-9, bar.format_dict["elapsed"])
            bar.set_postfix_str(f"{rate:.1f} MB/s, {rejected} rejected")

        yield Progress(on_start=bar.reset, on_block=on_block)
