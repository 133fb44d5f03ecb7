"""Somebody who can write to the folder swaps a folder in it for a symlink that leads out, as fast as can be.

Whatever is asked meanwhile: nothing outside is shown, changed or made.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

import kvfs
from kvfs.config import Config
from kvfs.directory import renames
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, Connection, key_path, target_of
from tests.meanwhile import meanwhile

SECRET = b"nobody may read this"
TABLE = "site"
KEYS = ("sub/k", "sub/deeper/k", "k", "sub/large")
LARGE = 400_000
CLIENTS = 3
SOAK_S = 60.0

SWAPPED = ("db/site/sub/deeper", "db/site/sub", "db/site")
"""What is swapped for a symlink to the same path outside: folders of keys, and the folder of the store."""


def fill(home: Path, value: bytes) -> None:
    """The same store, here and there, with other values."""
    (home / "db").mkdir(parents=True)
    with kvfs.open(str(home / "db"), TABLE, config=Config(watch=False)) as store:
        # Folders are not taken away while something lies in them.
        for key in (*KEYS, "sub/deeper/stays"):
            store.set(key, value * (LARGE // len(value)) if key.endswith("large") else value)


def looked_at(home: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that is there. (That somebody looked at it, which only its access times tell, does not matter.)"""
    return {
        str(path.relative_to(home)): (
            path.lstat().st_ino,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(home.rglob("*"))
    }


@contextmanager
def swapping(inside: Path, spare: Path, outside: Path) -> Iterator[None]:
    """Meanwhile there is now this at its path, now a symlink that leads to the other."""
    spare.symlink_to(outside)
    here, there = (os.open(path.parent, os.O_PATH | os.O_DIRECTORY) for path in (inside, spare))

    def swap(stop: threading.Event) -> None:
        while not stop.is_set():
            renames.exchange(here, inside.name, there, spare.name)

    try:
        with meanwhile(swap):
            yield
    finally:
        os.close(here)
        os.close(there)


def requests(db: Path) -> Iterator[tuple[str, str, bytes | None]]:
    """Everything that reads and writes keys."""
    asked = {"db": db, "table": TABLE}
    for key in KEYS:
        yield "GET", target_of(key_path(key), **asked), None
        yield "PUT", target_of(key_path(key), **asked, create_db_if_missing="true"), b"mine"
        yield "PUT", target_of(key_path(key), **asked), b"m" * LARGE
        yield "GET", target_of(key_path(key, "history"), **asked), None
        yield "PUT", target_of(key_path(f"{key}/below"), **asked), b"mine"
        yield "DELETE", target_of(key_path(f"{key}/below"), **asked), None
        yield "POST", target_of(key_path(key, "rollback"), **asked), None
        yield "DELETE", target_of(key_path(key), **asked), None
    yield "GET", target_of(f"{BASE}/kv", **asked, values="true"), None
    yield "GET", target_of(f"{BASE}/kv/export", **asked, history="true"), None
    yield "POST", target_of(f"{BASE}/kv/batch/get", **asked), json.dumps({"keys": KEYS}).encode()
    rebuild = b'{"op": "rebuild"}'
    yield "POST", target_of(f"{BASE}/maintenance", **asked), rebuild


def clients(server: Launched, db: Path, shown: list[bytes]) -> AbstractContextManager[None]:
    """Meanwhile some ask for everything, again and again; what shows the secret is noted."""
    return meanwhile(*[partial(ask_all, server, db, shown)] * CLIENTS)


def ask_all(server: Launched, db: Path, shown: list[bytes], stop: threading.Event) -> None:
    """Ask until then; on a new connection where the last one was cut."""
    connection: Connection | None = None
    while not stop.is_set():
        for method, target, body in requests(db):
            if stop.is_set():
                break
            if connection is None:
                connection = server.connect()
            try:
                answer = connection.ask(method, target, body)
            except (AssertionError, ConnectionError):
                # A file that gets shorter while it is sent breaks the connection.
                connection.close()
                connection = None
                continue
            if SECRET in answer.body:
                shown.append(answer.asked)
            if answer.headers["Connection"] == "close":
                connection.close()
                connection = None
    if connection is not None:
        connection.close()


@pytest.mark.parametrize("seconds", [0.25, pytest.param(SOAK_S, marks=pytest.mark.soak)])
def test_nothing_outside_is_read_or_changed_while_a_folder_is_swapped_for_a_symlink(
    tmp_path: Path, seconds: float
) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    fill(data, b"public")
    fill(outside, SECRET)
    before = looked_at(outside)
    shown: list[bytes] = []
    with serving(tmp_path) as server:
        for number, path in enumerate(SWAPPED):
            (tmp_path / str(number)).mkdir()
            with (
                swapping(data / path, tmp_path / str(number) / "link", outside / path),
                clients(server, data / "db", shown),
            ):
                time.sleep(seconds)
            if (data / path).is_symlink():
                (data / path).unlink()
        assert shown == []
        server.stop()
    after = looked_at(outside)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
