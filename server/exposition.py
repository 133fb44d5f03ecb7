"""The metrics, by name: made of what the server and the engine count, when somebody asks.

Nothing is kept here. Counters of a store begin at 0 whenever it is opened, as Prometheus expects of counters
that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from kvfs.histogram import Histogram
from kvfs.sqlite import SQLITE_VERSION
from kvfs.status import DatabaseStatus, EngineStatus, FolderStatus
from server.route import BASE, Route
from server.traffic import Traffic

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

WATCHER_STATES: Final = ("off", "starting", "watching", "scanning", "failed", "standby")

_PATH: Final = ("path",)
_US: Final = 1e6
_DURATION_BITS: Final = range(6, 27)
"""Bounds from 64 µs to 67 s."""
_WRITES_BITS: Final = range(1, 10)
"""Bounds from 1 to 511: a batch has at most 256 writes."""


def exposed(status: Callable[[], EngineStatus], traffic: Traffic, *, connections: int, version: str) -> bytes:
    """The metrics as text. `status` is asked; this may take long."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Gathered([*_of_server(traffic, connections, version), *_of_engine(status())]))
    return generate_latest(registry)


class Gathered(Collector):
    """Metrics that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


# --- the server ----------------------------------------------------------------------------------------


def _of_server(traffic: Traffic, connections: int, version: str) -> Iterator[Metric]:
    yield InfoMetricFamily("kvfs", "What runs.", value={"version": version, "sqlite": SQLITE_VERSION})
    yield GaugeMetricFamily("kvfs_http_connections", "Open connections.", value=connections)
    requests = CounterMetricFamily(
        "kvfs_http_requests", "Requests that were answered.", labels=("method", "route", "status")
    )
    durations = HistogramMetricFamily(
        "kvfs_http_request_duration_seconds",
        "From a request to the beginning of its answer.",
        labels=("method", "route"),
    )
    by_route: dict[Route | None, list[Histogram]] = {}
    for route, status, durations_us in traffic.so_far():
        requests.add_metric((*_labels(route), str(status)), sum(durations_us.counts))
        by_route.setdefault(route, []).append(durations_us)
    for route, histograms in by_route.items():
        counts = [sum(column) for column in zip(*(each.counts for each in histograms), strict=True)]
        total_s = sum(each.total for each in histograms) / _US
        durations.add_metric(_labels(route), _buckets(counts, _DURATION_BITS, _US), total_s)
    yield requests
    yield durations


def _labels(route: Route | None) -> tuple[str, str]:
    """(method, template); what has no route is not told apart, since anybody can ask for anything."""
    if route is None:
        return "", ""
    return route.method, route.path if route.at_root else BASE + route.path


# --- the engine ----------------------------------------------------------------------------------------


def _of_engine(status: EngineStatus) -> Iterator[Metric]:
    volumes = [opened.volume for opened in status.open]
    databases = [volume for volume in volumes if isinstance(volume, DatabaseStatus)]
    folders = [volume for volume in volumes if isinstance(volume, FolderStatus)]
    stores = GaugeMetricFamily("kvfs_open_stores", "Open databases and folder stores.", labels=("kind",))
    stores.add_metric(("table",), len(databases))
    stores.add_metric(("directory",), len(folders))
    yield stores
    yield GaugeMetricFamily("kvfs_failed_stores", "Stores that cannot be opened.", value=len(status.failed))
    in_doubt = sum(volume.in_doubt is not None for volume in volumes)
    yield GaugeMetricFamily(
        "kvfs_read_only_stores", "Stores that take no writes since a sync failed.", value=in_doubt
    )
    yield _histogram("kvfs_commit_writes", "Writes that shared a commit.", status.commit_writes, _WRITES_BITS)
    yield _histogram(
        "kvfs_commit_duration_seconds", "What a commit took.", status.commit_us, _DURATION_BITS, _US
    )
    queued = GaugeMetricFamily("kvfs_queued_writes", "Writes that wait or are written.", labels=_PATH)
    for opened in status.open:
        queued.add_metric((opened.volume.path,), opened.queued)
    yield queued
    size = GaugeMetricFamily("kvfs_database_size_bytes", "A database and its write-ahead log.", labels=_PATH)
    for database in databases:
        size.add_metric((database.path,), database.size_bytes)
    yield size
    yield from _of_folders(folders)


_GAUGES: Final[Sequence[tuple[str, str, Callable[[FolderStatus], float]]]] = (
    ("kvfs_indexed_keys", "Keys that the index knows.", lambda folder: folder.keys),
    ("kvfs_pending_edits", "Outside edits that wait to be logged.", lambda folder: folder.pending),
    ("kvfs_oplog_size_bytes", "A folder's op-log.", lambda folder: folder.oplog_bytes),
    ("kvfs_last_scan_duration_seconds", "The last scan.", lambda folder: folder.last_scan_s or 0.0),
)
_COUNTERS: Final[Sequence[tuple[str, str, Callable[[FolderStatus], float]]]] = (
    ("kvfs_watcher_events", "Events that the watcher saw.", lambda folder: folder.events),
    ("kvfs_watcher_restarts", "How often the watcher was started again.", lambda folder: folder.restarts),
    ("kvfs_scans", "Scans of the whole folder.", lambda folder: folder.scans),
    ("kvfs_reconciles", "Outside edits that were logged.", lambda folder: folder.reconciles),
    ("kvfs_index_hits", "Reads that the index could answer.", lambda folder: folder.hits),
    ("kvfs_index_misses", "Reads that it could not answer.", lambda folder: folder.misses),
)


def _of_folders(folders: Sequence[FolderStatus]) -> Iterator[Metric]:
    for name, description, value in _GAUGES:
        gauge = GaugeMetricFamily(name, description, labels=_PATH)
        for folder in folders:
            gauge.add_metric((folder.path,), value(folder))
        yield gauge
    for name, description, value in _COUNTERS:
        counter = CounterMetricFamily(name, description, labels=_PATH)
        for folder in folders:
            counter.add_metric((folder.path,), value(folder))
        yield counter
    watcher = GaugeMetricFamily("kvfs_watcher", "1 for the watcher's state.", labels=(*_PATH, "state"))
    for folder in folders:
        for state in WATCHER_STATES:
            watcher.add_metric((folder.path, state), folder.watcher == state)
    yield watcher


# --- histograms ----------------------------------------------------------------------------------------


def _histogram(name: str, description: str, told: Histogram, bits: range, unit: float = 1) -> Metric:
    return HistogramMetricFamily(
        name, description, buckets=_buckets(told.counts, bits, unit), sum_value=told.total / unit
    )


def _buckets(counts: Sequence[int], bits: range, unit: float) -> list[tuple[str, float]]:
    """(bound, how many values up to it), the last without a bound.

    What has `i` bits is at most 2**i - 1. Durations are whole microseconds, cut off: so 2**i bounds them.
    """
    cut = 0 if unit == 1 else 1
    bounds = [(repr((2**bit - 1 + cut) / unit), float(sum(counts[: bit + 1]))) for bit in bits]
    return [*bounds, ("+Inf", float(sum(counts)))]
