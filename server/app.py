"""The server, put together: an engine, a bridge, a router, and what happens to every request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import itertools
import logging
import os
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Final

import orjson
from aiohttp import web
from multidict import istr

import kvfs
from kvfs import catalog, sqlite
from kvfs.config import Config
from kvfs.engine import Engine
from kvfs.errors import KvfsError, from_os_error
from kvfs.model import INLINE_MAX_BYTES
from kvfs.paths import Paths
from kvfs.writer import Turn
from server import health, listening, metrics
from server.access_log import AccessLog
from server.body import CONTENT_LENGTH, EXPECT
from server.bridge import Bridge
from server.errors import InternalError, error_reply
from server.exchange import Exchange, Services, visible
from server.feed import Feeds
from server.gate import Gate, check_site
from server.logs import of_request
from server.params import Params
from server.peers import Peers
from server.protocol import Bounds, Server
from server.reply import CLIENT_GONE, Reply
from server.request import Request
from server.router import Router, split_target
from server.routes import ROUTES
from server.sql_wire import AnswerMemory
from server.tokens import Source
from server.traffic import Traffic
from server.worker import Worker

REQUEST_ID: Final = istr("X-Request-Id")

_LOG = logging.getLogger("server")

_REQUEST_ID_MAX_CHARS: Final = 128
_CACHED_QUERIES: Final = 1024
_CACHED_QUERY_MAX_CHARS: Final = 256

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 1 << 20
_ARENAS: Final = 2

# Together less than the 10 s that an orchestrator gives; aiohttp takes the second twice, at the worst.
_REQUESTS_END_S: Final = 5.0
_CONNECTIONS_END_S: Final = 0.5
_ENGINE_ENDS_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set about a server."""

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: str = "kvfs-data"
    any_absolute: bool = False
    tokens: Source = field(default_factory=Source)
    access_log: bool = False
    feed_checkpoint_s: float = 15.0
    """How often a quiet stream of changes shows that it lives."""
    feed_stall_s: float = 20.0
    """A stream whose client takes nothing for so long is ended."""
    bounds: Bounds = field(default_factory=Bounds)
    config: Config = field(default_factory=Config)


class App:
    """Answers requests. The event loop's own, but for what the bridge does."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        gate: Gate | None,
        worker: Worker | None = None,
    ) -> None:
        self._gate = gate
        self._bridge = Bridge(engine, loop)
        self._feeds = Feeds(
            self._bridge, checkpoint_s=settings.feed_checkpoint_s, stall_s=settings.feed_stall_s
        )
        self.connections: Callable[[], int] = lambda: 0
        self._traffic = Traffic()
        self._services = Services(
            engine,
            self._bridge,
            self._feeds,
            kvfs.__version__,
            time.monotonic() if worker is None else worker.started,
            lambda: self.connections(),
            AnswerMemory(),
            self._traffic,
            Peers(worker),
        )
        self._router = Router(ROUTES)
        self._params: dict[str, Params] = {}
        self._ids = itertools.count(1)
        self._id_prefix = secrets.token_hex(4)
        self._stamped_s = 0
        self._stamp = ""
        self.stopping = False

    async def answer_peers(self) -> None:
        """Answer what other workers ask, from now on."""
        services = self._services

        async def openings() -> bytes:
            return health.openings(services)

        async def flush() -> bytes:
            await services.bridge.run(services.engine.queries.flush, None)
            return b"done"

        async def cache() -> bytes:
            return orjson.dumps(await health.cached(services, None))

        await services.peers.answer(
            {
                "openings": openings,
                "cache": cache,
                "metrics": lambda: metrics.exposed(services, None),
                "flush": flush,
            }
        )

    def stop(self) -> None:
        """Begin to stop: what waits for something to happen ends, what is being worked on goes on."""
        self.stopping = True
        self._services.peers.close()
        self._feeds.close()

    def close(self) -> None:
        self._bridge.close()

    async def handle(self, request: Request) -> Reply:
        """The answer to a request, whatever happens."""
        began = time.monotonic()
        request_id = self._request_id(request)
        route = None
        try:
            path, query = split_target(request.target)
            route, key = self._router.find(request.method, path)
            if route.method == "POST":
                check_site(request.headers)
            params = self._parsed(query)
            permit = None if self._gate is None else self._gate.admit(request.headers, route, key, params)
            reply = await route.handler(Exchange(self._services, request, params, key, began, permit))
        except KvfsError as exc:
            reply = error_reply(exc, request_id)
            _let_go(exc)
        except ConnectionError:
            # Nobody will read this: it is for the access log.
            reply = Reply(CLIENT_GONE)
        except OSError as exc:
            reply = error_reply(from_os_error(exc, "answer the request"), request_id)
        except Exception:
            _LOG.exception("%s failed", request.method, extra=of_request(request_id))
            reply = error_reply(InternalError(), request_id)
        if not request.body.is_eof():
            self._leave_unread(request, reply)
        self._traffic.add(route, reply.status, time.monotonic() - began)
        return self._finished(reply, request_id, began)

    def refuse(self, error: KvfsError) -> Reply:
        """The answer to what could not be parsed."""
        request_id = self._next_id()
        reply = error_reply(error, request_id)
        self._traffic.add(None, reply.status, 0.0)
        return self._finished(reply, request_id, time.monotonic())

    # --- parts --------------------------------------------------------------------------------------------

    def _finished(self, reply: Reply, request_id: str, began: float) -> Reply:
        now_s = int(time.time())
        if now_s != self._stamped_s:
            self._stamped_s = now_s
            self._stamp = f"Date: {formatdate(now_s, usegmt=True)}\r\nServer: kvfs/{kvfs.__version__}\r\n"
        reply.common = f"{self._stamp}X-Request-Id: {request_id}\r\n"
        reply.request_id = request_id
        reply.began = began
        if self.stopping:
            reply.force_close()
        return reply

    def _request_id(self, request: Request) -> str:
        given = request.headers.get(REQUEST_ID)
        if given is not None and visible(given, _REQUEST_ID_MAX_CHARS):
            return given
        return self._next_id()

    def _next_id(self) -> str:
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _parsed(self, query: str) -> Params:
        """Clients send the same few queries again and again."""
        params = self._params.get(query)
        if params is None:
            params = Params(query)
            if len(query) <= _CACHED_QUERY_MAX_CHARS:
                if len(self._params) >= _CACHED_QUERIES:
                    self._params.clear()
                self._params[query] = params
        return params

    def _leave_unread(self, request: Request, reply: Reply) -> None:
        """The body is not wanted: a small one is read and forgotten, before a large one the line is cut."""
        if EXPECT in request.headers or request.body.exception() is not None:
            # The client waits for leave to send it, or sends what cannot be told from the next request.
            reply.force_close()
            reply.then = request.protocol.hang_up
        elif int(request.headers.get(CONTENT_LENGTH, INLINE_MAX_BYTES + 1)) > INLINE_MAX_BYTES:
            reply.force_close()


def _let_go(error: BaseException | None) -> None:
    """Forget where an error was raised.

    Who waits for a thread holds the error, and its traceback holds who waits, with the request's body: they
    would stay until garbage is next collected, which is seldom.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def turns_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """Has steps taken in turns of the loop, which need not be woken by its own thread."""
    here = threading.get_ident()

    def turn(step: Callable[[], None]) -> None:
        if threading.get_ident() == here:
            loop.call_soon(step)
        else:
            loop.call_soon_threadsafe(step)

    return turn


async def serve(settings: Settings, announce: Callable[[str], None], worker: Worker | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raises `OSError` or `KvfsError` where it cannot begin.

    A second signal ends the process at once. A `worker` listens where its parent has bound, tells that
    instead of announcing anything, and ends when the parent says so.
    """
    bounds = _with_descriptors(settings.bounds)
    prepare(settings.data_dir)
    sqlite.limit_memory(settings.config.sqlite_memory_bytes)
    loop = asyncio.get_running_loop()
    stop = _signals(loop) if worker is None else worker.asked_to_end(loop)
    paths = Paths(settings.data_dir, any_absolute=settings.any_absolute)
    gate = _gate(settings.tokens, paths, loop)
    if worker is not None:
        worker.heed()
    engine = Engine(paths, config=settings.config, turn=turns_of(loop))
    try:
        app = App(engine, loop, settings, gate, worker)
        log = AccessLog(sys.stdout.buffer) if settings.access_log else None
        server = Server(app.handle, app.refuse, bounds, log)
        app.connections = lambda: len(server.connections)
        runner = web.ServerRunner(server, shutdown_timeout=_CONNECTIONS_END_S)
        await runner.setup()
        try:
            await app.answer_peers()
            sites = _sites(runner, settings, worker)
            for site in sites:
                await site.start()
            _tune_memory()
            _tune_garbage_collection()
            if settings.config.watch:
                threading.Thread(target=_open_folders, args=(engine,), name="kvfs-open", daemon=True).start()
            if worker is None:
                if gate is None:
                    listening.warn_of_strangers(runner.addresses)
                announce(listening.announcement(runner.addresses, paths.data_dir))
            else:
                worker.serves()
            await stop.wait()
            app.stop()
            for site in sites:
                await site.stop()
            await server.finish(_REQUESTS_END_S)
        finally:
            await runner.cleanup()
            app.close()
    finally:
        await _close(engine)


def _with_descriptors(bounds: Bounds) -> Bounds:
    """Have as many descriptors as are allowed; the bounds, with no more connections than half of them.

    The usual limit of 1024 is for programs that use `select`.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return replace(bounds, connections=min(bounds.connections, descriptors // 2))


def _sites(runner: web.ServerRunner, settings: Settings, worker: Worker | None) -> list[web.BaseSite]:
    """Where to listen."""
    if worker is None:
        return [web.TCPSite(runner, settings.host, settings.port, backlog=listening.BACKLOG)]
    return [web.SockSite(runner, each, backlog=listening.BACKLOG) for each in worker.sockets]


def _gate(tokens: Source, paths: Paths, loop: asyncio.AbstractEventLoop) -> Gate | None:
    """What asks for tokens, if there are any; a file of them is read again at SIGHUP."""
    if not tokens:
        return None
    gate = Gate(tokens, paths, clock=time.time)
    if tokens.reloads:
        loop.add_signal_handler(signal.SIGHUP, gate.reload)
    return gate


def prepare(data_dir: str) -> None:
    """Make the data dir if it is missing; raises `OSError` where it cannot be used."""
    try:
        os.path.realpath(data_dir).encode()
    except UnicodeEncodeError as exc:
        # Neither SQLite nor JSON could name what is in it.
        raise OSError(errno.EILSEQ, "the path is not UTF-8", data_dir) from exc
    try:
        os.makedirs(data_dir, exist_ok=True)
    except FileExistsError as exc:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), data_dir) from exc
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), data_dir)


def _open_folders(engine: Engine) -> None:
    """Open the folder stores of the data dir, so that what is edited there is logged from now on."""
    try:
        engine.open_all(catalog.folder_stores(engine.paths.data_dir, engine.config.state_dir))
    except KvfsError as exc:
        _LOG.warning("cannot look for folder stores: %s", exc.message)


def _tune_memory() -> None:
    """Give back what large values took; glibc would keep it, having seen some."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def _tune_garbage_collection() -> None:
    """Requests leave no cycles behind; looking for some after every few hundred objects costs a twentieth."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Is set at the first signal to end."""
    stop = asyncio.Event()

    def ask() -> None:
        if stop.is_set():
            # Everything acknowledged is durable, so this loses nothing.
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return stop


async def _close(engine: Engine) -> None:
    """Close the engine, which checkpoints; what takes too long is left to recovery at the next start."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def close() -> None:
        try:
            engine.close()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=close, name="kvfs-close", daemon=True).start()
    try:
        async with asyncio.timeout(_ENGINE_ENDS_S):
            await closed.wait()
    except TimeoutError:
        _LOG.warning("the databases could not be closed in time")
