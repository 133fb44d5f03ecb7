"""What the client sends, against what the server reads: no I/O on either side."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs import errors
from kvfs.client import JsonText, UnexpectedAnswer, kv
from kvfs.client.call import BASE, Call, key_path
from kvfs.client.errors import from_answer
from kvfs.client.sending import Server
from kvfs.errors import InvalidParameters, KvfsError, PayloadTooLarge
from server.params import Params
from server.router import Router, split_target
from server.routes import ROUTES
from server.times import parse
from tests import nasty

ROUTER = Router(ROUTES)
ACTIONS = ["", "/entry", "/history", "/snapshot"]


@pytest.mark.parametrize("key", nasty.KEYS)
def test_every_key_is_found_with_every_action(key: str) -> None:
    for action in ACTIONS:
        assert found("GET", key_path(key, action)) == ("/kv/{key}" + action, key)
    for action in ("/incr", "/push", "/rollback"):
        assert found("POST", key_path(key, action)) == ("/kv/{key}" + action, key)
    assert found("PUT", key_path(key)) == ("/kv/{key}", key)


@given(nasty.keys, st.sampled_from(ACTIONS))
def test_any_key_is_found(key: str, action: str) -> None:
    assert found("GET", key_path(key, action)) == ("/kv/{key}" + action, key)


def found(method: str, path: str) -> tuple[str, str]:
    target, _ = split_target(BASE + path + "?db=x")
    route, key = ROUTER.find(method, target)
    return route.path, key


@pytest.mark.parametrize("path", [key_path("."), key_path(".."), key_path("..", "/entry")])
def test_no_proxy_takes_a_key_for_a_step_in_the_path(path: str) -> None:
    assert not {".", ".."} & {*path.split("/")}


@pytest.mark.parametrize(("key", "kind"), [("", InvalidParameters), ("x" * 1025, PayloadTooLarge)])
def test_what_is_no_key_is_not_sent(key: str, kind: type[KvfsError]) -> None:
    with pytest.raises(kind):
        key_path(key)


@given(st.binary(max_size=50), nasty.values)
def test_parameters_arrive_byte_for_byte(text: bytes, value: bytes) -> None:
    call = Call("GET", "/kv", lambda _: None, {"a": text, "if_match": value, "flag": True, "none": None})
    params = Params(call.query)
    assert (params.raw("a"), params.raw("if_match"), params.flag("flag")) == (text, value, True)
    assert params.raw("none") is None


@given(st.integers(-(2**62), 2**62))
def test_instants_arrive_to_the_nanosecond(ts_ns: int) -> None:
    assert parse(kv.instant(ts_ns), "at") == ts_ns


def test_every_error_of_the_engine_arrives_as_itself() -> None:
    for name, kind in vars(errors).items():
        if (
            isinstance(kind, type)
            and issubclass(kind, KvfsError)
            and "code" in vars(kind)
            and kind is not KvfsError
        ):
            body = f'{{"code": "{kind.code}", "message": "m", "statusCode": 1, "current_etag": null}}'
            error = from_answer(400, {}, body.encode())
            assert (type(error), error.message, error.details) == (kind, "m", {"current_etag": None}), name


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b'{"code": 7}'])
def test_an_answer_that_is_no_error_of_kvfs_is_unexpected(body: bytes) -> None:
    error = from_answer(502, {}, body)
    assert isinstance(error, UnexpectedAnswer)
    assert error.details["status"] == 502


def test_json_is_sent_compact_or_as_it_stands() -> None:
    assert kv.json_bytes({"ä": [1, None, 2**70]}) == '{"ä":[1,null,1180591620717411303424]}'.encode()
    assert kv.json_bytes(JsonText("1.10")) == b"1.10"
    for no_json in (float("nan"), {1, 2}, datetime.now()):
        with pytest.raises(InvalidParameters, match="no JSON"):
            kv.json_bytes(no_json)


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "name"),
    [
        ("http://localhost:8080", b"localhost", 8080, "", b"localhost:8080"),
        ("https://kv.example.com/", b"kv.example.com", None, "", b"kv.example.com"),
        ("http://[::1]:80/behind/a/proxy/", b"::1", 80, "/behind/a/proxy", b"[::1]:80"),
    ],
)
def test_a_server_is_named_by_its_url(
    url: str, host: bytes, port: int | None, prefix: str, name: bytes
) -> None:
    server = Server.at(url, "secret")
    assert (server.host, server.port, server.prefix) == (host, port, prefix)
    assert server.headers == [(b"Host", name), (b"Authorization", b"Bearer secret")]


@pytest.mark.parametrize(
    "url", ["", "localhost", "localhost:8080", "ftp://x", "http://", "http://x:y", "http://x?a=b", "http://ü"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameters, match="URL"):
        Server.at(url, None)
