"""Brings files and index up to the op-log after a crash. The lock is held, in log and index a transaction
is open.

The log is the write-ahead log of the files: an op is durable before its file is put in place. `recover`
looks at the last op of each key that may not be in its file yet.

- The index knows how far the files are (`applied_seq`), so at most the last batch is in question. A file
  that has the op's content is in place; one that is as the index saw it waits for its op, which is done
  again; any other was edited since, and becomes an outside op at the next look.
- Without a believable index, or after a power cut, the log's own checkpoint tells how far the files are
  durable. From there on a file may have fallen back: to any state of its key since then (or the last one
  before), to nothing, to emptiness or to a beginning of what was written. Then the op is done again. Any
  other content was somebody's, and stays.

What an exchange displaced lies among the temporary files. Where that is not what the op was decided on,
somebody's edit came in between: it becomes an op as well, and ours is logged again after it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from kvfs import content_types, disk
from kvfs.directory import files
from kvfs.directory.files import Tree
from kvfs.directory.looks import Rights, Signature
from kvfs.directory.names import NoKey, path_of
from kvfs.directory.state import State, clear
from kvfs.model import NS, Entry, FileValue, Op, OpType, Origin, Value, value_bytes, value_hash

_CHUNK_BYTES: Final = 1 << 20
# What will not get better by itself; anything else is tried again with the next batch.
_FOR_GOOD: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
)


def recover(state: State, tree: Tree) -> None:
    """Bring files and index up to the log, from what the index knows of the files."""
    _restore_folders(state, tree)
    applied = state.index.applied_seq
    for op in _last_ops(state, after=applied):
        row = state.index.own(op.key)
        with _Seen(tree, op.key) as seen:
            if state.came_from_file(op):
                _look_later(state, op)
            elif seen.holds(op):
                if not _log_left_over(state, op, applied):
                    _look_later(state, op)
            elif row is None and seen.empty:
                # Nothing was there: the empty file only keeps the name, where there is no better way.
                _redo(state, tree, op)
            elif not seen.taken and seen.sha256 == (None if row is None else row.entry.sha256):
                _redo(state, tree, op)
            else:
                _look_later(state, op)
    clear(state.temporary)


def fill_index(state: State) -> None:
    """Tell an empty index of each key what the log knows; what its file says is for the next look to find."""
    state.index.put_many(
        (op.entry, "/".join(path_of(op.key)[:-1]), None)
        for op in state.log.heads(state.connection)
        if op.entry is not None
    )


def rebuild(state: State, tree: Tree, *, applied: int) -> None:
    """Fill an empty index from the log, and bring the files up to it. The ops up to `applied` are in them."""
    _restore_folders(state, tree)
    durable = max(applied, state.durable_seq())
    fill_index(state)
    power_was_lost = state.power_was_lost()
    for op in _last_ops(state, after=durable):
        if state.came_from_file(op) and not power_was_lost:
            continue
        with _Seen(tree, op.key) as seen:
            if seen.holds(op):
                if not _log_left_over(state, op, durable):
                    _look_later(state, op)
            elif seen.fell_back(op, state, durable=durable):
                _redo(state, tree, op)
    clear(state.temporary)


def write_anew(state: State, tree: Tree) -> None:
    """Write each file again that may not be durable, so that the next sync is of what was just written.

    What somebody else has done to a file since is not ours to undo; the next look finds it. What we took away
    is a name that is gone: there is nothing to write.
    """
    for op in _last_ops(state, after=state.durable_seq()):
        if op.entry is None:
            continue
        row = state.index.own(op.key)
        with _Seen(tree, op.key) as seen:
            # Also where it is not what was written: nobody has touched it, so the disk has lost it.
            untouched = row is not None and row.signature is not None and row.signature == seen.signature
            if untouched or seen.holds(op):
                _write_again(state, tree, op, seen)
            else:
                _look_later(state, op)
    clear(state.temporary)


def log_overtaken(state: State, op: Op, displaced: FileValue | None, *, history_max_bytes: int) -> Op:
    """Log what an exchange displaced, which nobody had seen, and the op again after it; that repetition."""
    seq, ts_ns = state.log.tail(state.connection)
    last = state.log.last(state.connection, op.key)[0]
    theirs = None
    if displaced is not None:
        value: Value = displaced if displaced.size > history_max_bytes else _in_memory(state, displaced)
        theirs = Entry(
            op.key,
            value,
            displaced.size,
            content_types.of_file(op.key, value),
            created_s=ts_ns // NS if op.entry is None else op.entry.created_s,
            updated_s=ts_ns // NS,
            expire_ns=None,
            op_number=last + 1,
            sha256=value_hash(displaced),
        )
    outside = op._replace(
        seq=seq + 1,
        op_number=last + 1,
        op_type=OpType.DELETE if theirs is None else OpType.SET,
        origin=Origin.FILE,
        entry=theirs,
        ts_ns=ts_ns,
        recorded=theirs is None or theirs.size <= history_max_bytes,
        ttl_s=None,
    )
    entry = None if op.entry is None else op.entry._replace(op_number=last + 2)
    again = op._replace(seq=seq + 2, op_number=last + 2, entry=entry, ts_ns=ts_ns)
    state.log.keep_blobs([outside])
    state.log.append(state.connection, [outside, again])
    return again


class _Seen:
    """What lies at a key's place now; something that is no key counts as nothing that is ours."""

    def __init__(self, tree: Tree, key: str) -> None:
        self.taken = False
        try:
            self.found = tree.read(key)
        except NoKey:
            self.found = None
            self.taken = True
        self.value = None if self.found is None else self.found.value
        self.sha256 = None if self.value is None else value_hash(self.value)

    @property
    def signature(self) -> Signature | None:
        return None if self.found is None else self.found.signature

    @property
    def rights(self) -> Rights | None:
        return None if self.found is None else self.found.rights

    @property
    def empty(self) -> bool:
        """Whether there is a file, with nothing in it."""
        return self.value is not None and not len(self.value)

    def holds(self, op: Op) -> bool:
        """Whether the file is what the op made of it."""
        return not self.taken and self.sha256 == (None if op.entry is None else op.entry.sha256)

    def fell_back(self, op: Op, state: State, *, durable: int) -> bool:
        """Whether the file may be what a power cut left of an earlier state, or of the op's own."""
        if self.taken:
            return False
        if self.value is None or not len(self.value):
            return True
        if self.sha256 in _earlier_hashes(state, op, durable):
            return True
        value = state.redo_value(op)
        return value is not None and _starts_with(value, self.value)

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *_exc: object) -> None:
        if isinstance(self.value, FileValue):
            self.value.close()


def _last_ops(state: State, *, after: int) -> list[Op]:
    """The last op of each key that has one after this seq, without values."""
    found = (state.log.facts(state.connection, key) for key in state.log.changed(state.connection, after))
    return [op for op in found if op is not None]


def _earlier_hashes(state: State, op: Op, since: int) -> set[bytes | None]:
    """The hashes of the key's states before this op, back to the last one that is not after `since`."""
    hashes: set[bytes | None] = set()
    for number in range(op.op_number - 1, 0, -1):
        earlier = state.log.facts(state.connection, op.key, number)
        if earlier is None:
            break
        hashes.add(None if earlier.entry is None else earlier.entry.sha256)
        if earlier.seq <= since:
            break
    return hashes


def _log_left_over(state: State, op: Op, since: int) -> bool:
    """Log what the op's exchange displaced, if nobody had seen that: whether it was so."""
    displaced = files.opened(state.temporary, str(op.seq))
    if displaced is None:
        return False
    with displaced:
        sha256 = value_hash(displaced)
        known = _earlier_hashes(state, op, since)
        known.add(None if op.entry is None else op.entry.sha256)
        if sha256 in known:
            return False
        whole = state.log.op(state.connection, op.key, op.op_number)
        assert whole is not None
        again = log_overtaken(state, whole, displaced, history_max_bytes=displaced.size)
        _look_later(state, again)
        return True


def _restore_folders(state: State, tree: Tree) -> None:
    """Put folders in place that were to take a file's name, where the process ended on the way."""
    for name in disk.names_in(state.temporary):
        if name.endswith(".path"):
            with suppress(OSError):
                tree.restore_folder(state.temporary, name)


def _look_later(state: State, op: Op) -> None:
    """Know the key as the op left it; what its file says is for the next look to find."""
    if op.entry is None:
        state.index.drop(op.key)
    else:
        state.index.put(op.entry, "/".join(path_of(op.key)[:-1]), None)


def _redo(state: State, tree: Tree, op: Op) -> None:
    """Put the op's value in place, or take the file away; where that can never be done, the file stays."""
    name = f"redo-{op.seq}"
    files.remove(state.temporary, name)
    whole = state.log.op(state.connection, op.key, op.op_number)
    value = None if whole is None else state.redo_value(whole)
    with _where_it_can_be():
        if op.entry is None:
            tree.displace(op.key, name, state.temporary)
        elif value is not None:
            files.write_new(state.temporary, name, value)
            tree.place(op.key, name, state.temporary)
    _look_later(state, op)
    files.remove(state.temporary, name)


def _write_again(state: State, tree: Tree, op: Op, seen: _Seen) -> None:
    """Put the op's value in place of the file that has it, unless somebody changes that meanwhile."""
    name = f"again-{op.seq}"
    files.remove(state.temporary, name)
    whole = state.log.op(state.connection, op.key, op.op_number)
    value = None if whole is None else state.redo_value(whole)
    if value is None and seen.holds(op):
        value = seen.value
    _look_later(state, op)
    if value is None or whole is None:
        return  # what was seen and not recorded is only in its file, and that is another one by now
    expected: Signature | None = seen.signature
    coming: Signature | None = files.write_new(state.temporary, name, value, seen.rights)
    with _where_it_can_be():
        while not _same(out := _exchanged(tree, op.key, name, state.temporary, coming), expected):
            # Somebody was quicker: what came out goes back.
            expected, coming = coming, out
    files.remove(state.temporary, name)


def _exchanged(tree: Tree, key: str, name: str, store: int, coming: Signature | None) -> Signature | None:
    """Put what is at `name` in place, or nothing; what comes out is there then, and is returned."""
    return tree.displace(key, name, store) if coming is None else tree.place(key, name, store)


def _same(out: Signature | None, expected: Signature | None) -> bool:
    if out is None or expected is None:
        return out is expected
    return out.moved(expected)


@contextmanager
def _where_it_can_be() -> Iterator[None]:
    """What can never be put in place is left as it is."""
    try:
        yield
    except NoKey:
        pass
    except OSError as exc:
        if exc.errno not in _FOR_GOOD:
            raise


def _in_memory(state: State, value: FileValue) -> Value:
    return value if state.log.is_blob(value.size) else value.read()


def _starts_with(value: Value, beginning: Value) -> bool:
    """Whether a value starts with another one."""
    if isinstance(value, bytes) or isinstance(beginning, bytes):
        return value_bytes(value).startswith(value_bytes(beginning))
    return len(beginning) <= len(value) and all(
        value.read(offset, min(_CHUNK_BYTES, len(beginning) - offset)) == beginning.read(offset, _CHUNK_BYTES)
        for offset in range(0, len(beginning), _CHUNK_BYTES)
    )
