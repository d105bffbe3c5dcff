"""Coordinator ports that no other program takes before MLX binds them."""

import errno
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bootstrap.errors import BootstrapError

LOWEST, HIGHEST = 20000, 31999  # below the ports that systems hand out to clients
_ATTEMPTS = 100


@contextmanager
def reserved_ports(host: str, count: int, port: int | None = None) -> Iterator[int]:
    """Hold `count` consecutive ports from `port` on, by default from a free one, and give the first.

    Each is bound alone, and only then opened to SO_REUSEPORT: MLX, which sets that option, can bind it too, but
    another demo cannot bind it first. MLX itself would share a port with a stranger and mix up two groups.
    """
    with ExitStack() as held:
        if port is not None:
            _hold(host, port, count, held)
            yield port
            return
        for attempt in range(_ATTEMPTS):
            base = LOWEST + secrets.randbelow(HIGHEST - LOWEST - count + 2)
            try:
                _hold(host, base, count, held)
            except BootstrapError as error:
                held.close()
                if error.code != "port-in-use" or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        yield base


def _hold(host: str, base: int, count: int, held: ExitStack) -> None:
    for port in range(base, base + count):
        sock = held.enter_context(socket.socket())
        try:
            _bind(sock, host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                text, code = (
                    f"port {port} on {host} is in use; leave --port out, or stop what listens there",
                    "port-in-use",
                )
            else:
                text, code = (
                    f"cannot bind {host}:{port}: {error.strerror}; use another --host or --port",
                    "port-refused",
                )
            raise BootstrapError(text, code=code) from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        sock.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Maybe only connections of an earlier group, closed but not forgotten by the system yet.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
