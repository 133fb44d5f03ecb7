"""`POST /maintenance`."""

from __future__ import annotations

import os

import orjson

from tests.http.shapes import fits
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, refused, target_of

REBUILT = {
    "success": True, "op": "rebuild", "duration_ms": float, "files": int, "keys": int, "changed": int,
    "recorded": int, "ignored": dict,
}  # fmt: skip


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


def test_what_is_not_there_is_not_rebuilt(folder: Store) -> None:
    missing = maintain(folder, {"op": "rebuild"}, db=f"{folder.home}/missing/")
    refused(missing, 404, "DATABASE_NOT_FOUND")
    assert not os.path.exists(f"{folder.home}/missing")
