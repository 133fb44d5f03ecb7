"""The rules for the `db` and `table` parameters: which path each name means, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvfs.errors import (
    DatabaseNotFound,
    InvalidDbPath,
    InvalidParameters,
    KvfsError,
    PathConflict,
    PathIsDirectory,
)
from kvfs.paths import TABLE_DEFAULT, Kind, Location, Paths, check_table

NOT_ABSOLUTE = "directory-mode: invalid path input: path must be absolute"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "x.db").touch()
    return folder


@pytest.fixture
def paths(data: Path) -> Paths:
    return Paths(str(data))


def refused(paths: Paths, db: str, kind: type[KvfsError] = InvalidDbPath) -> str:
    """The message with which `db` is refused by every way to name a database, made or not."""
    messages = set()
    for create in (False, True):
        with pytest.raises(kind) as with_table:
            paths.store(db, table="t", create=create)
        with pytest.raises(kind) as without_table:
            paths.store(db, table=None, create=create)
        with pytest.raises(kind) as file:
            paths.file(db, create=create)
        messages |= {told.value.message for told in (with_table, without_table, file)}
    assert len(messages) == 1
    return messages.pop()


def path_of(paths: Paths, db: str) -> str:
    """Where a database file is that may be made."""
    location = paths.store(db, table=None, create=True)
    assert location == Location(Kind.TABLE, paths.file(db, create=True), TABLE_DEFAULT, location.literal)
    return location.path


# --- bare names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "name"),
    [
        ("app", "app.db"),
        ("app.db", "app.db"),
        ("app.sqlite3", "app.sqlite3"),
        ("a.b.c", "a.b.c"),
        ("./app", "app.db"),
        ("./app.db", "app.db"),
        (".app", ".app.db"),
        (".app.db", ".app.db"),
        ("a b", "a b.db"),
        ("日本", "日本.db"),
        ("file", "file.db"),
        ("memory", "memory.db"),
        ("~", "~.db"),
        ("..a", "..a.db"),
        ("-", "-.db"),
        ("a\nb", "a\nb.db"),
    ],
)
def test_a_bare_name_is_a_file_in_the_data_dir(paths: Paths, data: Path, db: str, name: str) -> None:
    assert path_of(paths, db) == str(data / name)
    assert paths.store(db, table=None, create=True).literal


def test_a_bare_name_is_not_looked_for_in_the_working_directory(
    paths: Paths, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside)
    with pytest.raises(DatabaseNotFound):
        paths.store("x", table=None)


def test_a_relative_data_dir_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = Paths("data")
    monkeypatch.chdir("/")
    assert path_of(paths, "app") == str(tmp_path / "data" / "app.db")


@pytest.mark.parametrize(
    "db", ["a/b", "a/b.db", "./a/b", "././a", "../a", "a/../b", "a\\b", "\\a", ".\\a", "a\\"]
)
def test_relative_paths_with_separators_are_refused(paths: Paths, db: str) -> None:
    assert "relative paths with separators are disallowed" in refused(paths, db)


@pytest.mark.parametrize("db", [".", "..", "./.", "./.."])
def test_the_names_of_directories_are_no_file_names(paths: Paths, db: str) -> None:
    assert refused(paths, db) == "db must be a file name"


def test_nothing_relative_is_a_way_around_the_data_dir(data: Path) -> None:
    free = Paths(str(data), any_absolute=True)
    for db in ("../x", "a/../../x", "./../x", "..\\x"):
        refused(free, db)


# --- no files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("db", [":memory:", ":MEMORY:", ":Memory:"])
def test_databases_in_memory_are_refused(paths: Paths, db: str) -> None:
    assert refused(paths, db) == "in-memory databases are not supported"


@pytest.mark.parametrize(
    "db",
    [
        "file:",
        "file:x.db",
        "FILE:x.db",
        "File:///etc/passwd",
        "file::memory:?cache=shared",
        "file:\nx",
        "file:a/b",
    ],
)
def test_uris_are_refused(paths: Paths, db: str) -> None:
    refused(paths, db)


def test_the_empty_name_is_refused_as_a_database_in_memory(paths: Paths) -> None:
    assert "in-memory databases are not supported" in refused(paths, "")


@pytest.mark.parametrize("db", ["\0", "a\0", "a\0.db", "/a\0b", "a/\0"])
def test_nul_is_refused(paths: Paths, db: str) -> None:
    assert refused(paths, db) == "db must not contain NUL"


@pytest.mark.parametrize("db", ["\ud800", "/\ud800", "a\udfff.db"])
def test_text_that_is_no_unicode_is_refused(paths: Paths, data: Path, db: str) -> None:
    refused(paths, str(data) + db if db.startswith("/") else db)


@pytest.mark.parametrize("db", ["n" * 300, "/" + "n" * 300, "/" + "n/" * 3000 + "n", "é" * 130])
def test_a_name_that_no_file_can_have_is_refused(paths: Paths, data: Path, db: str) -> None:
    refused(paths, str(data) + db if db.startswith("/") else db)


# --- absolute paths ----------------------------------------------------------------------------------


def test_an_absolute_path_in_the_data_dir_is_that_file(paths: Paths, data: Path) -> None:
    (data / "sub").mkdir()
    for name in ("app.db", "app", "sub/app.db", "sub//app", "./sub/../sub/app.db", "missing/../app.db"):
        assert path_of(paths, f"{data}/{name}") == os.path.normpath(data / name)


def test_absolute_paths_outside_are_refused(paths: Paths, data: Path, outside: Path) -> None:
    message = f"absolute database paths outside {data} are disallowed"
    for db in (outside / "x.db", outside / "missing", "/x.db", f"{data}/../outside/x.db", f"{data}x/x.db"):
        assert refused(paths, str(db)) == message
    for db in ("/", f"{outside}", f"{outside}/", f"{data}/.."):
        assert refused(paths, str(db)) == message


def test_absolute_paths_outside_may_be_allowed(data: Path, outside: Path) -> None:
    free = Paths(str(data), any_absolute=True)
    assert path_of(free, f"{outside}/x.db") == f"{outside}/x.db"
    assert path_of(free, f"{data}/../outside/y") == f"{outside}/y"
    assert path_of(free, "x") == str(data / "x.db")
    assert free.store(f"{outside}", table="t").folder == f"{outside}/t"


# --- symlinks ----------------------------------------------------------------------------------------


def test_a_symlink_inside_is_followed(paths: Paths, data: Path) -> None:
    (data / "real.db").touch()
    (data / "sub").mkdir()
    (data / "link.db").symlink_to("real.db")
    (data / "way").symlink_to("sub")
    assert paths.store("link", table=None) == Location(
        Kind.TABLE, str(data / "real.db"), TABLE_DEFAULT, literal=False
    )
    assert path_of(paths, f"{data}/way/x.db") == str(data / "sub" / "x.db")
    assert paths.store(f"{data}/way", table="t") == Location(
        Kind.DIRECTORY, str(data / "sub"), "t", literal=False
    )


def test_a_symlink_that_leads_out_is_refused(paths: Paths, data: Path, outside: Path) -> None:
    (data / "link.db").symlink_to(outside / "x.db")
    (data / "dangling.db").symlink_to(outside / "missing.db")
    (data / "hop.db").symlink_to("link.db")
    (data / "way").symlink_to(outside)
    dbs = ["link", "link.db", "./link", "dangling", "hop", f"{data}/link.db", f"{data}/way/x.db"]
    dbs += [f"{data}/way/y.db", f"{data}/way", f"{data}/way/", f"{data}/way/../outside/x.db"]
    for db in dbs:
        assert refused(paths, db) == f"the path leads outside {data} through a symlink"


def test_a_symlink_that_leads_out_is_followed_only_by_absolute_paths_where_any_is_allowed(
    data: Path, outside: Path
) -> None:
    (data / "link.db").symlink_to(outside / "x.db")
    free = Paths(str(data), any_absolute=True)
    assert path_of(free, f"{data}/link.db") == f"{outside}/x.db"
    assert "through a symlink" in refused(free, "link")


def test_a_dangling_symlink_inside_is_its_target(paths: Paths, data: Path) -> None:
    (data / "link.db").symlink_to("target.db")
    with pytest.raises(DatabaseNotFound):
        paths.store("link", table=None)
    assert path_of(paths, "link") == str(data / "target.db")


def test_a_symlink_to_itself_is_refused(paths: Paths, data: Path) -> None:
    (data / "loop.db").symlink_to("loop.db")
    refused(paths, "loop")


def test_a_data_dir_behind_a_symlink_has_two_names(data: Path, outside: Path) -> None:
    link = data.parent / "link"
    link.symlink_to("data")
    paths = Paths(str(link))
    for db in ("app", f"{link}/app.db", f"{data}/app.db"):
        assert path_of(paths, db) == str(data / "app.db")
    assert refused(paths, f"{outside}/x.db") == f"absolute database paths outside {link} are disallowed"


def test_the_file_system_s_root_may_be_the_data_dir(outside: Path) -> None:
    assert path_of(Paths("/"), f"{outside}/x.db") == f"{outside}/x.db"


# --- what is there -----------------------------------------------------------------------------------


def test_a_missing_file_is_not_found_unless_it_is_made(paths: Paths, data: Path) -> None:
    for db in ("app", f"{data}/app.db", f"{data}/missing/app.db"):
        with pytest.raises(DatabaseNotFound):
            paths.store(db, table=None)
        with pytest.raises(DatabaseNotFound):
            paths.file(db)
        assert path_of(paths, db).endswith("app.db")
    assert os.listdir(data) == []


def test_a_file_below_a_file_is_not_found(paths: Paths, data: Path) -> None:
    (data / "app.db").touch()
    with pytest.raises(DatabaseNotFound):
        paths.store(f"{data}/app.db/x.db", table=None)


def test_a_file_is_not_named_with_a_slash_at_its_end(paths: Paths, data: Path) -> None:
    (data / "app.db").touch()
    for create in (False, True):
        for table in (None, "t"):
            with pytest.raises(InvalidDbPath):
                paths.store(f"{data}/app.db/", table=table, create=create)
        with pytest.raises(PathIsDirectory):
            paths.file(f"{data}/app.db/", create=create)


def test_what_is_neither_file_nor_directory_is_refused(paths: Paths, data: Path) -> None:
    os.mkfifo(data / "pipe.db")
    for db in ("pipe", f"{data}/pipe.db"):
        assert refused(paths, db) == "the path is neither a file nor a directory"
    assert refused(Paths(str(data), any_absolute=True), "/dev/null")


# --- directories -------------------------------------------------------------------------------------


def test_a_directory_with_a_table_is_a_folder_store(paths: Paths, data: Path) -> None:
    (data / "sub").mkdir()
    for db in (f"{data}/sub", f"{data}/sub/", f"{data}//sub"):
        assert paths.store(db, table="t") == Location(Kind.DIRECTORY, str(data / "sub"), "t")
    assert paths.store(f"{data}/sub", table="t").folder == str(data / "sub" / "t")
    assert paths.store(str(data), table="t").folder == str(data / "t")


def test_a_directory_without_a_table_is_a_directory(paths: Paths, data: Path) -> None:
    (data / "sub").mkdir()
    for db in (f"{data}/sub", f"{data}/sub/", "sub", "./sub", str(data)):
        for create in (False, True):
            with pytest.raises(PathIsDirectory):
                paths.store(db, table=None, create=create)
            with pytest.raises(PathIsDirectory):
                paths.file(db, create=create)


@pytest.mark.parametrize("db", ["sub", "./sub"])
def test_a_directory_must_be_named_by_its_absolute_path(paths: Paths, data: Path, db: str) -> None:
    (data / "sub").mkdir()
    with pytest.raises(InvalidDbPath) as told:
        paths.store(db, table="t")
    assert told.value.message == NOT_ABSOLUTE


@pytest.mark.parametrize("db", ["new/", "./new/", "a/b/", "./", "../"])
def test_a_new_directory_must_be_named_by_its_absolute_path(paths: Paths, db: str) -> None:
    assert refused(paths, db) == NOT_ABSOLUTE


def test_a_bare_name_is_the_file_where_there_is_a_directory_beside_it(paths: Paths, data: Path) -> None:
    (data / "sub").mkdir()
    (data / "sub.db").touch()
    assert path_of(paths, "sub") == str(data / "sub.db")


def test_a_path_that_ends_in_a_slash_is_made_as_a_directory(paths: Paths, data: Path) -> None:
    assert paths.store(f"{data}/new/", table="t", create=True) == Location(
        Kind.DIRECTORY, str(data / "new"), "t"
    )
    with pytest.raises(DatabaseNotFound):
        paths.store(f"{data}/new/", table="t")
    with pytest.raises(PathIsDirectory):
        paths.store(f"{data}/new/", table=None, create=True)
    with pytest.raises(PathIsDirectory):
        paths.file(f"{data}/new/", create=True)
    assert os.listdir(data) == []


def test_a_folder_store_that_is_not_there_yet_can_be_named(paths: Paths, data: Path) -> None:
    assert paths.store(str(data), table="t", create=False).folder == str(data / "t")


def test_a_table_that_is_a_symlink_is_its_target_in_the_same_directory(
    paths: Paths, data: Path, outside: Path
) -> None:
    (data / "real").mkdir()
    (data / "alias").symlink_to("real")
    (data / "way").symlink_to(outside)
    (data / "deep").symlink_to("real/sub")
    assert paths.store(str(data), table="alias") == Location(Kind.DIRECTORY, str(data), "real", literal=False)
    for table in ("way", "deep"):
        with pytest.raises(InvalidDbPath):
            paths.store(str(data), table=table)


def test_a_table_whose_folder_is_something_else_is_a_conflict(paths: Paths, data: Path) -> None:
    (data / "taken").touch()
    os.mkfifo(data / "pipe")
    for table in ("taken", "pipe"):
        with pytest.raises(PathConflict, match=table):
            paths.store(str(data), table=table)


def test_a_folder_of_stores_may_be_missing_and_must_be_no_file(paths: Paths, data: Path) -> None:
    (data / "app.db").touch()
    assert paths.folder(f"{data}/new/") == str(data / "new")
    for db in ("new", "app.db", f"{data}/app.db"):
        with pytest.raises(InvalidDbPath):
            paths.folder(db)


def test_what_kvfs_keeps_for_itself_is_refused(paths: Paths, data: Path) -> None:
    (data / "sub" / ".kvfs").mkdir(parents=True)
    (data / "sub" / ".kvfs" / "t.oplog").touch()
    (data / "alias").symlink_to("sub/.kvfs")
    for db in ("sub/.kvfs", "sub/.kvfs/t.oplog", ".kvfs/x.db", "sub/.kvfs/", "alias", "alias/t.oplog"):
        assert refused(paths, f"{data}/{db}") == ".kvfs is kvfs's own"
    assert path_of(paths, ".kvfs") == str(data / ".kvfs.db")


def test_the_data_dir_itself_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / ".kvfs").mkdir()
    paths = Paths(str(tmp_path / ".kvfs"))
    assert path_of(paths, "app") == str(tmp_path / ".kvfs" / "app.db")
    assert paths.store(f"{tmp_path}/.kvfs", table="t").folder == str(tmp_path / ".kvfs" / "t")
    assert refused(paths, f"{tmp_path}/.kvfs/.kvfs/app.db") == ".kvfs is kvfs's own"


# --- tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "a",
        "_",
        "Z9",
        "kv_store",
        "a.b-c_d",
        "sqlite",
        "kvfs",
        "sqlite-x",
        "kvfs.x",
        "a" * 64,
        "t..",
        "_kvfs_",
    ],
)
def test_a_table_may_have_this_name(paths: Paths, table: str) -> None:
    assert check_table(table) == table
    assert paths.store("app", table=table, create=True).table == table


@pytest.mark.parametrize(
    "table",
    [
        *(
            "",
            "a" * 65,
            "1a",
            "-a",
            ".a",
            ".",
            "..",
            ".kvfs",
            "a/b",
            "a\\b",
            "a b",
            "a\n",
            "\na",
            "a\0",
            "é",
            "aé",
        ),
        *(
            "a;b",
            'a"b',
            "a'b",
            "a[b]",
            "a%20b",
            "\u0661",
            "sqlite_x",
            "SQLITE_master",
            "Sqlite_",
            "kvfs_x",
            "KVFS_oplog_t",
        ),
        "Kvfs_stores",
    ],
)
def test_a_table_may_not_have_this_name(paths: Paths, data: Path, table: str) -> None:
    with pytest.raises(InvalidParameters):
        check_table(table)
    for db in ("app", str(data), f"{data}/new/"):
        with pytest.raises(InvalidParameters):
            paths.store(db, table=table, create=True)
