"""What commands print: tables on a terminal, plain lines in a pipe, JSON lines where that is asked for."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import click

from kvfs.model import NS, Entry, value_bytes
from kvfs.valuetext import encoded

Json = dict[str, Any]

_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TABLE_ROWS: Final = 500
_PREVIEW_CHARACTERS: Final = 500
_NAMED: Final = 10


class Output:
    """Where a command prints to."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty()

    def raw(self, chunks: Iterable[bytes]) -> None:
        """Bytes as they are; on a terminal the last line is ended, so that the prompt stands on its own."""
        sys.stdout.flush()
        chunk = b""
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        if self.terminal and not chunk.endswith(b"\n"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()

    def gaps(self, keys: Sequence[str], *, truncated: bool) -> None:
        """Say on stderr of which keys nobody knows what they were, and that not all were looked at."""
        if keys:
            named = ", ".join(map(escaped, keys[:_NAMED]))
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            click.echo(f"kvfs: the past of these keys is not known: {named}{more}", err=True)
        if truncated:
            click.echo("kvfs: there are more keys than a read of the past looks at", err=True)

    def line(self, text: object) -> None:
        """One line of text."""
        sys.stdout.write(f"{text}\n")

    def json(self, form: object) -> None:
        """One line of JSON."""
        self.line(json.dumps(form, ensure_ascii=False, separators=(",", ":")))

    def fact(self, text: object, form: Json) -> None:
        """The one thing that a command has to tell: as text, or as JSON."""
        if self.as_json:
            self.json(form)
        else:
            self.line(text)

    def facts(self, form: Json) -> None:
        """Several facts, a line each with its name, or as JSON."""
        if self.as_json:
            self.json(form)
        else:
            self.table(("name", "value"), ((fact, {}) for fact in form.items()))

    def items(self, items: Iterable[str], *, end: str = "\n") -> None:
        """Items as they are, a line each; on a terminal without what would move the cursor."""
        for item in items:
            sys.stdout.write((escaped(item) if self.terminal else item) + end)

    def table(self, columns: Sequence[str], rows: Iterable[tuple[Sequence[object], Json]]) -> None:
        """Rows, each with its JSON. In a pipe, fields are separated by tabs, and columns have no heading."""
        if self.as_json:
            for _, form in rows:
                self.json(form)
        elif self.terminal:
            self._show(columns, (fields for fields, _ in rows))
        else:
            for fields, _ in rows:
                self.line("\t".join(escaped(text(field)) for field in fields))

    def _show(self, columns: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
        from server.cli import tables

        room = shutil.get_terminal_size().columns
        # Some rows at a time: the first are there soon, and a list of any length fits into memory.
        while chunk := [*islice(rows, _TABLE_ROWS)]:
            shown = [[escaped(text(field)[:_PREVIEW_CHARACTERS]) for field in fields] for fields in chunk]
            heading, *lines = tables.lines(columns, shown, room)
            self.line(heading if os.environ.get("NO_COLOR") else click.style(heading, bold=True))
            for line in lines:
                self.line(line)


# --- as text -------------------------------------------------------------------------------------------


def text(field: object) -> str:
    """A field of a table: nothing for None, bytes as the text they are or what they are of."""
    if field is None:
        return ""
    if isinstance(field, bytes):
        shown, encoding = encoded(field)
        return shown if encoding == "utf-8" else f"base64:{shown}"
    return str(field)


def escaped(shown: str) -> str:
    """Without control characters, which would end a line or a field, or command a terminal."""
    if shown.isprintable() and "\\" not in shown:
        return shown
    return "".join(map(_escaped, shown))


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable() or not character.isascii():
        # Of what is not ASCII only C1 controls command a terminal.
        return character if ord(character) not in range(0x80, 0xA0) else f"\\x{ord(character):02x}"
    return f"\\x{ord(character):02x}"


def moment(ts_ns: int) -> str:
    """An instant, to the millisecond, in UTC."""
    at = datetime.fromtimestamp(ts_ns // NS, UTC).replace(microsecond=ts_ns % NS // 1_000_000 * 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- as JSON -------------------------------------------------------------------------------------------


def value_form(value: bytes | None, name: str = "value") -> Json:
    """A value as the API shows it: text or base64, and which of them."""
    shown, encoding = (None, None) if value is None else encoded(value)
    return {name: shown, "encoding" if name == "value" else f"{name}_encoding": encoding}


def entry_form(entry: Entry) -> Json:
    """An entry as the API shows it; without a value where it has none."""
    return {
        "key": entry.key,
        **({} if entry.value is None else value_form(value_bytes(entry.value))),
        "content_type": entry.content_type,
        "size": entry.size,
        "etag": entry.etag,
        "op_number": entry.op_number,
        "created_at": entry.created_s,
        "updated_at": entry.updated_s,
        "expire_at": None if entry.expire_ns is None else entry.expire_ns // NS,
    }
