"""Errors that the user can fix, and exit codes.

An error names the place, what was expected, what was found and the fix, on one line. Anything that is not an
FtError is our bug and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import ENAMETOOLONG

LINE_CHARACTERS = 200
MOST_FAULTS = 20  # of a recipe
INTERRUPTED = 130
TERMINATED = 143


class FtError(Exception):
    """A mistake that the user can fix: where, what was expected, what was found, what to do."""

    exit_code = 2

    def __init__(self, where: object, expected: str, found: object, fix: str) -> None:
        self.where, self.expected, self.found, self.fix = str(where), expected, str(found), fix
        super().__init__(self.line())

    def __reduce__(self) -> tuple[object, ...]:
        # from one process to another; Exception's gives the line alone
        return type(self), (self.where, self.expected, self.found, self.fix)

    def line(self) -> str:
        """The fault on one line of at most LINE_CHARACTERS; what was found is shortened first."""
        frame = f"{self.where}: expected {self.expected}, found . {self.fix}"
        found = _elide(self.found, max(24, LINE_CHARACTERS - len(frame)))
        where = _elide(self.where, max(40, len(self.where) + LINE_CHARACTERS - len(frame) - len(found)))
        line = f"{where}: expected {self.expected}, found {found}. {self.fix}"
        return _elide(" ".join(line.split()), LINE_CHARACTERS)


class RecipeError(FtError):
    """Every fault of a recipe at once, a line each; of very many the first ones."""

    def __init__(self, faults: Sequence[str]) -> None:
        shown = [_place_shortened(fault) for fault in faults[:MOST_FAULTS]]
        if more := len(faults) - len(shown):
            shown.append(f"and {more:,} more")
        Exception.__init__(self, "\n".join(shown))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self).splitlines(),)


class Unreadable(FtError):
    """A file of a corpus that cannot be read; corpus.skip_unreadable leaves it out."""


class GateNotMet(FtError):
    """A comparison that ran and missed a required result."""

    exit_code = 3


class IntegrityFailed(FtError):
    """What was saved, merged or sent is not what was trained or measured."""

    exit_code = 4


class NumbersGoneWrong(FtError):
    """A loss or a score that is not a finite number."""

    exit_code = 5


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, not an Exception, so that no handler swallows it."""


@contextmanager
def told_when_stopped(words: str) -> Iterator[None]:
    """Add to a Ctrl-C or SIGTERM how far the run got, unless an inner block has already said it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if stop.args:
            raise
        word = "terminated" if isinstance(stop, Terminated) else "interrupted"
        raise type(stop)(f"{word} {words}") from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an FtError as one line on stderr and exit with its code; let our own bugs through.

    A second line has the next command to type, where a run was left unfinished (next_steps.py).
    """
    try:
        yield
    except FtError as error:
        _say(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            wanted, found = "a name that the file system can hold", f"{len(str(error.filename))} characters"
            print(FtError(error.filename, wanted, found, "Check the path."), file=sys.stderr)
            sys.exit(FtError.exit_code)
        if not is_disk_full(error):
            raise
        _say(error, disk_full(error.filename or "disk"))
        sys.exit(FtError.exit_code)
    except KeyboardInterrupt as interrupt:
        _say(interrupt, str(interrupt) or "interrupted")
        sys.exit(INTERRUPTED)
    except Terminated as termination:
        _say(termination, str(termination) or "terminated")
        sys.exit(TERMINATED)


def _say(error: BaseException, words: object = None) -> None:
    """The error's line, and the next command where one was noted."""
    for line in (words or error, *getattr(error, "__notes__", ())):
        print(line, file=sys.stderr)


def is_disk_full(error: Exception) -> bool:
    """Whether a disk or a quota is full; safetensors and Arrow wrap the errno in their own types."""
    return "No space left on device" in str(error) or "Disk quota exceeded" in str(error)


def disk_full(where: object) -> FtError:
    """The one way in which a full disk is reported."""
    return FtError(
        where, "free disk space", "none left", "Free some, or choose another place with --runs, and repeat."
    )


def _place_shortened(fault: str) -> str:
    """An error on one line; if it is too long, the file's path is shortened first and the fault last."""
    place, colon, rest = fault.partition(": ")
    room = max(24, LINE_CHARACTERS - len(colon) - len(rest))
    return _elide(f"{_elide(place, room)}{colon}{rest}", LINE_CHARACTERS)


def _elide(text: str, characters: int) -> str:
    """Shorten text in its middle."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"
