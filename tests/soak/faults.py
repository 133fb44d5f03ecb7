"""The faults that servers are put through, and a run of rounds of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.driver import StoreError
from tests.crash.load import Misread
from tests.serving import ServerProcess
from tests.soak.tally import Tally
from tests.soak.trial import Lost, Trial

Rounds = Callable[[Path, random.Random, int, Tally], None]
"""Goes through so many rounds of a fault in a folder, notes them in the tally, and raises what is wrong."""


@dataclass(frozen=True)
class Fault:
    """Something that may befall a server.

    `what` tells people of it, and `wanted` is how many rounds of it a table in full has. A run has
    `rounds_each`, and takes about so many minutes.
    """

    name: str
    what: str
    wanted: int
    rounds: Rounds
    rounds_each: int = 5
    minutes: float = 0.3


def run(fault: Fault, home: Path, *, seed: int, rounds: int | None = None) -> Tally:
    """Rounds of a fault, in the folder `home`; the first finding ends them."""
    tally = Tally(fault.name)
    try:
        fault.rounds(home, random.Random(f"{fault.name} {seed}"), rounds or fault.rounds_each, tally)
    except Lost as lost:
        tally.lost += lost.count
        tally.findings.append(str(lost))
    except Misread as misread:
        tally.stale += misread.stale
        tally.wrong += not misread.stale
        tally.findings.append(str(misread))
    except Exception as error:
        tally.wrong += 1
        tally.findings.append(_told(error))
    return tally


def _told(error: Exception) -> str:
    details = f" {error.details}" if isinstance(error, StoreError) else ""
    return f"{type(error).__name__}: {error}{details}"


# --- faults of a server under load -----------------------------------------------------------------------

Place = Callable[[Path], AbstractContextManager[tuple[Path, ServerProcess]]]
"""Where the stores lie, and a server for them, which runs in the folder."""


@contextmanager
def plain(home: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """On the disk that there is."""
    yield home, ServerProcess(home)


def under_load(befall: Callable[[Trial], None], place: Place = plain) -> Rounds:
    """Rounds of load in which something befalls the server, over the same two stores.

    A server that has outlived it is looked at, or first killed and started again, as chance will have it.
    """

    def rounds(home: Path, chance: random.Random, count: int, tally: Tally) -> None:
        with place(home) as (stores, server):
            trial = Trial(stores, server, chance, tally)
            try:
                trial.recover()
                for _ in range(count):
                    befall(trial)
                    if chance.random() < 0.5:
                        server.kill()
                    trial.recover()
                    trial.look()
                    tally.rounds += 1
                trial.end()
            finally:
                server.kill()

    return rounds
