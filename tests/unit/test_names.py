"""The mapping between keys and paths: what it is, and that it is one to one."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvfs.directory.names import (
    IGNORED,
    LONG,
    MAPPING_VERSION,
    NAME_MAX,
    OWN_VALUE,
    decode_segment,
    deepest_folder,
    encode_segment,
    folder_prefix,
    is_ignored,
    key_of,
    own_value_path,
    path_of,
)

Path = tuple[str, ...]

KEY_MAX = 1024

SEGMENT_NAMES = [
    ("alice", "alice"),
    (".env", ".env"),
    ("100%", "100%"),
    ("a b%20c", "a b%20c"),
    ("naïve", "naïve"),
    (".gitignore", ".gitignore"),
    (".swp", ".swp"),
    ("#", "#"),
    ("~a", "~a"),
    ("%%", "%%"),
    ("%7e", "%7e"),
    ("4913", "4913"),
    ("", "%"),
    (".", "%2E"),
    ("..", "%2E."),
    ("...", "..."),
    (".git", "%2Egit"),
    ("foo~", "foo%7E"),
    ("~", "%7E"),
    (".git~", ".git%7E"),
    (".kvfs~", "%2Ekvfs%7E"),
    (".#x~", "%2E#x%7E"),
    ("#a#", "%23a#"),
    ("#a#~", "#a#%7E"),
    (".a.swp", "%2Ea.swp"),
    (".a.swp~", ".a.swp%7E"),
    (".a.sw~", ".a.sw%7E"),
    (".a.sw%", ".a.sw%25"),
    ("._.swp", "%2E_.swp"),
    ("k___jb_tmp___", "k___jb_tmp__%5F"),
    (".#___jb____", "%2E#___jb___%5F"),
    ("%", "%25"),
    ("%25", "%2525"),
    ("%2525", "%252525"),
    ("foo%7E", "foo%257E"),
    ("foo%257E", "foo%25257E"),
    ("%2Egit", "%252Egit"),
    ("a%b~", "a%25b%7E"),
    ("a%25b", "a%25b"),
    (OWN_VALUE, "%25value"),
    ("%25value", "%2525value"),
    (LONG, "%25long"),
    ("%Value", "%Value"),
]

# --- what hypothesis draws from ----------------------------------------------------------------------

FRAGMENTS = [
    *"%~#._ -aZ\n\\",
    *("%2", "%25", "%2525", "%7E", "%2E", "%23", "%5F", "%7e", "25", "7E", "2E", "E", "5", "F"),
    *(".git", ".hg", ".svn", ".kvfs", ".nfs", ".fuse_hidden", ".DS_Store", "._", ".#", ".sw", ".swp"),
    *("___jb_", "___", OWN_VALUE, LONG, "value", "é", "€", "😀", "\ud7ff", "\ue000"),
]
LONG_FRAGMENTS = [
    fragment * (size // len(fragment.encode()))
    for fragment in ("a", "%", "é", "€", "😀", "%25", "%7E", ".", "_", "~")
    for size in (75, 83, 84, 240, 244, 247, 248, 249, 251, 252, 254, 255, 256, 300)
]


def within(text: str, size_bytes: int) -> str:
    return text.encode()[:size_bytes].decode(errors="ignore")


fragments = st.one_of(
    st.sampled_from(FRAGMENTS),
    st.sampled_from(FRAGMENTS),
    st.sampled_from(LONG_FRAGMENTS),
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]),
)
segments = st.lists(fragments, max_size=6).map("".join).map(lambda text: within(text, KEY_MAX))
keys = (
    st.lists(segments, min_size=1, max_size=5)
    .map(lambda parts: within("/".join(parts), KEY_MAX))
    .filter(bool)
)
names = segments.map(lambda text: within(text, NAME_MAX)).filter(lambda name: name not in ("", ".", ".."))
kept_names = names.filter(lambda name: not is_ignored(name))


@st.composite
def related_keys(draw: st.DrawFn) -> tuple[str, str]:
    """Two keys that differ little, or of which one is made to look like the other's file."""
    key = draw(keys)
    other = draw(
        st.one_of(
            keys,
            segments.map(lambda text: f"{key}{text}"),
            segments.map(lambda text: f"{key}/{text}"),
            st.integers(0, len(key)).map(lambda end: key[:end]),
            st.just("/".join(path_of(key))),
            st.just("/".join(own_value_path(key))),
            st.just("/".join(decode_segment(segment) for segment in key.split("/"))),
        )
    )
    return key, within(other, KEY_MAX)


@st.composite
def paths(draw: st.DrawFn) -> Path:
    """Paths that people can make, many of them nearly those that keys have."""
    path = list(draw(st.one_of(st.lists(kept_names, min_size=1, max_size=5), keys.map(path_of))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(path)))
        match draw(st.integers(0, 4)):
            case 0:
                path.insert(at, OWN_VALUE)
            case 1:
                path.insert(at, LONG)
            case 2:
                path.insert(at, draw(kept_names))
            case 3:
                del path[at : at + 1]
            case _:
                path[at : at + 1] = [draw(kept_names)]
    return tuple(path) or (draw(kept_names),)


def is_well_formed(path: Path) -> bool:
    return bool(path) and all(
        name not in ("", ".", "..")
        and "/" not in name
        and "\0" not in name
        and not is_ignored(name)
        and len(name.encode()) <= NAME_MAX
        for name in path
    )


# --- segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("segment", "name"), SEGMENT_NAMES)
def test_a_segment_has_the_name_that_version_1_gives_it(segment: str, name: str) -> None:
    assert MAPPING_VERSION == 1
    assert encode_segment(segment) == name
    assert decode_segment(name) == segment
    assert path_of(f"a/{segment}") == ("a", name)


@pytest.mark.parametrize(
    "name",
    [
        *(".kvfs", ".kvfs-tmp", ".git", ".hg", ".svn", ".a.swp", "..swp", ".a.sw\n", "a~", "~", "##", "#a#"),
        *(".#a", "a___jb_tmp___", "___jb____", "a\n~", ".nfs01", ".fuse_hidden1", ".DS_Store", "._", "._a"),
    ],
)
def test_names_of_tools_and_editors_are_ignored(name: str) -> None:
    assert is_ignored(name)
    assert key_of((name,)) is None
    assert key_of((name, "a")) is None
    assert key_of(("a", name)) is None
    assert folder_prefix(("a", name)) is None


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".gitignore", ".GIT", "git", ".swp", "a.swp", ".a.swpx", "#", "#a", "a#", "~a", "4913"),
        *("___jb___", "a___jb_tmp__", ".ds_store", "_", "a.kvfs"),
    ],
)
def test_names_like_ignored_ones_are_keys(name: str) -> None:
    assert not is_ignored(name)
    assert key_of((name,)) == name


@given(st.one_of(names, segments))
def test_the_ignore_list_is_what_fnmatch_makes_of_its_patterns(name: str) -> None:
    assert is_ignored(name) == any(fnmatchcase(name, pattern) for pattern in IGNORED)


@given(segments)
@example("%" + "25" * 511)
@example("." + "%" * 1022 + "~")
def test_a_segment_comes_back_from_its_name(segment: str) -> None:
    name = encode_segment(segment)
    assert decode_segment(name) == segment
    assert name not in ("", ".", "..", OWN_VALUE, LONG)
    assert not is_ignored(name)


@given(kept_names.filter(lambda name: name not in (OWN_VALUE, LONG)))
def test_every_kept_name_is_the_name_of_a_segment(name: str) -> None:
    assert encode_segment(decode_segment(name)) == name


@given(segments)
def test_a_segment_is_escaped_only_where_it_cannot_be_a_name(segment: str) -> None:
    if encode_segment(segment) != segment:
        unusable = segment in ("", ".", "..", OWN_VALUE, LONG) or is_ignored(segment)
        assert unusable or decode_segment(segment) != segment


# --- keys to paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("users/alice", ("users", "alice")),
        ("/", ("%", "%")),
        ("/a", ("%", "a")),
        ("a//b/", ("a", "%", "b", "%")),
        ("a/../b", ("a", "%2E.", "b")),
        ("a" * 255, ("a" * 255,)),
        ("é" * 127, ("é" * 127,)),
        ("a" * 256, (LONG, "a" * 248, "a" * 8)),
        ("😀" * 63, ("😀" * 63,)),
        ("😀" * 64, (LONG, "😀" * 62, "😀" * 2)),
        ("é" * 128, (LONG, "é" * 124, "é" * 4)),
        ("a" * 247 + "😀" * 3, (LONG, "a" * 247 + "😀", "😀" * 2)),
        ("a" * 254 + "~", (LONG, "a" * 248, "aaaaaa%7E")),
        ("a" * 251 + ".git", ("a" * 251 + ".git",)),
        ("a" * 248 + ".DS_Store", (LONG, "a" * 248, "%2EDS_Store")),
        ("b" * 256 + "/" + "c" * 256, (LONG, "b" * 248, "b" * 8, LONG, "c" * 248, "c" * 8)),
        ("~" * 496, (LONG, "~" * 247 + "%7E", "~" * 247 + "%7E", "%")),
        ("%" * 256, (LONG, "%" * 83, "%" * 83, "%" * 83, "%" * 7)),
    ],
)
def test_a_key_has_the_path_that_version_1_gives_it(key: str, path: Path) -> None:
    assert path_of(key) == path
    assert own_value_path(key) == (*path, OWN_VALUE)
    assert key_of(path) == key


@given(keys)
@example("%" * 1024)
@example("/" * 1024)
@example("." + "%" * 1022 + "~")
@example("😀" * 256)
def test_a_key_comes_back_from_both_its_paths(key: str) -> None:
    assert key_of(path_of(key)) == key
    assert key_of(own_value_path(key)) == key
    assert key_of(list(path_of(key))) == key


@given(keys)
@example("%" * 1024)
@example("/" * 1024)
@example("./" * 512)
@example("%" * 1023 + "~")
@example("/".join(["." + "%" * 83 + "~"] * 12)[:1024])
@example("/".join(["~" * 252] * 4))
def test_a_path_is_one_that_file_systems_take(key: str) -> None:
    path = path_of(key)
    assert is_well_formed(path)
    assert OWN_VALUE not in path
    assert len("/".join(own_value_path(key)).encode()) < 3300


@given(related_keys())
@example(("a", "a/%value"))
@example(("", "/%value"))
@example(("a" * 256, "%long/" + "a" * 248 + "/" + "a" * 8))
@example(("a" * 248, "a" * 256))
def test_distinct_keys_never_meet_on_disk(pair: tuple[str, str]) -> None:
    key, other = pair
    if key == other or not key or not other:
        return
    path, other_path = path_of(key), path_of(other)
    assert path != other_path
    assert own_value_path(key) != own_value_path(other)
    assert own_value_path(key) != other_path
    assert own_value_path(other) != path
    # A file in the way of a folder is nothing but `a` in the way of `a/b`.
    assert (other_path[: len(path)] == path) == other.startswith(f"{key}/")


# --- paths to keys -----------------------------------------------------------------------------------


def is_documented_as_no_key(path: Path) -> bool:
    """The paths of the docstring's last paragraph, from its words alone; none has an ignored name."""
    value_at = path.index(OWN_VALUE) if OWN_VALUE in path else None
    if value_at is not None and (value_at != len(path) - 1 or value_at == 0):
        return True
    plain = path[:-1] if value_at is not None else path
    if plain == ("%",):
        return True
    if LONG in plain:
        return not any(path_of(key) == plain for key in spellings(plain))
    return len("/".join(map(decode_segment, plain)).encode()) > KEY_MAX


def spellings(path: Path) -> list[str]:
    """Every key that a path with `%long` may spell: each `%long` over each number of names after it."""
    if LONG not in path:
        return ["/".join(map(decode_segment, path))]
    at = path.index(LONG)
    found = []
    for end in range(at + 1, len(path) + 1):
        whole = "".join(map(decode_segment, path[at + 1 : end]))
        head = [*map(decode_segment, path[:at]), whole]
        rest = spellings(path[end:]) if end < len(path) else []
        found += ["/".join([*head, tail]) for tail in rest] or (["/".join(head)] if end == len(path) else [])
    return [key for key in found if 0 < len(key.encode()) <= KEY_MAX]


@given(st.lists(kept_names, min_size=1, max_size=5).map(tuple))
@example(("%25value",))
@example(("a" * 248, "a" * 8))
@example(("%", "%"))
@example(("%" * 255, "." * 255))
def test_every_path_without_reserved_names_is_exactly_one_keys(path: Path) -> None:
    key = key_of(path)
    if OWN_VALUE in path or LONG in path:
        return
    if key is None:
        assert path == ("%",) or len("/".join(map(decode_segment, path)).encode()) > KEY_MAX
    else:
        assert path_of(key) == path


@given(paths())
@example(("%",))
@example(("%", OWN_VALUE))
@example((OWN_VALUE,))
@example((OWN_VALUE, "a"))
@example((LONG, OWN_VALUE))
@example((LONG, "a" * 248, OWN_VALUE))
@example((LONG, "a" * 248, "a", OWN_VALUE))
@example((LONG, "a" * 248, "a" * 8, OWN_VALUE))
def test_every_path_is_one_keys_or_documented_as_no_key(path: Path) -> None:
    key = key_of(path)
    if key is None:
        assert is_documented_as_no_key(path)
    else:
        assert 0 < len(key.encode()) <= KEY_MAX
        assert path in (path_of(key), own_value_path(key))


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("%",),
        ("%", OWN_VALUE),
        (OWN_VALUE,),
        (OWN_VALUE, "a"),
        ("a", OWN_VALUE, "b"),
        ("a", OWN_VALUE, OWN_VALUE),
        (LONG,),
        (LONG, "a"),
        (LONG, "%"),
        (LONG, OWN_VALUE),
        (LONG, LONG, "a" * 248, "a" * 8),
        (LONG, "a" * 248),
        (LONG, "a" * 248, OWN_VALUE),
        (LONG, "a" * 248, LONG),
        (LONG, "a" * 248, "a" * 7),
        (LONG, "a" * 247, "a" * 9),
        (LONG, "a" * 249, "a" * 7),
        ("a", "", "b"),
        ("a/b",),
        ("a\0b",),
        (".",),
        ("a", ".."),
        ("a" * 256,),
        ("a" * 255,) * 4 + ("aa",),
        ("\udcff",),
        ("a", "b\udc80.txt"),
        (LONG, "a" * 248, "a" * 8 + "\udcff"),
    ],
)
def test_what_is_no_keys_path_has_no_key(path: Path) -> None:
    assert key_of(path) is None


def test_keys_end_at_1024_bytes() -> None:
    path = ("a" * 255, "b" * 255, "c" * 255, "d" * 255)
    key = "/".join(path)
    assert key_of(path) == key
    assert key_of((*path, "%")) == f"{key}/"
    assert key_of((*path, "%", OWN_VALUE)) == f"{key}/"
    assert key_of((*path, "e")) is None


# --- folders and prefixes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ((), ""),
        (("a",), "a/"),
        (("a", "b"), "a/b/"),
        (("%",), "/"),
        (("%2Egit",), ".git/"),
        ((LONG,), ""),
        (("a", LONG), "a/"),
        (("a", LONG, "b" * 248), "a/" + "b" * 248),
        (("a", LONG, "b" * 248, "b" * 8), "a/" + "b" * 256 + "/"),
        (("a" * 248,), "a" * 248 + "/"),
        (("b" * 255,) * 4, "/".join(["b" * 255] * 4) + "/"),
        (("b" * 255,) * 4 + ("c",), None),
        ((".git",), None),
        (("a", OWN_VALUE), None),
        ((LONG, "a"), None),
        ((LONG, LONG), None),
        ((LONG, "a" * 249), None),
        (("b" * 255, LONG, "c" * 248, "c" * 248, "c" * 248), "b" * 255 + "/" + "c" * 744),
        (("b" * 255, LONG, "c" * 248, "c" * 248, "c" * 248, "c" * 248), None),
        (("\udcff",), None),
    ],
)
def test_a_folder_has_the_prefix_that_its_keys_share(folder: Path, prefix: str | None) -> None:
    assert folder_prefix(folder) == prefix


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("", ()),
        ("users", ()),
        ("users/", ("users",)),
        ("users/al", ("users",)),
        ("/", ("%",)),
        (".git/.g", ("%2Egit",)),
        ("a" * 300, ()),
        ("a" * 256 + "/b", (LONG, "a" * 248, "a" * 8)),
    ],
)
def test_a_prefix_has_the_deepest_folder_that_holds_its_keys(prefix: str, folder: Path) -> None:
    assert deepest_folder(prefix) == folder


@given(keys, st.data())
def test_every_key_of_a_prefix_lies_below_its_folder(key: str, data: st.DataObject) -> None:
    prefix = key[: data.draw(st.integers(0, len(key)))]
    folder = deepest_folder(prefix)
    assert path_of(key)[: len(folder)] == folder
    assert len(path_of(key)) > len(folder)
    shared = folder_prefix(folder)
    assert shared is not None
    assert prefix.startswith(shared)
    assert "/" not in prefix[len(shared) :]


@given(keys)
def test_a_key_starts_with_the_prefix_of_every_folder_above_it(key: str) -> None:
    path = path_of(key)
    for depth in range(len(path)):
        prefix = folder_prefix(path[:depth])
        assert prefix is not None
        assert key.startswith(prefix)
    assert folder_prefix(path) == f"{key}/"


@given(paths())
def test_no_file_with_a_key_lies_below_a_folder_without_a_prefix(path: Path) -> None:
    key = key_of(path)
    if key is not None:
        for depth in range(len(path)):
            prefix = folder_prefix(path[:depth])
            assert prefix is not None
            assert key.startswith(prefix) or (path[-1] == OWN_VALUE and prefix == f"{key}/")
