"""What a client meets beyond `kvfs.errors`, and how an answer becomes an error.

KvfsError
├── Unreachable         UNREACHABLE     no connection: nothing was sent
├── NoAnswer            NO_ANSWER       no answer, or half of one; a write may have happened
└── UnexpectedAnswer    of the answer   an error with a code that this client does not know, or none at all
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from kvfs import errors
from kvfs.errors import KvfsError

_NOT_DETAILS: Final = frozenset({"code", "message", "statusCode", "error"})


class Unreachable(KvfsError):
    """The server could not be connected to; nothing was sent."""

    code = "UNREACHABLE"


class NoAnswer(KvfsError):
    """The request was sent, and no whole answer came. `outcome="unknown"`: a write may have happened."""

    code = "NO_ANSWER"


class UnexpectedAnswer(KvfsError):
    """An error that this client has no class for; `code` is that of the answer, `status` its status."""

    def __init__(self, message: str, *, code: str = "UNEXPECTED_ANSWER", **details: object) -> None:
        super().__init__(message, **details)
        self.code = code


def from_answer(status: int, headers: Mapping[str, str], body: bytes) -> KvfsError:
    """The error that an answer tells of; `details` hold all further fields, `request_id` among them.

    The answer to a HEAD has no body: its code is in a header.
    """
    form = _form(body)
    code = str(form.get("code") or headers.get("x-error-code") or "")
    message = str(form.get("message") or f"The server answered {status}")
    details = {name: value for name, value in form.items() if name not in _NOT_DETAILS}
    kind = _BY_CODE.get(code)
    if kind is None:
        return UnexpectedAnswer(message, code=code or UnexpectedAnswer.code, status=status, **details)
    return kind(message, **details)


def _form(body: bytes) -> dict[str, Any]:
    try:
        form = json.loads(body)
    except ValueError:
        return {}
    return form if isinstance(form, dict) else {}


def _tree(kind: type[KvfsError]) -> Iterator[type[KvfsError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


# Classes without a code of their own, and the root, are there to be caught by, never raised.
_BY_CODE: Final = {
    kind.code: kind
    for kind in _tree(KvfsError)
    if kind.__module__ == errors.__name__ and "code" in vars(kind) and kind is not KvfsError
}
