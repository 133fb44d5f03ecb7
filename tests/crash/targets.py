"""The stores that crash tests load: through the engine, and over HTTP."""

from __future__ import annotations

from kvfs.errors import CasMismatch, NotFound
from kvfs.handle import Handle
from kvfs.model import INLINE_MAX_BYTES, BatchSet, Conditions, FileValue, Set
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

    def get(self, key: str) -> tuple[int, bytes] | None:
        try:
            entry = self._store.get(key)
        except NotFound:
            return None
        assert entry.value is not None
        if isinstance(entry.value, FileValue):
            with entry.value:
                return entry.op_number, entry.value.read()
        return entry.op_number, entry.value

    def swap(self, key: str, value: bytes, op_number: int) -> int | None:
        swap = Set(key, value, "text/plain", conditions=Conditions(etags=(str(op_number),)))
        try:
            return self._store.apply(swap).result.op_number
        except CasMismatch:
            return None


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

    def get(self, key: str) -> tuple[int, bytes] | None:
        try:
            got = self._store.get(key)
        except StoreError as error:
            if error.code == "KEY_NOT_FOUND":
                return None
            raise
        return int(got.etag or 0), got.value

    def swap(self, key: str, value: bytes, op_number: int) -> int | None:
        try:
            return self._store.set(key, value, if_match_etag=str(op_number)).op_number
        except StoreError as error:
            if error.code == "CAS_MISMATCH":
                return None
            raise
