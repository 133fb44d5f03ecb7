"""`kvfs db`: the commands on databases."""

from __future__ import annotations

import click
