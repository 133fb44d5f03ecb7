"""Signed links: good for one read, until they expire, and for nothing else."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

import pytest

from server import links
from server.access import Grant
from server.tokens import Token
from tests import forking
from tests.http.bearing import Bearer
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, key_path, refused, target_of
from tests.polling import eventually

TABLE = "things"
WRITER, READER = "writer-0123456789", "reader-0123456789"
KEY = "report/2026 é.json"
VALUE = b'{"total": 12}'
FAR_S = 4_000_000_000


def tokens_file(*tokens: tuple[str, str, str]) -> str:
    entries = [
        {
            "name": name,
            "token": secret,
            "access": "write" if name == "writer" else "read",
            "prefixes": [prefix],
        }
        for name, secret, prefix in tokens
    ]
    return json.dumps({"tokens": entries})


TOKENS = tokens_file(("writer", WRITER, "report/"), ("reader", READER, "public/"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("links")
    (home / "tokens").write_text(TOKENS)
    (home / "data").mkdir()
    (home / "data/folder").mkdir()
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Launched]:
    with serving(home, "--token-file", str(home / "tokens"), "--access-log") as server:
        yield server
        server.stop()
        assert "signature" not in server.out + server.err


@pytest.fixture(params=["table", "directory"])
def db(request: pytest.FixtureRequest, home: Path, server: Launched) -> str:
    """A database with the key in it."""
    db = str(home / "data" / ("app.db" if request.param == "table" else "folder"))
    target = target_of(key_path(KEY), db=db, table=TABLE, create_db_if_missing="true")
    assert Bearer(server, WRITER).ask("PUT", target, VALUE).status == 200
    return db


def share(*options: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    arguments = ["share", *options]
    code, out, err = forking.run(arguments, stdin=b"", env={"PATH": "", **(variables or {})}, timeout_s=30)
    return subprocess.CompletedProcess(arguments, code, out.decode(), err.decode())


def target_from(made: subprocess.CompletedProcess[str], server: str = "http://127.0.0.1:8080") -> str:
    """The path and query of the link that was printed."""
    assert made.returncode == 0, made.stderr
    (url,) = made.stdout.splitlines()
    assert url.startswith(f"{server}{BASE}/")
    return url.removeprefix(server)


def linked(db: str, key: str = KEY, *, by: str = "writer", expires_s: int = FAR_S, **params: str) -> str:
    """A link as `kvfs share` makes it, with any expiry."""
    secret = {"writer": WRITER, "reader": READER}.get(by, "unknown")
    token = Token.of(by, secret, Grant(writes=False))
    given = {"db": db, "table": TABLE, **params}
    return BASE + links.target(token, "/kv/{key}", key=key, params=given, expires_s=expires_s)


def test_a_link_reads_its_key_without_a_token(server: Launched, home: Path, db: str) -> None:
    signing = ("--token-file", str(home / "tokens"), "--by", "writer")
    target = target_from(share(*signing, "--db", db, "--table", TABLE, "--key", KEY, "--expires", "10m"))
    answer = server.ask("GET", target)
    assert (answer.status, answer.body) == (200, VALUE)
    assert server.ask("GET", target, headers=[("Range", "bytes=0-3")]).body == VALUE[:4]
    assert server.ask("GET", target, headers=[("If-None-Match", answer.headers["ETag"])]).status == 304
    head = server.ask("HEAD", target)
    assert (head.status, head.headers["ETag"]) == (200, answer.headers["ETag"])


def test_a_link_can_show_one_node(server: Launched, home: Path, db: str) -> None:
    signing = ("--token-file", str(home / "tokens"), "--by", "writer")
    made = share(*signing, "--db", db, "--table", TABLE, "--key", KEY, "--path", "total")
    assert server.ask("GET", target_from(made)).body == b"12"


def test_a_link_survives_other_escapes_and_another_order(server: Launched, db: str) -> None:
    path, _, query = linked(db).partition("?")
    pairs = parse_qsl(query)[::-1]
    assert server.ask("GET", f"{path}?{urlencode(pairs, quote_via=quote, safe='/')}").body == VALUE
    assert server.ask("GET", f"{key_path(KEY)}?{urlencode(pairs)}").body == VALUE


@pytest.mark.parametrize(
    "key", ["report/", "snapshot", "diff", "..", ".", "a/history", "a/../b", "%2F", "a?b#c&d"]
)
def test_every_key_can_be_shared(tmp_path: Path, key: str) -> None:
    with serving(tmp_path, "--token", WRITER) as server:
        made = target_of(key_path(key), db="app", create_db_if_missing="true")
        assert Bearer(server, WRITER).ask("PUT", made, key.encode()).status == 200
        target = target_from(share("--token", WRITER, "--db", "app", "--key", key))
        assert server.ask("GET", target).body == key.encode()


def altered(target: str) -> Iterator[str]:
    """The link, with one thing in it changed, added or left out."""
    path, _, query = target.partition("?")
    pairs = parse_qsl(query)
    yield f"{key_path('report/other')}?{query}"
    yield f"{path}/entry?{query}"
    yield f"{path}/history?{query}"
    yield f"{BASE}/kv?{query}"
    for place, (name, value) in enumerate(pairs):
        others = pairs[:place] + pairs[place + 1 :]
        yield f"{path}?{urlencode(others)}"
        yield f"{path}?{urlencode([*others, (name, value + '0')])}"
        yield f"{path}?{urlencode([*others, (name, '0' + value)])}"
        yield f"{path}?{urlencode([*others, (name, '')])}"
    for added in ("path=total", "at_timestamp=1", "timeout=9", "rebuild=true", "utm_source=x", "DB=x"):
        yield f"{path}?{query}&{added}"
    yield f"{path}?{query}=="[:-2] + "A"
    yield f"{path}?{query[:-4]}"


def test_an_altered_link_is_refused(server: Launched, db: str) -> None:
    good = linked(db)
    assert server.ask("GET", good).status == 200
    for target in altered(good):
        answer = server.ask("GET", target)
        assert answer.headers["WWW-Authenticate"] == "Bearer", target
        refused(answer, 401, "UNAUTHORIZED")
    twice = server.ask("GET", f"{good}&db=other.db")
    refused(twice, 400, "INVALID_PARAMETERS")


def test_a_link_only_reads(server: Launched, db: str) -> None:
    target = linked(db)
    for method in ("PUT", "DELETE"):
        refused(server.ask(method, target, b"1"), 401, "UNAUTHORIZED")
    path, _, query = target.partition("?")
    for action in ("incr", "expire", "rollback"):
        refused(server.ask("POST", f"{path}/{action}?{query}"), 401, "UNAUTHORIZED")
    assert server.ask("GET", target).body == VALUE


def test_an_expired_link_is_refused_whether_the_key_exists_or_not(server: Launched, db: str) -> None:
    for key in (KEY, "report/missing"):
        answer = server.ask("GET", linked(db, key, expires_s=1_700_000_000))
        refused(answer, 401, "UNAUTHORIZED", "The link has expired")


def test_a_link_expires_while_the_server_runs(server: Launched, home: Path, db: str) -> None:
    signing = ("--token-file", str(home / "tokens"), "--by", "writer")
    made = share(*signing, "--db", db, "--table", TABLE, "--key", KEY, "--expires", "3s")
    target = target_from(made)
    assert server.ask("GET", target).status == 200
    eventually(lambda: server.ask("GET", target).status == 401, 10, "the link expires")


def test_a_link_covers_no_more_than_its_token(server: Launched, db: str) -> None:
    refused(server.ask("GET", linked(db, by="reader")), 403, "FORBIDDEN")
    refused(server.ask("GET", linked(db, "report/missing", by="reader")), 403, "FORBIDDEN")
    refused(server.ask("GET", linked(db, by="nobody")), 401, "UNAUTHORIZED")
    assert server.ask("GET", linked(db, "report/missing")).status == 404
    refused(server.ask("GET", linked(db, rebuild="true", by="reader")), 403, "FORBIDDEN")


def test_a_token_that_comes_along_decides(server: Launched, db: str) -> None:
    refused(server.ask("GET", linked(db), headers=[("Authorization", "Bearer x")]), 401, "UNAUTHORIZED")
    refused(Bearer(server, READER).ask("GET", linked(db)), 403, "FORBIDDEN")


def test_a_link_ends_with_its_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKENS)
    with serving(tmp_path, "--token-file", str(file)) as server:
        target = linked("app")
        assert server.ask("GET", target).status == 404
        file.write_text(tokens_file(("writer", "another-secret", "report/")))
        server.send(signal.SIGHUP)
        eventually(lambda: server.ask("GET", target).status == 401, 10, "the token is gone")


def test_a_server_without_tokens_takes_a_link_for_what_it_asks(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        made = target_of(key_path(KEY), db="app", table=TABLE, create_db_if_missing="true")
        assert server.ask("PUT", made, VALUE).status == 200
        assert server.ask("GET", linked("app")).body == VALUE


def test_a_link_to_a_select_shows_its_answer_and_no_other(tmp_path: Path) -> None:
    with serving(tmp_path, "--token", WRITER) as server:
        bearer = Bearer(server, WRITER)
        made = target_of(key_path("k"), db="app", create_db_if_missing="true")
        assert bearer.ask("PUT", made, b"1").status == 200
        sql = "SELECT key, CAST(value AS TEXT) AS value FROM kv_store"
        target = target_from(share("--token", WRITER, "--db", "app", "--sql", sql))
        assert server.ask("GET", target).done()["resultSet"] == [{"key": "k", "value": "1"}]
        as_csv = target_from(share("--token", WRITER, "--db", "app", "--sql", sql, "--format", "csv"))
        assert server.ask("GET", as_csv).body.split() == [b"key,value", b"k,1"]
        refused(server.ask("GET", f"{target}&format=csv"), 401, "UNAUTHORIZED")
        path, _, query = target.partition("?")
        for name in ("sql", "db", "link_expires"):
            pairs = {**dict(parse_qsl(query)), name: "SELECT 1"}
            refused(server.ask("GET", f"{path}?{urlencode(pairs)}"), 401, "UNAUTHORIZED")
        refused(server.ask("POST", f"{BASE}/db?{query}", b"{}"), 401, "UNAUTHORIZED")


# --- the command ---------------------------------------------------------------------------------------


def test_a_link_to_a_select_carries_it_as_the_query_route_takes_it() -> None:
    sql = "SELECT '?>é' AS x"
    made = share("--db", "app", "--sql", sql, "--format", "csv", variables={"KVFS_TOKEN": WRITER})
    path, _, query = target_from(made).partition("?")
    params = dict(parse_qsl(query))
    assert (path, params["db"], params["format"]) == (f"{BASE}/query", "app", "csv")
    padded = params["sql"] + "=" * (-len(params["sql"]) % 4)
    assert base64.urlsafe_b64decode(padded).decode() == sql


def test_a_link_names_the_server_as_it_is_reached() -> None:
    made = share("--token", WRITER, "--db", "app", "--key", "k", "--url", "https://kv.example/")
    target_from(made, "https://kv.example")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--db", "app", "--key", "k"), "--token"),
        (("--token", "x", "--db", "app"), "--key or --sql"),
        (("--token", "x", "--db", "app", "--key", "k", "--sql", "SELECT 1"), "--key or --sql"),
        (("--token", "x", "--db", "app", "--key", ""), "key"),
        (("--token", "x", "--db", ":memory:", "--key", "k"), "in-memory"),
        (("--token", "x", "--db", "app", "--key", "k", "--table", "a b"), "table"),
        (("--token", "x", "--db", "app", "--key", "k", "--expires", "soon"), "duration"),
        (("--token", "x", "--db", "app", "--key", "k", "--expires", "0s"), "duration"),
        (("--token", "x", "--db", "app", "--key", "k", "--by", "y"), "no token y"),
        (("--token", "x", "--token-file", "/missing", "--db", "app", "--key", "k"), "/missing"),
    ],
)
def test_what_cannot_be_shared_is_said_and_nothing_printed(options: tuple[str, ...], word: str) -> None:
    made = share(*options)
    assert made.returncode != 0
    assert made.stdout == ""
    assert word in made.stderr
    assert "Traceback" not in made.stderr


def test_of_several_tokens_the_signer_must_be_named(home: Path) -> None:
    made = share("--token-file", str(home / "tokens"), "--db", "app", "--key", "k")
    assert made.returncode != 0
    assert "--by writer | reader" in made.stderr
