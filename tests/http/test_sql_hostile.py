"""Attempts to write, to read other files, to load code and to exhaust the server, by SQL.

Each is refused or bounded, with an answer that says so; the server's memory stays where it was, within
200 MiB, and no file but the database's own is touched.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.http.databases import SqlFile
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, Answer, target_of

MIB = 1 << 20
MEMORY_MIB = 200
ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"

# What is no SELECT, or does not stay in the database. `{outside}` is a file of somebody else's.
REACHING_OUT = [
    "ATTACH '{outside}' AS x",
    "ATTACH DATABASE ':memory:' AS x",
    "attach/**/database\n'{outside}'as x",
    "ATTACH 'file:{outside}?mode=ro' AS x",
    "/* SELECT */ ATTACH '' AS x",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '{outside}.copy'",
    "vacuum main into '{outside}'",
    "BEGIN",
    "BEGIN EXCLUSIVE",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT a",
    "RELEASE kvfs_item",
    "ROLLBACK TO kvfs_item",
    "PRAGMA writable_schema = 1",
    "PRAGMA writable_schema(ON)",
    "pragma main.Writable_Schema = 'yes'",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA main.journal_mode(OFF)",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA synchronous = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA trusted_schema = 1",
    "PRAGMA query_only = 0",
    "PRAGMA user_version = 7",
    "PRAGMA schema_version = 7",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA cache_size = 1000000000",
    "PRAGMA mmap_size = 1000000000",
    "PRAGMA hard_heap_limit = 0",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA database_list",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_wal_checkpoint",
    "CREATE TEMP TABLE x (a)",
    "CREATE TABLE temp.x (a)",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TEMP VIEW x AS SELECT 1",
    "UPDATE sqlite_schema SET sql = 'x'",
    "DELETE FROM sqlite_master",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (a)')",
    "CREATE VIRTUAL TABLE x USING csv(filename='{outside}')",
    "CREATE VIRTUAL TABLE x USING fsdir",
    "CREATE VIRTUAL TABLE x USING dbstat",
    "SELECT load_extension('{outside}')",
    "SELECT load_extension('{outside}', 'main')",
    "SELECT (SELECT l FROM (SELECT load_extension('{outside}') AS l))",
    "SELECT readfile('{outside}')",
    "SELECT writefile('{outside}', 'x')",
    "SELECT edit('{outside}')",
    "SELECT fts3_tokenizer('simple', x'00')",
    "SELECT sqlite_log(1, 'x')",
    "SELECT * FROM fsdir('/')",
    "SELECT * FROM csv('{outside}')",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM zipfile('{outside}')",
    "CREATE TABLE kvfs_x (a)",
    "CREATE INDEX kvfs_x ON t (a)",
    "CREATE VIEW kvfs_x AS SELECT 1",
    "CREATE TRIGGER kvfs_x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TRIGGER x AFTER INSERT ON kvfs_oplog_kv BEGIN SELECT 1; END",
    "ALTER TABLE t RENAME TO kvfs_x",
    "ALTER TABLE kv RENAME TO other",
    "ALTER TABLE kv RENAME COLUMN value TO worth",
    "ALTER TABLE kv ADD COLUMN more",
    "DROP TABLE kv",
    "DROP INDEX kvfs_expiry_kv",
    "DROP TABLE kvfs_stores",
    "DELETE FROM kvfs_oplog_kv",
    "UPDATE kvfs_stores SET log_id = 'x'",
    "INSERT INTO kvfs_idempotency DEFAULT VALUES",
    "WITH x AS (SELECT 1) DELETE FROM kvfs_oplog_kv",
    "CREATE TABLE x (a REFERENCES t); DELETE FROM KVFS_OPLOG_KV",
]

# What would take all memory, or run on and on.
EXHAUSTING = [
    "SELECT zeroblob(2147483648)",
    "SELECT zeroblob(2147483647)",
    "SELECT randomblob(1000000000)",
    "SELECT printf('%.*c', 2000000000, 'x')",
    "SELECT printf('%2000000000d', 1)",
    "SELECT hex(zeroblob(17000000))",
    "SELECT replace(hex(zeroblob(8000000)), '0', 'aaaaaaaaaaaaaaaa')",
    f"{ENDLESS} SELECT count(*) FROM c",
    f"{ENDLESS} SELECT group_concat(n) FROM c",
    f"{ENDLESS} SELECT json_group_array(n) FROM c",
    f"{ENDLESS} SELECT count(*) FROM (SELECT randomblob(1000) AS r FROM c ORDER BY r)",
    f"{ENDLESS} SELECT randomblob(16000000) FROM c",
    f"{ENDLESS} SELECT printf('%.*c', 100000, char(1)) FROM c",
    f"{ENDLESS} SELECT CASE WHEN n < 600 THEN n ELSE zeroblob(16000000) END FROM c",
    "SELECT " + ", ".join(["randomblob(16000000)"] * 4),
    "SELECT " + ", ".join(["randomblob(16000000)"] * 100),
    "WITH RECURSIVE c (x) AS (SELECT randomblob(9000000) UNION SELECT randomblob(9000000) FROM c)"
    " SELECT count(*) FROM c",
    "SELECT count(*) FROM " + ", ".join(f"t AS t{i}" for i in range(20)),
    "SELECT count(*) FROM " + ", ".join(f"t AS t{i}" for i in range(100)),
    "WITH c0 AS (SELECT 1), "
    + ", ".join(f"c{i} AS (SELECT * FROM c{i - 1} AS a, c{i - 1} AS b)" for i in range(1, 20))
    + " SELECT count(*) FROM c19",
    "SELECT 1" + " UNION SELECT 1" * 1000,
    "SELECT max(" + ",".join("1" * 1000) + ")",
    "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "SELECT 1" + "+1" * 20_000,
    "SELECT " + "NOT " * 10_000 + "1",
    "SELECT 'a' LIKE '" + "%a" * 10_000 + "'",
    "SELECT printf('%.*c', 16000000, 'a') LIKE '%" + "a" * 5000 + "b%'",
    "SELECT printf('%.*c', 16000000, 'a') GLOB '*" + "[a-b]" * 1000 + "c*'",
    "SELECT instr(randomblob(16000000), randomblob(8000000))",
    "SELECT instr(zeroblob(16000000), CAST(zeroblob(8000000) || 'b' AS BLOB))",
    "SELECT trim(zeroblob(16000000), zeroblob(8000000))",
    "SELECT json('" + "[" * 20_000 + "')",
]  # fmt: skip

BOUNDED = ["SELECT " + "(" * 500_000 + "1" + ")" * 500_000, "SELECT '" + "a" * (2 * MIB) + "'"]
"""Longer than the target of a request may be."""


class Prey:
    """A server, a database on it, and a file that is none of its business."""

    def __init__(self, home: Path, server: Launched) -> None:
        self.server = server
        self.data_dir = home / "data"
        self.outside = home / "outside.db"
        with closing(sqlite3.connect(self.outside)) as connection:
            connection.execute("CREATE TABLE secret (a)")
            connection.commit()
        self.file = SqlFile(server, self.data_dir / "prey.db")
        self.file.did(
            "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9)"
        )
        server.ask("PUT", target_of(f"{BASE}/kv/a", db=self.file.path, table="kv"), b"1").done()
        self.before = self.state()
        self.memory_mib = self.memory("VmRSS")

    def memory(self, name: str) -> int:
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        match = re.search(rf"{name}:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) // 1024

    def state(self) -> object:
        """All that nobody may change: the schema, the rows, the files."""
        schema = self.file.rows("SELECT type, name, sql FROM sqlite_schema")
        rows = [
            self.file.rows(f"SELECT * FROM {name}") for name in ("t", "kv", "kvfs_oplog_kv", "kvfs_stores")
        ]
        pragmas = [
            self.file.rows(f"PRAGMA {name}") for name in ("user_version", "journal_mode", "foreign_keys")
        ]
        files = sorted(os.listdir(self.data_dir)), sorted(os.listdir(self.outside.parent))
        return schema, rows, pragmas, files, self.outside.read_bytes()

    def spelled(self, sql: str) -> str:
        return sql.replace("{outside}", str(self.outside))

    def check(self, memory_mib: int = MEMORY_MIB) -> None:
        assert self.state() == self.before
        grown_mib = self.memory("VmHWM") - self.memory_mib
        assert grown_mib < memory_mib, f"{grown_mib} MiB more"


@pytest.fixture(scope="module")
def prey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    home = tmp_path_factory.mktemp("hostile")
    with serving(home) as server:
        yield Prey(home, server)
        server.stop()


def told(answer: Answer) -> str:
    """What an answer says of the failure that it must be."""
    body = answer.json()
    if answer.status == 200:
        assert body["success"] is False, answer
        message = body["error"]
    else:
        assert answer.status in (400, 503), answer
        message = body["message"]
    assert isinstance(message, str)
    assert len(message) > 5
    return message


@pytest.mark.parametrize("sql", REACHING_OUT)
def test_what_reaches_out_is_refused(prey: Prey, sql: str) -> None:
    sql = prey.spelled(sql)
    assert prey.file.select(sql).status == 400
    for item in ({"query": sql}, {"statement": sql}, {"statement": f"SELECT 1; {sql}"}):
        prey.file.failed(item)
        kept = prey.file.run({**item, "noFail": True}, {"statement": "SELECT 1"})
        assert kept["results"][0]["success"] is False
    prey.check()


@pytest.mark.parametrize("sql", EXHAUSTING, ids=lambda sql: sql[:60])
def test_what_exhausts_is_bounded(prey: Prey, sql: str) -> None:
    told(prey.file.select(sql, timeout=1))
    told(prey.file.send({"transaction": [{"query": sql}]}, timeout=1))
    # On the connection that writes too.
    written = {"statement": f"INSERT INTO t SELECT * FROM ({sql})"}
    told(prey.file.send({"transaction": [written]}, timeout=1))
    prey.check()


@pytest.mark.parametrize("sql", BOUNDED, ids=lambda sql: sql[:60])
def test_sql_that_is_too_long_or_too_deep_is_refused(prey: Prey, sql: str) -> None:
    told(prey.file.send({"transaction": [{"query": sql}]}))
    prey.check()


def test_a_view_cannot_do_what_sql_cannot(prey: Prey) -> None:
    for body in ("load_extension('x')", "readfile('/etc/passwd')", "fts3_tokenizer('simple')"):
        prey.file.failed(f"CREATE VIEW sly AS SELECT {body} AS a", {"query": "SELECT * FROM sly"})
    prey.check()


def test_sixteen_at_once_take_twice_as_much_at_most(prey: Prey) -> None:
    body = {"transaction": [{"query": f"{ENDLESS} SELECT randomblob(4000000), n FROM c"}]}
    with ThreadPoolExecutor(16) as threads:
        for answer in threads.map(lambda _: prey.file.send(body, timeout=1), range(32)):
            told(answer)
    prey.check(2 * MEMORY_MIB)
