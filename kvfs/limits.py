"""What a write may ask for: keys that are keys, and no more of them than a batch may have."""

from __future__ import annotations

from kvfs.config import Config
from kvfs.errors import InvalidParameters
from kvfs.keys import check_key
from kvfs.model import INLINE_MAX_BYTES, BatchDelete, BatchSet, KeyWrite, Rollback, RollbackTable, Set, Write


def check(write: Write, config: Config) -> tuple[int, bool]:
    """Check a write's keys; how many bytes its values have, and whether it may take long.

    Raises `InvalidParameters` or `PayloadTooLarge`.
    """
    if isinstance(write, BatchSet | BatchDelete):
        keys = write.keys if isinstance(write, BatchDelete) else [item.key for item in write.items]
        if len(keys) > config.max_batch_items:
            raise InvalidParameters(f"a batch has at most {config.max_batch_items} items")
        for key in keys:
            check_key(key)
        return (0, True) if isinstance(write, BatchDelete) else (sum(map(_size, write.items)), True)
    if isinstance(write, RollbackTable):
        for key in (*(write.keys or ()), *(write.exclude_keys or ())):
            check_key(key)
        return 0, True
    check_key(write.key)
    if isinstance(write, Rollback):
        return 0, True
    size = _size(write)
    return size, size > INLINE_MAX_BYTES


def _size(write: KeyWrite) -> int:
    return len(write.value) if isinstance(write, Set) else 0
