"""The calls that take a whole store out, and put it in again; `kvfs.transfer.format` says how it looks."""

from __future__ import annotations

from kvfs.client.call import Answer, Call
from kvfs.client.kv import Target, params
from kvfs.model import OnConflict
from kvfs.status import Imported
from kvfs.transfer.format import Seal, seal_text


def export(at: Target, *, history: bool = False, after: Seal | None = None) -> Call[None]:
    """All entries, or with `history` all ops; after a seal the rest of an export that was cut off."""
    asked = params(at, history=history or None, after=None if after is None else seal_text(after))
    return Call("GET", "/kv/export", lambda _: None, asked, patient=True)


def import_part(at: Target, part: bytes, *, on_conflict: OnConflict = OnConflict.FAIL) -> Call[Imported]:
    """Put some blocks of an export in, after their first line; blocks that are in already are passed over.

    Raises `ImportConflict`, and `InvalidParameters` for what is damaged.
    """
    asked = params(at, creating=True, part=True, on_conflict=on_conflict)
    headers = {"Content-Type": "application/x-ndjson"}
    return Call("POST", "/kv/import", _imported, asked, headers, part, patient=True)


def _imported(answer: Answer) -> Imported:
    form = answer.json()
    del form["success"]
    return Imported(**form)
