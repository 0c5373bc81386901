"""FFCV as a peer, in an interpreter of its own; imports nothing of this package. A line on stdin runs an epoch, whose rows are printed."""

import json
import sys
from pathlib import Path
from typing import TextIO

import numpy as np

PAGE_BYTES = 1 << 26


def main(folder: Path, answers: TextIO) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import IMAGE_MODES, RandomResizedCropRGBImageDecoder
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor
    from ffcv.writer import DatasetWriter

    settings = json.loads((folder / "settings.json").read_text())
    plan = np.load(folder / "plan.npz")
    encoded = np.split(np.fromfile(folder / "images.bin", dtype=np.uint8), np.cumsum(settings["bytes"])[:-1])
    boxes = plan["boxes"].astype(np.int64)

    class Original(RGBImageField):
        """The JPEG as it is: FFCV itself would encode it again."""

        def encode(self, destination, data, malloc):  # type: ignore[no-untyped-def]
            from PIL import Image

            with Image.open(folder / "one.jpg") as one:
                destination["width"], destination["height"] = one.size
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["data_ptr"], storage = malloc(data.nbytes)
            storage[:] = data

    class Images:
        def __len__(self) -> int:
            return len(encoded)

        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            import io

            from PIL import Image

            if settings["raw"]:
                return np.asarray(Image.open(io.BytesIO(encoded[index].tobytes())).convert("RGB")), int(plan["rows"][index])
            (folder / "one.jpg").write_bytes(encoded[index].tobytes())
            return encoded[index], int(plan["rows"][index])

    class Planned(RandomResizedCropRGBImageDecoder):
        """FFCV's own, but for the crop: that of the plan instead of one drawn."""

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

    beton = folder / "images.beton"
    field = RGBImageField(write_mode="raw") if settings["raw"] else Original(write_mode="jpg")
    # A page must hold an image: with the default of 8 MB the writer waits for ever at the first larger one.
    DatasetWriter(str(beton), {"image": field, "row": IntField()}, num_workers=1, page_size=PAGE_BYTES).from_indexed_dataset(
        Images(), shuffle_indices=False
    )
    loader = Loader(
        str(beton),
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        custom_fields={} if settings["raw"] else {"image": Original},
        pipelines={
            "image": [Planned(tuple(settings["size"])), RandomHorizontalFlip(0.5), ToTensor()],
            "row": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    print("ready", flush=True, file=answers)
    for _ in sys.stdin:
        rows: list[int] = []
        for _images, numbers in loader:
            rows += numbers.reshape(-1).tolist()
        print(json.dumps(rows), flush=True, file=answers)


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # FFCV prints progress bars
    main(Path(sys.argv[1]), answers)
