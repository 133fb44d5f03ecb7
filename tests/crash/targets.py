"""The stores that crash tests load: through the engine, and over HTTP."""

from __future__ import annotations

from kvfs.errors import NotFound
from kvfs.handle import Handle
from kvfs.model import INLINE_MAX_BYTES, BatchSet, Set
from tests.contract.driver import Driver, Item, StoreError


class EngineTarget:
    """Through the engine."""

    def __init__(self, store: Handle) -> None:
        self._store = store

    def set(self, key: str, value: bytes, history: bool) -> int:
        if len(value) <= INLINE_MAX_BYTES:
            return self._store.set(key, value, history=history).op_number
        with self._store.upload() as file:
            with open(file.fd, "wb", closefd=False) as writing:
                writing.write(value)
            file.size = len(value)
            return self._store.set(key, file, history=history).op_number

    def incr(self, key: str) -> tuple[int, bytes]:
        wrote = self._store.incr(key)
        return wrote.op_number, str(wrote.number).encode()

    def delete(self, key: str) -> int | None:
        try:
            return self._store.delete(key).op_number
        except NotFound:
            return None

    def set_many(self, items: list[tuple[str, bytes]]) -> list[int]:
        sets = tuple(Set(key, value, "text/plain") for key, value in items)
        return [result.op_number for result in self._store.apply(BatchSet(sets)).results]


class HttpTarget:
    """Over HTTP."""

    def __init__(self, store: Driver) -> None:
        self._store = store

    def set(self, key: str, value: bytes, history: bool) -> int:
        return self._store.set(key, value, history=history).op_number or 0

    def incr(self, key: str) -> tuple[int, bytes]:
        wrote = self._store.incr(key)
        return wrote.op_number or 0, str(wrote.number).encode()

    def delete(self, key: str) -> int | None:
        try:
            return self._store.delete(key).op_number
        except StoreError as error:
            if error.code == "KEY_NOT_FOUND":
                return None
            raise

    def set_many(self, items: list[tuple[str, bytes]]) -> list[int]:
        results = self._store.batch_set([Item(key, value.decode(errors="replace")) for key, value in items])
        return [result.op_number or 0 for result in results]
