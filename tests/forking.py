"""`kvfs` in processes that are forked from one which has imported it: a start takes a tenth of the time.

`python -m server` itself is started by the tests of terminals, signals and pipes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, reduction
from typing import Any

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "kvfs.client.blocking",
        "kvfs.engine",
        "server.cli.backup",
        "server.cli.db_shell",
        "server.cli.db_sql",
        "server.cli.db_whole",
        "server.cli.folders",
        "server.cli.kv_batch",
        "server.cli.kv_changes",
        "server.cli.kv_edit",
        "server.cli.kv_past",
        "server.cli.kv_read",
        "server.cli.kv_write",
        "server.cli.local",
        "server.cli.local_db",
        "server.cli.share",
        "server.cli.transfer",
    ]
)


class _Descriptor:
    """A file descriptor that goes over to a process that is being forked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken_over, (reduction.DupFd(self._fd),)


def run(
    arguments: Sequence[str], *, stdin: bytes, env: Mapping[str, str], timeout_s: float
) -> tuple[int, bytes, bytes]:
    """Run `kvfs` with these arguments: its exit code, and what it wrote. Its stdin is a pipe."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        files = [_Descriptor(fd) for fd in (reading, out.fileno(), err.fileno())]
        process = _CONTEXT.Process(target=_main, args=(arguments, dict(env), os.getcwd(), files))
        process.start()
        os.close(reading)
        giving = threading.Thread(target=_give, args=(writing, stdin))
        giving.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"not within {timeout_s} s: {arguments}")
        giving.join()
        out.seek(0)
        err.seek(0)
        return process.exitcode, out.read(), err.read()


def _give(pipe: int, data: bytes) -> None:
    try:
        with open(pipe, "wb") as file:
            file.write(data)
    except BrokenPipeError:
        return  # a command need not read


# --- in the new process ----------------------------------------------------------------------------------


def _taken_over(duplicate: Any) -> int:
    fd: int = duplicate.detach()
    return fd


def _main(arguments: Sequence[str], env: Mapping[str, str], folder: str, files: Sequence[int]) -> None:
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    # multiprocessing has taken it away.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["kvfs", *arguments]
    from server.cli import main

    main(prog_name="kvfs")
