"""Long runs of writes, reads, edits and reopenings, each compared with the model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kvfs import content_types
from kvfs.config import Config
from kvfs.directory.names import own_value_path, path_of
from kvfs.engine import Engine
from kvfs.errors import CasMismatch, InvalidParameters, KeyExpired, KeyNotFound, NotFound, TimeTravelGap
from kvfs.handle import Handle
from kvfs.listing import LIMIT_MAX, Query
from kvfs.model import NS, BatchDelete, BatchSet, Conditions, Entry, Set
from kvfs.paths import Paths
from tests import invariants
from tests.clocks import HandClock
from tests.contract.model import Gap, Known, Model, Past

TABLE = "t"
KEYS = ["a", "a/b", "a/b/c", "a/b.json", "b", "..", "x~", "%value", "d//e", "n" * 80 + "é" * 90, "z.json"]

some_keys = st.sampled_from(KEYS)
some_values = st.sampled_from(
    [b"", b"1", b"41\n", b"-7", b"text", b"\xff\0", b'{"a": 1}', b"[1, 2]", b"[]", b"null", b"[", b"0.5"]
)
ttls = st.sampled_from([None, None, None, 1, 10])
moments = st.integers(0, 200)


class StoreMachine(RuleBasedStateMachine):
    """The rules that hold for every store. Each rule moves the clock on, so that no two share a moment."""

    directory = False

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="kvfs-machine-"))
        self.db = str(self.home / "db")
        if self.directory:
            os.mkdir(self.db)
        self.clock = HandClock()
        self.model = Model()
        self.moments: list[int] = []
        self.open()

    def open(self) -> None:
        self.engine = Engine(Paths(str(self.home)), clock=self.clock, config=Config(watch=False))
        self.model.look_at_all(self.clock.ns)
        self.engine.lease(self.db, TABLE, create=True).release()

    @property
    def store(self) -> Handle:
        """The store, asked for anew each time, as a server does: what was replaced is noticed."""
        with self.engine.lease(self.db, TABLE, create=True) as handle:
            return handle

    def teardown(self) -> None:
        try:
            self.compare_all()
            self.engine.close()
            self.check_files()
        finally:
            self.engine.close()
            shutil.rmtree(self.home)

    def check_files(self) -> None:
        invariants.check_table(self.db)

    def tick(self) -> int:
        self.moments.append(self.clock.ns)
        self.clock.move(0.003)
        return self.clock.ns

    def same(self, entry: Entry, known: Known) -> None:
        assert entry.value in (known.value, None)
        assert entry.size == len(known.value)
        assert (entry.content_type, entry.op_number) == (known.content_type, known.number)
        assert (entry.created_s, entry.updated_s) == (known.created_s, known.updated_s)
        assert entry.expire_ns == known.expire_ns

    def missing(self, key: str) -> type[NotFound]:
        return KeyExpired if self.model.is_expired(key, self.clock.ns) else KeyNotFound

    def compare_all(self) -> None:
        now = self.tick()
        page = self.store.list(Query(limit=LIMIT_MAX, values=True))
        self.model.look_at_all(now)
        live = self.model.live(now)
        assert [entry.key for entry in page.entries] == sorted(live, key=str.encode)
        for entry in page.entries:
            self.same(entry, live[entry.key])

    # --- writes ------------------------------------------------------------------------------------------

    @rule(key=some_keys, value=some_values, ttl=ttls, history=st.booleans())
    def set(self, key: str, value: bytes, ttl: int | None, history: bool) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        wrote = self.store.set(key, value, ttl_s=ttl, history=history)
        known = self.model.write(
            key,
            value,
            now,
            content_type=content_types.classify(None, value),
            expire_ns=None if ttl is None else now + ttl * NS,
            history=history,
        )
        assert (wrote.created, wrote.op_number) == (before is None, known.number)

    @rule(key=some_keys, history=st.booleans())
    def delete(self, key: str, history: bool) -> None:
        now = self.tick()
        if self.model.look(key, now) is None:
            with pytest.raises(self.missing(key)):
                self.store.delete(key, history=history)
            return
        wrote = self.store.delete(key, history=history)
        assert wrote.op_number == self.model.delete(key, now, history=history)

    @rule(key=some_keys, delta=st.integers(-50, 50))
    def incr(self, key: str, delta: int) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        number: int | float | None = 0
        if before is not None:
            try:
                number = json.loads(before.value)
            except ValueError:
                number = None
            else:
                number = 0 if number is None else number
        if not isinstance(number, int | float):
            with pytest.raises(InvalidParameters):
                self.store.incr(key, delta)
            return
        wrote = self.store.incr(key, delta)
        assert wrote.number == number + delta
        text = str(number + delta).encode() + (b"\n" if before and before.value.endswith(b"\n") else b"")
        self.edited(key, before, text, now, content_types.DIGITS)
        assert self.store.get(key).value == text

    @rule(key=some_keys, node=st.sampled_from(["1", '"x"', "[2]", "null"]))
    def push(self, key: str, node: str) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        array = [] if before is None else self.array(before)
        if array is None:
            with pytest.raises(InvalidParameters):
                self.store.push(key, node.encode())
            return
        assert self.store.push(key, node.encode()).length == len(array) + 1
        self.edited_array(key, before, [*array, json.loads(node)], now)

    @rule(key=some_keys)
    def pop(self, key: str) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        if before is None:
            with pytest.raises(self.missing(key)):
                self.store.pop(key)
            return
        array = self.array(before)
        if array is None:
            with pytest.raises(InvalidParameters):
                self.store.pop(key)
            return
        wrote = self.store.pop(key)
        if not array:
            assert (wrote.node, wrote.changed, wrote.op_number) == (None, False, before.number)
            return
        assert json.loads(wrote.node or "") == array[-1]
        self.edited_array(key, before, array[:-1], now)

    @rule(key=some_keys, value=some_values, stale=st.booleans(), by_value=st.booleans())
    def swap(self, key: str, value: bytes, stale: bool, by_value: bool) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        conditions = Conditions(exists=False)
        if before is not None and by_value:
            conditions = Conditions(value=before.value + b"!" if stale else before.value)
        elif before is not None:
            conditions = Conditions(etags=(str(before.number - 1 if stale else before.number),))
        content_type = content_types.classify(None, value)
        write = Set(key, value, content_type, conditions=conditions)
        if before is not None and stale:
            with pytest.raises(CasMismatch) as caught:
                self.store.apply(write)
            assert caught.value.details["current_etag"] == str(before.number)
            return
        wrote = self.store.apply(write).result
        assert wrote.op_number == self.model.write(key, value, now, content_type=content_type).number

    @rule(key=some_keys, ttl=st.sampled_from([None, 1, 20]))
    def set_ttl(self, key: str, ttl: int | None) -> None:
        now = self.tick()
        before = self.model.look(key, now)
        write: Callable[[], object] = (
            (lambda: self.store.persist(key)) if ttl is None else (lambda: self.store.expire(key, ttl))
        )
        if before is None:
            with pytest.raises(self.missing(key)):
                write()
            return
        write()
        if ttl is not None or before.expire_ns is not None:
            self.model.write(
                key,
                before.value,
                now,
                content_type=before.content_type,
                expire_ns=None if ttl is None else now + ttl * NS,
                touch=False,
            )

    @rule(keys=st.lists(some_keys, min_size=1, max_size=4), value=some_values, exists=st.booleans())
    def batch_set(self, keys: list[str], value: bytes, exists: bool) -> None:
        now = self.tick()
        content_type = content_types.classify(None, value)
        wanted = Conditions(exists=True) if exists else Conditions()
        sets = tuple(Set(key, value, content_type, conditions=wanted) for key in keys)
        states = [self.model.look(key, now) for key in keys]
        if exists and None in states:
            with pytest.raises(CasMismatch):
                self.store.apply(BatchSet(sets))
            return
        results = self.store.apply(BatchSet(sets)).results
        numbers = [self.model.write(key, value, now, content_type=content_type).number for key in keys]
        assert [result.op_number for result in results] == numbers

    @rule(keys=st.lists(some_keys, min_size=1, max_size=4))
    def batch_delete(self, keys: list[str]) -> None:
        now = self.tick()
        present = [key for key in dict.fromkeys(keys) if self.model.look(key, now) is not None]
        assert len(self.store.apply(BatchDelete(tuple(keys))).results) == len(present)
        for key in present:
            self.model.delete(key, now)

    # --- reads -------------------------------------------------------------------------------------------

    @rule(key=some_keys)
    def get(self, key: str) -> None:
        now = self.tick()
        known = self.model.peek(key, now)
        if known is None:
            with pytest.raises(self.missing(key)):
                self.store.get(key)
        else:
            self.same(self.store.get(key), known)

    @rule()
    def list_all(self) -> None:
        self.compare_all()

    @rule(
        prefix=st.sampled_from(["", "a", "a/", "a/b", "d/", "."]),
        limit=st.integers(1, 5),
        offset=st.integers(0, 3),
        delimiter=st.sampled_from(["", "/"]),
    )
    def list_some(self, prefix: str, limit: int, offset: int, delimiter: str) -> None:
        self.compare_all()
        found = [key for key in self.model.live(self.clock.ns) if key.startswith(prefix)]
        shown = []
        for key in sorted(found, key=str.encode):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            shown.append(key if at < 0 else key[: at + 1])
        shown = list(dict.fromkeys(shown))
        query = Query(prefix=prefix, limit=limit, offset=offset, delimiter=delimiter, total=True)
        page = self.store.list(query)
        keys = sorted([*(entry.key for entry in page.entries), *page.prefixes], key=str.encode)
        assert keys == shown[offset : offset + limit]
        assert (page.total, page.has_more) == (len(shown), len(shown) > offset + limit)

    @rule(key=some_keys, moment=moments)
    def get_at(self, key: str, moment: int) -> None:
        self.tick()
        ts_ns = self.moment(moment)
        past = self.model.at(key, ts_ns)
        if isinstance(past, Known):
            entry = self.store.get_at(key, ts_ns)
            assert (entry.value, entry.op_number) == (past.value, past.number)
        elif isinstance(past, Gap) and past.surely(ts_ns):
            with pytest.raises(TimeTravelGap):
                self.store.get_at(key, ts_ns)
        else:
            with pytest.raises((NotFound, TimeTravelGap) if past else NotFound):
                self.store.get_at(key, ts_ns)

    @rule(moment=moments)
    def list_at(self, moment: int) -> None:
        self.compare_all()
        ts_ns = self.moment(moment)
        past = {key: self.model.at(key, ts_ns) for key in KEYS}
        found = self.store.list_at(ts_ns)
        assert [*found.keys] == sorted((k for k in KEYS if isinstance(past[k], Known)), key=str.encode)
        gaps = {key: gap for key, gap in past.items() if isinstance(gap, Gap)}
        sure = {key for key, gap in gaps.items() if gap.surely(ts_ns)}
        assert sure <= {*found.gap_keys} <= gaps.keys()

    @rule(key=some_keys)
    def history(self, key: str) -> None:
        now = self.tick()
        self.model.peek(key, now)
        left = self.model.left(key)
        if not left:
            with pytest.raises(KeyNotFound):
                self.store.history(key)
            return
        told = self.store.history(key, limit=1000, newest=False)
        # That a key has run out may be logged before the model looks.
        assert len(left) <= told.total <= len(left) + 1
        assert told.oldest_op_number == left[0]
        for number, (op, _) in zip(left, told.operations, strict=False):
            past = self.model.after(key, number)
            assert (op.op_number, op.recorded) == (number, not isinstance(past, Gap))
            if op.recorded:
                value = None if op.entry is None else op.entry.value
                assert value == (past.value if isinstance(past, Known) else None)
                assert self.store.snapshot(key, number).entry == op.entry
            else:
                with pytest.raises(TimeTravelGap):
                    self.store.snapshot(key, number)

    @rule(moment=moments)
    def snapshot_at(self, moment: int) -> None:
        self.compare_all()
        ts_ns = self.moment(moment)
        past = {key: self.model.at(key, ts_ns) for key in KEYS}
        found = self.store.snapshot_at(ts_ns)
        assert {entry.key: (entry.value, entry.content_type) for entry in found.entries} == {
            key: (known.value, known.content_type) for key, known in past.items() if isinstance(known, Known)
        }

    @rule(one=moments, other=moments)
    def diff(self, one: int, other: int) -> None:
        self.compare_all()
        first, second = sorted((self.moment(one), self.moment(other)))
        found = self.store.diff(first, second)
        changed = {key: (before, after) for key, before, after in found.differences}
        for key in KEYS:
            before, after = self.model.at(key, first), self.model.at(key, second)
            if isinstance(before, Gap) or isinstance(after, Gap):
                assert not (key in changed and (surely(before, first) or surely(after, second)))
            elif shown(before) == shown(after):
                assert key not in changed
            else:
                entries = changed[key]
                assert [
                    None if entry is None else (entry.value, entry.content_type) for entry in entries
                ] == [
                    shown(before),
                    shown(after),
                ]

    # --- going back --------------------------------------------------------------------------------------

    @rule(key=some_keys, steps=st.integers(1, 6))
    def rollback(self, key: str, steps: int) -> None:
        now = self.tick()
        self.model.look(key, now)
        count = self.model.numbers.get(key, 0)
        if steps > count:
            with pytest.raises(InvalidParameters if count else KeyNotFound):
                self.store.rollback(key, steps)
            return
        past = self.model.after(key, count - steps) if steps < count else None
        if isinstance(past, Gap):
            with pytest.raises(TimeTravelGap):
                self.store.rollback(key, steps)
            return
        wrote = self.store.rollback(key, steps)
        assert wrote.op_number == count + 1
        if past is None:
            self.model.delete(key, now)
        else:
            self.restored(key, past, self.model.when(key, count - steps + 1), now)

    @rule(moment=moments, some=st.none() | st.frozensets(some_keys), dry_run=st.booleans())
    def rollback_table(self, moment: int, some: frozenset[str] | None, dry_run: bool) -> None:
        self.compare_all()
        now, ts_ns = self.tick(), self.moment(moment)
        selected = sorted(KEYS if some is None else some, key=str.encode)
        past = {key: self.model.at(key, ts_ns) for key in selected}
        gaps = [key for key in selected if isinstance(past[key], Gap)]
        if gaps:
            if all(surely(past[key], ts_ns) for key in gaps):
                with pytest.raises(TimeTravelGap) as caught:
                    self.store.rollback_table(ts_ns, keys=None if some is None else selected)
                assert caught.value.details["gap_keys"] == gaps
            return
        live = self.model.live(now)
        expected: dict[str, Known | None] = {}
        for key in selected:
            then, known = past[key], live.get(key)
            assert not isinstance(then, Gap)
            same = shown(then) == shown(known)
            if same and then is not None and known is not None:
                same = known.expire_ns == left_of(then, ts_ns, now)
            if not same:
                expected[key] = then
        results = self.store.rollback_table(
            ts_ns, keys=None if some is None else selected, dry_run=dry_run
        ).results
        assert {result.key: result.removed for result in results} == {
            key: int(then is None) for key, then in expected.items()
        }
        if dry_run:
            return
        for key, then in expected.items():
            self.model.look(key, now)
            if then is None:
                self.model.delete(key, now)
            else:
                self.restored(key, then, ts_ns, now)
        self.compare_all()

    # --- pruning -----------------------------------------------------------------------------------------

    @rule(moment=st.none() | moments, keep_last=st.none() | st.integers(1, 4))
    def prune(self, moment: int | None, keep_last: int | None) -> None:
        self.what_is_due_is_logged()
        before_ns = None if moment is None else self.moment(moment)
        if before_ns is None and keep_last is None:
            with pytest.raises(InvalidParameters):
                self.store.prune()
            return
        pruned = self.store.prune(before_ns=before_ns, keep_last=keep_last)
        assert (pruned.removed, pruned.stopped_by) == (self.model.prune(before_ns, keep_last), None)

    # --- time and reopening ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 30]))
    def time_passes(self, seconds: int) -> None:
        self.compare_all()
        self.clock.move(seconds)

    @rule()
    def what_is_due_is_logged(self) -> None:
        self.compare_all()
        reaping = self.store.reap(deadline=None)
        if reaping is not None:
            reaping.result()
        for key in KEYS:
            self.model.look(key, self.clock.ns)

    @rule()
    def reopen(self) -> None:
        self.tick()
        self.engine.close()
        self.open()
        self.store.settle_all()

    # --- parts -------------------------------------------------------------------------------------------

    def moment(self, back: int) -> int:
        return self.moments[-1 - back % len(self.moments)]

    def restored(self, key: str, past: Known, at_ns: int, now: int) -> None:
        expire_ns = left_of(past, at_ns, now)
        self.model.write(key, past.value, now, content_type=past.content_type, expire_ns=expire_ns)

    def array(self, known: Known) -> list[object] | None:
        try:
            array = json.loads(known.value)
        except ValueError:
            return None
        return array if isinstance(array, list) else None

    def edited_array(self, key: str, before: Known | None, array: list[object], now: int) -> None:
        value = self.store.get(key).value
        assert isinstance(value, bytes)
        assert json.loads(value) == array
        self.edited(key, before, value, now, content_types.JSON)

    def edited(self, key: str, before: Known | None, value: bytes, now: int, new_type: str) -> None:
        self.model.write(
            key,
            value,
            now,
            content_type=new_type if before is None else before.content_type,
            expire_ns=None if before is None else before.expire_ns,
        )


def shown(past: Past) -> tuple[bytes, str] | None:
    return (past.value, past.content_type) if isinstance(past, Known) else None


def surely(past: Past, ts_ns: int) -> bool:
    """Whether this is a gap, whatever the log says of what has run out."""
    return isinstance(past, Gap) and past.surely(ts_ns)


def left_of(past: Known, at_ns: int, now_ns: int) -> int | None:
    """When a TTL runs out that has from now on what was left of it then."""
    if past.expire_ns is None or past.expire_ns <= at_ns:
        return None
    return now_ns + past.expire_ns - at_ns


class TableMachine(StoreMachine):
    """A table."""


class DirectoryMachine(StoreMachine):
    """A folder, which others edit too. Whoever looks sees at once what they did."""

    directory = True

    @initialize()
    def something_is_there_already(self) -> None:
        self.write_outside("a/b.json", b"[1, 2]")
        with self.engine.lease(self.db, TABLE) as handle:
            handle.settle_all()
        self.model.look_at_all(self.clock.ns)

    def check_files(self) -> None:
        if (Path(self.db) / ".kvfs" / f"{TABLE}.oplog").exists():
            invariants.check_folder(self.db, TABLE)

    def compare_all(self) -> None:
        super().compare_all()
        live = self.model.live(self.clock.ns)
        assert {key: self.file(key).read_bytes() for key in live} == {key: live[key].value for key in live}

    @precondition(lambda self: self.nothing_has_run_out())
    @rule(key=some_keys, value=some_values, how=st.sampled_from(["in place", "by rename", "same size"]))
    def somebody_writes(self, key: str, value: bytes, how: str) -> None:
        if how == "same size" and (known := self.model.disk.get(key)):
            value = bytes(byte ^ 1 for byte in known)
        self.write_outside(key, value, by_rename=how == "by rename")

    @precondition(lambda self: self.nothing_has_run_out())
    @rule(key=some_keys)
    def somebody_deletes(self, key: str) -> None:
        if key in self.model.disk:
            self.file(key).unlink()
            del self.model.disk[key]

    @precondition(lambda self: self.nothing_has_run_out())
    @rule(key=some_keys)
    def somebody_deletes_a_folder(self, key: str) -> None:
        folder = self.folder().joinpath(*path_of(key))
        if folder.is_dir():
            shutil.rmtree(folder)
            for gone in [each for each in self.model.disk if each == key or each.startswith(key + "/")]:
                del self.model.disk[gone]

    @precondition(lambda self: self.nothing_has_run_out())
    @rule(key=some_keys, other=some_keys)
    def somebody_renames(self, key: str, other: str) -> None:
        target = self.folder().joinpath(*path_of(other))
        if key == other or key not in self.model.disk or target.is_dir() or not target.parent.is_dir():
            return
        self.file(key).rename(target)
        self.model.disk[other] = self.model.disk.pop(key)

    @precondition(lambda self: self.nothing_has_run_out())
    @rule(key=some_keys)
    def somebody_touches(self, key: str) -> None:
        if key in self.model.disk:
            os.utime(self.file(key))

    @rule(key=some_keys)
    def somebody_makes_an_empty_folder(self, key: str) -> None:
        folder = self.folder().joinpath(*path_of(key))
        if not folder.exists() and folder.parent.is_dir():
            folder.mkdir()

    @rule()
    def the_index_is_lost(self) -> None:
        self.tick()
        self.engine.close()
        for file in (Path(self.db) / ".kvfs").glob(f"{TABLE}.index*"):
            file.unlink()
        self.open()
        self.store.settle_all()

    # --- parts -------------------------------------------------------------------------------------------

    def nothing_has_run_out(self) -> bool:
        """What an edit of a key that ran out means has its own test, in tests/directory."""
        return not any(known.expired(self.clock.ns) for known in self.model.keys.values())

    def folder(self) -> Path:
        return Path(self.db, TABLE)

    def file(self, key: str) -> Path:
        plain = self.folder().joinpath(*path_of(key))
        return self.folder().joinpath(*own_value_path(key)) if plain.is_dir() else plain

    def write_outside(self, key: str, value: bytes, *, by_rename: bool = False) -> None:
        file = self.file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            return  # a file is in the way, as it would be for anybody
        if by_rename:
            fresh = self.home / "fresh"
            fresh.write_bytes(value)
            fresh.rename(file)
        else:
            file.write_bytes(value)
        self.model.disk[key] = value


short = settings(deadline=None, max_examples=25, stateful_step_count=40, report_multiple_bugs=False)

TestTable = TableMachine.TestCase
TestTable.settings = short
TestDirectory = DirectoryMachine.TestCase
TestDirectory.settings = short
