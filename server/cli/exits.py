"""How commands end: exit codes, and what is said on stderr.

0    done
1    what was asked for is not there (a key, an operation, a database)
2    the command line is wrong, or the request is
3    a conflict: a condition did not hold, the past is not known, a file is in the way
4    the server cannot be reached, refuses the token, is overloaded or failed; so do the disk and SQLite
130  interrupted
141  nobody reads the output any more
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import Final, NoReturn

import click

from kvfs.errors import BadRequest, Conflict, Forbidden, KvfsError, NotFound, Unauthorized

NOT_FOUND: Final = 1
USAGE: Final = 2
CONFLICT: Final = 3
FAILED: Final = 4
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_AGAIN_S: Final = 0.05


@contextmanager
def told() -> Iterator[None]:
    """End with the exit code that an error has, and say what it was."""
    try:
        with _interruptible():
            yield
            sys.stdout.flush()
    except KvfsError as error:
        click.echo(f"kvfs: {error.message} ({error.code})", err=True)
        raise SystemExit(code_of(error)) from error
    except (KeyboardInterrupt, click.Abort) as error:
        if not _answered(error):
            end_line()
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        click.echo(f"kvfs: {told_of(error)}", err=True)
        raise SystemExit(FAILED) from error


def end_line() -> None:
    """End the line of a terminal in which a key was pressed, so that what comes next has its own."""
    if sys.stderr.isatty():
        click.echo(err=True)


def _answered(error: BaseException) -> bool:
    """Whether a question was answered by no, which ended its line."""
    return isinstance(error, click.Abort) and error.__context__ is None


def code_of(error: KvfsError) -> int:
    """The exit code of an error."""
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, Conflict):
        return CONFLICT
    if isinstance(error, BadRequest) and not isinstance(error, Unauthorized | Forbidden):
        return USAGE
    return FAILED


def told_of(error: OSError) -> str:
    """An OSError in one line."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


@contextmanager
def _interruptible() -> Iterator[None]:
    """Repeat a Ctrl-C that came where Python can only print an exception and go on, as in a finalizer."""
    again: list[Timer] = []

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            before(ignored)
            return
        # Not at once: it would come here again.
        again.append(Timer(_AGAIN_S, partial(os.kill, os.getpid(), signal.SIGINT)))
        again[-1].start()

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()


def _leave_pipe() -> NoReturn:
    # What is still buffered cannot be written; Python would complain of it when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE) from None
