"""Names of a package that are imported when they are first asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def importer(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562). `homes` says which module has a name.

    A home is `a.module`, or `a.module:name` where it is called something else there.
    """

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = home.partition(":")
        found: object = getattr(import_module(module), there or name)
        # From now on it is not asked for here.
        setattr(sys.modules[package], name, found)
        return found

    return find
