"""What tools/gpu_check.sh runs: everything that needs a GPU, in stages, each in a process of its own and with a time limit.

sets ─► rates ─► sweep ─► training ─► runs        each ─► OUT/gpu-<stage>-<device>-<cores>-cores.json

A stage must end by its share of all the time, counted from the start, so that the next stage gets what one leaves over. What does not
fit any more is in the record as skipped, with the reason. A stage that hangs or crashes is killed, and the others run.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from fastfashion.dist import cores_per_process
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.tables import table_text
from gpu_record import COMPLETE, FULL, TINY, Check, Record

# Module, function, weight among the stages' shares of the time, seconds below which it is not started, and what the record holds.
STAGES: dict[str, tuple[str, str, float, float, str]] = {
    "sets": ("gpu_sets", "prepare", 17, 5, "the packed sets that the other stages use, and where their images are from"),
    "rates": ("gpu_rates", "rates", 15, 10, "images a second of each set and backend, augmented, in steady state"),
    "sweep": ("gpu_rates", "sweep", 18, 10, "images a second of DALI by hw_decoder_load and threads"),
    "training": ("gpu_train", "training", 19, 20, "images a second of training at 224, by what feeds it, against one batch on the device"),
    "runs": ("gpu_train", "runs", 13, 20, "short runs of fastfashion train on the small set"),
}
PRELOADED = ("torch", "timm", "gpu_sets", "gpu_rates", "gpu_train")
GRACE_S = 3  # after its time, before a stage is killed
MARGIN_S = 4  # of the whole: for killing, and removing the sets
REAL_ZIP_VARIABLE = "FASTFASHION_REAL_ZIP"
REAL_ZIP_DEFAULT = Path(__file__).parents[1] / "../shared/data/fashion-product-images-small.zip"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; returns 0 if all went well, 1 if something failed, 2 for wrong options."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    started = time.monotonic()
    try:
        with _sigterm_raises(), _sets_folder(options.sets) as sets:
            check = make_check(options, sets, given)
            records = [path for path in _run_stages(check, options.only, started, options.seconds) if path is not None]
    except FastfashionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _conclude(records, time.monotonic() - started)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/gpu_check.sh", description="Check and measure everything that needs a GPU.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the records, one JSON file per stage")
    parser.add_argument("--sets", type=Path, help="folder to make and keep the packed sets in; default: a temporary one")
    parser.add_argument("--only", default=",".join(STAGES), help=f"stages, separated by commas: {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=570, help="time limit for everything; default: 570")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use a few dozen images: try the check itself, measure nothing")
    parser.add_argument("--without-dali", action="store_true", help="measure the other backends where DALI is not installed")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := [name for name in options.only if name not in STAGES]:
        parser.error(f"--only {','.join(unknown)}: there are {', '.join(STAGES)}")
    return options


def make_check(options: argparse.Namespace, sets: Path, given: Sequence[str]) -> Check:
    """Raises ConfigError if the device is not there, or OUT is a file."""
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"torch {torch.__version__} sees no CUDA device here; try the check itself with --device cpu --tiny")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"{options.out}: expected a folder for the records, found a file")
    options.out.mkdir(parents=True, exist_ok=True)
    real = Path(os.environ.get(REAL_ZIP_VARIABLE, REAL_ZIP_DEFAULT))
    return Check(
        out=options.out.absolute(),
        sets=sets.absolute(),
        device=options.device,
        scale=TINY if options.tiny else FULL,
        threads=cores_per_process(1),
        real_zip=real if real.is_file() and not options.tiny else None,
        with_dali=not options.without_dali,
        command=_command(options),
    )


def _command(options: argparse.Namespace) -> str:
    """The command, without places on this machine's disk."""
    words = ["tools/gpu_check.sh", "OUT", *(["--sets", "SETS"] if options.sets else [])]
    if options.only != list(STAGES):
        words += ["--only", ",".join(options.only)]
    if options.seconds != 570:
        words += ["--seconds", f"{options.seconds:g}"]
    words += ["--device", "cpu"] if options.device == "cpu" else []
    return shlex.join(words + ["--tiny"] * options.tiny + ["--without-dali"] * options.without_dali)


def _run_stages(check: Check, names: Sequence[str], started: float, seconds: float) -> Iterator[Path]:
    """Run the stages in turn; gives each one's record."""
    context = get_context("forkserver")  # one process imports torch, and every stage is forked from it
    context.set_forkserver_preload(list(PRELOADED))
    device = _device_slug(check)
    total, done = sum(STAGES[name][2] for name in names), 0.0
    for name in names:
        done += STAGES[name][2]
        ends_at = started + (seconds - MARGIN_S) * done / total
        path = check.out / f"gpu-{name}-{device}-{check.threads}-cores.json"
        record = Record(path=path, check=check, stage=name, ends_at=ends_at)
        path.unlink(missing_ok=True)
        left_s, needs_s = ends_at - time.monotonic(), STAGES[name][3]
        if left_s < needs_s:
            record.begin(STAGES[name][4])
            record.skip("the whole stage", f"needs {needs_s:.0f} s at least, {max(0.0, left_s):.0f} s are left for it")
            record.end()
        else:
            _run_stage(context, record)
        yield path


def _run_stage(context: ForkServerContext, record: Record) -> None:
    """In a process of its own, with all that it starts; killed when it does not end in time."""
    process = context.Process(target=work, args=(record,))
    process.start()
    try:
        process.join(max(0.0, record.ends_at - time.monotonic()) + GRACE_S)
        late = process.is_alive()
    finally:
        assert process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, and nothing that it started is left
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # if it has not come to lead a group
        process.join()
    if late:
        record.cut_short("time limit reached: killed, with all its processes")
    elif process.exitcode:
        record.cut_short(f"the process ended with status {process.exitcode}")


def work(record: Record) -> None:
    """A stage, in its own process."""
    os.setsid()
    module, function, _, _, about = STAGES[record.stage]
    run: Callable[[Record], None] = getattr(importlib.import_module(module), function)
    import torch

    torch.set_num_threads(record.check.threads)
    record.begin(about)
    run(record)
    record.end()


def _device_slug(check: Check) -> str:
    if check.device == "cpu":
        return "cpu"
    import torch

    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


@contextlib.contextmanager
def _sets_folder(given: Path | None) -> Iterator[Path]:
    """The folder for packed sets; one that nobody named is removed in the end."""
    folder = given or Path(tempfile.mkdtemp(prefix="fastfashion-gpu-check-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if given is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the check as an exception, so that its stages end with it."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(records: Sequence[Path], seconds: float) -> int:
    """Say what is in the records; returns the exit status."""
    bad = 0
    rows, notes = [], []
    for path in records:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows.append([path.name, *(len(values[kind]) for kind in ("measured", "skipped", "failed"))])
        notes += [f"{kind}: {row['name']}: {row['why']}" for kind in ("skipped", "failed") for row in values[kind]]
        bad += len(values["failed"]) + (values["state"] != COMPLETE)
    print("", table_text(["record", "measured", "skipped", "failed"], rows), *notes, sep="\n")
    print(f"{seconds:.0f} s in all; {'nothing failed' if not bad else 'see above'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
