"""All faults that there are. A module that adds some names them in a `FAULTS` of its own."""

from __future__ import annotations

from tests.soak import ends, mixed, shortage, times

FAULTS = (*ends.FAULTS, *shortage.FAULTS, *times.FAULTS, *mixed.FAULTS)
