"""The rates and the sweep of the GPU check: how fast the loaders are, how busy the GPU is then, and which settings are best.

Every measurement is in steady state: batches are taken without end, epoch after epoch, and the clock starts when the queues that were
filled while nobody took from them are empty; torch.cuda.synchronize comes before both of its readings.
"""

import importlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count, product
from typing import Any

import numpy as np
import torch

from fastfashion.bench import spread
from fastfashion.config import AugmentConfig
from fastfashion.errors import ConfigError
from fastfashion.load import Batch, Loader
from gpu_record import Check, Record
from gpu_sets import STOCKS, Stock, long_rows, make_spec, stock_of

BACKENDS = ("dali", "threads", "resident")
REACH_OF = "one H200, 16 cores"
SAMPLE_S = 0.2
FINALISTS = 3
SWEPT = ("224", "photos")

Cell = tuple[float | None, int]  # hw_decoder_load, threads


def rates(record: Record) -> None:
    """Images a second of each set and backend, one at a time."""
    scale = record.check.scale
    for stock, backend in product(STOCKS, BACKENDS):
        needs_s = 4 + scale.rounds * 1.5 * scale.seconds
        record.attempt(f"{stock.name}, {backend}", needs_s, partial(_rate_of, record.check, stock, backend))


def _rate_of(check: Check, stock: Stock, backend: str) -> dict[str, Any]:
    rows = None if backend == "resident" else long_rows(check, stock)  # a row that comes twice would be kept twice
    spec = make_spec(check, stock, device=check.torch_device, augment=AugmentConfig(), rows=rows, backend=backend)
    first_s = None
    with closing(Loader(spec)) as loader, Utilisation(check) as used:
        if backend == "resident":
            started = time.perf_counter()
            for _ in loader.steps(0):
                pass
            wait(check)
            first_s = round(time.perf_counter() - started, 2)
        by_round = [one_round(check, endless(loader, 1), used=used) for _ in range(check.scale.rounds)]
    found: dict[str, Any] = {"set": stock.name, "backend": backend, "size": str(stock.size), "batch_size": spec.plan.batch_size}
    found |= spread(by_round, 1, "images_per_s")
    if first_s is not None:
        found["first_epoch_s"] = first_s
    return found | {"used": used.summary(), "reach": _reach(stock, backend, found["images_per_s"])}


def _reach(stock: Stock, backend: str, measured: float) -> dict[str, Any] | None:
    if backend not in stock.reach:
        return None
    target = stock.reach[backend]
    return {"images_per_s": target, "on": REACH_OF, "measured_is": round(measured / target, 3)}


def sweep(record: Record) -> None:
    """DALI's hw_decoder_load and threads, a round each; then the best ones and the default again, in turns."""
    check, scale = record.check, record.check.scale
    if not check.with_dali:
        record.skip("the whole stage", "without DALI there is nothing to sweep")
        return
    threads = sorted({min(number, check.threads) for number in scale.sweep_threads})
    stocks = [stock_of(name) for name in SWEPT]
    found: dict[str, dict[Cell, float]] = {stock.name: {} for stock in stocks}
    final_s = (FINALISTS + 1) * (1 + scale.rounds * 2 * scale.sweep_seconds)
    for load, number, stock in product(scale.hw_loads, threads, stocks):
        name = f"{stock.name}, hw_decoder_load {'default' if load is None else load}, threads {number}"
        needs_s = 1 + 2 * scale.sweep_seconds + len(stocks) * final_s  # time must be left for the last word
        row = record.attempt(name, needs_s, partial(_cell, check, stock, (load, number)))
        if row is not None:
            found[stock.name][load, number] = row["images_per_s"]
    record.values["best"] = {}
    for stock in stocks:
        cells = found[stock.name]
        best = sorted(cells, key=lambda cell: -cells[cell])[:FINALISTS]
        finalists = list(dict.fromkeys([*best, *({(None, threads[-1])} & cells.keys())]))
        row = record.attempt(f"{stock.name}, the best again", final_s, partial(_final, check, stock, finalists)) if cells else None
        if row is not None:
            record.values["best"][stock.name] = row["finalists"][0]
            record.publish()


def _open_cell(check: Check, stock: Stock, cell: Cell) -> Loader:
    rows = long_rows(check, stock)
    spec = make_spec(check, stock, device=check.torch_device, augment=AugmentConfig(), rows=rows, backend="dali")
    return Loader(replace(spec, hw_decoder_load=cell[0], workers=cell[1]))


def _cell(check: Check, stock: Stock, cell: Cell) -> dict[str, Any]:
    with closing(_open_cell(check, stock, cell)) as loader, Utilisation(check) as used:
        rate = one_round(check, endless(loader), used=used, seconds=check.scale.sweep_seconds)
    return {"set": stock.name, "hw_decoder_load": cell[0], "threads": cell[1], "images_per_s": round(rate, 1), "used": used.summary()}


def _final(check: Check, stock: Stock, cells: list[Cell]) -> dict[str, Any]:
    """Rounds in turns, best first by the median."""
    by_round: dict[Cell, list[float]] = {cell: [] for cell in cells}
    with ExitStack() as stack:
        loaders = {cell: stack.enter_context(closing(_open_cell(check, stock, cell))) for cell in cells}
        for number, cell in product(range(check.scale.rounds), cells):
            by_round[cell].append(one_round(check, endless(loaders[cell], number), seconds=check.scale.sweep_seconds))
    rows = [{"hw_decoder_load": cell[0], "threads": cell[1], **spread(found, 1, "images_per_s")} for cell, found in by_round.items()]
    rows.sort(key=lambda row: -row["images_per_s"])
    short = f"hw_decoder_load {rows[0]['hw_decoder_load']}, threads {rows[0]['threads']}: {rows[0]['images_per_s']:,.0f}/s"
    return {"set": stock.name, "in_short": short, "finalists": rows}


def endless(loader: Loader, first: int = 0) -> Iterator[Batch]:
    for epoch in count(first):
        yield from loader.steps(epoch)


def one_round(
    check: Check,
    batches: Iterator[Batch],
    consume: Callable[[Batch], object] | None = None,
    used: "Utilisation | None" = None,
    seconds: float | None = None,
) -> float:
    """Images a second of taking batches, and of `consume`; the iterator is closed."""
    seconds = seconds or check.scale.seconds

    def take(seconds: float) -> float:
        wait(check)
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            batch = next(batches)
            if consume is not None:
                consume(batch)
            images += len(batch.rows)
        wait(check)
        return images / (time.perf_counter() - started)

    try:
        take(seconds / 3)  # what was queued up, first kernels, memory of the allocator
        if used is None:
            return take(seconds)
        with used.counting():
            return take(seconds)
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def wait(check: Check) -> None:
    if check.device == "cuda":
        torch.cuda.synchronize()


class Utilisation:
    """How busy the GPU and its JPEG engines are, in percent, sampled while rounds are counted; by NVML, or else by nvidia-smi.

    NVML says in what share of its last period (1/6 to 1 s) any kernel ran, not how many of the multiprocessors did.
    """

    def __init__(self, check: Check) -> None:
        self._cuda = check.device == "cuda"
        self._samples: list[tuple[float, float | None]] = []  # GPU, JPEG engines
        self._counting, self._stop = threading.Event(), threading.Event()
        self._by, self._why = "", "no GPU: the device is a CPU"
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Utilisation":
        if self._cuda:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._cuda:
            self._thread.join(timeout=5)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """While it lasts, samples count."""
        self._counting.set()
        try:
            yield
        finally:
            self._counting.clear()

    def summary(self) -> dict[str, Any]:
        if not self._samples:
            return {"gpu_percent": None, "jpeg_engines_percent": None, "why": self._why}
        gpu, jpeg = zip(*self._samples, strict=True)
        engines = [value for value in jpeg if value is not None]
        return {
            "gpu_percent": round(float(np.mean(gpu)), 1),
            "jpeg_engines_percent": round(float(np.mean(engines)), 1) if engines else None,
            "samples": len(self._samples),
            "by": self._by,
        }

    def _sample(self) -> None:
        self._why = "no sample was taken while a round ran"
        try:
            self._sample_nvml()
        except Exception as nvml:  # no pynvml, no permission, an old driver: each has its own type
            try:
                self._sample_smi()
            except (OSError, ValueError, AttributeError) as smi:
                self._why = f"neither pynvml ({nvml}) nor nvidia-smi ({smi}) could be asked"

    def _sample_nvml(self) -> None:
        pynvml: Any = importlib.import_module("pynvml")  # not installed everywhere, and without types
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid())
        self._by = "NVML"
        while not self._stop.wait(SAMPLE_S):
            if self._counting.is_set():
                gpu = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
                try:
                    jpeg = float(pynvml.nvmlDeviceGetJpgUtilization(handle)[0])
                except Exception:  # pynvml or the driver is older than this question
                    jpeg = None
                self._samples.append((float(gpu), jpeg))

    def _sample_smi(self) -> None:
        often, query = ["-lms", str(int(SAMPLE_S * 1000))], ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        asked = ["nvidia-smi", "-i", _uuid(), *query, *often]
        self._by = "nvidia-smi"
        with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if self._stop.is_set():
                        break
                    if self._counting.is_set():
                        self._samples.append((float(line), None))
            finally:
                process.terminate()  # it would never end


def _uuid() -> str:
    """By which both know the GPU that torch calls 0, whatever CUDA_VISIBLE_DEVICES says."""
    return f"GPU-{str(torch.cuda.get_device_properties(0).uuid).removeprefix('GPU-')}"


def try_open(check: Check, stock: Stock, backend: str, **changes: Any) -> Loader | str:
    """A loader of the set, or why there is none."""
    rows = None if backend == "resident" else long_rows(check, stock)
    try:
        return Loader(make_spec(check, stock, device=check.torch_device, augment=AugmentConfig(), rows=rows, backend=backend, **changes))
    except ConfigError as error:
        return str(error)
