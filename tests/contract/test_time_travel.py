"""History, snapshots, differences, and going back."""

from __future__ import annotations

import pytest

from tests import nasty
from tests.contract.driver import Driver, Item, Undone, Was, refused

VALUES = [b"", b"\0", b"\xff\xfe", "é".encode(), nasty.noise(300_000), nasty.noise(1_500_000)]


def state(store: Driver) -> dict[str, tuple[bytes, str]]:
    """All keys, with values and types."""
    return {
        item.key: (item.value or b"", item.content_type)
        for item in store.list(limit=10_000, values=True).items
    }


# --- history -----------------------------------------------------------------------------------------


def test_a_history_tells_every_operation_the_newest_first(store: Driver) -> None:
    store.set("k", b"[1]", ttl=100)
    store.push("k", "2")
    store.pop("k")
    store.set("k", b"7", content_type="text/plain")
    store.incr("k")
    store.decr("k")
    store.expire("k", 50)
    store.persist("k")
    store.delete("k")
    told = store.history("k")
    assert [op.op_type for op in reversed(told.operations)] == [
        "set",
        "push",
        "pop",
        "set",
        "incr",
        "decr",
        "expire_set",
        "persist",
        "delete",
    ]
    assert [op.op_number for op in told.operations] == [*range(9, 0, -1)]
    values = [op.value for op in reversed(told.operations)]
    assert values == [b"[1]", b"[1,2]", b"[1]", b"7", b"8", b"7", b"7", b"7", None]
    assert [op.before for op in reversed(told.operations)] == [None, *values[:-1]]
    assert [op.ttl for op in reversed(told.operations)] == [100, *[None] * 5, 50, None, None]
    assert {op.origin for op in told.operations} == {"api"}
    assert not any(op.gap for op in told.operations)
    times = [op.ts_ms for op in reversed(told.operations)]
    assert times == sorted(times)
    assert (told.total, told.oldest) == (9, 1)


def test_a_history_can_be_gone_through_both_ways(store: Driver) -> None:
    for number in range(7):
        store.set("k", str(number).encode())
    for newest in (True, False):
        seen: list[int] = []
        while True:
            last = seen[-1] if seen else None
            page = store.history(
                "k", limit=3, newest=newest, before=last if newest else None, after=None if newest else last
            )
            assert (page.total, page.oldest) == (7, 1)
            if not page.operations:
                break
            seen += [op.op_number for op in page.operations]
        assert seen == ([*range(7, 0, -1)] if newest else [*range(1, 8)])


def test_values_of_a_history_are_exact_whatever_they_are(store: Driver) -> None:
    for value in VALUES:
        store.set("k", value)
    told = store.history("k", newest=False)
    assert [op.value for op in told.operations] == VALUES
    assert [op.before for op in told.operations] == [None, *VALUES[:-1]]
    assert [store.snapshot("k", number).value for number in range(1, len(VALUES) + 1)] == VALUES


def test_a_key_never_seen_has_no_history(store: Driver) -> None:
    store.set("other", b"1")
    with refused("KEY_NOT_FOUND", "No history found"):
        store.history("k")
    with refused("KEY_NOT_FOUND"):
        store.snapshot("k", 1)
    with refused("KEY_NOT_FOUND", "No history found"):
        store.rollback("k")


def test_op_numbers_go_on_when_a_key_comes_back(store: Driver) -> None:
    store.set("k", b"1")
    store.delete("k")
    store.set("k", b"2")
    store.rollback("k")
    assert [op.op_number for op in store.history("k").operations] == [4, 3, 2, 1]


def test_an_expiry_stands_in_the_history_before_the_next_op(store: Driver) -> None:
    store.set("k", b"1", ttl=1)
    store.let_pass(1.1)
    store.set("k", b"2")
    told = store.history("k", newest=False)
    assert [(op.op_type, op.value) for op in told.operations] == [
        ("set", b"1"),
        ("expire", None),
        ("set", b"2"),
    ]


def test_a_gap_shows_in_the_history_and_has_no_snapshot(store: Driver) -> None:
    store.set("k", b"1")
    store.set("k", b"2", history=False)
    store.set("k", b"3")
    store.delete("k", history=False)
    told = store.history("k", newest=False)
    assert [(op.value, op.before, op.gap) for op in told.operations] == [
        (b"1", None, False),
        (None, b"1", True),
        (b"3", None, False),
        (None, b"3", True),
    ]
    for number in (2, 4):
        with refused("TIME_TRAVEL_GAP"):
            store.snapshot("k", number)
    assert store.snapshot("k", 3).value == b"3"


# --- snapshots and differences -----------------------------------------------------------------------


def test_a_snapshot_is_the_key_as_an_operation_left_it(store: Driver) -> None:
    store.set("k", b"1", content_type="text/x")
    store.delete("k")
    assert store.snapshot("k", 1) == Was(b"1", "text/x")
    assert store.snapshot("k", 2) == Was(None, None)
    for number in (3, 99, 0, 10**20):
        with refused("KEY_NOT_FOUND"):
            store.snapshot("k", number)


def test_a_snapshot_of_the_table_has_its_keys_with_what_was_left_of_their_ttls(store: Driver) -> None:
    store.batch_set([Item("a/1", "x"), Item("a/2", "y", content_type="text/y"), Item("b", "z")])
    store.set("t", b"1", ttl=100)
    then = store.now_ns()
    store.set("a/1", b"new")
    store.batch_delete(["a/2", "b", "t"])
    past = store.snapshot_at(then)
    assert [*past.keys] == ["a/1", "a/2", "b", "t"]
    assert past.keys["a/1"].value == b"x"
    assert past.keys["a/2"] == Was(b"y", "text/y")
    assert past.keys["t"].ttl in (99, 100)
    assert (past.total, past.gap_keys, past.candidate_truncated) == (4, [], False)
    few = store.snapshot_at(then, prefix="a/", limit=1)
    assert ([*few.keys], few.total) == (["a/1"], 2)
    assert store.snapshot_at(store.now_ns()).keys == {"a/1": Was(b"new", "text/plain; charset=utf-8")}
    assert store.snapshot_at(0).total == 0


def test_what_had_run_out_by_then_is_in_no_snapshot(store: Driver) -> None:
    store.set("k", b"1", ttl=1)
    before = store.now_ns()
    store.let_pass(1.1)
    after = store.now_ns()
    assert [*store.snapshot_at(before).keys] == ["k"]
    assert store.snapshot_at(after).keys == {}
    assert store.diff(before, after).keys == {"k": (b"1", None)}


def test_a_difference_tells_what_changed_and_nothing_else(store: Driver) -> None:
    for key in ("same", "new type", "new ttl", "back", "changed", "gone"):
        store.set(key, b"1", content_type="text/plain")
    first = store.now_ns()
    store.set("new type", b"1", content_type="text/x")
    store.expire("new ttl", 100)
    store.set("back", b"2", content_type="text/plain")
    store.set("back", b"1", content_type="text/plain")
    store.set("changed", b"\xff")
    store.delete("gone")
    store.set("new", b"1")
    store.set("never", b"1")
    store.delete("never")
    second = store.now_ns()
    store.set("same", b"later")
    diff = store.diff(first, second)
    assert diff.keys == {
        "changed": (b"1", b"\xff"),
        "gone": (b"1", None),
        "new": (None, b"1"),
        "new type": (b"1", b"1"),
    }
    assert diff.gap_keys == []
    assert [*store.diff(first, second, keys=["new", "same"]).keys] == ["new"]
    assert store.diff(first, first).keys == {}
    with refused("INVALID_PARAMETERS", "from must not be after to"):
        store.diff(second, first)


def test_a_difference_names_the_keys_of_which_nobody_knows(store: Driver) -> None:
    store.set("before", b"1", history=False)
    store.set("inside", b"1")
    first = store.now_ns()
    store.set("inside", b"2", history=False)
    second = store.now_ns()
    assert store.diff(first, second).gap_keys == ["inside"]
    assert store.diff(second, store.now_ns()).gap_keys == []
    store.set("before", b"2")
    assert store.diff(second, store.now_ns()).gap_keys == ["before"]


# --- rolling back a key ------------------------------------------------------------------------------


def test_a_rollback_undoes_the_last_operations_by_a_new_one(store: Driver) -> None:
    for number in range(4):
        store.set("k", str(number).encode(), content_type=f"text/x{number}")
    assert store.rollback("k", 2) == Undone(5, b"1", True)
    got = store.get("k")
    assert (got.value, got.content_type, got.etag) == (b"1", "text/x1", "5")
    assert store.history("k").operations[0].op_type == "rollback"
    assert store.rollback("k") == Undone(6, b"3", True)


def test_rollback_restores_a_deleted_key(store: Driver) -> None:
    store.set("k", b"1", content_type="text/x")
    store.delete("k")
    assert store.rollback("k").value == b"1"
    assert store.get("k").content_type == "text/x"


def test_a_rollback_to_before_the_first_operation_leaves_no_key(store: Driver) -> None:
    store.set("k", b"1")
    store.set("k", b"2")
    assert store.rollback("k", 2) == Undone(3, None, False)
    assert store.why_missing("k") == "KEY_NOT_FOUND"
    assert store.snapshot("k", 3) == Was(None, None)
    assert store.all_keys() == []
    # It can be undone as any other, also where there is nothing.
    assert store.rollback("k", 3) == Undone(4, None, False)
    assert store.rollback("k", 2) == Undone(5, b"2", True)


def test_values_come_back_exactly_whatever_they_are(store: Driver) -> None:
    for value in VALUES:
        store.set("k", value)
    for steps in range(1, len(VALUES)):
        # Each undoes the rollbacks before it too.
        wanted = VALUES[-1 - steps]
        assert store.rollback("k", 2 * steps - 1).value == wanted
        assert store.get("k").value == wanted


@pytest.mark.parametrize("steps", [0, -1, 3, 10**20])
def test_no_more_and_no_less_can_be_undone_than_was_done(store: Driver, steps: int) -> None:
    store.set("k", b"1")
    store.set("k", b"2")
    with refused("INVALID_PARAMETERS", "steps"):
        store.rollback("k", steps)
    assert store.op_number("k") == 2


def test_a_ttl_comes_back_with_what_was_left_of_it(store: Driver) -> None:
    store.set("k", b"1", ttl=100)
    store.let_pass(1)
    store.set("k", b"2")
    store.rollback("k")
    expire_at = store.get("k").expire_at
    assert expire_at is not None
    assert 97 <= expire_at - store.now_ns() // 10**9 <= 99


def test_undoing_an_expiry_brings_the_value_back_without_a_ttl(store: Driver) -> None:
    store.set("k", b"1", ttl=1)
    store.let_pass(1.1)
    assert store.rollback("k") == Undone(3, b"1", True)
    assert store.get("k").expire_at is None


def test_a_gap_cannot_be_gone_back_to(store: Driver) -> None:
    store.set("k", b"1")
    store.set("k", b"2", history=False)
    store.set("k", b"3")
    with refused("TIME_TRAVEL_GAP"):
        store.rollback("k", 1)
    assert store.get("k").value == b"3"
    assert store.rollback("k", 2).value == b"1"


def test_a_rollback_obeys_its_condition(store: Driver) -> None:
    store.set("k", b"1")
    store.set("k", b"2")
    with refused("CAS_MISMATCH"):
        store.rollback("k", if_match_etag="1")
    assert store.rollback("k", if_match_etag="2").op_number == 3


def test_a_repeated_rollback_happens_once(store: Driver) -> None:
    for number in range(4):
        store.set("k", str(number).encode())
    first = store.rollback("k", idempotency_key="one")
    again = store.rollback("k", idempotency_key="one")
    assert (first.value, first.replayed) == (b"2", False)
    assert (again.value, again.op_number, again.replayed) == (b"2", first.op_number, True)
    with refused("IDEMPOTENCY_KEY_MISMATCH"):
        store.rollback("k", 2, idempotency_key="one")
    then = store.now_ns()
    store.set("k", b"new")
    assert store.rollback_table(then, idempotency_key="two").restored == ["k"]
    store.set("k", b"newer")
    assert store.rollback_table(then, idempotency_key="two").replayed
    assert store.get("k").value == b"newer"


# --- rolling back a table ----------------------------------------------------------------------------


def test_a_table_becomes_what_it_was(store: Driver) -> None:
    store.set("a", b"1", content_type="text/a")
    store.set("a/b", VALUES[-1])
    store.set("bytes", b"\xff")
    store.set("gone", b"1")
    store.set("same", b"1")
    was, then = state(store), store.now_ns()
    store.set("a", b"1", content_type="text/b")
    store.delete("a/b")
    store.delete("gone")
    store.set("gone/deep", b"1")
    store.set("new", b"1")
    store.set("bytes", b"2")
    middle = store.now_ns()
    is_now = state(store)

    wanted = (["a", "a/b", "bytes", "gone"], ["gone/deep", "new"])
    preview = store.rollback_table(then, dry_run=True)
    assert (preview.restored, preview.deleted) == wanted
    assert state(store) == is_now
    done = store.rollback_table(then)
    assert (done.restored, done.deleted) == wanted
    assert state(store) == was
    assert store.get("a/b").value == VALUES[-1]
    assert store.op_number("same") == 1
    assert store.rollback_table(then).restored == []

    store.rollback_table(middle)
    assert state(store) == is_now
    store.rollback_table(0)
    assert state(store) == {}


def test_a_table_is_rolled_back_for_some_keys_only(store: Driver) -> None:
    for key in ("a", "b", "c"):
        store.set(key, b"1")
    then = store.now_ns()
    for key in ("a", "b", "c", "d"):
        store.set(key, b"2")
    assert store.rollback_table(then, keys=["c", "never"]).restored == ["c"]
    assert store.rollback_table(then, keys=[]).restored == []
    done = store.rollback_table(then, exclude_keys=["a"])
    assert (done.restored, done.deleted) == (["b"], ["d"])
    assert {key: value for key, (value, _) in state(store).items()} == {"a": b"2", "b": b"1", "c": b"1"}
    with refused("INVALID_PARAMETERS"):
        store.rollback_table(then, keys=["a"], exclude_keys=["b"])


def test_ttls_of_a_table_are_what_was_left_then_counted_from_now(store: Driver) -> None:
    store.set("k", b"1", ttl=100)
    then = store.now_ns()
    store.let_pass(1.1)
    store.persist("k")
    store.rollback_table(then)
    expire_at = store.get("k").expire_at
    assert expire_at is not None
    assert 98 <= expire_at - store.now_ns() // 10**9 <= 100


def test_a_gap_keeps_a_table_from_being_rolled_back(store: Driver) -> None:
    store.set("a", b"1")
    store.set("b", b"1", history=False)
    store.set("c", b"1", history=False)
    then = store.now_ns()
    for key in ("a", "b", "c"):
        store.set(key, b"2")
    cursor = store.cursor()
    for dry_run in (True, False):
        with refused("TIME_TRAVEL_GAP") as caught:
            store.rollback_table(then, dry_run=dry_run)
        assert caught.value.details["gap_keys"] == ["b", "c"]
    assert store.cursor() == cursor
    assert store.rollback_table(then, exclude_keys=["b", "c"]).restored == ["a"]


def test_going_back_to_the_future_changes_nothing(store: Driver) -> None:
    store.set("a", b"1", ttl=5)
    store.set("b", b"1")
    cursor = store.cursor()
    done = store.rollback_table(store.now_ns() + 3600 * 10**9)
    assert (done.restored, done.deleted, store.cursor()) == ([], [], cursor)


def test_a_rollback_of_a_table_can_be_undone_like_any_change(store: Driver) -> None:
    store.set("a", b"1")
    then = store.now_ns()
    store.set("a", b"2")
    store.set("b", b"1")
    before = store.now_ns()
    store.rollback_table(then)
    assert store.rollback("b") == Undone(3, b"1", True)
    store.rollback_table(before)
    assert {key: value for key, (value, _) in state(store).items()} == {"a": b"2", "b": b"1"}
