"""Two runs compared on the test rows that both predicted.

predictions.parquet of each ─► join on id ─► McNemar's test, interval of each difference
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.errors import InputError
from fastfashion.evaluate.intervals import SCORES, bootstrap_difference, mcnemar
from fastfashion.evaluate.metrics import task_metrics
from fastfashion.files import unreadable
from fastfashion.runs.files import PREDICTIONS, REPORT, read_config, read_report
from fastfashion.runs.reads import count_read
from fastfashion.runs.trained_on import SetIdentity
from fastfashion.shards.parquet import TEXT, UnfitError, parse_table
from fastfashion.tables import table_text
from fastfashion.untrusted import read_limited

MAX_PREDICTIONS_BYTES = 1 << 30


def compare(first: Path, second: Path) -> dict[str, Any]:
    """How much better the second run is than the first, for each task of both, on the rows that both were tested on.

    Returns `{"runs": [a, b], "sets": [a, b], "tasks": {task: {"n", "tested", "first", "second", "difference", "intervals",
    "only_first_right", "only_second_right", "p_value"}}}`; differences are second minus first, with 95 % intervals; `tested` says how many
    rows each was tested on, `n` how many of them both. Raises InputError if a run is not evaluated, they share no task or no tested row,
    or were tested by different labels.
    """
    reports = [_tested(run) for run in (first, second)]
    tasks = [task for task in reports[0]["tasks"] if task in reports[1]["tasks"]]
    if not tasks:
        names = [", ".join(report["tasks"]) for report in reports]
        raise InputError(f"{first} and {second} have no task in common: expected one of {names[0]}, found {names[1]}")
    tables = [_predictions(run, report, tasks) for run, report in zip((first, second), reports, strict=True)]
    for run in (first, second):
        count_read(run, "compare")
    both = tables[0].merge(tables[1], on="id", suffixes=("_1", "_2"), validate="one_to_one")
    found = {task: _compare_task(_common((first, second), reports, both, task), tables, task) for task in tasks}
    # A report from before they named their set has none.
    return {"runs": [str(first), str(second)], "sets": [report.get("set") for report in reports], "tasks": found}


def against_run(run: Path, answers: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Somebody's answers against a run's, for each task of both, second minus first: the run is the first.

    answers: by task a table of id, label and prediction. Raises InputError if the run is not evaluated, no task or tested row is in
    both, or their labels differ.
    """
    report = _tested(run)
    tasks = [task for task in answers if task in report["tasks"]]
    if not tasks:
        raise InputError(f"{run} was tested on {', '.join(report['tasks'])}; expected one of {', '.join(answers)}")
    own, found = _predictions(run, report, tasks), {}
    count_read(run, "score")
    for task in tasks:
        other = answers[task].rename(columns={"label": f"{task}_label", "prediction": f"{task}_prediction"})
        both = own[["id", f"{task}_label", f"{task}_prediction"]].merge(other, on="id", suffixes=("_1", "_2"), validate="one_to_one")
        both = both[both[f"{task}_label_1"].notna()]
        if not len(both):
            raise InputError(f"{run} was tested on none of these rows for {task}; score them with the same --protocol, seed and --split-by")
        if wrong := int((both[f"{task}_label_1"] != both[f"{task}_label_2"]).sum()):
            raise InputError(f"{run} has different labels of {task} on {wrong} of {len(both)} rows: use the same corrections and view")
        found[task] = _compare_task(both, [own, other], task)
    return found


def _common(runs: tuple[Path, Path], reports: list[dict[str, Any]], both: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of a task that both runs were tested on. Raises InputError if there are none, or labels differ."""
    one, other = both[f"{task}_label_1"], both[f"{task}_label_2"]
    known = {report["tasks"][task].get("test_ids_sha256") for report in reports}
    if len(known) == 1 and None not in known:
        rows, differ = both, one.fillna("") != other.fillna("")
    else:  # a row without a label is one that the run was not tested on
        rows = both[one.notna() & other.notna()]
        differ = rows[f"{task}_label_1"] != rows[f"{task}_label_2"]
    if not len(rows):
        splits = [f"{report['split']['protocol']}, seed {report['split']['seed']}, by {report['split']['by']}" for report in reports]
        raise InputError(
            f"{runs[0]} and {runs[1]} were tested on different rows for {task} and have none in common ({splits[0]}; {splits[1]}): "
            "train both on one set, with the same --protocol, split seed and --split-by"
        )
    if wrong := int(differ.sum()):
        raise InputError(
            f"{runs[0]} and {runs[1]} have different labels of {task} on {wrong} of {len(rows)} test rows: "
            "train and test both with the same --corrections"
        )
    return rows


def _tested(run: Path) -> dict[str, Any]:
    report = read_report(run)
    if report is None:
        read_config(run)  # raises if it is not a run
        raise InputError(f"{run}: {REPORT} is missing; test the run first: fastfashion evaluate {run}")
    return report


def _predictions(run: Path, report: Mapping[str, Any], tasks: Sequence[str]) -> pd.DataFrame:
    """The id, and the label and prediction of each task, of the rows that a run was tested on. Raises InputError for another table."""
    path, again = run / PREDICTIONS, f"test the run again: fastfashion evaluate {run}"
    texts = [f"{task}_{what}" for task in tasks for what in ("label", "prediction")]
    expected = report["split"]["num_rows"] - len(report.get("skipped", ()))
    try:
        data = read_limited(path, MAX_PREDICTIONS_BYTES)
        table = parse_table(data, dict.fromkeys(("id", *texts), TEXT), num_rows=expected, counted_in=REPORT).to_pandas(use_threads=False)
    except OSError as error:
        raise InputError(f"{path}: {unreadable(error)}; {again}") from error
    except UnfitError as error:
        raise InputError(f"{path}: {error}; {again}") from error
    no_answer = [name for name in texts if name.endswith("_prediction") and table[name].isna().any()]
    if no_answer or not table["id"].is_unique:
        raise InputError(f"{path}: expected an id, once, and a prediction in each row, found others; {again}")
    return table.astype(dict.fromkeys(texts, object))


def _compare_task(both: pd.DataFrame, tables: list[pd.DataFrame], task: str) -> dict[str, Any]:
    rows = both[both[f"{task}_label_1"].notna()]
    names = [rows[f"{task}_{column}"] for column in ("label_1", "prediction_1", "prediction_2")]
    codes, classes = pd.factorize(pd.concat(names), sort=True)
    labels, one, other = np.split(codes.astype(np.int64), 3)
    scores = [task_metrics(labels, predictions, len(classes)) for predictions in (one, other)]
    only_first, only_second, p_value = mcnemar(one == labels, other == labels)
    return {
        "n": len(labels),
        "tested": [int(table[f"{task}_label"].notna().sum()) for table in tables],
        "first": {name: scores[0][name] for name in SCORES},
        "second": {name: scores[1][name] for name in SCORES},
        "difference": {name: scores[1][name] - scores[0][name] for name in SCORES},
        "intervals": {name: list(ends) for name, ends in bootstrap_difference(labels, one, other, len(classes)).items()},
        "only_first_right": only_first,
        "only_second_right": only_second,
        "p_value": p_value,
    }


def _difference_of_sets(result: Mapping[str, Any]) -> list[str]:
    """Notes, if the two runs were not tested on the same rows."""
    lines = []
    one, other = result["sets"]
    if one and other and one["ids_sha256"] != other["ids_sha256"]:
        lines.append(f"the sets differ: {SetIdentity(**one)} and {SetIdentity(**other)}")
    for task, values in result["tasks"].items():
        if set(values["tested"]) != {values["n"]}:
            counts = " and ".join(map(str, values["tested"]))
            lines.append(f"{task}: compared on the {values['n']} rows that both were tested on, of {counts}")
    return [*lines, ""] if lines else []


def compare_text(result: Mapping[str, Any]) -> str:
    """A comparison as a table for people."""
    first, second = result["runs"]
    lines = [*_difference_of_sets(result), f"second minus first: {second} against {first}", ""]
    rows = []
    for task, values in result["tasks"].items():
        cells = []
        for name in ("accuracy", "macro_f1"):
            low, high = values["intervals"][name]
            cells.append(f"{values['difference'][name]:+.4f} ({low:+.4f} to {high:+.4f})")
        alone = (values["only_first_right"], values["only_second_right"])
        rows.append([task, values["n"], *cells, *alone, f"{values['p_value']:.2g}"])
    columns = ["task", "rows", "accuracy, 95 % interval", "macro F1, 95 % interval", "only 1st", "only 2nd", "p"]
    lines.append(table_text(columns, rows))
    lines += ["", "only 1st, only 2nd: rows that one alone has right; p: McNemar's exact test that both are right equally often"]
    return "\n".join(lines)
