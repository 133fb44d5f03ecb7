"""What can be set about an engine, with the defaults."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """Limits of an engine and its stores."""

    max_value_bytes: int = 16 * MIB
    max_batch_items: int = 100
    max_queue: int = 4096
    """How many writes of one volume may wait; one more is refused at once."""
    max_open: int = 64
    """How many volumes (database files, folder stores) are kept open at once."""
    idle_close_s: float = 60.0
    """A volume that nobody used for so long is closed."""
    history_scan_cap: int = 100_000
    """How many candidate keys a read of the past looks at."""
