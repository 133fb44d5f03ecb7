"""Inputs made of others at no cost: pieces cut out, doubled, exchanged, or put in."""

from __future__ import annotations

import random
from typing import Any

WORDS = [
    *"/.%~#[]{}()\"'\\,:;=&?+-*_@$ \n\r\t\0\x7f",
    *("0", "1", "-1", "9" * 20, "1e999", "-0", "0x1", "1_000", "٣", "\udc80", "é", "😀", "\u2028", "\ufeff"),
    *("true", "null", "NaN", "Infinity", "..", "//", "%2F", "%00", "%zz", "%FF", "%C3%A9", "${", "$.", "\\."),
    *("kvfs", "db", "table", "prefix", "limit", "ttl", "timeout", "path", "history", "entry", "snapshot"),
    *("\\ud800", "\\u0000", "[[", "]]", '{"', '"}', "[-1]", "[0]", "%value", "%long"),
]
"""What means something somewhere. A byte that is no UTF-8 is as the parser of HTTP hands it on."""

_BYTE_WORDS = [word.encode(errors="surrogateescape") for word in WORDS]


def mutated(rng: random.Random, given: Any) -> Any:
    """Another input of the same shape; what is neither text nor bytes stays."""
    if isinstance(given, str):
        return _mutated(rng, given, rng.choice(WORDS))
    if isinstance(given, bytes):
        word = rng.choice(_BYTE_WORDS) if rng.random() < 0.7 else bytes([rng.randrange(256)])
        return _mutated(rng, given, word)
    if isinstance(given, tuple):
        at = rng.randrange(len(given))
        return tuple(mutated(rng, part) if place == at else part for place, part in enumerate(given))
    if isinstance(given, list) and given:
        changed = [*given]
        at = rng.randrange(len(changed))
        changed[at] = mutated(rng, changed[at])
        return changed
    return given


def _mutated(rng: random.Random, given: Any, word: Any) -> Any:
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(given))
        end = min(len(given), at + rng.choice((1, 1, 2, 5, 20)))
        given = rng.choice(
            (
                given[:at] + word + given[at:],
                given[:at] + word + given[end:],
                given[:at] + given[end:],
                given[:end] + given[at:],
                given[at:end] + given,
            )
        )
    return given
