"""Histograms whose buckets double in size: cheap enough to add to in every request."""

from __future__ import annotations

from typing import Final

_BITS: Final = 64


class Histogram:
    """How many values there were of each size: `counts[i]` of those with `i` bits, so below 2**i.

    `total` is their sum. Values are integers from 0 to 2**63. One thread at a time may `add`; any may read.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BITS
        self.total = 0

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[value.bit_length()] += 1
        self.total += value

    def copy(self) -> Histogram:
        """What it is now, which does not change any more."""
        copy = Histogram()
        copy.counts, copy.total = list(self.counts), self.total
        return copy
