"""Damaged files are right or an error, always the same damages; see `tests.fuzz.corruption`."""

from __future__ import annotations

from tests.fuzz.corruption import CORRUPTIONS
from tests.fuzz.target import run

TABLES, OP_LOGS, INDEXES = CORRUPTIONS


def test_a_damaged_table_is_right_or_an_error() -> None:
    run(TABLES, inputs=TABLES.few)


def test_a_damaged_op_log_is_right_or_an_error() -> None:
    run(OP_LOGS, inputs=OP_LOGS.few)


def test_a_damaged_index_heals() -> None:
    run(INDEXES, inputs=INDEXES.few)
