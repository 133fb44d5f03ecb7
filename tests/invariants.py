"""What holds for every store at rest, read off its files by plain SQL, without the code under test.

`check_table` and `check_folder` raise `AssertionError` naming each thing that is wrong. Both may look at a
store that is open, here or in another process: they take one consistent look. What is read here is what
`kvfs.oplog`, `kvfs.table` and `kvfs.directory` document as their formats.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from kvfs.directory.names import is_ignored, key_of, path_of
from kvfs.model import Op, value_bytes
from tests.programs import connect

GAP, BLOB, ABSENT = 1, 2, 4
TOMBSTONES = {"delete", "expire"}
TYPES = {"set", "incr", "decr", "push", "pop", "remove", "expire_set", "persist", "rollback"} | TOMBSTONES
ORIGINS = {"api", "sql", "file"}


@dataclass(frozen=True, slots=True)
class Logged:
    """A row of an op-log."""

    seq: int
    key: str
    op_number: int
    op_type: str
    origin: str
    ts_ns: int
    value: bytes | None
    content_type: str | None
    size: int | None
    value_hash: bytes | None
    created_s: int | None
    updated_s: int | None
    expire_ns: int | None
    ttl_s: int | None
    flags: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A key as the table or the index has it now."""

    value_hash: bytes | None
    size: int | None
    content_type: str | None
    created_s: int | None
    updated_s: int | None
    expire_ns: int | None
    op_number: int


# --- the two checks ----------------------------------------------------------------------------------


def check_table(path: str | Path) -> dict[str, list[Logged]]:
    """Every KV table of a database file is what its log says; the logs, by the tables' names."""
    with closing(_opened(path)) as connection, connection:
        wrong = [] if connection.pragma("integrity_check") == "ok" else ["the database is damaged"]
        logs = {}
        for name in _stores(connection):
            logs[name] = log = _log(connection, name)
            rows = dict(_rows(connection, name))
            pruned_seq = _pruned_seq(connection, name)
            wrong += [
                f"{name}: {what}" for what in (*_wrong_in_log(log, pruned_seq), *_wrong_in_rows(log, rows))
            ]
    assert not wrong, "\n".join(wrong)
    return logs


def check_folder(
    db: str | Path, table: str, *, strangers: Collection[str] = (), crashed: bool = False
) -> list[Logged]:
    """A folder's files and its index are what its log says, and nothing else is there; the log.

    `strangers` are paths below the folder that somebody else put there and that are no keys. What was done
    to the folder from outside must have been looked at. One that `crashed` may have kept a blob for an op
    that was never committed, or for one that was pruned.
    """
    folder, home = Path(db, table), Path(db, ".kvfs")
    with _locked(home / f"{table}.lock"):
        with closing(_opened(home / f"{table}.oplog")) as connection, connection:
            wrong = [] if connection.pragma("integrity_check") == "ok" else ["the op-log is damaged"]
            (name,) = _stores(connection)
            log = [_with_blob(op, home / f"{table}.blobs") for op in _log(connection, name)]
            pruned_seq = _pruned_seq(connection, name)
            if not crashed:
                wrong += _wrong_among_blobs(connection, home / f"{table}.blobs", log)
        with closing(_opened(home / f"{table}.index")) as connection, connection:
            wrong += [] if connection.pragma("integrity_check") == "ok" else ["the index is damaged"]
            rows = {key: kept for key, kept, *_ in _indexed(connection)}
            wrong += _wrong_in_index(connection, folder, log)
        wrong += _wrong_in_log(log, pruned_seq)
        wrong += _wrong_in_rows(log, rows)
        wrong += _wrong_among_files(folder, log, strangers)
        left = sorted(set(os.listdir(home / "tmp" / table)) - {"clock"})
        wrong += [f"left in tmp: {left}"] if left else []
    assert not wrong, "\n".join(wrong)
    return log


def check_ops(ops: Sequence[Op], *, pruned_seq: int) -> None:
    """A log that is held in memory is one that could be in a file."""
    wrong = [*_wrong_in_log([_logged(op) for op in ops], pruned_seq)]
    assert not wrong, "\n".join(wrong)


# --- the log -----------------------------------------------------------------------------------------


def _wrong_in_log(log: list[Logged], pruned_seq: int) -> Iterator[str]:
    """What was pruned is a beginning of each key's ops, up to `pruned_seq`; nothing else is missing."""
    numbers: dict[str, int] = {}
    seq = ts_ns = pruned = 0
    for op in log:
        if op.seq != seq + 1 and op.seq > pruned_seq + 1:
            yield f"seq {op.seq} comes after {seq}"
        if op.ts_ns < ts_ns:
            yield f"seq {op.seq}: time runs backwards"
        seq, ts_ns = op.seq, op.ts_ns
        if op.key not in numbers:
            pruned += op.op_number - 1
        elif op.op_number != numbers[op.key] + 1:
            yield f"{op.key!r}: op {op.op_number} after {numbers[op.key]}"
        numbers[op.key] = op.op_number
        yield from (f"{op.key!r} op {op.op_number}: {what}" for what in _wrong_in_op(op))
    if seq - len(log) != pruned or pruned_seq > seq:
        yield f"{seq - len(log)} ops of the log are missing, {pruned} of its keys, up to seq {pruned_seq}"


def _wrong_in_op(op: Logged) -> Iterator[str]:
    if op.op_type not in TYPES or op.origin not in ORIGINS:
        yield f"type {op.op_type}, origin {op.origin}"
    state = (op.content_type, op.size, op.value_hash, op.created_s, op.updated_s)
    if op.op_type in TOMBSTONES or (op.op_type == "rollback" and op.created_s is None):
        if any(each is not None for each in (*state, op.value, op.expire_ns)):
            yield "a tombstone with a state"
        return
    if any(each is None for each in (state[1:] if op.origin == "sql" else state)):
        yield f"a state with holes: {state}"
    if op.flags in (GAP, GAP | ABSENT):
        if op.value is not None:
            yield "a gap with a value"
    elif op.value is None:
        yield "no value, and no gap"
    elif (len(op.value), hashed(op.value)) != (op.size, op.value_hash):
        yield "size or hash is not the value's"


def _wrong_in_rows(log: list[Logged], rows: dict[str, Kept]) -> Iterator[str]:
    last = {op.key: op for op in log}
    for key in last.keys() | rows.keys():
        op, row = last.get(key), rows.get(key)
        if op is None:
            yield f"{key!r} is there, and has no op"
        elif _leaves_nothing(op):
            if row is not None:
                yield f"{key!r} is there after its {op.op_type}"
        elif row is None:
            yield f"{key!r} is missing after its {op.op_type}"
        else:
            logged = Kept(
                op.value_hash, op.size, op.content_type, op.created_s, op.updated_s, op.expire_ns,
                op.op_number,
            )  # fmt: skip
            if logged != row:
                yield f"{key!r} is {row}, and its last op says {logged}"


def _leaves_nothing(op: Logged) -> bool:
    """Whether there is no such key if this is its last op."""
    return op.created_s is None or bool(op.flags & ABSENT)


# --- the folder --------------------------------------------------------------------------------------


def _wrong_among_files(folder: Path, log: list[Logged], strangers: Collection[str]) -> Iterator[str]:
    wanted = {op.key: op for op in {op.key: op for op in log}.values() if not _leaves_nothing(op)}
    seen: set[str] = set()
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        above = waiting.pop()
        with os.scandir(folder.joinpath(*above)) as found:
            entries = [*found]
        for entry in entries:
            names = (*above, entry.name)
            path = "/".join(names)
            if path in strangers:
                continue
            if entry.is_dir(follow_symlinks=False):
                if is_ignored(entry.name):
                    yield f"{path!r}: a folder that is no key's"
                else:
                    waiting.append(names)
                continue
            key = key_of(names)
            if key is None or not entry.is_file(follow_symlinks=False):
                yield f"{path!r}: a file that is no key's"
                continue
            if key in seen:
                yield f"{path!r}: another file of {key!r}"
            elif key not in wanted:
                yield f"{path!r}: a file, and {key!r} is not there"
            elif hashed(Path(entry.path).read_bytes()) != wanted[key].value_hash:
                yield f"{path!r}: not the value of the last op of {key!r}"
            seen.add(key)
    yield from (f"{key!r} has no file" for key in wanted.keys() - seen)


def _with_blob(op: Logged, blobs: Path) -> Logged:
    """An op with its value, also where that is in a blob."""
    if op.flags != BLOB or op.value_hash is None:
        return op
    name = op.value_hash.hex()
    file = blobs / name[:2] / name
    return replace(op, flags=0, value=file.read_bytes() if file.exists() else None)


def _wrong_among_blobs(connection: apsw.Connection, blobs: Path, log: list[Logged]) -> Iterator[str]:
    """All blobs are named by ops, or kept until the files of gaps are durable."""
    waiting = {seq for (seq,) in _query(connection, "SELECT seq FROM kvfs_redo WHERE value IS NULL")}
    named = {op.value_hash.hex() for op in log if op.value_hash and (not op.flags or op.seq in waiting)}
    for file in blobs.glob("*/*"):
        if file.name not in named:
            yield f"{file.name}: a blob that no op names"


def _wrong_in_index(connection: apsw.Connection, folder: Path, log: list[Logged]) -> Iterator[str]:
    """Signatures are the files' own, and all ops are applied."""
    applied = _query(connection, "SELECT value FROM meta WHERE name = 'applied_seq'")[0][0]
    last = log[-1].seq if log else 0
    if applied != last:
        yield f"the index has applied the ops up to {applied}, and the log those up to {last}"
    for key, _, in_folder, signature in _indexed(connection):
        names = [*in_folder.split("/")] if in_folder else []
        own = list(path_of(key)) == names
        file = folder.joinpath(*path_of(key), *(["%value"] if own else []))
        try:
            status = os.lstat(file)
        except OSError:
            continue  # a missing file is told elsewhere
        if signature[0] is not None and signature != (
            status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        ):  # fmt: skip
            yield f"{key!r}: the index has another signature than the file"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody writes to the folder meanwhile."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _logged(op: Op) -> Logged:
    gap = int(not op.recorded)
    head = op.seq, op.key, op.op_number, op.op_type.value, op.origin.value, op.ts_ns
    entry = op.entry
    if entry is None:
        return Logged(*head, None, None, None, None, None, None, None, op.ttl_s, gap)
    value = entry.value if op.recorded else None
    return Logged(
        *head, value_bytes(value) if value is not None else None, entry.content_type, entry.size,
        entry.sha256, entry.created_s, entry.updated_s, entry.expire_ns, op.ttl_s, gap,
    )  # fmt: skip


# --- rows --------------------------------------------------------------------------------------------


def _opened(path: str | Path) -> apsw.Connection:
    # Not the standard library's SQLite: closing a file that another SQLite of this process has open
    # would drop its locks.
    connection = connect(path, flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(5000)
    return connection


def _query(connection: apsw.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()


def _stores(connection: apsw.Connection) -> list[str]:
    if not connection.table_exists("main", "kvfs_stores"):
        return []
    return [name for (name,) in _query(connection, "SELECT name FROM kvfs_stores")]


def _log(connection: apsw.Connection, name: str) -> list[Logged]:
    rows = _query(
        connection,
        "SELECT seq, key, op_number, op_type, origin, ts_ns, CAST(value AS BLOB), content_type, size,"
        " value_hash, created_s, updated_s, expire_ns, ttl_s, flags"
        f' FROM "kvfs_oplog_{name}" ORDER BY seq',
    )
    return [_hashed(Logged(*row)) for row in rows]


def _hashed(op: Logged) -> Logged:
    """An op with its hash, which a trigger cannot make."""
    if op.origin == "sql" and op.value is not None and op.value_hash is None:
        return replace(op, value_hash=hashed(op.value))
    return op


def _pruned_seq(connection: apsw.Connection, name: str) -> int:
    if not connection.table_exists("main", "kvfs_retention"):
        return 0
    pruned = _query(connection, f"SELECT pruned_seq FROM kvfs_retention WHERE name = '{name}'")
    return int(pruned[0][0]) if pruned else 0


def _rows(connection: apsw.Connection, name: str) -> Iterator[tuple[str, Kept]]:
    for key, value, content_type, created_s, updated_s, expire_at, op_number in _query(
        connection,
        "SELECT key, CAST(value AS BLOB), content_type, created_at, updated_at, expire_at, op_number"
        f' FROM "{name}"',
    ):
        expire_ns = None
        if isinstance(expire_at, int | float):
            expire_ns = round(max(0, min(expire_at * 1000, 9e12))) * 1_000_000
        yield key, Kept(hashed(value), len(value), content_type, created_s, updated_s, expire_ns, op_number)


def _indexed(connection: apsw.Connection) -> Iterator[tuple[str, Kept, str, tuple[Any, ...]]]:
    for key, folder, inode, size, mtime_ns, ctime_ns, digest, *entry in _query(
        connection,
        "SELECT key, folder, inode, size, mtime_ns, ctime_ns, sha256, content_type, created_s, updated_s,"
        " expire_ns, op_number FROM files",
    ):
        yield key, Kept(digest, size, *entry), folder, (inode, size, mtime_ns, ctime_ns)


def hashed(value: bytes) -> bytes:
    """The hash that a log keeps of a value."""
    return hashlib.sha256(value).digest()
