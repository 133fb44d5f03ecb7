"""What was asked and how it was answered: counted for each route and status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvfs.histogram import Histogram

if TYPE_CHECKING:
    from server.route import Route


class Traffic:
    """Counts answers and how long they took, in microseconds. The event loop's own, but for `so_far`.

    It is added to in every request, so an answer costs two look-ups and two additions.
    """

    def __init__(self) -> None:
        # None: what has no route.
        self._durations_us: dict[Route | None, dict[int, Histogram]] = {}

    def add(self, route: Route | None, status: int, duration_s: float) -> None:
        """Count an answer."""
        try:
            durations_us = self._durations_us[route][status]
        except KeyError:
            durations_us = self._durations_us.setdefault(route, {}).setdefault(status, Histogram())
        durations_us.add(int(duration_s * 1e6))

    def so_far(self) -> Iterator[tuple[Route | None, int, Histogram]]:
        """(route, status, durations) of all that there were. Any thread may ask."""
        for route, by_status in list(self._durations_us.items()):
            for status, durations_us in list(by_status.items()):
                yield route, status, durations_us.copy()
