"""Near-duplicates: a fingerprint for each image, and which rows show the same image under several ids.

    pixels ─► 16x16 thumbnail ─► cosine transform of luma and chroma ─► lowest coefficients in whole steps: 57 bytes

A fingerprint is a function of the pixels alone, the same on every processor: Pillow resizes in fixed point, and the transform multiplies
whole numbers, whose sums stay below 2**53 and are exact in any order.
"""

import numpy as np
from PIL import Image

THUMBNAIL_PX = 16
# Antialiased triangle filter; its box filter would put whole pixels into cells and so depend on the scale of the image.
_FILTER, _REDUCING_GAP = Image.Resampling.BILINEAR, 4.0

_FREQUENCY = np.arange(9)
_BAND = _FREQUENCY[:, None] + _FREQUENCY
_LUMA, _CHROMA = _BAND <= 8, _BAND <= 2
NUM_LUMA = int(_LUMA.sum())
NUM_BYTES = NUM_LUMA + 2 * int(_CHROMA.sum())
# Orthogonal DCT-II in whole numbers of 2**-10, for a mean coefficient of 1: an image's mean is its first coefficient.
_ANGLE = np.pi * np.outer(_FREQUENCY, 2 * np.arange(THUMBNAIL_PX) + 1) / (2 * THUMBNAIL_PX)
_COSINES = np.rint(1024 * np.where(_FREQUENCY == 0, 1, np.sqrt(2))[:, None] * np.cos(_ANGLE))
_UNIT = (1024 * THUMBNAIL_PX) ** 2
# One step is one to three times what JPEG at quality 60 does to that coefficient of a 60x80 image, so that all count alike: 1 level for
# the mean of luma, 1/4 for its low and 1/8 for its high frequencies; 1/4 for the mean of chroma and 1/8 for the rest.
_LUMA_STEP = np.where(_BAND == 0, _UNIT, np.where(_BAND <= 4, _UNIT // 4, _UNIT // 8))
_CHROMA_STEP = np.where(_BAND == 0, _UNIT // 4, _UNIT // 8)
_STEPS = np.concatenate([_LUMA_STEP[_LUMA], _CHROMA_STEP[_CHROMA], _CHROMA_STEP[_CHROMA]]).astype(np.float64)

# Sums of squares over either part, exact in float32: whole numbers below 2**24.
_LUMA_AND_CHROMA = np.stack([np.arange(NUM_BYTES) < NUM_LUMA, np.arange(NUM_BYTES) >= NUM_LUMA], axis=1).astype(np.float32)

# Two images are the same up to this square of their difference, (luma, chroma): a share of what there is to see, within bounds, since
# with a fixed limit all small jewellery on white would be one image. bench/LOG.md says what share of re-encoded images they find.
_SHARES, _LOWEST, _HIGHEST = (25, 50), (2, 4**2), (7**2, 8**2)
# Coefficients of the widest spread find the rows worth comparing: those in the same cell of a grid of these.
_KEY_FREQUENCIES = ((2, 0), (2, 4), (4, 2), (5, 0), (0, 6), (3, 2))
_CELL, _REACH = 32, 7


def fingerprint(pixels: np.ndarray) -> bytes:
    """Perceptual hash of an image: uint8 (H, W, 3) RGB of any size to 57 bytes, each an int8.

    45 DCT coefficients of luma and 6 of each chroma of the image squeezed to 16x16, quantised. Scale and re-encoding move them by
    a step or two; squares of differences add up to how different two images look.
    """
    height_px, width_px = pixels.shape[:2]
    image = Image.frombuffer("RGB", (width_px, height_px), np.ascontiguousarray(pixels), "raw", "RGB", 0, 1)
    thumbnail = image.resize((THUMBNAIL_PX, THUMBNAIL_PX), _FILTER, reducing_gap=_REDUCING_GAP).convert("YCbCr")
    planes = np.asarray(thumbnail).transpose(2, 0, 1) - 128.0
    luma, blue, red = _COSINES @ planes @ _COSINES.T
    coefficients = np.concatenate([luma[_LUMA], blue[_CHROMA], red[_CHROMA]])
    return np.clip(np.floor(coefficients / _STEPS + 0.5), -128, 127).astype(np.int8).tobytes()


def duplicate_groups(fingerprints: np.ndarray) -> np.ndarray:
    """For every row the first row that shows the same image, itself if there is none earlier.

    fingerprints: uint8 (N, 57). Returns int64 (N,). A row is compared with the first rows of groups alone, so that no group can grow
    along a chain of lookalikes; of several that are near enough the earliest counts. Raises ValueError for another shape or dtype. Time
    grows with N and with the number of earlier rows in a row's cell of a coarse grid.
    """
    if fingerprints.ndim != 2 or fingerprints.shape[1] != NUM_BYTES or fingerprints.dtype != np.uint8:
        raise ValueError(f"fingerprints: expected uint8 (N, {NUM_BYTES}), found {fingerprints.dtype} {fingerprints.shape}")
    distinct, same = _distinct(fingerprints)
    codes = fingerprints[distinct].view(np.int8)
    groups = distinct.copy()
    to_see = codes[:, 1:].astype(np.float32) ** 2 @ _LUMA_AND_CHROMA[1:]  # the mean of luma says nothing of what is to see
    limits = np.clip(to_see // _SHARES, _LOWEST, _HIGHEST)
    is_first = np.ones(len(codes), dtype=bool)
    candidates, starts, stops = _same_cell(codes)
    for row in np.flatnonzero(stops > starts):
        rows = candidates[starts[row] : stops[row]]
        rows = rows[is_first[rows]]
        differences = codes[rows].astype(np.float32) - codes[row]
        near = rows[(differences**2 @ _LUMA_AND_CHROMA <= np.minimum(limits[rows], limits[row])).all(axis=1)]
        if len(near):
            groups[row] = distinct[near[0]]
            is_first[row] = False
    return groups[same]


def _distinct(fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of each distinct fingerprint, ascending, and for every row its place in that list."""
    whole = np.ascontiguousarray(fingerprints).view(f"V{NUM_BYTES}")[:, 0]
    _, first, same = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order].astype(np.int64), place[same]


def _same_cell(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every row the earlier rows that can be near it: `rows[starts[row]:stops[row]]`, ascending.

    A row is listed in every cell that its reach touches and compared with its own cell alone, so no near pair is missed.
    """
    keys, rows, own = np.zeros(len(codes), np.int64), np.arange(len(codes)), np.zeros(len(codes), np.int64)
    for vertical, horizontal in _KEY_FREQUENCIES:
        place = int(_LUMA[:vertical].sum()) + horizontal
        value = codes[:, place].astype(np.int64) + 128 + _CELL // 2 + _CELL  # 0, of plain areas, in the middle of a cell
        own = own * 16 + value // _CELL
        low, high = (value - _REACH) // _CELL, (value + _REACH) // _CELL
        both = np.flatnonzero((low != high)[rows])
        keys = np.concatenate([keys * 16 + low[rows], keys[both] * 16 + high[rows[both]]])
        rows = np.concatenate([rows, rows[both]])
    # by cell, then by row: a search for (cell, row) then ends the earlier rows of that cell
    addresses = keys * len(codes) + rows
    order = np.argsort(addresses)
    starts = np.searchsorted(addresses[order], own * len(codes))
    return rows[order], starts, np.searchsorted(addresses[order], own * len(codes) + np.arange(len(codes)))
