"""Where a server listens, when several processes share its port: the sockets, made before there are any."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any, Final

import kvfs

BACKLOG: Final = 1024

_LOG = logging.getLogger("server")

_Address = tuple[Any, ...]
"""What `socket` calls an address: of IPv4 (host, port), of IPv6 two more."""

Sockets = list[socket.socket]


def bind(host: str, port: int, workers: int) -> list[Sockets]:
    """For each worker the sockets to listen on, one for each address of the host.

    The kernel deals connections out to the workers. Raises `OSError` where an address cannot be had, also if
    only because another server shares it.
    """
    with ExitStack() as stack:
        sockets: list[Sockets] = [[] for _ in range(workers)]
        for family, address in _addresses(host, port):
            with _bound(family, address, shared=False) as probe:
                free = probe.getsockname()
            for own in sockets:
                own.append(stack.enter_context(_bound(family, free, shared=True)))
        for own in sockets:
            for each in own:
                each.listen(BACKLOG)
                each.setblocking(False)
        stack.pop_all()
    return sockets


def announcement(addresses: Iterable[_Address], data_dir: str) -> str:
    """The line that says that a server listens, and where its data lies."""
    host, port = next(iter(addresses))[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"kvfs {kvfs.__version__} listening on {url}, data in {data_dir}"


def warn_of_strangers(addresses: Iterable[_Address]) -> None:
    """Without tokens nobody but this machine's users should reach the port."""
    beyond = sorted({host for host, *_ in addresses if not ip_address(host).is_loopback})
    if beyond:
        _LOG.warning(
            "NO TOKEN IS SET, and the server listens on %s: whoever reaches it can read, change and delete"
            " everything. Set --token or --token-file, or listen on 127.0.0.1.",
            ", ".join(beyond),
        )


def _addresses(host: str, port: int) -> Sequence[tuple[socket.AddressFamily, _Address]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: _Address, *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as exc:
        bound.close()
        raise OSError(exc.errno, f"cannot listen on {address[0]} port {address[1]}: {exc.strerror}") from exc
    return bound
