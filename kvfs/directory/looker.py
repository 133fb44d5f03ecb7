"""What the recorder asks of a folder: it only looks, in any thread, and takes no lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvfs.directory.debounce import Sight
from kvfs.directory.folder import Folder
from kvfs.directory.ignore import RULES
from kvfs.directory.index import IndexLost
from kvfs.directory.looks import Signature
from kvfs.directory.names import is_ignored, key_of
from kvfs.directory.scan import scan
from kvfs.errors import FileSystemError, KvfsError


class FolderLooker:
    """Implements `recorder.Looker`. While the index is lost there is nothing to tell: the writer mends it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def sight(self, key: str) -> Sight:
        """A key's file as it is, and what is known of it."""
        try:
            found, row = self._folder.sight(key)
        except IndexLost:
            return Sight(None, None, has_row=True)
        except FileSystemError:
            # A file that nobody may look at says so to whoever asks for that key.
            return Sight(None, None, has_row=False)
        signature = None if found is None else found.signature
        return Sight(signature, None if row is None else row.signature, has_row=row is not None)

    def keys_of(self, path: str) -> Iterator[str]:
        """The keys that a changed path may concern: its own, and those below it, that are or that were."""
        components = path.split("/") if path else []
        if path == RULES:
            # What was ignored may be keys now, and the other way round.
            yield from self.differing()
            return
        if any(map(is_ignored, components)) or self._folder.tree.rules().against_folder(components[:-1]):
            return
        key = key_of(components)
        if key is not None:
            if self._as_known(key, components):
                # Mostly a write of kvfs's own.
                return
            yield key
        try:
            yield from self._folder.state.index.keys_below(path)
            if self._folder.tree.folder_signature(components) is not None:
                yield from scan(
                    self._folder.tree, self._folder.state.index, [path], _no_mark, everything=True
                )
        except (IndexLost, FileSystemError):
            return

    def _as_known(self, key: str, components: Sequence[str]) -> bool:
        """Whether this path is the key's file, and as the index knows it."""
        try:
            found, row = self._folder.sight(key)
        except (IndexLost, KvfsError):
            return False
        return (
            row is not None
            and found is not None
            and row.signature == found.signature
            and found.folder == "/".join(components[:-1])
        )

    def differing(self) -> Iterator[str]:
        """All keys whose files are not what the index knows."""
        try:
            yield from scan(self._folder.tree, self._folder.state.index, [""], _no_mark, everything=True)
        except (IndexLost, FileSystemError):
            return


def _no_mark(path: str, signature: Signature | None) -> None:
    """The folder was not gone through by the writer."""
