"""What several workers say of themselves, made into one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.exposition import Gathered
from server.wire import Json

_SUMMED: Final = ("users", "queued", "reconciles", "index_hits", "index_misses")
"""What each worker counts for itself. The rest all agree on, or is what the one does that watches."""


def caches(told: Mapping[int, Json]) -> Json:
    """`/health/cache` of all workers, by their numbers: a store that several have open is told of once."""
    databases = _by_path(told, "databases", lambda each: True)
    folders = _by_path(told, "directory_stores", lambda each: each["watcher"] != "standby")
    found = {*(each["path"] for each in databases), *(each["path"] + "/" for each in folders)}
    failed = {each["path"]: each for cache in told.values() for each in cache["failed"]}
    return {
        "databases": databases,
        "directory_stores": folders,
        # What another worker could open since is as it should be.
        "failed": [each for path, each in failed.items() if path not in found],
        "connections": sum(cache["connections"] for cache in told.values()),
        "workers": [
            {"worker": number, "connections": cache["connections"]} for number, cache in sorted(told.items())
        ],
    }


def _by_path(told: Mapping[int, Json], kind: str, leads: Callable[[Json], bool]) -> list[Json]:
    stores: dict[str, list[Json]] = {}
    for cache in told.values():
        for each in cache[kind]:
            stores.setdefault(each["path"], []).append(each)
    return [_one(forms, leads) for forms in stores.values()]


def _one(forms: Sequence[Json], leads: Callable[[Json], bool]) -> Json:
    """A store, as the one has it that leads, with what all count."""
    leading = next(filter(leads, forms), forms[0])
    summed: dict[str, Any] = {name: sum(form[name] for form in forms) for name in _SUMMED if name in leading}
    rebuilt = max(forms, key=lambda form: form.get("last_rebuild") or 0)
    if any(form["in_doubt"] for form in forms):
        summed |= {"readonly": True, "in_doubt": next(form["in_doubt"] for form in forms if form["in_doubt"])}
    of_rebuild: Json = {
        name: rebuilt[name] for name in ("last_rebuild", "last_rebuild_ms") if name in rebuilt
    }
    return {**leading, **summed, **of_rebuild, "idle_seconds": min(form["idle_seconds"] for form in forms)}


def expositions(told: Mapping[int, bytes]) -> bytes:
    """`/metrics` of all workers, by their numbers, which each sample gets as the label `worker`.

    They are not summed: a worker that is replaced begins at 0, and only its own counters may go back.
    """
    families: dict[str, Metric] = {}
    for number, text in sorted(told.items()):
        for family in text_string_to_metric_families(text.decode()):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {**sample.labels, "worker": str(number)}, sample.value)
    registry = CollectorRegistry()
    registry.register(Gathered(families.values()))
    return generate_latest(registry)
