"""What the client adds to the API: mappings, streams, iterators, times."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvfs.client import AsyncClient, Client, Table
from kvfs.errors import (
    CasMismatch,
    DatabaseNotFound,
    InvalidParameters,
    KeyNotFound,
    PayloadTooLarge,
)
from tests import nasty
from tests.serving import ROOT

LARGE = 3 << 20


def test_a_table_is_used_like_a_dict(table: Table) -> None:
    table["user:1"] = b"Ada"
    table["text"] = "größer"
    assert (table["user:1"], table["text"]) == (b"Ada", "größer".encode())
    assert "user:1" in table
    assert "user:2" not in table
    assert "" not in table
    assert 7 not in table
    assert len(table) == 2
    assert [*table] == ["text", "user:1"]
    del table["text"]
    assert [*table] == ["user:1"]
    for missing in (lambda: table["text"], lambda: table.__delitem__("text")):
        with pytest.raises(KeyError, match="text"):
            missing()
    del table["user:1"]
    assert table
    assert len(table) == 0


def test_a_table_has_a_whole_dict_in_it(table: Table) -> None:
    entries = table.as_dict()
    entries.update(a=b"1", b=b"2", c=b"3")
    assert entries == {"a": b"1", "b": b"2", "c": b"3"}
    assert entries.get("z") is None
    assert entries.pop("a") == b"1"
    assert entries.setdefault("d", b"4") == b"4"
    entries.clear()
    assert [*table] == []


def test_every_key_and_value_comes_back(table: Table) -> None:
    for number, key in enumerate(nasty.KEYS):
        table[key] = nasty.noise(20, number)
    assert {*table} == {*nasty.KEYS}
    for number, key in enumerate(nasty.KEYS):
        assert table[key] == nasty.noise(20, number)


def test_text_and_json_have_methods_of_their_own(table: Table) -> None:
    table.set("text", "Grüße")
    assert table.get_text("text") == "Grüße"
    assert table.get("text").content_type == "text/plain; charset=utf-8"
    document = {"name": "Ada", "tags": ["a", "b"], "id": 2**70}
    table.set_json("doc", document)
    assert table.get_json("doc") == document
    assert table.get_json("doc", "tags[-1]") == "b"
    table.set_json("doc", "dark", "prefs.theme")
    assert table.get_json("doc", "prefs") == {"theme": "dark"}
    with pytest.raises(KeyNotFound):
        table.get_json("doc", "nothing")
    with pytest.raises(InvalidParameters):
        table.get_json("text", "a")


def test_lists_are_gone_through_page_by_page(table: Table) -> None:
    names = [f"k{number:04}" for number in range(2050)]
    for start in range(0, len(names), 100):
        table.set_many(dict.fromkeys(names[start : start + 100], b"v"))
    table["other"] = b"1"
    assert [*table.keys("k")] == names
    assert table.count("k") == 2050
    assert sum(entry.size for entry in table.entries("k")) == 2050
    assert {entry.value for entry in table.entries("k00", values=True)} == {b"v"}
    assert [*table.keys("none")] == []


@pytest.mark.parametrize("newest", [True, False])
def test_a_history_is_gone_through_page_by_page(table: Table, newest: bool) -> None:
    for _ in range(25):
        table.incr("n")
    numbers = [*range(1, 26)]
    found = [operation.op_number for operation in table.operations("n", newest=newest)]
    assert found == (numbers[::-1] if newest else numbers)
    with pytest.raises(KeyNotFound):
        next(table.operations("nothing"))


def test_large_values_are_streamed_both_ways(table: Table, tmp_path: Path) -> None:
    value = nasty.noise(LARGE)
    (tmp_path / "value").write_bytes(value)
    with (tmp_path / "value").open("rb") as file:
        assert table.set("file", file, content_type="video/mp4").size == LARGE
    assert table.set("chunks", (value[at : at + 5000] for at in range(0, LARGE, 5000))).size == LARGE
    for key in ("file", "chunks"):
        with table.stream(key) as (entry, chunks):
            assert (entry.size, entry.value) == (LARGE, None)
            assert b"".join(chunks) == value
    assert table.get("file").content_type == "video/mp4"


def test_a_stream_may_be_left_early(table: Table) -> None:
    table["large"] = nasty.noise(LARGE)
    for _ in range(30):
        with table.stream("large") as (_, chunks):
            assert next(chunks)
    with pytest.raises(KeyNotFound), table.stream("missing"):
        pass
    assert table.exists("large")


def test_a_value_that_is_too_large_is_refused_while_it_is_sent(table: Table) -> None:
    with pytest.raises(PayloadTooLarge):
        table.set("k", (bytes(1 << 20) for _ in range(40)))
    assert not table.exists("k")


def test_errors_have_their_details(table: Table) -> None:
    table["k"] = b"1"
    with pytest.raises(CasMismatch) as caught:
        table.set("k", b"2", if_match_etag="7")
    assert caught.value.details["current_etag"] == "1"
    assert caught.value.details["request_id"]
    with pytest.raises(CasMismatch):
        table.set("k", b"2", if_none_match=True)
    with pytest.raises(InvalidParameters, match="ASCII"):
        table.set("k", b"2", content_type="text/größe")
    with pytest.raises(InvalidParameters, match="cannot be sent"):
        table.set("k", b"2", content_type="text/plain\r\nX: y")
    assert table["k"] == b"1"


def test_a_database_is_made_only_where_that_is_asked_for(client: Client, tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    with pytest.raises(DatabaseNotFound):
        client.table(path)["k"] = b"1"
    client.table(path, create=True)["k"] = b"1"
    assert client.table(path)["k"] == b"1"


def test_databases_are_made_listed_and_deleted(client: Client) -> None:
    made = client.database("shop").create(kv_table="goods")
    assert (made.created, made.kv_table) == (True, "goods")
    assert not client.database("shop").create().created
    (listed,) = [each for each in client.databases() if each.path == made.path]
    assert (listed.name, listed.kind, listed.valid) == ("shop.db", "table", True)
    client.database("shop").table("goods")["tea"] = b"7.50"
    assert client.database("shop").delete().files_removed >= 1
    assert made.path not in [each.path for each in client.databases()]
    assert client.health()["status"] == "ok"


def test_an_empty_key_is_refused_without_a_request() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidParameters, match="empty"):
        client.table("db").get("")


async def test_the_async_client_does_the_same(url: str, db: str) -> None:
    async with AsyncClient(url) as client:
        table = client.table(db, "things", create=True)
        numbers = await asyncio.gather(*(table.incr("n") for _ in range(50)))
        assert sorted(done.number or 0 for done in numbers) == [*range(1, 51)]
        value = nasty.noise(LARGE)
        assert (await table.set("file", io.BytesIO(value))).size == LARGE

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, LARGE, 100_000):
                yield value[at : at + 100_000]

        assert (await table.set("chunks", chunks())).size == LARGE
        async with table.stream("chunks") as (entry, received):
            assert entry.size == LARGE
            assert b"".join([chunk async for chunk in received]) == value
        assert [key async for key in table] == ["chunks", "file", "n"]
        assert [op.op_number async for op in table.operations("n", newest=False)] == [*range(1, 51)]
        with pytest.raises(KeyNotFound):
            await table.get("missing")
        assert not await table.exists("missing")


async def test_a_cancelled_call_leaves_the_client_usable(url: str, db: str) -> None:
    async with AsyncClient(url, max_connections=1) as client:
        table = client.table(db, "things", create=True)
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0):
                    await table.set("k", b"1")
        assert (await table.set("l", b"1")).created


def test_the_client_needs_no_sqlite() -> None:
    code = "import sys, kvfs.client; print('apsw' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
