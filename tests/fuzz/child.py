"""A target in a process of its own, so that a crash of it is told like any other failure."""

from __future__ import annotations

import faulthandler
import logging
import traceback
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection

from tests.fuzz.target import run
from tests.fuzz.targets import TARGETS

_HANGS_S = 3600.0


def tried(name: str, inputs: int, seed: int) -> tuple[int, str | None]:
    """How many inputs of a target were tried, and what failed; None where nothing did."""
    here, there = Pipe(duplex=False)
    process = get_context("spawn").Process(target=_try, args=(name, inputs, seed, there))
    process.start()
    there.close()
    try:
        count, failure = here.recv()
    except EOFError:
        count, failure = 0, None
    process.join()
    if process.exitcode and failure is None:
        failure = f"the process ended with {process.exitcode}"
    return count, failure


def _try(name: str, inputs: int, seed: int, told: Connection) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(_HANGS_S, exit=True)
    logging.disable()
    target = next(target for target in TARGETS if target.name == name)
    try:
        told.send((run(target, inputs=inputs, begin=seed), None))
    except BaseException as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        told.send((0, f"{traceback.format_exc()}\n{notes}"))
