"""The container image, without a container engine: its build script run for real, and what it starts.

What the image runs is read from the Dockerfile, so what is tested here is what it says there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIMEOUT_S = 540
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20

# The build fetches packages, and the first test to need it waits for it.
pytestmark = pytest.mark.timeout(600)


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(word.upper(), rest) for word, rest in pairs]


def _last_stage() -> list[tuple[str, str]]:
    """The instructions of the image that ships; the stages before it only build."""
    instructions = _instructions()
    last = max(i for i, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[last:]


def _instruction(word: str) -> str:
    """What the last stage's one `word` instruction says."""
    (rest,) = (rest for found, rest in _last_stage() if found == word)
    return rest


def _command(word: str) -> list[str]:
    """An instruction's command in exec form, behind its options if it has some."""
    rest = _instruction(word)
    command: list[str] = json.loads(rest[rest.index("[") :])
    return command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(prefix: Path, port: int) -> dict[str, str]:
    """Clean of this test run's Python; `python` and `kvfs` are the installed ones, as in the image."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return kept | {"PATH": f"{prefix}/bin:{os.environ['PATH']}", "KVFS_PORT": str(port)}


def _health(prefix: Path, cwd: Path, port: int) -> subprocess.CompletedProcess[str]:
    """The image's health check, run once, somewhere the sources cannot be imported from."""
    return subprocess.run(
        _command("HEALTHCHECK"),
        env=_environment(prefix, port),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def _wait_until_healthy(server: subprocess.Popen[bytes], prefix: Path, cwd: Path, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while (health := _health(prefix, cwd, port)).returncode != 0:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, health.stderr
        time.sleep(0.1)
    assert (health.stdout, health.stderr) == ("", "")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that the image's build stage makes."""
    prefix = tmp_path_factory.mktemp("image") / "kvfs"
    subprocess.run(
        [ROOT / "docker/build.sh", prefix],
        env=os.environ | {"PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        timeout=BUILD_TIMEOUT_S,
        check=True,
    )
    return prefix


def test_the_built_kvfs_knows_its_version(prefix: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [prefix / "bin/kvfs", "--version"],
        env=_environment(prefix, 0),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    version = subprocess.run(
        [prefix / "bin/python", "-c", "import kvfs; print(kvfs.__version__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert version.stdout.strip() in result.stdout


def test_the_build_installs_the_locked_versions_and_no_tools(prefix: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {line.replace("==", "-").replace("-", "_").lower() for line in lock if not line.startswith("#")}
    found = {
        path.name.removesuffix(".dist-info").replace("-", "_").lower()
        for path in prefix.glob("lib/python3*/site-packages/*.dist-info")
    }
    installed = {name for name in found if not name.startswith("kvfs_")}
    assert {"aiohttp", "apsw"} <= {name.rsplit("_", 1)[0] for name in installed}
    assert installed <= locked
    assert not {name for name in installed if name.startswith(("pip_", "pytest", "hatchling"))}


def test_the_image_serves_answers_its_health_check_and_stops_on_sigterm(prefix: Path, tmp_path: Path) -> None:
    port = _free_port()
    data = tmp_path / "databases"
    data.mkdir()
    command = [*_command("ENTRYPOINT"), *_command("CMD")]
    command[command.index("--port") + 1] = str(port)
    with subprocess.Popen(
        [prefix / "bin" / command[0], *command[1:], "--data-dir", data],
        env=_environment(prefix, port),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    ) as server:
        try:
            _wait_until_healthy(server, prefix, tmp_path, port)
            server.send_signal(getattr(signal, _instruction("STOPSIGNAL")))
            assert server.wait(timeout=STOP_TIMEOUT_S) == 0
        finally:
            server.kill()


# As the engine starts it: $1 is the environment, $2 the volume, $3 the port; the rest is the command. /opt,
# /srv and /mnt are there on every Linux, and nobody needs them here. A Python that lies in root's home is put
# where others may go.
_LOCKED_DOWN = """
set -eu
mount --bind "$1" /opt
mount --bind "$2" /srv
case "$BASE_PYTHON" in /root/*)
    mount --bind "$BASE_PYTHON" /mnt
    mount -t tmpfs -o mode=755 tmpfs /root
    mkdir -p "$BASE_PYTHON"
    mount --bind /mnt "$BASE_PYTHON"
esac
mount -t tmpfs tmpfs /tmp
mount -o remount,bind,ro /
export KVFS_PORT="$3" PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin
cd /srv
shift 3
exec setpriv --reuid "$KVFS_USER" --regid "$KVFS_USER" --clear-groups --no-new-privs --inh-caps=-all \\
    python "/opt/bin/$1" "$2" --host 127.0.0.1 --port "$KVFS_PORT" --data-dir /srv
"""


def _can_lock_down() -> bool:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /srv && mount -o remount,bind,ro /"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_lock_down(), reason="only root can mount, and only where that is allowed")
def test_it_serves_as_its_user_on_a_read_only_root_with_nothing_but_its_volume(
    prefix: Path, tmp_path: Path
) -> None:
    user, port, volume = int(_instruction("USER")), _free_port(), tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, user, user)
    command = [*_command("ENTRYPOINT"), _command("CMD")[0]]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _LOCKED_DOWN, "sh", prefix, volume, str(port), *command],
        env=_environment(prefix, port)
        | {"KVFS_USER": str(user), "KVFS_TOKEN": "secret", "BASE_PYTHON": sys.base_prefix},
        stdin=subprocess.DEVNULL,
    ) as server:
        try:
            _wait_until_healthy(server, prefix, tmp_path, port)
            status = Path(f"/proc/{server.pid}/status").read_text()
            assert f"Uid:\t{user}\t{user}\t{user}\t{user}" in status
            url = f"http://127.0.0.1:{port}/api/v1/sqlite/kv/k?create_db_if_missing=true"
            # A table, a folder, and a value that goes by way of a temporary file.
            for db, size in (("app.db", 10), ("/srv/site/&table=t", 10), ("/srv/site&table=t", 2 << 20)):
                request = urllib.request.Request(f"{url}&db={db}", data=bytes(size), method="PUT")
                request.add_header("Authorization", "Bearer secret")
                with urllib.request.urlopen(request, timeout=20) as answer:
                    assert answer.status == 200
            assert (volume / "app.db").stat().st_uid == user
            assert (volume / "site/t/k").stat().st_size == 2 << 20
            server.send_signal(getattr(signal, _instruction("STOPSIGNAL")))
            assert server.wait(timeout=STOP_TIMEOUT_S) == 0
        finally:
            server.kill()


def test_the_health_check_fails_with_one_line_when_nothing_listens(prefix: Path, tmp_path: Path) -> None:
    health = _health(prefix, tmp_path, _free_port())
    assert health.returncode == 1
    assert health.stdout == ""
    assert len(health.stderr.splitlines()) == 1


def test_the_image_does_not_run_as_root() -> None:
    assert _instruction("USER").partition(":")[0] not in ("root", "0")
    words = [word for word, _ in _last_stage()]
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_the_image_keeps_the_databases_in_a_volume() -> None:
    assert _instruction("VOLUME") == "/hoody/databases"


def test_the_image_checks_health_without_other_programs() -> None:
    assert _command("HEALTHCHECK") == ["python", "-m", "server.healthcheck"]


def test_the_image_listens_on_the_port_it_exposes() -> None:
    command = _command("CMD")
    assert command[command.index("--port") + 1] == _instruction("EXPOSE")
