"""`kvfs kv edit`: a value in an editor, written back if nobody else wrote meanwhile."""

from __future__ import annotations

import difflib
import mimetypes
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from kvfs.client.records import Written
from kvfs.errors import CasMismatch, NotFound
from kvfs.model import Entry
from server.cli import exits
from server.cli.output import Output, escaped
from server.cli.store import Store, writing


@click.command(epilog="Example: EDITOR=nano kvfs kv edit users/ada --db app")
@click.argument("key")
@writing
def edit(store: Store, out: Output, *, key: str) -> None:
    """Edit the value of KEY in $VISUAL, $EDITOR or vi, and write it back; prints the key's new etag.

    It is written only if nobody else has changed it meanwhile. Else the difference is shown, and at a
    terminal you may edit again, overwrite, or quit; what you wrote stays in a file. A TTL stays. A missing
    key begins empty.
    """
    entry = _entry(store, key)
    value = _value(entry)
    draft = _draft(key, value, entry)
    try:
        done = _edit(store, key, draft, entry)
    except (KeyboardInterrupt, click.Abort):
        if draft.read_bytes() == value:
            draft.unlink()
            raise
        exits.end_line()
        click.echo(f"kvfs: what you wrote is in {draft}", err=True)
        sys.exit(exits.INTERRUPTED)
    if done is not None:
        out.fact(done.etag, {"key": key, "op_number": done.op_number, "size": done.size})
    draft.unlink()


def _edit(store: Store, key: str, draft: Path, entry: Entry | None) -> Written | None:
    """Have the draft edited until it can be written; None where that changes nothing."""
    choice = "edit"
    while True:
        if choice == "edit":
            _run_editor(draft)
        mine = draft.read_bytes()
        if mine == _value(entry):
            click.echo("kvfs: nothing was changed", err=True)
            return None
        try:
            return _write(store, key, mine, entry)
        except CasMismatch:
            entry = _entry(store, key)
            _show_difference(_value(entry), mine)
            choice = _ask()
            if choice == "quit":
                click.echo(f"kvfs: {key} was changed meanwhile; what you wrote is in {draft}", err=True)
                sys.exit(exits.CONFLICT)


def _entry(store: Store, key: str) -> Entry | None:
    try:
        return store.get(key)
    except NotFound:
        return None


def _value(entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    assert isinstance(entry.value, bytes)
    return entry.value


def _draft(key: str, value: bytes, entry: Entry | None) -> Path:
    """A file with the value, by whose name an editor can tell what is in it."""
    suffix = Path(key).suffix
    if not suffix and entry is not None:
        suffix = mimetypes.guess_extension(entry.content_type.partition(";")[0]) or ""
    plain = suffix.isascii() and suffix.isprintable()
    fd, path = tempfile.mkstemp(suffix=suffix if plain else "", prefix="kvfs-")
    with open(fd, "wb") as file:
        file.write(value)
    return Path(path)


def _run_editor(draft: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with _undisturbed():
        code = subprocess.call([*shlex.split(editor), draft])
    if code in (-signal.SIGINT, exits.INTERRUPTED):
        raise KeyboardInterrupt
    if code:
        click.echo(f"kvfs: {editor} ended with {code}; what you wrote is in {draft}", err=True)
        sys.exit(exits.FAILED)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave Ctrl-C to the editor: it may mean something there, and must not be left alone at the terminal."""
    # A handler of our own: what is ignored would be so in the editor too.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(store: Store, key: str, value: bytes, entry: Entry | None) -> Written:
    """Write it if the key is still as it was."""
    if entry is None:
        return store.set(key, value, if_none_match=True)
    return store.set(
        key,
        value,
        content_type=entry.content_type,
        ttl_s=entry.ttl_left_s(time.time_ns()),
        if_match_etag=entry.etag,
    )


def _show_difference(theirs: bytes, mine: bytes) -> None:
    old, new = (value.decode(errors="replace").splitlines() for value in (theirs, mine))
    for line in difflib.unified_diff(old, new, "as it is now", "as you wrote it", lineterm=""):
        click.echo(escaped(line), err=True)


def _ask() -> str:
    if not sys.stdin.isatty():
        return "quit"
    choices = click.Choice(["edit", "overwrite", "quit"])
    choice: str = click.prompt("Somebody else has changed it", type=choices, default="edit", err=True)
    return choice
