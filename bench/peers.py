"""What other programs do to an image, and decoding alone, as tasks of a process pool: files in, files out.

A task takes a few files and returns how many images it has processed. Nothing is imported that the task does not need, since the
start of the processes counts.
"""

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

PILLOW_QUALITY = 90
INSTALL_IMG2DATASET = "pip install --no-deps img2dataset albumentations==1.4.24 albucore==0.0.23 simsimd stringzilla"


def with_pillow(out: Path, sizes: Sequence[int], copy: bool, files: Sequence[Path]) -> int:
    """The plain way: open, convert, resize (bicubic, shorter side, never enlarged), save; and copy the file as it is."""
    from PIL import Image

    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for size in sizes:
            scale = min(1.0, size / min(image.size))
            shape = (round(image.width * scale), round(image.height * scale))
            image.resize(shape, Image.Resampling.BICUBIC).save(out / str(size) / file.name, quality=PILLOW_QUALITY)
        if copy:
            shutil.copyfile(file, out / "full" / file.name)
    return len(files)


@cache
def load_resizer(size: int) -> Any:
    """img2dataset's own resizer, from its file: the package around it cannot be imported beside our versions of pandas and webdataset.

    Raises ImportError if it, or what it imports, is not installed.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations looks for a newer version of itself when it is imported
    path = importlib.metadata.distribution("img2dataset").locate_file("img2dataset/resizer.py")
    spec = importlib.util.spec_from_file_location("img2dataset_resizer", str(path))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Resizer(image_size=size, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=PILLOW_QUALITY)


def with_img2dataset(out: Path, size: int, files: Sequence[Path]) -> int:
    """Images that img2dataset's resizer returns, written to files."""
    resize = load_resizer(size)
    done = 0
    for file in files:
        encoded, *_, error = resize(BytesIO(file.read_bytes()))
        if error is None:
            (out / str(size) / file.name).write_bytes(encoded)
            done += 1
    return done


def decode_only(min_height_px: int, min_width_px: int, files: Sequence[Path]) -> int:
    """Read, and decode with libjpeg-turbo at the smallest scale of this size or more."""
    from fastfashion.images.codec import decode_rgb

    for file in files:
        decode_rgb(file.read_bytes(), min_height_px=min_height_px, min_width_px=min_width_px, own=False)
    return len(files)


def copy_files(target: Path, files: Sequence[Path]) -> int:
    """The bytes of the files, one after the other in one file, on the disk when it returns."""
    with target.open("wb") as joined:
        for file in files:
            joined.write(file.read_bytes())
        joined.flush()
        os.fsync(joined.fileno())
    return len(files)
