#!/usr/bin/env python3
"""Make a record for bench/results/ of a trained and evaluated run: tools/record_run.py runs/NAME bench/results/train-NAME.json"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from fastfashion.files import publish_json
from fastfashion.runs.files import CONFIG, REPORT, read_metrics


def without_places(value: Any) -> Any:
    """The same with the name alone of each absolute path: a record names no place on a machine's disk."""
    if isinstance(value, str):
        return re.sub(r"(?<!\S)/(?:[^/\s]+/)*([^/\s]+)", r"\1", value)
    if isinstance(value, list):
        return [without_places(each) for each in value]
    return {key: without_places(each) for key, each in value.items()} if isinstance(value, dict) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    lines = read_metrics(arguments.run)
    of_starts = [line for line in lines if line["kind"] == "start"]
    starts = [{key: value for key, value in line.items() if value is not None and key != "time"} for line in of_starts]
    epochs = [{key: line[key] for key in ("epoch", "time", "val")} for line in lines if line["kind"] == "epoch"]
    seconds = sum(line["time"]["seconds"] for line in lines if line["kind"] in ("step", "epoch"))
    record = {
        "starts": starts,
        "train_minutes": round(seconds / 60, 1),
        "epochs": epochs,
        "test": json.loads((arguments.run / REPORT).read_text(encoding="utf-8")),
        "config": json.loads((arguments.run / CONFIG).read_text(encoding="utf-8")),
    }
    publish_json(arguments.out, without_places(record))


if __name__ == "__main__":
    main()
