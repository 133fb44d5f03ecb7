"""Reading many keys as they were at one instant, without keeping anybody from writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kvfs.errors import NotFound, PathConflict, PayloadTooLarge
from kvfs.model import Entry, FileValue
from kvfs.store import Reader


def collect(
    keys: Iterable[str], get: Callable[[str], Entry], *, max_bytes: int | None
) -> dict[str, Entry | None]:
    """An entry for each key, None where there is none, one after the other; values in memory.

    Raises `PayloadTooLarge` where the values are more than `max_bytes`.
    """
    found: dict[str, Entry | None] = {}
    size = 0
    for key in keys:
        try:
            entry = get(key)
        except (NotFound, PathConflict):
            found[key] = None
            continue
        size += entry.size
        if isinstance(entry.value, FileValue):
            with entry.value as file:
                if max_bytes is None or size <= max_bytes:
                    entry = entry.with_value(file.read())
        if max_bytes is not None and size > max_bytes:
            raise PayloadTooLarge(f"The values are more than {max_bytes} bytes together: ask for fewer")
        found[key] = entry
    return found


def are_the_last(found: Mapping[str, Entry | None], reader: Reader, *, now_ns: int) -> bool:
    """Whether, at the instant that the reader looks at, these were the last states of all these keys.

    They were read before. What was logged since has numbers of its own, so nothing can have come and gone.
    """
    return all(_last_number(reader, key, now_ns) == _number(entry) for key, entry in found.items())


def _last_number(reader: Reader, key: str, now_ns: int) -> int | None:
    bounds = reader.bounds(key)
    last = None if bounds is None else reader.facts(key, bounds[1])
    entry = None if last is None else last.entry
    return None if entry is None or entry.expired(now_ns) else entry.op_number


def _number(entry: Entry | None) -> int | None:
    return None if entry is None else entry.op_number
