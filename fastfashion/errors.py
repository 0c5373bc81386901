"""The few exception types that users meet.

Every message says what is wrong, where, what was expected against what was found, and what to do. The command line
prints the message alone and exits with 2; a traceback is shown with `--debug`.
"""

MAX_CHARACTERS = 8000  # of a message: a value in it may be as long as the file that it is from


class FastfashionError(ValueError):
    """Base of all errors that a user can cause and fix."""

    def __init__(self, message: str) -> None:
        if len(message) > MAX_CHARACTERS:
            kept = MAX_CHARACTERS // 4  # the place is at the beginning, what to do at the end
            message = f"{message[:kept]} … ({len(message) - 2 * kept} characters left out) … {message[-kept:]}"
        super().__init__(message)


class InputError(FastfashionError):
    """The data handed in (a CSV, a zip, a folder of images) cannot be used."""


class RemoteError(FastfashionError):
    """A remote place refuses, does not answer, or sends something else than was asked for: that says nothing about what it holds."""


class PackedSetError(FastfashionError):
    """A packed set is missing, incomplete, damaged, or of another format version."""


class ConfigError(FastfashionError):
    """An option or a setting is unknown, out of range, or does not fit the others."""


class DiskFullError(FastfashionError, OSError):
    """A disk, or a quota, has no room for a file: its `errno` says which. Nothing was published under the file's name."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number

    def __reduce__(self) -> tuple[type["DiskFullError"], tuple[str, int | None]]:  # for other processes, which OSError's would lose it for
        return type(self), (str(self), self.errno)


class TrainingError(FastfashionError):
    """Training cannot continue: the loss is not finite, or a run directory does not fit."""


class FirstStepError(TrainingError):
    """The first step of training failed for a reason of its own: starting again would fail in the same way."""


class LostPeerError(TrainingError):
    """Another process of a run has ended or does not answer; restarting all of them resumes from the last checkpoint."""

    EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h
