"""What a newer kvfs has written is refused, by whatever opens it, and stays as it is to the last byte."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from kvfs.backup import backup
from kvfs.directory.check import check
from kvfs.directory.repair import repair
from kvfs.errors import InvalidParameters, KvfsError, NewerFormat
from kvfs.handle import Handle
from kvfs.registry import FORMAT
from kvfs.sql.query_log import query_log_in
from tests.cli.commands import Kvfs
from tests.engine.place import value_of
from tests.http.launching import Server
from tests.http.wire import BASE, JSON, key_path, refused, target_of
from tests.upgrades.conftest import Written
from tests.upgrades.making import TABLE

NEWER = FORMAT + 1
FAILED = 4


def change(database: Path, sql: str) -> None:
    """Change a database as it lies there; with a write-ahead log, that stays, and has the change."""
    logged = Path(f"{database}-wal").exists()
    with closing(apsw.Connection(str(database))) as connection:
        connection.wal_autocheckpoint(0)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(logged))
        connection.execute(sql)
    Path(f"{database}-shm").unlink(missing_ok=True)


def make_newer(written: Written, name: str) -> None:
    change(written.log_of(name), f"UPDATE kvfs_stores SET format = {NEWER}")


@contextmanager
def untouched(written: Written) -> Iterator[None]:
    """Fails where what is done inside changes any file, or leaves one more."""
    before = written.files()
    yield
    after = written.files()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


USES: dict[str, Callable[[Handle], object]] = {
    "get": lambda store: store.get("text"),
    "set": lambda store: store.set("text", b"x"),
    "history": lambda store: store.history("text"),
    "rebuild": lambda store: store.rebuild(),
    "export": lambda store: [*store.export(history=True)],
}


def test_the_engine_refuses_it(either: Written, name: str) -> None:
    make_newer(either, name)
    with untouched(either), either.engine() as engine:
        for use in USES:
            with (
                pytest.raises(NewerFormat, match=f"format {NEWER}, written by a newer kvfs"),
                engine.lease(str(either.home / name), TABLE, create=use == "set") as store,
            ):
                USES[use](store)


def test_a_table_of_an_older_format_beside_it_is_refused_too(written: Written) -> None:
    """A newer kvfs may have changed what both have in common."""
    with written.engine() as engine, engine.lease(str(written.home / "app.db"), "other") as store:
        store.set("k", b"x")
    change(written.home / "app.db", f"UPDATE kvfs_stores SET format = {NEWER} WHERE name = 'other'")
    with untouched(written), written.engine() as engine, pytest.raises(NewerFormat):
        engine.lease(str(written.home / "app.db"), TABLE)


def test_neither_check_nor_repair_takes_it_for_damaged(written: Written) -> None:
    make_newer(written, "folder")
    with untouched(written):
        for look in (check, repair):
            with pytest.raises(NewerFormat):
                look(str(written.home / "folder"), TABLE)


def test_no_backup_is_made_of_it(written: Written, name: str, tmp_path: Path) -> None:
    make_newer(written, name)
    with untouched(written), pytest.raises(NewerFormat):
        backup(str(written.home / name), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_server_refuses_it_on_every_route_and_says_so_in_its_health(
    written: Written, tmp_path: Path
) -> None:
    for name in ("app.db", "folder"):
        make_newer(written, name)
    body, json_body = b"x", [("Content-Type", JSON)]
    with untouched(written), Server(tmp_path) as server:
        for name in ("app.db", "folder"):
            asked = {"db": written.home / name, "table": TABLE}
            key, table = target_of(key_path("text"), **asked), target_of(f"{BASE}/kv", **asked)
            refused(server.ask("GET", key), 500, "NEWER_FORMAT")
            refused(server.ask("PUT", key, body), 500, "NEWER_FORMAT")
            refused(server.ask("DELETE", key), 500, "NEWER_FORMAT")
            refused(server.ask("GET", table), 500, "NEWER_FORMAT")
            refused(server.ask("GET", target_of(f"{BASE}/changes", **asked)), 500, "NEWER_FORMAT")
            prune = b'{"op": "history_prune", "keep_last": 1}'
            maintenance = target_of(f"{BASE}/maintenance", **asked)
            refused(server.ask("POST", maintenance, prune, json_body), 500, "NEWER_FORMAT")
            assert server.ask("HEAD", key).headers["X-Error-Code"] == "NEWER_FORMAT"
        db = written.home / "app.db"
        select = target_of(f"{BASE}/query", db=db, sql=f"SELECT * FROM {TABLE}")
        refused(server.ask("GET", select), 500, "NEWER_FORMAT")
        transaction = json.dumps({"transaction": [{"statement": f"DELETE FROM {TABLE}"}]}).encode()
        refused(server.ask("POST", target_of(f"{BASE}/db", db=db), transaction), 500, "NEWER_FORMAT")
        vacuum = target_of(f"{BASE}/maintenance", db=db)
        refused(server.ask("POST", vacuum, b'{"op": "vacuum"}', json_body), 500, "NEWER_FORMAT")
        making = target_of(f"{BASE}/db/create", path=db, init_kv="true", kv_table="more")
        refused(server.ask("POST", making), 500, "NEWER_FORMAT")
        assert server.ask("GET", f"{BASE}/health").status == 503


def test_commands_refuse_it(written: Written, name: str, tmp_path: Path) -> None:
    make_newer(written, name)
    at = ("--db", written.home / name, "--table", TABLE, "--local")
    commands = [("kv", "get", "text", *at), ("kv", "set", "text", "x", *at), ("export", *at)]
    if name == "folder":
        # These go on with other folders.
        commands += [("check", written.home / name), ("rebuild", written.home / name)]
    else:
        commands += [("db", "query", "SELECT 1", "--db", written.home / name, "--local")]
    with untouched(written):
        for command in commands:
            ended = Kvfs()(*command)
            assert ended.code == (1 if command[0] in ("check", "rebuild") else FAILED), (command, ended)
            assert "newer kvfs" in ended.err, command
            assert "Traceback" not in ended.err, command


def test_nothing_is_restored_from_it(written: Written) -> None:
    source, target = written.home / "app.db", written.home / "mine.db"
    make_newer(written, "app.db")
    with written.engine() as engine:
        with engine.lease(str(target), TABLE, create=True) as store:
            store.set("mine", b"x")
        before = source.read_bytes()
        with engine.lease(str(target), TABLE) as store, pytest.raises(NewerFormat):
            store.sql.maintenance.restore(str(source), deadline=time.monotonic() + 30)
        with engine.lease(str(target), TABLE) as store:
            assert value_of(store, "mine") == b"x"
        assert source.read_bytes() == before


def test_an_index_of_a_newer_kvfs_is_only_made_anew(written: Written) -> None:
    change(
        written.home / f"folder/.kvfs/{TABLE}.index", "UPDATE meta SET value = '999.1' WHERE name = 'version'"
    )
    with written.engine() as engine, engine.lease(str(written.home / "folder"), TABLE) as store:
        assert [*store.keys()] == written.contents("folder")["listed"]
    written.check("folder")


def test_a_query_log_of_a_newer_kvfs_stays_as_it_is(written: Written) -> None:
    change(Path(query_log_in(str(written.home))), f"PRAGMA user_version = {NEWER}")
    db = str(written.home / "mine.db")
    before = written.files()[".kvfs/queries.db"]
    with written.engine() as engine:
        with engine.lease(db, TABLE, create=True) as store:
            assert store.sql.query("SELECT 1 AS one").rows
        for use in (lambda: engine.queries.entries(db, 10), lambda: engine.queries.clear(db)):
            with pytest.raises(NewerFormat):
                use()
    assert written.files()[".kvfs/queries.db"] == before


def test_an_export_of_a_newer_kvfs_is_refused(written: Written, name: str) -> None:
    export = (written.home / f"{name}.export").read_bytes()
    export = export.replace(b'"kvfs_export":1', b'"kvfs_export":2', 1)
    with written.engine() as engine, engine.lease(str(written.home / "new.db"), TABLE, create=True) as store:
        with pytest.raises(InvalidParameters, match="format 2"):
            store.import_([export])
        with pytest.raises(KvfsError):
            store.get("text")
