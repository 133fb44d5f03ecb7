"""Interrupts endless SQL as it begins, time and again: `python -m tests.cli.interrupted FILE TIMES`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import closing
from typing import Final

from server.cli.local_db import LocalDatabases

ENDLESS: Final = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


def _interrupt_when_a_thread_begins(threads: int) -> None:
    while threading.active_count() <= threads:
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _ended(path: str) -> bool:
    with closing(LocalDatabases("", timeout_s=200, state_dir=None)) as databases:
        database = databases.database(path)
        threads = threading.active_count() + 1
        interrupting = threading.Thread(target=_interrupt_when_a_thread_begins, args=(threads,))
        interrupting.start()
        try:
            database.execute(ENDLESS)
        except KeyboardInterrupt:
            return True
        finally:
            # The next one counts threads too.
            interrupting.join()
        return False


if __name__ == "__main__":
    sys.setswitchinterval(1e-5)
    sys.exit(0 if all(_ended(sys.argv[1]) for _ in range(int(sys.argv[2]))) else 1)
