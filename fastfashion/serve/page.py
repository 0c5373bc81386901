"""The Gradio page: one image, many images, the run's test numbers, and how programs ask."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from fastfashion.csv_files import CsvWriter
from fastfashion.errors import FastfashionError, InputError
from fastfashion.images.codec import SUFFIXES, UNREAD_SUFFIXES
from fastfashion.runs.files import PLOTS, REPORT, read_report
from fastfashion.serve import render
from fastfashion.serve.limits import Limits
from fastfashion.serve.state import Look, State
from fastfashion.serve.store import AGE_S, Store
from fastfashion.words import why

if TYPE_CHECKING:
    import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")
# Behind a proxy, or from another machine, the page has another address than the server knows.
SHOW_ADDRESS = (
    "for (const code of element.querySelectorAll('pre')) code.textContent = code.textContent.replaceAll({}, new URL('.', location).href)"
)
WAITING = "Drop an image here, paste one, take one, or choose an example: the answer appears immediately."


def theme() -> Any:
    """Gradio's own, in the fonts that the reader's machine has."""
    import gradio as gr  # late: importing it changes Python's random state

    return gr.themes.Soft(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO, radius_size="sm").set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )


def build_page(state: State, store: Store, url: str) -> "gr.Blocks":
    """The page; its files are in `store`, and `url` is its future address."""
    import gradio as gr  # late: importing it changes Python's random state

    predictor = state.predictor
    with gr.Blocks(title="fastfashion", analytics_enabled=False) as page:
        gr.HTML(render.html("page_title", run=state.run.resolve().name, description=predictor.description, classes=predictor.classes))
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("One image", id="one"):
                _one(state, store)
            with gr.Tab("Many images", id="many"):
                _many(state, store)
            with gr.Tab("Test results", id="results"):
                gr.HTML(results(state.run), elem_id="results")
            with gr.Tab("HTTP API", id="api"):
                text = render.html("api", url=url, task=next(iter(predictor.classes)), limits=limits_text(state.limits))
                gr.HTML(text, js_on_load=SHOW_ADDRESS.format(json.dumps(url)))
    page.queue(max_size=state.limits.queue, default_concurrency_limit=4, api_open=False)
    return page


def limits_text(limits: Limits) -> str:
    return (
        f"An image may have {limits.image_bytes / 1e6:.0f} MB and {limits.image_pixels / 1e6:.0f} million pixels, a batch "
        f"{limits.batch_files} images, a request {limits.request_bytes / 1e6:.0f} MB; {limits.queue} requests may wait. "
        f"Uploads are deleted after {AGE_S // 60} minutes."
    )


def _one(state: State, store: Store) -> None:
    import gradio as gr  # late: importing it changes Python's random state

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            image = gr.Image(
                label="Image",
                type="filepath",
                image_mode=None,
                sources=["upload", "webcam", "clipboard"],
                height=340,
                elem_id="image",
                buttons=[],
            )
            _only_uploads(image)
            if examples := make_examples(state, store.examples):
                gr.Examples([[str(path)] for path in examples], [image], label="Examples, from the test part", elem_id="examples")
        with gr.Column(scale=3, min_width=300):
            answers = gr.HTML(render.note(WAITING), elem_id="answers")
    shown = [answers, gr.HTML(elem_id="maps"), gr.HTML(elem_id="nearest")]

    async def answer(path: str | None) -> Sequence[str]:
        if not path:
            return render.note(WAITING), "", ""
        try:
            look = await state.look(Path(path))
        except FastfashionError as error:
            return render.error(str(error)), "", ""
        return await asyncio.to_thread(show, look)

    def show(look: Look) -> Sequence[str]:
        return render.html("answers", look=look), render.overlays(look), render.nearest(look, state.products, state.no_products)

    # As many at once as the gate admits: a request that waits for a large image holds no thread.
    image.change(
        answer, [image], shown, api_visibility="private", show_progress="minimal", trigger_mode="always_last", concurrency_limit=None
    )


def _many(state: State, store: Store) -> None:
    import gradio as gr  # late: importing it changes Python's random state

    limits = state.limits
    hint = f"Up to {limits.batch_files} images at once, as files or in a zip, {limits.request_bytes / 1e6:.0f} MB in all."
    gr.HTML(render.html("text", text=hint))
    files = gr.File(
        label="Images or a zip", file_count="multiple", file_types=[*SUFFIXES, *UNREAD_SUFFIXES, ".zip"], height=200, elem_id="files"
    )
    _only_uploads(files)
    with gr.Row():
        ask = gr.Button("Answer", variant="primary", elem_id="ask")
        save = gr.DownloadButton("Save as CSV", interactive=False, elem_id="save")
    table = gr.HTML(elem_id="table")
    tasks = list(state.predictor.classes)

    def answer(paths: Sequence[str] | None, progress: gr.Progress = gr.Progress()) -> tuple[str, Any]:  # noqa: B008 (Gradio's way)
        if not paths:
            return render.note("Choose images or a zip first."), gr.DownloadButton(interactive=False)
        started, lines = time.perf_counter(), []
        try:
            for line in state.batch([Path(path) for path in paths]):
                lines.append(line)
                progress((len(lines), None), desc="images answered", unit="images")
            seconds = time.perf_counter() - started
            path = store.put("answers.csv", lambda path: write_csv(path.parent, [line.record for line in lines], tasks))
        except (FastfashionError, OSError) as error:
            return render.error(why(error)), gr.DownloadButton(interactive=False)
        return render.batch_table(lines, tasks, seconds), gr.DownloadButton(value=str(path), interactive=True)

    ask.click(answer, [files], [table, save], api_visibility="private")


def write_csv(folder: Path, records: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Path:
    """Write a CSV file with the columns of `fastfashion predict --top 1 --format csv`."""
    path = folder / "answers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = CsvWriter(file)
        writer.write([["path", *(name for task in tasks for name in (task, f"{task}_probability")), "error"]])
        for record in records:
            best = [record["answers"][task][0] if record["answers"] else {"label": "", "probability": ""} for task in tasks]
            cells = [value for one in best for value in (one["label"], one["probability"])]
            writer.write([[record["path"], *cells, record["error"] or ""]])
    return path


def make_examples(state: State, folder: Path) -> list[Path]:
    """A few images of the test part, as files; none if the packed set is not available."""
    if state.products is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, data in enumerate(state.products.examples()):
        found.append(folder / f"example-{number + 1}.jpg")
        found[-1].write_bytes(data)
    return found


def _only_uploads(component: Any) -> None:
    """Let a component take only uploads, and pass on their paths unread.

    Gradio would decode an image before its size is known to be harmless, and fetch addresses that a program sends in place of files.
    questions.py lets nothing through but files of the store, and Gradio checks them again before it calls this.
    """
    import gradio as gr  # late: importing it changes Python's random state

    async def move_uploaded(path: Any) -> str:
        if "://" in str(path)[:16]:
            raise gr.Error("the server fetches no addresses: upload the file")
        return str(path)

    component.async_move_resource_to_block_cache = move_uploaded
    if isinstance(component, gr.Image):
        component.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]


def results(run: Path) -> str:
    """A run's test numbers and plots as HTML, or why they cannot be shown."""
    try:
        return render.results(read_report(run), str(run), plots(run))
    except InputError as error:
        return render.note(str(error))
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        why = f"another version of fastfashion wrote it: {type(error).__name__}: {error}"
        return render.note(f"{run / REPORT}: cannot be shown ({why}); test the run again: fastfashion evaluate {run}")


def plots(run: Path) -> dict[str, list[str]]:
    """File names of a run's plots, by the label they are of."""
    groups: dict[str, list[str]] = {}
    for path in sorted((run / PLOTS).glob("*.png")):
        kind, _, task = path.stem.partition("_")
        groups.setdefault(task or kind, []).append(path.name)
    return groups
