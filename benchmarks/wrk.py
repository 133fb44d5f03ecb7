"""Load from wrk: https://github.com/wg/wrk."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

WRK: Final = shutil.which("wrk")

_SCRIPT: Final = """
local requests, count, order = {%(requests)s}, %(count)d, 0
function request()
  order = order %% #requests + 1
  if count > 0 then return string.format(requests[order], math.random(0, count - 1)) end
  return requests[order]
end
%(delay)s
function init() math.randomseed(%(seed)d) end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "us": %%d, "p50_us": %%d, "p99_us": %%d, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Request:
    """What is asked again and again; `%07d` in the target is a number below `random`, if that is set."""

    method: str
    target: str
    body: bytes = b""
    content_type: str = "application/json"

    def text(self) -> bytes:
        """The request as it is sent."""
        head = f"{self.method} {self.target} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if self.body:
            head += f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


class Load(NamedTuple):
    """Requests in turn to a port; each for one of `random` keys, if that is set."""

    port: int
    requests: Sequence[Request]
    random: int = 0
    connections: int = 32


class Measured(NamedTuple):
    """What came of a load: answers a second, and how long an answer took."""

    per_s: float
    p50_ms: float
    p99_ms: float


def run(load: Load, seconds: int, *, cpu: int | None, delay_ms: int = 0) -> Measured:
    """Have wrk ask for a while, from one thread on `cpu`.

    With `delay_ms` each connection waits between requests, for so long in the mean: at random, so that they
    come as those of many clients do, and not all at once.
    Raises `RuntimeError` where any answer was no success.
    """
    script = _SCRIPT % {
        "requests": ",".join(_lua(each.text()) for each in load.requests),
        "count": load.random,
        "delay": f"function delay() return math.random(0, {2 * delay_ms}) end" if delay_ms else "",
        "seed": load.port,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        pinned = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        options = ["--threads=1", f"--connections={load.connections}", f"--duration={seconds}s"]
        command = [*pinned, "wrk", *options, f"--script={file.name}", f"http://127.0.0.1:{load.port}/"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["errors"] or not told["requests"]:
        raise RuntimeError(f"{told['errors']} errors of {told['requests']}: {load.requests[0]}")
    return Measured(told["requests"] * 1e6 / told["us"], told["p50_us"] / 1000, told["p99_us"] / 1000)


def _lua(text: bytes) -> str:
    """A string of Lua."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text) + '"'
