"""Servers outlive what befalls them: a round or two of each fault, and always the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.faults import Fault, run
from tests.soak.registry import FAULTS

SEED = 20_261_121
ROUNDS = 1
QUICK = {"kill", "full-disk", "io-fdatasync", "descriptors", "stop"}
"""One of each kind; the others take long, or their like is among these or in tests/crash."""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=() if fault.name in QUICK else pytest.mark.soak)
        for fault in FAULTS
    ],
)
@pytest.mark.timeout(180)
def test_a_server_outlives(fault: Fault, tmp_path: Path) -> None:
    came = run(fault, tmp_path, seed=SEED, rounds=ROUNDS)
    assert came.findings == []
    assert came.rounds == ROUNDS
    assert came.requests > 0
