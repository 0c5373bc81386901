"""What clients may send: how many, how large; and checks before anything is unpacked or decoded."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastfashion.errors import ConfigError, InputError
from fastfashion.predict.decode_cost import COPIES, FIXED, MOST_A_PIXEL
from fastfashion.predict.semaphore import FairSemaphore
from fastfashion.untrusted import open_regular

_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")  # of a zip (APPNOTE.TXT 4.3.16)
_ENTRY_BYTES = 46  # of the directory, at least, each
_SCAN = b"\xff\xda"
MAX_SCANS = 100  # of a progressive JPEG; usual ones have ten, and each costs a walk over all pixels


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server; what exceeds one is answered with an error. Defaults of `fastfashion serve` are in command_options.py."""

    image_bytes: int = 20_000_000
    image_pixels: int = 40_000_000  # of one image
    batch_files: int = 200  # images in a batch, the members of its zips too
    request_bytes: int = 200_000_000  # of one request, with all that is in it
    stored_bytes: int = 2_000_000_000  # of uploads that are still kept
    queue: int = 64  # waiting requests, for large images and for all others each
    waiting_bytes: int = 100_000_000  # of large bodies that wait to be decoded; the next are read once there is room

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{name}: expected 1 or more, found {value}")

    @property
    def decoding_bytes(self) -> int:
        """Memory that decoding may take, one image or all large ones together: what `image_pixels` take in any format."""
        return MOST_A_PIXEL * self.image_pixels + COPIES * self.image_bytes + FIXED


def check_image(data: bytes, limits: Limits) -> None:
    """Raises InputError for too many bytes, and for a JPEG that would keep the decoder busy for minutes; the decoder checks pixels."""
    if len(data) > limits.image_bytes:
        raise InputError(f"{len(data) / 1e6:.1f} MB, more than the {limits.image_bytes / 1e6:.0f} MB that an image may have here")
    if data[:2] == b"\xff\xd8" and data.count(_SCAN) > MAX_SCANS:
        raise InputError(f"a JPEG with more than {MAX_SCANS} scans: save it again, as a baseline JPEG")


def check_zip(path: Path, limits: Limits) -> None:
    """Raises InputError for a zip of more files than a batch may have, by its last bytes: its directory is not read for it."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(size - min(size, _END_OF_DIRECTORY.size + 0xFFFF))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END_OF_DIRECTORY.size > len(tail):
        raise InputError("not a readable zip: its end is missing; upload it again")
    _, _, _, _, count, directory_bytes, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if tail[max(0, at - 20) :].startswith(b"PK\6\7") or count == 0xFFFF:
        raise InputError("a zip64 archive, which only very large ones need: split it")
    # Folders and other files are entries too, and names take some bytes; a directory far longer than that is a bomb itself.
    if count > 2 * limits.batch_files or directory_bytes > 2 * limits.batch_files * (_ENTRY_BYTES + 512):
        raise InputError(f"a zip of {count} files; at most {limits.batch_files} images are answered in one request: split it")


class Gate:
    """Counts waiting requests, those of large images separately, and refuses the next if there are too many."""

    def __init__(self, limit: int) -> None:
        self._queues = {is_large: FairSemaphore(limit, max_waiting=0) for is_large in (False, True)}

    @contextmanager
    def enter(self, is_large: bool = False) -> Iterator["Place"]:
        """Take a place; raises BusyError."""
        place = Place(self._queues)
        place.move(is_large)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """One waiting request's place, in one of the two queues."""

    def __init__(self, queues: Mapping[bool, FairSemaphore]) -> None:
        self._queues, self._held = queues, ExitStack()
        self._is_large: bool | None = None  # in neither yet

    def move(self, is_large: bool) -> None:
        """To the queue where it belongs, once the image is known; raises BusyError."""
        if is_large != self._is_large:
            with ExitStack() as taken:
                taken.enter_context(self._queues[is_large].take())
                self.leave()
                self._is_large, self._held = is_large, taken.pop_all()

    def leave(self) -> None:
        self._held.close()
