"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def option(name: str, *more: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that an environment variable can set too: `--data-dir` is KVFS_DATA_DIR."""
    variable = "KVFS_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(name, *more, envvar=variable, show_envvar=True, **settings)
