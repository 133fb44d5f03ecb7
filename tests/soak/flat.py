"""How large and how quick a server is, minute by minute, and whether it stays so."""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.contract.http_driver import Answer, Client, Params

MEMORY_MOST = 0.10
"""By how much memory may differ from its median, once the first minute is over."""
P99_MOST = 2.0
P99_SPARE_MS = 10.0
"""How much slower the second half may be than the first, if the machine is not slower too."""
_PING_S = 0.02


@dataclass(frozen=True)
class Sample:
    """One minute: the memory of all workers, the 99th percentile of what requests took, and their number.

    `machine_ms` is the 99th percentile of what a machine that did nothing else would do in no time.
    """

    rss_mib: float
    p99_ms: float
    machine_ms: float
    requests: int


class TimedClient(Client):
    """A client that keeps how long its requests took, in milliseconds."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.took_ms: list[float] = []

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
                self.took_ms.append(1000 * (time.perf_counter() - began))


@contextmanager
def pinging() -> Iterator[list[float]]:
    """How long another process took to send a byte back, in milliseconds, from time to time."""
    took_ms: list[float] = []
    ending = threading.Event()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as cat:

        def ping() -> None:
            assert cat.stdin is not None
            assert cat.stdout is not None
            while not ending.wait(_PING_S):
                began = time.perf_counter()
                cat.stdin.write(b".")
                cat.stdout.read(1)
                took_ms.append(1000 * (time.perf_counter() - began))

        thread = threading.Thread(target=ping)
        thread.start()
        try:
            yield took_ms
        finally:
            ending.set()
            thread.join()
            cat.kill()


def sample(pids: Sequence[int], took_ms: Sequence[list[float]], pings_ms: list[float]) -> Sample:
    """What has come since the last time; the lists are emptied."""
    requests = [each for some in took_ms for each in _taken(some)]
    return Sample(sum(map(_rss_mib, pids)), _p99(requests), _p99(_taken(pings_ms)), len(requests))


def _taken(some: list[float]) -> list[float]:
    """Threads may append meanwhile."""
    taken = some[:]
    del some[: len(taken)]
    return taken


def _p99(of: Sequence[float]) -> float:
    return statistics.quantiles(of, n=100)[98] if len(of) > 1 else 0.0


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    return int(kib) / 1024


# --- flat --------------------------------------------------------------------------------------------------


def not_flat(samples: Sequence[Sample]) -> list[str]:
    """What has grown; three minutes at least."""
    wrong = []
    if _deviation(samples) > MEMORY_MOST:
        wrong.append(f"memory is not flat: {[round(each.rss_mib) for each in samples]} MiB")
    first, second = _halves([each.p99_ms for each in samples])
    before, after = _halves([each.machine_ms for each in samples])
    if second > P99_MOST * max(1.0, after / before) * first + P99_SPARE_MS:
        wrong.append(f"p99 is not flat: {[round(each.p99_ms) for each in samples]} ms")
    return wrong


def told(samples: Sequence[Sample]) -> str:
    """What there is to say of so many minutes; three at least."""
    first, second = _halves([each.p99_ms for each in samples])
    before, after = _halves([each.machine_ms for each in samples])
    return (
        f"{len(samples)} minutes: memory of {samples[1].rss_mib:.0f} MiB in the second minute and"
        f" {samples[-1].rss_mib:.0f} in the last, at most {_deviation(samples):.0%} from its median;"
        f" p99 of {first:.0f} ms in the first half and {second:.0f} ms in the second,"
        f" when a byte through a pipe took {before:.1f} ms and {after:.1f} ms"
    )


def _deviation(samples: Sequence[Sample]) -> float:
    """By how much memory differed from its median at most, the first minute left out."""
    sizes = [sample.rss_mib for sample in samples[1:]]
    middle = statistics.median(sizes)
    return max(abs(size - middle) / middle for size in sizes)


def _halves(values: Sequence[float]) -> tuple[float, float]:
    """The median of the first half, and of the second."""
    half = len(values) // 2
    return statistics.median(values[:half]), statistics.median(values[half:])
