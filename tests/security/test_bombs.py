"""JSON and paths that are made to exhaust whoever reads them: refused or taken, and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.launching import Server
from tests.http.stores import Store
from tests.http.wire import BASE, Answer, target_of

MIB = 1 << 20
PEAK_BYTES = 400 * MIB
"""A server at rest has about 50 MiB."""

SIZES = [4_000, pytest.param(400_000, marks=pytest.mark.soak)]
"""Of how many parts a bomb is."""


def nodes(size: int) -> dict[str, bytes]:
    """JSON, or almost."""
    return {
        "deep arrays": b"[" * size + b"]" * size,
        "deep objects": b'{"a":' * size + b"1" + b"}" * size,
        "deep and never closed": b"[" * size * 5,
        "a huge integer": b"9" * size,
        "a huge exponent": b"1e999999999",
        "many huge integers": b"[" + b",".join([b"9" * 4_000] * (size // 400)) + b"]",
        "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(size)) + b"}",
        "one key many times": b"{" + b",".join([b'"a":0'] * size) + b"}",
        "many elements": b"[" + b",".join([b"0"] * size) + b"]",
        "a long string": b'"' + b"x" * size * 10 + b'"',
        "many escapes": b'"' + rb"\u0000" * size + b'"',
        "half a surrogate": rb'"\ud800"',
    }


def paths(size: int) -> list[str]:
    """JSON paths, or almost; a request line holds 256 KiB of them."""
    return [
        "a." * size + "a",
        "[0]" * size,
        "[" + "9" * size + "]",
        "[-" + "9" * size + "]",
        "[" * size,
        "." * size,
        "\\" * size,
        "$" * size,
    ]


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("bombed")) as server:
        yield server


def memory_bytes(server: Server, kind: str) -> int:
    """The memory that a server has: the most that it ever had (`VmHWM`), or now (`VmRSS`)."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024


def survives(answers: Iterator[Answer], server: Server) -> None:
    """Each is an honest answer; the server is as well as before, and has not taken much memory."""
    for answer in answers:
        assert answer.status in (200, 400, 404, 413), (answer.status, answer.asked, answer.body[:300])
    assert server.ask("GET", f"{BASE}/health").done()["status"] == "ok"
    assert memory_bytes(server, "VmHWM") < PEAK_BYTES


def test_what_was_sent_with_requests_that_fail_is_not_kept(bombed: Server, tmp_path: Path) -> None:
    """Errors that a thread hands over hold who waited for them, and so the body: for as long as they live."""
    with Store(bombed, tmp_path / "store", directory=False) as store:
        store.put("k", b"text")
        failing = [
            ("PUT", target_of(f"{BASE}/kv/k", db=store.db, table="things", path="a.b")),
            ("POST", target_of(f"{BASE}/kv/batch/set", db=store.db, table="things")),
            ("POST", target_of(f"{BASE}/db", db=store.db)),
        ]

        def fail(times: int) -> None:
            for _ in range(times):
                for method, target in failing:
                    assert bombed.ask(method, target, b"x" * MIB).status == 400

        fail(5)
        before = memory_bytes(bombed, "VmRSS")
        fail(25)
        assert memory_bytes(bombed, "VmRSS") - before < 25 * MIB


@pytest.mark.parametrize(
    "directory", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["table", "directory"]
)
@pytest.mark.parametrize("size", SIZES)
def test_no_json_in_a_body_or_a_value_brings_the_server_down(
    bombed: Server, tmp_path: Path, size: int, directory: bool
) -> None:
    def answers(store: Store) -> Iterator[Answer]:
        for what, node in nodes(size).items():
            for path in (None, "a.b", "a[-1]"):
                yield store.ask("PUT", what, body=b'{"a": [1]}')
                yield store.ask("PUT", what, body=node, path=path)
                if path is not None:
                    yield store.ask("GET", what, path=path)
            yield store.ask("PUT", what, body=node)
            yield store.ask("GET", what)
            yield store.ask("GET", what, path="a.a.a")
            yield store.ask("POST", what, "incr")
            yield store.ask("POST", what, "pop")
            yield store.ask("POST", what, "remove", body=b'{"value": %s}' % node)
            yield store.ask("PUT", what, body=b"[]")
            yield store.ask("POST", what, "push", body=node)
            yield store.ask("POST", None, "batch/set", body=node)
            yield store.ask("POST", None, "batch/set", body=b'{"items": %s}' % node)
            yield store.ask("POST", None, "batch/get", body=b'{"keys": %s}' % node)
            yield store.ask("POST", None, "batch/delete", body=b'{"keys": %s}' % node)

    with Store(bombed, tmp_path / "store", directory=directory) as store:
        survives(answers(store), bombed)


@pytest.mark.soak
@pytest.mark.parametrize("size", [400_000])
def test_no_json_in_sql_brings_the_server_down(bombed: Server, tmp_path: Path, size: int) -> None:
    def answers(store: Store) -> Iterator[Answer]:
        for node in nodes(size).values():
            for body in (
                node,
                b'{"transaction": %s}' % node,
                b'{"transaction": [{"query": %s}]}' % node,
                b'{"transaction": [{"query": "SELECT ?", "values": %s}]}' % node,
                b'{"transaction": [{"query": "SELECT ?", "values": [%s]}]}' % node,
                b'{"transaction": [{"statement": "SELECT ?", "valuesBatch": %s}]}' % node,
                b'{"op": %s}' % node,
            ):
                yield bombed.ask("POST", target_of(f"{BASE}/db", db=store.db), body)
                yield bombed.ask("POST", target_of(f"{BASE}/maintenance", db=store.db), body)

    with Store(bombed, tmp_path / "store", directory=False) as store:
        survives(answers(store), bombed)


def test_no_json_path_brings_the_server_down(bombed: Server, tmp_path: Path) -> None:
    def answers(store: Store) -> Iterator[Answer]:
        for path in paths(5_000):
            yield store.ask("PUT", "k", body=b'{"a": [1]}')
            yield store.ask("GET", "k", path=path)
            yield store.ask("PUT", "k", body=b"1", path=path)
            yield store.ask("POST", "k", "push", body=b"1", path=path)
            yield store.ask("POST", "new", "incr", path=path)

    with Store(bombed, tmp_path / "store", directory=False) as store:
        survives(answers(store), bombed)
