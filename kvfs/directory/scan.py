"""Finds the keys that appeared or vanished behind the server's back, from the folders' own signatures.

A folder whose signature is what it was when its names were last read has the same names. So only folders
that changed are read, and a look at an unchanged tree costs one lstat a folder.

A folder that nobody may read keeps no other back: what was known of it stays, and who asks for a key in it
is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kvfs.directory.files import Tree
from kvfs.directory.index import UNTRUSTED, Index
from kvfs.directory.looks import Signature
from kvfs.directory.names import deepest_folder, folder_prefix, key_of
from kvfs.errors import from_os_error

Mark = Callable[[str, Signature | None], None]
"""Called when all that a folder holds was gone through: its path, and its signature from before that."""


def changed_folders(tree: Tree, index: Index, prefix: str) -> Iterator[str]:
    """The known folders under a key prefix that changed, or the deepest one if it is not known."""
    components = deepest_folder(prefix)
    if tree.rules().against_folder(components) is not None:
        return
    base = "/".join(components)
    known = index.folders(base)
    if not any(path == base for path, _ in known):
        yield base
    for path, signature in known:
        if _has_changed(tree, path, signature):
            yield path


def scan(tree: Tree, index: Index, folders: Iterable[str], mark: Mark, *, everything: bool) -> Iterator[str]:
    """The keys in these folders, and new folders below them, that appeared or vanished.

    With `everything`, `folders` are gone through with all that is below them, whether they changed or
    not, and keys come too whose files are not what the index knows. They come in the order of their paths,
    so that what lies together in a folder, and in an index of keys, is gone through together.
    """
    rules = tree.rules()
    waiting = list(folders)
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        components = _components(path)
        ignored = rules.against_folder(components) is not None
        try:
            signature = None if ignored else _signature(tree, path)
        except PermissionError:
            mark(path, UNTRUSTED)
            continue
        if signature is None:
            yield from index.keys_below(path)
            for below, _ in index.folders(path):
                mark(below, None)
            continue
        known = index.keys_in(path)
        try:
            names = tree.names(components)
            now = tree.signatures(components, names.files) if everything and known else {}
        except (FileNotFoundError, NotADirectoryError):
            # It has gone in between.
            waiting.append(path)
            seen.discard(path)
            continue
        except PermissionError:
            mark(path, UNTRUSTED)
            continue
        except OSError as exc:
            raise from_os_error(exc, f"read the folder {path!r}") from exc
        start = f"{path}/" if path else ""
        for name in names.files:
            file = [*components, name]
            key = key_of(file)
            if key is None or rules.against_file(file) is not None:
                continue
            recorded = known.pop(key, None)
            if recorded is None or (everything and now.get(name) != recorded):
                yield key
        yield from known
        mark(path, signature)
        for name in reversed(names.folders):
            below = start + name
            # Where a key would be too long there is none, however deep the folders go on.
            if folder_prefix([*components, name]) is None:
                continue
            if everything or not index.knows_folder(below):
                waiting.append(below)
    if everything and "" in seen:
        for path in index.folders_of_keys():
            if path not in seen and _may_look(tree, path):
                yield from index.keys_in(path)
        for path, _ in index.folders(""):
            if path not in seen:
                mark(path, None)


def _signature(tree: Tree, path: str) -> Signature | None:
    try:
        return tree.folder_signature(_components(path))
    except PermissionError:
        raise
    except OSError as exc:
        raise from_os_error(exc, f"look at the folder {path!r}") from exc


def _has_changed(tree: Tree, path: str, signature: Signature) -> bool:
    try:
        return _signature(tree, path) != signature
    except PermissionError:
        return False


def _may_look(tree: Tree, path: str) -> bool:
    try:
        _signature(tree, path)
    except PermissionError:
        return False
    return True


def _components(path: str) -> list[str]:
    return path.split("/") if path else []
