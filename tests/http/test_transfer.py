"""Exports and imports over HTTP: as streams, broken off, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.http.launching import Server
from tests.http.stores import TABLE, Store
from tests.http.wire import BASE, Answer, Connection, chunked, refused, request, target_of
from tests.polling import eventually

CHUNKED = [("Transfer-Encoding", "chunked")]


def fill(store: Store, ops: int, size: int = 200_000) -> None:
    for number in range(ops):
        store.put(f"k{number % 5}", b"%d " % number + b"x" * size)


def exported(store: Store, **params: object) -> bytes:
    """An export that came whole."""
    with store.server.connect() as connection:
        connection.send(request("GET", store.target(None, "export", **params)))
        return dechunked(connection)


def dechunked(connection: Connection) -> bytes:
    """The body of a good answer that comes in chunks."""
    head = connection.head()
    assert b"Transfer-Encoding: chunked" in head, head
    assert b"Content-Length" not in head
    assert b"Content-Type: application/x-ndjson" in head
    return b"".join(connection.chunks())


def imported(store: Store, data: bytes, **params: object) -> Answer:
    return store.server.ask("POST", store.target(None, "import", **params), data)


def blocks_of(data: bytes) -> list[int]:
    """Where the blocks of a stream end."""
    ends, at = [], 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        if line.startswith(b'{"seal"'):
            ends.append(at)
    return ends


def has(store: Store, header: bytes, records: int) -> bool:
    """Whether so many records of an export are in."""
    return int(imported(store, header, part="true").done()["records"]) >= records


@pytest.fixture
def other(server: Server, tmp_path: Path, kind: str) -> Iterator[Store]:
    """Another empty store of the same kind."""
    with Store(server, tmp_path / "other", directory=kind == "directory") as store:
        yield store
        store.disconnect()
        store.check()


# --- streams -----------------------------------------------------------------------------------------


def test_an_export_comes_in_chunks_and_the_connection_stays(store: Store) -> None:
    fill(store, 12)
    with store.server.connect() as connection:
        for _ in range(2):
            connection.send(request("GET", store.target(None, "export", history="true")))
            assert dechunked(connection).count(b'"op_number"') == 12
    with store.server.connect() as connection:
        connection.send(request("GET", store.target(None, "export"), version="HTTP/1.0"))
        old = connection.rest()
    assert b"Transfer-Encoding" not in old
    assert old.count(b'"content_type"') == 5
    assert old.splitlines()[-1].startswith(b'{"end"')


def test_an_import_may_come_in_chunks_of_any_size(store: Store, other: Store) -> None:
    fill(store, 8)
    data = exported(store, history="true")
    pieces = [data[at : at + 70_001] for at in range(0, len(data), 70_001)]
    with store.server.connect() as connection:
        connection.send(request("POST", other.target(None, "import"), headers=CHUNKED) + chunked(*pieces))
        told = connection.answer().done()
    assert told == {
        "success": True, "history": True, "records": 8, "at": 8, "complete": True,
        "imported": 8, "skipped": 0, "expired": 0,
    }  # fmt: skip
    assert other.log() == store.log()


def test_a_client_that_leaves_an_export_holds_nothing(table: Store) -> None:
    fill(table, 60)
    with table.server.connect() as connection:
        connection.send(request("GET", table.target(None, "export", history="true")))
        connection.head()
        connection.reset()
    gone = table.server.ask("DELETE", target_of(f"{BASE}/db", db=table.db, confirm="yes"))
    assert gone.done()["deleted"] is True


def test_writes_go_on_while_somebody_takes_an_export_slowly(store: Store) -> None:
    fill(store, 60)
    with store.server.connect() as connection:
        connection.send(request("GET", store.target(None, "export", history="true")))
        head = connection.head()
        for number in range(20):
            store.put("meanwhile", b"%d" % number)
        assert b"200 OK" in head
        data = b"".join(connection.chunks())
    assert b'"meanwhile"' not in data
    assert data.count(b'"op_number"') == 60


# --- what breaks off ---------------------------------------------------------------------------------


def test_an_upload_that_broke_off_goes_on_when_it_comes_again(store: Store, other: Store) -> None:
    fill(store, 20)
    data = exported(store, history="true")
    ends = blocks_of(data)
    assert len(ends) >= 3
    header = data.partition(b"\n")[0] + b"\n"
    for number, end in enumerate(ends[:-1], 1):
        with store.server.connect() as connection:
            head = request("POST", other.target(None, "import"), headers=[("Content-Length", str(len(data)))])
            connection.send(head + data[: end + 1000])
            wanted = json.loads(data[:end].splitlines()[-1])["seal"]["records"]
            eventually(partial(has, other, header, wanted), 20, f"block {number} is in")
            connection.reset()
    told = imported(other, data).done()
    assert told["complete"]
    assert told["imported"] < told["records"] == 20
    assert exported(other, history="true").splitlines()[1] == data.splitlines()[1]


def test_an_upload_that_stops_is_told_how_far_it_got(store: Store, other: Store) -> None:
    fill(store, 20)
    data = exported(store, history="true")
    end = blocks_of(data)[1]
    with store.server.connect() as connection:
        target = other.target(None, "import", timeout=1)
        connection.send(request("POST", target, headers=[("Content-Length", str(len(data)))]))
        connection.send(data[: end + 10])
        error = refused(connection.answer(), 503, "DEADLINE_EXCEEDED")
    assert error["records"] == json.loads(data[:end].splitlines()[-1])["seal"]["records"]
    assert imported(other, data).done()["records"] == 20


def test_a_stream_that_was_cut_off_before_it_was_sent_is_noticed(store: Store, other: Store) -> None:
    fill(store, 20)
    data = exported(store, history="true")
    end = blocks_of(data)[0]
    error = refused(imported(other, data[:end]), 400, "INVALID_PARAMETERS")
    records = json.loads(data[:end].splitlines()[-1])["seal"]["records"]
    assert error["records"] == records
    told = imported(other, data[:end], part="true").done()
    assert (told["records"], told["imported"], told["complete"]) == (records, 0, False)


# --- what is refused ---------------------------------------------------------------------------------


def test_a_wrong_request_changes_nothing(store: Store, other: Store) -> None:
    store.put("a", b"1")
    data = exported(store)
    other.put("a", b"own")
    with other.unchanged():
        for params in ({"on_conflict": "merge"}, {"part": "perhaps"}, {"timeout": "soon"}):
            refused(imported(other, data, **params), 400, "INVALID_PARAMETERS")
        for body in (b"", b"nonsense", b"{}\n", b"x" * 100_000, data[1:]):
            refused(imported(other, body, on_conflict="skip"), 400, "INVALID_PARAMETERS")
        refused(imported(other, data), 409, "IMPORT_CONFLICT")
        refused(imported(other, exported(store, history="yes")), 409, "IMPORT_CONFLICT")
    for after in ("", "{}", "[]", "5", '{"id":"x","records":1,"at":1,"sha256":"00"}'):
        refused(store.ask("GET", None, "export", after=after, history="yes"), 400, "INVALID_PARAMETERS")


def test_nothing_is_made_for_what_is_no_export(server: Server, tmp_path: Path) -> None:
    db = tmp_path / "new.db"

    def post(body: bytes, **params: object) -> Answer:
        return server.ask("POST", target_of(f"{BASE}/kv/import", db=db, **params), body)

    refused(post(b"nonsense", create_db_if_missing="true"), 400, "INVALID_PARAMETERS")
    assert not db.exists()
    header = b'{"kvfs_export":1,"id":"x","table":"t","directory":false,"history":false,"pruned_seq":0}\n'
    refused(post(header), 404, "DATABASE_NOT_FOUND")
    assert post(header, create_db_if_missing="true", part="true").done()["records"] == 0
    assert db.exists()
    missing = server.ask("GET", target_of(f"{BASE}/kv/export", db=tmp_path / "none.db"))
    refused(missing, 404, "DATABASE_NOT_FOUND")


def test_values_over_the_servers_limit_are_refused_with_their_line(store: Store, limited: Server) -> None:
    store.put("a", b"1")
    store.put("b", b"x" * 400_000)
    with Store(limited, store.home / "limited", directory=False) as small:
        error = refused(imported(small, exported(store)), 413, "PAYLOAD_TOO_LARGE")
        assert error["message"].startswith("line 3: ")
        assert small.ask("GET").done()["keys"] == []


def test_an_export_says_which_table_it_is_of(store: Store) -> None:
    store.put("a", b"1")
    header = json.loads(exported(store).splitlines()[0])
    assert (header["kvfs_export"], header["table"], header["directory"]) == (1, TABLE, store.directory)
