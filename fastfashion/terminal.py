"""What a command prints is text: file names, ids and labels from elsewhere cannot control the terminal that shows them.

    print, a progress bar, logging, a traceback ─► SafeStream, in place of sys.stdout and sys.stderr ─► ESC as \\u001b and the like

Escapes are JSON's, so that a JSON document on stdout stays one.
"""

import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# C0 but ESC, DEL, C1, separators of lines and paragraphs, what turns text around, halves of surrogate pairs, which UTF-8 cannot write.
_ALWAYS = "\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_A_NAME = re.compile(f"[\t\n\x1b{_ALWAYS}]")
_IN_LINES = re.compile(f"[\x1b{_ALWAYS}]")
_BUT_COLOURS = re.compile(f"\x1b(?!\\[[0-9;]*m)|[{_ALWAYS}]")


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def printable(name: str) -> str:
    """A name as it can be shown within a line: every control character, a line's end among them, as \\u and four digits."""
    return _IN_A_NAME.sub(_escape, name)


class SafeStream:
    """A stream to which lines are written: line feeds and tabs pass, and a carriage return that begins a progress bar."""

    def __init__(self, stream: TextIO, refused: re.Pattern[str] = _IN_LINES) -> None:
        self.stream, self._refused = stream, refused
        if refused is _IN_LINES:
            self.rich_proxied_file = SafeStream(stream, _BUT_COLOURS)  # where rich writes: typer's help, in colours

    def write(self, text: str) -> int:
        bar = text.startswith("\r")
        self.stream.write(text[:bar] + self._refused.sub(_escape, text[bar:]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_safe() -> None:
    """Make this process print through SafeStream from now on. Only for the entry of a command."""
    os.environ.setdefault("PYTHON_COLORS", "0")  # Python 3.13 and later colour a traceback
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), SafeStream):
            setattr(sys, name, SafeStream(stream))


def as_it_is(stream: TextIO) -> TextIO:
    """The stream behind it, for data that a program reads; a terminal's stays safe."""
    return stream.stream if isinstance(stream, SafeStream) and not stream.isatty() else stream
