import numpy as np

def decode_rgb(data: bytes | memoryview | np.ndarray, eighths: int, out: np.ndarray, /) -> bool: ...
def resize_rgb(
    source: np.ndarray,
    source_height: int,
    source_width: int,
    box: tuple[float, float, float, float],
    out: np.ndarray,
    height: int,
    width: int,
    kernel: int = ...,
    /,
) -> None: ...
def resize_planes(
    planes: list[tuple[np.ndarray, int, int, int, int, int, int, float, float, bool, bool]],
    box: tuple[float, float, float, float],
    out: np.ndarray,
    height: int,
    width: int,
    flip: bool,
    kernel: int,
    /,
) -> None: ...
def set_simd(level: int, /) -> int: ...
def load_crops(
    encoded: list[np.ndarray],
    boxes: np.ndarray,
    sizes: np.ndarray,
    flips: np.ndarray,
    out: np.ndarray,
    height: int,
    width: int,
    oversample: float,
    status: np.ndarray,
    seconds: np.ndarray,
    places: np.ndarray | None = ...,
    colour: np.ndarray | None = ...,
    own: bool = ...,
    marks: np.ndarray | None = ...,
    first: np.ndarray | None = ...,
    /,
) -> None: ...
def resize_crops(
    source: np.ndarray,
    source_height: int,
    source_width: int,
    index: np.ndarray,
    boxes: np.ndarray,
    flips: np.ndarray,
    out: np.ndarray,
    count: int,
    height: int,
    width: int,
    places: np.ndarray | None = ...,
    colour: np.ndarray | None = ...,
    /,
) -> None: ...
def make_seek_entries(encoded: list[bytes | np.ndarray], share: float, /) -> list[bytes]: ...
def find_marks(encoded: bytes | np.ndarray, /) -> bytes | None: ...
def read_marks(tables: list[np.ndarray | None], places: np.ndarray, /) -> tuple[bytes, bytes]: ...
