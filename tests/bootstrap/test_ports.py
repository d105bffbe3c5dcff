import socket

import pytest

from bootstrap import BootstrapError
from bootstrap.ports import HIGHEST, LOWEST, reserved_ports

HOST = "127.0.0.1"


def bind(port: int, *options: int) -> None:
    with socket.socket() as sock:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind((HOST, port))


def test_the_ports_are_consecutive_and_in_range() -> None:
    with reserved_ports(HOST, 8) as base:
        assert LOWEST <= base <= HIGHEST - 7
        for port in range(base, base + 8):
            with pytest.raises(OSError, match="in use"):
                bind(port)


def test_mlx_can_bind_them_and_another_demo_cannot() -> None:
    with reserved_ports(HOST, 2) as base:
        for port in (base, base + 1):
            bind(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
            with pytest.raises(BootstrapError) as caught, reserved_ports(HOST, 1, port):
                pass
            assert (caught.value.code, caught.value.stage) == ("port-in-use", "run")


def test_they_are_free_again_afterwards() -> None:
    with reserved_ports(HOST, 2) as base:
        pass
    for port in (base, base + 1):
        bind(port)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_in_use_is_named_and_nothing_is_held(taken: int) -> None:
    with reserved_ports(HOST, 2) as base:
        pass
    with socket.create_server((HOST, base + taken)):
        with (
            pytest.raises(BootstrapError, match=f"port {base + taken} on 127.0.0.1 is in use"),
            reserved_ports(HOST, 2, base),
        ):
            pass
        bind(base + 1 - taken)


def test_old_connections_do_not_keep_a_port() -> None:
    with reserved_ports(HOST, 1) as base:
        pass
    with socket.create_server((HOST, base)) as server, socket.create_connection((HOST, base)) as client:
        accepted, _ = server.accept()
        accepted.close()  # first, so that the closed connection waits on this side
        assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"):
        bind(base)
    with reserved_ports(HOST, 1, base) as held:
        assert held == base


def test_an_address_that_this_host_does_not_have() -> None:
    with (
        pytest.raises(BootstrapError, match=r"cannot bind 192\.0\.2\.1:29400") as caught,
        reserved_ports("192.0.2.1", 1, 29400),
    ):
        pass
    assert caught.value.code == "port-refused"
    with pytest.raises(BootstrapError), reserved_ports("192.0.2.1", 1):
        pass
