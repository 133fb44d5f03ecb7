"""Which content type a value gets: the declared one, unless that is none, untrue or says nothing."""

from __future__ import annotations

import codecs
import mimetypes
import re
from typing import Final

import orjson

from kvfs.errors import InvalidParameters
from kvfs.jsonpath import is_json, starts_as_json
from kvfs.model import FileValue, Value, value_bytes

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
DIGITS: Final = "text/plain"
BYTES: Final = "application/octet-stream"

_FORM: Final = "application/x-www-form-urlencoded"  # what curl --data says of anything
_SHAPE: Final = re.compile(r"[\x21-\x2e\x30-\x7e]+/[\x20-\x7e]+")
_MAX_CHARS: Final = 255
_CHUNK_BYTES: Final = 1 << 20
_BEGINNING_BYTES: Final = 64

_EXTENSIONS: Final = {
    ".csv": "text/csv; charset=utf-8",
    ".env": TEXT,
    ".ini": TEXT,
    ".js": "text/javascript; charset=utf-8",
    ".json": JSON,
    ".log": TEXT,
    ".md": "text/markdown; charset=utf-8",
    ".sql": "application/sql",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".txt": TEXT,
    ".webp": "image/webp",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
# The module's own tables only: what a machine has in /etc/mime.types must not change a value's type.
_REGISTERED: Final = mimetypes.MimeTypes(filenames=())


def classify(declared: str | None, value: Value) -> str:
    """The content type of a value written with this declared one (None: none was).

    A declared type is kept, but `application/json` only if the value is JSON. None,
    `application/x-www-form-urlencoded` and an untrue `application/json` mean: JSON if it parses, else
    UTF-8 text, else bytes. Raises `InvalidParameters` for what cannot stand in a header.
    """
    if declared == JSON and isinstance(value, bytes):
        try:
            orjson.loads(value)
            return JSON
        except orjson.JSONDecodeError:
            pass
    elif declared is not None:
        if len(declared) > _MAX_CHARS or not _SHAPE.fullmatch(declared):
            raise InvalidParameters(
                "content type must look like type/subtype, in at most 255 ASCII characters"
            )
        essence = declared.partition(";")[0].strip().lower()
        if essence not in (JSON, _FORM):
            return declared
        if essence == JSON and _is_json(value):
            return declared
    return detect(value)


def detect(value: Value) -> str:
    """JSON if it parses, else UTF-8 text, else bytes."""
    if _is_json(value):
        return JSON
    return TEXT if is_text(value) else BYTES


def of_file(key: str, value: Value) -> str:
    """The type of a file that nobody wrote through the API: by its name's extension, else as `detect`.

    `application/json` is believed only of JSON, as everywhere.
    """
    name = key.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    if dot and stem:
        suffix = "." + extension.lower()
        guessed = _EXTENSIONS.get(suffix) or _REGISTERED.types_map[True].get(suffix)
        if guessed == JSON:
            return detect(value)
        if guessed is not None:
            return guessed
    return detect(value)


def still_true(content_type: str, value: Value) -> bool:
    """Whether a type that was given to another value of the key fits this one too."""
    return content_type.partition(";")[0].strip().lower() != JSON or _is_json(value)


def is_text(value: Value) -> bool:
    """Whether a value is UTF-8."""
    try:
        if isinstance(value, bytes):
            value.decode()
            return True
        decoder = codecs.getincrementaldecoder("utf-8")()
        for offset in range(0, value.size, _CHUNK_BYTES):
            decoder.decode(value.read(offset, _CHUNK_BYTES))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_json(value: Value) -> bool:
    # Most large values are not JSON, and need not be read whole to see it.
    if isinstance(value, FileValue):
        beginning = value.read(0, _BEGINNING_BYTES)
        if beginning.strip() and not starts_as_json(beginning):
            return False
    return is_json(value_bytes(value))
