"""What several runs came to adds up, and stands in the document."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.load import Ack, Misread
from tests.soak import report, tally
from tests.soak.faults import Fault, run
from tests.soak.tally import Tally
from tests.soak.trial import Lost

ACK = Ack("k", 1, "")


def test_runs_add_up(tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert tally.kept(results) == {}
    tally.keep(results, Tally("kill", rounds=2, requests=10, recovery_s=1.5))
    tally.keep(results, Tally("kill", rounds=3, requests=5, recovery_s=0.5, lost=1, findings=["one"]))
    tally.keep(results, Tally("clock", rounds=1))
    kill = Tally("kill", rounds=5, requests=15, recovery_s=1.5, lost=1, findings=["one"])
    assert tally.kept(results) == {"kill": kill, "clock": Tally("clock", rounds=1)}


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (Lost([ACK, ACK], 9), (2, 0, 0)),
        (Misread("old", stale=True), (0, 1, 0)),
        (Misread("never written", stale=False), (0, 0, 1)),
        (AssertionError("else"), (0, 0, 1)),
    ],
    ids=["lost", "stale", "wrong", "anything else"],
)
def test_what_is_found_is_counted(tmp_path: Path, error: Exception, counts: tuple[int, int, int]) -> None:
    def rounds(home: Path, chance: random.Random, count: int, tally: Tally) -> None:
        tally.rounds += 1
        raise error

    came = run(Fault("a fault", "", 1, rounds), tmp_path, seed=1)
    assert (came.lost, came.stale, came.wrong) == counts
    assert not came.clean


def test_the_document_has_the_sums_and_keeps_all_else() -> None:
    before = "# Title\n\n<!-- made by `make soak` -->\nold\n<!-- end -->\n\nmore\n"
    tallies = {"kill": Tally("kill", rounds=1500), "mixed": Tally("mixed", rounds=2, notes=["flat"])}
    made = report.written(before, tallies, {"keys": 1_000_000})
    assert made.startswith("# Title\n")
    assert made.endswith("<!-- end -->\n\nmore\n")
    for told in ("1,500", "1,502", "1,000,000", "flat"):
        assert told in made
    assert "old" not in made
    assert report.written(made, tallies, {"keys": 1_000_000}) == made
