"""Minutes of requests of all kinds to two workers, which stay as large and as quick as they were."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.contract.http_driver import Answer, Client, Params
from tests.crash.clients import at_work, path_of, store_of
from tests.crash.editor import editing
from tests.crash.load import Writer
from tests.crash.targets import HttpTarget
from tests.serving import ServerProcess
from tests.soak.asking import Asker, Follower
from tests.soak.ends import crewed, workers
from tests.soak.faults import Fault
from tests.soak.tally import Tally
from tests.soak.trial import Trial

WRITERS = 2
ASKERS = 2
PAUSE_S = 0.04
MINUTE_S = 60.0
MEMORY_MOST = 0.10
"""By how much memory may differ from its median, once the first minute is over."""
P99_MOST = 2.0
P99_SPARE_MS = 10.0
"""How much slower the second half may be than the first: machines do other things too."""


class TimedClient(Client):
    """A client that keeps how long its requests took, in seconds."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.took_s: list[float] = []

    def request(
        self,
        method: str,
        path: str,
        params: Params,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        began = time.perf_counter()
        try:
            return super().request(method, path, params, body, headers)
        finally:
            if "wait" not in params:
                self.took_s.append(time.perf_counter() - began)


@dataclass(frozen=True)
class Sample:
    """One minute: the memory of all workers, and the 99th percentile of what requests took."""

    rss_mib: float
    p99_ms: float
    requests: int


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
    tally.notes.append(_told(samples))
    tally.findings += _not_flat(samples)
    tally.wrong += len(_not_flat(samples))


def _loaded(trial: Trial, minutes: int) -> list[Sample]:
    server, samples = trial.server, list[Sample]()
    with ExitStack() as stack:
        clients = [TimedClient(server.host, server.port) for _ in range(2)]
        for client in clients:
            stack.callback(client.close)
        ending = stack.enter_context(at_work([*_works(trial, *clients)]))
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
            samples.append(_sample(server, clients))
            trial.tally.rounds += 1
        ending.set()
    # Those of the writers are summed up with what was acknowledged to them.
    trial.tally.requests += sum(sample.requests for sample in samples)
    trial.tally.requests -= sum(record.requests for record in trial.records.values())
    return samples


def _works(trial: Trial, client: Client, reading: Client) -> list[Callable[[threading.Event], None]]:
    works: list[Callable[[threading.Event], None]] = []
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


# --- flat --------------------------------------------------------------------------------------------------


def _sample(server: ServerProcess, clients: Sequence[TimedClient]) -> Sample:
    took_ms: list[float] = []
    for client in clients:
        took, client.took_s = client.took_s, []
        took_ms += (1000 * each for each in took)
    p99_ms = statistics.quantiles(took_ms, n=100)[98] if len(took_ms) > 1 else 0.0
    return Sample(sum(map(_rss_mib, workers(server))), p99_ms, len(took_ms))


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    return int(kib) / 1024


def _deviation(samples: Sequence[Sample]) -> float:
    """By how much memory differed from its median at most, the first minute left out."""
    sizes = [sample.rss_mib for sample in samples[1:]]
    middle = statistics.median(sizes)
    return max(abs(size - middle) / middle for size in sizes)


def _halves_ms(samples: Sequence[Sample]) -> tuple[float, float]:
    """The median p99 of the first half, and of the second."""
    half = len(samples) // 2
    first, second = (
        statistics.median(each.p99_ms for each in part) for part in (samples[:half], samples[half:])
    )
    return first, second


def _not_flat(samples: Sequence[Sample]) -> list[str]:
    if len(samples) < 3:
        return []
    wrong = []
    if _deviation(samples) > MEMORY_MOST:
        wrong.append(f"memory is not flat: {[round(each.rss_mib) for each in samples]} MiB")
    first, second = _halves_ms(samples)
    if second > P99_MOST * first + P99_SPARE_MS:
        wrong.append(f"p99 is not flat: {[round(each.p99_ms) for each in samples]} ms")
    return wrong


def _told(samples: Sequence[Sample]) -> str:
    if len(samples) < 3:
        return f"{len(samples)} minutes"
    first, last = samples[1], samples[-1]
    half, other = _halves_ms(samples)
    return (
        f"{len(samples)} minutes: memory of {first.rss_mib:.0f} MiB in the second minute and"
        f" {last.rss_mib:.0f} in the last, at most {_deviation(samples):.0%} from its median;"
        f" p99 of {first.p99_ms:.0f} ms and {last.p99_ms:.0f} ms,"
        f" {half:.0f} ms in the first half and {other:.0f} ms in the second"
    )


FAULTS = (Fault("mixed", "minutes of mixed load, two workers", 60, rounds, rounds_each=10, minutes=10.5),)
