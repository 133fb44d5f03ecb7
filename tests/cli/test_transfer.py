"""`kvfs export`, `import` and `backup`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import invariants
from tests.cli.commands import COMMAND, Kvfs
from tests.serving import ROOT

# Each command is a process of its own.
pytestmark = pytest.mark.timeout(240)


def filled(kvfs: Kvfs) -> None:
    lines = [json.dumps({"key": f"k{number:02}", "value": "x" * 60_000}) for number in range(40)]
    items = "\n".join(lines).encode()
    assert kvfs("kv", "batch-set", "-", "--create", stdin=items).lines == ["40"]
    kvfs("kv", "set", "k00", "again")
    kvfs("kv", "delete", "k01")


def keys(kvfs: Kvfs) -> list[str]:
    return kvfs("kv", "list").lines


def test_an_export_goes_through_a_pipe_into_another_store(
    over_server: Kvfs, on_files: Kvfs, tmp_path: Path
) -> None:
    for one, other in ((over_server, on_files), (on_files, over_server)):
        if one is on_files:
            other = Kvfs(variables={**other.variables, "KVFS_DB": str(tmp_path / "back.db")})
        else:
            filled(one)
        with subprocess.Popen(
            one.command("export", "--history"), env=one.environment, cwd=ROOT, stdout=subprocess.PIPE
        ) as export:
            done = subprocess.run(
                other.command("import", "--create", "--json"),
                env=other.environment,
                cwd=ROOT,
                stdin=export.stdout,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert export.returncode == 0
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["records"], told["imported"], told["complete"]) == (42, 42, True)
        assert keys(other) == ["k00", *(f"k{number:02}" for number in range(2, 40))]
        assert len(other("kv", "history", "k00").lines) == 2


def test_what_was_cut_off_goes_on(kvfs: Kvfs, tmp_path: Path) -> None:
    filled(kvfs)
    file = tmp_path / "out.jsonl"
    assert kvfs("export", "--history", "--output", file).lines == []
    whole = file.read_bytes()
    again = kvfs("export", "--history", "--output", file)
    assert again.code == 4
    assert "File exists" in again.err
    for kept in (len(whole) // 2, 100, 0, len(whole) - 5, len(whole)):
        file.write_bytes(whole[:kept])
        assert kvfs("export", "--history", "--output", file, "--resume").lines == []
        assert file.read_bytes() == whole
    other = Kvfs(kvfs.arguments, {**kvfs.variables, "KVFS_TABLE": "other"})
    file.write_bytes(whole[: len(whole) // 2])
    cut = other("import", file, "--create")
    assert cut.code == 2
    assert "cut off" in cut.err
    file.write_bytes(whole)
    told = json.loads(other("import", file, "--json").out)
    assert (told["records"], told["complete"]) == (42, True)
    assert 0 < told["imported"] < 42
    assert other("import", file).lines == ["42 records: 0 imported"]


def test_entries_are_put_beside_what_is_there(kvfs: Kvfs, tmp_path: Path) -> None:
    filled(kvfs)
    file = tmp_path / "out.jsonl"
    kvfs("export", "-o", file)
    other = Kvfs(kvfs.arguments, {**kvfs.variables, "KVFS_TABLE": "other"})
    other("kv", "set", "k00", "own", "--create")
    refused = other("import", file)
    assert (refused.code, "IMPORT_CONFLICT" in refused.err) == (3, True)
    assert other("import", file, "--on-conflict", "skip").lines == ["39 records: 38 imported, 1 skipped"]
    assert other("kv", "get", "k00").out == b"own"


def test_a_damaged_file_is_named_with_its_line(kvfs: Kvfs, tmp_path: Path) -> None:
    kvfs("kv", "set", "a", "1", "--create")
    file = tmp_path / "out.jsonl"
    kvfs("export", "-o", file)
    file.write_bytes(file.read_bytes().replace(b'"value":"1"', b'"value":"2"'))
    refused = kvfs("import", file, "--on-conflict", "replace")
    assert (refused.code, "line 3: the export is damaged" in refused.err) == (2, True)
    assert kvfs("kv", "get", "a").out == b"1"


def test_a_wrong_command_line_is_told(kvfs: Kvfs, tmp_path: Path) -> None:
    assert kvfs("export", "--resume").code == 2
    assert kvfs("import", tmp_path / "none").code == 2
    assert kvfs("import").code == 2
    assert kvfs("import", __file__, "--on-conflict", "merge").code == 2


def test_progress_is_shown_on_a_terminal(over_server: Kvfs, tmp_path: Path) -> None:
    filled(over_server)
    file = tmp_path / "out.jsonl"
    code, screen = over_server.at_terminal("export", "--output", file)
    assert code == 0
    assert screen.strip() == ""
    code, screen = over_server.at_terminal("export")
    assert code == 2
    assert "--output" in screen


def test_databases_are_backed_up_as_they_are(over_server: Kvfs, on_files: Kvfs, tmp_path: Path) -> None:
    filled(over_server)
    filled(on_files)
    plain = Kvfs()
    database, folder = tmp_path / "copy.db", tmp_path / "copy"
    assert plain("backup", over_server.variables["KVFS_DB"], database).lines == [str(database)]
    assert plain("backup", on_files.variables["KVFS_DB"], folder, "--json").lines == [
        json.dumps({"path": str(folder)}, separators=(",", ":"))
    ]
    assert len(invariants.check_table(database)["kv_store"]) == 42
    assert len(invariants.check_folder(folder, "site")) == 42
    assert plain("check", folder, "--full").code == 0
    for source, destination, code in (
        (tmp_path / "none.db", tmp_path / "x", 1),
        (over_server.variables["KVFS_DB"], database, 2),
        (folder, database, 2),
        (tmp_path, tmp_path / "x", 1),
    ):
        assert plain("backup", source, destination).code == code
    assert not (tmp_path / "x").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".kvfs-")]


def test_the_commands_are_listed() -> None:
    listed = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in listed for name in ("export", "import", "backup"))
