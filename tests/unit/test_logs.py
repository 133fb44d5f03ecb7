"""Log records as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys

from server.logs import JsonFormatter, of_request


def line(message: str, *args: object, request_id: str | None = None, failed: bool = False) -> dict[str, str]:
    exc_info = None
    if failed:
        try:
            raise ValueError("a\nb \udcff")
        except ValueError:
            exc_info = sys.exc_info()
    record = logging.LogRecord("kvfs.x", logging.ERROR, "x.py", 1, message, args, exc_info)
    if request_id is not None:
        record.__dict__.update(of_request(request_id))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, str] = json.loads(text)
    return parsed


def test_a_record_says_when_who_and_what() -> None:
    found = line("cannot look at %s", "a")
    assert found.pop("time").endswith("Z")
    assert found == {"level": "error", "logger": "kvfs.x", "message": "cannot look at a"}


def test_a_record_of_a_request_has_its_id() -> None:
    assert line("failed", request_id="mine")["request_id"] == "mine"


def test_a_traceback_is_part_of_the_line() -> None:
    found = line("failed", failed=True)["exception"]
    assert found.startswith("Traceback")
    assert found.endswith("ValueError: a\nb \\udcff")


def test_names_that_are_no_utf_8_and_line_ends_do_not_break_a_line() -> None:
    assert line("cannot read %s", "a\udcff\n{}")["message"] == "cannot read a\\udcff\n{}"
