"""What is exported from one store and imported into another is the same there, its past among it."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest

from tests import nasty
from tests.contract.driver import Brought, Done, Driver, Got, StoreError, refused

CONFLICT = "IMPORT_CONFLICT"
FOREVER = 10**6


def lively(store: Driver) -> list[int]:
    """Fill a store with all kinds of ops; instants in between."""
    store.set("a", b"1")
    store.set("a/b", b"text", content_type="text/plain; x=1", ttl=FOREVER)
    store.set("bytes", b"\xff\x00\xfe")
    moments = [store.now_ns()]
    store.incr("a", 5)
    store.push("list", '{"n": 1}')
    store.push("list", '"two"')
    store.pop("list")
    store.set("gone", b"soon")
    store.delete("gone")
    moments.append(store.now_ns())
    store.set("gap", b"never seen", history=False)
    store.set("gap", b"seen")
    store.set("hidden", b"only its file has it", history=False)
    store.expire("a/b", 2 * FOREVER)
    store.set("empty", b"")
    store.set("large", b"large " * 60_000)
    moments.append(store.now_ns())
    store.rollback("a")
    store.set("doc", b'{"a": {"b": 1}}')
    store.set("doc", b"2", path="a.b")
    store.set("more", b"x", ttl=FOREVER)
    store.persist("more")
    moments.append(store.now_ns())
    return moments


def present(store: Driver) -> dict[str, Got]:
    """Every key with its value, its type and its TTL."""
    found = {key: store.get(key) for key in store.list(limit=1000).keys}
    for key in found:
        assert (store.get(key).etag or "").isdigit()
    return found


def past(store: Driver, keys: list[str], moments: list[int]) -> tuple[Any, ...]:
    """All that a store tells of what was."""
    histories: dict[str, list[Done]] = {key: store.history(key, limit=1000).operations for key in keys}
    snapshots = {}
    for key, operations in histories.items():
        for op in operations:
            if not op.gap:
                snapshots[key, op.op_number] = store.snapshot(key, op.op_number)
    lists = [store.list_at(at_ns, limit=1000) for at_ns in moments]
    diffs = [store.diff(before, after) for before, after in pairwise(moments)]
    return histories, snapshots, lists, diffs


KEYS = ["a", "a/b", "bytes", "list", "gone", "gap", "hidden", "empty", "large", "doc", "more"]


def records(data: bytes) -> list[dict[str, Any]]:
    return [form for form in map(json.loads, data.splitlines()) if "key" in form]


def seals(data: bytes) -> list[bytes]:
    """The seals of a stream, as they stand in it."""
    return [line[len(b'{"seal":') : -1] for line in data.splitlines() if line.startswith(b'{"seal"')]


# --- what comes over ---------------------------------------------------------------------------------


def test_a_history_is_the_same_in_another_store(store: Driver) -> None:
    moments = lively(store)
    data = store.export(history=True)
    other = store.sibling("other")
    count = len(records(data))
    assert other.import_(data) == Brought(count, complete=True, imported=count)
    assert present(other) == present(store)
    assert past(other, KEYS, moments) == past(store, KEYS, moments)
    assert records(other.export(history=True)) == records(data)


def test_entries_without_their_past_have_values_types_and_ttls(store: Driver) -> None:
    lively(store)
    data = store.export()
    other = store.sibling("other")
    count = len(store.list(limit=1000).keys)
    assert other.import_(data) == Brought(count, complete=True, imported=count)
    assert [[got.value, got.content_type, got.expire_at] for got in present(other).values()] == [
        [got.value, got.content_type, got.expire_at] for got in present(store).values()
    ]
    assert all(other.history(key).total == 1 for key in other.list(limit=1000).keys)


def test_every_key_comes_over(store: Driver) -> None:
    for number, key in enumerate(nasty.KEYS):
        store.set(key, b"%d" % number)
    data = store.export(history=True)
    assert [form["key"] for form in records(data)] == nasty.KEYS
    assert [form["key"] for form in records(store.export())] == sorted(nasty.KEYS, key=str.encode)
    other = store.sibling("other")
    other.import_(data)
    assert present(other) == present(store)


def test_a_pruned_history_is_the_same_in_another_store(store: Driver) -> None:
    for number in range(5):
        store.set("k", b"%d" % number)
        store.set("l", b"%d" % number, history=number != 4)
    moment = store.now_ns()
    store.set("k", b"last")
    store.prune(keep_last=2)
    other = store.sibling("other")
    other.import_(store.export(history=True))
    assert past(other, ["k", "l"], [moment]) == past(store, ["k", "l"], [moment])
    assert other.history("k").oldest == 5
    with refused("TIME_TRAVEL_GAP"):
        other.get_at("k", 1)


def test_an_empty_store_is_exported_and_imported(store: Driver) -> None:
    store.set("k", b"v")
    store.delete("k")
    for history, count in ((False, 0), (True, 2)):
        data = store.export(history=history)
        other = store.sibling(f"other{count}")
        assert other.import_(data) == Brought(count, complete=True, imported=count)
        assert other.list().keys == []


def test_an_imported_history_goes_on(store: Driver) -> None:
    lively(store)
    other = store.sibling("other")
    other.import_(store.export(history=True))
    before = other.history("a").total
    assert other.incr("a").op_number == before + 1
    assert other.set("new", b"1").op_number == 1
    assert other.rollback("a").value == store.get("a").value


def test_a_key_that_has_run_out_comes_with_its_expiry(store: Driver) -> None:
    store.set("k", b"v", ttl=1)
    store.set("stays", b"v")
    store.let_pass(1.1)
    data = store.export(history=True)
    other = store.sibling("other")
    other.import_(data)
    assert other.list().keys == ["stays"]
    assert [op.op_type for op in other.history("k").operations] == ["expire", "set"]


def test_entries_that_have_run_out_since_are_left_out(store: Driver) -> None:
    store.set("k", b"v", ttl=1)
    store.set("stays", b"v")
    data = store.export()
    store.let_pass(1.1)
    other = store.sibling("other")
    assert other.import_(data) == Brought(2, complete=True, imported=1, expired=1)
    assert other.list().keys == ["stays"]


# --- what is there already ---------------------------------------------------------------------------


def test_entries_fail_at_a_key_that_is_there_and_change_nothing(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b", b"2")
    other = store.sibling("other")
    other.set("b", b"own")
    with refused(CONFLICT):
        other.import_(store.export())
    assert other.list().keys == ["b"]


def test_entries_pass_over_keys_that_are_there_or_replace_them(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b", b"2")
    other = store.sibling("other")
    other.set("b", b"own", ttl=FOREVER)
    assert other.import_(store.export(), on_conflict="skip") == Brought(2, True, 1, skipped=1)
    assert other.get("b").value == b"own"
    assert other.import_(store.export(), on_conflict="replace") == Brought(2, True, 2)
    assert other.get("b") == other.get("b")
    assert (other.get("b").value, other.get("b").expire_at) == (b"2", None)
    assert other.history("b").total == 2


def test_a_history_goes_into_an_empty_store_only(store: Driver) -> None:
    store.set("a", b"1")
    data = store.export(history=True)
    other = store.sibling("other")
    other.set("b", b"own")
    other.delete("b")
    with refused(CONFLICT):
        other.import_(data)
    assert other.list().keys == []


def test_a_later_export_of_the_same_log_brings_what_is_new(store: Driver) -> None:
    store.set("a", b"1")
    other = store.sibling("other")
    other.import_(store.export(history=True))
    store.set("a", b"2")
    store.set("hidden", b"3", history=False)
    assert other.import_(store.export(history=True)) == Brought(3, complete=True, imported=2)
    assert past(other, ["a", "hidden"], []) == past(store, ["a", "hidden"], [])
    other.set("own", b"1")
    store.set("a", b"4")
    with refused(CONFLICT):
        other.import_(store.export(history=True))
    assert other.get("a").value == b"2"


# --- in parts ----------------------------------------------------------------------------------------


def many(store: Driver, count: int) -> None:
    """So many ops that there are some blocks of them."""
    value = b"x" * 200_000
    for number in range(count):
        store.set(f"k{number % 7}", b"%d %b" % (number, value), history=number % 3 != 0, ttl=FOREVER)


def cut(data: bytes, blocks: int) -> bytes:
    """A stream that ends after so many blocks, and the beginning of the next."""
    end = 0
    for seal in seals(data)[:blocks]:
        end = data.index(b'{"seal":' + seal) + len(seal) + 10
    return data[: end + 150]


@pytest.mark.parametrize("history", [True, False])
def test_an_import_that_was_cut_off_goes_on_where_it_stopped(store: Driver, history: bool) -> None:
    many(store, 30)
    data = store.export(history=history)
    assert len(seals(data)) >= (4 if history else 1)
    other = store.sibling("other")
    whole = [0, *(json.loads(seal)["records"] for seal in seals(data))]
    for blocks in range(len(seals(data))):
        with refused("INVALID_PARAMETERS") as failed:
            other.import_(cut(data, blocks))
        assert failed.value.details["records"] == whole[blocks]
    last = other.import_(data)
    assert last.complete
    assert last.records == len(records(data)) > last.imported or not history
    assert {key: got.value for key, got in present(other).items()} == {
        key: got.value for key, got in present(store).items()
    }
    if history:
        assert records(other.export(history=True)) == records(data)
    assert other.import_(data).imported == 0


def test_an_export_goes_on_after_a_seal(store: Driver) -> None:
    many(store, 30)
    data = store.export(history=True)
    for seal in seals(data):
        rest = store.export(history=True, after=seal)
        end = data.index(b'{"seal":' + seal) + len(seal) + 10
        assert rest.partition(b"\n")[2] == data[end:]
    store.set("later", b"1")
    rest = store.export(history=True, after=seals(data)[-1])
    assert [form["key"] for form in records(rest)] == ["later"]


def test_a_part_goes_after_what_came_before_it(store: Driver) -> None:
    many(store, 30)
    data = store.export(history=True)
    first, second = seals(data)[:2]
    other = store.sibling("other")
    with refused(CONFLICT):
        other.import_(store.export(history=True, after=first))
    other.import_(data[: data.index(first) + len(first) + 2])
    with refused(CONFLICT):
        other.import_(store.export(history=True, after=second))
    assert other.import_(store.export(history=True, after=first)).complete
    assert records(other.export(history=True)) == records(data)


def test_an_export_does_not_go_on_in_another_log(store: Driver) -> None:
    many(store, 10)
    seal = json.loads(seals(store.export(history=True))[0])
    with refused(CONFLICT):
        store.export(history=True, after=json.dumps({**seal, "id": "another"}).encode())
    with refused("INVALID_PARAMETERS"):
        store.export(after=json.dumps(seal).encode())
    store.prune(keep_last=1)
    with refused(CONFLICT):
        store.export(history=True, after=json.dumps({**seal, "at": 1}).encode())


def test_nothing_runs_out_in_the_middle_of_an_import(store: Driver) -> None:
    """An expiry logged here would be later than what is still to come."""
    store.set("brief", b"v", ttl=2)
    many(store, 20)
    data = store.export(history=True)
    other = store.sibling("other")
    with refused("INVALID_PARAMETERS"):
        other.import_(cut(data, 1))
    store.let_pass(2.1)
    with pytest.raises(StoreError, match="KEY_EXPIRED"):
        other.get("brief")
    assert "brief" not in other.list().keys
    assert other.import_(data).complete
    assert records(other.export(history=True))[: len(records(data))] == records(data)


def test_who_writes_in_the_middle_of_an_import_ends_it(store: Driver) -> None:
    many(store, 20)
    data = store.export(history=True)
    other = store.sibling("other")
    with refused("INVALID_PARAMETERS"):
        other.import_(cut(data, 1))
    assert other.set("own", b"1").op_number == 1
    with refused(CONFLICT):
        other.import_(data)
    assert other.get("own").value == b"1"


# --- what is wrong with a stream ---------------------------------------------------------------------


def damaged(data: bytes) -> dict[str, bytes]:
    """Streams that are not what was exported."""
    lines = data.splitlines(keepends=True)
    return {
        "empty": b"",
        "no export": b'{"hello": 1}\n',
        "no JSON": b"hello\n",
        "newer": data.replace(b'"kvfs_export":1', b'"kvfs_export":2', 1),
        "a value changed": data.replace(b'"value":"1"', b'"value":"2"', 1),
        "a line lost": b"".join([lines[0], *lines[2:]]),
        "lines swapped": b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
        "a line twice": b"".join([lines[0], lines[1], *lines[1:]]),
        "bad JSON": b"".join([lines[0], b'{"seq": \n', *lines[1:]]),
        "a seal lost": b"".join(line for line in lines if not line.startswith(b'{"seal"')),
        "another id": data.replace(b'"id":"', b'"id":"0', 1),
    }


def test_a_damaged_stream_is_refused_and_changes_nothing(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b", b"1")
    for history in (True, False):
        for what, data in damaged(store.export(history=history)).items():
            other = store.sibling("other")
            with refused("INVALID_PARAMETERS"):
                other.import_(data)
            assert other.list().keys == [], what


def test_a_seal_that_a_hand_has_made_lets_no_nonsense_in(store: Driver) -> None:
    store.set("a", b"1")
    store.set("a", b"2")
    other = store.sibling("other")
    lines = store.export(history=True).splitlines()
    op = json.loads(lines[1])
    for name, wrong in (
        ("seq", 0),
        ("seq", "1"),
        ("op_number", 0),
        ("op_type", "make"),
        ("op_type", "delete"),
        ("origin", "me"),
        ("ts_ns", -1),
        ("ts_ns", 2**63),
        ("ttl", 0),
        ("key", ""),
        ("key", "a\0"),
        ("value", 1),
        ("encoding", "utf-16"),
        ("expire_at_ms", 2**60),
        ("created_at", None),
    ):
        with refused("INVALID_PARAMETERS"):
            other.import_(sealed(lines[0], [{**op, name: wrong}]))
    second = json.loads(lines[2])
    for ops in (
        [op, {**second, "op_number": 3}],
        [op, {**second, "ts_ns": op["ts_ns"] - 1}],
        [op, {**second, "seq": 4}],
    ):
        with refused(CONFLICT):
            other.import_(sealed(lines[0], ops))
    assert other.list().keys == []
    assert other.import_(sealed(lines[0], [op, second])).records == 2


def sealed(header: bytes, forms: list[dict[str, Any]]) -> bytes:
    """A stream of these lines with the right sums: what only a program can make."""
    lines = [json.dumps(form).encode() + b"\n" for form in forms]
    export = json.loads(header)["id"]
    digest = hashlib.sha256(hashlib.sha256(export.encode()).digest() + b"".join(lines)).hexdigest()
    seal = {"id": export, "records": len(lines), "sha256": digest}
    at = {"at": forms[-1]["seq"]}
    return b"%b\n%b%b\n%b\n" % (
        header,
        b"".join(lines),
        json.dumps({"seal": {**seal, **at}}, separators=(",", ":")).encode(),
        json.dumps({"end": seal}, separators=(",", ":")).encode(),
    )
