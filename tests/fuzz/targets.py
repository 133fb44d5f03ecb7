"""Everything that is fuzzed."""

from tests.fuzz.corruption import CORRUPTIONS
from tests.fuzz.parsers import PARSERS
from tests.fuzz.services import SERVICES

TARGETS = [*PARSERS, *SERVICES, *CORRUPTIONS]
