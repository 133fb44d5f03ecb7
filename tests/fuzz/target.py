"""A target of fuzzing, and how it is run: so many inputs, from a seed, each checked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.mutation import mutated

_ROUND = 500
"""So many examples at once: Hypothesis remembers all of a run."""


@contextmanager
def nowhere() -> Iterator[None]:
    """For targets that need nothing."""
    yield


@dataclass(frozen=True)
class Target:
    """What is fuzzed: `check(place, input)` fails for a bug, of whatever is drawn from `inputs`.

    `place` is what `opened` gives, once for many inputs. Each example that is drawn is tried, and so many
    `mutants` of it, which cost next to nothing. `few` inputs are tried by the ordinary suite, and `share` of
    each thousand by a long run.
    """

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any, Any], None]
    few: int
    share: float
    mutants: int = 24
    opened: Callable[[], AbstractContextManager[Any]] = nowhere


def run(target: Target, *, inputs: int, begin: int = 0) -> int:
    """Try at least so many inputs, the same ones for the same `begin`; how many were tried.

    Raises what fails, with the input in a note.
    """
    tried = 0
    with target.opened() as place:
        for number in itertools.count(begin):
            left = inputs - tried
            if left <= 0:
                return tried
            before = tried

            def attempt(example: tuple[Any, int]) -> None:
                nonlocal tried
                given, chance = example
                rng = random.Random(chance)
                for turn in range(target.mutants + 1):
                    tried += 1
                    tried_now = mutated(rng, given) if turn else given
                    try:
                        target.check(place, tried_now)
                    except BaseException as error:
                        error.add_note(f"{target.name}: {tried_now!r}")
                        raise

            _drawing(attempt, target.inputs, number, min(_ROUND, -(-left // (target.mutants + 1))))()
            assert tried > before, f"{target.name}: there are no inputs"
    raise AssertionError


def _drawing(
    attempt: Callable[[tuple[Any, int]], None], inputs: SearchStrategy[Any], number: int, examples: int
) -> Callable[[], None]:
    """Whoever runs this says how long: no example is kept, or tried for being an old one."""
    lasting = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    drawn: Callable[[], None] = seed(number)(
        lasting(given(st.tuples(inputs, st.integers(0, 2**32)))(attempt))
    )
    return drawn
