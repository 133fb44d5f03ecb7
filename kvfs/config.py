"""What can be set about an engine, with the defaults."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """Limits of an engine and its stores."""

    max_value_bytes: int = 16 * MIB
    history_max_value_bytes: int = 16 * MIB
    """A larger value is a gap in the op-log."""
    baseline: bool = True
    """Whether the files that a folder has when it is first seen are copied into its op-log; else gaps."""
    sync_files: bool = False
    """Whether a key's file is durable as well before a write is answered, not only its op."""
    state_dir: str | None = None
    """Where folder stores keep what they keep; None: in `.kvfs` beside the folder."""
    watch: bool = True
    """Whether folders are watched, so that outside edits are logged without being asked for."""
    scan_interval_s: float = 60.0
    """How often a watched folder is gone through, for what no event told of."""
    max_batch_items: int = 100
    max_queue: int = 4096
    """How many writes of one volume may wait; one more is refused at once."""
    max_open: int = 64
    """How many volumes (database files, folder stores) are kept open at once."""
    idle_close_s: float = 60.0
    """A volume that nobody used for so long is closed."""
    retention_grace_s: float = 3600.0
    """Younger ops stay, whatever a store's retention says: for who follows the changes and was away."""
    history_scan_cap: int = 100_000
    """How many candidate keys a read of the past looks at."""
    sql_max_temp_bytes: int = 1 << 30
    """How large the temporary files of all SQL together may become, with which large sorts go on."""

    @property
    def sqlite_memory_bytes(self) -> int:
        """What SQLite may take in a server's process, for all databases together.

        Caches take up to a third of it. To write a value to a table and its log takes twice its size for a
        moment; three may do so at once.
        """
        return max(80 * MIB, 10 * self.max_value_bytes)
