"""Some inputs for each target in every run of the suite, always the same ones; many in a long run."""

from __future__ import annotations

import pytest

from tests.fuzz.corruption import CORRUPTIONS
from tests.fuzz.parsers import PARSERS
from tests.fuzz.services import SERVICES
from tests.fuzz.target import Target, run
from tests.fuzz.targets import TARGETS

SOAK = 100


@pytest.mark.parametrize("target", PARSERS, ids=lambda target: target.name)
def test_what_reads_text_fails_as_it_says_or_knows_what_it_read(target: Target) -> None:
    assert run(target, inputs=target.few) >= target.few


@pytest.mark.parametrize("target", SERVICES, ids=lambda target: target.name)
def test_a_server_answers_whatever_it_is_asked(target: Target) -> None:
    assert run(target, inputs=target.few) >= target.few


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_hundred_times_as_many_inputs_find_nothing(target: Target) -> None:
    assert run(target, inputs=SOAK * target.few, begin=1000) >= SOAK * target.few


def test_every_target_has_a_name_and_a_share_of_its_own() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
    assert all(target.share > 0 and target.few > 0 for target in TARGETS)
    assert {*PARSERS, *SERVICES, *CORRUPTIONS} == {*TARGETS}
