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

    def answer(self, picture: Image.Image) -> list[dict[str, float]]:
        """For each question the probability of each of its classes."""
        pixels = np.asarray(upright(picture).resize((self.width_px, self.height_px), Image.Resampling.BILINEAR))
        answers = self.session.run(list(self.classes), {self.input: pixels[None]})
        return [dict(zip(names, values[0].tolist(), strict=True)) for names, values in zip(self.classes.values(), answers, strict=True)]


def upright(picture: Image.Image) -> Image.Image:
    """RGB in sRGB, turned as the camera was held, transparency over white: as in training."""
    profile = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise ValueError("an image of more than 16 bits a sample: save it with 8")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    alpha = None
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode not in ("RGB", "L", "CMYK"):
        picture = picture.convert("RGB")
    picture = in_srgb(picture, profile).convert("RGB")
    if alpha:
        picture.putalpha(alpha)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture


def in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A profile that is damaged, or of another kind of image, counts as none."""
    space = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get((profile or b"")[16:20])
    if not profile or space != picture.mode:
        return picture
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.buildTransform(source, target, space, "RGB", renderingIntent=intent).apply(picture)
    except (OSError, ImageCms.PyCMSError):
        return picture


def page(model: Model) -> Any:
    """One picture in, a box of bars for each question out; also as an HTTP API, under /answer."""
    import gradio as gr

    def answer(path: str | None) -> Any:
        if path is None:
            raise gr.Error("Choose a picture first.")
        try:
            with Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise gr.Error(f"This picture has more than {MOST_PIXELS // 1_000_000} million pixels.")
                answers = model.answer(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise gr.Error("This is not a picture that can be read.") from error
        return answers[0] if len(answers) == 1 else answers

    examples = sorted(str(path) for path in (HERE / "examples").glob("*.jpg"))
    with gr.Blocks(title="What does this product photograph show?") as blocks:
        gr.Markdown("# What does this product photograph show?")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(type="filepath", image_mode=None, label="Picture", sources=["upload", "clipboard", "webcam"])
                ask = gr.Button("Answer", variant="primary")
            with gr.Column():
                bars = [gr.Label(num_top_classes=TOP, label=question) for question in model.classes]
        ask.click(answer, picture, bars, api_name="answer")
        picture.upload(answer, picture, bars, api_visibility="private")
        if examples:
            gr.Examples(examples, picture)
    return blocks


def main() -> None:
    page(Model(HERE / "model.onnx")).queue(max_size=64).launch(max_file_size=MOST_BYTES, show_error=True)


if __name__ == "__main__":
    main()
