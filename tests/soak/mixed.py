"""Minutes of requests of all kinds to two workers, which stay as large and as quick as they were."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.contract.http_driver import Client
from tests.crash.clients import Work, at_work, path_of, store_of
from tests.crash.editor import editing
from tests.crash.load import Writer
from tests.crash.targets import HttpTarget
from tests.soak.asking import Asker, Follower
from tests.soak.ends import crewed, workers
from tests.soak.faults import Fault
from tests.soak.flat import Sample, TimedClient, not_flat, pinging, sample, told
from tests.soak.tally import Tally
from tests.soak.trial import Trial

WRITERS = 2
ASKERS = 2
PAUSE_S = 0.04
MINUTE_S = 60.0
FLAT_MINUTES = 3


def rounds(home: Path, chance: random.Random, minutes: int, tally: Tally) -> None:
    """So many minutes of load on two fresh stores, and a look at what is there then."""
    with crewed(home) as (stores, server):
        trial = Trial(stores, server, chance, tally)
        try:
            trial.recover()
            samples = _loaded(trial, minutes)
            trial.look()
            trial.end()
        finally:
            server.kill()
    if len(samples) >= FLAT_MINUTES:
        tally.notes.append(told(samples))
        tally.findings += not_flat(samples)


def _loaded(trial: Trial, minutes: int) -> list[Sample]:
    server, samples = trial.server, list[Sample]()
    with ExitStack() as stack:
        clients = [TimedClient(server.host, server.port) for _ in range(2)]
        for client in clients:
            stack.callback(client.close)
        pings_ms = stack.enter_context(pinging())
        ending = stack.enter_context(at_work(_works(trial, *clients)))
        stack.enter_context(
            editing(
                server,
                trial.stores,
                trial.records[True],
                seed=trial.chance.randrange(10**9),
                kept={},
                ending=ending,
                pause_s=PAUSE_S,
            )
        )
        for _ in range(minutes):
            if ending.wait(MINUTE_S):
                break
            samples.append(sample(workers(server), [client.took_ms for client in clients], pings_ms))
            trial.tally.rounds += 1
        ending.set()
    # Those of the writers are summed up with what was acknowledged to them.
    trial.tally.requests += sum(each.requests for each in samples)
    trial.tally.requests -= sum(record.requests for record in trial.records.values())
    return samples


def _works(trial: Trial, client: Client, reading: Client) -> list[Work]:
    works: list[Work] = []
    for directory, record in trial.records.items():
        store, reads = (store_of(each, trial.stores, directory) for each in (client, reading))
        for me in range(WRITERS):
            seed = trial.chance.randrange(10**9)
            writer = Writer(
                HttpTarget(store), f"w{me}", seed, record, reads=HttpTarget(reads), large_share=1 / 500
            )
            works.append(partial(_write, writer))
        for me in range(ASKERS):
            asker = Asker(f"{me}", store, reads, seed=trial.chance.randrange(10**9))
            works.append(partial(asker.ask_until, pause_s=PAUSE_S))
        works.append(Follower(client, str(path_of(trial.stores, directory))).follow_until)
    return works


def _write(writer: Writer, ending: threading.Event) -> None:
    while not ending.wait(PAUSE_S):
        writer.step()


FAULTS = (Fault("mixed", "minutes of mixed load, two workers", 60, rounds, rounds_each=10, minutes=10.5),)
