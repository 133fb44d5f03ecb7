"""What a server tells of what it has open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kvfs
from tests.http.launching import Launched, Server, serving
from tests.http.shapes import fits
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, refused, target_of
from tests.polling import eventually

ANY_PATH = "--allow-any-absolute-db-path"
USE = {"users": int, "queued": int, "idle_seconds": int | float}
DATABASE = {"path": str, "size": int, "readonly": bool, **USE}
FOLDER = {
    "path": str, "table": str, "readonly": bool, "files": int, "indexed_keys": int, "indexed_folders": int,
    "watcher": str, "watcher_reason": str | None, "watcher_restarts": int, "events_seen": int, "pending": int,
    "scans": int, "last_scan_ms": float | None, "reconciles": int, "index_hits": int, "index_misses": int,
    "last_rebuild": int | None, "last_rebuild_ms": float | None, "op_log_size": int, **USE,
}  # fmt: skip
CACHE = {"databases": [DATABASE], "directory_stores": [FOLDER], "failed": [dict], "connections": int}


def cached(server: Server | Launched) -> dict[str, Any]:
    """What `/health/cache` says."""
    answer: dict[str, Any] = server.ask("GET", f"{BASE}/health/cache").done()
    fits(answer, CACHE)
    return answer


def told(store: Store) -> dict[str, Any]:
    """What `/health/cache` says of one store."""
    assert isinstance(store.server, Server)
    stores = cached(store.server)["directory_stores" if store.directory else "databases"]
    path = str(store.folder if store.directory else store.db)
    (found,) = [each for each in stores if each["path"] == path]
    return dict(found)


def test_what_is_open_is_told(store: Store) -> None:
    store.put("a", b"1")
    store.put("d/b", b"2")
    store.get("a")
    found = told(store)
    assert not found["readonly"]
    assert found["idle_seconds"] < 60
    if store.directory:
        assert (found["table"], found["files"], found["indexed_keys"]) == (TABLE, 2, 2)
        assert found["op_log_size"] > 0
        assert found["index_hits"] >= 1
    else:
        assert found["size"] > 0


def test_connections_are_counted(server: Server, table: Store) -> None:
    table.put("a", b"1")
    assert cached(server)["connections"] >= 1


def test_outside_edits_are_counted_and_noticed_without_being_asked_for(folder: Store) -> None:
    folder.put("mine", b"1")
    eventually(lambda: told(folder)["watcher"] == "watching", 10, "the folder is watched")
    before = told(folder)["reconciles"]
    (folder.folder / "theirs").write_bytes(b"2")
    eventually(lambda: told(folder)["reconciles"] == before + 1, 10, "the edit is logged")
    assert told(folder)["events_seen"] > 0
    assert [op.key for op in folder.log()] == ["mine", "theirs"]


def test_a_store_that_cannot_be_opened_is_named_until_it_can(tmp_path: Path) -> None:
    db = tmp_path / "db"
    with kvfs.open(f"{db}/", TABLE) as handle:
        handle.set("k", b"1")
    log = db / ".kvfs" / f"{TABLE}.oplog"
    content = log.read_bytes()
    with serving(tmp_path / "home", ANY_PATH) as server:
        target = target_of(f"{BASE}/kv/k", db=db, table=TABLE)
        log.write_bytes(b"no database" * 100)
        refused(server.ask("GET", target), 500, "DATABASE_ERROR")
        health = server.ask("GET", f"{BASE}/health")
        assert (health.status, health.json()["status"]) == (503, "degraded")
        (failed,) = cached(server)["failed"]
        assert failed["path"] == f"{db}/{TABLE}/"
        assert "damaged" in failed["message"]
        log.write_bytes(content)
        assert server.ask("GET", target).body == b"1"
        assert server.ask("GET", f"{BASE}/health").done()["status"] == "ok"
        assert cached(server)["failed"] == []
        server.stop()


def test_the_folders_of_the_data_dir_are_watched_from_the_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    db = home / "data" / "site"
    with kvfs.open(f"{db}/", TABLE) as handle:
        handle.set("k", b"1")
    with serving(home) as server:

        def watched() -> bool:
            stores = cached(server)["directory_stores"]
            return [each["watcher"] for each in stores] == ["watching"]

        eventually(watched, 10, "the folder is watched")
        (db / TABLE / "new").write_bytes(b"2")
        eventually(lambda: cached(server)["directory_stores"][0]["reconciles"] == 1, 10, "the edit is logged")
        server.stop()
