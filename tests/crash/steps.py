"""A write to a folder store in phases, in a process that others can trace.

As a program (`python -m tests.crash.steps`) it forks a process for each line `<db> <phase> <act> <mode>` that
it is given. That process stops itself where the phase begins, so that a tracer can be attached, and ends with
the phase, or, in the mode "on", goes on as far as it comes. What happens is told in lines of JSON.

    open     the store's files are opened, or made
    recover  what a crash has left is finished
    write    the act
    close    the store is closed

What it writes on its own account it writes by writev(2), which nobody traces.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import kvfs
from kvfs.config import Config
from kvfs.errors import KvfsError
from kvfs.handle import Handle
from kvfs.model import BatchSet, FileValue, Set

TABLE = "steps"
# A watcher would add calls of its own, now and then.
CONFIG = Config(watch=False)
PHASES = ("open", "recover", "write", "close")

BEFORE: Mapping[str, bytes] = {"k": b"old", "deep/est": b"deep", "other": b"other"}
LATER = "later"
NEW = b"new, and longer"
LARGE = b"large" * 60_000


@dataclass(frozen=True)
class Act:
    """One write: how it is done, and the values that it gives to keys, None where it takes one away."""

    run: Callable[[Handle], object]
    values: Mapping[str, bytes | None]

    def after(self) -> dict[str, bytes]:
        """All values when it is done."""
        values = {**BEFORE, **self.values}
        return {key: value for key, value in values.items() if value is not None}


def _batch(store: Handle) -> object:
    return store.apply(BatchSet(tuple(Set(key, NEW, "text/plain") for key in ("k", "new", "other/below"))))


def _large(store: Handle) -> object:
    with store.upload() as file:
        os.writev(file.fd, [LARGE])
        file.size = len(LARGE)
        return store.set("k", file, history=False)


ACTS: Mapping[str, Act] = {
    "overwrite": Act(lambda store: store.set("k", NEW), {"k": NEW}),
    "new": Act(lambda store: store.set("fresh/one", NEW), {"fresh/one": NEW}),
    "delete": Act(lambda store: store.delete("deep/est"), {"deep/est": None}),
    "below": Act(lambda store: store.set("k/below", NEW), {"k/below": NEW}),
    "batch": Act(_batch, {"k": NEW, "new": NEW, "other/below": NEW}),
    "large": Act(_large, {"k": LARGE}),
}


def digests(store: Handle) -> dict[str, str]:
    """The digests of all values."""
    return {key: hashlib.sha256(_value(store, key)).hexdigest() for key in [*store.keys()]}


def _value(store: Handle, key: str) -> bytes:
    value = store.get(key).value
    assert value is not None
    if isinstance(value, FileValue):
        with value:
            return value.read()
    return value


def play(db: str, phase: str, act: Act, *, go_on: bool) -> None:
    """Go through the phases, up to and including this one."""

    def begin(name: str) -> None:
        if name == phase:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif not go_on and PHASES.index(name) > PHASES.index(phase):
            os._exit(0)

    begin("open")
    with kvfs.open(db, TABLE, config=CONFIG) as store:
        begin("recover")
        store.settle_all()
        begin("write")
        try:
            act.run(store)
        except KvfsError as error:
            _tell_failure(error)
            with suppress(KvfsError):  # an injected error may hit this as well
                _tell(values=digests(store))
        else:
            _tell(done=True)
        if go_on:
            store.set(LATER, NEW)
        begin("close")


def _tell(**facts: object) -> None:
    os.writev(1, [json.dumps(facts).encode(), b"\n"])


def _tell_failure(error: KvfsError, **facts: object) -> None:
    _tell(
        failed=error.code, unknown=error.details.get("outcome") == "unknown", message=error.message, **facts
    )


def main() -> None:
    """Fork for each line."""
    for line in sys.stdin:
        db, phase, act, mode = line.split()
        pid = os.fork()
        if not pid:
            try:
                play(db, phase, ACTS[act], go_on=mode == "on")
            except KvfsError as error:
                _tell_failure(error)
            except OSError as error:
                _tell(failed="OSError", unknown=False, message=str(error))
            os._exit(0)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            _tell(stopped=pid)
            _, status = os.waitpid(pid, 0)
        _tell(ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
