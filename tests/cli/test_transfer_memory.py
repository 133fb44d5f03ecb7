"""Many keys with a long past go from one store to another, and memory stays bounded on both sides."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from kvfs.model import NS, Entry, Op, OpType, Origin, value_hash
from kvfs.transfer.blocks import stream
from kvfs.transfer.format import Header
from tests.cli.commands import COMMAND, Kvfs
from tests.http.launching import Server
from tests.serving import ROOT

KEYS = 100_000
ROUNDS = 3
MOST_KIB = 100 * 1024
BEGAN_S = 1_700_000_000
FAR_NS = 4_000_000_000 * NS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]


def ops() -> Iterator[Op]:
    """So many ops of so many keys, of several types; some with a TTL, some gaps, some not UTF-8."""
    seq = 0
    for number in range(1, ROUNDS + 1):
        for key in range(KEYS):
            seq += 1
            at_s = BEGAN_S + number
            name = f"folder{key % 100}/key{key:06}"
            value = b"%d %b" % (number, bytes([65 + key % 150]) * (50 + key % 200))
            expire_ns = FAR_NS if key % 3 == 0 else None
            gap = key % 10 == 0 and number == 2
            op_type, ttl_s = (
                (OpType.SET, 3600 if expire_ns else None) if number < 3 else (OpType.ROLLBACK, None)
            )
            entry = Entry(
                name, None if gap else value, len(value), "application/octet-stream", BEGAN_S + 1, at_s,
                expire_ns, number, value_hash(value),
            )  # fmt: skip
            origin = Origin.FILE if key % 7 == 0 else Origin.API
            yield Op(seq, name, number, op_type, origin, at_s * NS + key, entry, not gap, ttl_s)


@dataclass(frozen=True)
class Side:
    """A process of a pipe, ended: its exit code, and the most memory that it had."""

    code: int
    peak_kib: int


def piped(export: Sequence[str], import_: Sequence[str], kvfs: Kvfs) -> tuple[Side, ...]:
    """Run one command into another."""
    with (
        subprocess.Popen(export, cwd=ROOT, env=kvfs.environment, stdout=subprocess.PIPE) as out,
        subprocess.Popen(import_, cwd=ROOT, env=kvfs.environment, stdin=out.stdout) as into,
    ):
        assert out.stdout is not None
        out.stdout.close()
        return _ended(into, out)


def _ended(*processes: subprocess.Popen[bytes]) -> tuple[Side, ...]:
    """What they came to, looked at while they run: `ru_maxrss` begins with the memory of their parent."""
    peaks = [0] * len(processes)
    while any(process.poll() is None for process in processes):
        peaks = [max(peak, peak_kib(each.pid)) for peak, each in zip(peaks, processes, strict=True)]
        time.sleep(0.02)
    return tuple(Side(each.returncode, peak) for each, peak in zip(processes, peaks, strict=True))


def peak_kib(pid: int) -> int:
    """The most memory that a process has had so far; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def same(one: bytes, other: bytes) -> bool:
    """Whether two exports have the same records."""

    def records(data: bytes) -> list[bytes]:
        return [line for line in data.splitlines() if line.startswith(b'{"seq"')]

    return records(one) == records(other)


def test_a_long_history_goes_over_in_little_memory(tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    with first.open("wb") as file:
        file.writelines(stream(Header("first", "things", directory=False, history=True), ops()))
    kvfs = Kvfs()
    (tmp_path / "folder").mkdir()
    places = [str(tmp_path / name) for name in ("a.db", "folder", "b.db")]

    def command(name: str, db: str, *more: str) -> list[str]:
        return [*COMMAND, name, *more, "--local", "--db", db, "--table", "things", "--timeout", "300"]

    subprocess.run(command("import", places[0], str(first), "--create"), cwd=ROOT, check=True)
    for source, target in pairwise(places):
        sides = piped(command("export", source, "--history"), command("import", target, "--create"), kvfs)
        print(source, "->", target, sides)
        assert all(side.code == 0 for side in sides)
        assert all(side.peak_kib < MOST_KIB for side in sides), sides
    last = subprocess.run(
        command("export", places[-1], "--history"), cwd=ROOT, check=True, capture_output=True
    )
    assert same(first.read_bytes(), last.stdout)


def test_a_server_takes_a_long_history_in_little_memory(tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    with first.open("wb") as file:
        file.writelines(stream(Header("first", "things", directory=False, history=True), ops()))
    with Server(tmp_path) as server:
        kvfs = Kvfs(variables={"KVFS_URL": f"http://{server.host}:{server.port}"})
        before = peak_kib(server.pid)
        one, other = (["--db", str(tmp_path / name), "--table", "things"] for name in ("a.db", "b.db"))
        subprocess.run(
            [*COMMAND, "import", str(first), "--create", *one], cwd=ROOT, env=kvfs.environment, check=True
        )
        sides = piped([*COMMAND, "export", "--history", *one], [*COMMAND, "import", "--create", *other], kvfs)
        assert all(side.code == 0 and side.peak_kib < MOST_KIB for side in sides), sides
        print(sides, before, peak_kib(server.pid))
        assert peak_kib(server.pid) < 2 * MOST_KIB
        export = [*COMMAND, "export", "--history", *other]
        last = subprocess.run(export, cwd=ROOT, env=kvfs.environment, check=True, capture_output=True)
    assert same(first.read_bytes(), last.stdout)
