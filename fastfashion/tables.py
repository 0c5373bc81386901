"""Text tables, the same for all commands."""

from collections.abc import Collection, Iterable, Sequence
from io import StringIO

WIDE = 100_000  # characters: a line is never folded, whatever the terminal's width


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]], *, left: Collection[int] = (0,), markdown: bool = False) -> str:
    """A table as plain text: columns as wide as their widest cell, two spaces between them, no colour.

    columns: the header; no header line if all are empty. rows: as many cells each, shown with `str`, None as "-". left: numbers of the
    columns that are flush left, counted from the end if negative; the others are flush right. markdown: with bars and a line below the
    header, as GitHub shows it; a bar within a cell must be escaped before. Wide characters (Chinese, Japanese) count as two.
    """
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    box = MARKDOWN if markdown else None
    table = Table(box=box, show_header=any(columns), show_edge=markdown, pad_edge=markdown, padding=(0, 1) if markdown else (0, 2, 0, 0))
    flush_left = {number % len(columns) for number in left}
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if number in flush_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    console = Console(file=StringIO(), width=WIDE, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")
