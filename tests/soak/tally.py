"""What rounds of a fault came to, and how several runs of them add up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


@dataclass
class Tally:
    """What came of the rounds of one fault, of one run or of many.

    `faults` are what was injected: one kill a round, but many I/O errors. `lost` are acknowledged writes that
    are not there, `stale` reads of what was no longer so, `wrong` everything else that must not be.
    `recovery_s` is the longest time until both stores took writes again. `findings` tell what was wrong,
    `notes` what is worth telling besides.
    """

    fault: str
    rounds: int = 0
    faults: int = 0
    requests: int = 0
    acknowledged: int = 0
    lost: int = 0
    stale: int = 0
    wrong: int = 0
    recovery_s: float = 0.0
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def recovered(self, seconds: float) -> None:
        """It took so long to recover."""
        self.recovery_s = round(max(self.recovery_s, seconds), 2)

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            if each.name == "recovery_s":
                self.recovered(other.recovery_s)
            elif each.name != "fault":
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def keep(results: Path, tally: Tally) -> None:
    """Append what a run came to, as a line of JSON."""
    with results.open("a") as file:
        file.write(json.dumps(asdict(tally)) + "\n")


def kept(results: Path) -> dict[str, Tally]:
    """What all runs came to, by the names of the faults."""
    lines = results.read_text().splitlines() if results.exists() else []
    return added(Tally(**json.loads(line)) for line in lines)


def added(tallies: Iterable[Tally]) -> dict[str, Tally]:
    """The sums, by the names of the faults."""
    sums: dict[str, Tally] = {}
    for tally in tallies:
        total = sums.setdefault(tally.fault, Tally(tally.fault))
        total += tally
    return sums
