"""What an answer must look like: the contract's fields, each with its type. More fields may be there."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any

Shape = Any
"""A type, a union of types, a constant, a list of one shape, or a dict of named ones."""

OK: Mapping[str, Shape] = {"success": True}


def fits(value: Any, shape: Shape, where: str = "answer") -> None:
    """Fails, saying where, unless the value has this shape."""
    if isinstance(shape, Mapping):
        assert isinstance(value, dict), f"{where} is {value!r}"
        missing = shape.keys() - value.keys()
        assert not missing, f"{where} lacks {missing}: {value}"
        for name, below in shape.items():
            fits(value[name], below, f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list), f"{where} is {value!r}"
        for place, each in enumerate(value):
            fits(each, shape[0], f"{where}[{place}]")
    elif isinstance(shape, type | UnionType):
        # To Python, true is an integer; to JSON it is none.
        assert isinstance(value, shape), f"{where} is {value!r}"
        assert shape is bool or not isinstance(value, bool), f"{where} is {value!r}"
    else:
        assert value == shape, f"{where} is {value!r}"
        assert type(value) is type(shape), f"{where} is {value!r}"
