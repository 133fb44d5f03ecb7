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
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click

from kvfs.errors import BadRequest, Conflict, Forbidden, KvfsError, NotFound, Unauthorized

NOT_FOUND: Final = 1
USAGE: Final = 2
CONFLICT: Final = 3
FAILED: Final = 4
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


@contextmanager
def told() -> Iterator[None]:
    """End with the exit code that an error has, and say what it was."""
    try:
        yield
        sys.stdout.flush()
    except KvfsError as error:
        click.echo(f"kvfs: {error.message} ({error.code})", err=True)
        raise SystemExit(code_of(error)) from error
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        _leave_pipe()
    except OSError as error:
        click.echo(f"kvfs: {told_of(error)}", err=True)
        raise SystemExit(FAILED) from error


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


def _leave_pipe() -> NoReturn:
    # What is still buffered cannot be written; Python would complain of it when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE) from None
