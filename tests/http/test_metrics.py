"""`/metrics`: what is counted, by the parser that Prometheus's own client has."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.bearing import Bearer
from tests.http.launching import Launched, Server, serving
from tests.http.stores import Store
from tests.http.test_health import told
from tests.http.wire import BASE, Endpoint, refused, target_of
from tests.polling import eventually
from tests.serving import ROOT

KEY_ROUTE = f"{BASE}/kv/{{key}}"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_BY_WORKER = "worker"


def scraped(server: Endpoint | Bearer) -> Samples:
    """All samples, by their names and labels; of several workers, what they come to."""
    answer = server.ask("GET", "/metrics")
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples: Samples = defaultdict(float)
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ((name, label) for name, label in sample.labels.items() if name != _BY_WORKER)
            samples[sample.name, frozenset(labels)] += sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample; 0 where there is none yet."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def requests(samples: Samples, method: str, route: str, status: int) -> float:
    return value(samples, "kvfs_http_requests_total", method=method, route=route, status=str(status))


def test_requests_are_counted_by_route_and_status(store: Store) -> None:
    server = store.server
    assert isinstance(server, Server)
    before = scraped(server)
    store.put("a", b"1")
    store.put("b/c", b"2")
    store.get("a")
    store.ask("GET", "missing")
    store.ask("PUT", "a", body=b"1", headers=[("If-None-Match", "*")])
    after = scraped(server)
    for method, status, more in (("PUT", 200, 2), ("GET", 200, 1), ("GET", 404, 1), ("PUT", 412, 1)):
        counted = requests(after, method, KEY_ROUTE, status) - requests(before, method, KEY_ROUTE, status)
        assert counted == more, (method, status)
    assert not [name for name, labels in after if dict(labels).get("route", "").endswith("b/c")]


def test_what_has_no_route_is_counted_without_its_path(server: Server) -> None:
    before = requests(scraped(server), "", "", 404)
    for path in ("/one", "/two", f"{BASE}/three"):
        refused(server.ask("GET", path), 404, "ROUTE_NOT_FOUND")
    refused(server.ask("GET", "/x#y"), 400, "INVALID_PARAMETERS")
    after = scraped(server)
    assert requests(after, "", "", 404) == before + 3
    assert requests(after, "", "", 400) >= 1
    assert not [labels for _, labels in after if "/one" in dict(labels).values()]


def test_durations_are_a_histogram_of_all_requests(table: Store) -> None:
    assert isinstance(table.server, Server)
    table.put("a", b"1")
    samples = scraped(table.server)
    name, labels = "kvfs_http_request_duration_seconds", {"method": "PUT", "route": KEY_ROUTE}
    buckets = [
        (float(dict(found)["le"]), count)
        for (sample, found), count in samples.items()
        if sample == f"{name}_bucket" and labels.items() <= dict(found).items()
    ]
    counts = [count for _, count in sorted(buckets)]
    assert counts == sorted(counts)
    assert counts[-1] == value(samples, f"{name}_count", **labels) >= 1
    assert 0 < value(samples, f"{name}_sum", **labels) < 60 * counts[-1]
    statuses = [
        count
        for (sample, found), count in samples.items()
        if sample == "kvfs_http_requests_total" and labels.items() <= dict(found).items()
    ]
    assert sum(statuses) == counts[-1]


def test_commits_are_counted_with_the_writes_that_shared_them(store: Store) -> None:
    assert isinstance(store.server, Server)
    store.put("warm", b"1")
    before = scraped(store.server)
    for _ in range(5):
        store.put("k", b"1")
    after = scraped(store.server)
    for name in ("kvfs_commit_writes", "kvfs_commit_duration_seconds"):
        assert value(after, f"{name}_count") >= value(before, f"{name}_count") + 5
        assert value(after, f"{name}_sum") > value(before, f"{name}_sum")
        assert value(after, f"{name}_bucket", le="+Inf") == value(after, f"{name}_count")


def test_open_stores_and_their_queues_are_shown(store: Store) -> None:
    assert isinstance(store.server, Server)
    store.put("a", b"1")
    samples = scraped(store.server)
    path = str(store.folder if store.directory else store.db)
    assert ("kvfs_queued_writes", frozenset({("path", path)})) in samples
    assert value(samples, "kvfs_open_stores", kind="directory" if store.directory else "table") >= 1
    size = "kvfs_oplog_size_bytes" if store.directory else "kvfs_database_size_bytes"
    assert value(samples, size, path=path) > 0


def test_the_watcher_and_what_it_saw_are_shown(folder: Store) -> None:
    server, path = folder.server, str(folder.folder)
    assert isinstance(server, Server)
    folder.put("mine", b"1")
    eventually(lambda: told(folder)["watcher"] == "watching", 10, "the folder is watched")
    (folder.folder / "theirs").write_bytes(b"2")
    eventually(lambda: value(scraped(server), "kvfs_reconciles_total", path=path) == 1, 10, "it is logged")
    samples = scraped(server)
    assert value(samples, "kvfs_watcher", path=path, state="watching") == 1
    assert value(samples, "kvfs_watcher", path=path, state="failed") == 0
    assert value(samples, "kvfs_watcher_events_total", path=path) > 0
    assert value(samples, "kvfs_indexed_keys", path=path) == 2


def test_the_process_and_the_version_are_shown(server: Server) -> None:
    samples = scraped(server)
    health = server.ask("GET", f"{BASE}/health").done()
    labels = {"version": health["version"], "sqlite": health["sqlite_version"]}
    assert value(samples, "kvfs_info", **labels) >= 1
    assert value(samples, "process_resident_memory_bytes") > 1 << 20
    assert value(samples, "process_open_fds") > 3
    assert value(samples, "kvfs_http_connections") >= 1


def test_metrics_need_a_token_that_covers_everything_where_there_are_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(
        json.dumps(
            {
                "tokens": [
                    {"name": "monitor", "token": "monitor-secret", "access": "read"},
                    {"name": "some", "token": "some-secret", "access": "write", "databases": ["app"]},
                ]
            }
        )
    )
    with serving(tmp_path, "--token-file", str(tmp_path / "tokens")) as server:
        refused(server.ask("GET", "/metrics"), 401, "UNAUTHORIZED")
        refused(Bearer(server, "some-secret").ask("GET", "/metrics"), 403, "FORBIDDEN")
        samples = scraped(Bearer(server, "monitor-secret"))
        assert requests(samples, "GET", "/metrics", 401) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_metrics_are_only_read(server: Server, method: str) -> None:
    refused(server.ask(method, "/metrics"), 405, "METHOD_NOT_ALLOWED")


def test_the_documented_metrics_are_those_that_are_exposed(store: Store) -> None:
    store.put("a", b"1")
    parts = ("_bucket", "_sum", "_count", "_created")
    exposed = {name for name, _ in scraped(store.server) if name.startswith("kvfs_")}
    for part in parts:
        exposed = {name.removesuffix(part) for name in exposed}
    documented = set(re.findall(r"`(kvfs_\w+)`", (ROOT / "docs/operations.md").read_text()))
    assert exposed <= documented
    if store.directory:
        # Of databases there is this alone, and there may be none open.
        assert documented <= exposed | {"kvfs_database_size_bytes"}


def test_a_store_that_cannot_be_opened_is_counted(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert isinstance(server, Launched)
        assert value(scraped(server), "kvfs_failed_stores") == 0
        target = target_of(f"{BASE}/db/create", path=f"{tmp_path}/data/site/")
        assert server.ask("POST", target).status == 200
        put = target_of(f"{BASE}/kv/k", db=f"{tmp_path}/data/site", table="t")
        (tmp_path / "data/site/.kvfs").mkdir()
        (tmp_path / "data/site/.kvfs/t.oplog").write_bytes(b"no database" * 100)
        assert server.ask("PUT", put, b"1").status == 500
        assert value(scraped(server), "kvfs_failed_stores") == 1
