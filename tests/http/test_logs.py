"""What the program says on stderr, and what it never says."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.http.bearing import Bearer
from tests.http.launching import Launched, serving
from tests.http.wire import BASE, key_path, target_of
from tests.polling import eventually
from tests.serving import ROOT

RECORD = {"time", "level", "logger", "message"}
SECRET = "hunter2-hunter2-hunter2"


def records(server: Launched) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.err.splitlines()]


def test_a_record_is_one_line_of_json_where_nobody_watches(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0") as server:
        (record,) = records(server)
        assert record.keys() == RECORD
        assert (record["level"], record["logger"]) == ("warning", "server")
        assert record["time"].endswith("Z")
        server.stop()


def test_text_can_be_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0", "--log-format", "text") as server:
        (line,) = server.err.splitlines()
        assert " WARNING server: NO TOKEN IS SET" in line
        server.stop()


def test_a_terminal_gets_text(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(
        [*command, "--data-dir", str(tmp_path / "data")], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            assert b" WARNING server: NO TOKEN IS SET" in os.read(ours, 1000)
        finally:
            process.kill()
            os.close(ours)


def test_a_record_of_a_request_has_its_id(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        folder = tmp_path / "data/site/t"
        folder.mkdir(parents=True)
        size = 64 << 20
        with (folder / "big").open("wb") as file:
            file.truncate(size)
        target = target_of(key_path("big"), db=folder.parent, table="t", timeout=60)
        with server.connect() as connection:
            head = f"GET {target} HTTP/1.1\r\nHost: kvfs\r\nX-Request-Id: mine-1\r\n\r\n"
            connection.send(head.encode())
            assert connection.socket.recv(1000).startswith(b"HTTP/1.1 200")
            os.truncate(folder / "big", 1000)
            connection.rest()
        eventually(lambda: "mine-1" in server.err, 10, "it is logged")
        found = [record for record in records(server) if record.get("request_id") == "mine-1"]
        assert [record["message"] for record in found] == ["a file became shorter while it was sent"]


def test_no_secret_gets_into_any_log(tmp_path: Path) -> None:
    options = ("--token", SECRET, "--access-log", "--log-level", "debug")
    with serving(tmp_path, *options) as server:
        bearer = Bearer(server, SECRET)
        put = target_of(key_path("k"), db="app", create_db_if_missing="true")
        assert bearer.ask("PUT", put, b"value-hunter2").status == 200
        compared = target_of(key_path("k"), db="app", if_match="other-hunter2")
        assert bearer.ask("PUT", compared, b"x").status == 412
        link = target_of(key_path("k"), db="app", link_by="default", link_signature="hunter2")
        assert server.ask("GET", link).status == 401
        assert bearer.ask("PUT", f"{BASE}/kv/k?db=app&path=hunter2[", b"hunter2").status == 400
        assert server.ask("GET", f"{BASE}/hunter3?sql=hunter2").status == 404
        server.stop()
        assert "hunter3" in server.out
        assert "hunter2" not in server.out + server.err
