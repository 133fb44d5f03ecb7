"""Files on their way to connections."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from kvfs.model import FileValue
from server.sending import Sending
from tests import nasty

SIZE = 3 << 20


def sending_to(stack: ExitStack, path: Path, size: int) -> tuple[Sending, socket.socket, list[int]]:
    """A file being sent, the connection's other end, and the descriptors that are the sending's own."""
    ours, theirs = map(stack.enter_context, socket.socketpair())
    ours.setblocking(False)
    before = set(os.listdir("/proc/self/fd"))
    file = FileValue(os.open(path, os.O_RDONLY), size)
    sending = Sending(file)
    sending.begin(ours.fileno())
    stack.callback(sending.close)
    return sending, theirs, [int(name) for name in set(os.listdir("/proc/self/fd")) - before]


def is_open(fd: int) -> bool:
    with suppress(OSError):
        os.fstat(fd)
        return True
    return False


def test_what_the_connection_does_not_take_comes_back_as_a_piece_to_be_written(tmp_path: Path) -> None:
    content = nasty.noise(SIZE)
    (tmp_path / "f").write_bytes(content)
    with ExitStack() as stack:
        sending, theirs, _ = sending_to(stack, tmp_path / "f", SIZE)
        left, piece = sending.send(range(10, SIZE - 10))
        sent = left.start - len(piece) - 10
        assert 0 < sent < SIZE - 20
        assert piece == content[left.start - len(piece) : left.start]
        assert left.stop == SIZE - 10
        assert theirs.recv(sent, socket.MSG_WAITALL) == content[10 : 10 + sent]
        assert sending.send(range(SIZE - 20, SIZE - 10)) == (range(SIZE - 10, SIZE - 10), b"")


def test_a_file_that_is_shorter_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"short")
    with ExitStack() as stack:
        sending, _, _ = sending_to(stack, tmp_path / "f", SIZE)
        with pytest.raises(EOFError):
            sending.send(range(SIZE))


def test_what_is_closed_while_a_thread_sends_is_closed_when_that_is_done(tmp_path: Path) -> None:
    size = 1 << 40
    with open(tmp_path / "f", "wb") as file:
        file.truncate(size)
    for _ in range(20):
        with ExitStack() as stack:
            sending, theirs, own = sending_to(stack, tmp_path / "f", size)
            began = threading.Event()

            def take(theirs: socket.socket = theirs, began: threading.Event = began) -> None:
                while theirs.recv(1 << 20):
                    began.set()

            def send(sending: Sending = sending) -> None:
                with suppress(ConnectionAbortedError):
                    while True:
                        sending.send(range(size))

            threads = [threading.Thread(target=target) for target in (take, send)]
            for thread in threads:
                thread.start()
            assert began.wait(10)
            sending.close()
            threads[1].join(10)
            assert not threads[1].is_alive()
            assert not any(map(is_open, own))
            theirs.shutdown(socket.SHUT_RDWR)
            threads[0].join(10)
