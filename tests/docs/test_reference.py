"""What the documents say of commands and options is what the code says."""

from __future__ import annotations

import pytest

from tests.docs import reference
from tests.docs.documents import text


@pytest.mark.parametrize("document", [reference.CLI, reference.SERVER])
def test_the_reference_is_what_the_commands_say(document: str) -> None:
    assert text(document) == reference.made()[document], "`make reference` brings it up to date"
