"""Looks for an order of the operations of a history that explains all answers, and keeps to their times.

The algorithm is Wing's and Gong's ("Testing and Verifying Concurrent Objects", 1993) as Lowe improved it
("Testing for linearizability", 2017): go through the history, let each call happen that may come next, and go
back where an answer comes whose call has not happened; never try again from where one was, which is told by
which calls have happened and the state that they have left. A history is linearizable if those of its
independent parts are (Herlihy and Wing, 1990), so keys are looked at one by one, but for those that a batch
has touched together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.linearizability.model import READS, UNNUMBERED, Answer, History, Kind, Operation, Register, apply

_TOLD: Final = 8

State = tuple[Register, ...]


def check(history: History) -> str | None:
    """Why no order explains the history; None where one does."""
    for keys, part in parts(history):
        search = _Search(keys, part)
        if not search.run():
            return search.explanation()
    return None


def parts(history: History) -> Iterator[tuple[tuple[str, ...], list[Operation]]]:
    """The keys that some call has touched together, with all operations on them."""
    group: dict[str, set[str]] = {}
    for operation in history:
        merged = set().union(*(group.get(key, {key}) for key in operation.call.keys))
        group.update(dict.fromkeys(merged, merged))
    done: set[str] = set()
    for key, keys in group.items():
        if key not in done:
            done |= keys
            yield tuple(sorted(keys)), [each for each in history if each.call.keys[0] in keys]


class _Search:
    """One part of a history, and how far it could be explained.

    `_next` and `_before` make the list of events that have not happened: `2 * i` is the call of operation
    `i`, `2 * i + 1` its answer, the last number the head and the tail.
    """

    def __init__(self, keys: tuple[str, ...], part: list[Operation]) -> None:
        # Whether a read happened at which nobody has heard the answer is no question.
        self._part = [each for each in part if each.answer is not None or each.call.kind not in READS]
        self._numbered = not any(each.call.kind in UNNUMBERED for each in part)
        self._keys = keys
        at = {key: number for number, key in enumerate(keys)}
        self._places = [[at[key] for key in each.call.keys] for each in self._part]
        self._end = 2 * len(self._part)
        events: list[tuple[int, bool, int]] = []
        for number, each in enumerate(self._part):
            events.append((each.began_ns, False, 2 * number))
            if each.answer is not None:
                assert each.ended_ns is not None
                events.append((each.ended_ns, True, 2 * number + 1))
        order = [event for *_, event in sorted(events)]
        self._next = [self._end] * (self._end + 1)
        self._before = [self._end] * (self._end + 1)
        for one, other in zip([self._end, *order], [*order, self._end], strict=True):
            self._next[one], self._before[other] = other, one
        self._best: tuple[list[int], State, int] = ([], (), 0)

    def run(self) -> bool:
        """Whether there is an order."""
        state: State = (Register(),) * len(self._keys)
        happened = 0
        seen = {(happened, state)}
        way: list[tuple[int, State]] = []
        answers = sum(each.answer is not None for each in self._part)
        event = self._next[self._end]
        while answers:
            if event % 2 == 0 and event != self._end:
                after = self._step(event // 2, state)
                happening = happened | 1 << event // 2
                if after is not None and (happening, after) not in seen:
                    seen.add((happening, after))
                    way.append((event, state))
                    state, happened = after, happening
                    answers -= self._lift(event)
                    event = self._next[self._end]
                else:
                    event = self._next[event]
                continue
            # An answer whose call has not happened: one of those before it was wrong.
            if len(way) >= len(self._best[0]):
                self._best = [call // 2 for call, _ in way], state, event // 2
            if not way:
                return False
            event, state = way.pop()
            happened &= ~(1 << event // 2)
            answers += self._put_back(event)
            event = self._next[event]
        return True

    def explanation(self) -> str:
        """How far one comes, and what cannot be."""
        happened, state, blocked = self._best
        late = self._part[blocked]
        assert late.ended_ns is not None
        pending = [
            each
            for number, each in enumerate(self._part)
            if number not in happened and each.began_ns <= late.ended_ns and number != blocked
        ]
        return "\n".join(
            [
                f"No order explains what was told of {', '.join(self._keys)}.",
                f"{len(happened)} of {len(self._part)} operations can be, the last of them:",
                *(f"  {_told(self._part[number])}" for number in happened[-_TOLD:]),
                "Then there is:",
                *(f"  {key}: {register}" for key, register in zip(self._keys, state, strict=True)),
                "and not what was told:",
                f"  {_told(late)}",
                "though these might come before it:",
                *(f"  {_told(each)}" for each in pending[:_TOLD]),
            ]
        )

    # --- parts -------------------------------------------------------------------------------------------

    def _step(self, number: int, state: State) -> State | None:
        """The state after an operation; None where it would have been told something else."""
        operation, places = self._part[number], self._places[number]
        registers, answer = apply(operation.call, [state[place] for place in places])
        told = operation.answer
        # A program may remove the file that a DELETE was about to remove: both have done it then.
        both = not self._numbered and operation.call.kind is Kind.DELETE and answer.code is not None
        if told is not None and not both and not answer.agrees(told, numbered=self._numbered):
            return None
        after = [*state]
        for place, register in zip(places, registers, strict=True):
            after[place] = register if self._numbered else Register(register.value)
        return tuple(after)

    def _lift(self, call: int) -> bool:
        """Take a call out of the list, and its answer if it has one: whether it has."""
        self._skip(call)
        if self._part[call // 2].answer is None:
            return False
        self._skip(call + 1)
        return True

    def _put_back(self, call: int) -> bool:
        """The inverse of `_lift`, in the inverse order."""
        answered = self._part[call // 2].answer is not None
        if answered:
            self._restore(call + 1)
        self._restore(call)
        return answered

    def _skip(self, event: int) -> None:
        self._next[self._before[event]] = self._next[event]
        self._before[self._next[event]] = self._before[event]

    def _restore(self, event: int) -> None:
        self._next[self._before[event]] = event
        self._before[self._next[event]] = event


def _told(operation: Operation) -> str:
    call, answer = operation.call, operation.answer
    asked = (
        f"{operation.client}: {call.kind} {' '.join(call.keys)} {' '.join(map(repr, call.values))}".rstrip()
    )
    heard = "nobody knows" if answer is None else _heard(answer)
    ended = "…" if operation.ended_ns is None else str(operation.ended_ns)
    return f"{asked} → {heard}  [{operation.began_ns}, {ended}]"


def _heard(answer: Answer) -> str:
    fields = {name: value for name, value in answer._asdict().items() if value not in ((), None)}
    return ", ".join(f"{name}={value}" for name, value in fields.items()) or "done"
