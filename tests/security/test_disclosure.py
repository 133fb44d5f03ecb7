"""What errors tell of the inside, of the machine, and of secrets: nothing, even where files are damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import kvfs
from kvfs.config import Config
from kvfs.model import Set
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, Answer, key_path, target_of
from tests.security.disclosure import too_much

TABLE = "site"
TOKEN = "a-token-that-nobody-else-may-see"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:] = bytes(byte ^ 0x55 for byte in content[100:])
    path.write_bytes(content)


def no_database(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 100)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES: list[Callable[[Path], None]] = [cut, garble, no_database, folder, empty]


def answers(server: Launched, db: object) -> list[Answer]:
    asked = {"db": db, "table": TABLE}
    sql = json.dumps({"transaction": [{"query": f"SELECT * FROM {TABLE}"}]}).encode()
    return [
        server.ask(method, target_of(path, **asked, **params), body, [("Authorization", f"Bearer {TOKEN}")])
        for method, path, body, params in (
            ("GET", key_path("k"), None, {}),
            ("GET", key_path("k", "history"), None, {}),
            ("GET", key_path("k"), None, {"at_timestamp": "1"}),
            ("GET", f"{BASE}/kv", None, {}),
            ("GET", f"{BASE}/changes", None, {"since": "0"}),
            ("PUT", key_path("k"), b"x", {}),
            ("POST", key_path("k", "incr"), None, {}),
            ("POST", f"{BASE}/db", sql, {}),
            ("GET", f"{BASE}/query", None, {"sql": f"SELECT * FROM {TABLE}"}),
            ("GET", f"{BASE}/query", None, {"sql": "SELECT * FROM nothing"}),
            ("POST", f"{BASE}/maintenance", b'{"op": "integrity_check"}', {}),
            ("POST", f"{BASE}/maintenance", b'{"op": "restore", "src_path": "/etc/passwd"}', {}),
        )
    ]


def test_no_error_about_damaged_files_tells_of_the_inside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    dbs: list[object] = ["missing"]
    for damage in DAMAGES:
        file, directory = data / f"{damage.__name__}.db", data / damage.__name__
        directory.mkdir(parents=True)
        for db in (file, directory):
            with kvfs.open(str(db), TABLE, config=Config(watch=False)) as store:
                store.set_many([Set(f"k{number}", b"x" * 100, "text/plain") for number in range(100)])
        damage(file)
        damage(directory / f".kvfs/{TABLE}.oplog")
        dbs += [file.name, directory]
    with serving(tmp_path, variables={"KVFS_TOKEN": TOKEN}) as server:
        statuses = set()
        for answer in (answer for db in dbs for answer in answers(server, db)):
            statuses.add(answer.status)
            if answer.status >= 400:
                text = "\n".join(map(str, answer.json().values()))
                assert too_much(text, allowed=(str(data), "/etc/passwd")) == [], answer
            assert TOKEN.encode() not in answer.body
        assert statuses >= {200, 400, 404, 500}
        server.stop()
    assert TOKEN not in server.out + server.err
