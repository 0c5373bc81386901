"""Write docs/settings.md, docs/cli.md and fastfashion/__init__.pyi from the dataclasses that declare them.

    python tools/reference.py [--check]

tests/test_reference.py says when they are stale.
"""

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import fastfashion  # noqa: E402
import fastfashion.cli  # noqa: E402 - it registers the commands
from fastfashion import api  # noqa: E402
from fastfashion.command_line import COMMANDS  # noqa: E402
from fastfashion.command_options import Request  # noqa: E402
from fastfashion.config import FOLDS, RunConfig, settings  # noqa: E402
from fastfashion.fields import Option, flag_of, options_of  # noqa: E402
from fastfashion.recipes import FROM_SCRATCH, FROZEN, RECIPES  # noqa: E402

RESULTS = ("Audit", "Compared", "Evaluated", "Splits", "Verified")  # of fastfashion.api
UNLISTED = ("resolved",)  # for processes that we start
MADE = "<!-- Made by tools/reference.py from the code: change it there. -->"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def code(value: object) -> str:
    text = "" if value is None else str(value)
    return f"`{text}`" if text else ""


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        MADE,
        "",
        "Every setting of a run, with its default. On the command line: `--set section.key=value`, several times; in Python:",
        '`settings={"section.key": value}`. A run keeps all of them in its `config.json`.',
        "",
        "On resume, a *free* setting may differ; an *allowed* one with `--allow-config-change section.key`; a *fixed* one may not.",
    ]
    for section in fields(RunConfig):
        rows = [
            [code(key), code(each.default), each.type.__name__, describe(about), about.change.value]
            for key, each, about in settings()
            if key.startswith(f"{section.name}.")
        ]
        lines += ["", f"## {section.name}", "", inspect.getdoc(section.type) or "", ""]
        lines += table(["setting", "default", "type", "", "on resume"], rows)
    lines += ["", "## Recipes", "", "`--recipe NAME` sets these; what is given on the command line wins.", ""]
    names = sorted({key for values in RECIPES.values() for key in values}, key=[key for key, _, _ in settings()].index)
    lines += table(["setting", *RECIPES], [[code(key), *(code(values.get(key)) for values in RECIPES.values())] for key in names])
    scratch = ", ".join(f"`{key}={value}`" for key, value in FROM_SCRATCH["fast"].items())
    frozen = ", ".join(f"`{key}={value}`" for key, value in FROZEN.items())
    lines += [
        "",
        f"With random first weights (`--no-pretrained`), {' and '.join(FROM_SCRATCH)} also have {scratch}. From trained ones, `fast` is",
    ]
    lines += [f"`finetune`. With `model.freeze=true`, all but `reference` also have {frozen}.", ""]
    lines += [f"The folds protocol has {FOLDS} parts; `data.fold` says which one is tested.", ""]
    return "\n".join(lines)


def describe(about: Option) -> str:
    """Help, and the limits if the help does not say them."""
    limits = about.expected
    return about.help if not limits or all(name in about.help for name in about.choices or ("\0",)) else f"{about.help} ({limits})"


def cli_page() -> str:
    lines = ["# Commands", "", MADE, "", "`fastfashion COMMAND --help` shows the same. Sizes are height x width (HxW)."]
    shared = options_of(Request)
    lines += ["", "Every command has:", "", *options_table({name: known for name, known in shared.items()})]
    for name, (kind, function, example) in COMMANDS.items():
        arguments = [about.metavar or name.upper() for name, (_, about) in options_of(kind).items() if about.argument]
        lines += ["", f"## {name}", "", f"    {example}", "", inspect.getdoc(function) or ""]
        found = sorted(options_of(kind).items(), key=lambda item: not item[1][1].argument)
        own = {name: known for name, known in found if name not in shared and known[1].only != "api"}
        old = {name: known for name, known in own.items() if known[1].old}
        lines += ["", *options_table({name: known for name, known in own.items() if name not in old and name not in UNLISTED})]
        if old:
            forms = [f"`{flag_of(each, about)}` (now `{about.old}`)" for each, (_, about) in old.items()]
            lines += ["", f"Old forms, for this release: {', '.join(forms)}."]
        if "SET" in arguments:
            lines += ["", "Old form, for this release: `--shards SET`."]
    return "\n".join([*lines, ""])


def options_table(known: dict[str, Any]) -> list[str]:
    rows = []
    for name, (each, about) in known.items():
        flag = about.metavar or name.upper() if about.argument else about.flag or flag_of(name, about)
        plain = ", ".join(map(str, each.default)) if isinstance(each.default, tuple) else each.default
        default = about.shown_default or ("" if each.default in (None, "", (), False, True) or about.argument else plain)
        rows.append([code(flag), code(default), describe(about)])
    return table(["option", "default", ""], rows)


HOMES = {
    "Downloaded": "sources.download",
    "ExportSummary": "export.export",
    "PackSummary": "pack",
    "PreviewSummary": "audit.preview",
    "SynthSummary": "sources.synth",
    "TrainSummary": "runs.folder",
}


def stub() -> str:
    """Types of the functions for editors and mypy: those of api.py are made when it is imported."""
    bodies, imports, used = [], [], set()
    for name in sorted(each for each in fastfashion.__all__ if not each.startswith("_")):
        value = getattr(api, name)
        if hasattr(value, "operation"):
            body = signature_text(name, value)
            bodies += ["", *body]
            used |= set(re.findall(r"\b[A-Z]\w+", " ".join(body[:-1])))
        else:
            imports.append(f"from fastfashion.{'errors' if name == 'FastfashionError' else 'api'} import {name} as {name}")
    imports.append(f"from fastfashion.api import {', '.join(sorted(used & {*RESULTS, 'Images', 'Place', 'Report', 'Run', 'Set'}))}")
    imports += [f"from fastfashion.{home} import {name}" for name, home in HOMES.items() if name in used]
    imports.sort(key=lambda line: (line.split()[1], " as " in line, line))
    lines = ['"""Made by tools/reference.py from fastfashion/api.py and fastfashion/command_options.py."""', ""]
    lines += ["from collections.abc import Iterable, Iterator, Mapping, Sequence", "from typing import Any", "", "import torch", ""]
    return "\n".join([*lines, *imports, "", "__version__: str", *bodies, ""])


def signature_text(name: str, function: Any) -> list[str]:
    signature, lines = inspect.signature(function), []
    for each in signature.parameters.values():
        if each.kind is inspect.Parameter.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        lines.append(f"    {each.name}: {each.annotation}{'' if each.default is inspect.Parameter.empty else ' = ...'},")
    returned = signature.return_annotation
    returned = returned if isinstance(returned, str) else inspect.formatannotation(returned)
    returned = re.sub(r"\b(?:fastfashion|collections|typing)[\w.]*\.(?=\w)", "", returned).replace("dict[str, Any]", "Report")
    return [f"def {name}(", *lines, f") -> {returned}:", f'    """{(inspect.getdoc(function) or "").splitlines()[0]}"""']


def made() -> dict[Path, str]:
    return {
        ROOT / "docs/settings.md": settings_page(),
        ROOT / "docs/cli.md": cli_page(),
        ROOT / "fastfashion/__init__.pyi": stub(),
    }


def main() -> int:
    stale = [path for path, text in made().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        print(*(f"stale: {path.relative_to(ROOT)}; run python tools/reference.py" for path in stale), sep="\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(made()[path], encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
