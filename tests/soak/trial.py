"""A server under load, with a table and a folder, that something befalls; and what must be there then."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kvfs.directory.audit import Difference
from kvfs.directory.check import check
from tests.contract.driver import StoreError
from tests.contract.http_driver import Client, HttpDriver
from tests.crash import aftermath
from tests.crash.aftermath import TABLE
from tests.crash.clients import breaks_off, clients, path_of, store_of
from tests.crash.editor import EDITED
from tests.crash.load import COUNTER, NOTHING, Ack, Acknowledged, Misread, digest_of
from tests.polling import eventually
from tests.serving import ServerProcess
from tests.soak.asking import OWN
from tests.soak.tally import Tally

LOAD_S = 60.0
RECOVERY_S = 60.0
THREADS_EACH = 2
LARGE_SHARE = 1 / 10
_ALL = 1_000_000_000
_OURS = {"table.db", "table.db-wal", "table.db-shm", "folder", "filler"}


def failing(*codes: str) -> Callable[[BaseException], bool]:
    """Tells errors that clients are to bear: no answer, or one with one of these codes."""

    def bears(error: BaseException) -> bool:
        return error.code in codes if isinstance(error, StoreError) else breaks_off(error)

    return bears


class Lost(Exception):
    """Acknowledged writes that are not there."""

    def __init__(self, missing: list[Ack], of: int) -> None:
        super().__init__(f"{len(missing)} of {of} acknowledged writes are lost: {missing[:5]}")
        self.count = len(missing)


class Load:
    """Clients that write and read meanwhile."""

    def __init__(
        self, server: ServerProcess, records: Collection[Acknowledged], ending: threading.Event
    ) -> None:
        self._server = server
        self._records = records
        self._ending = ending

    def ends(self) -> None:
        """From now on the server may break off."""
        self._ending.set()

    def goes_on(self, writes: int, *, if_it_lives: bool = False) -> None:
        """Wait until so many more writes to each store are acknowledged, or one client has failed.

        The server may only have ended by itself where it is asked `if_it_lives`.
        """
        wanted = [(record, len(record.acks) + writes) for record in self._records]

        def enough() -> bool:
            has_ended = self._ending.is_set() or not self._server.is_running
            return has_ended or all(len(record.acks) >= count for record, count in wanted)

        eventually(enough, LOAD_S, f"{writes} writes are acknowledged")
        assert if_it_lives or self._server.is_running, "the server has ended by itself"

    def lasts(self, seconds: float) -> None:
        """Wait so long, for what may let no write through."""
        self._ending.wait(seconds)


class Trial:
    """Rounds of load and a fault over the same two stores, which lie in `stores`.

    `chance` decides on all that is random. What is wrong is raised.
    """

    def __init__(self, stores: Path, server: ServerProcess, chance: random.Random, tally: Tally) -> None:
        self.stores = stores
        self.server = server
        self.chance = chance
        self.tally = tally
        self.records = {directory: Acknowledged(from_nothing=True) for directory in (False, True)}
        self._counted = (0, 0)

    @contextmanager
    def load(self, bears: Callable[[BaseException], bool] = lambda error: False) -> Iterator[Load]:
        """Two clients write to each store; they go on after errors that they bear, and may see no others."""
        with clients(
            self.server,
            self.stores,
            self.records,
            seed=self.chance.randrange(10**9),
            threads_each=THREADS_EACH,
            large_share=LARGE_SHARE,
            bears=bears,
        ) as ending:
            yield Load(self.server, self.records.values(), ending)

    def doubt(self, doubting: bool) -> None:
        """Whether what is acknowledged from now on, or read, counts for nothing."""
        for record in self.records.values():
            record.doubting = doubting

    def checkpoint(self, bears: Callable[[BaseException], bool]) -> None:
        """Have what was written be made durable everywhere, as a pruning needs it, which prunes nothing."""
        with self._stores() as stores:
            for store in stores.values():
                try:
                    assert store.prune(keep_last=_ALL).removed == 0
                except Exception as error:
                    if not bears(error):
                        raise

    def recover(self) -> None:
        """Start the server if it has ended; both stores take writes again, before long."""
        began = time.monotonic()
        if not self.server.is_running:
            self.server.start()
        with self._stores() as stores:
            for directory, store in stores.items():
                if not path_of(self.stores, directory).exists():
                    store.make()
                taken = partial(_is_taken, store, self.records[directory])
                eventually(taken, RECOVERY_S, "a write is taken again")
        self.tally.recovered(time.monotonic() - began)

    def look(self) -> None:
        """Everything acknowledged is there, to read and in the logs, and nothing that was refused."""
        with self._stores() as stores:
            for directory, store in stores.items():
                _read_back(store, self.records[directory])
        for directory, record in self.records.items():
            path = path_of(self.stores, directory)
            log = aftermath.logged(path, directory)
            if missing := record.missing_from(log):
                raise Lost(missing, len(record.acks))
            aftermath.as_told(log, record)
            if directory:
                # A blob too many does no harm, and goes with the next pruning: see decision 0010.
                assert {each.kind for each in _differences(path)} <= {"blob-extra"}, _differences(path)
        self.sum_up()

    def end(self) -> None:
        """Prune nothing, and stop the server in good order; nothing is left that is not the stores'."""
        self.checkpoint(failing())
        self.server.stop()
        assert _differences(path_of(self.stores, True)) == ()
        left = {path.name for path in self.stores.iterdir()} - _OURS
        assert not {name for name in left if name.startswith(("table", "folder"))}, left
        for directory in self.records:
            aftermath.logged(path_of(self.stores, directory), directory)

    def sum_up(self) -> None:
        """Add to the tally what has come since the last time."""
        requests = sum(record.requests for record in self.records.values())
        acknowledged = sum(len(record.acks) for record in self.records.values())
        self.tally.requests += requests - self._counted[0]
        self.tally.acknowledged += acknowledged - self._counted[1]
        self._counted = requests, acknowledged

    @contextmanager
    def _stores(self) -> Iterator[dict[bool, HttpDriver]]:
        client = Client(self.server.host, self.server.port)
        try:
            yield {directory: store_of(client, self.stores, directory) for directory in self.records}
        finally:
            client.close()


def _differences(path: Path) -> Sequence[Difference]:
    """Between the files of a folder, its index and its op-log."""
    return check(str(path), TABLE, full=True).differences


def _is_taken(store: HttpDriver, record: Acknowledged) -> bool:
    key, value = "recovered", b"%d" % time.monotonic_ns()
    record.requests += 1
    try:
        wrote = store.set(key, value)
    except Exception as error:
        record.failed({key: digest_of(value)}, error)
        if not breaks_off(error):
            raise
        return False
    record.add(Ack(key, wrote.op_number or 0, digest_of(value)))
    return True


def _read_back(store: HttpDriver, record: Acknowledged) -> None:
    listed = {*store.all_keys()}
    for key in record.written():
        record.requests += 1
        try:
            digest = digest_of(store.get(key).value)
        except StoreError as error:
            if error.code != "KEY_NOT_FOUND":
                raise
            digest = NOTHING
        record.saw(key, digest)
        if (key in listed) is (digest == NOTHING):
            raise Misread(f"{key!r} is{'' if key in listed else ' not'} in the list", stale=False)
    extra = {key for key in listed - {*record.written(), COUNTER} if not key.startswith((OWN, EDITED))}
    assert not extra, f"keys that nobody wrote: {sorted(extra)[:5]}"
