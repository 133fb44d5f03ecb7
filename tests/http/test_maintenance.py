"""`POST /maintenance`."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import orjson
import pytest

from tests.http.shapes import fits
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, refused, target_of

REBUILT = {
    "success": True, "op": "rebuild", "duration_ms": float, "files": int, "keys": int, "changed": int,
    "recorded": int, "ignored": dict,
}  # fmt: skip


PRUNED = {
    "success": True, "op": "history_prune", "duration_ms": float, "removed": int, "keys": int,
    "complete": bool, "stopped_by": None, "pruned_seq": int, "freed_bytes": int, "free_bytes": int,
}  # fmt: skip

RETENTION = {"success": True, "op": "retention", "duration_ms": float}


def maintain(store: Store, body: object, **params: object) -> Answer:
    target = target_of(f"{BASE}/maintenance", **{"db": store.db, "table": "things", **params})
    return store.server.ask("POST", target, orjson.dumps(body))


def test_a_rebuild_records_what_it_finds_and_tells(folder: Store) -> None:
    for key in ("a", "b", "d/c"):
        folder.put(key, b"1")
    folder.strangers |= {"link"}
    os.symlink("a", folder.folder / "link")
    (folder.folder / "new").write_bytes(b"2")
    told = maintain(folder, {"op": "rebuild"}).done()
    fits(told, REBUILT)
    assert (told["files"], told["keys"]) == (4, 4)
    assert sum(told["ignored"].values()) == 1
    assert folder.get("new") == b"2"
    again = maintain(folder, {"op": "rebuild"}).done()
    assert (again["changed"], again["recorded"]) == (0, 0)


def test_a_read_can_ask_for_a_rebuild(folder: Store) -> None:
    folder.put("a", b"1")
    (folder.folder / "b").write_bytes(b"2")
    answer = folder.ask("GET", "a", rebuild="true")
    assert (answer.status, answer.body) == (200, b"1")
    assert [op.key for op in folder.log()] == ["a", "b"]


def test_a_table_has_nothing_to_rebuild(table: Store) -> None:
    table.put("a", b"1")
    with table.unchanged():
        refused(maintain(table, {"op": "rebuild"}), 400, "INVALID_PARAMETERS")
        assert table.ask("GET", "a", rebuild="true").status == 200


def test_what_is_no_op_is_400(store: Store) -> None:
    store.put("a", b"1")
    bodies: tuple[object, ...] = ({"op": "explode"}, {"op": 1}, {}, [], "rebuild", None)
    with store.unchanged():
        for body in bodies:
            refused(maintain(store, body), 400, "INVALID_PARAMETERS")


def test_a_pruning_tells_what_it_did(store: Store) -> None:
    for number in range(5):
        store.put("a", b"%d" % number)
    told = maintain(store, {"op": "history_prune", "keep_last": 2, "before": None}).done()
    fits(told, PRUNED)
    assert (told["removed"], told["keys"], told["complete"], told["stopped_by"]) == (3, 1, True, None)
    assert told["pruned_seq"] == 3
    history = store.ask("GET", "a", "history").done()
    assert (history["total"], history["oldest_op_number"]) == (2, 4)
    refused(store.ask("GET", "a", "snapshot", op_number=3), 409, "TIME_TRAVEL_GAP")


@pytest.mark.parametrize("form", [int, float, str, "rfc"])
def test_the_time_of_a_pruning_may_be_a_number_or_a_text(store: Store, form: object) -> None:
    for number in range(3):
        store.put("a", b"%d" % number)
    now = time.time() + 2
    text = datetime.fromtimestamp(now, UTC).isoformat() if form == "rfc" else None
    before = text if text is not None else form(now) if isinstance(form, type) else None
    assert maintain(store, {"op": "history_prune", "before": before}).done()["removed"] == 2


def test_a_whole_second_means_its_end(store: Store) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    last = store.ask("GET", "a", "history").done()["operations"][0]["timestamp"]
    assert maintain(store, {"op": "history_prune", "before": last - 1}).done()["removed"] == 0
    assert maintain(store, {"op": "history_prune", "before": last}).done()["removed"] == 1


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"before": None, "keep_last": None},
        {"before": "yesterday"},
        {"before": True},
        {"before": [1]},
        {"before": 1e30},
        {"keep_last": 0},
        {"keep_last": "1"},
        {"keep_last": 1.0},
        {"keep_last": True},
        {"before": 1, "keep_last": -1},
    ],
)
def test_what_is_no_rule_for_pruning_is_400(store: Store, asked: dict[str, object]) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    with store.unchanged():
        refused(maintain(store, {"op": "history_prune", **asked}), 400, "INVALID_PARAMETERS")
    assert store.ask("GET", "a", "history").done()["total"] == 2


def test_a_retention_is_set_and_told(store: Store) -> None:
    store.put("a", b"1")
    told = maintain(store, {"op": "retention"}).done()
    fits(told, {**RETENTION, "keep_last": None, "max_age_s": None})
    told = maintain(store, {"op": "retention", "keep_last": 3, "max_age_s": 60}).done()
    fits(told, {**RETENTION, "keep_last": 3, "max_age_s": 60})
    told = maintain(store, {"op": "retention", "max_age_s": None}).done()
    fits(told, {**RETENTION, "keep_last": 3, "max_age_s": None})
    assert maintain(store, {"op": "retention"}).done()["keep_last"] == 3


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, [], {}, 2**53])
@pytest.mark.parametrize("name", ["keep_last", "max_age_s"])
def test_what_is_no_retention_is_400(store: Store, name: str, value: object) -> None:
    store.put("a", b"1")
    with store.unchanged():
        refused(maintain(store, {"op": "retention", name: value}), 400, "INVALID_PARAMETERS")


@pytest.mark.parametrize(
    "body", [{"op": "history_prune", "keep_last": 1}, {"op": "retention", "keep_last": 1}]
)
def test_what_is_not_there_has_no_past(store: Store, body: dict[str, object]) -> None:
    missing = f"{store.home}/missing" + ("/" if store.directory else ".db")
    refused(maintain(store, body, db=missing), 404, "DATABASE_NOT_FOUND")
    assert not os.path.exists(missing)


def test_what_is_not_there_is_not_rebuilt(folder: Store) -> None:
    missing = maintain(folder, {"op": "rebuild"}, db=f"{folder.home}/missing/")
    refused(missing, 404, "DATABASE_NOT_FOUND")
    assert not os.path.exists(f"{folder.home}/missing")
