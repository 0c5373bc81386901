"""Names that would steer a terminal, or a spreadsheet, through the real commands: from a table to a set, a run, answers and corrections."""

import csv
import io
import json
import logging
import os
import pty
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import smooth_image
from hostile import CONTROLS
from serving import make_run

from fastfashion import terminal
from fastfashion.catalog import correct
from fastfashion.cli import main
from fastfashion.serve.asgi import json_body
from fastfashion.shards import open_packed_set

ODD = CONTROLS.replace("\n", "").replace("\r", "")  # a path may hold them, a table's cell is one line here
IDS = ("=1+1", "-5", "+49 123", "@x", "'=q", f"a{ODD}")
KINDS = ("=cmd|' /C calc'!A0", "-1 x", f"@b{ODD}", "+")
BEGINS_LIKE_A_FORMULA = tuple("=+-@\t\r\n\x1b")


@dataclass(frozen=True)
class Shop:
    """A source, a set and a run whose names all hold control characters."""

    source: Path
    packed: Path
    run: Path
    said: str  # by `shard`


def run_here(*arguments: str, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command, run in this process by its entry, into pipes."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fastfashion", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        for stream in (out, err):
            stream.flush()
    return status, *(stream.buffer.getvalue().decode() for stream in (out, err))


def controls(text: str) -> set[str]:
    """Characters of it that a terminal acts on; what the terminal's own line discipline adds (a return before a line feed) is left out."""
    return {c for c in text.replace("\r\n", "\n") if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\u202e\u2066"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home = tmp_path_factory.mktemp("shop")
    source, packed = home / f"source{ODD}", home / f"set{ODD}"
    (source / "images").mkdir(parents=True)
    with (source / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "kind", "season"])
        for number in range(40):
            identity = IDS[number] if number < len(IDS) else str(100 + number)
            writer.writerow([identity, KINDS[number % 4], ("Summer", "Winter")[number // 4 % 2]])
            smooth_image(number, 24, 32).save(source / "images" / f"{identity}.jpg", "JPEG")
        writer.writerows([[f"lost{ODD}", "+", "Summer"], ["=lost", "+", "Summer"]])
    status, _, said = run_here("shard", "--source", str(source), "--label-columns", "kind,season", "--res", "full", "--out", str(packed))
    assert status == 0, said
    return Shop(source, packed, make_run(home / f"run{ODD}", packed, size="32x24", tasks=("kind", "season")), said)


def test_what_commands_say_holds_no_control_characters(shop: Shop, tmp_path: Path) -> None:
    assert controls(shop.said) == set()
    assert "\\u001b[31m" in shop.said
    splits = ("splits", str(shop.packed), "--task", "kind", "--out", str(tmp_path / f"splits{ODD}.csv"))
    for command in (("verify", str(shop.packed)), ("audit", str(shop.packed)), splits, ("evaluate", str(shop.run))):
        status, out, err = run_here(*command)
        assert status == 0, err
        assert controls(out + err) == set()
        assert "\\u202e" in out + err


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_answers_hold_no_control_characters_on_stdout(shop: Shop, form: str) -> None:
    names = [str(shop.source / "images" / f"{name}.jpg") for name in (IDS[0], IDS[-1], f"gone{ODD}")]
    status, out, err = run_here("predict", str(shop.run), *names, "--format", form)
    assert status == 0, err
    assert controls(out + err) == set()
    assert "\\u001b]0;title\\u0007" in out
    if form == "jsonl":
        assert [json.loads(line)["path"] for line in out.splitlines()] == names


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", f"/nope{ODD}", "x.jpg"],
        ["audit", f"/nope{ODD}"],
        ["shard", "--source", f"/nope{ODD}", "--out", f"/tmp/nope{ODD}"],
        ["train", f"/nope{ODD}"],
        ["evaluate", f"/nope{ODD}"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_error_holds_no_control_characters(arguments: list[str]) -> None:
    status, out, err = run_here(*arguments)
    assert status == 2
    assert controls(out + err) == set()
    assert "\\u001b[31m" in err


def on_terminal(*arguments: str) -> str:
    """All that a command writes to a terminal, in a process of its own."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen([sys.executable, "-m", "fastfashion", *arguments], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0, said
    return said.decode()


def test_a_terminal_gets_bars_and_colours_of_ours_and_nothing_of_theirs(shop: Shop, tmp_path: Path) -> None:
    said = on_terminal("predict", str(shop.run), str(shop.source), "--out", str(tmp_path / f"a{ODD}.csv"))
    assert controls(said) == {"\r"}, "a progress bar, and nothing else"
    assert "\\u001b[31m" in said
    assert "\x1b[" in on_terminal("audit", "--help"), "help has colours"


def test_suspects_become_corrections_that_name_the_very_ids_and_labels(shop: Shop, tmp_path: Path) -> None:
    packed, found = open_packed_set(shop.packed), {}
    for raw in ([], ["--raw"]):
        out = tmp_path / f"audit{len(raw)}"
        status, _, err = run_here("audit", str(shop.packed), "--run", str(shop.run), "--out", str(out), *raw)
        assert status == 0, err
        text = (out / "suspects.csv").read_bytes().decode()
        table = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False)
        table["label"] = table["suggestion"]  # as somebody would who agrees
        table.to_csv(out / "fixed.csv", index=False)
        found[bool(raw)] = (table, correct(packed.table, packed.vocab, out / "fixed.csv"))
    shown, raw_table = found[False][0], found[True][0]
    pd.testing.assert_frame_equal(found[False][1], found[True][1])
    changed = (found[True][1][["kind", "season"]] != packed.table[["kind", "season"]].to_numpy()).to_numpy().sum()
    assert changed == len(raw_table) > 0
    assert set(raw_table["suggestion"]) & set(KINDS), "the case is not tested"
    for cell in shown[["id", "label", "suggestion"]].to_numpy().ravel():
        assert not cell.startswith(BEGINS_LIKE_A_FORMULA) or cell == "-5"


def test_the_rows_left_out_are_escaped_and_counted_alike(shop: Shop) -> None:
    rows = list(csv.reader(io.StringIO((shop.packed / "rejected.csv").read_text(encoding="utf-8"), newline="")))
    assert rows == [["id", "line", "reason"], [f"lost{ODD}", "42", "no image"], ["'=lost", "43", "no image"]]


def test_raw_answers_read_back_equal_and_the_usual_ones_behind_an_apostrophe(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.source / "images")
    names = [f"{name}.jpg" for name in IDS]
    by_form = {}
    for raw in ([], ["--raw"]):
        status, printed, err = run_here("predict", str(shop.run), "--top", "1", "--format", "csv", *raw, "--", *names)
        assert status == 0, err
        out = tmp_path / f"{len(raw)}.csv"
        assert run_here("predict", str(shop.run), "--top", "1", "--out", str(out), *raw, "--", *names)[0] == 0
        written = out.read_bytes().decode()
        assert printed == (written if raw else "".join(f"\\u{ord(c):04x}" if controls(c) else c for c in written))
        by_form[bool(raw)] = pd.read_csv(io.StringIO(written, newline=""), dtype=str, keep_default_na=False)
    assert by_form[True]["path"].tolist() == names
    assert by_form[False]["path"].tolist() == ["'=1+1.jpg", "'-5.jpg", "'+49 123.jpg", "'@x.jpg", "''=q.jpg", f"a{ODD}.jpg"]
    assert set(by_form[True]["kind"]) <= set(KINDS)
    assert by_form[True]["kind"].map(lambda kind: f"'{kind}").tolist() == by_form[False]["kind"].tolist()


def test_other_peoples_lines_pass_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    terminal.make_safe()
    terminal.make_safe()  # a second time changes nothing
    logging.StreamHandler().emit(logging.LogRecord("x", 30, "x", 1, f"logged {ODD}", None, None))
    print(f"half of a pair \ud83d and {ODD}", file=sys.stderr)
    said = err.getvalue()
    assert controls(said) == set()
    assert all(f"{word} \\u001b[31m" in said for word in ("logged", "and"))
    assert "pair \\ud83d and" in said


def test_json_of_the_http_api_holds_no_control_characters_and_reads_back() -> None:
    value = {"error": f"half of a pair \ud83d, {CONTROLS}", "classes": ["Ä", ODD]}
    text = json_body(value).decode()
    assert controls(text) == set()
    assert "Ä" in text
    assert json.loads(text) == value


def test_a_name_within_a_line_has_no_line_ends_either() -> None:
    assert terminal.printable("a\r\nb\tc\u2028é") == "a\\u000d\\u000ab\\u0009c\\u2028é"
