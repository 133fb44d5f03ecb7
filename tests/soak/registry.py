"""All faults that there are. A module that adds some names them in a `FAULTS` of its own."""

from __future__ import annotations

from tests.soak import ends, io_errors, mixed, overflow, shortage, times

FAULTS = (*ends.FAULTS, *shortage.FAULTS, *io_errors.FAULTS, *times.FAULTS, *overflow.FAULTS, *mixed.FAULTS)
