"""Numbers and errors in words: one row and two rows, and what the system reports about a file."""

import difflib
import errno
from collections.abc import Iterable

from fastfashion.errors import FastfashionError
from fastfashion.terminal import printable

_PERMISSION = "check who may read and write there, or name another place"
_FULL = "free some space, or name another place"
_FAULTS = {  # what it is, and what to do
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EACCES: ("permission denied", _PERMISSION),
    errno.EPERM: ("not permitted", _PERMISSION),
    errno.EEXIST: ("a file of that name is there; expected a folder", "remove that file, or name another place"),
    errno.ENOTDIR: ("a part of that path is a file, where a folder is expected", "name a place whose parents are folders"),
    errno.EISDIR: ("it is a folder; expected a file", "name a file"),
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is larger than this process may write", ""),
    errno.EROFS: ("the disk is read-only", "name another place"),
    errno.ENAMETOOLONG: ("the name is too long", ""),
    errno.ELOOP: ("links that lead in a circle", ""),
    errno.ENOTEMPTY: ("the folder is not empty", ""),
    errno.EMFILE: ("too many open files", "allow more with ulimit -n"),
}


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 row", "2 rows"; `plural` if it is not the noun with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of an error about an unknown name: up to three that are like it, or `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else otherwise


def one_line(what: object, most: int = 300) -> str:
    """One short line from the text of a server or library, which may have any length."""
    text = " ".join(str(what).split())
    return text if len(text) <= most else f"{text[:most]}…"


def why(error: BaseException) -> str:
    """What went wrong with a file, without the system's error number; for other errors their own text."""
    if not isinstance(error, OSError) or isinstance(error, FastfashionError) or error.errno is None:
        return str(error)
    return _FAULTS[error.errno][0] if error.errno in _FAULTS else (error.strerror or str(error)).lower()


def os_error_text(error: OSError) -> str:
    """A complete message for an OSError: where, what, and what to do."""
    if error.errno is None or isinstance(error, FastfashionError):
        return str(error)
    names = [printable(str(name)) for name in (error.filename, error.filename2) if name is not None]
    where = f"{' to '.join(names)}: " if names else ""
    _, advice = _FAULTS.get(error.errno, ("", ""))
    return f"{where}{why(error)}" + (f"; {advice}" if advice else "")
