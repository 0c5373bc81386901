"""Answers as a table for people, CSV, JSON lines or Parquet, written as they come: there may be any number of them."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from fastfashion.bars import tqdm
from fastfashion.csv_files import CsvWriter, csv_rows
from fastfashion.errors import ConfigError
from fastfashion.files import publish
from fastfashion.predict.predictor import Answers
from fastfashion.terminal import as_it_is, printable

FORMATS = ("table", "csv", "jsonl", "parquet")
_DIGITS = 6  # of probabilities in text
_BAR = 10  # characters of a full bar


@dataclass
class Counts:
    """Number of images that were answered, and of those with an error."""

    images: int = 0
    errors: int = 0


def choose_format(asked: str, out: Path | None) -> str:
    """The requested format, or that of the file's name; raises ConfigError if it is unknown, or cannot be shown on a terminal."""
    by_name = out.suffix.lower().removeprefix(".") if out is not None else "table"
    form = asked if asked != "auto" else {"json": "jsonl", "ndjson": "jsonl", "txt": "table"}.get(by_name, by_name)
    if form not in FORMATS:
        found = f"--format {asked}" if asked != "auto" else f"--out {out}"
        raise ConfigError(f"{found}: expected one of {', '.join(FORMATS)}, as --format or as the end of the file's name")
    if form == "parquet" and out is None:
        raise ConfigError("--format parquet: a terminal cannot show it; name a file with --out")
    return form


def write_answers(
    answers: Iterable[Answers], classes: Mapping[str, Sequence[str]], form: str, out: Path | None, *, raw: bool = False
) -> Counts:
    """Write answers to a file, which appears when all is in it, with a bar on a terminal; or to stdout as they come.

    With `raw`, CSV cells that a spreadsheet would take for formulas stay as they are.
    """
    counts = Counts()
    if out is None:
        _write_text(_count(answers, counts), classes, form, as_it_is(sys.stdout) if raw else sys.stdout, raw)
        return counts

    def write(beside: Path) -> None:
        with tqdm(unit=" images", disable=None, dynamic_ncols=True, leave=False) as bar:
            counted = _count(answers, counts, bar.update)
            if form == "parquet":
                _write_parquet(counted, classes, beside)
                return
            with beside.open("w", newline="", encoding="utf-8") as file:
                _write_text(counted, classes, form, file, raw)

    out.parent.mkdir(parents=True, exist_ok=True)
    publish(out, write)
    return counts


def _count(answers: Iterable[Answers], counts: Counts, update: Callable[[int], object] = lambda images: None) -> Iterator[Answers]:
    for one in answers:
        counts.images += len(one.names)
        counts.errors += len(one.errors)
        update(len(one.names))
        yield one


def _shown(name: str) -> str:
    """A path as text that can be written; bytes that are not UTF-8 become \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def frame(answers: Answers, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One line an image: path; for each task the best class and its probability, then the second best's; error, or None."""
    columns: dict[str, Any] = {"path": np.array([_shown(name) for name in answers.names], dtype=object)}
    for task, codes in answers.codes.items():
        names = np.array([*classes[task], None], dtype=object)  # -1 picks the None
        for place in range(codes.shape[1]):
            column = task if place == 0 else f"{task}_{place + 1}"
            columns[column] = names[codes[:, place]]
            columns[f"{column}_probability"] = answers.probabilities[task][:, place]
    columns["error"] = np.array([answers.errors.get(i) for i in range(len(answers.names))], dtype=object)
    return pd.DataFrame(columns)


def records(answers: Answers, classes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """One value an image: `{"path", "answers": {task: [{"label", "probability"}, …]}, "error"}`; answers or error is None."""
    tasks = {task: (codes.tolist(), answers.probabilities[task].tolist()) for task, codes in answers.codes.items()}
    for i, name in enumerate(map(_shown, answers.names)):
        if i in answers.errors:
            yield {"path": name, "answers": None, "error": answers.errors[i]}
            continue
        yield {
            "path": name,
            "answers": {
                task: [
                    {"label": classes[task][code], "probability": round(share, _DIGITS)}
                    for code, share in zip(codes[i], shares[i], strict=True)
                ]
                for task, (codes, shares) in tasks.items()
            },
            "error": None,
        }


def _write_text(answers: Iterable[Answers], classes: Mapping[str, Sequence[str]], form: str, file: TextIO, raw: bool) -> None:
    for number, one in enumerate(answers):
        if form == "csv":
            table, writer = frame(one, classes), CsvWriter(file, raw=raw)
            if number == 0:
                writer.write([table.columns])
            writer.write(csv_rows(table, _DIGITS))
        elif form == "jsonl":
            file.writelines(printable(json.dumps(record, ensure_ascii=False)) + "\n" for record in records(one, classes))
        else:
            file.writelines(line + "\n" for record in records(one, classes) for line in _lines(record))
        file.flush()


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    """An image's lines in the table for people."""
    yield printable(record["path"])
    if record["error"] is not None:
        yield f"  error: {printable(record['error'])}"
        return
    width = max(map(len, record["answers"]), default=0)
    for task, best in record["answers"].items():
        bar = "█" * math.ceil(best[0]["probability"] * _BAR)
        cells = [f"{printable(one['label'])} {100 * one['probability']:.0f} %" for one in best]
        yield f"  {task:<{width}}  {bar:<{_BAR}}  {cells[0]:<28}" + "   ".join(cells[1:])


def _write_parquet(answers: Iterable[Answers], classes: Mapping[str, Sequence[str]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for one in answers:
            table = frame(one, classes)
            kinds = {name: pa.float32() if kind == np.float32 else pa.string() for name, kind in table.dtypes.items()}
            batch = pa.Table.from_pandas(table, schema=pa.schema(kinds.items()), preserve_index=False)
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        pq.write_table(pa.table({"path": pa.array([], pa.string())}), path)
