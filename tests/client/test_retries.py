"""What a client does when the network or the server lets it down: a proxy does so, on purpose."""

from __future__ import annotations

import io
import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.client import Client, Item, NoAnswer, Retries, Table, UnexpectedAnswer, Unreachable
from kvfs.errors import Forbidden, KeyNotFound, Overloaded, Unauthorized
from tests.client.conftest import MakeTable
from tests.client.faults import Instead, Lost, Proxy, Reset, Silence, answer

QUICK = Retries(first_pause_s=0.01)


def told(status: str, code: str, *headers: str) -> Instead:
    """An answer of the server's that tells of an error."""
    return Instead(answer(status, json.dumps({"code": code, "message": "no"}).encode(), *headers))


OVERLOADED = told("503 Service Unavailable", "OVERLOADED", "Retry-After: 1")


@pytest.mark.parametrize("fault", [Lost(), Lost(passed=50), Reset()], ids=repr)
def test_an_incr_whose_answer_is_lost_happens_once(
    over_proxy: MakeTable, proxy: Proxy, table: Table, fault: Lost | Reset
) -> None:
    proxy.faults += [fault, fault]
    done = over_proxy(retries=QUICK).incr("n", 5)
    assert (done.number, proxy.requests) == (5, 3)
    assert done.replayed is isinstance(fault, Lost)
    assert (table["n"], table.history("n").total) == (b"5", 1)


def test_an_incr_whose_answer_never_comes_happens_once(
    over_proxy: MakeTable, proxy: Proxy, table: Table
) -> None:
    proxy.faults += [Silence()]
    done = over_proxy(retries=QUICK, attempt_s=1.0).incr("n")
    assert (done.number, done.replayed) == (1, True)
    assert table.history("n").total == 1


def test_every_write_whose_answer_is_lost_happens_once(
    over_proxy: MakeTable, proxy: Proxy, table: Table
) -> None:
    flaky = over_proxy(retries=QUICK)

    def losing() -> Table:
        proxy.faults.append(Lost())
        return flaky

    assert losing().set("k", b"1").op_number == 1
    assert losing().push("list", "a").length == 1
    assert losing().push("list", "b").length == 2
    assert losing().pop("list").item == "b"
    assert losing().remove("list", item="a").removed == 1
    assert losing().expire("k", 1000).op_number == 2
    assert losing().persist("k").op_number == 3
    assert losing().decr("k").number == 0
    assert losing().rollback("k").value == b"1"
    assert losing().delete("k").op_number == 6
    assert [done.op_number for done in losing().set_many([Item("m", "1"), Item("n", b"2")])] == [1, 1]
    assert losing().delete_many(["m", "n", "o"]) == 2
    assert table.history("k").total == 6
    assert not proxy.faults


def test_a_read_is_repeated(over_proxy: MakeTable, proxy: Proxy, table: Table) -> None:
    table["k"] = b"value"
    flaky = over_proxy(retries=QUICK)
    proxy.faults += [Reset(), Lost(), Lost(passed=30)]
    assert flaky.get("k").value == b"value"
    proxy.faults += [Reset(), Lost()]
    assert flaky.exists("k")


def test_a_connection_that_broke_is_not_used_again(over_proxy: MakeTable, proxy: Proxy) -> None:
    flaky = over_proxy(retries=QUICK)
    for _ in range(3):
        flaky.incr("n")
        proxy.faults.append(Lost())
        flaky.incr("n")
    assert flaky.get_json("n") == 6


def test_attempts_have_an_end(over_proxy: MakeTable, proxy: Proxy) -> None:
    proxy.faults += [Lost()] * 10
    flaky = over_proxy(retries=Retries(attempts=3, first_pause_s=0.01))
    with pytest.raises(NoAnswer) as caught:
        flaky.get("k")
    assert "outcome" not in caught.value.details
    with pytest.raises(NoAnswer) as caught:
        flaky.incr("n")
    assert caught.value.details["outcome"] == "unknown"
    assert proxy.requests == 6


def test_a_call_ends_with_its_time(over_proxy: MakeTable, proxy: Proxy) -> None:
    proxy.faults += [Silence()] * 10
    flaky = over_proxy(retries=QUICK, timeout_s=1.0, attempt_s=0.4)
    began_s = time.monotonic()
    with pytest.raises(NoAnswer):
        flaky.get("k")
    assert 2 <= proxy.requests <= 3
    assert time.monotonic() - began_s >= 0.9


def test_what_the_server_is_too_busy_for_is_done_when_it_says(
    over_proxy: MakeTable, proxy: Proxy, table: Table
) -> None:
    proxy.faults += [OVERLOADED]
    began_s = time.monotonic()
    assert over_proxy().incr("n").number == 1
    assert time.monotonic() - began_s >= 1.0
    assert table.history("n").total == 1


def test_the_server_cannot_make_a_client_wait_for_long(over_proxy: MakeTable, proxy: Proxy) -> None:
    proxy.faults += [told("503 Service Unavailable", "OVERLOADED", "Retry-After: 100000")] * 2
    assert over_proxy(retries=Retries(longest_retry_after_s=0.1)).incr("n").number == 1
    proxy.faults += [OVERLOADED]
    with pytest.raises(Overloaded):
        over_proxy(timeout_s=0.5).incr("n")


def test_what_is_refused_is_not_tried_again(over_proxy: MakeTable, proxy: Proxy) -> None:
    flaky = over_proxy(retries=QUICK)
    for status, code, kind in (
        ("401 Unauthorized", "UNAUTHORIZED", Unauthorized),
        ("403 Forbidden", "FORBIDDEN", Forbidden),
        ("404 Not Found", "KEY_NOT_FOUND", KeyNotFound),
        ("500 Internal Server Error", "INTERNAL_ERROR", UnexpectedAnswer),
        ("418 Teapot", "TEAPOT", UnexpectedAnswer),
    ):
        proxy.faults.append(told(status, code))
        with pytest.raises(kind) as caught:
            flaky.get("k")
        assert (type(caught.value), caught.value.code, caught.value.message) == (kind, code, "no")
    assert proxy.requests == 5


def test_a_gateway_that_cannot_reach_the_server_is_asked_again(
    over_proxy: MakeTable, proxy: Proxy, table: Table
) -> None:
    page = Instead(answer("502 Bad Gateway", b"<html>sorry</html>"))
    flaky = over_proxy(retries=Retries(attempts=2, first_pause_s=0.01))
    proxy.faults += [page]
    assert flaky.incr("n").number == 1
    proxy.faults += [page, page]
    with pytest.raises(UnexpectedAnswer, match="502") as caught:
        flaky.incr("n")
    assert caught.value.details["status"] == 502
    assert table["n"] == b"1"


def test_a_file_is_sent_again_from_where_it_stood(over_proxy: MakeTable, proxy: Proxy, table: Table) -> None:
    file = io.BytesIO(b"header" + b"x" * 100_000)
    file.seek(6)
    proxy.faults += [Lost(), Lost()]
    over_proxy(retries=QUICK).set("k", file)
    assert table["k"] == b"x" * 100_000
    assert table.history("k").total == 1


def test_an_iterator_is_not_sent_twice(over_proxy: MakeTable, proxy: Proxy, table: Table) -> None:
    flaky = over_proxy(retries=QUICK)
    proxy.faults += [Lost()]
    with pytest.raises(NoAnswer) as caught:
        flaky.set("k", iter([b"one", b"two"]))
    assert caught.value.details["outcome"] == "unknown"
    assert proxy.requests == 1
    assert flaky.set("l", iter([b"one", b"two"])).size == 6
    assert table["l"] == b"onetwo"


def test_sql_is_repeated_only_if_it_was_not_begun(proxy: Proxy, table: Table, db: str) -> None:
    with Client(proxy.url, retries=QUICK) as client:
        proxy.faults += [Lost()]
        with pytest.raises(NoAnswer):
            client.database(db).execute("CREATE TABLE t (x)")
        assert proxy.requests == 1
        proxy.faults += [told("503 Service Unavailable", "OVERLOADED")] * 10
        with pytest.raises(Overloaded):
            client.database(db).execute("CREATE TABLE t (x)")
        assert proxy.requests == 1 + QUICK.attempts


def test_a_server_that_is_not_there_is_told_of(over_proxy: MakeTable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", retries=QUICK) as client:
        with pytest.raises(Unreachable):
            client.table("db").incr("n")
        with pytest.raises(Unreachable):
            client.table("db").set("k", iter([b""]))


@given(
    attempts=st.integers(1, 1000),
    retry_after_s=st.floats(0, 1e9),
    chance=st.floats(0, 1),
)
def test_a_pause_grows_and_is_bounded(attempts: int, retry_after_s: float, chance: float) -> None:
    retries = Retries()
    pause_s = retries.pause_s(attempts, retry_after_s, chance)
    asked_s = min(retry_after_s, retries.longest_retry_after_s)
    assert asked_s <= pause_s <= asked_s + retries.longest_pause_s
    assert retries.pause_s(attempts + 1, retry_after_s, chance) >= pause_s
