"""Checks of the ports that native code opens to the network, before it runs."""

import asyncio
import errno
import socket
import time
from dataclasses import replace

import pytest

from bootstrap.link import ports
from bootstrap.link.ports import PortError, check_neighbour, check_own_ports
from bootstrap.plan import Plan
from tests.bootstrap.links import run


def plan_of(rank: int, port: int = 31999 - 4) -> Plan:
    return Plan(rank=rank, ips=("127.9.8.1", "127.9.8.2", "127.9.8.3"), port=port)


@pytest.mark.parametrize(
    ("rank", "backend", "code"), [(0, "ring", "ring"), (2, "ring", "ring"), (0, "jaccl", "coordinator")]
)
def test_a_port_that_is_taken(rank: int, backend: str, code: str) -> None:
    """Also if the listener shares its port, which MLX would take as an invitation."""
    plan = plan_of(rank)
    check_own_ports(plan, backend)  # type: ignore[arg-type]
    with socket.create_server((plan.own_ip, plan.port + rank), reuse_port=True):
        with pytest.raises(PortError, match=f"the {code} port at {plan.own_ip}:{plan.port + rank}") as caught:
            check_own_ports(plan, backend)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.stage) == (f"{code}-port-taken", "ports")


def test_jaccl_opens_no_port_but_rank_0s_without_a_relay() -> None:
    for plan in (plan_of(1), replace(plan_of(0), relay_port=29999)):
        with socket.create_server((plan.ips[0], plan.port)), socket.create_server((plan.own_ip, plan.port + 1)):
            check_own_ports(plan, "jaccl")


def test_a_neighbour_that_does_not_listen_yet_is_reached() -> None:
    """A port with a listener is not free; the last rank's neighbour is rank 0."""

    async def main() -> None:
        for rank in range(3):
            await check_neighbour(plan_of(rank))
        plan = plan_of(2)
        with socket.create_server((plan.ips[0], plan.port)):
            await check_neighbour(plan)

    run(main)


def test_a_neighbour_without_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(ip: str, port: int) -> None:
        raise OSError(errno.EHOSTUNREACH, "Connect call failed")

    async def main() -> None:
        monkeypatch.setattr(asyncio, "open_connection", unreachable)
        with pytest.raises(
            PortError, match=r"rank 1's ring port at 127\.9\.8\.2:31996 cannot be reached: No route"
        ) as caught:
            await check_neighbour(plan_of(0))
        assert caught.value.code == "ring-unreachable"

    run(main)


def test_a_neighbour_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener with a full queue drops packets, like a firewall."""

    async def main() -> None:
        monkeypatch.setattr(ports, "REACH_SECONDS", 0.2)
        plan = plan_of(1)
        with socket.socket() as full:
            full.bind((plan.ips[2], plan.port + 2))
            full.listen(0)
            waiting = []
            for _ in range(3):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(full.getsockname())
            await asyncio.sleep(0.05)
            with pytest.raises(PortError, match=r"does not answer \(waited 0.2 s\)") as caught:
                await check_neighbour(plan)
            assert caught.value.code == "ring-unreachable"
            for each in waiting:
                each.close()

    run(main)


def test_a_process_that_was_stopped_during_the_check_does_not_blame_its_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It found its time over before it saw the answer, which was there."""
    connect, sent = socket.socket.connect, []

    def connect_and_stop(each: socket.socket, address: tuple[str, int]) -> None:
        sent.append(address)
        try:
            connect(each, address)
        finally:
            if len(sent) == 1:
                time.sleep(1.5 * ports.REACH_SECONDS)

    async def main() -> None:
        monkeypatch.setattr(ports, "REACH_SECONDS", 0.4)
        monkeypatch.setattr(socket.socket, "connect", connect_and_stop)
        plan = plan_of(1)
        with socket.create_server((plan.ips[2], plan.port + 2)):
            await check_neighbour(plan)
        assert sent

    run(main)
