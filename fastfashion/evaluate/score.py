"""Other people's predictions, scored as `evaluate` scores a run: a file of ids with labels or probabilities.

file ─► ids to rows of the set ─► tested rows of the protocol ─► scores with intervals ─► against a run, on the same rows
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.catalog import Vocab, ids_hash, joint_split
from fastfashion.catalog.id_tables import IdTable, read_id_table
from fastfashion.catalog.splits import Rule
from fastfashion.config import ALL, DataConfig
from fastfashion.errors import InputError
from fastfashion.evaluate import metrics
from fastfashion.evaluate.compare import against_run
from fastfashion.evaluate.intervals import bootstrap, bootstrap_predictions
from fastfashion.runs.trained_on import SetIdentity
from fastfashion.shards import PackedSet, open_viewed
from fastfashion.tables import table_text
from fastfashion.words import counted, did_you_mean

SUM_TOLERANCE = 0.02  # of a row's probabilities from 1: rounded ones


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
    file = read_id_table(predictions)
    place, unknown = _places(file, packed)
    tasks = _tasks(file, packed, data)
    data = replace(data, task=",".join(tasks))
    split = joint_split(packed.columns, packed.vocab, tasks, data.split_tasks, Rule.of(data, lambda: packed.table))
    codes, found, missing = packed.vocab.codes(packed.columns, tasks), {}, {}
    answers: dict[str, pd.DataFrame] = {}
    for t, task in enumerate(tasks):
        claimed = _claimed(file, packed.vocab, task, alone=len(tasks) == 1)
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
        "set": asdict(SetIdentity.of(packed)),
        "split": {"protocol": data.protocol, "seed": data.protocol_seed, "by": list(data.split_tasks), "part": part},
        "tasks": found,
        "missing": missing,
        "unknown": unknown,
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


def _places(file: IdTable, packed: PackedSet) -> tuple[np.ndarray, int]:
    """The line about each row of the set, int64 (N,), -1 if there is none; and how many lines are about no row. Each row once."""
    rows, place = file.rows(packed.table), np.full(len(packed), -1)
    for line, row in enumerate(rows.tolist()):
        if row >= 0 and place[row] >= 0:
            before = file.line(int(place[row]))
            raise InputError(f"{file.where(line)}: {file.ids[line]} was answered in {before}; keep one answer")
        if row >= 0:
            place[row] = line
    return place, int((rows < 0).sum())


def _tasks(file: IdTable, packed: PackedSet, data: DataConfig) -> tuple[str, ...]:
    """The labels that are asked for; of all those that the file answers."""
    asked = packed.vocab.chosen(data.tasks)
    alone = len(asked) == 1
    answered = tuple(task for task in asked if _columns(file, packed.vocab, task, alone=alone))
    if not answered or (len(answered) < len(asked) and data.task != ALL):
        missing = next(task for task in asked if task not in answered)
        expected = f"{missing} or {missing}_prediction" + (", prediction or label" if alone else "") + ", or one for each class"
        raise InputError(f"{file.path}: no column of {missing}: expected {expected}; it has {', '.join(list(file.columns.columns)[:8])}")
    return answered


def _columns(file: IdTable, vocab: Vocab, task: str, *, alone: bool) -> str | dict[str, str]:
    """The column of a label's answers, or by class those of its probabilities; "" if there is neither."""
    if column := file.column((f"{task}_prediction", task, *(("prediction", "predicted", "pred", "label", "class") if alone else ()))):
        return column
    known = set(file.columns.columns)
    shares = {name: each for name in vocab.names(task) for each in (f"{task}:{name}", *((name,) if alone else ())) if each in known}
    return shares if len(shares) >= 2 else ""


def _claimed(file: IdTable, vocab: Vocab, task: str, *, alone: bool) -> Claimed:
    columns, names = _columns(file, vocab, task, alone=alone), vocab.names(task)
    if isinstance(columns, str):
        code = {name: code for code, name in enumerate(names)} | {"": -1}
        texts = file.texts(columns)
        for line, text in enumerate(texts):
            if text not in code:
                hint = did_you_mean(text, names, f"there are {counted(len(names), 'class', 'classes')}")
                raise InputError(f"{file.where(line)}: {task} has no class {text!r}; {hint}")
        return Claimed(codes=np.array([code[text] for text in texts], dtype=np.int64))
    shares = np.zeros((len(file.ids), len(names)))
    for name, column in columns.items():
        shares[:, names.index(name)] = pd.to_numeric(file.columns[column], errors="coerce")
    sums = shares.sum(axis=1)
    wrong = ~np.isfinite(sums) | (shares < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        raise InputError(f"{file.where(line)}: probabilities of {task} sum to {sums[line]:.4g}; expected 1, of numbers from 0 to 1")
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
            gained = f"{values['difference']['accuracy']:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append([task, values["n"], gained, *alone, f"{values['p_value']:.2g}"])
        lines.append(table_text(["task", "rows", "accuracy, 95 % interval", "only file", "only run", "p"], rows))
        lines += ["", "only file, only run: rows that one alone has right; p: McNemar's exact test that both are right equally often"]
    return "\n".join(lines)
