"""What SQL does to a KV table, by whatever program, is history like any other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfs.errors import KeyExpired, KeyNotFound
from kvfs.handle import Handle
from kvfs.model import Op, RollbackTable
from tests.clocks import NS, HandClock, HurriedClock, moment
from tests.engine.place import TABLE, Place, value_of

TRIGGERS = [f"kvfs_{event}_{TABLE}" for event in ("insert", "update", "delete")]


@pytest.fixture
def store(table: Place) -> Iterator[Handle]:
    with table.store() as handle:
        handle.set("a", b"one")
        yield handle


def told(store: Handle, key: str) -> list[tuple[int, str, str, bytes | None]]:
    """A key's history, the oldest first: number, type, origin and value of each op."""
    operations = store.history(key, newest=False).operations
    return [_brief(operation.op) for operation in operations]


def _brief(op: Op) -> tuple[int, str, str, bytes | None]:
    value = None if op.entry is None else op.entry.value
    assert value is None or isinstance(value, bytes)
    return op.op_number, op.op_type.value, op.origin.value, value


FIRST = (1, "set", "api", b"one")


# --- what becomes an op ------------------------------------------------------------------------------


def test_an_insert_is_a_set(table: Place, store: Handle) -> None:
    table.sql(f"INSERT INTO {TABLE} (key, value) VALUES ('b', 'two')")
    assert told(store, "b") == [(1, "set", "sql", b"two")]
    assert store.get("b").op_number == 1


def test_an_update_is_a_set(table: Place, store: Handle) -> None:
    table.sql(f"UPDATE {TABLE} SET value = 'two' WHERE key = 'a'")
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]
    assert store.get("a").op_number == 2


def test_an_upsert_is_a_set(table: Place, store: Handle) -> None:
    upsert = (
        f"INSERT INTO {TABLE} (key, value) VALUES (?, 'two')"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    table.sql(upsert.replace("?", "'a'"), upsert.replace("?", "'b'"))
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]
    assert told(store, "b") == [(1, "set", "sql", b"two")]


def test_a_replace_is_a_set_that_goes_on_counting(table: Place, store: Handle) -> None:
    table.sql(f"REPLACE INTO {TABLE} (key, value) VALUES ('a', 'two')")
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]


def test_a_delete_is_a_delete(table: Place, store: Handle) -> None:
    table.sql(f"DELETE FROM {TABLE}")
    assert told(store, "a") == [FIRST, (2, "delete", "sql", None)]
    with pytest.raises(KeyNotFound):
        store.get("a")


def test_a_renamed_key_is_deleted_and_set(table: Place, store: Handle) -> None:
    table.sql(f"UPDATE {TABLE} SET key = 'b'")
    assert told(store, "a") == [FIRST, (2, "delete", "sql", None)]
    assert told(store, "b") == [(1, "set", "sql", b"one")]


def test_a_key_renamed_over_another_goes_on_with_that_ones_numbers(table: Place, store: Handle) -> None:
    store.set("b", b"two")
    table.sql(f"UPDATE OR REPLACE {TABLE} SET key = 'b' WHERE key = 'a'")
    assert told(store, "b") == [(1, "set", "api", b"two"), (2, "set", "sql", b"one")]
    assert told(store, "a")[-1] == (2, "delete", "sql", None)


def test_every_row_of_a_statement_is_an_op(table: Place, store: Handle) -> None:
    table.sql(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)"
        f" INSERT INTO {TABLE} (key, value) SELECT 'k' || i, i FROM n",
        f"UPDATE {TABLE} SET value = value || '!' WHERE key LIKE 'k%'",
    )
    assert told(store, "k7") == [(1, "set", "sql", b"7"), (2, "set", "sql", b"7!")]
    assert len(table.check()) == 101


def test_a_transaction_that_is_rolled_back_leaves_no_op(table: Place, store: Handle) -> None:
    table.sql("BEGIN", f"UPDATE {TABLE} SET value = 'two'", "ROLLBACK")
    assert told(store, "a") == [FIRST]


def test_what_the_api_writes_afterwards_goes_on_counting(table: Place, store: Handle) -> None:
    table.sql(f"UPDATE {TABLE} SET value = '41'")
    assert store.incr("a").number == 42
    assert told(store, "a")[1:] == [(2, "set", "sql", b"41"), (3, "incr", "api", b"42")]


def test_what_the_api_writes_fires_no_trigger(table: Place, store: Handle) -> None:
    table.sql(
        "CREATE TABLE seen (key)",
        f"CREATE TRIGGER mine AFTER UPDATE ON {TABLE} BEGIN INSERT INTO seen VALUES (NEW.key); END",
    )
    store.set("a", b"two")
    assert told(store, "a") == [FIRST, (2, "set", "api", b"two")]
    assert table.query("SELECT * FROM seen") == []


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {TABLE} SET op_number = 0, value = 'two'",
        f"UPDATE {TABLE} SET op_number = 2, value = 'two'",
        f"UPDATE {TABLE} SET op_number = 99, value = 'two'",
        f"REPLACE INTO {TABLE} (key, value, op_number) VALUES ('a', 'two', 1)",
        f"REPLACE INTO {TABLE} (key, value, op_number) VALUES ('a', 'two', 2)",
        f"REPLACE INTO {TABLE} (key, value, op_number) VALUES ('a', 'two', 99)",
    ],
)
def test_an_op_number_in_a_statement_means_nothing(table: Place, store: Handle, statement: str) -> None:
    table.sql(statement)
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]
    assert store.get("a").op_number == 2


def test_a_program_with_recursive_triggers_makes_the_same_ops(table: Place, store: Handle) -> None:
    table.sql(
        "PRAGMA recursive_triggers = ON",
        f"UPDATE {TABLE} SET value = 'two'",
        f"REPLACE INTO {TABLE} (key, value) VALUES ('a', 'three')",
    )
    # There, REPLACE tells that it deletes.
    assert told(store, "a") == [
        FIRST,
        (2, "set", "sql", b"two"),
        (3, "delete", "sql", None),
        (4, "set", "sql", b"three"),
    ]


def test_a_row_that_is_given_its_next_number_is_logged_as_it_is(table: Place) -> None:
    with table.store(clock=HandClock(1000 * NS)) as store:
        store.set("a", b"[1]")
        table.sql(f"UPDATE {TABLE} SET op_number = 2, value = 'two'")
        assert told(store, "a")[1:] == [(2, "set", "sql", b"two")]
        assert store.get("a").updated_s == 1000


# --- times, types and values -------------------------------------------------------------------------


def test_the_time_of_an_op_is_never_before_the_one_that_precedes_it(table: Place) -> None:
    clock = HandClock(4_000_000_000 * NS)
    with table.store(clock=clock) as store:
        store.set("a", b"one")
        table.sql(f"UPDATE {TABLE} SET value = 'two'")
        times = [operation.op.ts_ns for operation in store.history("a").operations]
        assert times == [clock.ns, clock.ns]


def test_an_update_moves_updated_at_unless_it_says_so_itself(table: Place) -> None:
    clock = HandClock(1000 * NS)
    with table.store(clock=clock) as store:
        store.set("a", b"one")
        table.sql(f"UPDATE {TABLE} SET value = 'two'")
        entry = store.get("a")
        assert entry.created_s == 1000
        assert entry.updated_s > 1_000_000
        table.sql(f"UPDATE {TABLE} SET value = 'three', updated_at = 7")
        assert store.get("a").updated_s == 7
        assert told(store, "a")[-1] == (3, "set", "sql", b"three")


def test_a_row_without_a_type_is_told_by_its_value(table: Place, store: Handle) -> None:
    table.sql(f"""INSERT INTO {TABLE} (key, value) VALUES ('json', '{{"a": 1}}'), ('text', 'a: 1')""")
    types = [store.get(key).content_type for key in ("json", "text")]
    assert types == ["application/json", "text/plain; charset=utf-8"]
    past = store.snapshot("json", 1).entry
    assert past is not None
    assert past.content_type == "application/json"


def test_json_that_sql_makes_text_of_is_not_called_json(table: Place, store: Handle) -> None:
    store.set("j", b"[1]")
    table.sql(f"UPDATE {TABLE} SET value = 'none' WHERE key = 'j'")
    assert store.get("j").content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("5", b"5"),
        ("1.5", b"1.5"),
        ("1e20", b"1.0e+20"),
        ("x'00ff'", b"\x00\xff"),
        ("CAST(x'ff41' AS TEXT)", b"\xffA"),
        ("''", b""),
        ("'a' || char(0) || 'b'", b"a\0b"),
    ],
)
def test_a_value_of_any_type_reads_as_its_bytes(
    table: Place, store: Handle, literal: str, value: bytes
) -> None:
    table.sql(f"INSERT INTO {TABLE} (key, value) VALUES ('odd', {literal})")
    entry = store.get("odd")
    assert (entry.value, entry.size) == (value, len(value))
    assert told(store, "odd") == [(1, "set", "sql", value)]
    assert store.set("odd", b"x").op_number == 2


@pytest.mark.parametrize("literal", ["'soon'", "x'00'", "9e999", "1e300", "9e18", "NULL"])
def test_an_expiry_that_is_none_or_far_away_leaves_the_key_there(
    table: Place, store: Handle, literal: str
) -> None:
    table.sql(f"INSERT INTO {TABLE} (key, value, expire_at) VALUES ('odd', 'x', {literal})")
    assert value_of(store, "odd") == b"x"
    assert told(store, "odd") == [(1, "set", "sql", b"x")]
    assert [key.value for key in store.snapshot_at(time.time_ns()).entries if key.key == "odd"] == [b"x"]


@pytest.mark.parametrize("literal", ["''", "NULL", "x'61'", "'a' || char(0)", "printf('%01025d', 1)"])
def test_what_is_no_key_is_refused(table: Place, store: Handle, literal: str) -> None:
    for statement in (
        f"INSERT INTO {TABLE} (key, value) VALUES ({literal}, 'x')",
        f"UPDATE {TABLE} SET key = {literal}",
    ):
        with pytest.raises(apsw.ConstraintError, match="key"):
            table.sql(statement)
    assert told(store, "a") == [FIRST]
    assert list(store.keys()) == ["a"]


# --- expiry ------------------------------------------------------------------------------------------


@pytest.fixture
def ran_out(table: Place) -> Iterator[Handle]:
    """A key whose TTL ran out long ago, and whose end nobody has logged."""
    clock = HandClock(1000 * NS)
    with table.store(clock=clock) as store:
        store.set("a", b"one", ttl_s=10)
        yield store


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE {TABLE} SET value = 'two', expire_at = NULL",
        f"REPLACE INTO {TABLE} (key, value) VALUES ('a', 'two')",
    ],
)
def test_the_end_of_what_had_run_out_is_logged_before_what_replaces_it(
    table: Place, ran_out: Handle, statement: str
) -> None:
    table.sql(statement)
    assert told(ran_out, "a") == [FIRST, (2, "expire", "api", None), (3, "set", "sql", b"two")]
    assert value_of(ran_out, "a") == b"two"


def test_an_update_does_not_bring_back_what_had_run_out(table: Place) -> None:
    with table.store() as store:
        store.set("a", b"one")
        table.sql(f"UPDATE {TABLE} SET expire_at = 1000", f"UPDATE {TABLE} SET value = 'two'")
        with pytest.raises(KeyExpired):
            store.get("a")
        assert told(store, "a")[2:4] == [(3, "expire", "api", None), (4, "set", "sql", b"two")]


def test_deleting_what_had_run_out_logs_that_it_ran_out(table: Place, ran_out: Handle) -> None:
    table.sql(f"DELETE FROM {TABLE}")
    assert told(ran_out, "a") == [FIRST, (2, "expire", "api", None)]


def test_an_expiry_that_sql_gives_ends_the_key(table: Place) -> None:
    clock = HurriedClock()
    with table.store(clock=clock) as store:
        store.set("a", b"one")
        soon_s = clock() // NS + 10
        table.sql(f"UPDATE {TABLE} SET expire_at = {soon_s}")
        assert store.get("a").expire_ns == soon_s * NS
        clock.hurry(11)
        with pytest.raises(KeyExpired):
            store.get("a")


# --- time travel -------------------------------------------------------------------------------------


def test_a_value_that_sql_wrote_back_is_no_difference(table: Place, store: Handle) -> None:
    before = moment()
    table.sql(f"UPDATE {TABLE} SET value = 'two'", f"UPDATE {TABLE} SET value = 'one'")
    assert store.diff(before, time.time_ns()).differences == ()
    assert len(told(store, "a")) == 3


def test_a_table_is_rolled_back_to_before_what_sql_did(table: Place, store: Handle) -> None:
    store.set("b", b"two")
    before = moment()
    table.sql(f"UPDATE {TABLE} SET value = 'gone wrong'", f"INSERT INTO {TABLE} (key, value) VALUES ('c', 1)")
    store.apply(RollbackTable(before))
    assert {key: value_of(store, key) for key in list(store.keys())} == {"a": b"one", "b": b"two"}


# --- what was done without the triggers --------------------------------------------------------------


def test_what_was_done_without_the_triggers_is_logged_when_the_store_is_read(table: Place) -> None:
    with table.store() as store:
        for key in ("same", "changed", "deleted", "retyped"):
            store.set(key, b"one")
        store.set("unrecorded", b"one", history=False)
        store.set("ended", b"one", ttl_s=3600)
        store.delete("deleted")
        store.set("deleted", b"two")
    table.sql(
        *(f"DROP TRIGGER {name}" for name in TRIGGERS),
        f"UPDATE {TABLE} SET value = 'two' WHERE key = 'changed'",
        f"UPDATE {TABLE} SET content_type = 'text/x-mine' WHERE key = 'retyped'",
        f"DELETE FROM {TABLE} WHERE key IN ('deleted')",
        f"INSERT INTO {TABLE} (key, value) VALUES ('new', 'x')",
        f"UPDATE {TABLE} SET expire_at = NULL WHERE key = 'ended'",
    )
    with table.store() as store:
        assert told(store, "same") == [FIRST]
        assert told(store, "changed") == [FIRST, (2, "set", "sql", b"two")]
        assert told(store, "retyped") == [FIRST, (2, "set", "sql", b"one")]
        assert told(store, "deleted")[3:] == [(4, "delete", "sql", None)]
        assert told(store, "new") == [(1, "set", "sql", b"x")]
        assert told(store, "ended") == [FIRST, (2, "set", "sql", b"one")]
        assert len(told(store, "unrecorded")) == 1
        table.sql(f"UPDATE {TABLE} SET value = 'three' WHERE key = 'changed'")
        assert told(store, "changed")[-1] == (3, "set", "sql", b"three")


def test_a_store_from_before_there_were_triggers_gets_them_and_no_ops(table: Place) -> None:
    with table.store() as store:
        store.set("a", b"one")
    table.sql(*(f"DROP TRIGGER {name}" for name in TRIGGERS))
    with table.store() as store:
        assert told(store, "a") == [FIRST]
        table.sql(f"DELETE FROM {TABLE}")
        assert told(store, "a")[1:] == [(2, "delete", "sql", None)]


def test_triggers_that_vanish_while_the_store_is_open_are_made_again(table: Place, store: Handle) -> None:
    table.sql(*(f"DROP TRIGGER {name}" for name in TRIGGERS), f"UPDATE {TABLE} SET value = 'two'")
    store.set("b", b"x")
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]


def test_a_table_that_was_dropped_lost_its_keys(table: Place, store: Handle) -> None:
    table.sql(f"DROP TABLE {TABLE}")
    assert told(store, "a") == [FIRST, (2, "delete", "sql", None)]
    assert store.set("a", b"again").op_number == 3


def test_a_copy_that_a_plain_sqlite_edited_carries_its_history_along(table: Place, tmp_path: Path) -> None:
    with table.store() as store:
        store.set("a", b"one")
    copy = Place(tmp_path / "elsewhere", directory=False)
    copy.home.mkdir()
    shutil.copy(table.path, copy.path)
    plain_sqlite(
        copy.path,
        f"UPDATE {TABLE} SET value = 'two' WHERE key = 'a'",
        f"INSERT INTO {TABLE} (key, value) VALUES ('b', '[1]')",
    )
    with copy.store() as store:
        assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]
        assert told(store, "b") == [(1, "set", "sql", b"[1]")]
    copy.check()


def test_the_sqlite_shell_edits_a_store_that_is_open(table: Place, store: Handle) -> None:
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("there is no sqlite3 here")
    statement = f"UPDATE {TABLE} SET value = 'two' WHERE key = 'a'"
    subprocess.run([shell, "-cmd", ".timeout 5000", str(table.path), statement], check=True)
    assert told(store, "a") == [FIRST, (2, "set", "sql", b"two")]


_PLAIN = """
import json, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    for statement in json.loads(sys.argv[2]):
        connection.execute(statement)
"""


def plain_sqlite(path: Path, *statements: str) -> None:
    """Run statements in the standard library's SQLite.

    In another process: two SQLites in one would drop each other's locks.
    """
    subprocess.run([sys.executable, "-c", _PLAIN, str(path), json.dumps(statements)], check=True)


# --- any statements, in any order --------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from(["", "1", "[1]", "text"])
NUMBERS = st.integers(0, 5)
STATEMENTS = st.one_of(
    st.builds("INSERT INTO {{t}} (key, value) VALUES ('{}', '{}')".format, KEYS, VALUES),
    st.builds("INSERT OR IGNORE INTO {{t}} (key, value) VALUES ('{}', '{}')".format, KEYS, VALUES),
    st.builds(
        "REPLACE INTO {{t}} (key, value, op_number) VALUES ('{}', '{}', {})".format, KEYS, VALUES, NUMBERS
    ),
    st.builds(
        "INSERT INTO {{t}} (key, value) VALUES ('{}', '{}') ON CONFLICT (key)"
        " DO UPDATE SET value = value || excluded.value".format,
        KEYS,
        VALUES,
    ),
    st.builds("UPDATE {{t}} SET value = '{}'".format, VALUES),
    st.builds("UPDATE {{t}} SET value = '{}' WHERE key = '{}'".format, VALUES, KEYS),
    st.builds("UPDATE {{t}} SET op_number = {} WHERE key = '{}'".format, NUMBERS, KEYS),
    st.builds("UPDATE {{t}} SET key = '{}' WHERE key = '{}'".format, KEYS, KEYS),
    st.builds("UPDATE OR REPLACE {{t}} SET key = '{}' WHERE key = '{}'".format, KEYS, KEYS),
    st.builds("UPDATE OR IGNORE {{t}} SET key = '{}'".format, KEYS),
    st.builds("DELETE FROM {{t}} WHERE key >= '{}'".format, KEYS),
)
API_WRITES = st.one_of(
    st.builds(lambda key, value: (key, value.encode()), KEYS, VALUES), st.tuples(KEYS, st.none())
)
"""A key with its new value, or None to delete it."""


@settings(deadline=None)
@given(steps=st.lists(STATEMENTS | API_WRITES, max_size=15), recursive=st.booleans())
def test_the_log_tells_what_was_there_after_every_statement(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], recursive: bool
) -> None:
    place = Place(tmp_path_factory.mktemp("sql"), directory=False)
    states = []
    with place.store() as store, closing(apsw.Connection("")) as oracle, closing(place.connect()) as other:
        store.set("a", b"one")
        other.pragma("recursive_triggers", recursive)
        oracle.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value, op_number INTEGER DEFAULT 0)")
        oracle.execute("INSERT INTO t (key, value) VALUES ('a', 'one')")
        for step in steps:
            if isinstance(step, str):
                failures = [_failure(other, step.format(t=TABLE)), _failure(oracle, step.format(t="t"))]
                assert failures[0] == failures[1]
            else:
                _write(store, *step)
                _write_row(oracle, *step)
            now = {key: value.encode() for key, value in oracle.execute("SELECT key, value FROM t")}
            assert {key: value_of(store, key) for key in list(store.keys())} == now
            states.append((len(place.check()), now))
    log = place.check()
    for seq, there in states:
        last = {op.key: op.value for op in log[:seq]}
        assert {key: value for key, value in last.items() if value is not None} == there


def _failure(connection: apsw.Connection, statement: str) -> type[BaseException] | None:
    try:
        connection.execute(statement)
    except apsw.ConstraintError as exc:
        return type(exc)
    return None


def _write(store: Handle, key: str, value: bytes | None) -> None:
    if value is not None:
        store.set(key, value)
    else:
        with suppress(KeyNotFound):
            store.delete(key)


def _write_row(oracle: apsw.Connection, key: str, value: bytes | None) -> None:
    if value is None:
        oracle.execute("DELETE FROM t WHERE key = ?", (key,))
    else:
        # As the store does it: the row stays in its place, since statements go through rows in order.
        upsert = (
            "INSERT INTO t (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        )
        oracle.execute(upsert, (key, value.decode()))


def test_a_row_that_is_renamed_and_changed_in_one_statement_is_what_its_log_says(table: Place) -> None:
    """It comes with the number that it had, which may be the one that its new key is given."""
    with table.store() as store:
        store.set("a", b"[1]")
        store.set("b", b"[1]")
        store.set("b", b"[2]")
        table.sql(f"UPDATE {TABLE} SET key = key || ' renamed', value = value || 'x'")
        assert [value_of(store, key) for key in [*store.keys()]] == [b"[1]x", b"[2]x"]
        assert store.sql.maintenance.check(quick=False, deadline=time.monotonic() + 30) == []
