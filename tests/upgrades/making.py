"""Makes `fixtures/stores/format-<n>`: stores of the present format, and what is in them; `make stores`.

They are made once, when a format is new, and never again: later versions must read what this one wrote.
Each store is there twice: as its program left it (`closed`), and copied while it ran (`running`), with
write-ahead logs that are not in their files yet.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import apsw

from kvfs.blobs import BLOB_MIN_BYTES
from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.handle import Handle
from kvfs.model import Incr
from kvfs.paths import Paths
from kvfs.registry import FORMAT
from tests.clocks import NS, HandClock
from tests.serving import ROOT
from tests.upgrades.telling import told

STORES = ROOT / "fixtures/stores"
TABLE = "site"
CENTURY_S = 100 * 365 * 86_400
ONCE = "sent twice"

KEYS = [
    "text", "json", "bytes", "empty", "dir/", "dir/a", "dir", "../up", "ü 🙂", "long" * 80, "large",
    "counted", "listed", "gap", "lasting", "ran out", "expired", "deleted", "kept", "rolled back", "pruned",
    "once", "outside",
]  # fmt: skip
"""Every key that is ever written."""


def write(store: Handle, clock: HandClock) -> None:
    """At least one op of each kind, and a value of each."""
    for number in range(5):
        store.set("pruned", b"%d" % number)
    clock.move(1)
    store.prune(keep_last=2, before_ns=clock() - NS // 2)
    store.set_retention(keep_last=1000)
    store.set("text", b"a text")
    store.set("text", "another tëxt".encode())
    store.set("json", b'{"n": 1.0, "big": 12345678901234567890, "tags": ["a"]}')
    store.set("json", b'"b"', path="tags[1]")
    store.set("bytes", b"\xff\x00\xfe")
    store.set("empty", b"")
    for key in ("dir/", "dir/a", "dir", "../up", "ü 🙂", "long" * 80):
        store.set(key, key.encode(), content_type="text/plain")
    store.set("large", b"large " * (BLOB_MIN_BYTES // 6 + 1))
    clock.move(1)
    store.incr("counted", 41)
    store.incr("counted", -1)
    for node in (b'"a"', b'"b"', b'"c"'):
        store.push("listed", node)
    store.pop("listed")
    store.remove("listed", index=0)
    store.set("gap", b"not in the log", history=False)
    store.set("gap", b"in the log")
    store.set("gap", b"not in the log either", history=False)
    store.set("lasting", b"for long", ttl_s=CENTURY_S)
    store.set("ran out", b"not for long", ttl_s=600)
    store.set("expired", b"not for long", ttl_s=1)
    store.set("deleted", b"not for long")
    store.set("kept", b"for ever", ttl_s=60)
    store.persist("kept")
    store.set("rolled back", b"first")
    store.set("rolled back", b"second")
    store.expire("rolled back", CENTURY_S)
    clock.move(2)
    store.rollback("rolled back", 2)
    store.delete("deleted")
    expiring = store.reap()
    if expiring is not None:
        expiring.result()
    store.apply(Incr("once"), idempotency_key=ONCE)


def outside(place: Path) -> None:
    """What another program does."""
    if place.is_dir():
        (place / TABLE / "outside").write_text("from a file")
        return
    with closing(apsw.Connection(str(place))) as connection:
        connection.execute(f"INSERT INTO {TABLE} (key, value) VALUES ('outside', 'from SQL')")


@contextmanager
def writing(home: Path, clock: HandClock) -> Iterator[dict[str, Any]]:
    """Stores that are written, and as long as this lasts open; what is in them."""
    config = Config(watch=False, retention_grace_s=0)
    with Engine(Paths(str(home)), clock=clock, config=config) as engine, ExitStack() as stack:
        contents = {}
        for name in ("app.db", "folder/"):
            place = home / name
            store = stack.enter_context(
                engine.lease(str(place) + "/" * name.endswith("/"), TABLE, create=True)
            )
            write(store, clock)
            outside(place)
            store.settle_all()
            if not store.directory:
                store.sql.query(f"SELECT count(*) FROM {TABLE}")
            contents[place.name] = told(store, KEYS)
            (home / f"{place.name}.export").write_bytes(b"".join(store.export(history=store.directory)))
        yield contents


def make() -> None:
    """Make the stores of the present format, which must not be there yet."""
    archive = STORES / f"format-{FORMAT}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive} is there: a format that was written once is never written again")
    STORES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home, closed, running = (Path(folder, name) for name in ("home", "closed", "running"))
        home.mkdir()
        clock = HandClock()
        with writing(home, clock) as contents:
            _copy(home, running)
        _copy(home, closed)
        with tarfile.open(archive, "w:xz") as tar:
            tar.add(closed, "closed")
            tar.add(running, "running")
    golden = {"written_at_ns": clock(), "stores": contents}
    archive.with_name(f"format-{FORMAT}.json").write_text(
        json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    )


def _copy(home: Path, to: Path) -> None:
    """All but what is in shared memory alone, and temporary files."""
    shutil.copytree(home, to, ignore=shutil.ignore_patterns("*-shm", "tmp"))


if __name__ == "__main__":
    make()
