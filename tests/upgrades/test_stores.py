"""Stores of every format that was ever written open, read as they did, and are written to."""

from __future__ import annotations

import base64
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from kvfs.errors import KeyExpired, KvfsError
from kvfs.model import Incr, value_bytes
from kvfs.registry import FORMAT
from kvfs.sql.query_log import query_log_in
from tests.cli.commands import Kvfs
from tests.http.launching import Server
from tests.http.wire import BASE, key_path, target_of
from tests.upgrades.conftest import ARCHIVES, Written
from tests.upgrades.making import KEYS, ONCE, STORES, TABLE
from tests.upgrades.telling import ops, told

BEFORE = [
    ("app.db", f'DROP INDEX "kvfs_oplog_{TABLE}_expiry"'),
    ("folder", 'DROP INDEX "kvfs_oplog_files_expiry"'),
    ("app.db", "DROP TABLE kvfs_idempotency"),
    ("folder", "DROP TABLE kvfs_idempotency"),
    ("app.db", f"DROP TRIGGER kvfs_update_{TABLE}"),
    ("app.db", f"DROP TRIGGER kvfs_delete_{TABLE}; CREATE TRIGGER kvfs_delete_{TABLE}"
     f" AFTER DELETE ON {TABLE} BEGIN SELECT 1; END"),
]  # fmt: skip
"""What takes away that programs which wrote the same format did not know yet."""


def change(database: Path, sql: str) -> None:
    with closing(apsw.Connection(str(database))) as connection:
        connection.execute(sql)


def test_the_present_format_has_its_stores() -> None:
    """Else nothing would tell whether the next version reads them: `make stores`."""
    assert STORES / f"format-{FORMAT}.tar.xz" in ARCHIVES
    assert len(ARCHIVES) == FORMAT


def test_it_is_what_it_was(either: Written, name: str) -> None:
    with either.engine() as engine, engine.lease(str(either.home / name), TABLE) as store:
        assert told(store, KEYS) == either.contents(name)
    either.check(name)


def test_it_is_what_it_was_also_without_its_index(written: Written) -> None:
    for file in (written.home / "folder/.kvfs").glob("*.index*"):
        file.unlink()
    with written.engine() as engine, engine.lease(str(written.home / "folder"), TABLE) as store:
        assert told(store, KEYS) == written.contents("folder")
    written.check("folder")


@pytest.mark.parametrize(("name", "sql"), BEFORE)
def test_it_is_what_it_was_also_without_what_came_later(written: Written, name: str, sql: str) -> None:
    change(written.log_of(name), sql)
    with written.engine() as engine, engine.lease(str(written.home / name), TABLE) as store:
        assert told(store, KEYS) == written.contents(name)
        store.set("text", b"written", ttl_s=1)
    written.check(name)


def test_it_is_written_to(written: Written, name: str) -> None:
    golden = written.contents(name)
    with written.engine() as engine, engine.lease(str(written.home / name), TABLE) as store:
        for key in ("text", "large", "gap", "deleted", "never written before"):
            before = golden["ops"].get(key, [])
            result = store.set(key, b"written")
            assert result.op_number == (before[-1]["op_number"] + 1 if before else 1)
            assert ops(store, key)[:-1] == before
            assert value_bytes(store.get(key).value or b"") == b"written"
        store.rollback("text")
        store.rollback("large")
        assert told(store, ["text"])["read"]["text"]["value"] == golden["read"]["text"]["value"]
        assert told(store, ["large"])["read"]["large"]["value"] == golden["read"]["large"]["value"]
    written.check(name)


def test_sql_goes_on_being_logged(written: Written) -> None:
    change(written.home / "app.db", f"UPDATE {TABLE} SET value = 'from SQL again' WHERE key = 'outside'")
    with written.engine() as engine, engine.lease(str(written.home / "app.db"), TABLE) as store:
        assert [op["origin"] for op in ops(store, "outside")] == ["sql", "sql"]
    written.check("app.db")


def test_what_ran_out_since_is_gone(written: Written, name: str) -> None:
    written.clock.move(86_400)
    with written.engine() as engine, engine.lease(str(written.home / name), TABLE) as store:
        with pytest.raises(KeyExpired):
            store.get("ran out")
        store.set("ran out", b"again")
        assert [op["op_type"] for op in ops(store, "ran out")] == ["set", "expire", "set"]
        store.settle_all()
    written.check(name)


def test_what_was_done_once_is_not_done_again(written: Written, name: str) -> None:
    with written.engine() as engine, engine.lease(str(written.home / name), TABLE) as store:
        outcome = store.apply(Incr("once"), idempotency_key=ONCE)
        assert outcome.replayed
        assert outcome.result.number == 1
        assert [op["op_number"] for op in ops(store, "once")] == [1]


def test_its_exports_are_taken(written: Written, name: str) -> None:
    golden = written.contents(name)
    export = (written.home / f"{name}.export").read_bytes()
    with written.engine() as engine, engine.lease(str(written.home / "new.db"), TABLE, create=True) as store:
        assert store.import_([export]).complete
        taken = told(store, [key for key in KEYS if not isinstance(golden["read"][key], str)])
        assert taken["listed"] == golden["listed"]
        for key, entry in taken["read"].items():
            assert entry["value"] == golden["read"][key]["value"], key


def test_its_query_log_is_read_and_goes_on(written: Written) -> None:
    with written.engine() as engine:
        # The paths are those of where it was written.
        with closing(apsw.Connection(query_log_in(str(written.home)))) as connection:
            connection.execute("UPDATE queries SET db = ?", (str(written.home / "app.db"),))
        with engine.lease(str(written.home / "app.db"), TABLE) as store:
            store.sql.query("SELECT 1")
        entries, total = engine.queries.entries(str(written.home / "app.db"), 10)
        assert {entry.sql for entry in entries} == {"SELECT 1", f"SELECT count(*) FROM {TABLE}"}
        assert total == 2


def test_a_server_and_commands_read_it(written: Written, tmp_path: Path) -> None:
    home = tmp_path / "server"
    home.mkdir()
    shutil.copytree(written.home, home / "data")
    reading = [key for key in KEYS if key != "ran out"]
    with Server(home) as server:
        for name in ("app.db", "folder"):
            for key in reading:
                target = target_of(key_path(key), db=home / "data" / name, table=TABLE)
                answer = server.ask("GET", target)
                golden = written.contents(name)["read"][key]
                if isinstance(golden, str):
                    assert answer.json()["code"] == golden
                elif not golden["value"].startswith("sha256"):
                    assert answer.body == base64.b64decode(golden["value"])
                    assert answer.headers["ETag"] == f'"{golden["op_number"]}"'
        assert server.ask("GET", f"{BASE}/health").done()["status"] == "ok"
    kvfs = Kvfs(variables={"KVFS_TABLE": TABLE, "KVFS_DB": str(home / "data/folder")})
    assert kvfs("check", home / "data/folder", "--full").lines
    assert kvfs("kv", "get", "text", "--local").out == "another tëxt".encode()


def test_a_backup_of_it_is_the_same(written: Written, name: str, tmp_path: Path) -> None:
    ended = Kvfs()("backup", written.home / name, tmp_path / name)
    assert ended.code == 0, ended
    copied = Written(tmp_path, written.golden, written.clock)
    with copied.engine() as engine, engine.lease(str(tmp_path / name), TABLE) as store:
        with pytest.raises(KvfsError):
            store.get("deleted")
        assert told(store, ["text", "large"])["ops"] == {
            key: written.contents(name)["ops"][key] for key in ("text", "large")
        }
