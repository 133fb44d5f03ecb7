"""`kvfs kv`, over a server and straight on files: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import kvfs as engine
from tests import nasty
from tests.cli.commands import Kvfs
from tests.polling import eventually

# Each command is a process of its own.
pytestmark = pytest.mark.timeout(240)

LARGE = nasty.noise(2 << 20)


def forms(out: bytes) -> list[Any]:
    """JSON lines."""
    return [json.loads(line) for line in out.splitlines()]


def test_a_value_comes_out_as_it_went_in(kvfs: Kvfs, tmp_path: Path) -> None:
    assert kvfs("kv", "set", "k", "größer", "--create").lines == ["1"]
    assert kvfs("kv", "get", "k").out == "größer".encode()
    assert kvfs("kv", "set", "k", "-", stdin=b"\xff\0\n").lines == ["2"]
    assert kvfs("kv", "get", "k").out == b"\xff\0\n"
    (tmp_path / "large").write_bytes(LARGE)
    assert kvfs("kv", "set", "a/b", "--file", tmp_path / "large", "--type", "video/mp4").lines == ["1"]
    assert kvfs("kv", "get", "a/b").out == LARGE
    assert kvfs("kv", "get", "a/b", "--output", tmp_path / "copy").out == b""
    assert (tmp_path / "copy").read_bytes() == LARGE
    assert kvfs("kv", "set", "empty", "").lines == ["1"]
    assert kvfs("kv", "get", "empty").out == b""


def test_keys_are_taken_as_they_are(kvfs: Kvfs) -> None:
    keys = ["a/history", "..", "snapshot", "日本/語", "a b", "100%", "x\ny", "-", "\\"]
    items = "".join(json.dumps({"key": key, "value": key}) + "\n" for key in keys)
    assert kvfs("kv", "batch-set", "-", "--create", stdin=items.encode()).lines == ["9"]
    for key in keys[:4]:
        assert kvfs("kv", "get", key).out == key.encode()
    listed = kvfs("kv", "list", "--null").out.split(b"\0")[:-1]
    assert listed == sorted(key.encode() for key in keys)
    assert {form["key"] for form in forms(kvfs("kv", "list", "--json").out)} == {*keys}


def test_what_is_not_there_ends_with_1(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    for arguments in (
        ("get", "x"),
        ("delete", "x"),
        ("pop", "x"),
        ("history", "x"),
        ("expire", "x", "5"),
        ("rollback", "x"),
        ("get", "k", "--op", "7"),
        ("get", "k", "--at", "1h"),
    ):
        done = kvfs("kv", *arguments)
        assert (done.code, done.out) == (1, b""), arguments
        assert done.err.startswith("kvfs: ")
        assert "KEY_NOT_FOUND" in done.err
    assert kvfs("kv", "exists", "k").lines == []
    assert (kvfs("kv", "exists", "x").code, kvfs("kv", "exists", "x").err) == (1, "")


def test_a_database_is_made_only_on_demand(kvfs: Kvfs, tmp_path: Path) -> None:
    elsewhere = Kvfs(kvfs.arguments, {**kvfs.variables, "KVFS_DB": str(tmp_path / "none.db")})
    for arguments in (("set", "k", "1"), ("incr", "k"), ("get", "k"), ("list",)):
        done = elsewhere("kv", *arguments)
        assert (done.code, done.out) == (1, b"")
        assert "DATABASE_NOT_FOUND" in done.err
    assert elsewhere("kv", "incr", "k", "--create").lines == ["1"]


def test_wrong_usage_ends_with_2(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "text", "--create")
    for arguments, told in (
        (("get",), "Missing argument"),
        (("set", "k"), "VALUE"),
        (("get", "k", "--at", "yesterday"), "no time"),
        (("get", "k", "--op", "1", "--at", "now"), "only one"),
        (("incr", "k"), "not numeric"),
        (("incr", "k", "x"), "integer"),
        (("push", "k", "no json"), "no JSON"),
        (("remove", "k"), "--index"),
        (("rollback-table", "now"), "--yes"),
        (("diff", "now", "1h"), "INVALID_PARAMETERS"),
        (("nonsense",), "No such command"),
        (("batch-set", "k"), "KEY=VALUE"),
        (("get", ""), "empty"),
    ):
        done = kvfs("kv", *arguments)
        assert (done.code, done.out) == (2, b""), (arguments, done)
        assert told in done.err, done
    no_db = Kvfs(kvfs.arguments, {name: text for name, text in kvfs.variables.items() if name != "KVFS_DB"})
    done = no_db("kv", "get", "k")
    assert done.code == 2
    assert "KVFS_DB" in done.err


def test_a_conflict_ends_with_3(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    for arguments in (
        ("set", "k", "2", "--if-etag", "7"),
        ("set", "k", "2", "--if-value", "0"),
        ("set", "k", "2", "--if-absent"),
        ("delete", "k", "--if-etag", "7"),
        ("rollback", "k", "--if-etag", "7"),
    ):
        done = kvfs("kv", *arguments)
        assert done.code == 3, done
        assert "CAS_MISMATCH" in done.err
    assert kvfs("kv", "set", "k", "2", "--if-value", "1", "--if-etag", "1").lines == ["2"]
    assert kvfs("kv", "set", "k", "3", "--no-history").lines == ["3"]
    kvfs("kv", "set", "k", "4")
    assert kvfs("kv", "get", "k", "--op", "3").code == 3


def test_a_server_that_cannot_be_reached_ends_with_4() -> None:
    done = Kvfs(variables={"KVFS_URL": "http://127.0.0.1:1", "KVFS_DB": "db"})("kv", "get", "k")
    assert (done.code, done.out) == (4, b"")
    assert "UNREACHABLE" in done.err


def test_numbers_and_arrays_are_worked_on(kvfs: Kvfs) -> None:
    assert kvfs("kv", "incr", "n", "--create").lines == ["1"]
    assert kvfs("kv", "incr", "n", "-5").lines == ["-4"]
    assert kvfs("kv", "decr", "n", "6").lines == ["-10"]
    assert kvfs("kv", "incr", "doc", "2", "--path", "a.b").lines == ["2"]
    assert kvfs("kv", "push", "doc", '{"x": [1]}', "--path", "list").lines == ["1"]
    assert kvfs("kv", "push", "doc", '"two"', "--path", "list").lines == ["2"]
    assert kvfs("kv", "get", "doc", "--path", "list").out == b'[{"x":[1]},"two"]'
    assert kvfs("kv", "remove", "doc", "--value", '{"x":[1]}', "--path", "list").lines == ["1"]
    assert kvfs("kv", "remove", "doc", "--value", "7", "--path", "list").lines == ["0"]
    assert kvfs("kv", "pop", "doc", "--path", "list").lines == ['"two"']
    empty = kvfs("kv", "pop", "doc", "--path", "list")
    assert (empty.code, empty.out, empty.err) == (1, b"", "")
    assert kvfs("kv", "set", "doc", "true", "--path", "a.c").lines == ["6"]
    assert kvfs("kv", "get", "doc").out == b'{"a":{"b":2,"c":true},"list":[]}'


def test_a_ttl_is_given_and_taken(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "1", "--ttl", "1000", "--create")
    assert forms(kvfs("kv", "get", "k", "--json").out)[0]["expire_at"] is not None
    assert kvfs("kv", "persist", "k").lines == ["2"]
    assert forms(kvfs("kv", "get", "k", "--json").out)[0]["expire_at"] is None
    assert kvfs("kv", "expire", "k", "1000").lines == ["3"]


def test_keys_are_listed(kvfs: Kvfs) -> None:
    kvfs("kv", "batch-set", "a/1=x", "a/2=y", "b=zz", "c=", "--create")
    assert kvfs("kv", "list").lines == ["a/1", "a/2", "b", "c"]
    assert kvfs("kv", "list", "a/").lines == ["a/1", "a/2"]
    assert kvfs("kv", "list", "--delimiter", "/").lines == ["a/", "b", "c"]
    assert kvfs("kv", "list", "--limit", "2", "--after", "a/1").lines == ["a/2", "b"]
    key, size, kind, updated, expires, op = kvfs("kv", "list", "b", "--long").lines[0].split("\t")
    assert (key, size, kind, expires, op) == ("b", "2", "text/plain; charset=utf-8", "", "1")
    assert updated.endswith("Z")
    (form,) = forms(kvfs("kv", "list", "b", "--json", "--values").out)
    assert (form["key"], form["value"], form["encoding"], form["size"]) == ("b", "zz", "utf-8", 2)
    kvfs("kv", "delete", "b")
    assert kvfs("kv", "list", "--at", "1h").lines == []
    assert kvfs("kv", "list", "--at", "now").lines == ["a/1", "a/2", "c"]


def test_a_list_of_any_length_is_listed(kvfs: Kvfs) -> None:
    names = [f"k{n:04}" for n in range(2500)]
    where = kvfs.variables
    with engine.open(where["KVFS_DB"], where.get("KVFS_TABLE", "kv_store")) as store:
        for done in [store.submit(engine.Set(name, b"", "text/plain")) for name in names]:
            done.result()
    assert kvfs("kv", "list").lines == names
    assert kvfs("kv", "list", "--limit", "1500").lines == names[:1500]
    assert kvfs("kv", "list", "--at", "now").lines == names


def test_batches_go_in_and_out_as_json(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "bytes", "-", "--create", stdin=b"\xff\0")
    kvfs("kv", "set", "text", "a\tb")
    out = kvfs("kv", "batch-get", "bytes", "text", "none").out
    bytes_form, text_form, none = forms(out)
    assert (bytes_form["value"], bytes_form["encoding"], text_form["value"]) == ("/wA=", "base64", "a\tb")
    assert none == {"key": "none", "entry": None}
    listed = kvfs("kv", "list", "--json", "--values").out
    assert kvfs("kv", "batch-delete", "bytes", "text", "none").lines == ["2"]
    assert kvfs("kv", "batch-set", "-", stdin=listed).lines == ["2"]
    assert kvfs("kv", "get", "bytes").out == b"\xff\0"
    assert kvfs("kv", "batch-delete", "-", stdin=b"bytes\ntext\n").lines == ["2"]
    assert kvfs("kv", "list").lines == []
    wrong = kvfs("kv", "batch-set", "-", stdin=b'{"key": "a", "value": "1"}\n{"key": "b"}\n')
    assert (wrong.code, "line 2" in wrong.err) == (2, True)
    assert kvfs("kv", "list").lines == []


def test_the_past_is_shown_and_brought_back(kvfs: Kvfs) -> None:
    kvfs("kv", "batch-set", "tea=7.50", "pot=30", "--create")
    before = str(time.time())
    kvfs("kv", "set", "tea", "0")
    kvfs("kv", "delete", "pot")
    kvfs("kv", "set", "debug", "x")
    operations = [line.split("\t") for line in kvfs("kv", "history", "tea").lines]
    assert [(op, kind, value) for op, _, kind, _, _, value in operations] == [
        ("2", "set", "0"),
        ("1", "set", "7.50"),
    ]
    (oldest,) = forms(kvfs("kv", "history", "tea", "--oldest-first", "-n", "1", "--json").out)
    assert (oldest["op_number"], oldest["value"], oldest["before"]) == (1, "7.50", None)
    assert kvfs("kv", "get", "tea", "--op", "1").out == b"7.50"
    assert kvfs("kv", "get", "tea", "--at", before).out == b"7.50"
    shown = [line.split("\t") for line in kvfs("kv", "snapshot", before).lines]
    assert [(key, value) for key, _, _, value in shown] == [("pot", "30"), ("tea", "7.50")]
    assert kvfs("kv", "diff", before).lines == [
        "created\tdebug\t\tx",
        "deleted\tpot\t30\t",
        "modified\ttea\t7.50\t0",
    ]
    assert kvfs("kv", "diff", before, "now", "--key", "pot").lines == ["deleted\tpot\t30\t"]
    preview = kvfs("kv", "rollback-table", before, "--dry-run", "--except", "debug").lines
    assert preview == ["restored\tpot", "restored\ttea"]
    assert kvfs("kv", "get", "tea").out == b"0"
    assert kvfs("kv", "rollback-table", before, "--yes").lines == ["deleted\tdebug", *preview]
    assert kvfs("kv", "get", "tea").out == b"7.50"
    assert kvfs("kv", "rollback", "tea", "--steps", "2").lines == ["4"]
    assert kvfs("kv", "get", "tea").out == b"7.50"


def test_changes_are_told_since_a_cursor(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    (cursor,) = kvfs("kv", "changes", "--cursor").lines
    assert kvfs("kv", "changes", "--since", cursor).lines == []
    kvfs("kv", "set", "k", "2")
    kvfs("kv", "set", "other", "1")
    kvfs("kv", "delete", "k")
    told = [line.split("\t") for line in kvfs("kv", "changes", "k", "--since", cursor).lines]
    assert [(kind, key, op, origin) for _, _, kind, key, op, origin in told] == [
        ("set", "k", "2", "api"),
        ("delete", "k", "3", "api"),
    ]
    (form,) = forms(kvfs("kv", "changes", "--since", told[0][0], "-n", "1", "--json", "--values").out)
    assert (form["key"], form["value"], form["op"]) == ("other", "1", "set")
    assert kvfs("kv", "changes", "--since", "nonsense").code == 2


def test_changes_are_told_as_they_happen_until_ctrl_c(kvfs: Kvfs) -> None:
    kvfs("kv", "set", "k", "1", "--create")
    (cursor,) = kvfs("kv", "changes", "--cursor").lines
    with subprocess.Popen(
        kvfs.command("kv", "changes", "--since", cursor, "--follow"),
        env=kvfs.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for number in ("2", "3"):
            kvfs("kv", "set", "k", number)
            assert process.stdout.readline().split(b"\t")[2:5] == [b"set", b"k", number.encode()]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_a_reader_that_goes_is_no_error(kvfs: Kvfs) -> None:
    items = "\n".join(json.dumps({"key": f"k{n}" + "x" * 900, "value": ""}) for n in range(100))
    kvfs("kv", "batch-set", "-", "--create", stdin=items.encode())
    command = " ".join(kvfs.command("kv", "list", "--json"))
    script = f"exec 2>&1; {command} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], env=kvfs.environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert (len(lines), lines[-1]) == (2, "141"), done


def test_ctrl_c_leaves_quietly(tmp_path: Path) -> None:
    # A server that accepts, and never answers.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        kvfs = Kvfs(variables={"KVFS_URL": url, "KVFS_DB": "db"})
        with subprocess.Popen(
            kvfs.command("kv", "get", "k"),
            env=kvfs.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(10)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_other_kinds_of_stores_work_alike(server_url: str, tmp_path: Path) -> None:
    """The two that the other tests leave out: a folder over a server, a table without one."""
    (tmp_path / "folders").mkdir()
    folder = Kvfs(
        variables={"KVFS_URL": server_url, "KVFS_DB": str(tmp_path / "folders"), "KVFS_TABLE": "site"}
    )
    table = Kvfs(("--local",), {"KVFS_DB": str(tmp_path / "local.db")})
    for kvfs in (folder, table):
        assert kvfs("kv", "set", "a/b", "-", "--create", stdin=LARGE).lines == ["1"]
        assert kvfs("kv", "get", "a/b").out == LARGE
        assert kvfs("kv", "list").lines == ["a/b"]
    assert (tmp_path / "folders/site/a/b").read_bytes() == LARGE


def test_a_folder_is_worked_on_beside_a_server(server_url: str, tmp_path: Path) -> None:
    (tmp_path / "folders").mkdir()
    where = {"KVFS_DB": str(tmp_path / "folders"), "KVFS_TABLE": "site"}
    through, beside = Kvfs(variables={"KVFS_URL": server_url, **where}), Kvfs(("--local",), where)
    assert through("kv", "set", "k", "1").lines == ["1"]
    assert beside("kv", "incr", "k").lines == ["2"]
    assert through("kv", "incr", "k").lines == ["3"]
    assert beside("kv", "history", "k", "--json").out.count(b"\n") == 3
    eventually(lambda: through("kv", "get", "k").out == b"3", 5, "both see the same")


def test_a_state_dir_is_kept_to(on_files: Kvfs, tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert on_files("kv", "set", "k", "1", "--state-dir", state).lines == ["1"]
    assert not (tmp_path / "data/.kvfs").exists()
    assert on_files("kv", "incr", "k", KVFS_STATE_DIR=state).lines == ["2"]


@pytest.mark.parametrize("flag", [["--url", "ftp://x"], ["--url", "nonsense"]])
def test_what_is_no_url_is_wrong_usage(flag: list[str]) -> None:
    done = Kvfs(variables={"KVFS_DB": "db"})("kv", "get", "k", *flag)
    assert (done.code, "URL" in done.err) == (2, True)
