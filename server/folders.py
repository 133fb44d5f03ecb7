"""What `kvfs rebuild` and `kvfs check` do: folder stores, gone through at a terminal or in a script."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import click
import orjson

import kvfs
from kvfs.config import Config
from kvfs.directory import check as directory_check
from kvfs.directory.check import Checked
from kvfs.directory.repair import Repaired, repair
from kvfs.directory.state import known_tables
from kvfs.errors import KvfsError
from kvfs.handle import Progress
from kvfs.paths import check_table
from kvfs.status import Rebuilt

_LINE_EVERY_S: Final = 2.0


def rebuild(folder: str, table: str | None, config: Config, *, as_json: bool) -> int:
    """Repair op-logs where they are damaged, and make indexes anew from the files; the exit code."""
    db, tables = _stores(folder, table, config.state_dir)
    failed = 0
    for name in tables:
        try:
            repaired = repair(db, name, config.state_dir)
            if repaired is not None and not as_json:
                _tell_repaired(name, repaired)
            with kvfs.open(db + "/", name, create=False, config=config) as store, _progress(name) as progress:
                rebuilt = store.rebuild(progress)
        except KvfsError as exc:
            click.echo(f"kvfs: {name}: {exc.message}", err=True)
            failed = 1
            continue
        if as_json:
            click.echo(orjson.dumps(_rebuilt_json(db, name, rebuilt, repaired)))
        else:
            _tell_rebuilt(name, rebuilt)
    return failed


def check(folder: str, table: str | None, state_dir: str | None, *, full: bool, as_json: bool) -> int:
    """Compare files, indexes and op-logs; the exit code."""
    db, tables = _stores(folder, table, state_dir)
    failed = 0
    for name in tables:
        try:
            checked = directory_check.check(db, name, state_dir=state_dir, full=full)
        except KvfsError as exc:
            click.echo(f"kvfs: {name}: {exc.message}", err=True)
            failed = 1
            continue
        failed |= not checked.clean
        if as_json:
            click.echo(orjson.dumps(_checked_json(checked)))
        else:
            _tell_checked(checked)
    return failed


# --- telling -------------------------------------------------------------------------------------------


def _tell_repaired(table: str, repaired: Repaired) -> None:
    click.echo(f"{table}: the op-log was damaged ({repaired.reason}); it is kept as {repaired.set_aside}")
    lost = ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in repaired.lost)
    click.echo(
        f"{table}: kept {repaired.kept} ops; {repaired.gaps} that are lost are known to be, and are gaps"
        + (f"; nothing is known of those with seq {lost}" if lost else "")
    )


def _tell_rebuilt(table: str, rebuilt: Rebuilt) -> None:
    survey = rebuilt.survey
    click.echo(
        f"{table}: {survey.files} files, {rebuilt.keys} keys, {rebuilt.changed} changed,"
        f" {rebuilt.recorded} ops recorded, in {rebuilt.duration_s:.1f} s"
    )
    for reason, count in sorted(survey.ignored.items()):
        shown = survey.examples[reason]
        more = ", …" if count > len(shown) else ""
        click.echo(f"  no key: {count} of {reason}: {', '.join(shown)}{more}")


def _rebuilt_json(db: str, table: str, rebuilt: Rebuilt, repaired: Repaired | None) -> dict[str, Any]:
    survey = rebuilt.survey
    return {
        "folder": db,
        "table": table,
        "files": survey.files,
        "keys": rebuilt.keys,
        "changed": rebuilt.changed,
        "recorded": rebuilt.recorded,
        "ignored": survey.ignored,
        "examples": survey.examples,
        "duration_s": round(rebuilt.duration_s, 3),
        "repaired": None if repaired is None else asdict(repaired),
    }


def _tell_checked(checked: Checked) -> None:
    for each in checked.differences:
        where = " ".join(filter(None, (None if each.key is None else repr(each.key), each.path)))
        click.echo(f"{checked.table}: {each.kind}: {where}: {each.detail}")
    for note in checked.notes:
        click.echo(
            f"{checked.table}: note: {f'{note.path}: ' if note.path else ''}{note.kind}, {note.detail}"
        )
    count = len(checked.differences)
    verdict = "no differences" if not count else "1 difference" if count == 1 else f"{count} differences"
    click.echo(f"{checked.table}: {checked.files} files, {checked.keys} keys, {checked.ops} ops: {verdict}")


def _checked_json(checked: Checked) -> dict[str, Any]:
    return {
        "folder": checked.folder,
        "table": checked.table,
        "full": checked.full,
        "differences": [each._asdict() for each in checked.differences],
        "notes": [note._asdict() for note in checked.notes],
        "files": checked.files,
        "keys": checked.keys,
        "ops": checked.ops,
        "clean": checked.clean,
    }


@contextmanager
def _progress(table: str) -> Iterator[Progress]:
    """A bar on a terminal, elsewhere a line now and then; on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(table)
        return
    # The length is known only when the names have been counted.
    with click.progressbar(
        length=0, label=table, file=sys.stderr, show_pos=True, show_eta=True, item_show_func=_rate()
    ) as bar:

        def tell(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos, done)

        yield tell


def _rate() -> Callable[[int | None], str]:
    began = time.monotonic()
    return lambda done: f"{(done or 0) / max(time.monotonic() - began, 0.001):.0f} files/s"


class _Lines:
    """Tells of progress in lines."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_EVERY_S or not done:
            return
        self._told = now
        rate = done / (now - self._began)
        left_s = (total - done) / rate
        line = f"{self._table}: {done} of {total} files, {rate:.0f} files/s, {left_s:.0f} s left"
        click.echo(line, err=True)


# --- which stores --------------------------------------------------------------------------------------


def _stores(folder: str, table: str | None, state_dir: str | None) -> tuple[str, list[str]]:
    """The database directory, and its tables that are asked for; a usage error where there are none."""
    db = os.path.realpath(folder)
    if not os.path.isdir(db):
        raise click.BadParameter(f"{folder} is no directory", param_hint="FOLDER")
    known = known_tables(db, state_dir)
    if table is not None:
        try:
            check_table(table)
        except KvfsError as exc:
            raise click.BadParameter(exc.message, param_hint="TABLE") from exc
        if table not in known and not os.path.isdir(os.path.join(db, table)):
            raise click.BadParameter(f"there is no folder {table} in {db}", param_hint="TABLE")
        return db, [table]
    if not known:
        there = sorted(entry.name for entry in os.scandir(db) if entry.is_dir() and entry.name[0] != ".")
        folders = f"name one of its folders: {', '.join(there)}" if there else "it has no folders"
        raise click.UsageError(f"no folder in {db} has an op-log yet; {folders}")
    return db, known
