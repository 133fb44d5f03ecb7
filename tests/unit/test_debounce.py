"""One save is one op: when a changed key is ready to be recorded."""

from __future__ import annotations

from collections.abc import Mapping

from kvfs.directory.debounce import ABSENT_S, LONGEST_S, LOOK_S, Debounce, Sight, Verdict
from kvfs.directory.looks import Signature

KEY = "key"
STEP_S = 0.01
OLD = Signature(1, 1, 1, 1)
ABSENT = Sight(None, OLD, True)
KNOWN = Sight(OLD, OLD, True)
NEVER_THERE = Sight(None, None, False)


def edited(number: int) -> Sight:
    """The file after an edit."""
    return Sight(Signature(1, 1, 1, number), OLD, True)


def ended(edits: Mapping[float, Sight], *, events: bool = True) -> tuple[Verdict, float] | None:
    """How and when it ends for a key that looks so from these times on, with an event for each."""
    debounce = Debounce()
    debounce.note(KEY, 0.0, announced=events)
    sight = edits[0.0]
    for step in range(1000):
        now = step * STEP_S
        if step and now in edits:
            sight = edits[now]
            if events:
                debounce.note(KEY, now, announced=True)
        for key in debounce.due(now, 10):
            verdict, announced = debounce.decide(key, sight, now)
            assert announced is events
            if verdict is not Verdict.WAIT:
                assert len(debounce) == 0
                assert debounce.next_due() is None
                return verdict, now
    return None


def every(interval_steps: int, *sights: Sight) -> dict[float, Sight]:
    """These, in turn, for longer than anybody waits."""
    count = 1000 // interval_steps
    return {n * interval_steps * STEP_S: sights[n % len(sights)] for n in range(count)}


def test_an_edit_is_ready_soon_after_it() -> None:
    end = ended({0.0: edited(2)})

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert end[1] < 0.25


def test_a_file_that_changes_again_is_waited_for() -> None:
    end = ended({0.0: edited(2), 10 * STEP_S: edited(3), 20 * STEP_S: edited(4)})

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert 0.3 < end[1] < 0.5


def test_a_change_without_an_event_is_seen_by_the_next_look() -> None:
    end = ended({0.0: edited(2), 10 * STEP_S: edited(3)}, events=False)

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert 0.25 < end[1] < 0.5


def test_a_file_that_never_rests_is_ready_in_the_end() -> None:
    end = ended(every(5, *map(edited, range(2, 300))))

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert LONGEST_S <= end[1] < LONGEST_S + 0.2


def test_a_file_that_is_deleted_and_made_anew_never_seems_deleted() -> None:
    end = ended({0.0: ABSENT, 30 * STEP_S: edited(2)})

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert end[1] > 0.3 + LOOK_S


def test_a_file_that_keeps_away_is_ready_later() -> None:
    end = ended({0.0: ABSENT})

    assert end is not None
    assert end[0] is Verdict.SETTLE
    assert ABSENT_S <= end[1] < ABSENT_S + 0.1


def test_a_file_that_comes_and_goes_is_never_taken_for_deleted() -> None:
    debounce = Debounce()
    looks = every(20, ABSENT, edited(2))
    sight = looks[0.0]
    for step in range(1000):
        now = step * STEP_S
        if now in looks:
            sight = looks[now]
            debounce.note(KEY, now, announced=True)
        for key in debounce.due(now, 10):
            verdict, _ = debounce.decide(key, sight, now)
            assert verdict is Verdict.WAIT or sight.signature is not None


def test_what_is_as_it_is_known_is_dropped_at_the_first_look() -> None:
    for sight in (KNOWN, NEVER_THERE):
        end = ended({0.0: sight})

        assert end is not None
        assert end[0] is Verdict.DROP
        assert end[1] < 2 * LOOK_S


def test_no_more_keys_are_due_at_once_than_are_asked_for() -> None:
    debounce = Debounce()
    for number in range(10):
        debounce.note(str(number), 0.0, announced=True)

    first, second = debounce.due(1.0, 6), debounce.due(1.0, 6)

    assert sorted(first + second) == [str(number) for number in range(10)]
    assert len(first) == 6
