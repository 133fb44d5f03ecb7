"""Who may do what: tokens, what they cover, and what a refusal does not tell."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.http.bearing import Bearer
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, Answer, Endpoint, key_path, refused, target_of
from tests.polling import eventually

TABLE = "things"
MINE, OTHERS = "user:1", "other:1"
SECRETS = {
    name: f"{name}-0123456789abcdef"
    for name in ("admin", "reader", "prefix", "prefix-reader", "tenant", "table")
}

TokenFile = list[dict[str, Any]]


def token(name: str, access: str, **bounds: list[str]) -> dict[str, Any]:
    return {"name": name, "token": SECRETS[name], "access": access, **bounds}


@dataclass(frozen=True, slots=True)
class Place:
    """A server with tokens, and on it a store that some of them cover, with a key that they cover."""

    server: Launched
    db: str

    def as_(self, name: str | None) -> Bearer:
        return Bearer(self.server, None if name is None else SECRETS[name])

    def target(self, key: str | None = None, action: str = "", /, **params: object) -> str:
        path = f"{BASE}/kv/{action}".rstrip("/") if key is None else key_path(key, action)
        return target_of(path, **{"db": self.db, "table": TABLE, **params})


@pytest.fixture(scope="module", params=["table", "directory"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("tokens")
    db = home / "data" / ("covered.db" if request.param == "table" else "covered")
    home.joinpath("data").mkdir()
    if request.param == "directory":
        db.mkdir()
    tokens = [
        token("admin", "write"),
        token("reader", "read"),
        token("prefix", "write", databases=[str(db)], prefixes=["user:", "team/"]),
        token("prefix-reader", "read", prefixes=["user:"]),
        token("tenant", "write", databases=[str(db)]),
        token("table", "write", databases=[str(db)], tables=[TABLE]),
    ]
    file = home / "tokens.json"
    file.write_text(json.dumps({"tokens": tokens}))
    with serving(home, "--token-file", str(file), "--access-log") as server:
        place = Place(server, str(db))
        for key in (MINE, OTHERS):
            made = place.target(key, create_db_if_missing="true")
            assert place.as_("admin").ask("PUT", made, b"1").status == 200
        yield place
        server.stop()
        assert not [secret for secret in SECRETS.values() if secret in server.out + server.err]


# --- with and without a token --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        f"Bearer {SECRETS['admin'][:-1]}",
        f"Bearer {SECRETS['admin']}0",
        f"Bearer {SECRETS['admin'].upper()}",
        f"Basic {SECRETS['admin']}",
        SECRETS["admin"],
    ],
)
def test_without_a_right_token_all_is_refused_alike(place: Place, given: str | None) -> None:
    headers = [] if given is None else [("Authorization", given)]
    for target in (place.target(MINE), place.target("missing"), f"{BASE}/db/list"):
        answer = place.server.ask("GET", target, headers=headers)
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    head = place.server.ask("HEAD", place.target(MINE), headers=headers)
    assert (head.status, head.headers["X-Error-Code"]) == (401, "UNAUTHORIZED")


def test_the_scheme_is_taken_in_any_case(place: Place) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = [("Authorization", f"{scheme} {SECRETS['admin']}")]
        assert place.server.ask("GET", place.target(MINE), headers=headers).body == b"1"


def test_health_is_told_to_everybody(place: Place) -> None:
    assert place.as_(None).ask("GET", f"{BASE}/health").done()["status"] == "ok"


def test_a_large_upload_without_a_token_is_refused(place: Place) -> None:
    refused(place.as_(None).ask("PUT", place.target("big"), b"x" * 2_000_000), 401, "UNAUTHORIZED")


def test_one_token_from_a_variable_covers_everything(tmp_path: Path) -> None:
    with serving(tmp_path / "home", variables={"KVFS_TOKEN": "s3cret"}) as server:
        target = target_of(key_path("k"), db="app", create_db_if_missing="true")
        refused(server.ask("PUT", target, b"1"), 401, "UNAUTHORIZED")
        assert Bearer(server, "s3cret").ask("PUT", target, b"1").status == 200
        assert Bearer(server, "s3cret").ask("GET", f"{BASE}/db/list").done()["count"] == 1


# --- what a token covers -------------------------------------------------------------------------------


def covered(answer: Answer) -> bool:
    """Whether it was let in; else it must have been refused in full form."""
    if answer.status != 403:
        assert answer.status != 401, answer
        return True
    refused(answer, 403, "FORBIDDEN")
    return False


READS = [
    ("GET", "", {}),
    ("GET", "entry", {}),
    ("GET", "history", {}),
    ("GET", "snapshot", {"op_number": 1}),
]
WRITES: list[tuple[str, str, dict[str, object], bytes | None]] = [
    ("PUT", "", {}, b"1"),
    ("POST", "incr", {}, None),
    ("POST", "decr", {}, None),
    ("POST", "push", {"path": "a"}, b"1"),
    ("POST", "pop", {}, None),
    ("POST", "remove", {"index": 0}, None),
    ("POST", "expire", {"ttl": 1000}, None),
    ("POST", "persist", {}, None),
    ("POST", "rollback", {}, None),
    ("GET", "", {"rebuild": "true"}, None),
    ("DELETE", "", {}, None),
]


def on_keys(keys: list[str]) -> list[tuple[str, str, dict[str, object], bytes, bool]]:
    """Requests that name keys elsewhere than in the path; the last tells whether they write."""
    listed = json.dumps({"keys": keys}).encode()
    items = json.dumps({"items": [{"key": key, "value": "1"} for key in keys]}).encode()
    return [
        ("POST", "batch/get", {}, listed, False),
        ("GET", "diff", {"from": 0, "to": 1, "keys": ",".join(keys)}, b"", False),
        ("POST", "batch/set", {}, items, True),
        ("POST", "batch/delete", {}, listed, True),
        ("POST", "rollback", {"to_timestamp": 1, "dry_run": "true"}, listed, True),
    ]


def on_the_table(place: Place) -> list[tuple[str, str, bytes | None]]:
    """Requests that touch all keys of a table."""
    return [
        ("GET", place.target(), None),
        ("GET", place.target(at_timestamp=1), None),
        ("GET", place.target(prefix=""), None),
        ("GET", place.target(None, "snapshot", timestamp=1), None),
        ("GET", place.target(None, "diff", **{"from": 0, "to": 1}), None),
        ("GET", place.target(None, "diff", **{"from": 0, "to": 1, "keys": ","}), None),
        ("POST", place.target(None, "rollback", to_timestamp=1, dry_run="true"), None),
        ("POST", place.target(None, "rollback", to_timestamp=1, dry_run="true"), b'{"exclude_keys": ["a"]}'),
        ("POST", target_of(f"{BASE}/maintenance", db=place.db, table=TABLE), b'{"op": "rebuild"}'),
    ]


SERVER_WIDE = [("GET", f"{BASE}/db/list"), ("GET", f"{BASE}/health/cache")]


def test_an_export_reads_a_whole_table_and_an_import_writes_one(place: Place) -> None:
    export, import_ = place.target(None, "export"), place.target(None, "import", on_conflict="skip")
    for name in ("reader", "tenant", "table"):
        assert covered(place.as_(name).ask("GET", export))
    for name in ("prefix", "prefix-reader"):
        assert not covered(place.as_(name).ask("GET", export))
    for name in ("reader", "prefix", "prefix-reader"):
        assert not covered(place.as_(name).ask("POST", import_, b"{}"))
    for name in ("admin", "tenant", "table"):
        assert covered(place.as_(name).ask("POST", import_, b"{}"))


def test_a_read_token_reads_everything_and_writes_nothing(place: Place) -> None:
    reader = place.as_("reader")
    for method, action, params in READS:
        assert covered(reader.ask(method, place.target(MINE, action, **params)))
    for method, action, more, body in WRITES:
        assert not covered(reader.ask(method, place.target(MINE, action, **more), body))
    for method, word, more, body, writes in on_keys([MINE]):
        assert covered(reader.ask(method, place.target(None, word, **more), body)) is not writes
    assert all(covered(reader.ask(method, target)) for method, target in SERVER_WIDE)
    created = target_of(f"{BASE}/db/create", path="new")
    deleted = target_of(f"{BASE}/db", db=place.db, confirm="yes")
    for method, target in (("POST", created), ("DELETE", deleted)):
        assert not covered(reader.ask(method, target))
    assert place.as_("admin").ask("GET", place.target(MINE)).body == b"1"


def test_a_prefix_token_is_held_to_its_keys(place: Place) -> None:
    bearer = place.as_("prefix-reader")
    for method, action, params in READS:
        assert covered(bearer.ask(method, place.target(MINE, action, **params)))
        assert not covered(bearer.ask(method, place.target(OTHERS, action, **params)))
    for method, word, more, body, _ in on_keys([MINE, "user:2"])[:2]:
        assert covered(bearer.ask(method, place.target(None, word, **more), body))
    for method, word, more, body, _ in on_keys([MINE, OTHERS]) + on_keys([OTHERS]) + on_keys([]):
        assert not covered(bearer.ask(method, place.target(None, word, **more), body))


def test_a_prefix_token_that_writes_is_held_to_its_keys(place: Place) -> None:
    bearer = place.as_("prefix")
    for method, action, params, body in WRITES:
        inside = bearer.ask(method, place.target("team/" + action, action, **params), body)
        assert covered(inside) is ("rebuild" not in params)
        assert not covered(bearer.ask(method, place.target(OTHERS, action, **params), body))
    for method, word, more, body, _ in on_keys(["user:2", "team/x"]):
        assert covered(bearer.ask(method, place.target(None, word, **more), body))
    for method, word, more, body, _ in on_keys(["user:2", OTHERS]):
        assert not covered(bearer.ask(method, place.target(None, word, **more), body))
    assert place.as_("admin").ask("GET", place.target(OTHERS)).body == b"1"


def test_keys_are_compared_as_they_are_after_decoding(place: Place) -> None:
    bearer, query = place.as_("prefix"), target_of("", db=place.db, table=TABLE)
    assert covered(bearer.ask("GET", f"{BASE}/kv/%75ser%3A1{query}"))
    assert covered(bearer.ask("GET", f"{BASE}/kv/team%2Fx{query}"))
    for raw in ("user%2F1", "use", "User:1", "%20user:1", "/user:1", "team", "teams/x", "../kv/user:1"):
        assert not covered(bearer.ask("GET", f"{BASE}/kv/{raw}{query}")), raw


def test_lists_and_snapshots_must_stay_under_the_prefix(place: Place) -> None:
    bearer = place.as_("prefix")
    page = bearer.ask("GET", place.target(prefix="user:")).done()
    assert all(key.startswith("user:") for key in page["keys"])
    for params in ({}, {"at_timestamp": 1}, {"delimiter": "/"}, {"values": "true", "after": "a"}):
        for prefix in ("user:", "user:1", "team/"):
            assert covered(bearer.ask("GET", place.target(prefix=prefix, **params)))
        for prefix in ("", "u", "user", "o", "team"):
            assert not covered(bearer.ask("GET", place.target(prefix=prefix, **params)))
    assert covered(bearer.ask("GET", place.target(None, "snapshot", timestamp=1, prefix="user:")))
    assert not covered(bearer.ask("GET", place.target(None, "snapshot", timestamp=1, prefix="use")))


def test_changes_are_followed_under_the_prefix_only(place: Place) -> None:
    bearer = place.as_("prefix")
    followed = target_of(f"{BASE}/changes", db=place.db, table=TABLE, prefix="user:")
    cursor = bearer.ask("GET", followed).done()["cursor"]
    for key in (OTHERS, MINE):
        assert place.as_("admin").ask("PUT", place.target(key), b"1").status == 200
    page = bearer.ask("GET", f"{followed}&since={cursor}&wait=10&include_values=true").done()
    assert [event["key"] for event in page["events"]] == [MINE]
    for path in ("changes", "changes/stream"):
        for prefix in (None, "", "use", "other:"):
            target = target_of(f"{BASE}/{path}", db=place.db, table=TABLE, prefix=prefix)
            assert not covered(bearer.ask("GET", target))


def test_a_page_under_the_prefix_shows_nothing_beyond_it(place: Place) -> None:
    bearer = place.as_("prefix")
    for after in ("", "a", "other:", "user:", "zzz"):
        page = bearer.ask("GET", place.target(prefix="user:", after=after, total="true")).done()
        assert not [key for key in page["keys"] if not key.startswith("user:")]
        assert page["total"] <= 1


def test_what_touches_a_whole_table_needs_a_token_that_covers_it(place: Place) -> None:
    for method, target, body in on_the_table(place):
        assert not covered(place.as_("prefix").ask(method, target, body)), target
        for name in ("admin", "tenant", "table"):
            assert covered(place.as_(name).ask(method, target, body)), target


def test_a_token_is_held_to_its_tables(place: Place) -> None:
    for name, others in (("table", False), ("tenant", True), ("admin", True)):
        for table in ("elsewhere", "Things", "things2"):
            for method, action in (("GET", ""), ("GET", "entry"), ("PUT", "")):
                target = place.target("k", action, table=table)
                assert covered(place.as_(name).ask(method, target, b"1")) is others
            batch = place.target(None, "batch/get", table=table)
            assert covered(place.as_(name).ask("POST", batch, b'{"keys": ["k"]}')) is others
    default = target_of(f"{BASE}/kv", db=place.db)
    assert not covered(place.as_("table").ask("GET", default))


def test_a_token_is_held_to_its_databases_and_makes_them(place: Place) -> None:
    made = target_of(f"{BASE}/db/create", path=place.db + ("" if place.db.endswith(".db") else "/"))
    assert covered(place.as_("tenant").ask("POST", made))
    assert not covered(place.as_("table").ask("POST", made))
    assert not covered(place.as_("prefix").ask("POST", made))
    for path in ("other", "./other", f"{place.db}2", os.path.dirname(place.db) + "/"):
        assert not covered(place.as_("tenant").ask("POST", target_of(f"{BASE}/db/create", path=path))), path
        deleted = target_of(f"{BASE}/db", db=path, confirm="yes")
        assert not covered(place.as_("tenant").ask("DELETE", deleted)), path


def test_sql_and_its_history_need_a_token_that_covers_the_database(place: Place) -> None:
    bounded = target_of(BASE + "/{}", db=place.db, sql="SELECT 1", table=TABLE)
    reads = [("GET", "query"), ("GET", "history"), ("GET", "history/stats")]
    writes = [("POST", "db"), ("DELETE", "history"), ("DELETE", "history/0")]
    body = b'{"transaction": [{"query": "SELECT 1"}]}'
    for method, path in reads + writes:
        target = bounded.format(path)
        for name in ("prefix", "prefix-reader", "table"):
            assert not covered(place.as_(name).ask(method, target, body)), (name, path)
        assert covered(place.as_("tenant").ask(method, target, body)), path
        assert covered(place.as_("reader").ask(method, target, body)) is (method == "GET"), path
        others = target_of(f"{BASE}/{path}", db="other", sql="SELECT 1")
        assert not covered(place.as_("tenant").ask(method, others, body)), path


TABLE_OPS = [{"op": "rebuild"}, {"op": "history_prune", "keep_last": 5}, {"op": "retention"}]
DATABASE_OPS = [
    {"op": op} for op in ("wal_checkpoint_truncate", "vacuum", "optimize", "quick_check", "integrity_check")
]


def test_maintenance_needs_a_token_that_covers_what_it_looks_after(place: Place) -> None:
    target = target_of(f"{BASE}/maintenance", db=place.db, table=TABLE)
    for op in TABLE_OPS + DATABASE_OPS:
        body = json.dumps(op).encode()
        for name in ("prefix", "prefix-reader", "reader"):
            assert not covered(place.as_(name).ask("POST", target, body)), (name, op)
        assert covered(place.as_("table").ask("POST", target, body)) is (op in TABLE_OPS), op
        assert covered(place.as_("tenant").ask("POST", target, body)), op


def test_a_database_that_maintenance_names_beside_must_be_covered_too(place: Place) -> None:
    target = target_of(f"{BASE}/maintenance", db=place.db)
    folder = os.path.dirname(place.db)
    for path in (f"{folder}/copy.db", "copy", "other.db", "/etc/passwd"):
        for op in ({"op": "vacuum_into", "dest_path": path}, {"op": "restore", "src_path": path}):
            assert not covered(place.as_("tenant").ask("POST", target, json.dumps(op).encode())), op
    assert not os.path.exists(f"{folder}/copy.db")
    own = json.dumps({"op": "vacuum_into", "dest_path": place.db}).encode()
    assert covered(place.as_("tenant").ask("POST", target, own))


def test_what_concerns_the_whole_server_needs_a_token_without_bounds(place: Place) -> None:
    for method, target in SERVER_WIDE:
        for name in ("prefix", "prefix-reader", "tenant", "table"):
            assert not covered(place.as_(name).ask(method, target))


def test_databases_are_compared_by_where_they_lead(place: Place) -> None:
    folder, name = os.path.split(place.db)
    alias, inside = f"{folder}/alias{os.path.splitext(name)[1]}", f"{folder}/inside"
    os.symlink(place.db, alias)
    os.symlink(folder, inside)
    try:
        same = [f"{folder}/./{name}", f"{folder}//{name}", f"{folder}/x/../{name}", alias, f"{inside}/{name}"]
        if name.endswith(".db"):
            same += [name, f"./{name}", name.removesuffix(".db")]
        for db in same:
            assert covered(place.as_("tenant").ask("GET", place.target(MINE, db=db))), db
        outside = [
            folder,
            f"{folder}/",
            f"{place.db}/..",
            f"{place.db}/x",
            "other",
            "/etc/passwd",
            "/etc",
            "..",
            "x/y",
        ]
        for db in [*outside, ":memory:", "file:covered.db", f"{place.db}\0"]:
            assert not covered(place.as_("tenant").ask("GET", place.target(MINE, db=db))), db
    finally:
        os.unlink(alias)
        os.unlink(inside)


def test_a_refusal_does_not_tell_whether_the_thing_exists(place: Place) -> None:
    def told(name: str | None, method: str, target: str, body: bytes | None) -> tuple[object, ...]:
        answer = place.as_(name).ask(method, target, body)
        assert answer.status in (401, 403)
        error = {**answer.json(), "request_id": None}
        return answer.status, error, sorted(name for name in answer.headers if name != "X-Request-Id")

    missing_db = os.path.dirname(place.db) + "/missing.db"
    keys = b'{"keys": ["%s"]}'
    for name in (None, "prefix", "reader"):
        here = told(name, "PUT" if name == "reader" else "GET", place.target(OTHERS), None)
        method = "PUT" if name == "reader" else "GET"
        for params in ({"key": "missing"}, {"db": missing_db}, {"table": "missing"}, {"db": "/etc/passwd"}):
            key = params.pop("key", OTHERS)
            assert told(name, method, place.target(key, **params), None) == here, params
    batch = place.target(None, "batch/get")
    assert told("prefix", "POST", batch, keys % OTHERS.encode()) == told(
        "prefix", "POST", batch, keys % b"no"
    )
    assert not os.path.exists(missing_db)


# --- token files ---------------------------------------------------------------------------------------

TOML = """
[[tokens]]
name = "all"
token = "one"
access = "write"

[[tokens]]
name = "some"
token = "two"
access = "read"
prefixes = ["public/"]
"""


def lets_in(server: Endpoint, secret: str) -> bool:
    return Bearer(server, secret).ask("GET", target_of(key_path("public/k"), db="app")).status == 404


def test_a_token_file_can_be_toml_json_or_one_bare_token(tmp_path: Path) -> None:
    as_json = json.dumps({"tokens": [{"name": "all", "token": "one", "access": "write"}]})
    for place, content in enumerate((TOML, as_json, f"\n{as_json}\n", "one\n")):
        home = tmp_path / str(place)
        home.mkdir()
        (home / "secret").write_text(content)
        with serving(home, variables={"KVFS_TOKEN_FILE": str(home / "secret")}) as server:
            assert lets_in(server, "one")
            assert not lets_in(server, "three")
            server.stop()


def test_a_token_file_stands_beside_a_single_token(tmp_path: Path) -> None:
    (tmp_path / "tokens.toml").write_text(TOML)
    with serving(tmp_path, "--token", "three", "--token-file", str(tmp_path / "tokens.toml")) as server:
        assert [lets_in(server, secret) for secret in ("one", "two", "three", "four")] == [True] * 3 + [False]


def test_a_token_file_is_read_again_at_sighup_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(TOML)
    with serving(tmp_path, "--token-file", str(file)) as server:
        file.write_text(TOML.replace('"one"', '"three"'))
        assert lets_in(server, "one")
        server.send(signal.SIGHUP)
        eventually(lambda: lets_in(server, "three"), 10, "the new token counts")
        assert not lets_in(server, "one")
        file.write_text("[[tokens]]\nname = hunter2\n")
        server.send(signal.SIGHUP)
        eventually(lambda: "the old tokens stay in force" in server.err, 10, "the failure is logged")
        assert lets_in(server, "three")
        assert "hunter2" not in server.err
        file.unlink()
        server.send(signal.SIGHUP)
        eventually(lambda: server.err.count("the old tokens stay in force") == 2, 10, "it is logged again")
        assert lets_in(server, "three")
        server.stop()


BAD_FILES = {
    "": "at least one",
    "tokens = []": "at least one",
    '{"tokens": {}}': "at least one",
    '{"tokens": [1]}': "must be a table",
    '{"tokens": [': "not JSON",
    "[[tokens]": "not TOML",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"': "access",
    '[[tokens]]\ntoken = "hunter2"\naccess = "read"': "name",
    '[[tokens]]\nname = "a"\naccess = "read"': "token",
    '[[tokens]]\nname = "a"\ntoken = "hunter 2"\naccess = "read"': "visible ASCII",
    '[[tokens]]\nname = "a b"\ntoken = "hunter2"\naccess = "read"': "name",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "admin"': "read or write",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\nprefix = ["a"]': "unknown prefix",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\nprefixes = []': "prefixes",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\nprefixes = [""]': "prefixes",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\nprefixes = "a"': "prefixes",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\ndatabases = ["a/b"]': "relative paths",
    '[[tokens]]\nname = "a"\ntoken = "hunter2"\naccess = "read"\ndatabases = ["/etc"]': "outside",
    TOML.replace('"two"', '"one"'): "the same",
    TOML.replace('"some"', '"all"'): "the same name",
}


@pytest.mark.parametrize(("content", "word"), BAD_FILES.items())
def test_a_bad_token_file_ends_with_1_and_one_line_that_names_what_is_wrong(
    tmp_path: Path, content: str, word: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(content)
    with Launched(tmp_path / "home", "serve", "--port", "0", "--token-file", str(file)) as launched:
        assert launched.code() == 1
        (line,) = launched.err.splitlines()
        assert line.startswith("kvfs: ")
        assert word in line
        assert "hunter" not in line


def test_a_token_file_that_is_not_there_ends_with_1_and_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with Launched(tmp_path / "home", "serve", "--port", "0", "--token-file", missing) as launched:
        assert launched.code() == 1
        (line,) = launched.err.splitlines()
        assert missing in line


@pytest.mark.parametrize("variable", ["KVFS_TOKEN", "KVFS_TOKEN_FILE"])
def test_an_empty_variable_does_not_make_a_server_without_tokens(tmp_path: Path, variable: str) -> None:
    with Launched(tmp_path / "home", "serve", "--port", "0", variables={variable: ""}) as launched:
        assert launched.code() == 2
        assert variable in launched.err


# --- no token at all -----------------------------------------------------------------------------------


def test_without_tokens_a_port_that_others_can_reach_is_warned_of(tmp_path: Path) -> None:
    for host, token_options, warned in (
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("127.0.0.1", (), False),
        ("0.0.0.0", ("--token", "one"), False),
    ):
        home = tmp_path / f"{host}{len(token_options)}"
        with serving(home, "--host", host, *token_options) as server:
            assert ("NO TOKEN IS SET" in server.err) is warned
            server.stop()
