"""What reads text and bytes that anybody may send or write: it fails as it says, or knows what it read."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from kvfs import content_types, cursor, jsonpath, valuetext
from kvfs.directory.ignore import Rules
from kvfs.directory.names import NoKey, key_of, own_value_path, path_of
from kvfs.errors import InvalidParameters, KvfsError
from kvfs.keys import KEY_MAX_BYTES, check_key
from kvfs.model import Entry, Op, OpType, Origin, value_hash
from kvfs.transfer import format
from kvfs.transfer.blocks import Splitter, stream
from server import batch, links, preconditions, sql, sql_wire, times, tokens
from server.params import Params
from server.router import Router, split_target
from server.routes import ROUTES
from tests import nasty
from tests.fuzz.mutation import WORDS
from tests.fuzz.target import Target

ROUTER = Router(ROUTES)
TOKEN = tokens.whole("secret")
NAME_MAX_BYTES = 255

# --- inputs ----------------------------------------------------------------------------------------------

_TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=12).map("".join)
_UTF8 = _TEXTS.map(lambda text: text.encode(errors="ignore"))
_BYTES = _UTF8 | st.binary(max_size=40)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | _TEXTS.map(lambda text: text.encode(errors="ignore").decode())
)
_NODES = st.recursive(
    _SCALARS,
    lambda node: st.lists(node, max_size=4) | st.dictionaries(st.text(max_size=4), node, max_size=4),
    max_leaves=8,
)
_JSON = _NODES.map(lambda node: json.dumps(node).encode())


def _of(words: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Objects with any of these members, right ones or others."""
    return st.fixed_dictionaries({}, optional={name: right | _NODES for name, right in words.items()})


def _refusal(read: Callable[[], object]) -> KvfsError | None:
    """The error that reading ends in, None where it goes well."""
    try:
        read()
    except KvfsError as error:
        return error
    return None


# --- keys and paths ----------------------------------------------------------------------------------------


def _key_codec(_: None, key: str) -> None:
    if _refusal(lambda: check_key(key)) is not None:
        return
    path = path_of(key)
    assert key_of(path) == key == key_of(own_value_path(key))
    for name in path:
        assert name not in ("", ".", "..")
        assert not set(name) & {"/", "\0"}
        assert len(name.encode()) <= NAME_MAX_BYTES


def _file_names(_: None, names: list[str]) -> None:
    key = key_of(names)
    if key is not None:
        assert 0 < len(key.encode()) <= KEY_MAX_BYTES
        assert tuple(names) in (path_of(key), own_value_path(key))


def _json_paths(_: None, given: tuple[str, bytes, bytes]) -> None:
    text, document, node = given
    try:
        path = jsonpath.parse(text)
    except jsonpath.JsonPathError:
        return
    written = "$" + "".join(map(str, path))
    assert jsonpath.parse(written) == path
    edits: list[Callable[[], bytes]] = [
        lambda: jsonpath.put(document, path, node),
        lambda: jsonpath.array_append(document, path, node)[0],
        lambda: jsonpath.array_pop(document, path)[0],
        lambda: jsonpath.array_remove_equal(document, path, node)[0],
    ]
    for edit in edits:
        try:
            edited = edit()
        except (jsonpath.JsonPathError, jsonpath.NodeNotFound):
            continue
        assert jsonpath.is_json(edited), edited
    try:
        put = jsonpath.put(document, path, node)
    except (jsonpath.JsonPathError, jsonpath.NodeNotFound):
        return
    assert _same(jsonpath.get(put, path), node)


def _same(one: bytes, other: bytes) -> bool:
    """Whether two nodes are the same but for white space between tokens."""
    return bool(_tokens(one) == _tokens(other))


def _tokens(node: bytes) -> Any:
    return json.loads(node, parse_int=str, parse_float=str, parse_constant=str)


def _ignored(_: None, given: tuple[str, list[str]]) -> None:
    rules = Rules(given[0])
    for check in (rules.check_file, rules.check_folder):
        try:
            check(given[1])
        except NoKey:
            continue


# --- requests ----------------------------------------------------------------------------------------------


def _parameters(_: None, query: str) -> None:
    params = Params(query)
    reads: list[Callable[[str], object]] = [
        params.raw,
        params.text,
        params.integer,
        params.flag,
        params.timestamp,
        params.json_path,
        params.db,
    ]
    for name in ("db", "limit", "path", "ttl", ""):
        for read in reads:
            error = _refusal(partial(read, name))
            assert error is None or name in error.message or read == params.json_path
    for whole in (lambda: params.target, lambda: params.timeout_s, lambda: params.history, params.everything):
        _refusal(whole)


def _routes(_: None, given: tuple[str, str]) -> None:
    method, target = given
    try:
        path, query = split_target(target)
        route, key = ROUTER.find(method, path)
    except KvfsError:
        return
    assert method in (route.method, "HEAD")
    if "{key}" in route.path:
        assert check_key(key) == key
    Params(query)


def _times(_: None, text: str) -> None:
    error = _refusal(lambda: times.parse(text, "at"))
    if error is None:
        assert -(2**63) < times.parse(text, "at") < 2**63
    else:
        assert "at" in error.message


def _conditions(_: None, given: list[tuple[str, str]]) -> None:
    headers = CIMultiDictProxy(CIMultiDict(given))
    _refusal(lambda: preconditions.conditions(headers, value=None))
    _refusal(lambda: preconditions.not_modified(headers, "7"))
    try:
        wanted = preconditions.wanted(headers, "7", 100)
    except KvfsError:
        return
    if wanted is not None:
        assert 0 <= wanted.start < wanted.stop <= 100


def _content_types(_: None, given: tuple[str | None, bytes]) -> None:
    declared, value = given
    try:
        kept = content_types.classify(declared, value)
    except InvalidParameters:
        return
    assert kept.isascii()
    assert kept.isprintable()
    if kept == content_types.JSON:
        assert jsonpath.is_json(value)


def _batches(_: None, body: bytes) -> None:
    if _refusal(lambda: batch._sets(body, most=100, history=True)) is None:
        assert all(isinstance(item.value, bytes) for item in batch._sets(body, most=100, history=True))
    if _refusal(lambda: batch._keys(body, most=100)) is None:
        assert all(isinstance(key, str) for key in batch._keys(body, most=100))


def _sql_items(_: None, body: bytes) -> None:
    error = _refusal(lambda: sql_wire.asked(body))
    if error is not None:
        assert type(error.details["reqIdx"]) is int
        return
    asked = sql_wire.asked(body)
    assert asked.items
    assert all(isinstance(item.sql, str) for item in asked.items)


def _base64(_: None, given: tuple[bytes, str]) -> None:
    value, text = given
    assert valuetext.decoded(*valuetext.encoded(value)) == value
    assert valuetext.decoded(valuetext.base64_of(value), "base64") == value
    try:
        decoded = valuetext.decoded(text, "base64")
    except ValueError:
        pass
    else:
        assert base64.b64encode(decoded).decode().rstrip("=")[:-1] == text.rstrip("=")[:-1]
    try:
        assert isinstance(sql._sql(text), str)
    except InvalidParameters:
        assert not text


# --- credentials and cursors -------------------------------------------------------------------------------


def _token_files(_: None, content: bytes) -> None:
    error = _refusal(lambda: tokens.read(content))
    if error is None:
        assert all(token.name for token in tokens.read(content))
    else:
        assert "hidden" not in error.message


def _links(_: None, given: tuple[str, str]) -> None:
    key, query = given
    params = Params(query)
    if _refusal(params.everything) is None and _refusal(lambda: check_key(key)) is None:
        assert not links.signed(TOKEN, "/kv/{key}", key=key, params=params)


def _cursors(_: None, text: str) -> None:
    try:
        found = cursor.parse(text)
    except InvalidParameters:
        return
    assert str(found) == text


# --- exports -----------------------------------------------------------------------------------------------


def _op(seq: int, key: str, value: bytes, kind: OpType, ts_ns: int) -> Op:
    entry = Entry(key, value, len(value), "text/plain", 1, 2, None, seq, value_hash(value))
    gone = kind in (OpType.DELETE, OpType.EXPIRE)
    return Op(seq, key, seq, kind, Origin.API, ts_ns, None if gone else entry)


def _export(ops: list[tuple[str, bytes, OpType]], block_records: int) -> bytes:
    header = format.Header("0123", "site", False, True)
    records = [_op(seq, *op, ts_ns=seq) for seq, op in enumerate(ops, 1)]
    return b"".join(stream(header, records, block_records=block_records))


def _exports(_: None, given: tuple[bytes, list[int]]) -> None:
    data, cuts = given
    splitter = Splitter()
    at = 0
    try:
        for cut in [*cuts, len(data)]:
            for block in splitter.feed(data[at : at + cut]):
                for line in block.lines:
                    op = format.parse_op(line)
                    assert format.parse_op(format.record_line(op)) == op
            at += cut
        splitter.finish()
    except KvfsError:
        return


_EXPORTS = st.builds(
    _export,
    st.lists(st.tuples(nasty.keys, nasty.values, st.sampled_from(OpType)), max_size=6),
    st.integers(1, 3),
)
_LINES = _of(
    {
        "kvfs_export": st.sampled_from([1, 2]),
        "id": st.text(max_size=3),
        "table": st.text(max_size=3),
        "directory": st.booleans(),
        "history": st.booleans(),
        "pruned_seq": st.integers(),
        "after": st.none(),
        "seal": _NODES,
        "end": _NODES,
        "key": nasty.keys,
        "value": st.text(max_size=5),
        "encoding": st.sampled_from(["utf-8", "base64"]),
        "content_type": st.just("text/plain"),
        "created_at": st.integers(),
        "updated_at": st.integers(),
        "expire_at_ms": st.integers(),
        "seq": st.integers(),
        "op_number": st.integers(),
        "op_type": st.sampled_from(list(OpType)),
        "origin": st.sampled_from(list(Origin)),
        "ts_ns": st.integers(),
        "ttl": st.integers(),
        "gap": st.booleans(),
        "size": st.integers(),
        "sha256": st.just("00" * 32),
    }
).map(lambda form: json.dumps(form, default=str).encode())


def _export_lines(_: None, line: bytes) -> None:
    for parse in (
        format.parse_header,
        format.parse_seal,
        format.parse_mark,
        format.parse_entry,
        format.parse_op,
    ):
        try:
            parse(line)
        except KvfsError:
            continue


# --- all of them -------------------------------------------------------------------------------------------

_SQL_BODIES = _of(
    {
        "resultFormat": st.sampled_from(["map", "list", "LIST"]),
        "transaction": st.lists(
            _of(
                {
                    "query": st.sampled_from(["SELECT 1", "SELECT ?"]),
                    "statement": st.just("SELECT :a"),
                    "sql": st.just("SELECT 1"),
                    "noFail": st.booleans(),
                    "values": st.lists(_SCALARS | st.fixed_dictionaries({"base64": _TEXTS}), max_size=3),
                    "valuesBatch": st.lists(st.lists(_SCALARS, max_size=2), max_size=2),
                }
            ),
            max_size=3,
        ),
    }
).map(lambda form: json.dumps(form).encode())
_BATCH_BODIES = _of(
    {
        "keys": st.lists(nasty.keys, max_size=3),
        "items": st.lists(
            _of(
                {
                    "key": nasty.keys,
                    "value": _TEXTS,
                    "content_type": _TEXTS,
                    "ttl": st.integers(),
                    "if_match": st.text(max_size=3),
                    "if_none_match": st.just("*"),
                    "encoding": st.text(max_size=3),
                }
            ),
            max_size=3,
        ),
    }
).map(lambda form: json.dumps(form).encode())
_TOKEN_FILES = st.lists(
    _of(
        {
            "name": st.text(string.ascii_letters, max_size=3),
            "token": st.just("hidden"),
            "access": st.sampled_from(["read", "write"]),
            "databases": st.lists(st.text(max_size=3)),
            "tables": st.lists(st.text(max_size=3)),
            "prefixes": st.lists(st.text(max_size=3)),
        }
    ),
    max_size=3,
).map(lambda each: json.dumps({"tokens": each}).encode())
_TOML = _TEXTS.map(lambda text: f'[[tokens]]\nname = "a"\ntoken = "hidden"\n{text}'.encode(errors="ignore"))
_QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["db", "limit", "path", "ttl", "timeout", "history", "create_db_if_missing"]), _TEXTS
    ),
    max_size=5,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["If-Match", "If-None-Match", "Range", "If-Range"]),
        st.sampled_from(
            ['"7"', "*", 'W/"7"', "bytes=0-", "bytes=-5", "bytes=5-2", "bytes=99-200", '"7", "8"']
        )
        | _TEXTS,
    ),
    max_size=3,
)
_TARGETS = st.tuples(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"]),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            ["/api/v1/sqlite/kv/", "/api/v1/sqlite/", "/", "http://h/api/v1/sqlite/kv/", "*", ""]
        ),
        _TEXTS,
        st.sampled_from(["", "/entry", "/history", "/incr", "?db=a", "/%68istory", "/0"]),
    ),
)
_INSTANTS = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        ["", "-", "1700000000", "2024-02-29T12:00:60", "0001-01-01T00:00:00", "9999-12-31t23:59:59"]
    ),
    st.sampled_from(["", ".5", "." + "9" * 30, "e5", "Z"]),
    st.sampled_from(["", "Z", "z", "+23:59", "-24:00", "+00:60"]) | _TEXTS,
)
_DECLARED = (
    st.none() | st.sampled_from(["application/json", "text/html", "application/JSON; charset=x"]) | _TEXTS
)
_NAMES = st.lists(
    _TEXTS.map(lambda text: text[:40]) | st.sampled_from(["%value", "%long", "%", "a"]), max_size=4
)

PARSERS = [
    Target("keys", nasty.keys | _TEXTS, _key_codec, few=300, share=160),
    Target("file names", _NAMES, _file_names, few=200, share=100),
    Target("json paths", st.tuples(_TEXTS, _JSON, _JSON), _json_paths, few=100, share=70),
    Target("ignore rules", st.tuples(_TEXTS, _NAMES), _ignored, few=100, share=50),
    Target("parameters", _QUERIES | _TEXTS, _parameters, few=100, share=80),
    Target("routes", _TARGETS, _routes, few=200, share=90),
    Target("times", _INSTANTS, _times, few=200, share=80),
    Target("conditions", _HEADERS, _conditions, few=100, share=50),
    Target("content types", st.tuples(_DECLARED, _BYTES | _JSON), _content_types, few=100, share=50),
    Target("batches", _BATCH_BODIES, _batches, few=100, share=40),
    Target("sql items", _SQL_BODIES, _sql_items, few=100, share=50),
    Target(
        "base64", st.tuples(_BYTES, _TEXTS | st.text("AZaz09+/-_=", max_size=9)), _base64, few=100, share=60
    ),
    Target("token files", _TOKEN_FILES | _TOML | _BYTES, _token_files, few=100, share=20),
    Target("links", st.tuples(nasty.keys, _QUERIES), _links, few=50, share=20),
    Target("cursors", st.from_regex(r"[0-9a-f]{0,4}\.?[0-9]{0,20}") | _TEXTS, _cursors, few=50, share=20),
    Target(
        "exports", st.tuples(_EXPORTS, st.lists(st.integers(1, 50), max_size=4)), _exports, few=60, share=20
    ),
    Target("export lines", _LINES, _export_lines, few=100, share=30),
]
"""In order of what they read."""
