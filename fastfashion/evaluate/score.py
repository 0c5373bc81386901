"""Other people's predictions, scored as `evaluate` scores a run: a file of ids with labels or probabilities.

file ─► ids to rows of the set ─► tested rows of the protocol ─► scores with intervals ─► against a run, on the same rows
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.catalog import Vocab, ids_hash, joint_split
from fastfashion.catalog.csv_reader import read_csv
from fastfashion.catalog.ids import RowFinder, old_id, stem
from fastfashion.catalog.named_splits import ID_COLUMNS
from fastfashion.catalog.splits import Rule
from fastfashion.config import DataConfig
from fastfashion.csv_files import unescaped
from fastfashion.errors import FastfashionError, InputError
from fastfashion.evaluate import metrics
from fastfashion.evaluate.compare import against_run
from fastfashion.evaluate.intervals import bootstrap, bootstrap_predictions
from fastfashion.runs.trained_on import SetIdentity
from fastfashion.shards import PackedSet, open_viewed
from fastfashion.tables import table_text
from fastfashion.untrusted import read_limited
from fastfashion.words import counted, why

SUM_TOLERANCE = 0.02  # of a row's probabilities from 1: rounded ones
MAX_BYTES = 1 << 32
PARQUET = (".parquet", ".pq")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a file says of one label, a line each: class codes, or probabilities of all classes."""

    codes: np.ndarray  # int64 (n,), -1 for no answer
    probabilities: np.ndarray | None = None  # float64 (n, C), rows sum to 1


def score_file(predictions: Path, data: DataConfig, part: str = "test", against: Path | None = None) -> dict[str, Any]:
    """Score a file on the rows of a part of the split that `data` names; `against`: a run to compare it with on the rows both answer.

    A CSV or Parquet file with a column of ids, written as in the table or as names of images, and for each label a column `NAME` or
    `NAME_prediction`, or of one label alone `prediction` or `label`; or instead a column of probabilities for each class, `CLASS` or
    `NAME:CLASS`. Returns `{"predictions", "set", "split", "tasks": {task: scores as in a report}, "missing", "unknown",
    "against"}`; scores that need probabilities are None without them. Rows of the part that the file does not name are counted, not scored.
    Raises InputError, with the line, for another file, an unknown class and an id with two answers.
    """
    packed = open_viewed(data)
    table = _read(predictions)
    rows, unknown = _rows(predictions, table, packed)
    tasks = _tasks(predictions, table, packed, data)
    data = replace(data, task=",".join(tasks))
    split = joint_split(packed.columns, packed.vocab, tasks, data.split_tasks, Rule.of(data, lambda: packed.table))
    codes, found, missing = packed.vocab.codes(packed.columns, tasks), {}, {}
    answers: dict[str, pd.DataFrame] = {}
    for t, task in enumerate(tasks):
        claimed = _claimed(predictions, table, packed.vocab, task, alone=len(tasks) == 1)
        place = np.full(len(packed), -1)
        place[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        tested = np.sort(getattr(split, part)[task])
        answered = tested[(place[tested] >= 0) & (claimed.codes[np.maximum(place[tested], 0)] >= 0)]
        missing[task] = len(tested) - len(answered)
        if not len(answered):
            raise InputError(f"{predictions}: answers none of the {len(tested)} {part} rows of {task} that the {data.protocol} split has")
        labels, lines = codes[answered, t], place[answered]
        found[task] = _scores(labels, claimed, lines, packed.vocab.names(task)) | {
            "test_ids_sha256": ids_hash(packed.ids[answered].tolist())
        }
        names = np.array(packed.vocab.names(task), dtype=object)
        answers[task] = pd.DataFrame({"id": packed.ids[answered], "label": names[labels], "prediction": names[claimed.codes[lines]]})
    return {
        "predictions": str(predictions),
        "set": vars(SetIdentity.of(packed)),
        "split": {"protocol": data.protocol, "seed": data.protocol_seed, "by": list(data.split_tasks), "part": part},
        "tasks": found,
        "missing": missing,
        "unknown": len(unknown),
        "against": None if against is None else {"run": str(against), "tasks": against_run(against, answers)},
    }


def _scores(labels: np.ndarray, claimed: Claimed, lines: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """As a report has them; None for what needs probabilities."""
    predictions = claimed.codes[lines]
    confusion = metrics.confusion_matrix(labels, predictions, len(names))
    per_class = metrics.per_class(confusion)
    columns = (names, *(each.tolist() for each in (per_class.precision, per_class.recall, per_class.f1, per_class.support)))
    scores: dict[str, Any] = dict(metrics.confusion_scores(confusion))
    if claimed.probabilities is None:
        scores |= dict.fromkeys(("top3_accuracy", "calibration_error", "loss"))
        intervals = bootstrap_predictions(labels, predictions, len(names))
    else:
        shares = claimed.probabilities[lines]
        own = shares[np.arange(len(labels)), labels]
        scores |= {
            "top3_accuracy": float(metrics.top_k_hits(labels, shares, 3).mean()),
            "calibration_error": metrics.calibration_error(shares.max(axis=1), predictions == labels),
            "loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        }
        intervals = bootstrap(labels, shares)
    classes = [dict(zip(("name", "precision", "recall", "f1", "support"), line, strict=True)) for line in zip(*columns, strict=True)]
    return scores | {"intervals": {name: list(ends) for name, ends in intervals.items()}, "classes": classes}


def _read(path: Path) -> pd.DataFrame:
    """The file, texts as they are; the index is the number of a line, or of a row of Parquet from 1. The first column has the ids."""
    try:
        if path.suffix.lower() in PARQUET:
            table = pd.read_parquet(path)
            table.index = pd.RangeIndex(1, len(table) + 1)
        else:
            data = read_limited(path, MAX_BYTES)
            head = data[: data.find(b"\n") if b"\n" in data else None].decode("utf-8", "replace").lower().lstrip("\ufeff")
            cells = {cell.strip().strip('"') for cell in re.split(r"[,;\t|]", head)}
            file = read_csv(
                data, str(path), [next((name for name in ID_COLUMNS if name in cells), ID_COLUMNS[0])], "a column of ids is needed"
            )
            lines = [(number, [unescaped(cell).strip() for cell in fields]) for number, fields in file]
            if wrong := next((number for number, fields in lines if len(fields) != len(file.header)), None):
                raise InputError(
                    f"{path}, line {wrong}: expected {len(file.header)} fields; quotes belong around a field with a separator in it"
                )
            table = pd.DataFrame([fields for _, fields in lines], columns=file.header, index=[number for number, _ in lines])
    except FastfashionError:
        raise
    except OSError as error:
        raise InputError(f"{path}: not readable ({why(error)}); expected a CSV or Parquet file of ids and predictions") from error
    except Exception as error:  # pyarrow has many of its own
        raise InputError(f"{path}: not readable as Parquet ({' '.join(str(error).split())[:200]})") from error
    if not len(table):
        raise InputError(f"{path}: no line of predictions")
    table.columns = [str(name).strip() for name in table.columns]
    return table


def _line(path: Path, number: int) -> str:
    return f"{path}, {'row' if path.suffix.lower() in PARQUET else 'line'} {number}"


def _rows(path: Path, table: pd.DataFrame, packed: PackedSet) -> tuple[np.ndarray, list[str]]:
    """The row of the set of each line, int64 (n,), -1 if it has none, and those ids."""
    known = {name.lower(): name for name in table.columns}
    column = next((known[name] for name in ID_COLUMNS if name in known), None)
    if column is None:
        raise InputError(f"{path}: no column of ids ({', '.join(ID_COLUMNS[:4])}, …); it has {', '.join(map(str, table.columns[:8]))}")
    finder, rows, unknown, seen = RowFinder(packed.table), np.full(len(table), -1), list[str](), dict[int, int]()
    for number, cell in enumerate(table[column].astype(str)):
        row = next((row for each in (cell, stem(cell), old_id(cell)) if (row := finder.find(each)) is not None), None)
        if row is None:
            unknown.append(cell)
        elif row in seen:
            before = _line(path, int(table.index[seen[row]])).rpartition(", ")[2]
            raise InputError(f"{_line(path, int(table.index[number]))}: {cell} was answered in {before}; keep one answer")
        else:
            rows[number], seen[row] = row, number
    if not seen:
        raise InputError(f"{path}: none of its {len(table)} ids is in {packed.path}; expected ids such as {', '.join(packed.ids[:_SHOWN])}")
    return rows, unknown


def _tasks(path: Path, table: pd.DataFrame, packed: PackedSet, data: DataConfig) -> tuple[str, ...]:
    """The labels that are asked for; of all those that the file answers."""
    asked = packed.vocab.chosen(data.tasks)
    answered = tuple(task for task in asked if _columns(table, packed.vocab, task, alone=len(asked) == 1))
    if not answered or (len(answered) < len(asked) and data.task != "all"):
        missing = next(task for task in asked if task not in answered)
        expected = f"{missing} or {missing}_prediction" + (", prediction or label" if len(asked) == 1 else "")
        raise InputError(
            f"{path}: no column of {missing}: expected {expected}, or one for each class; it has {', '.join(table.columns[:8])}"
        )
    return answered


def _columns(table: pd.DataFrame, vocab: Vocab, task: str, *, alone: bool) -> str | dict[str, str]:
    """The column of a label's answers, or by class those of its probabilities; "" if there is neither."""
    wanted = (f"{task}_prediction", task, *(("prediction", "predicted", "pred", "label", "class") if alone else ()))
    known = set(table.columns)
    if column := next((name for name in wanted if name in known), ""):
        return column
    shares = {name: each for name in vocab.names(task) for each in (f"{task}:{name}", *((name,) if alone else ())) if each in known}
    return shares if len(shares) >= 2 else ""


def _claimed(path: Path, table: pd.DataFrame, vocab: Vocab, task: str, *, alone: bool) -> Claimed:
    columns, names = _columns(table, vocab, task, alone=alone), vocab.names(task)
    if isinstance(columns, str):
        texts = ["" if text is None else str(text) for text in table[columns]]
        place = {name: code for code, name in enumerate(names)} | {"": -1}
        for number, text in enumerate(texts):
            if text not in place:
                near = difflib.get_close_matches(text, names, n=3, cutoff=0.5)
                hint = f"did you mean {', '.join(near)}?" if near else f"there are {counted(len(names), 'class', 'classes')}"
                raise InputError(f"{_line(path, int(table.index[number]))}: {task} has no class {text!r}; {hint}")
        return Claimed(codes=np.array([place[text] for text in texts], dtype=np.int64))
    shares = np.zeros((len(table), len(names)))
    for name, column in columns.items():
        shares[:, names.index(name)] = pd.to_numeric(table[column], errors="coerce")
    sums = shares.sum(axis=1)
    wrong = ~np.isfinite(sums) | (shares < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.any():
        number = int(np.flatnonzero(wrong)[0])
        where = _line(path, int(table.index[number]))
        raise InputError(f"{where}: probabilities of {task} sum to {sums[number]:.4g}; expected 1, of numbers from 0 to 1")
    shares /= sums[:, None]
    return Claimed(codes=shares.argmax(axis=1), probabilities=shares)


def score_text(result: Mapping[str, Any]) -> str:
    """Scores as a table for people."""
    split = result["split"]
    what = f"{split['part']} rows of the {split['protocol']} split by {', '.join(split['by'])} of {result['set']['path']}"
    lines = [f"{result['predictions']}: {what}"]
    lines += [f"{task}: {counted(number, 'row')} without an answer, not scored" for task, number in result["missing"].items() if number]
    if result["unknown"]:
        lines.append(f"{counted(result['unknown'], 'id')} that the set does not have, left out")
    rows = []
    for task, values in result["tasks"].items():
        scores = [
            f"{values[name]:.4f} ({values['intervals'][name][0]:.3f}–{values['intervals'][name][1]:.3f})"
            for name in ("accuracy", "macro_f1")
        ]
        more = ["" if values[name] is None else f"{values[name]:.4f}" for name in ("top3_accuracy", "calibration_error")]
        rows.append([task, values["n"], *scores, *more])
    lines += ["", table_text(["task", "rows", "accuracy, 95 % interval", "macro F1, 95 % interval", "top 3", "calibration"], rows)]
    if result["against"]:
        lines += ["", f"this file minus {result['against']['run']}, on the rows of both:", ""]
        rows = []
        for task, values in result["against"]["tasks"].items():
            low, high = values["intervals"]["accuracy"]
            alone = (values["only_second_right"], values["only_first_right"])
            rows.append(
                [
                    task,
                    values["n"],
                    f"{values['difference']['accuracy']:+.4f} ({low:+.4f} to {high:+.4f})",
                    *alone,
                    f"{values['p_value']:.2g}",
                ]
            )
        lines.append(table_text(["task", "rows", "accuracy, 95 % interval", "only file", "only run", "p"], rows))
        lines += ["", "only file, only run: rows that one alone has right; p: McNemar's exact test that both are right equally often"]
    return "\n".join(lines)
