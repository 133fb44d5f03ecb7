"""A value as HTTP shows it: its headers, its type, stretches of it, conditions, and nothing smuggled in."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests import nasty
from tests.http.stores import TABLE, Store
from tests.http.wire import JSON, Answer, refused, request

MIB = 1 << 20
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


def _named(answer: Answer, *names: str) -> dict[str, str | None]:
    return {name: answer.headers[name] for name in names}


def _without_trace(answer: Answer) -> dict[str, str]:
    """The headers, but for those that no two answers share."""
    return {name: value for name, value in answer.headers.items() if name not in ("Date", "X-Request-Id")}


# --- headers -------------------------------------------------------------------------------------------


def test_a_value_comes_with_all_that_is_known_of_it(store: Store) -> None:
    before_s = int(time.time())
    store.put("k", b"hello", headers=[("Content-Type", "text/x-greeting")], ttl=1000)
    answer = store.ask("GET", "k")
    after_s = time.time()
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"hello")
    headers = answer.headers
    assert headers["Content-Type"] == "text/x-greeting"
    assert headers["Content-Length"] == "5"
    assert headers["ETag"] == '"1"'
    assert headers["Accept-Ranges"] == "bytes"
    assert before_s <= int(headers["X-Created-At"]) <= after_s
    assert headers["X-Updated-At"] == headers["X-Created-At"]
    assert before_s + 1000 <= int(headers["X-Expire-At"]) <= after_s + 1001
    assert headers["X-KV-Reference"] is None
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["X-Request-Id"]
    assert headers["Date"].endswith(" GMT")
    if store.directory:
        assert headers["X-Directory-Mode"] == "true"
        assert headers["X-File-Hash"] == hashlib.sha256(b"hello").hexdigest()
    else:
        assert (headers["X-Directory-Mode"], headers["X-File-Hash"]) == (None, None)
    assert len(headers) == len(set(headers))


def test_a_value_without_a_ttl_has_no_expiry(store: Store) -> None:
    store.put("k", b"1")
    assert store.ask("GET", "k").headers["X-Expire-At"] is None


def test_a_node_comes_as_json_with_the_headers_of_its_value(store: Store) -> None:
    store.put("k", b'{"a": {"b":  1.0}}', headers=[("Content-Type", "application/vnd.x+json")])
    answer = store.ask("GET", "k", path="a")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
    assert json.loads(answer.body) == {"b": 1.0}
    assert b"1.0" in answer.body
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("size", [0, 1, 70_000, MIB])
def test_a_head_has_the_headers_of_the_get_and_no_body(store: Store, size: int) -> None:
    store.put("k", nasty.noise(size), ttl=1000)
    with store.server.connect() as connection:
        got = connection.ask("GET", store.target("k"))
        head = connection.ask("HEAD", store.target("k"))
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(size)
        assert _without_trace(head) == _without_trace(got)
        # Nothing follows: the next answer is the next request's.
        assert connection.ask("GET", store.target("k")).body == got.body


def test_a_head_of_a_missing_key_is_404_with_the_code_in_a_header(store: Store) -> None:
    store.put("k", b"1")
    head = store.ask("HEAD", "missing")
    assert (head.status, head.headers["X-Error-Code"]) == (404, "KEY_NOT_FOUND")


def test_a_head_knows_the_past_nodes_and_conditions_too(store: Store) -> None:
    store.put("k", b'{"a": 12}')
    now = f"{time.time():.9f}"
    store.put("k", b"12345")
    assert store.ask("HEAD", "k", at_timestamp=now).headers["Content-Length"] == "9"
    assert store.ask("HEAD", "k", at_timestamp=now, path="a").headers["Content-Length"] == "2"
    assert store.ask("HEAD", "k", headers=[("If-None-Match", '"2"')]).status == 304
    # A range is for what has a body.
    head = store.ask("HEAD", "k", headers=[("Range", "bytes=0-1")])
    assert (head.status, head.headers["Content-Length"], head.headers["Content-Range"]) == (200, "5", None)


def test_a_rebuild_answers_with_the_value_and_means_nothing_to_a_table(store: Store) -> None:
    store.put("k", b"1")
    if store.directory:
        (store.folder / "outside").write_bytes(b"2")
        assert store.ask("GET", "outside", rebuild="true").body == b"2"
    assert store.ask("GET", "k", rebuild="true").body == b"1"


# --- types ---------------------------------------------------------------------------------------------


TYPES: list[tuple[str | None, bytes, str]] = [
    # The SDK declares JSON whatever it sends.
    (JSON, b'{"a": 1}', JSON),
    (JSON, b'"text"', JSON),
    (JSON, b" null\n", JSON),
    (JSON, b"12345678901234567890123", JSON),
    (JSON, b"just text", TEXT),
    (JSON, b"{'a': 1}", TEXT),
    (JSON, b"NaN", TEXT),
    (JSON, b"[1,]", TEXT),
    (JSON, b"", TEXT),
    (JSON, b"\xff\xfe", BYTES),
    (JSON, b"\x89PNG\r\n\x1a\n\x00", BYTES),
    ("application/json; charset=utf-8", b"{}", "application/json; charset=utf-8"),
    ("application/json;charset=utf-8", b"text", TEXT),
    ("Application/JSON", b"text", TEXT),
    # curl --data declares a form.
    ("application/x-www-form-urlencoded", b'{"a": 1}', JSON),
    ("application/x-www-form-urlencoded", b"a=1&b=2", TEXT),
    ("application/x-www-form-urlencoded", b"\xff", BYTES),
    ("APPLICATION/x-www-form-urlencoded; charset=utf-8", b"a=1", TEXT),
    # Nothing is declared.
    (None, b'["a"]', JSON),
    (None, b"7", JSON),
    (None, "tëxt".encode(), TEXT),
    (None, b"", TEXT),
    (None, b"a\0b", TEXT),
    (None, b"\xc3", BYTES),
    ("", b"text", TEXT),
    # Everything else is believed.
    ("text/plain", b"{}", "text/plain"),
    ("image/png", b"no png", "image/png"),
    ("application/octet-stream", b"{}", BYTES),
    ("application/vnd.api+json", b"no json", "application/vnd.api+json"),
    ("text/html; charset=iso-8859-1", b"<p>\xe9", "text/html; charset=iso-8859-1"),
    ('multipart/form-data; boundary="x y"', b"--x y--", 'multipart/form-data; boundary="x y"'),
]


def test_the_type_is_the_declared_one_unless_that_says_nothing_or_is_untrue(store: Store) -> None:
    for declared, value, expected in TYPES:
        headers = [] if declared is None else [("Content-Type", declared)]
        assert store.put("k", value, headers=headers)["content_type"] == expected, (declared, value)
        answer = store.ask("GET", "k")
        assert (answer.headers["Content-Type"], answer.body) == (expected, value)
        assert store.ask("GET", "k", "entry").done()["content_type"] == expected
        assert store.ask("GET").done()["items"][0]["content_type"] == expected


def test_the_types_of_large_values_follow_the_same_rules(store: Store) -> None:
    number = b"1234567, " * 100_000
    for value, expected in (
        (b"[" + number + b"0]", JSON),
        (b"[" + number, TEXT),
        (nasty.noise(MIB), BYTES),
        (b"x" * MIB + b"\xff", BYTES),
        ("é".encode() * MIB, TEXT),
    ):
        assert store.put("k", value, headers=[("Content-Type", JSON)])["content_type"] == expected
        answer = store.ask("GET", "k")
        assert answer.headers["Content-Type"] == expected
        assert answer.body == value


NO_TYPES: list[str | bytes] = [
    "text",
    "text/",
    "/plain",
    "te xt/plain",
    "a/b" + "c" * 300,
    "a/b\té",
    b"a/b\xe9",
    b"text/plain; x=\xff",
]


def test_a_type_that_no_header_could_carry_back_is_400(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for declared in NO_TYPES:
            headers = [("Content-Type", declared)]
            for body in (b"2", b"2" * MIB):
                refused(store.ask("PUT", "k", body=body, headers=headers), 400, "INVALID_PARAMETERS")


def test_a_file_from_outside_is_typed_by_its_name(folder: Store) -> None:
    folder.put("first", b"1")
    for name, value, expected in (
        ("a.png", b"\x89PNG", "image/png"),
        ("a.html", b"<p>", "text/html"),
        ("a.JSON", b"{}", JSON),
        ("a.json", b"not json", TEXT),
        ("plain", b"text", TEXT),
        ("data", b"\xff", BYTES),
        ("number", b"5", JSON),
    ):
        (folder.folder / name).write_bytes(value)
        answer = folder.ask("GET", name)
        assert answer.body == value
        assert answer.headers["Content-Type"].split(";")[0] == expected.split(";")[0]


# --- ranges --------------------------------------------------------------------------------------------

VALUE = b"0123456789"


RANGES = [
    ("bytes=0-0", b"0", "bytes 0-0/10"),
    ("bytes=0-", VALUE, "bytes 0-9/10"),
    ("bytes=3-5", b"345", "bytes 3-5/10"),
    ("bytes=9-9", b"9", "bytes 9-9/10"),
    ("bytes=9-", b"9", "bytes 9-9/10"),
    ("bytes=5-999", b"56789", "bytes 5-9/10"),
    ("bytes=-1", b"9", "bytes 9-9/10"),
    ("bytes=-3", b"789", "bytes 7-9/10"),
    ("bytes=-999", VALUE, "bytes 0-9/10"),
    ("Bytes=1-1", b"1", "bytes 1-1/10"),
]


def test_a_range_is_206_with_its_place(store: Store) -> None:
    store.put("k", VALUE)
    for asked, expected, content_range in RANGES:
        answer = store.ask("GET", "k", headers=[("Range", asked)])
        assert (answer.status, answer.reason, answer.body) == (206, "Partial Content", expected), asked
        assert answer.headers["Content-Range"] == content_range
        assert answer.headers["Content-Length"] == str(len(expected))
        assert _named(answer, "ETag", "Accept-Ranges") == {"ETag": '"1"', "Accept-Ranges": "bytes"}


NO_RANGES = [
    *("bytes=0-1,3-4", "bytes=0-0, -1", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "items=0-1"),
    *(
        "bytes 0-1",
        "0-1",
        "bytes=1.5-2",
        "bytes=+1-2",
        "bytes=0-1-2",
        "bytes=0x1-2",
        f"bytes={'9' * 40}-",
        "",
    ),
]


def test_a_range_that_is_not_understood_gets_the_whole(store: Store) -> None:
    store.put("k", VALUE)
    for asked in NO_RANGES:
        answer = store.ask("GET", "k", headers=[("Range", asked)])
        assert (answer.status, answer.body, answer.headers["Content-Range"]) == (200, VALUE, None), asked


BEYOND = [
    *((10, "bytes=10-"), (10, "bytes=11-20"), (10, "bytes=-0"), (10, "bytes=99999999999999999-")),
    *((0, "bytes=0-"), (0, "bytes=-5"), (MIB, f"bytes={MIB}-")),
]


def test_a_range_past_the_end_is_416_with_the_size(store: Store) -> None:
    for size, asked in BEYOND:
        store.put("k", b"x" * size)
        with store.unchanged():
            answer = store.ask("GET", "k", headers=[("Range", asked)])
            refused(answer, 416, "RANGE_NOT_SATISFIABLE")
            assert answer.headers["Content-Range"] == f"bytes */{size}"


IF_RANGES = ['"1"', 'W/"2"', "2", "*", '"1", "2"', "", "Wed, 21 Oct 2015 07:28:00 GMT"]


def test_a_range_for_another_version_gets_the_whole(store: Store) -> None:
    store.put("k", b"something else")
    store.put("k", VALUE)
    answer = store.ask("GET", "k", headers=[("Range", "bytes=2-3"), ("If-Range", '"2"')])
    assert (answer.status, answer.body) == (206, b"23")
    for if_range in IF_RANGES:
        for asked in ("bytes=2-3", "bytes=100-"):
            answer = store.ask("GET", "k", headers=[("Range", asked), ("If-Range", if_range)])
            assert (answer.status, answer.body) == (200, VALUE), if_range


# --- large values --------------------------------------------------------------------------------------


def test_a_large_value_is_right_byte_for_byte_whole_and_by_ranges(store: Store) -> None:
    value = nasty.noise(MIB)
    store.put("k", value)
    whole = store.ask("GET", "k")
    assert whole.body == value
    assert whole.headers["X-KV-Reference"] == ("true" if store.directory else None)
    if store.directory:
        assert whole.headers["X-File-Hash"] == hashlib.sha256(value).hexdigest()
        assert (store.folder / "k").read_bytes() == value
    for first, last in (
        (0, 0),
        (0, 262_143),
        (262_143, 262_144),
        (5, 700_000),
        (MIB - 1, MIB - 1),
        (1, MIB - 1),
    ):
        answer = store.ask("GET", "k", headers=[("Range", f"bytes={first}-{last}")])
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{MIB}"
        assert answer.headers["X-KV-Reference"] == whole.headers["X-KV-Reference"]
        assert answer.body == value[first : last + 1]
    tail = store.ask("GET", "k", headers=[("Range", "bytes=-300000")])
    assert tail.body == value[-300_000:]


def test_only_what_is_too_large_for_the_index_is_a_reference(folder: Store) -> None:
    for size, reference in ((256 * 1024, None), (256 * 1024 + 1, "true")):
        folder.put("k", nasty.noise(size))
        assert folder.ask("GET", "k").headers["X-KV-Reference"] == reference
        assert folder.ask("HEAD", "k").headers["X-KV-Reference"] == reference


def test_a_large_value_is_304_and_a_node_of_it_is_found(store: Store) -> None:
    store.put("k", json.dumps({"pad": "x" * MIB, "a": [1, 2]}).encode())
    assert store.ask("GET", "k", headers=[("If-None-Match", '"1"')]).status == 304
    assert store.ask("GET", "k", path="a[1]").body == b"2"
    assert store.ask("GET", "k", path="a[1]", headers=[("If-None-Match", '"1"')]).status == 304
    assert store.ask("GET", "k", path="a[1]", headers=[("If-None-Match", '"2"')]).status == 200


def test_a_value_of_the_default_limit_goes_in_and_out(folder: Store) -> None:
    value = b"x" * (16 * MIB)
    assert folder.put("k", value)["size"] == len(value)
    assert hashlib.sha256(folder.get("k")).digest() == hashlib.sha256(value).digest()
    refused(folder.ask("PUT", "k", body=value + b"x"), 413, "PAYLOAD_TOO_LARGE")
    assert folder.ask("HEAD", "k").headers["ETag"] == '"1"'


def test_a_large_file_that_is_cut_short_while_it_is_sent_breaks_the_connection(folder: Store) -> None:
    """Its length was promised; nothing else must stand in for the rest."""
    size = 16 * MIB
    folder.put("k", b"x" * size)
    with folder.server.connect() as connection:
        connection.send(request("GET", folder.target("k")))
        assert connection.socket.recv(100).startswith(b"HTTP/1.1 200 ")
        os.truncate(folder.folder / "k", 0)
        received = 100
        try:
            while chunk := connection.socket.recv(1 << 16):
                received += len(chunk)
        except ConnectionError:
            pass
        assert received < size
    assert folder.get("k") == b""


# --- conditions on reads -------------------------------------------------------------------------------


KNOWN = ['"2"', 'W/"2"', '"1", "2"', '"x" , W/"2"', "*", ' "2" ', '"1",,"2"']
UNKNOWN = ['"1"', '"22"', '"1", "3"', '""', '"é"', '"02"']


def test_a_known_version_is_304_without_a_body(store: Store) -> None:
    store.put("k", b"old")
    store.put("k", b"value", ttl=1000)
    for header in KNOWN + UNKNOWN:
        status = 304 if header in KNOWN else 200
        answer = store.ask("GET", "k", headers=[("If-None-Match", header)])
        assert (answer.status, answer.body) == (status, b"value" if status == 200 else b""), header
        assert answer.headers["ETag"] == '"2"'
        assert answer.headers["X-Updated-At"]
        assert answer.headers["X-Expire-At"]
        assert store.ask("HEAD", "k", headers=[("If-None-Match", header)]).status == status


def test_a_known_version_is_304_before_any_range(store: Store) -> None:
    store.put("k", VALUE)
    answer = store.ask("GET", "k", headers=[("If-None-Match", '"1"'), ("Range", "bytes=100-")])
    assert answer.status == 304


def test_a_new_version_is_sent_to_who_knows_an_old_one(store: Store) -> None:
    store.put("k", b"1")
    etag = store.ask("GET", "k").headers["ETag"]
    known = [("If-None-Match", etag)]
    assert store.ask("GET", "k", headers=known).status == 304
    store.ask("POST", "k", "expire", ttl=100)
    assert store.ask("GET", "k", headers=known).status == 200
    etag = store.ask("GET", "k").headers["ETag"]
    if store.directory:
        (store.folder / "k").write_bytes(b"2")
        answer = store.ask("GET", "k", headers=[("If-None-Match", etag)])
        assert (answer.status, answer.body) == (200, b"2")


NO_TAGS = ["", "2", '"2', '2"', "'2'", '"2" "3"', '*, "2"', 'w/"2"', '"a"b"', '"2";', ","]


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
def test_a_malformed_condition_is_400(store: Store, name: str) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for header in NO_TAGS:
            for method, action in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "incr")):
                answer = store.ask(method, "k", action, headers=[(name, header)])
                assert name in refused(answer, 400, "INVALID_PARAMETERS")["message"]


# --- conditions on writes ------------------------------------------------------------------------------


CONDITIONS = [
    ("If-Match", '"2"', True),
    ("If-Match", '"1", "2"', True),
    ("If-Match", '"9" ,W/"2", "2"', True),
    ("If-Match", "*", True),
    ("If-Match", '"1"', False),
    ("If-Match", '"1", "3"', False),
    # If-Match compares strongly: a weak tag equals nothing.
    ("If-Match", 'W/"2"', False),
    ("If-Match", '""', False),
    ("If-Match", '"02"', False),
    ("If-None-Match", "*", False),
    ("If-None-Match", '"2"', False),
    ("If-None-Match", 'W/"2"', False),
    ("If-None-Match", '"1", "2"', False),
    ("If-None-Match", '"1"', True),
    ("If-None-Match", '"1", W/"3"', True),
]


@pytest.mark.parametrize(
    ("method", "action", "body", "ttl"),
    [
        ("PUT", "", b"3", None),
        ("POST", "incr", None, None),
        ("POST", "expire", None, 100),
        ("DELETE", "", None, None),
    ],
)
def test_writes_obey_conditional_headers(
    store: Store, method: str, action: str, body: bytes | None, ttl: int | None
) -> None:
    for number, (name, header, holds) in enumerate(CONDITIONS):
        key = str(number)
        store.put(key, b"1")
        store.put(key, b"2")
        answer = store.ask(method, key, action, body=body, ttl=ttl, headers=[(name, header)])
        if holds:
            assert answer.done()["op_number"] == 3
        else:
            assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] == "2"
            assert (store.get(key), store.ask("GET", key).headers["ETag"]) == (b"2", '"2"')


def test_conditions_that_no_key_can_meet_are_400(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        both = [("If-Match", "*"), ("If-None-Match", "*")]
        refused(store.ask("PUT", "k", body=b"2", headers=both), 400, "INVALID_PARAMETERS")


def test_a_condition_that_a_missing_database_cannot_meet_makes_none(store: Store) -> None:
    store.put("k", b"1")
    other = f"{store.home}/other/" if store.directory else str(store.home / "other.db")
    new: dict[str, Any] = {"db": other, "create_db_if_missing": "true"}
    with store.unchanged():
        for body in (b"1", b"1" * MIB):
            for header in ("*", '"1"'):
                answer = store.ask("PUT", "k", body=body, headers=[("If-Match", header)], **new)
                assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] is None
            refused(store.ask("PUT", "k", body=body, if_match="", **new), 412, "CAS_MISMATCH")
        assert not os.path.exists(other)
    made = store.ask("PUT", "k", body=b"1", headers=[("If-None-Match", "*")], **new)
    assert made.done()["created"] is True


def test_a_write_that_nothing_can_come_of_makes_no_database(store: Store) -> None:
    other = f"{store.home}/other/" if store.directory else str(store.home / "other.db")
    new: dict[str, Any] = {"db": other, "create_db_if_missing": "true"}
    refusals = (
        store.ask("PUT", "k", body=b"not JSON", path="a", **new),
        store.ask("PUT", "k", body=b"1", path="tags[-1]", **new),
        store.ask("POST", "k", "incr", delta=str(2**63), **new),
        store.ask("POST", "k", "push", body=b"not JSON", **new),
    )
    for answer in refusals:
        refused(answer, 400, "INVALID_PARAMETERS")
    assert not os.path.exists(other)


def test_conditions_in_several_lines_are_one_list(store: Store) -> None:
    store.put("k", b"1")
    lines = [("If-Match", '"8"'), ("If-Match", '"1"'), ("If-Match", '"9"')]
    assert store.put("k", b"2", headers=lines)["op_number"] == 2
    with store.unchanged():
        refused(store.ask("PUT", "k", body=b"3", headers=lines), 412, "CAS_MISMATCH")


def test_a_missing_key_meets_conditions_as_http_has_them(store: Store) -> None:
    store.put("there", b"1")
    with store.unchanged():
        for header in ("*", '"1"'):
            for method in ("PUT", "DELETE"):
                answer = store.ask(method, "k", headers=[("If-Match", header)])
                assert refused(answer, 412, "CAS_MISMATCH")["current_etag"] is None
    assert store.put("k", b"1", headers=[("If-None-Match", "*")])["created"] is True
    assert store.put("l", b"1", headers=[("If-None-Match", '"1"')])["created"] is True


def test_a_put_says_the_new_etag(store: Store) -> None:
    for number in (1, 2):
        answer = store.ask("PUT", "k", body=b"x")
        assert answer.headers["ETag"] == f'"{number}"'
    assert store.ask("GET", "k").headers["ETag"] == '"2"'


def test_a_value_is_compared_with_if_match_byte_for_byte(store: Store) -> None:
    for value in (b"", b"\xff\xfe\x00", b"a+b c%20d&e=f#g", "ünï".encode(), bytes(range(256))):
        store.put("k", value)
        with store.unchanged():
            for wrong in (value + b"x", b"y", value[:-1] or b"z"):
                answer = store.ask("PUT", "k", body=b"new", if_match=wrong)
                refused(answer, 412, "CAS_MISMATCH", "Value mismatch for CAS")
        store.put("k", b"new", if_match=value)
        assert store.get("k") == b"new"


def test_an_empty_if_match_is_the_empty_value_in_every_spelling(store: Store) -> None:
    store.put("k", b"")
    store.put("full", b"x")
    for query in ("&if_match=", "&if_match"):
        assert store.server.ask("PUT", store.target("k") + query, b"").status == 200
        with store.unchanged():
            refused(store.server.ask("PUT", store.target("full") + query, b""), 412, "CAS_MISMATCH")


def test_raw_bytes_in_if_match_are_refused_and_compared_with_nothing(store: Store) -> None:
    """A target has no bytes beyond ASCII; a value's are to be escaped."""
    store.put("k", b"\xff")
    with store.unchanged():
        target = store.target("k").encode() + b"&if_match=\xff"
        refused(store.server.ask("PUT", target, b"new"), 400, "INVALID_PARAMETERS")
    assert store.server.ask("PUT", store.target("k") + "&if_match=%ff", b"new").status == 200


# --- nothing smuggled in -------------------------------------------------------------------------------

BREAKS = [
    "\r\nX-Evil: 1",
    "\nX-Evil: 1",
    "\rX-Evil: 1",
    "\0",
    "\r\n\r\n<html>",
    "\u2028X-Evil: 1",
    "\x85X-Evil: 1",
]


def _clean(store: Store, key: str) -> None:
    """No answer about the key has a header that we did not write."""
    for method, action in (("GET", ""), ("HEAD", ""), ("GET", "entry")):
        answer = store.ask(method, key, action)
        assert "X-Evil" not in answer.headers, answer.headers
        assert all(value.isprintable() for value in answer.headers.values())


def test_no_key_can_add_a_header(store: Store) -> None:
    for broken in BREAKS:
        key = f"k{broken}"
        if "\0" in key:
            refused(store.ask("PUT", key, body=b"1"), 400, "INVALID_PARAMETERS")
            continue
        store.put(key, b"1")
        _clean(store, key)
        _clean(store, f"missing{broken}")
        assert store.ask("GET", key, "entry").done()["key"] == key


def test_no_content_type_in_a_batch_can_add_a_header(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for broken in BREAKS:
            item = {"key": "k", "value": "2", "content_type": f"text/plain{broken}"}
            body = json.dumps({"items": [item]}).encode()
            refused(store.ask("POST", None, "batch/set", body=body), 400, "INVALID_PARAMETERS")
            _clean(store, "k")


def test_no_content_type_from_sql_can_add_a_header(table: Store) -> None:
    table.put("k", b"1")
    for content_type in (
        *(f"text/plain{broken}" for broken in BREAKS),
        "é/x",
        "",
        " ",
        "no type",
        "x" * 5000,
    ):
        _update_content_type(table, content_type)
        _clean(table, "k")
        assert table.get("k") == b"1"
    # As it was, or the store would not be what its log says.
    _update_content_type(table, JSON)


def _update_content_type(table: Store, content_type: str) -> None:
    with closing(sqlite3.connect(table.db)) as foreign, foreign:
        foreign.execute(f"UPDATE {TABLE} SET content_type = ?", (content_type,))


def test_no_header_of_a_request_can_add_one(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for raw in (b"a/b\r\n X-Evil: 1", b"a/b\rX-Evil: 1", b"a/b\nX-Evil: 1\x00", b"a/b\x00", b"a/b\x1fc"):
            for name in ("Content-Type", "X-Request-Id", "If-Match", "Idempotency-Key"):
                answer = store.server.ask("PUT", store.target("k"), b"2", [(name, raw)])
                assert "X-Evil" not in answer.headers
                assert answer.status == 400


def test_no_name_of_a_file_can_add_a_header(folder: Store) -> None:
    folder.put("k", b"1")
    for broken in ("\r\nX-Evil: 1", "\nX-Evil: 1"):
        name = f"file{broken}.txt"
        (folder.folder / name).write_bytes(b"1")
        _clean(folder, name)


# --- request ids ---------------------------------------------------------------------------------------


def test_a_request_id_is_told_back(store: Store) -> None:
    for given in ("abc", "550e8400-e29b-41d4-a716-446655440000", "x" * 128, "a/b:c=d;e,f", '"<>{}'):
        sent = [("X-Request-Id", given)]
        assert store.ask("PUT", "k", body=b"1", headers=sent).headers["X-Request-Id"] == given
        assert store.ask("GET", "k", headers=sent).headers["X-Request-Id"] == given
        assert refused(store.ask("GET", "missing", headers=sent), 404, "KEY_NOT_FOUND")["request_id"] == given
        assert store.server.ask("GET", "/nothing", headers=sent).json()["request_id"] == given


def test_an_insane_request_id_is_replaced(store: Store) -> None:
    for given in (b"", b" ", b"a b", b"x" * 129, b"a\tb", b"\xff", "é".encode(), b"caf\xe9", b"x" * 8_000):
        answer = store.ask("GET", "missing", headers=[("X-Request-Id", given)])
        used = refused(answer, 404, "KEY_NOT_FOUND")["request_id"]
        assert 0 < len(used) <= 128
        assert used.isascii()
        assert used.encode() != given


def test_every_request_without_an_id_gets_one_of_its_own(store: Store) -> None:
    ids = {store.ask("GET", "k").headers["X-Request-Id"] for _ in range(50)}
    assert len(ids) == 50


# --- binary values in JSON -----------------------------------------------------------------------------


def _shown(store: Store, key: str) -> list[dict[str, str]]:
    """The value in each JSON answer that has it."""
    entry = store.ask("GET", key, "entry").done()
    listed = store.ask("GET", values="true").done()["items"][0]
    got = store.ask("POST", None, "batch/get", body=json.dumps({"keys": [key]}).encode()).done()
    return [entry, listed, got["results"][key]]


def test_binary_values_are_base64_in_json(store: Store) -> None:
    for value in (b"\xff\x00\xfe", bytes(range(256)), b"\xed\xa0\x80", "é".encode("latin-1")):
        store.put("k", value)
        for form in _shown(store, "k"):
            assert form["encoding"] == "base64"
            assert base64.b64decode(form["value"], validate=True) == value


def test_text_is_itself_in_json(store: Store) -> None:
    for value in ("", "text", "a\0b", "\ufeff", "😀\u2028", '"\\\n', "</script>"):
        store.put("k", value.encode())
        for form in _shown(store, "k"):
            assert (form["encoding"], form["value"]) == ("utf-8", value)


def test_keys_come_back_as_they_were_sent(store: Store) -> None:
    for key in ("é", "\u2028", '"\\', "\x01\x7f", "😀", "</script>"):
        assert store.put(key, b"1")["key"] == key
        assert store.ask("GET", key, "entry").done()["key"] == key


def test_large_values_reach_slow_readers_whole_whoever_else_leaves(store: Store) -> None:
    values = {f"k{number}": nasty.noise(3 * MIB, number) for number in range(4)}
    for key, value in values.items():
        store.put(key, value)
    with ExitStack() as opened:
        slow = {key: opened.enter_context(store.server.connect()) for key in values}
        for connection in slow.values():
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        for _ in range(3):
            for key, connection in slow.items():
                connection.send(request("GET", store.target(key)))
                # Connections that come and go have their descriptors in between.
                with store.server.connect() as leaving:
                    leaving.send(request("GET", store.target("k0")))
                    leaving.socket.recv(1000)
            for key, connection in slow.items():
                assert connection.answer().body == values[key]
