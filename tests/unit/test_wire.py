"""The wire forms: what answers say, and what their headers say."""

from __future__ import annotations

import orjson
import pytest

from kvfs import errors
from kvfs.cursor import Cursor
from kvfs.listing import Page, Query
from kvfs.model import NS, Entry, Outcome, WriteResult
from kvfs.timetravel import PastKeys
from server import errors as http_errors
from server import schemas, wire
from server.errors import MEANINGS, MethodNotAllowed, RangeNotSatisfiable, error_reply
from server.reply import Reply

ENTRY = Entry("k", b"v", 1, "text/plain", 100, 200, 300 * NS + 5, 7, b"\x01\x02")


def said(reply: Reply) -> dict[str, object]:
    body: dict[str, object] = orjson.loads(reply.body)
    return body


def fields(schema: schemas.Schema) -> set[str]:
    return set(schema["required"])


def test_the_headers_of_a_value() -> None:
    lines = wire.value_headers(ENTRY, reference=True, directory=True).split("\r\n")
    assert lines == [
        'ETag: "7"',
        "Accept-Ranges: bytes",
        "X-Created-At: 100",
        "X-Updated-At: 200",
        "X-Expire-At: 300",
        "X-Content-Type-Options: nosniff",
        "X-KV-Reference: true",
        "X-Directory-Mode: true",
        "X-File-Hash: 0102",
        "",
    ]


def test_a_row_says_only_what_is_true_of_it() -> None:
    lines = wire.value_headers(Entry("k", b"v", 1, "text/plain", 100, 200, None, 7))
    for name in ("X-Expire-At", "X-KV-Reference", "X-Directory-Mode", "X-File-Hash"):
        assert name not in lines


@pytest.mark.parametrize("stored", ["a/b\r\nX-Evil: 1", "a/b\n", "", "text", "a/b\0", "a/bé", "a/\x7f"])
def test_a_content_type_that_sql_made_cannot_break_out_of_its_header(stored: str) -> None:
    assert wire.content_type_header(stored) == "application/octet-stream"


def test_other_content_types_stand_as_they_are() -> None:
    assert wire.content_type_header("text/plain; charset=utf-8") == "text/plain; charset=utf-8"


def test_an_entry_has_its_fields() -> None:
    form = wire.entry_form(ENTRY)
    assert set(form) == fields(schemas.ENTRY)
    assert (form["value"], form["etag"], form["expire_at"]) == ("v", "7", 300)


def test_each_write_has_its_fields() -> None:
    result = WriteResult("k", 3)
    forms = [
        (wire.set_form, schemas.SET),
        (wire.delete_form, schemas.DELETE),
        (wire.incr_form, schemas.INCR),
        (wire.push_form, schemas.PUSH),
        (wire.pop_form, schemas.POP),
        (wire.remove_form, schemas.REMOVE),
        (wire.ttl_form, schemas.TTL),
    ]
    for form, schema in forms:
        assert set(form(result)) == fields(schema), form


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 0.1, 1e22, -0.0, 5e-324])
def test_numbers_are_exact(number: float) -> None:
    reply = wire.json_reply(wire.incr_form(WriteResult("k", 1, number=number, previous=None)))
    value = said(reply)["value"]
    assert value == number
    assert type(value) is type(number)


def test_a_popped_element_keeps_its_exact_text() -> None:
    node = '{"b":1.00,"a":123456789012345678901234567890,"b":2}'
    reply = wire.json_reply(wire.pop_form(WriteResult("k", 1, node=node, length=0)))
    assert f'"value":{node},'.encode() in reply.body


def test_an_empty_array_pops_nothing() -> None:
    form = wire.pop_form(WriteResult("k", 1, changed=False, length=0))
    assert (form["value"], form["popped"], form["length"]) == (None, False, 0)


def test_an_earlier_answer_says_that_it_is_one() -> None:
    results = (WriteResult("k", 1),)
    assert wire.write_reply({}, Outcome(results)).lines == ""
    assert wire.write_reply({}, Outcome(results, replayed=True), "A: b\r\n").lines == (
        "A: b\r\nIdempotent-Replayed: true\r\n"
    )


def test_a_page_has_its_fields() -> None:
    page = Page((ENTRY,), (), has_more=False, last="k", total=None, cursor=Cursor("c", 9))
    form = wire.page_form(page, Query())
    assert set(form) == fields(schemas.PAGE)
    assert (form["keys"], form["count"], form["next_cursor"], form["next_after"]) == (["k"], 1, None, None)
    assert set(form["items"][0]) == {*fields(schemas.PAGE["properties"]["items"]["items"])}


def test_a_page_that_is_not_the_last_says_how_to_go_on() -> None:
    page = Page((ENTRY,), ("k/", "l/"), has_more=True, last="l/", total=12, cursor=Cursor("c", 9))
    form = wire.page_form(page, Query(offset=5, limit=3, delimiter="/", values=True))
    assert (form["next_cursor"], form["next_after"], form["total"]) == ("8", "l/", 12)
    assert (form["prefixes"], form["count"], form["items"][0]["value"]) == (("k/", "l/"), 3, "v")


def test_past_keys_have_their_fields() -> None:
    past = PastKeys(("a",), ("b",), candidate_truncated=True)
    form = wire.past_form(past, ts_ns=5 * NS - 1, prefix="", limit=100)
    assert set(form) == fields(schemas.PAST_KEYS)
    assert (form["has_gaps"], form["gap_keys"], form["at_timestamp"]) == (True, ("b",), 4)


def test_batches_have_their_fields() -> None:
    outcome = Outcome((WriteResult("a", 1, created=True), WriteResult("b", 2)))
    assert wire.batch_set_form(outcome) == {
        "success": True,
        "count": 2,
        "results": [
            {"key": "a", "created": True, "op_number": 1},
            {"key": "b", "created": False, "op_number": 2},
        ],
    }
    assert wire.batch_delete_form(outcome) == {"success": True, "deleted": 2}
    got = wire.batch_get_form({"a": ENTRY, "b": None})
    assert (got["count"], got["results"]["b"], "key" in got["results"]["a"]) == (1, None, False)


# --- errors --------------------------------------------------------------------------------------------


def concrete(kind: type[errors.KvfsError]) -> list[type[errors.KvfsError]]:
    """Those that a server can answer with; what a client makes of no answer is none."""
    if kind.__module__.startswith("kvfs.client."):
        return []
    below = [found for each in kind.__subclasses__() for found in concrete(each)]
    return [*below, kind] if "code" in vars(kind) else below


@pytest.mark.parametrize("kind", concrete(errors.KvfsError))
def test_each_error_has_a_status_and_a_resolution(kind: type[errors.KvfsError]) -> None:
    meaning = MEANINGS[kind.code]
    assert 400 <= meaning.status < 600
    assert meaning.resolution.endswith(".")


def test_each_code_has_an_error() -> None:
    assert {kind.code for kind in concrete(errors.KvfsError)} == set(MEANINGS)
    assert http_errors.InternalError.code in MEANINGS


def test_an_error_says_all_there_is_to_say() -> None:
    reply = error_reply(errors.CasMismatch("no", current_etag=None, failed=["k"]), "id-1")
    body = said(reply)
    assert fields(schemas.ERROR) <= set(body) <= set(schemas.ERROR["properties"])
    assert (body["statusCode"], body["error"], body["code"]) == (412, "Precondition Failed", "CAS_MISMATCH")
    assert (body["message"], body["request_id"]) == ("no", "id-1")
    assert (body["current_etag"], body["failed"]) == (None, ["k"])
    assert reply.lines == "X-Error-Code: CAS_MISMATCH\r\n"


def test_errors_that_have_headers_have_them() -> None:
    assert "Retry-After: 3\r\n" in error_reply(errors.Overloaded("full", retry_after_s=3), "").lines
    assert "Retry-After: 1\r\n" in error_reply(errors.Overloaded("full"), "").lines
    assert "Allow: GET, HEAD\r\n" in error_reply(MethodNotAllowed(("GET", "HEAD")), "").lines
    assert "Content-Range: bytes */9\r\n" in error_reply(RangeNotSatisfiable(9), "").lines


def test_details_cannot_stand_in_for_the_error_itself() -> None:
    error = errors.DatabaseError("broken", code="X", statusCode=1)
    assert (said(error_reply(error, ""))["code"], said(error_reply(error, ""))["statusCode"]) == (
        "DATABASE_ERROR",
        500,
    )


def test_a_message_that_is_no_utf_8_hides_nothing() -> None:
    assert said(error_reply(errors.PathConflict("\udcff is a FIFO"), ""))["message"] == "? is a FIFO"
