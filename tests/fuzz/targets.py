"""What is fuzzed in memory: parsers, each with inputs made up for it, and what must hold of whatever it makes of them.

A target's `check` raises for a bug; an error that the parser's users expect is none.
"""

from __future__ import annotations
