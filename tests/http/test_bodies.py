"""Bodies on their way in: limits, encodings, clients that break off, many requests on one connection."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests import nasty
from tests.http.conftest import MAX_VALUE_BYTES
from tests.http.launching import Server
from tests.http.locking import locked
from tests.http.stores import Store
from tests.http.wire import BASE, JSON, Answer, Connection, chunked, refused, request, target_of
from tests.polling import eventually

MIB = 1 << 20
CHUNKED = [("Transfer-Encoding", "chunked")]
END = b"0\r\n\r\n"
EXPECTING = [("Expect", "100-continue")]


def _head(store: Store, key: str, headers: list[tuple[str, str]], **params: object) -> bytes:
    """The head of a PUT."""
    return request("PUT", store.target(key, **params), None, headers)


def _declaring(store: Store, key: str, size: int, *headers: tuple[str, str]) -> bytes:
    return _head(store, key, [("Content-Length", str(size)), *headers])


# --- uploads -------------------------------------------------------------------------------------------


SIZES = [0, 1, 65_536, 262_144, 262_145, 300 * 1024, 5 * MIB]


def test_an_upload_is_stored_byte_for_byte(store: Store) -> None:
    for number, size in enumerate(SIZES, 1):
        value = nasty.noise(size, number)
        answer = store.put("k", value)
        assert (answer["size"], answer["op_number"]) == (size, number)
        assert store.get("k") == value
        if store.directory:
            assert (store.folder / "k").read_bytes() == value


CHUNKS = [[], [1], [1] * 500, [262_144, 1], [65_536] * 5, [700_001, 3, 1_000_000]]


def test_a_chunked_upload_is_stored_byte_for_byte(store: Store) -> None:
    with store.server.connect() as connection:
        for sizes in CHUNKS:
            chunks = [nasty.noise(size, seed) for seed, size in enumerate(sizes)]
            connection.send(_head(store, "k", CHUNKED) + chunked(*chunks))
            assert connection.answer().done()["size"] == sum(sizes)
            assert connection.ask("GET", store.target("k")).body == b"".join(chunks)


def test_chunks_may_have_extensions_and_trailers(store: Store) -> None:
    with store.server.connect() as connection:
        connection.send(_head(store, "k", CHUNKED))
        connection.send(b'3;name="value"\r\nabc\r\n02\r\nde\r\n0\r\nX-Trailer: yes\r\n\r\n')
        assert connection.answer().done()["size"] == 5
        assert connection.ask("GET", store.target("k")).body == b"abcde"


def test_a_body_may_come_in_the_smallest_pieces(store: Store) -> None:
    with store.server.connect() as connection:
        for piece in request("PUT", store.target("k"), b"slowly"):
            connection.send(bytes([piece]))
        assert connection.answer().done()["size"] == 6
    assert store.get("k") == b"slowly"


def test_a_put_without_a_body_stores_the_empty_value(store: Store) -> None:
    store.put("k", b"something")
    for answer in (store.ask("PUT", "k"), store.ask("PUT", "l", headers=[("Content-Length", "0")])):
        assert answer.done()["size"] == 0
    assert (store.get("k"), store.get("l")) == (b"", b"")


# --- limits --------------------------------------------------------------------------------------------


def test_a_body_declared_too_long_is_413_before_any_of_it_is_sent(limited_store: Store) -> None:
    store = limited_store
    store.put("k", b"1")
    with store.unchanged():
        for size in (MAX_VALUE_BYTES + 1, 10 * MIB, 10**12):
            with store.server.connect() as connection:
                connection.send(_declaring(store, "k", size))
                refused(connection.answer(), 413, "PAYLOAD_TOO_LARGE")


def test_who_sends_a_body_too_long_all_the_same_gets_the_answer(limited_store: Store) -> None:
    """And no reset, which would throw away an answer that is on its way."""
    store = limited_store
    with store.unchanged():
        for size in (MAX_VALUE_BYTES + 1, 2 * MIB, 8 * MIB):
            for _ in range(3):
                with store.server.connect() as connection:
                    refused(connection.ask("PUT", store.target("k"), b"x" * size), 413, "PAYLOAD_TOO_LARGE")


def test_a_chunked_body_is_413_as_soon_as_it_is_too_long(limited_store: Store) -> None:
    store = limited_store
    store.put("k", b"1")
    with store.unchanged():
        for sizes in ([MAX_VALUE_BYTES + 1], [200_000, 100_001], [1000] * 301, [100] * 3001):
            with store.server.connect() as connection:
                # Without its end: nobody could wait for it.
                body = chunked(*(b"x" * size for size in sizes)).removesuffix(END)
                connection.send(_head(store, "k", CHUNKED) + body)
                refused(connection.answer(), 413, "PAYLOAD_TOO_LARGE")
        with store.server.connect() as connection:
            connection.send(_head(store, "k", CHUNKED) + chunked(b"x" * 270_000).removesuffix(END))
            # Let it come to the file.
            store.ask("GET", "k")
            connection.send(chunked(b"x" * 40_000).removesuffix(END))
            refused(connection.answer(), 413, "PAYLOAD_TOO_LARGE")


def test_a_body_of_exactly_the_limit_is_stored(limited_store: Store) -> None:
    store = limited_store
    value = nasty.noise(MAX_VALUE_BYTES)
    assert store.put("k", value)["size"] == MAX_VALUE_BYTES
    assert store.get("k") == value
    with store.server.connect() as connection:
        connection.send(_head(store, "l", CHUNKED) + chunked(value[:150_000], value[150_000:]))
        assert connection.answer().done()["size"] == MAX_VALUE_BYTES
    assert store.get("l") == value


def test_the_elements_of_arrays_have_the_same_limit(limited_store: Store) -> None:
    limited_store.put("k", b"[]")
    with limited_store.unchanged():
        for action in ("push", "remove"):
            body = b'"' + b"x" * MAX_VALUE_BYTES + b'"'
            refused(limited_store.ask("POST", "k", action, body=body), 413, "PAYLOAD_TOO_LARGE")


def test_a_batch_over_all_limits_is_413(limited_store: Store) -> None:
    limited_store.put("k", b"1")
    with limited_store.unchanged():
        item = b'{"items": [{"key": "k", "value": "%s"}]}' % (b"x" * (MAX_VALUE_BYTES + 1))
        refused(limited_store.ask("POST", None, "batch/set", body=item), 413, "PAYLOAD_TOO_LARGE")
        for action in ("batch/set", "batch/get", "batch/delete"):
            with limited_store.server.connect() as connection:
                head = [("Content-Length", str(100 * MIB))]
                connection.send(request("POST", limited_store.target(None, action), None, head))
                refused(connection.answer(), 413, "PAYLOAD_TOO_LARGE")


# --- Expect: 100-continue ------------------------------------------------------------------------------


def test_a_client_that_asks_first_is_told_to_go_on(limited_store: Store) -> None:
    store = limited_store
    with store.server.connect() as connection:
        for expect, size in (
            *(("100-continue", 5), ("100-Continue", 5), ("100-continue", 200_000)),
            ("100-continue", MAX_VALUE_BYTES),
        ):
            value = nasty.noise(size)
            connection.send(_declaring(store, "k", size, ("Expect", expect)))
            assert connection.answer().status == 100
            connection.send(value)
            assert connection.answer().done()["size"] == size
            assert connection.ask("GET", store.target("k")).body == value


def test_a_client_that_asks_first_may_send_chunks_too(store: Store) -> None:
    with store.server.connect() as connection:
        connection.send(_head(store, "k", [*CHUNKED, *EXPECTING]))
        assert connection.answer().status == 100
        connection.send(chunked(b"abc", b"def"))
        assert connection.answer().done()["size"] == 6


def test_a_client_that_asks_first_and_does_not_wait_gets_its_answer(store: Store) -> None:
    with store.server.connect() as connection:
        connection.send(_declaring(store, "k", 3, *EXPECTING) + b"abc")
        answer = connection.answer()
        if answer.status == 100:
            answer = connection.answer()
        assert answer.done()["size"] == 3


def test_a_client_that_asks_first_is_refused_without_being_told_to_go_on(limited_store: Store) -> None:
    store = limited_store
    store.put("k", b"1")
    with store.unchanged():
        for head, status, code in (
            (_declaring(store, "k", MAX_VALUE_BYTES + 1, *EXPECTING), 413, "PAYLOAD_TOO_LARGE"),
            (_declaring(store, "k", 5, ("Content-Encoding", "gzip"), *EXPECTING), 400, "INVALID_PARAMETERS"),
            (_declaring(store, "k" * 1025, 5, *EXPECTING), 413, "PAYLOAD_TOO_LARGE"),
            (_head(store, "k", [("Content-Length", "5"), *EXPECTING], ttl="x"), 400, "INVALID_PARAMETERS"),
            (
                request("POST", store.target("k"), None, [("Content-Length", "5"), *EXPECTING]),
                405,
                "METHOD_NOT_ALLOWED",
            ),
        ):
            with store.server.connect() as connection:
                connection.send(head)
                refused(connection.answer(), status, code)
                # The body may or may not come: nobody could tell it from another request.
                assert connection.at_end()


def test_a_client_of_http_1_0_is_not_told_to_go_on(store: Store) -> None:
    head = request("PUT", store.target("k"), b"abc", EXPECTING, version="HTTP/1.0")
    with store.server.connect() as connection:
        connection.send(head)
        assert connection.answer().done()["size"] == 3


# --- encodings -----------------------------------------------------------------------------------------


def test_an_encoded_body_is_400(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for encoding in ("gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip", "nonsense"):
            headers = [("Content-Encoding", encoding)]
            for body in (b"2", b"2" * 300_000):
                refused(store.ask("PUT", "k", body=body, headers=headers), 400, "INVALID_PARAMETERS")
            batch = store.ask("POST", None, "batch/set", body=b'{"items": []}', headers=headers)
            refused(batch, 400, "INVALID_PARAMETERS")


def test_a_body_that_is_encoded_as_it_is_is_stored(store: Store) -> None:
    assert store.put("k", b"1", headers=[("Content-Encoding", "identity")])["size"] == 1


TRANSFERS = ["gzip, chunked", "gzip", "identity", "chunked, gzip", "chunked, chunked", "x"]


def test_an_encoding_of_the_transfer_that_is_not_undone_is_400(store: Store) -> None:
    """Else what is stored would not be the body."""
    store.put("k", b"1")
    with store.unchanged():
        for encoding in TRANSFERS:
            with store.server.connect() as connection:
                connection.send(_head(store, "k", [("Transfer-Encoding", encoding)]) + chunked(b"abc"))
                refused(connection.answer(), 400, "INVALID_PARAMETERS")


NO_CHUNKS = [
    *(b"xyz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\nabc\r\n", b"\r\nabc\r\n"),
    *(b"3 \nabc", b"0x3\r\nabc\r\n0\r\n\r\n", b"F" * 30 + b"\r\n"),
]


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("before", [[], [1], [290_000]])
def test_malformed_chunks_are_400(limited_store: Store, before: list[int], pause: bool) -> None:
    """Also when some good ones have come before, and are being read already."""
    store = limited_store
    store.put("k", b"1")
    good = chunked(*(b"x" * size for size in before)).removesuffix(END)
    with store.unchanged():
        for body in NO_CHUNKS:
            with store.server.connect() as connection:
                connection.send(_head(store, "k", CHUNKED) + good)
                if pause:
                    # By the time of an answer on another connection this one is being read.
                    store.ask("GET", "k")
                connection.send(body)
                refused(connection.answer(), 400, "INVALID_PARAMETERS")
                assert connection.at_end()


NO_LENGTHS = [
    [("Content-Length", "abc")],
    [("Content-Length", "-1")],
    [("Content-Length", "+3")],
    [("Content-Length", "3.0")],
    [("Content-Length", "0x3")],
    [("Content-Length", "9" * 30)],
    [("Content-Length", "3, 3")],
    [("Content-Length", "3"), ("Content-Length", "4")],
    [("Content-Length", "3"), *CHUNKED],
    [*CHUNKED, ("Content-Length", "3")],
]


def test_a_length_that_is_none_or_two_is_400(store: Store) -> None:
    store.put("k", b"1")
    with store.unchanged():
        for headers in NO_LENGTHS:
            with store.server.connect() as connection:
                connection.send(_head(store, "k", headers) + chunked(b"abc"))
                refused(connection.answer(), 400, "INVALID_PARAMETERS")
                assert connection.at_end()


# --- clients that break off ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
@pytest.mark.parametrize("size", [1000, 200_000, 3 * MIB])
def test_a_client_that_breaks_off_leaves_nothing(store: Store, server: Server, how: str, size: int) -> None:
    store.put("k", b"1")
    heads = [
        _declaring(store, "k", size),
        _declaring(store, "new", size),
        _head(store, "k", CHUNKED) + b"%x\r\n" % size,
        request("POST", store.target("k", "push"), None, [("Content-Length", str(size))]),
        request("POST", store.target(None, "batch/set"), None, [("Content-Length", str(size))]),
    ]
    with store.unchanged(), server.nothing_left_open():
        for head in heads:
            connection = server.connect()
            connection.send(head + b"x" * (size // 2))
            if size > 200_000:
                # Let it come to the file.
                store.ask("GET", "k")
            if how == "reset":
                connection.reset()
                continue
            if how == "half-close":
                connection.socket.shutdown(socket.SHUT_WR)
                assert connection.at_end()
            connection.close()
    assert store.put("k", b"2")["op_number"] == 2


def test_an_upload_that_fails_makes_no_store(table: Store, folder: Store) -> None:
    """A table comes into being with its first write, and this is none."""
    new: dict[str, Any] = {"table": "not_there_yet", "create_db_if_missing": "true"}
    table.put("k", b"1")
    folder.put("k", b"1")
    with table.unchanged(), folder.unchanged(), ExitStack() as stack:
        late = []
        for store, size in itertools.product((table, folder), (1000, 3 * MIB)):
            body = b"x" * size
            refused(store.ask("PUT", "k", body=body, if_match="other", **new), 412, "CAS_MISMATCH")
            typed = store.ask("PUT", "k", body=body, headers=[("Content-Type", "x")], **new)
            refused(typed, 400, "INVALID_PARAMETERS")
            late.append(stack.enter_context(store.server.connect()))
            late[-1].send(request("PUT", store.target("k", timeout=1, **new), body)[: -size // 2])
        for connection in late:
            refused(connection.answer(), 503, "DEADLINE_EXCEEDED")


def test_a_client_that_does_not_take_its_answer_leaves_nothing_open(store: Store, server: Server) -> None:
    store.put("large", nasty.noise(3 * MIB))
    with server.nothing_left_open():
        for target in (store.target("large"), store.target("large", "entry"), store.target(values="true")):
            connection = server.connect()
            connection.send(request("GET", target) * 3)
            assert connection.socket.recv(1) == b"H"
            connection.reset()
    assert len(store.get("large")) == 3 * MIB


def test_no_answer_about_a_large_value_leaves_it_open(store: Store, server: Server) -> None:
    store.put("large", b"[" + b"1," * MIB + b"1]")
    with server.nothing_left_open():
        for method, action, headers, params, status in (
            ("GET", "", [], {}, 200),
            ("HEAD", "", [], {}, 200),
            ("GET", "", [("Range", "bytes=5-6")], {}, 206),
            ("GET", "", [("Range", f"bytes={9 * MIB}-")], {}, 416),
            ("GET", "", [("If-None-Match", '"1"')], {}, 304),
            ("GET", "", [("If-Match", '"2"')], {}, 412),
            ("GET", "", [("If-Match", "malformed")], {}, 400),
            ("GET", "", [], {"path": "[0]"}, 200),
            ("GET", "", [], {"path": "nowhere"}, 404),
            ("GET", "", [], {"path": "..["}, 400),
            ("GET", "", [], {"at_timestamp": "9999999999"}, 200),
            ("GET", "entry", [], {}, 200),
        ):
            answer = server.ask(method, store.target("large", action, **params), None, headers)
            assert answer.status == status, answer
        body = b"x" * (2 * MIB)
        for headers, params, status in (
            ([("Content-Type", "nonsense")], {}, 400),
            ([("If-Match", '"9"')], {}, 412),
            ([], {"if_match": "other"}, 412),
            ([], {"path": "a"}, 400),
            ([], {"ttl": "9" * 15}, 400),
            ([("Idempotency-Key", "once")], {}, 200),
            ([("Idempotency-Key", "once")], {}, 200),
            ([("Idempotency-Key", "once")], {"ttl": "5"}, 422),
            ([], {}, 200),
        ):
            answer = server.ask("PUT", store.target("other", **params), body, headers)
            assert answer.status == status, answer


# --- batches that are no batches -----------------------------------------------------------------------

NO_JSON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"\xff",
    b"{}",
    b"{'items': []}",
    b'{"items": [],}',
    b"NaN",
]


NO_ITEMS = [
    *NO_JSON,
    b'{"items": null}',
    b'{"items": {}}',
    b'{"items": "x"}',
    b'{"items": [1]}',
    b'{"items": [[]]}',
    b'{"items": [null]}',
    b'{"items": [{}]}',
    b'{"items": [{"value": "x"}]}',
    b'{"items": [{"key": "n"}]}',
    b'{"items": [{"key": "n", "value": null}]}',
    b'{"items": [{"key": "n", "value": 1}]}',
    b'{"items": [{"key": "n", "value": true}]}',
    b'{"items": [{"key": "n", "value": {"a": 1}}]}',
    b'{"items": [{"key": "n", "value": ["x"]}]}',
    b'{"items": [{"key": 1, "value": "x"}]}',
    b'{"items": [{"key": null, "value": "x"}]}',
    b'{"items": [{"key": "n", "value": "x"}, {"key": "m", "value": 1}]}',
    b'{"items": [{"key": "n", "value": "x", "content_type": 1}]}',
    b'{"items": [{"key": "n", "value": "x", "if_match": 1}]}',
    b'{"items": [{"key": "n", "value": "x", "if_none_match": true}]}',
    b'{"items": [{"key": "n", "value": "\\ud800"}]}',
    b'{"keys": ["n"]}',
]


def test_a_batch_set_that_is_none_is_400(table: Store) -> None:
    table.put("k", b"1")
    with table.unchanged():
        for body in NO_ITEMS:
            answer = table.ask("POST", None, "batch/set", body=body, headers=[("Content-Type", JSON)])
            message = refused(answer, 400, "INVALID_PARAMETERS")["message"]
            assert message.startswith("Invalid JSON body"), body


MALFORMED: list[dict[str, object]] = [
    {"ttl": -1},
    {"ttl": 1.5},
    {"ttl": "5"},
    {"ttl": True},
    {"ttl": 10**15},
    {"ttl": [5]},
    {"if_none_match": "1"},
    {"if_match": "1", "if_none_match": "*"},
    {"content_type": ""},
    {"content_type": "nonsense"},
    {"key": ""},
    {"key": "a\0b"},
    {"encoding": "utf-16"},
    {"encoding": "base64", "value": "***"},
]


def test_a_batch_set_with_a_malformed_item_is_400(table: Store) -> None:
    table.put("k", b"1")
    with table.unchanged():
        for item in MALFORMED:
            items = [{"key": "n", "value": "x"}, {"key": "m", "value": "x", **item}]
            answer = table.ask("POST", None, "batch/set", body=json.dumps({"items": items}).encode())
            refused(answer, 400, "INVALID_PARAMETERS")


NO_KEYS = [
    *(*NO_JSON, b'{"keys": null}', b'{"keys": "k"}', b'{"keys": {"k": 1}}', b'{"keys": [1]}'),
    *(b'{"keys": ["k", null]}', b'{"keys": [["k"]]}', b'{"items": ["k"]}', b'["k"]'),
]


@pytest.mark.parametrize("action", ["batch/get", "batch/delete"])
def test_keys_that_are_none_are_400(table: Store, action: str) -> None:
    table.put("k", b"1")
    with table.unchanged():
        for body in NO_KEYS:
            message = refused(table.ask("POST", None, action, body=body), 400, "INVALID_PARAMETERS")[
                "message"
            ]
            assert message.startswith("Invalid JSON body"), body


@pytest.mark.parametrize("key", ["", "a\\u0000b", "x" * 1025])
def test_keys_of_a_batch_obey_the_rules_of_keys(table: Store, key: str) -> None:
    table.put("k", b"1")
    status, code = (413, "PAYLOAD_TOO_LARGE") if len(key) > 1024 else (400, "INVALID_PARAMETERS")
    with table.unchanged():
        for action, body in (
            ("batch/set", f'{{"items": [{{"key": "k", "value": "2"}}, {{"key": "{key}", "value": "2"}}]}}'),
            ("batch/get", f'{{"keys": ["k", "{key}"]}}'),
            ("batch/delete", f'{{"keys": ["k", "{key}"]}}'),
        ):
            refused(table.ask("POST", None, action, body=body.encode()), status, code)


# --- many requests on a connection ---------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(store: Store) -> None:
    large = nasty.noise(400_000)
    asked = [
        request("PUT", store.target("k"), b"1"),
        request("GET", store.target("k")),
        request("POST", store.target("k", "incr", delta=41)),
        request("GET", store.target("missing")),
        request("PUT", store.target("large"), large),
        request("GET", store.target("k")),
        request("GET", store.target("large")),
        _head(store, "k", CHUNKED) + chunked(b"ch", b"unks"),
        request("GET", store.target("k", "entry")),
        request("DELETE", store.target("k")),
        request("GET", store.target("k")),
    ]
    with store.server.connect() as connection:
        connection.send(b"".join(asked))
        answers = [connection.answer() for _ in asked]
    assert [answer.status for answer in answers] == [200, 200, 200, 404, 200, 200, 200, 200, 200, 200, 404]
    assert (answers[1].body, answers[5].body) == (b"1", b"42")
    assert hashlib.sha256(answers[6].body).digest() == hashlib.sha256(large).digest()
    assert answers[8].json()["value"] == "chunks"


def test_many_pipelined_requests_are_answered_in_order(store: Store) -> None:
    with store.server.connect() as connection:
        connection.send(b"".join(request("POST", store.target("n", "incr")) for _ in range(200)))
        assert [connection.answer().done()["value"] for _ in range(200)] == [*range(1, 201)]


def test_a_connection_is_kept_until_the_client_wants_no_more(store: Store) -> None:
    with store.server.connect() as connection:
        for number in range(20):
            answer = connection.ask("PUT", store.target("k"), str(number).encode())
            assert (answer.status, answer.headers["Connection"]) == (200, None)
        answer = connection.ask("GET", store.target("k"), headers=[("Connection", "close")])
        assert (answer.body, answer.headers["Connection"]) == (b"19", "close")
        assert connection.at_end()


def test_a_large_answer_ends_the_connection_too_if_the_client_wants_that(folder: Store) -> None:
    value = nasty.noise(MIB)
    folder.put("k", value)
    for headers, version in (([("Connection", "close")], "HTTP/1.1"), ([], "HTTP/1.0")):
        with folder.server.connect() as connection:
            connection.send(request("GET", folder.target("k"), None, headers, version=version))
            answer = connection.answer()
            assert (answer.body, answer.headers["Connection"]) == (value, "close")
            assert connection.at_end()


def test_http_1_0_closes_unless_it_asks_for_more(store: Store) -> None:
    store.put("k", b"1")
    with store.server.connect() as connection:
        connection.send(request("GET", store.target("k"), version="HTTP/1.0"))
        answer = connection.answer()
        assert (answer.body, answer.headers["Connection"]) == (b"1", "close")
        assert connection.at_end()
    with store.server.connect() as connection:
        for body in (b"2", b"3"):
            keep = [("Connection", "keep-alive")]
            connection.send(request("PUT", store.target("k"), body, keep, version="HTTP/1.0"))
            answer = connection.answer()
            assert (answer.status, answer.headers["Connection"]) == (200, "keep-alive")
    assert store.get("k") == b"3"


def test_a_body_that_nobody_asked_for_is_passed_over(store: Store) -> None:
    store.put("k", b"1")
    with store.server.connect() as connection:
        for size in (1, 1000, 200_000):
            body = b"GET / HTTP/1.1\r\n\r\n" * (size // 18 + 1)
            assert connection.ask("GET", store.target("k"), body).body == b"1"
            assert connection.ask("POST", store.target("n", "incr"), body).status == 200
            refused(connection.ask("DELETE", store.target("none"), body), 404, "KEY_NOT_FOUND")
    with store.server.connect() as connection:
        assert connection.ask("GET", store.target("k"), b"x" * (5 * MIB)).body == b"1"


# --- what is no HTTP -----------------------------------------------------------------------------------


NO_HTTP = [
    b"garbage\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTPP/1.1\r\n\r\n",
    b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GE T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nBad name: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"\x00" * 100,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xff\xfe" * 50 + b"\r\n\r\n",
]


def test_what_is_no_http_is_400_in_our_form_and_the_end(server: Server) -> None:
    for data in NO_HTTP:
        with server.connect() as connection:
            connection.send(data)
            answer = connection.answer()
            refused(answer, 400, "INVALID_PARAMETERS")
            assert answer.headers["Connection"] == "close"
            assert connection.at_end()


def test_a_body_that_breaks_after_its_answer_ends_the_connection(store: Store) -> None:
    """The next request could not be told from it."""
    store.put("k", b"1")
    with store.unchanged(), store.server.connect() as connection:
        connection.send(_head(store, "k", CHUNKED, ttl="x") + b"3\r\nabc\r\n")
        refused(connection.answer(), 400, "INVALID_PARAMETERS")
        connection.send(b"no chunk\r\n" + request("PUT", store.target("k"), b"smuggled"))
        assert b" 200 " not in connection.rest()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /api/v1/sqlite/health?" + b"x" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/sqlite/health HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"GET /api/v1/sqlite/health HTTP/1.1\r\nHost: x\r\n" + b"x" * 300_000 + b": x\r\n\r\n",
    ],
)
def test_a_head_that_is_too_long_is_413_in_our_form(server: Server, data: bytes) -> None:
    with server.connect() as connection:
        connection.send(data)
        refused(connection.answer(), 413, "PAYLOAD_TOO_LARGE")


def test_too_many_headers_are_an_error_in_our_form(server: Server) -> None:
    lines = b"".join(b"X-%d: x\r\n" % number for number in range(50_000))
    with server.connect() as connection:
        connection.send(b"GET /api/v1/sqlite/health HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")
        answer = connection.answer()
        assert answer.status in (400, 413)
        refused(answer, answer.status, answer.json()["code"])


def test_a_request_before_garbage_is_answered_first(store: Store) -> None:
    store.put("k", b"1")
    with store.server.connect() as connection:
        connection.send(request("GET", store.target("k")))
        assert connection.answer().body == b"1"
        connection.send(b"garbage\r\n\r\n")
        refused(connection.answer(), 400, "INVALID_PARAMETERS")
        assert connection.at_end()


def test_garbage_behind_a_whole_request_does_not_spoil_it(server: Server, tmp_path: Path) -> None:
    """The request waits for its database to be opened when the garbage comes."""
    db = tmp_path / "foreign.db"
    with closing(sqlite3.connect(db)) as foreign:
        foreign.execute("CREATE TABLE t (x)")
    with server.connect() as connection:
        with locked(db, "BEGIN EXCLUSIVE"):
            connection.send(request("PUT", target_of(f"{BASE}/kv/k", db=db), b"whole"))
            # By the time of this answer the other request is under way.
            assert server.ask("GET", f"{BASE}/health").status == 200
            connection.send(b"garbage\r\n\r\n")
            assert server.ask("GET", f"{BASE}/health").status == 200
        assert connection.answer().done()["size"] == 5
        refused(connection.answer(), 400, "INVALID_PARAMETERS")
    assert server.ask("GET", target_of(f"{BASE}/kv/k", db=db)).body == b"whole"


def test_other_clients_are_served_while_some_send_nothing(server: Server, store: Store) -> None:
    idle: list[Connection] = []
    try:
        for beginning in (b"", b"GET", b"GET / HTTP/1.1\r\n", _declaring(store, "k", 100)):
            for _ in range(10):
                connection = server.connect()
                idle.append(connection)
                connection.send(beginning)
        answers: list[Answer] = [store.ask("PUT", "k", body=b"1") for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
    finally:
        for connection in idle:
            connection.close()
    eventually(lambda: store.ask("GET", "k").status == 200, 5, "it is still there")
