"""`kvfs` as a process of its own, told where to work by its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests import forking
from tests.serving import ROOT
from tests.terminal import CTRL_C, Terminal

WAIT_S = 60.0
COMMAND = [sys.executable, "-m", "server"]


@dataclass(frozen=True)
class Ended:
    """What a command said, and its exit code."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said, line by line; it must have gone well."""
        assert self.code == 0, self
        assert self.err == "", self
        return self.out.decode().splitlines()


@dataclass(frozen=True)
class Kvfs:
    """Runs `kvfs` with these arguments for every command on a store, and these variables."""

    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KVFS_") and name not in ("VISUAL", "EDITOR", "COLUMNS", "NO_COLOR")
        }
        return {**inherited, "PYTHONPATH": str(ROOT), **self.variables}

    def command(self, *arguments: object) -> list[str]:
        return [*COMMAND, *map(str, arguments), *self.arguments]

    def __call__(self, *arguments: object, stdin: bytes = b"", **variables: str) -> Ended:
        code, out, err = forking.run(
            [*map(str, arguments), *self.arguments],
            stdin=stdin,
            env={**self.environment, **variables},
            timeout_s=WAIT_S,
        )
        return Ended(code, out, err.decode())

    def at_terminal(
        self, *arguments: object, asked: str = "", keys: bytes = b"", columns: int = 80, **variables: str
    ) -> tuple[int, str]:
        """(exit code, screen) of a command at a terminal, where these keys are pressed when this is asked."""
        environment = {**self.environment, **variables}
        command = self.command(*arguments)
        with Terminal(*command, cwd=ROOT, env=environment, columns=columns) as terminal:
            if keys:
                terminal.shows(asked.encode())
                if keys == CTRL_C:
                    terminal.interrupt()
                else:
                    terminal.press(keys)
            return terminal.code(), terminal.screen
