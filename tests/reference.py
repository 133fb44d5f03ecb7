"""The reference store: a log in memory, and everything else read off it. Slow, small, plainly right.

`Engine(paths, openers={Kind.TABLE: Reference().open})` runs the real engine, writer and decisions over it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from kvfs.config import Config
from kvfs.doubt import Doubt
from kvfs.errors import DatabaseError
from kvfs.imports import LastImport
from kvfs.model import Entry, FileValue, KeyState, Op, OpType, Value, value_bytes
from kvfs.openers import Opened
from kvfs.paths import Location
from kvfs.retention import Standing
from kvfs.sqlite import Space
from kvfs.status import DatabaseStatus
from kvfs.store import Cut, Reader, SelfContained, Step, Walk
from kvfs.valueops import missing

LOG_ID = "4ef"


class Reference:
    """All volumes, by their paths: what an engine closes is there again when it is opened."""

    def __init__(self) -> None:
        self.volumes: dict[str, ReferenceVolume] = {}

    def open(self, location: Location, config: Config, create: bool) -> Opened:
        volume = self.volumes.setdefault(location.path, ReferenceVolume())
        return Opened(volume, lambda table: ReferenceStore(table.lower(), volume))


@dataclass(frozen=True)
class Content:
    """Logs and standings by their stores' names, and (fingerprint, answer, expire_s) by idempotency keys."""

    logs: dict[str, list[Op]] = field(default_factory=dict)
    answers: dict[str, tuple[bytes, bytes, int]] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    imports: dict[str, LastImport] = field(default_factory=dict)


@dataclass
class ReferenceVolume:
    """What readers see, and the copy that a transaction changes. A `kvfs.store.Volume`."""

    committed: Content = field(default_factory=Content)
    content: Content = field(default_factory=Content)
    doubt: Doubt = field(default_factory=lambda: Doubt("the reference", DatabaseError))

    def begin(self, *, light: bool) -> None:
        logs = {name: list(log) for name, log in self.committed.logs.items()}
        before = self.committed
        self.content = Content(logs, dict(before.answers), dict(before.standings), dict(before.imports))

    in_transaction = True
    checkpoints = None

    def commit(self) -> None:
        self.committed = self.content

    def finish(self) -> None: ...

    def rollback(self) -> None:
        self.content = self.committed

    def recall(self, idempotency_key: str, now_s: int) -> tuple[bytes, bytes] | None:
        known = self.content.answers.get(idempotency_key)
        return known[:2] if known is not None and known[2] > now_s else None

    def remember(self, idempotency_key: str, fingerprint: bytes, answer: bytes, expire_s: int) -> None:
        self.content.answers[idempotency_key] = fingerprint, answer, expire_s

    def forget(self, now_s: int) -> None:
        kept = {name: known for name, known in self.content.answers.items() if known[2] > now_s}
        self.content = replace(self.content, answers=kept)

    def rest(self) -> None:
        return None

    def sync(self) -> None: ...

    watching = False

    def status(self) -> DatabaseStatus:
        return DatabaseStatus("", 0, readonly=False)

    def synced(self, mark: int) -> None: ...

    def shrink(self, pages: int) -> Space:
        return Space()

    def checkpoint(self) -> None: ...

    def verify(self) -> None: ...

    def replaced(self) -> bool:
        return False

    def close(self) -> None: ...


@dataclass
class ReferenceStore(SelfContained):
    """One log of a volume. A `kvfs.store.Store`."""

    name: str
    volume: ReferenceVolume
    directory: bool = False

    def get(self, key: str, now_ns: int) -> Entry:
        state = _state(_reader(self.volume.committed, self.name, now_ns), key)
        if state.entry is None or state.entry.expired(now_ns):
            raise missing(expired=state.expired or state.entry is not None)
        return state.entry

    fetch = get

    @contextmanager
    def reading(
        self, now_ns: int, deadline: float | None = None, *, looked: Set[str] = frozenset()
    ) -> Iterator[Reader]:
        yield _reader(self.volume.committed, self.name, now_ns)

    def scan(self, prefix: str, now_ns: int, *, everything: bool = False) -> None: ...

    def unsettled_among(self, keys: Sequence[str]) -> list[str]:
        return []

    def upload(self) -> FileValue:
        with tempfile.TemporaryFile() as file:
            return FileValue(os.dup(file.fileno()), 0)

    def tail(self) -> tuple[int, int]:
        return self._reader.tail()

    def log(self) -> AbstractContextManager[ReferenceReader]:
        return nullcontext(self._reader)

    def load(self, key: str) -> KeyState:
        return _state(self._reader, key)

    def load_value(self, key: str) -> Value:
        raise AssertionError("no value was left out")

    def due(self, now_ns: int, limit: int) -> list[str]:
        return [entry.key for entry in self._reader.entries() if entry.expired(now_ns)][:limit]

    def next_expiry(self) -> int | None:
        entries = _reader(self.volume.committed, self.name, 0).entries()
        return min((entry.expire_ns for entry in entries if entry.expire_ns is not None), default=None)

    def prune(self, walk: Walk, cut: Cut) -> Step:
        log = self._reader.log
        gone = [op for op in log if not _stays(op, log, cut)]
        if gone:
            self.volume.content.logs[self.name] = [op for op in log if op not in gone]
            last = max(op.seq for op in gone)
            self.change_standing(lambda known: known._replace(pruned_seq=max(last, known.pruned_seq)))
        return Step(None, len(gone), len({op.key for op in gone}))

    def change_standing(self, change: Callable[[Standing], Standing]) -> Standing:
        self.create()
        standing = change(self.volume.content.standings.get(self.name, Standing()))
        self.volume.content.standings[self.name] = standing
        return standing

    def copy_to(self, path: str, *, locked: bool) -> None:
        raise AssertionError("there is no file to copy")

    def last_import(self) -> LastImport | None:
        return self.volume.content.imports.get(self.name)

    def note_import(self, last: LastImport) -> None:
        self.create()
        self.volume.content.imports[self.name] = last

    def create(self) -> None:
        self.volume.content.logs.setdefault(self.name, [])

    def write(self, ops: Sequence[Op]) -> None:
        self.create()
        self.volume.content.logs[self.name].extend(map(_in_memory, ops))

    @property
    def _reader(self) -> ReferenceReader:
        return _reader(self.volume.content, self.name, 0)


NEVER_PRUNED = Standing()


@dataclass
class ReferenceReader:
    """A log that nobody changes while it is read. A `kvfs.store.Reader`."""

    log: list[Op]
    now_ns: int
    known: Standing = NEVER_PRUNED

    def page(
        self,
        start: str,
        end: str | None,
        *,
        limit: int,
        offset: int = 0,
        after: bool = False,
        values: bool = False,
    ) -> list[Entry]:
        live = [entry for entry in self._live(start, end) if not (after and entry.key == start)]
        return [entry if values else _without_value(entry) for entry in live[offset : offset + limit]]

    def count(self, start: str, end: str | None) -> int:
        return len(self._live(start, end))

    def tail(self) -> tuple[int, int]:
        return (self.log[-1].seq, self.log[-1].ts_ns) if self.log else (0, 0)

    def log_id(self) -> str:
        return LOG_ID

    def last_seq(self) -> int:
        return self.tail()[0]

    def span(self, *, after: int, through: int, start: str, end: str | None, limit: int) -> list[Op]:
        found = [self.facts(op.key, op.op_number) for op in self.log if after < op.seq <= through]
        return [op for op in found if op is not None and _within(op.key, start, end)][:limit]

    def op(self, key: str, op_number: int) -> Op | None:
        op = next((op for op in self.log if (op.key, op.op_number) == (key, op_number)), None)
        if op is None or op.recorded or op.entry is None:
            return op
        return op._replace(entry=_without_value(op.entry))

    facts = op

    def bounds(self, key: str) -> tuple[int, int] | None:
        numbers = [op.op_number for op in self.log if op.key == key]
        return (numbers[0], numbers[-1]) if numbers else None

    def history(self, key: str, *, above: int, below: int, limit: int, newest: bool) -> list[Op]:
        found = [op for op in self.log if op.key == key and above < op.op_number < below]
        return (found[::-1] if newest else found)[:limit]

    def seq_at(self, ts_ns: int) -> int:
        return max((op.seq for op in self.log if op.ts_ns <= ts_ns), default=0)

    def state_at(self, key: str, seq: int) -> Op | None:
        return next((op for op in reversed(self.log) if op.key == key and op.seq <= seq), None)

    def standing(self) -> Standing:
        return self.known

    def pruned_seq(self) -> int:
        return self.known.pruned_seq

    def settled_seq(self) -> int:
        return self.tail()[0]

    def changed_between(self, after: int, until: int, *, from_ns: int, to_ns: int, limit: int) -> list[str]:
        return list(self.keys_ever("", None))[:limit]

    def keys_ever(self, start: str, end: str | None) -> Iterator[str]:
        keys = sorted({op.key for op in self.log}, key=str.encode)
        return (key for key in keys if _within(key, start, end))

    def entries(self) -> list[Entry]:
        last = {op.key: op.left for op in self.log}
        return [entry for key in self.keys_ever("", None) if (entry := last[key]) is not None]

    def _live(self, start: str, end: str | None) -> list[Entry]:
        return [
            each for each in self.entries() if not each.expired(self.now_ns) and _within(each.key, start, end)
        ]


def _state(reader: ReferenceReader, key: str) -> KeyState:
    op = reader.state_at(key, reader.tail()[0])
    return KeyState(None, 0) if op is None else KeyState(op.left, op.op_number, op.op_type is OpType.EXPIRE)


def _reader(content: Content, name: str, now_ns: int) -> ReferenceReader:
    return ReferenceReader(content.logs.get(name, []), now_ns, content.standings.get(name, Standing()))


def _stays(op: Op, log: list[Op], cut: Cut) -> bool:
    newer = [each for each in log if each.key == op.key and each.seq > op.seq]
    kept_by_count = cut.keep_last is not None and len(newer) < cut.keep_last
    return kept_by_count or not any(each.seq <= cut.horizon for each in newer)


def _within(key: str, start: str, end: str | None) -> bool:
    return start.encode() <= key.encode() and (end is None or key.encode() < end.encode())


def _without_value(entry: Entry) -> Entry:
    return Entry(
        entry.key, None, entry.size, entry.content_type, entry.created_s, entry.updated_s, entry.expire_ns,
        entry.op_number, entry.sha256,
    )  # fmt: skip


def _in_memory(op: Op) -> Op:
    """The same op with its value as bytes: a file is its owner's to close."""
    if op.entry is None or op.entry.value is None:
        return op
    entry = op.entry.with_value(value_bytes(op.entry.value))
    return Op(
        op.seq, op.key, op.op_number, op.op_type, op.origin, op.ts_ns, entry, op.recorded, op.ttl_s
    )  # fmt: skip
