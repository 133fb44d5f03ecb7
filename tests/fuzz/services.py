"""What is asked of a whole server, and of SQL: never an error of the server's own, and it goes on."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

import kvfs
from kvfs.config import Config
from kvfs.errors import BadRequest, StorageFailure, Unavailable
from kvfs.handle import Handle
from kvfs.sql.model import Item
from server.route import DB, Route
from server.routes import ROUTES
from tests import invariants, nasty
from tests.fuzz.mutation import WORDS
from tests.fuzz.target import Target
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, JSON, Answer, Connection, key_path
from tests.security.disclosure import too_much

TABLE = "site"
_WAIT_S = 60.0
Request = tuple[int, str, list[tuple[str, str]], bytes, list[tuple[str, str]]]
"""The route's number, the key, parameters, the body, headers."""

_BUSY = ("OVERLOADED", "DEADLINE_EXCEEDED")
_SQL_S = 2.0


@dataclass
class Fuzzed:
    """A server with a table and a folder, and a connection that is made anew where it was closed."""

    server: Launched
    data: Path
    _connections: list[Connection] = field(default_factory=list)

    def ask(self, method: str, target: str, body: bytes, headers: list[tuple[str, str]]) -> Answer:
        if not self._connections:
            self._connections.append(self.server.connect())
        try:
            answer = self._connections[0].ask(method, target, body, headers)
        except BaseException:
            self.disconnect()
            raise
        if answer.headers["Connection"] == "close":
            self.disconnect()
        return answer

    def disconnect(self) -> None:
        while self._connections:
            self._connections.pop().close()


@contextmanager
def _served() -> Iterator[Fuzzed]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = home / "data"
        (data / "folder").mkdir(parents=True)
        for db in ("app.db", "folder"):
            with kvfs.open(str(data / db), TABLE, config=Config(watch=False)) as store:
                store.set("k", b'{"a": [1, 2], "n": 1}')
                store.set("text", b"text", ttl_s=1000)
        fuzzed = Fuzzed(stack.enter_context(serving(home)), data)
        stack.callback(fuzzed.disconnect)
        yield fuzzed
        assert fuzzed.server.ask("GET", f"{BASE}/health").status in (200, 503)
        fuzzed.server.stop()
        invariants.check_folder(data / "folder", TABLE)


# --- every route -------------------------------------------------------------------------------------------

_ROUTES = [
    route for route in ROUTES if not any("event-stream" in str(each.media_type) for each in route.answers)
]
_TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=6).map("".join)
_VALUES = st.sampled_from(
    [
        "true",
        "no",
        "0",
        "1",
        "-1",
        "5",
        "1700000000",
        "2024-01-01T00:00:00Z",
        "a",
        "a[0]",
        "yes",
        "$",
        "map",
        "csv",
    ]
)
_BODIES = st.sampled_from(
    [
        b"", b"1", b"x", b"\xff", b'{"a": 1}', b"[1]", b'{"value": 1}', b'{"keys": ["k", "a/b"]}',
        b'{"items": [{"key": "b", "value": "1", "ttl": 5}]}', b'{"op": "quick_check"}', b'{"op": "rebuild"}',
        b'{"op": "history_prune", "keep_last": 3}', b'{"op": "vacuum_into", "dest_path": "copy"}',
        b'{"op": "restore", "src_path": "copy"}', b'{"exclude_keys": []}', b'{"resultFormat": "list"}',
        b'{"transaction": [{"query": "SELECT * FROM site"}, {"statement": "DELETE FROM t", "noFail": true}]}',
        b'{"kvfs_export":1,"id":"0","table":"t","directory":false,"history":false,"pruned_seq":0,"after":null}\n',
    ]
)  # fmt: skip
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["If-Match", "If-None-Match", "Range", "If-Range", "Idempotency-Key", "Content-Type", "Accept",
             "Last-Event-ID", "X-Request-Id", "Content-Encoding", "Cookie", "Origin"]
        ),
        st.sampled_from(['"1"', "*", "bytes=0-5", "application/json", "text/html", "identity"]) | _TEXTS,
    ),
    max_size=2,
)  # fmt: skip


def _requests(route: Route) -> st.SearchStrategy[Request]:
    names = [param.name for param in route.params if param.name not in ("db", "wait", "timeout")]
    pairs = st.lists(st.tuples(st.sampled_from([*names, "table"]), _VALUES | _TEXTS), max_size=4)
    return st.tuples(
        st.just(_ROUTES.index(route)),
        st.sampled_from(["k", "text", "new"]) | nasty.keys,
        pairs,
        _BODIES,
        _HEADERS,
    )


def _ask(fuzzed: Fuzzed, given: Request) -> None:
    number, key, pairs, body, headers = given
    route = _ROUTES[number]
    action = route.path.removeprefix("/kv/{key}").removeprefix("/")
    path = key_path(_clean(key), action) if "{key}" in route.path else route.whole_path
    params = [f"{_escaped(name)}={_escaped(value)}" for name, value in pairs]
    if DB in route.params:
        params.append(f"db={fuzzed.data}/folder" if (len(key) + len(body)) % 2 else "db=app")
        params.append(f"table={TABLE}" if len(pairs) % 3 else "timeout=5")
    lines = [(name, value) for name, value in headers if _is_header(name, value)]
    answer = fuzzed.ask(route.method, f"{path.replace('{index}', '1')}?{'&'.join(params)}", body, lines)
    _is_honest(answer, fuzzed.data)


def _is_honest(answer: Answer, data: Path) -> None:
    """It is none of the server's own errors, has their form, and tells nothing of the inside."""
    code = answer.headers["X-Error-Code"]
    assert answer.status < 500 or code in _BUSY, answer
    if answer.status >= 400 and answer.headers["Content-Type"] == JSON and answer.body:
        error = json.loads(answer.body)
        assert error["statusCode"] == answer.status
        assert error["code"] == code
        assert {"error", "message", "resolution", "request_id"} <= error.keys()
        assert "Traceback" not in error["message"]
        assert not [path for path in too_much(error["resolution"], allowed=(str(data),)) if path]


def _clean(key: str) -> str:
    return key.encode(errors="replace").decode()


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode(errors="surrogateescape"))


def _is_header(name: str, value: str) -> bool:
    text = name + value
    return text.isascii() and text.isprintable() and name.replace("-", "").isalnum()


# --- bytes on a connection ---------------------------------------------------------------------------------

_RAW = st.sampled_from(
    [
        b"GET %s/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT %s/kv/k?db=app HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"PUT %s/kv/k?db=app HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST %s/kv/batch/get?db=app HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n"
        b'{"keys":["k"]}',
        b"GET %s/kv/k?db=app HTTP/1.0\r\nConnection: keep-alive\r\nRange: bytes=0-1\r\n\r\n",
        b"GET %s/kv?db=app HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET http://h%s/health HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: \xc3\xa9\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ]
).map(lambda template: template % BASE.encode())  # fmt: skip


def _send(fuzzed: Fuzzed, given: bytes) -> None:
    with fuzzed.server.connect() as connection:
        connection.socket.settimeout(_WAIT_S)
        try:
            connection.send(given)
            connection.socket.shutdown(1)
        except ConnectionError:
            return
        answered = connection.rest()
    assert not answered or answered.startswith(b"HTTP/1.1 "), answered
    assert b"\r\nX-Error-Code: INTERNAL_ERROR" not in answered, answered


# --- SQL ---------------------------------------------------------------------------------------------------

_STATEMENTS = st.sampled_from(
    [
        "SELECT * FROM site WHERE key LIKE 'a%' ORDER BY 1 LIMIT 3",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100) SELECT sum(n) FROM c",
        "INSERT INTO site (key, value) VALUES ('a' || abs(random() % 9), zeroblob(9)) ON CONFLICT DO NOTHING",
        "INSERT OR REPLACE INTO site (key, value, expire_at) SELECT 'b', json('[1]'), 9e999",
        "UPDATE site SET value = value || 'x', key = key || 'y' WHERE op_number % 3 = 1",
        "DELETE FROM site WHERE rowid IN (SELECT rowid FROM site LIMIT 1) RETURNING *",
        "CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY, b REFERENCES t); INSERT INTO t VALUES (1, 2)",
        "CREATE TEMP VIEW v AS SELECT group_concat(key, printf('%.9c', 'x')) FROM site; SELECT * FROM v",
        "ALTER TABLE t RENAME TO u; DROP TABLE u",
        "CREATE TRIGGER g AFTER INSERT ON site BEGIN DELETE FROM site; END; DROP TRIGGER g",
        "SELECT json_extract(value, '$.a'), hex(value), quote(value), unistr('\\0041') FROM site",
        "EXPLAIN QUERY PLAN SELECT * FROM kvfs_oplog_site NATURAL JOIN kvfs_stores",
        "PRAGMA table_info(site)",
        "SAVEPOINT a; ROLLBACK TO a",
        "ATTACH ':memory:' AS m; SELECT load_extension('x'); VACUUM; REINDEX",
        "SELECT CAST(x'ff' AS TEXT), 9223372036854775807 + 1, -0.0, 1e999, char(0) || char(1114111)",
    ]
)  # fmt: skip


@contextmanager
def _database() -> Iterator[Handle]:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "app.db")
        with kvfs.open(str(path), TABLE, config=Config(watch=False, sql_max_temp_bytes=16 << 20)) as store:
            for key in ("a", "b", "c"):
                store.set(key, b"[1]")
            yield store
            assert store.sql.maintenance.check(quick=False, deadline=time.monotonic() + _WAIT_S) == []


def _run_sql(store: Handle, given: tuple[list[str], bool]) -> None:
    statements, as_query = given
    deadline = time.monotonic() + _SQL_S
    items = [Item(statement, query=as_query, no_fail=True) for statement in statements if statement]
    try:
        if items:
            store.sql.transaction(items, deadline=deadline)
    except (BadRequest, Unavailable):
        pass
    except StorageFailure as error:
        raise AssertionError(f"{error.code}: {error.message}") from error
    assert time.monotonic() < deadline + _WAIT_S
    # Somebody may have dropped the table, and made another of that name.
    with suppress(BadRequest, Unavailable):
        store.set("a", b"1")


_REQUESTS = st.sampled_from(_ROUTES).flatmap(_requests)

SERVICES = [
    Target("http", _REQUESTS, _ask, few=120, share=8, mutants=4, opened=_served),
    Target("http bytes", _RAW, _send, few=30, share=3, mutants=9, opened=_served),
    Target(
        "sql", st.tuples(st.lists(_STATEMENTS, min_size=1, max_size=2), st.booleans()), _run_sql,
        few=40, share=4, mutants=9, opened=_database,
    ),
]  # fmt: skip
