"""From the raw target of a request to its route and key: what is escaped, what not, and what that means."""

from __future__ import annotations

import json
import os

from tests.http.launching import Server
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Answer, Connection, refused, request, target_of


def _raw(store: Store, method: str, path: str | bytes, body: bytes | None = None) -> Answer:
    """The answer to a request whose path goes out as it is here."""
    query = target_of("", db=store.db, table=TABLE).encode()
    before = path if isinstance(path, bytes) else path.encode("ascii")
    return store.server.ask(method, BASE.encode() + before + query, body)


def _key_of(answer: Answer) -> str:
    key: str = answer.done()["key"]
    return key


# --- escapes -------------------------------------------------------------------------------------------


DECODED = [
    ("/kv/a/b", "a/b"),
    ("/kv/a%2Fb", "a/b"),
    ("/kv/a%2fb", "a/b"),
    ("/kv/%61%2F%62", "a/b"),
    ("/kv/a%252Fb", "a%2Fb"),
    ("/kv/100%25", "100%"),
    ("/kv/%25", "%"),
    ("/kv/%2500", "%00"),
    ("/kv/a+b", "a+b"),
    ("/kv/a%2Bb", "a+b"),
    ("/kv/a%20b", "a b"),
    ("/kv/a%3Fb", "a?b"),
    ("/kv/a%23b", "a#b"),
    ("/kv/a%26b=c;d", "a&b=c;d"),
    ("/kv/%C3%A9", "é"),
    ("/kv/%c3%a9%F0%9F%98%80", "é😀"),
    ("/kv/%0D%0A", "\r\n"),
    ("/kv/%7F%01", "\x7f\x01"),
    ("/kv/~-._!$'()*,;:@&=+", "~-._!$'()*,;:@&=+"),
    ("/kv/%EF%BB%BFa", "\ufeffa"),
    ("/kv//", "/"),
    ("/kv//a", "/a"),
    ("/kv///", "//"),
    ("/kv/a/", "a/"),
    ("/kv/a//b", "a//b"),
    ("/kv/a//", "a//"),
    ("/kv/.", "."),
    ("/kv/..", ".."),
    ("/kv/./a", "./a"),
    ("/kv/../a", "../a"),
    ("/kv/a/../b", "a/../b"),
    ("/kv/a/..", "a/.."),
    ("/kv/../../../../etc/passwd", "../../../../etc/passwd"),
    ("/kv/..%2F..%2Fetc", "../../etc"),
    ("/kv/%2E%2E/a", "../a"),
    ("/kv/../health", "../health"),
    ("/kv/http://host/x", "http://host/x"),
    ("/kv/" + "k" * 1024, "k" * 1024),
    ("/kv/" + "%C3%A9" * 512, "é" * 512),
]


def test_a_path_is_decoded_once_and_never_normalised(store: Store) -> None:
    for path, key in DECODED:
        value = path.encode()
        assert _key_of(_raw(store, "PUT", path, value)) == key
        assert store.ask("GET").done()["keys"] == [key]
        assert store.get(key) == value
        assert _raw(store, "GET", path).body == value
        assert _key_of(_raw(store, "GET", path + "/entry")) == key
        assert _raw(store, "HEAD", path).status == 200
        assert _key_of(_raw(store, "DELETE", path)) == key
        assert store.ask("GET").done()["keys"] == []


def test_keys_that_look_like_ways_out_stay_in_their_folder(folder: Store) -> None:
    outside = sorted(os.listdir(folder.home.parent)), sorted(os.listdir(folder.home))
    for path in ("/kv/../../../x", "/kv//etc/x", "/kv/..%2F..%2F..%2Fx", "/kv/.kvfs/x", "/kv/a/../../../x"):
        assert _raw(folder, "PUT", path, b"x").status == 200
    assert (sorted(os.listdir(folder.home.parent)), sorted(os.listdir(folder.home))) == outside
    assert sorted(os.listdir(folder.db)) == [".kvfs", TABLE]


NO_UTF_8 = ["/kv/%FF", "/kv/%C3", "/kv/a%C3/b", "/kv/%ED%A0%80", "/kv/%C0%AF", "/kv/%F5%80%80%80"]
NUL = ["/kv/%00", "/kv/a%00b", "/kv/a/%00"]
TOO_LONG = ["/kv/" + "k" * 1025, "/kv/" + "%C3%A9" * 513, "/kv/" + "a/" * 600]
EVERYWHERE = [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/entry"), ("POST", "/incr")]


def test_a_key_that_is_no_utf_8_or_has_nul_is_400(store: Store) -> None:
    with store.unchanged():
        for path in NO_UTF_8 + NUL:
            for method, action in EVERYWHERE:
                refused(_raw(store, method, path + action), 400, "INVALID_PARAMETERS")
            assert _raw(store, "HEAD", path).status == 400


def test_an_empty_key_is_400(store: Store) -> None:
    with store.unchanged():
        for method in ("GET", "PUT", "DELETE"):
            refused(_raw(store, method, "/kv/"), 400, "INVALID_PARAMETERS", "key must not be empty")
        assert _raw(store, "HEAD", "/kv/").status == 400


def test_a_key_over_1024_bytes_is_413(store: Store) -> None:
    with store.unchanged():
        for path in TOO_LONG:
            for method, action in EVERYWHERE:
                refused(_raw(store, method, path + action), 413, "PAYLOAD_TOO_LARGE")


# --- actions and keys ----------------------------------------------------------------------------------


ACTIONS = [
    *("entry", "incr", "decr", "push", "pop", "remove", "expire", "persist"),
    *("history", "snapshot", "rollback"),
]
WORDS = ["snapshot", "diff", "export", "import", "rollback", "batch/set", "batch/get", "batch/delete"]


def test_put_head_and_delete_take_the_whole_path_as_the_key(store: Store) -> None:
    store.put("k", b"[1]")
    for word in ACTIONS:
        assert _key_of(_raw(store, "PUT", f"/kv/k/{word}", b"2")) == f"k/{word}"
        assert store.ask("GET").done()["keys"] == ["k", f"k/{word}"]
        assert _raw(store, "HEAD", f"/kv/k/{word}").headers["Content-Length"] == "1"
        assert _raw(store, "HEAD", f"/kv/none/{word}").status == 404
        assert _key_of(_raw(store, "DELETE", f"/kv/k/{word}")) == f"k/{word}"
    assert store.ask("GET").done()["keys"] == ["k"]
    assert store.ask("GET", "k").headers["ETag"] == '"1"'


def test_put_head_and_delete_take_words_as_keys(store: Store) -> None:
    for word in WORDS:
        assert _key_of(_raw(store, "PUT", f"/kv/{word}", b"2")) == word
        assert _raw(store, "HEAD", f"/kv/{word}").status == 200
        assert store.get(word) == b"2"
        assert _key_of(_raw(store, "DELETE", f"/kv/{word}")) == word


NO_ACTIONS_OF_GET = [
    ("/kv/%73napshot", "snapshot"),
    ("/kv/snapsho%74", "snapshot"),
    ("/kv/di%66f", "diff"),
    ("/kv/k%2Fhistory", "k/history"),
    ("/kv/k/%68istory", "k/history"),
    ("/kv/k%2Fentry", "k/entry"),
    ("/kv/k/entr%79", "k/entry"),
    ("/kv/k/%65%6E%74%72%79", "k/entry"),
    ("/kv/k/entry/", "k/entry/"),
    ("/kv/k/Entry", "k/Entry"),
    ("/kv/entry", "entry"),
    ("/kv//entry", "/entry"),
    ("/kv/snapshot/", "snapshot/"),
    ("/kv/batch/set", "batch/set"),
    ("/kv/k/incr", "k/incr"),
]


def test_only_literal_words_are_actions_for_get(store: Store) -> None:
    for path, key in NO_ACTIONS_OF_GET:
        store.put(key, b"the own value of " + key.encode())
        assert _raw(store, "GET", path).body == b"the own value of " + key.encode()
    assert store.ask("GET").done()["keys"] == sorted({key for _, key in NO_ACTIONS_OF_GET})


INCREMENTS = [
    ("/kv/k/incr", "k"),
    ("/kv/k/l/incr", "k/l"),
    ("/kv/incr/incr", "incr"),
    ("/kv/k%2Fincr/incr", "k/incr"),
    ("/kv/k/incr/incr", "k/incr"),
    ("/kv/k//incr", "k/"),
    ("/kv///incr", "/"),
    ("/kv/batch/incr", "batch"),
    ("/kv/%62atch/set/incr", "batch/set"),
    ("/kv/../incr", ".."),
]


def test_a_literal_suffix_is_an_action_on_what_is_before_it(store: Store) -> None:
    for path, key in INCREMENTS:
        assert _key_of(_raw(store, "POST", path)) == key
        assert _key_of(_raw(store, "GET", path.removesuffix("incr") + "entry")) == key
    assert store.ask("GET").done()["keys"] == sorted({key for _, key in INCREMENTS})


NO_ACTIONS_OF_POST = [
    *("/kv/k%2Fincr", "/kv/k/inc%72", "/kv/k/%69ncr", "/kv/incr", "/kv/%2Fincr"),
    *("/kv/batch%2Fset", "/kv/batch/%73et", "/kv/k/incr/", "/kv/k/INCR"),
]


def test_an_escaped_action_is_none(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for path in NO_ACTIONS_OF_POST:
            refused(_raw(store, "POST", path, b'{"items": []}'), 405, "METHOD_NOT_ALLOWED")


# --- targets -------------------------------------------------------------------------------------------


ORIGINS = ["http://kvfs", "http://kvfs:8080", "http://127.0.0.1:1", "HTTP://KVFS", "https://kvfs.example"]


def test_an_absolute_target_is_its_path(store: Store) -> None:
    target = store.target("a/../b c")
    for origin in ORIGINS:
        assert store.server.ask("PUT", origin + target, origin.encode()).status == 200
        assert store.server.ask("GET", origin + target).body == origin.encode()
        assert store.get("a/../b c") == origin.encode()


def test_a_target_that_is_no_path_is_an_error_in_our_form(server: Server) -> None:
    for target in ("*", "kvfs:80", "health", "api/v1/sqlite/health", "?", "http:", "http://"):
        for method in ("GET", "OPTIONS", "CONNECT"):
            answer = server.ask(method, target)
            refused(answer, 404 if answer.status == 404 else 400, answer.json()["code"])


def test_a_fragment_is_400_since_half_a_key_must_not_stand_for_the_whole(table: Store) -> None:
    table.put("a", b"1")
    with table.unchanged():
        for target in (f"{BASE}/kv/a#b?db={table.db}", f"{BASE}/kv/a?db={table.db}#b"):
            refused(table.server.ask("PUT", target, b"2"), 400, "INVALID_PARAMETERS")


RAW = [b"\xc3\xa9", b"\xff", b"a b", b"a\tb", b"a\x00b", b"a\x7fb", b"k/\xffincr"]


def test_raw_bytes_that_no_target_may_have_are_400_in_our_form(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for raw in RAW:
            for method in ("GET", "PUT", "POST"):
                refused(_raw(store, method, b"/kv/" + raw, b"2"), 400, "INVALID_PARAMETERS")


# --- queries -------------------------------------------------------------------------------------------


def test_a_plus_and_an_escape_are_spaces_in_a_query_and_an_escaped_plus_is_one(store: Store) -> None:
    for key in ("a b", "a+b", "a%20b"):
        store.put(key, b"1")
    for query, key in (("a+b", "a b"), ("a%20b", "a b"), ("a%2Bb", "a+b"), ("a%2520b", "a%20b")):
        answer = store.server.ask("GET", f"{store.target()}&prefix={query}")
        assert answer.done()["keys"] == [key]
        assert answer.json()["prefix"] == key


def test_names_of_parameters_are_decoded_too(store: Store) -> None:
    store.put("k", b"1")
    assert store.server.ask("GET", f"{store.target()}&li%6Dit=7").done()["limit"] == 7


IGNORED = [
    *("", "&", "&&", "&unknown", "&unknown=%FF%00", "&unknown=1&unknown=2", "&=", "&=x", "&%FF=1", "&%=%"),
    *("&limit2=x", "&LIMIT=x"),
]


def test_unknown_and_empty_parameters_are_ignored(store: Store) -> None:
    store.put("k", b"1")
    for query in IGNORED:
        assert store.server.ask("GET", store.target() + query).done()["keys"] == ["k"]


def test_a_parameter_given_twice_must_say_the_same(store: Store) -> None:
    store.put("k", b"1")
    for same in ("limit=5&limit=5", "limit=5&limit=%35", "li%6Dit=5&limit=5"):
        assert store.server.ask("GET", f"{store.target()}&{same}").done()["limit"] == 5
    with store.unchanged():
        for name, pair in (
            ("limit", "limit=5&limit=6"),
            ("prefix", "prefix=&prefix=a"),
            ("limit", "limit=5&li%6Dit=05"),
        ):
            answer = store.server.ask("GET", f"{store.target()}&{pair}")
            assert name in refused(answer, 400, "INVALID_PARAMETERS")["message"]
        twice = store.server.ask("PUT", f"{store.target('k')}&db=other", b"2")
        assert "db" in refused(twice, 400, "INVALID_PARAMETERS")["message"]
        twice = store.server.ask("PUT", f"{store.target('k')}&if_match=1&if_match=2", b"2")
        assert "if_match" in refused(twice, 400, "INVALID_PARAMETERS")["message"]


def test_what_is_no_escape_stays_as_it_is(store: Store) -> None:
    store.put("100%", b"1")
    store.put("%zz", b"2")
    assert _raw(store, "GET", "/kv/100%").body == b"1"
    assert _raw(store, "GET", "/kv/%zz").body == b"2"
    assert store.server.ask("GET", f"{store.target()}&prefix=%z").done()["keys"] == ["%zz"]


def test_a_query_may_hold_a_value_of_100_kib(store: Store) -> None:
    value = "é" * 17_000
    store.put("k", value.encode())
    assert store.put("k", b"new", if_match=value)["op_number"] == 2


def test_the_same_answers_come_on_one_connection_as_on_many(store: Store) -> None:
    """Nothing of one request is left for the next."""
    keys = ["a", "a/b", "..", "x y", "é", "entry", "k" * 1024]
    with store.server.connect() as connection:
        for key in keys:
            assert connection.ask("PUT", store.target(key), json.dumps(key).encode()).done()["key"] == key
            refused(
                connection.ask("GET", store.target(key, limit="x", timeout="y")), 400, "INVALID_PARAMETERS"
            )
            assert _ask_all(connection, store, key) == [json.dumps(key).encode(), b"", b'"']
    assert store.ask("GET").done()["keys"] == sorted(keys, key=str.encode)


def _ask_all(connection: Connection, store: Store, key: str) -> list[bytes]:
    connection.send(request("GET", store.target(key)))
    whole = connection.answer().body
    connection.send(request("HEAD", store.target(key)))
    head = connection.answer(head=True).body
    connection.send(request("GET", store.target(key), headers=[("Range", "bytes=-1")]))
    return [whole, head, connection.answer().body]
