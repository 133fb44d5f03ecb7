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
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kvfs.directory import files
from kvfs.directory.files import Found, NoKey, Tree
from kvfs.directory.names import path_of
from kvfs.directory.state import State
from kvfs.model import FileValue, Op, Origin, value_bytes
from kvfs.oplog import value_hash

_OPS_AT_ONCE: Final = 500


def recover(state: State, tree: Tree) -> None:
    """Bring files and index up to the log, from what the index knows of the files."""
    for op in _last_ops(state, after=state.index.applied_seq):
        row = state.index.own(op.key)
        with _Seen(tree, op.key) as seen:
            if op.origin is Origin.FILE:
                _look_later(state, op)
            elif seen.holds(op):
                _adopt(state, op, seen.found)
            elif seen.signature == (None if row is None else row.signature):
                _redo(state, tree, op)
            else:
                _look_later(state, op)


def rebuild(state: State, tree: Tree) -> None:
    """Fill an empty index from the log, and bring the files up to it."""
    durable = state.durable_seq()
    for key in state.log.keys(state.connection, "", None):
        op = state.log.last_op(state.connection, key)
        if op is not None:
            _look_later(state, op)
    for op in _last_ops(state, after=durable):
        if op.origin is Origin.FILE:
            continue
        with _Seen(tree, op.key) as seen:
            if seen.holds(op):
                _adopt(state, op, seen.found)
            elif seen.fell_back(op, state, durable=durable):
                _redo(state, tree, op)


class _Seen:
    """What lies at a key's place now; something that is no key counts as nothing that is ours."""

    def __init__(self, tree: Tree, key: str) -> None:
        self.taken = False
        try:
            self.found = tree.read(key)
        except NoKey:
            self.found = None
            self.taken = True
        self._value = None if self.found is None else self.found.value
        self.sha256 = None if self._value is None else value_hash(self._value)

    @property
    def signature(self) -> files.Signature | None:
        return None if self.found is None else self.found.signature

    def holds(self, op: Op) -> bool:
        """Whether the file is what the op made of it."""
        return not self.taken and self.sha256 == (None if op.entry is None else op.entry.sha256)

    def fell_back(self, op: Op, state: State, *, durable: int) -> bool:
        """Whether the file may be what a power cut left of an earlier state, or of the op's own."""
        if self.taken:
            return False
        if self._value is None or not len(self._value):
            return True
        number = op.op_number
        while number > 1:
            number -= 1
            earlier = state.log.op(state.connection, op.key, number)
            if earlier is None:
                break
            if earlier.entry is not None and earlier.entry.sha256 == self.sha256:
                return True
            if earlier.seq <= durable:
                break
        value = state.redo_value(op)
        return value is not None and value.startswith(value_bytes(self._value))

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *_exc: object) -> None:
        if isinstance(self._value, FileValue):
            self._value.close()


def _last_ops(state: State, *, after: int) -> Iterator[Op]:
    """The last op of each key that has one after this seq."""
    last: dict[str, int] = {}
    while ops := state.log.since(state.connection, after, _OPS_AT_ONCE):
        last.update((op.key, op.op_number) for op in ops)
        after = ops[-1].seq
    for key, op_number in last.items():
        op = state.log.op(state.connection, key, op_number)
        if op is not None:
            yield op


def _adopt(state: State, op: Op, found: Found | None) -> None:
    """Know the key as the op left it, with the file that is there."""
    if op.entry is None or found is None:
        state.index.drop(op.key)
    else:
        state.index.put(op.entry, found.folder, found.signature)


def _look_later(state: State, op: Op) -> None:
    """Know the key as the op left it; what its file says is for the next look to find."""
    if op.entry is None:
        state.index.drop(op.key)
    else:
        state.index.put(op.entry, "/".join(path_of(op.key)[:-1]), None)


def _redo(state: State, tree: Tree, op: Op) -> None:
    """Put the op's value in place, or take the file away."""
    name = f"redo-{op.seq}"
    files.remove(state.temporary, name)
    value = state.redo_value(op)
    if op.entry is None:
        tree.displace(op.key, name, state.temporary)
        state.index.drop(op.key)
    elif value is not None:
        files.write_new(state.temporary, name, value)
        tree.place(op.key, name, state.temporary)
        _adopt(state, op, tree.look(op.key))
    else:
        _look_later(state, op)
    files.remove(state.temporary, name)
