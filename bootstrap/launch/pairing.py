"""Pins keys over ssh: each host stores the others' keys, for ranks started with `up`."""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar, cast

from bootstrap.errors import ConfigError
from bootstrap.hostfile import Resolve, resolve_name
from bootstrap.launch import cables
from bootstrap.launch.asking import Asking, asking
from bootstrap.launch.requests import Stored, StorePin, Survey
from bootstrap.launch.ssh import ASKS, Destination, Host, HostError, Way, can_ask, check_name, destination
from bootstrap.launch.survey import HostReport
from bootstrap.trust import PinnedPeer, encode_public_key

T = TypeVar("T")


async def pair(name: str, way: Way) -> tuple[PinnedPeer, PinnedPeer]:
    """Have this host and another one pin each other. Return both pins, this host's first. Raise BootstrapError.

    They have no address if the hosts share no network.
    """
    check_name(name)
    leads = [await destination(each) for each in ("localhost", name)]
    if leads[1].is_here:
        raise ConfigError(f"{name} is this host; name the other one", code="bad-hosts")
    hosts = [Host(rank=0, name="localhost", is_local=True), Host(rank=1, name=name, is_local=False, way=way)]
    names = [host.name for host in hosts]
    async with AsyncExitStack() as stack:
        asked, reports = await surveyed(stack, hosts)
        try:
            found = await asyncio.to_thread(cables.find, reports, names, "ring", resolving(names, leads))
            ips: tuple[str | None, ...] = found.hostfile.ips
        except ConfigError as error:
            if error.code != "no-common-network":
                raise
            ips = (None, None)
        both = [
            PinnedPeer(pin_name(host, ip), report.public_key, ip)
            for host, ip, report in zip(hosts, ips, reports, strict=True)
        ]
        await store_pins(asked, both)
    return both[0], both[1]


def resolving(names: Sequence[str], leads: Sequence[Destination]) -> Resolve:
    """Return a resolver of host names that uses ssh's configuration."""
    known = {name.rpartition("@")[2]: lead.host for name, lead in zip(names, leads, strict=True)}
    return lambda name: resolve_name(known.get(name, name))


async def surveyed(
    stack: AsyncExitStack, hosts: Sequence[Host], on_ask: Callable[[Host], None] = lambda host: None
) -> tuple[list[Asking], list[HostReport]]:
    """Connect to all hosts while `stack` is open. Return the connections and the reports. Raise HostError.

    Hosts for which ssh prompts the user come one after the other, so that each prompt is readable. `on_ask` is called
    before each prompt.
    """

    async def connect(host: Host) -> tuple[Asking, HostReport]:
        asked = await stack.enter_async_context(asking(host))
        return asked, await asked.one(Survey(), HostReport)

    pairs = []
    found = await asyncio.gather(*map(connect, hosts), return_exceptions=True)
    for host, each in zip(hosts, found, strict=True):
        if isinstance(each, HostError) and each.code in ASKS and can_ask():
            on_ask(host)
            pairs.append(await connect(replace(host, asks=True)))
        elif isinstance(each, BaseException):
            raise each
        else:
            pairs.append(each)
    return [asked for asked, _ in pairs], [report for _, report in pairs]


async def store_pins(asked: Sequence[Asking], hosts: Sequence[PinnedPeer]) -> None:
    """Have each host pin all others. Raise HostError."""

    async def store(own: int, each: Asking) -> None:
        for number, host in enumerate(hosts):
            if number != own:
                pin = StorePin(name=host.name, key=encode_public_key(host.key), address=host.address)
                await each.one(pin, Stored)

    await all_of([store(number, each) for number, each in enumerate(asked)])


def pin_name(host: Host, ip: str | None) -> str:
    """Return the name under which others pin a host: its name, else its address."""
    name = socket.gethostname() if host.is_local else host.name.removeprefix("ssh://").rpartition("@")[2]
    name = re.sub(r":\d+\Z", "", name)
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) and name.strip("0123456789."):
        return name
    return ip or f"host-{re.sub('[^A-Za-z0-9]', '-', name)[:50]}"


async def all_of(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all answers. Once all are there, raise the first error in the order of the questions."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("list[T]", answers)
