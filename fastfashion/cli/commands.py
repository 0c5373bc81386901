"""The commands, in the order of the flow: what runs for a request, and the text that a person reads of its result."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fastfashion import __version__, api, command_line
from fastfashion.command_line import Answer
from fastfashion.command_options import (
    AuditRequest,
    BenchLoaderRequest,
    CompareRequest,
    DoctorRequest,
    DownloadRequest,
    EvaluateRequest,
    ExportRequest,
    PredictRequest,
    PreviewRequest,
    ReproduceRequest,
    Request,
    ScoreRequest,
    ServeRequest,
    ShardRequest,
    SplitsRequest,
    SynthRequest,
    TrainRequest,
    VerifyRequest,
    WeightsRequest,
)
from fastfashion.extras import install, lacks
from fastfashion.scratch import nearest, scratch, signals_raise, temporary_files_in
from fastfashion.train.__main__ import EXAMPLE, train
from fastfashion.words import counted

R = TypeVar("R", bound=Request)

app = typer.Typer(
    help="Pack product images, train a classifier on them at full speed, and prove how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


def command(kind: type[R], name: str, example: str, doc: str | None = None) -> Callable[[Callable[[R], Answer | None]], None]:
    """Add a command; its help is the function's docstring, or that of the Python function `doc`."""

    def add(function: Callable[[R], Answer | None]) -> None:
        if doc is not None:
            function.__doc__ = doc.split("\n\nArguments:")[0]
        command_line.command(app, kind, name, example)(function)

    return add


@contextmanager
def _resumable(what: str) -> Iterator[None]:
    """Print that the same command resumes, if it is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(f"what is {what} is kept: the same command resumes from there", file=sys.stderr)
        raise


@command(DoctorRequest, "doctor", "fastfashion doctor")
def doctor(request: DoctorRequest) -> Answer:
    """Report what this machine has (GPU, driver, CUDA, DALI, cores, memory, disk, loader, Kaggle, Hub), and what to do about each gap.

    Exits with 1 if something that was promised cannot work here, such as a GPU that torch or DALI cannot use. A gap costs speed, or
    leaves another way: that exits with 0.
    """
    from fastfashion.doctor.doctor import examine, report_text

    report = examine(request.disk)
    return Answer(document=report.as_json(), text=report_text(report), is_report=True, status=0 if report.works else 1)


@command(DownloadRequest, "download", "fastfashion download small", api.download.__doc__)
def download(request: DownloadRequest) -> Answer:
    with _resumable("downloaded"):
        done = api.download.operation(request)
    how = "already there" if done.already_there else f"every file in it checked, {done.seconds:.0f} s"
    text = f"{done.out}: {counted(done.images, 'image')}, {done.num_bytes / 1e6:.1f} MB, {how}"
    return Answer(document=done, text=text)


@command(SynthRequest, "synth", "fastfashion synth --rows 1200 --size 800x600 --out data/synth", api.synth.__doc__)
def synth(request: SynthRequest) -> Answer:
    done = api.synth.operation(request)
    text = f"{request.out}: {counted(done.images, 'image')} of {request.size}, {done.num_bytes / 1e6:.1f} MB, {counted(done.rows, 'row')}"
    return Answer(document=done, text=text)


@command(ShardRequest, "shard", "fastfashion shard --res full --res 40 --out shards/small", api.shard.__doc__)
def shard(request: ShardRequest) -> Answer:
    from fastfashion.pack import dry_run
    from fastfashion.pack.engines import own_process
    from fastfashion.pack.text import dry_run_text, summary_text

    if request.dry_run:
        asked = api.pack_request(request)
        plan = dry_run(asked)
        return Answer(document=asdict(plan) | {"out": asked.out}, text=dry_run_text(plan))
    with _resumable("packed"), own_process():
        summary = api.shard.operation(request)
    return Answer(document=summary, text=summary_text(summary))


@command(
    VerifyRequest, "verify", "fastfashion verify shards/small --repair --source data/fashion-product-images-small.zip", api.verify.__doc__
)
def verify(request: VerifyRequest) -> Answer:
    from fastfashion.pack.engines import own_process
    from fastfashion.pack.text import verify_text

    with own_process():
        done: Any = api.verified(request, lambda text: print(text, file=sys.stderr, flush=True))
    return Answer(document=done, text=verify_text(request.shards, done), status=1 if done.damage else 0)


@command(AuditRequest, "audit", "fastfashion audit shards/small --out audit --run runs/NAME", api.audit.__doc__)
def audit(request: AuditRequest) -> Answer:
    from fastfashion import dist
    from fastfashion.audit.quality import FLAGGED, quality_text
    from fastfashion.audit.report import audit_text
    from fastfashion.audit.suspects import suspects_text

    report = api.audited(request, dist.start() if request.runs else dist.alone("cpu"))
    text = audit_text(report)
    if "quality" in report:
        text += f"\n\n{quality_text(report['quality'])}"
    if "label_errors" in report:
        text += f"\n\n{suspects_text(report['label_errors'])}"
    if request.out is not None:
        more = [FLAGGED, "a sheet for each finding"] if "quality" in report else []
        text += f"\n{request.out}: " + ", ".join(["audit.json", *(["duplicates.png"] if report["duplicates"]["groups"] else []), *more])
    return Answer(document=report, text=text, is_report=True)


@command(SplitsRequest, "splits", "fastfashion splits shards/small --task season --protocol reference --out splits.csv", api.splits.__doc__)
def splits(request: SplitsRequest) -> Answer:
    from fastfashion.catalog.splits import splits_text

    done = api.splits.operation(request)
    text = f"{done.out}: {splits_text(done.tasks)}".replace(": \n", ":\n")
    return Answer(document=done, text="\n".join(filter(None, (done.left_out, done.named, text))))


@command(PreviewRequest, "preview", "fastfashion preview shards/small --set augment.erase=0.3 --out preview.png", api.preview.__doc__)
def preview(request: PreviewRequest) -> Answer:
    done = api.preview.operation(request)
    text = f"{request.out}: {counted(len(done.rows), 'image')}, {done.height_px}x{done.width_px} pixels"
    return Answer(document=done, text=text)


command(TrainRequest, "train", EXAMPLE)(train)


@command(EvaluateRequest, "evaluate", "fastfashion evaluate runs/NAME", api.evaluate_run.__doc__)
def evaluate(request: EvaluateRequest) -> Answer | None:
    from fastfashion import dist
    from fastfashion.evaluate import evaluate_run
    from fastfashion.evaluate.report import report_text

    world = dist.start()
    try:
        with dist.lost_peer_explained(world):
            report = evaluate_run(request, world)
    finally:
        dist.stop()
    if not world.is_main:
        dist.end_worker(world)
        return None
    return Answer(document=report, text=report_text(request.run, report), is_report=True, after=lambda: dist.end_worker(world))


@command(CompareRequest, "compare", "fastfashion compare runs/FIRST runs/SECOND", api.compare.__doc__)
def compare(request: CompareRequest) -> Answer:
    from fastfashion.evaluate.compare import compare_text

    result = api.compare.operation(request)
    return Answer(document=result, text=compare_text(result.to_dict()), is_report=True)


@command(ScoreRequest, "score", "fastfashion score answers.csv shards/small --protocol reference --against runs/NAME")
def score(request: ScoreRequest) -> Answer:
    """Score the predictions of any model as evaluate scores a run, with intervals; compare them with a run on the same rows."""
    from fastfashion.evaluate.score import score_file, score_text

    result = score_file(request.predictions, request.data(request.shards, request.task), request.part, request.against)
    return Answer(document=result, text=score_text(result), is_report=True)


@command(ReproduceRequest, "reproduce", "fastfashion reproduce fashion-product-images shards/small --no-pretrained")
def reproduce(request: ReproduceRequest) -> Answer:
    """Train and test the runs behind published results, all or some; write one table and one image with both.

    The same command resumes and skips the runs that are done.
    """
    from fastfashion.config import ALL
    from fastfashion.evaluate.reproduce import ReproduceRequest as CellsRequest
    from fastfashion.evaluate.reproduce import reproduce as run_cells

    old = tuple(path for path in (request.small, request.full) if path is not None)
    flags = {"model.pretrained": None if request.pretrained else False, "train.epochs": request.epochs}
    cells = CellsRequest(
        name=request.published or ("fashion-product-images" if old else ""),
        shards=request.shards + old,
        out=request.out,
        tasks=request.tasks,
        models=request.model,
        protocols=request.protocol,
        recipe=request.recipe,
        heads=ALL if request.all_heads and request.recipe != "reference" else "",
        seeds=request.seeds,
        settings={key: value for key, value in flags.items() if value is not None} | request.settings,
        nproc=request.nproc,
        any_set=request.any_set,
        split_file=request.split_file or "",
    )
    result = run_cells(cells)
    plot = f"no table.png, which needs matplotlib: {install('report')}" if lacks("matplotlib") else "table.png"
    text = (request.out / "table.md").read_text(encoding="utf-8") + f"{request.out}: table.md, table.csv, table.json, {plot}"
    return Answer(document=result, text=text, is_report=True)


@command(PredictRequest, "predict", "fastfashion predict runs/NAME photos/ more.zip --out answers.csv")
def predict(request: PredictRequest) -> Answer:
    """Predict what images show, with calibrated probabilities. A file that cannot be read becomes a line with its error.

    Exits with 1 if no file could be read. With --json and without --out, the document holds the answers.
    """
    from fastfashion import dist
    from fastfashion.predict.inputs import find_inputs
    from fastfashion.predict.outputs import Counts, choose_format, records, write_answers
    from fastfashion.predict.predictor import Predictor

    chosen = choose_format(request.form, request.out)
    world = dist.start()
    predictor = Predictor(request.run, world.device, workers=request.workers, tasks=request.tasks)
    started = time.perf_counter()
    answers = predictor.answer(find_inputs(request.paths), top=request.top, batch_size=request.batch_size)
    document: dict[str, Any] = {"run": request.run, "out": request.out, "format": chosen}
    with signals_raise():
        if request.as_json and request.out is None:
            document["answers"] = found = [record for each in answers for record in records(each, predictor.classes)]
            counts = Counts(images=len(found), errors=sum(record["error"] is not None for record in found))
        else:
            counts = write_answers(answers, predictor.classes, chosen, request.out, raw=request.raw)
    seconds, read = time.perf_counter() - started, counts.images - counts.errors
    text = f"{read} of {counted(counts.images, 'image')} answered in {seconds:.1f} s"
    text += f"; {counts.errors} could not be read, each a row with its error" if counts.errors else ""
    document |= {"images": read, "errors": counts.errors, "seconds": round(seconds, 3), "images_per_s": round(read / max(1e-9, seconds), 1)}
    status = 1 if counts.errors and not read else 0
    return Answer(document=document, text=f"{request.out}: {text}" if request.out else text, status=status)


@command(ExportRequest, "export", "fastfashion export runs/NAME --to onnx --int8", api.export.__doc__)
def export(request: ExportRequest) -> Answer:
    out = request.out or Path(request.run) / "export" / request.to
    with signals_raise(), scratch(nearest(out)) as work, temporary_files_in(work):  # before timm is imported, which leaves folders there
        from fastfashion.export.export import export_text

        summary = api.export.operation(request)
    return Answer(document=summary, text=export_text(summary), is_report=True)


@command(WeightsRequest, "weights", "fastfashion weights resnet18.pth --model resnet18")
def weights(request: WeightsRequest) -> Answer:
    """Convert weights of torchvision, EfficientNet-PyTorch or Hugging Face transformers to what --weights takes.

    Names every tensor that does not map, and then writes nothing and exits with 1. `train --weights` converts by itself, too.
    """
    from fastfashion.config import ModelConfig
    from fastfashion.errors import ConfigError
    from fastfashion.model.convert import convert, describe, write_converted
    from fastfashion.model.weights import check_first_weights, read_weights, weights_file

    file = weights_file(str(request.file))
    check_first_weights(ModelConfig(name=request.model, weights=str(request.file)))
    found = convert(read_weights(file), request.model)
    out = request.out or file.with_name(f"{request.model}.safetensors")
    left = f", without its classifier ({', '.join(found.heads)})" if found.heads else ""
    text = f"{file}: {counted(len(found.tensors), 'tensor')} of {found.model} under the names of {found.family}{left}"
    if not found.is_whole:
        return Answer(document=describe(found, None), text=f"{text}; nothing was written, since these do not map:\n{found.text}", status=1)
    if out.resolve() == file.resolve():
        raise ConfigError(f"--out {out}: the file itself; name another")
    write_converted(found, out)
    images = "" if found.mean_std is None else f"; images are normalised with mean {found.mean_std[0]} and std {found.mean_std[1]}"
    return Answer(document=describe(found, out), text=f"{text}\n{out}: for --weights{images}")


@command(ServeRequest, "serve", "fastfashion serve runs/NAME --port 7860", api.serve.__doc__)
def serve(request: ServeRequest) -> None:
    def say(address: str) -> None:
        if request.as_json:  # stdout is stderr until the command has ended, which this one seldom does
            command_line.print_document({"run": request.run, "address": address}, sys.__stdout__ or sys.stdout)

    api.serve_with(request, os.environ, say)


@command(BenchLoaderRequest, "bench-loader", "fastfashion bench-loader shards/small")
def bench_loader(request: BenchLoaderRequest) -> Answer:
    """Compare the loaders with each other, with ImageFolder and a DataLoader, and with decoding alone."""
    from fastfashion.bench import BenchRequest, bench, table_text, write_record

    asked = BenchRequest(
        shards=request.shards,
        resolution=request.res,
        size=request.size,
        threads=request.workers,
        batch_size=request.batch_size,
        num_images=request.images,
        rounds=request.rounds,
        decoder=request.decoder,
        backends=request.backend,
        profile=request.profile,
    )
    with signals_raise():
        result = bench(asked)
    write_record(request.out, result)
    return Answer(document=result, text=table_text(result), is_report=True)
