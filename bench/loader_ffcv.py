"""FFCV as a peer, in an interpreter of its own; imports nothing of ours. A line on stdin runs an epoch, whose rows are printed."""

import io
import json
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np

PAGE_BYTES = 1 << 26


def original_field(folder: Path) -> Any:
    """A field type of FFCV for JPEGs as they are: FFCV itself would encode them again."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES

    class Original(RGBImageField):
        def encode(self, destination, data, malloc):  # type: ignore[no-untyped-def]
            from PIL import Image

            with Image.open(folder / "one.jpg") as one:
                destination["width"], destination["height"] = one.size
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["data_ptr"], storage = malloc(data.nbytes)
            storage[:] = data

    return Original


class Images:
    """What FFCV's writer reads: the image, decoded if `raw`, and its row."""

    def __init__(self, folder: Path, encoded: list[np.ndarray], rows: np.ndarray, raw: bool) -> None:
        self.folder, self.encoded, self.rows, self.raw = folder, encoded, rows, raw

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        from PIL import Image

        data = self.encoded[index].tobytes()
        if self.raw:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), int(self.rows[index])
        (self.folder / "one.jpg").write_bytes(data)
        return self.encoded[index], int(self.rows[index])


def planned_decoder(boxes: np.ndarray) -> Any:
    """FFCV's own decoder type, but for the crop: that of the plan instead of a random one."""
    from ffcv.fields.rgb_image import IMAGE_MODES, RandomResizedCropRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.pipeline.compiler import Compiler

    class Planned(RandomResizedCropRGBImageDecoder):
        def generate_code(self):  # type: ignore[no-untyped-def]
            jpg, read, numbers = IMAGE_MODES["jpg"], self.memory_read, Compiler.get_iterator()
            decode_c, resize_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)

            def decode(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
                destination, temp_storage = my_storage
                for place in numbers(len(batch_indices)):
                    index = batch_indices[place]
                    field = metadata[index]
                    data = read(field["data_ptr"], storage_state)
                    height, width = np.uint32(field["height"]), np.uint32(field["width"])
                    if field["mode"] == jpg:
                        decode_c(data, temp_storage[place], height, width, height, width, 0, 0, 1, 1, False, False)
                        image = temp_storage[place].reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                    else:
                        image = data.reshape(height, width, 3)
                    box = boxes[index]
                    resize_c(image, box[0], box[2], box[1], box[3], destination[place])
                return destination[: len(batch_indices)]

            decode.is_parallel = True
            return decode

    return Planned


def open_loader(folder: Path) -> Any:
    """Write FFCV's file from what the peer has written to `folder`, and open its loader."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor
    from ffcv.writer import DatasetWriter

    settings = json.loads((folder / "settings.json").read_text())
    plan = np.load(folder / "plan.npz")
    encoded = np.split(np.fromfile(folder / "images.bin", dtype=np.uint8), np.cumsum(settings["bytes"])[:-1])
    beton, raw, original = folder / "images.beton", settings["raw"], original_field(folder)
    field = RGBImageField(write_mode="raw") if raw else original(write_mode="jpg")
    # A page must hold an image: with the default of 8 MB the writer waits at the first larger one and never returns.
    writer = DatasetWriter(str(beton), {"image": field, "row": IntField()}, num_workers=1, page_size=PAGE_BYTES)
    writer.from_indexed_dataset(Images(folder, encoded, plan["rows"], raw), shuffle_indices=False)
    decoder = planned_decoder(plan["boxes"].astype(np.int64))
    return Loader(
        str(beton),
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        custom_fields={} if raw else {"image": original},
        pipelines={
            "image": [decoder(tuple(settings["size"])), RandomHorizontalFlip(0.5), ToTensor()],
            "row": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )


def main(folder: Path, answers: TextIO) -> None:
    loader = open_loader(folder)
    print("ready", flush=True, file=answers)
    for _ in sys.stdin:
        rows: list[int] = []
        for _images, numbers in loader:
            rows += numbers.reshape(-1).tolist()
        print(json.dumps(rows), flush=True, file=answers)


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # FFCV prints progress bars
    main(Path(sys.argv[1]), answers)
