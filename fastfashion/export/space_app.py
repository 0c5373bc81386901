"""A page that says what a product photograph shows, with the model in this folder.

pip install -r requirements.txt
python app.py
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

HERE = Path(__file__).parent
TOP = 5  # answers shown of each question
MOST_PIXELS = 50_000_000
MOST_BYTES = "20mb"


class Model:
    """model.onnx: it names its classes and its input itself, and holds no code."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        about = json.loads(self.session.get_modelmeta().custom_metadata_map["fastfashion"])
        self.classes: dict[str, list[str]] = about["classes"]
        self.input: str = about["input"]["name"]
        _, self.height_px, self.width_px, _ = about["input"]["shape"]
        self.fit: dict[str, Any] = about["fit"]

    def answer(self, image: Image.Image) -> list[dict[str, float]]:
        """For each question the probability of each of its classes."""
        pixels = np.asarray(fitted(upright(image), self.height_px, self.width_px, **self.fit))
        answers = self.session.run(list(self.classes), {self.input: pixels[None]})
        return [dict(zip(names, values[0].tolist(), strict=True)) for names, values in zip(self.classes.values(), answers, strict=True)]


def fitted(image: Image.Image, height_px: int, width_px: int, mode: str, crop_pct: float, pad_color: list[int]) -> Image.Image:
    """An image of the model's size: squashed, cropped in the middle, or padded; as in training."""
    bilinear = Image.Resampling.BILINEAR
    if mode == "pad":
        high, wide = height_px, width_px
        if image.width * height_px > image.height * width_px:
            high = max(1, round(image.height / image.width * width_px))
        else:
            wide = max(1, round(image.width / image.height * height_px))
        padded = Image.new("RGB", (width_px, height_px), tuple(pad_color))
        padded.paste(image.resize((wide, high), bilinear), (round((width_px - wide) / 2), round((height_px - high) / 2)))
        return padded
    if mode == "crop":
        scale = min(image.height / height_px, image.width / width_px)
        high, wide = max(1, round(crop_pct * (scale * height_px))), max(1, round(crop_pct * (scale * width_px)))
        top, left = (image.height - high) // 2, (image.width - wide) // 2
        image = image.crop((left, top, left + wide, top + high))
    return image.resize((width_px, height_px), bilinear)


def upright(image: Image.Image) -> Image.Image:
    """RGB in sRGB, turned as the camera was held, transparency over white: as in training."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError("an image of more than 16 bits a sample: save it with 8")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    image = in_srgb(image, profile).convert("RGB")
    if alpha:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A profile that is damaged, or of another kind of image, counts as none."""
    space = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get((profile or b"")[16:20])
    if not profile or space != image.mode:
        return image
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, target, space, "RGB", renderingIntent=intent).apply(image)
    except (OSError, ImageCms.PyCMSError):
        return image


def page(model: Model) -> Any:
    """One image in, a box of bars for each question out; also as an HTTP API, under /answer."""
    import gradio as gr

    def answer(path: str | None) -> Any:
        if path is None:
            raise gr.Error("Choose an image first.")
        try:
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise gr.Error(f"This image has more than {MOST_PIXELS // 1_000_000} million pixels.")
                answers = model.answer(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise gr.Error("This is not an image that can be read.") from error
        return answers[0] if len(answers) == 1 else answers

    examples = sorted(str(path) for path in (HERE / "examples").glob("*.jpg"))
    with gr.Blocks(title="What does this product photograph show?") as blocks:
        gr.Markdown("# What does this product photograph show?")
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="filepath", image_mode=None, label="Image", sources=["upload", "clipboard", "webcam"])
                ask = gr.Button("Answer", variant="primary")
            with gr.Column():
                bars = [gr.Label(num_top_classes=TOP, label=question) for question in model.classes]
        ask.click(answer, image, bars, api_name="answer")
        image.upload(answer, image, bars, api_visibility="private")
        if examples:
            gr.Examples(examples, image)
    return blocks


def main() -> None:
    page(Model(HERE / "model.onnx")).queue(max_size=64).launch(max_file_size=MOST_BYTES, show_error=True)


if __name__ == "__main__":
    main()
