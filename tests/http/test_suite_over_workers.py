"""All that holds of a server holds of one with two workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT

# An etag of a query is of one worker, and so may only be sent to another in vain: docs/decisions/0016.
_OF_ONE_PROCESS = (
    "tests/http/test_sql_query.py::test_an_answer_that_is_known_is_304_until_something_changes",
    "tests/http/test_sql_query.py::test_many_changes_by_others_are_each_seen",
)


@pytest.mark.soak
@pytest.mark.parametrize(
    "asked", [["tests/http"], ["tests/contract", "-k", "http"], ["tests/directory/test_outside_edits.py"]]
)
def test_the_tests_of_a_server_pass_with_two_workers(asked: list[str], tmp_path: Path) -> None:
    deselected = [f"--deselect={each}" for each in _OF_ONE_PROCESS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--basetemp={tmp_path / 'tests'}", *asked, *deselected],
        cwd=ROOT,
        env={**os.environ, "KVFS_WORKERS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
