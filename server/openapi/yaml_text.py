"""YAML that is pleasant to read: fields in their order, and texts of several lines as such."""

from __future__ import annotations

from typing import Any, Final

import yaml

_WIDTH_CHARS: Final = 110


class _Dumper(yaml.CSafeDumper):
    """Dumps what JSON can have. What occurs twice is written twice: aliases are for machines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def yaml_text(value: Any) -> str:
    """A JSON value as YAML."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH_CHARS)
