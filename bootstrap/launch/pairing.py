"""Pins by ssh: each host stores the others' keys, for ranks that are started by hand."""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

from bootstrap.errors import ConfigError
from bootstrap.hostfile import Resolve, resolve_name
from bootstrap.launch import cables
from bootstrap.launch.asking import Asking, asking
from bootstrap.launch.requests import Stored, StorePin, Survey
from bootstrap.launch.ssh import ASKS, Destination, Host, HostError, Way, can_ask, check_name, destination
from bootstrap.launch.survey import HostReport
from bootstrap.trust import encode_public_key

T = TypeVar("T")


class Paired(NamedTuple):
    """A host, as it is pinned on the others."""

    name: str
    key: bytes
    address: str | None
    """None if no network joins the hosts."""


async def pair(name: str, way: Way) -> tuple[Paired, Paired]:
    """Have this host and another pin each other; return both, this one first. BootstrapError."""
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
            Paired(pin_name(host, ip), report.public_key, ip)
            for host, ip, report in zip(hosts, ips, reports, strict=True)
        ]
        await store_pins(asked, both)
    return both[0], both[1]


def resolving(names: Sequence[str], leads: Sequence[Destination]) -> Resolve:
    """Return how the address of a host name is found: by way of ssh's configuration."""
    known = {name.rpartition("@")[2]: lead.host for name, lead in zip(names, leads, strict=True)}
    return lambda name: resolve_name(known.get(name, name))


async def surveyed(
    stack: AsyncExitStack, hosts: Sequence[Host], on_ask: Callable[[Host], None] = lambda host: None
) -> tuple[list[Asking], list[HostReport]]:
    """Connect to all hosts, for as long as `stack` lasts; return the connections and the reports. HostError.

    Hosts for which ssh has to ask the user come one after the other, so that each question can be read; `on_ask` is
    called before.
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


async def store_pins(asked: Sequence[Asking], hosts: Sequence[Paired]) -> None:
    """Have each host pin all others. HostError."""

    async def store(own: int, each: Asking) -> None:
        for number, host in enumerate(hosts):
            if number != own:
                pin = StorePin(name=host.name, key=encode_public_key(host.key), address=host.address)
                await each.one(pin, Stored)

    await all_of([store(number, each) for number, each in enumerate(asked)])


def pin_name(host: Host, ip: str | None) -> str:
    """Return the name under which others pin a host: its own, else its address."""
    name = socket.gethostname() if host.is_local else host.name.removeprefix("ssh://").rpartition("@")[2]
    name = re.sub(r":\d+\Z", "", name)
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) and name.strip("0123456789."):
        return name
    return ip or f"host-{re.sub('[^A-Za-z0-9]', '-', name)[:50]}"


async def all_of(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all answers; raise the first error, in the order of the questions, once all are there."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return cast("list[T]", answers)
