"""The lines of an export, and what they mean. Format, version 1.

A stream is UTF-8, a JSON object a line:

    {"kvfs_export":1,"id":…,"table":…,"directory":…,"history":…,"pruned_seq":…,"after":null}
    records, each an entry or an op, some at a time, after each of which follows
    {"seal":{"id":…,"records":…,"at":…,"sha256":…}}
    {"end":{"id":…,"records":…,"sha256":…}}

The records between two seals are a **block**. `records` counts those of the stream so far; `at` is where
the stream has got to: the last record's seq, or its key. `sha256` (hex) is the SHA-256 of that of the seal
before (of the SHA-256 of the `id` where there is none), as 32 bytes, followed by the lines of the block, line
ends and all; the last line repeats that of the last seal. So every block is known to be whole before it is
used, and a stream that was cut off is known by its missing end. A stream may also begin with the block after
a seal: then its first line has that seal as `after`.

- An **entry**, where `history` is false; in byte order of their keys:
  {"key", "value", "encoding", "content_type", "created_at", "updated_at", "expire_at_ms"}
- An **op**, where it is true; in the order of their seqs: {"seq", "key", "op_number", "op_type", "origin",
  "ts_ns", "ttl", "gap"}, and what an entry has besides its key, unless the op left none. A gap has no value,
  but "size" and "sha256" (hex); if it is the last op of its key, it has the value that the key has now.

With history, `id` is that of the op-log: all exports of one log are parts of the same. Else it is random.
Ops up to `pruned_seq` may be missing. A value is text, or base64 with the encoding `base64`; times are Unix
time, whole seconds unless the name says otherwise.
"""

from __future__ import annotations

import binascii
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from kvfs import valuetext
from kvfs.errors import InvalidParameters
from kvfs.keys import check_key
from kvfs.model import NS_PER_MS, Entry, Op, OpType, Origin, Value, value_bytes, value_hash

VERSION: Final = 1

_PLAIN_MAX_BYTES: Final = 64 * 1024
_SHA256_BYTES: Final = 32
_INTEGER_MAX: Final = 2**63 - 1
_INTEGER_MIN: Final = -(2**63)
_STATELESS: Final = frozenset({OpType.DELETE, OpType.EXPIRE})


class Seal(NamedTuple):
    """What closes a block; where a stream can be gone on with."""

    id: str
    records: int
    at: int | str
    sha256: bytes


class End(NamedTuple):
    """The last line."""

    id: str
    records: int
    sha256: bytes


class Header(NamedTuple):
    """The first line."""

    id: str
    table: str
    directory: bool
    history: bool
    pruned_seq: int = 0
    after: Seal | None = None


Record = Entry | Op

_Choice = TypeVar("_Choice", OpType, Origin)


# --- lines ---------------------------------------------------------------------------------------------


def header_line(header: Header) -> bytes:
    """The first line of a stream."""
    form = header._asdict()
    after = None if header.after is None else _seal_form(header.after)
    return _line({"kvfs_export": VERSION, **form, "after": after})


def seal_text(seal: Seal) -> bytes:
    """A seal by itself, as JSON: what `parse_seal` takes."""
    return orjson.dumps(_seal_form(seal))


def seal_line(seal: Seal) -> bytes:
    """The line that closes a block."""
    return _line({"seal": _seal_form(seal)})


def end_line(end: End) -> bytes:
    """The last line of a stream."""
    return _line({"end": {**end._asdict(), "sha256": end.sha256.hex()}})


def record_line(record: Record) -> bytes:
    """The line of an entry with its value, or of an op."""
    if isinstance(record, Entry):
        return _line({"key": record.key, **_state_form(record, record.value)})
    form: dict[str, Any] = {
        "seq": record.seq,
        "key": record.key,
        "op_number": record.op_number,
        "op_type": record.op_type,
        "origin": record.origin,
        "ts_ns": record.ts_ns,
        "ttl": record.ttl_s,
        "gap": not record.recorded,
    }
    if record.entry is not None:
        form |= _state_form(record.entry, record.entry.value)
    return _line(form)


# --- what lines say ------------------------------------------------------------------------------------


def parse_header(line: bytes) -> Header:
    """What a first line says; raises `InvalidParameters` for any other."""
    form = _Form.of(line)
    version = form.given("kvfs_export")
    if version is None:
        raise InvalidParameters("this is no export: its first line does not say so")
    if version != VERSION:
        raise InvalidParameters(f"the export has format {version}; this program knows {VERSION}")
    after = form.given("after")
    return Header(
        form.text("id"),
        form.text("table"),
        form.flag("directory"),
        form.flag("history"),
        form.integer("pruned_seq"),
        None if after is None else _seal(_Form.made(after)),
    )


def parse_seal(text: bytes) -> Seal:
    """What a seal by itself says; raises `InvalidParameters`."""
    return _seal(_Form.of(text))


def parse_mark(line: bytes) -> Seal | End | None:
    """The seal or the end that a line is; None where it is a record. Raises `InvalidParameters`."""
    if not line.startswith((b'{"seal"', b'{"end"')):
        return None
    form = _Form.of(line)
    seal = form.given("seal")
    if seal is not None:
        return _seal(_Form.made(seal))
    end = _Form.made(form.given("end"))
    return End(end.text("id"), end.integer("records"), end.digest("sha256"))


def parse_entry(line: bytes) -> Entry:
    """The entry that a line says, with its value, its hash, and no op number. Raises `InvalidParameters`."""
    form = _Form.of(line)
    return _entry(form, 0, form.value())


def parse_op(line: bytes) -> Op:
    """The op that a line says, with the hash of its value. Raises `InvalidParameters`."""
    form = _Form.of(line)
    gap = form.flag("gap")
    number = form.integer("op_number", low=1)
    entry = None
    if form.given("content_type") is not None:
        entry = _entry(form, number, None if gap and form.given("value") is None else form.value())
    op_type = form.choice("op_type", OpType)
    if (entry is None) != (op_type in _STATELESS) and op_type is not OpType.ROLLBACK:
        raise InvalidParameters(f"an op of type {op_type} that leaves {'no' if entry is None else 'a'} value")
    ttl_s = None if form.given("ttl") is None else form.integer("ttl", low=1)
    return Op(
        form.integer("seq", low=1),
        check_key(form.text("key")),
        number,
        op_type,
        form.choice("origin", Origin),
        form.integer("ts_ns"),
        entry,
        not gap,
        ttl_s,
    )


# --- parts ---------------------------------------------------------------------------------------------


def _line(form: dict[str, Any]) -> bytes:
    return orjson.dumps(form, option=orjson.OPT_APPEND_NEWLINE)


def _seal_form(seal: Seal) -> dict[str, Any]:
    return {**seal._asdict(), "sha256": seal.sha256.hex()}


def _state_form(entry: Entry, value: Value | None) -> dict[str, Any]:
    form: dict[str, Any] = {
        "content_type": entry.content_type,
        "created_at": entry.created_s,
        "updated_at": entry.updated_s,
        "expire_at_ms": None if entry.expire_ns is None else entry.expire_ns // NS_PER_MS,
    }
    if value is None:
        assert entry.sha256 is not None
        return {**form, "size": entry.size, "sha256": entry.sha256.hex()}
    text, encoding = _encoded(value_bytes(value))
    return {**form, "encoding": encoding, "value": text}


def _encoded(value: bytes) -> tuple[str, str]:
    """A value as text; in base64 also where it is large and full of what JSON has to escape.

    So no line is much longer than its value in base64, which bounds what whoever reads it must hold.
    """
    text, encoding = valuetext.encoded(value)
    if (
        encoding == "utf-8"
        and len(value) > _PLAIN_MAX_BYTES
        and len(orjson.dumps(text)) > 4 * len(value) // 3
    ):
        return valuetext.base64_of(value), "base64"
    return text, encoding


def _seal(form: _Form) -> Seal:
    at = form.given("at")
    at = form.text("at") if isinstance(at, str) else form.integer("at", low=1)
    return Seal(form.text("id"), form.integer("records"), at, form.digest("sha256"))


def _entry(form: _Form, number: int, value: bytes | None) -> Entry:
    expire_ms = None
    if form.given("expire_at_ms") is not None:
        expire_ms = form.integer("expire_at_ms", high=_INTEGER_MAX // NS_PER_MS)
    return Entry(
        check_key(form.text("key")),
        value,
        form.integer("size") if value is None else len(value),
        form.text("content_type"),
        form.integer("created_at", low=_INTEGER_MIN),
        form.integer("updated_at", low=_INTEGER_MIN),
        None if expire_ms is None else expire_ms * NS_PER_MS,
        number,
        form.digest("sha256") if value is None else value_hash(value),
    )


class _Form:
    """A JSON object, whose fields must be what they should be; else `InvalidParameters`."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def of(cls, text: bytes) -> _Form:
        try:
            return cls.made(orjson.loads(text))
        except orjson.JSONDecodeError as exc:
            raise InvalidParameters(f"this is no JSON: {exc}") from exc

    @classmethod
    def made(cls, form: object) -> _Form:
        if not isinstance(form, dict):
            raise InvalidParameters("this is no JSON object")
        return cls(form)

    def given(self, name: str) -> Any:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        text = self._fields.get(name)
        if not isinstance(text, str):
            raise InvalidParameters(f"{name} must be a string")
        return text

    def flag(self, name: str) -> bool:
        flag = self._fields.get(name)
        if not isinstance(flag, bool):
            raise InvalidParameters(f"{name} must be true or false")
        return flag

    def integer(self, name: str, *, low: int = 0, high: int = _INTEGER_MAX) -> int:
        number = self._fields.get(name)
        if type(number) is not int or not low <= number <= high:
            raise InvalidParameters(f"{name} must be an integer from {low} to {high}")
        return number

    def choice(self, name: str, of: type[_Choice]) -> _Choice:
        try:
            return of(self.text(name))
        except ValueError as exc:
            raise InvalidParameters(f"{name} must be one of: {', '.join(of)}") from exc

    def digest(self, name: str) -> bytes:
        try:
            digest = bytes.fromhex(self.text(name))
        except ValueError:
            digest = b""
        if len(digest) != _SHA256_BYTES:
            raise InvalidParameters(f"{name} must be a SHA-256, in hex")
        return digest

    def value(self) -> bytes:
        text, encoding = self.text("value"), self.text("encoding")
        if encoding not in ("utf-8", "base64"):
            raise InvalidParameters("encoding must be utf-8 or base64")
        try:
            return valuetext.decoded(text, encoding)
        except (binascii.Error, ValueError) as exc:
            raise InvalidParameters("value is not base64") from exc
