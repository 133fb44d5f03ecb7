"""SQL as it is typed, cut into statements."""

from __future__ import annotations

import pytest

from server.cli.db_shell import split


@pytest.mark.parametrize(
    ("typed", "statements", "left"),
    [
        ("SELECT 1;", ["SELECT 1;"], ""),
        ("SELECT 1; SELECT\n2; SEL", ["SELECT 1;", "SELECT\n2;"], "SEL"),
        ("SELECT ';", [], "SELECT ';"),
        ("SELECT ';'; x", ["SELECT ';';"], "x"),
        ("-- no;\nSELECT 1;", ["-- no;\nSELECT 1;"], ""),
        (
            "CREATE TRIGGER t AFTER DELETE ON x BEGIN SELECT 1; SELECT 2; END;",
            ["CREATE TRIGGER t AFTER DELETE ON x BEGIN SELECT 1; SELECT 2; END;"],
            "",
        ),
        ("", [], ""),
        ("\n", [], ""),
    ],
)
def test_statements_end_with_their_semicolon(typed: str, statements: list[str], left: str) -> None:
    assert split(typed) == (statements, left)
