"""A model of a store: what it should hold, told by a plain dict and a list of what was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kvfs import content_types


@dataclass(frozen=True)
class Known:
    """A key as it should be."""

    value: bytes
    content_type: str
    number: int
    created_s: int
    updated_s: int
    expire_ns: int | None = None

    def expired(self, now_ns: int) -> bool:
        return self.expire_ns is not None and self.expire_ns <= now_ns


@dataclass(frozen=True)
class Gap:
    """A past that was not recorded. Once it has run out, the log may know that there was nothing then."""

    expire_ns: int | None = None

    def surely(self, ts_ns: int) -> bool:
        """Whether nothing can be known of it at this time."""
        return self.expire_ns is None or ts_ns < self.expire_ns


Past = Known | Gap | None


@dataclass
class Model:
    """What a store knows (`keys`), how far each key's op numbers have come, and what was when.

    `disk` is what lies in the files, where others may edit them: what `keys` says unless they did. The
    store comes to know of that when it looks, and then it is an op.
    """

    keys: dict[str, Known] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    past: dict[str, list[tuple[int, Past]]] = field(default_factory=dict)
    ran_out: set[str] = field(default_factory=set)
    disk: dict[str, bytes] = field(default_factory=dict)
    oldest: dict[str, int] = field(default_factory=dict)
    """The first op number that pruning has left, of keys of which it took any."""

    def look(self, key: str, now_ns: int) -> Known | None:
        """The key as it is when the store looks at it for a write: what happened to it becomes an op."""
        known = self.keys.get(key)
        if (None if known is None else known.value) != self.disk.get(key):
            self._edited(key, known, now_ns)
        known = self.keys.get(key)
        if known is not None and known.expired(now_ns):
            self._note(key, None, now_ns)
            self.ran_out.add(key)
            return None
        return known

    def peek(self, key: str, now_ns: int) -> Known | None:
        """The key as it is for a read, which does not log that it has run out."""
        known = self.keys.get(key)
        if (None if known is None else known.value) != self.disk.get(key):
            return self.look(key, now_ns)
        return None if known is None or known.expired(now_ns) else known

    def look_at_all(self, now_ns: int) -> None:
        """As `peek`, for every key."""
        for key in self.keys.keys() | self.disk.keys():
            self.peek(key, now_ns)

    def is_expired(self, key: str, now_ns: int) -> bool:
        """Whether a missing key is missing because it ran out."""
        known = self.keys.get(key)
        return key in self.ran_out if known is None else known.expired(now_ns)

    def live(self, now_ns: int) -> dict[str, Known]:
        """What a list should show."""
        return {key: known for key, known in self.keys.items() if not known.expired(now_ns)}

    def write(
        self,
        key: str,
        value: bytes,
        now_ns: int,
        *,
        content_type: str,
        expire_ns: int | None = None,
        history: bool = True,
        touch: bool = True,
    ) -> Known:
        """The store was written to."""
        before = self.keys.get(key)
        now_s = now_ns // 10**9
        known = Known(
            value,
            content_type,
            self.numbers.get(key, 0) + 1,
            created_s=now_s if before is None else before.created_s,
            updated_s=now_s if before is None or touch else before.updated_s,
            expire_ns=expire_ns,
        )
        self._note(key, known, now_ns, history=history)
        return known

    def delete(self, key: str, now_ns: int, *, history: bool = True) -> int:
        """The key was removed; its new op number."""
        self._note(key, None, now_ns, history=history)
        return self.numbers[key]

    def at(self, key: str, ts_ns: int) -> Past:
        """What was at a time."""
        number = self._number_at(key, ts_ns)
        state = self.after(key, number) if number or key in self.oldest else None
        return None if isinstance(state, Known) and state.expired(ts_ns) else state

    def after(self, key: str, number: int) -> Past:
        """What an op left."""
        return Gap() if number < self.oldest.get(key, 1) else self.past[key][number - 1][1]

    def left(self, key: str) -> range:
        """The op numbers that are left of a key."""
        return range(self.oldest.get(key, 1), self.numbers.get(key, 0) + 1)

    def prune(self, before_ns: int | None, keep_last: int | None) -> int:
        """Ops were pruned; how many."""
        pruned = 0
        for key, last in self.numbers.items():
            by_time = last if before_ns is None else self._number_at(key, before_ns)
            by_count = last if keep_last is None else last - keep_last + 1
            oldest, kept = self.left(key)[0], min(by_time, by_count)
            if kept > oldest:
                self.oldest[key] = kept
                pruned += kept - oldest
        return pruned

    def when(self, key: str, number: int) -> int:
        """When an op happened."""
        return self.past[key][number - 1][0]

    def _number_at(self, key: str, ts_ns: int) -> int:
        """The number of a key's last op up to a time; 0 if it had none."""
        return sum(at_ns <= ts_ns for at_ns, _ in self.past.get(key, []))

    def _edited(self, key: str, before: Known | None, now_ns: int) -> None:
        value = self.disk.get(key)
        if value is None:
            self._note(key, None, now_ns)
            return
        content_type = content_types.of_file(key, value)
        if before is not None and content_types.still_true(before.content_type, value):
            content_type = before.content_type
        expire_ns = None if before is None else before.expire_ns
        self.write(key, value, now_ns, content_type=content_type, expire_ns=expire_ns)

    def _note(self, key: str, known: Known | None, now_ns: int, *, history: bool = True) -> None:
        self.numbers[key] = self.numbers.get(key, 0) + 1
        self.ran_out.discard(key)
        self.past.setdefault(key, []).append(
            (now_ns, known if history else Gap(known.expire_ns if known else None))
        )
        if known is None:
            self.keys.pop(key, None)
            self.disk.pop(key, None)
        else:
            assert known.number == self.numbers[key]
            self.keys[key] = replace(known)
            self.disk[key] = known.value
