"""The servers that are compared: each started on a free port, pinned to a core, ended at the end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
_START_S: Final = 20.0

_CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CPU: Final = _CORES[0] if len(_CORES) > 1 else None
LOAD_CPU: Final = _CORES[1] if len(_CORES) > 1 else None
"""A core for servers and one for the load; None where there is just one."""

_NGINX: Final = """\
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {home}/uploads;
  client_body_buffer_size 1m;
  sendfile on;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    dav_methods PUT DELETE;
    create_full_put_path on;
  }}
}}
"""


class Running(NamedTuple):
    """A server that answers."""

    port: int
    pid: int


@contextmanager
def kvfs(data_dir: Path, *options: str, pinned: bool = True) -> Iterator[Running]:
    """`kvfs serve` of a data directory."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with _started([*command, *options], port, "/api/v1/sqlite/health", pinned=pinned) as running:
        yield running


@contextmanager
def ceiling() -> Iterator[Running]:
    """A constant, from aiohttp and uvloop."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("ceiling.py")), str(port)]
    with _started(command, port, "/api/v1/sqlite/kv/any") as running:
        yield running


@contextmanager
def etcd(home: Path) -> Iterator[Running]:
    """One member of etcd, whose HTTP gateway is asked; it syncs each write, as kvfs does."""
    port, peers = free_port(), free_port()
    url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    command = [
        "etcd", "--data-dir", str(home / "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
        "--initial-cluster", f"default={peer_url}", "--log-level", "error",
    ]  # fmt: skip
    with _started(command, port, "/health") as running:
        yield running


@contextmanager
def nginx(home: Path, root: Path) -> Iterator[Running]:
    """nginx with one worker, which serves the files below `root`, and takes new ones by WebDAV."""
    port = free_port()
    config = home / "nginx.conf"
    # Its worker gives up root's rights, and must read what was made by whoever runs this.
    user = f"user {Path.home().owner()};\n" if os.getuid() == 0 else ""
    config.write_text(user + _NGINX.format(home=home, port=port, root=root))
    command = ["nginx", "-c", str(config), "-p", str(home), "-e", str(home / "error.log")]
    with _started(command, port, "/") as running:
        yield running


def missing() -> list[str]:
    """The peers, and what else is needed, that are not installed: their programs' names."""
    return [name for name in ("wrk", "taskset", "etcd", "nginx") if shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _started(command: Sequence[str], port: int, path: str, *, pinned: bool = True) -> Iterator[Running]:
    pin = ["taskset", "--cpu-list", str(SERVER_CPU)] if pinned and SERVER_CPU is not None else []
    with subprocess.Popen(
        [*pin, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    ) as process:
        try:
            _until_it_answers(process, port, path)
            yield Running(port, process.pid)
        finally:
            process.terminate()


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("KVFS_", "ETCD_"))}


def _until_it_answers(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_START_S).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not answer") from exc
            time.sleep(0.002)
