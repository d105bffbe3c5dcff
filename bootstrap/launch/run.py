"""A launch, from start to end:

keys and addresses of all hosts → the doctor on each → all ranks → their end → a last look at each host
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from bootstrap.capabilities import own_version
from bootstrap.control.run import Display, Run, RunError, Stopped
from bootstrap.control.running import EventQueue, RunningRank, running
from bootstrap.errors import BootstrapError, ConfigError
from bootstrap.events import EventDict
from bootstrap.files import absolute
from bootstrap.hostfile import Hostfile
from bootstrap.launch import cables
from bootstrap.launch.asking import Asking, asking
from bootstrap.launch.channel import HEARTBEAT_SECONDS, Start, plan_fields
from bootstrap.launch.left import Left
from bootstrap.launch.member import Failure, Member
from bootstrap.launch.pairing import all_of, pin_name, resolving, store_pins, surveyed
from bootstrap.launch.requests import CheckAnswer, Doctor, Look
from bootstrap.launch.ssh import CONNECT_SECONDS, Connection, Host, Way, check_name, destination
from bootstrap.launch.table import Row
from bootstrap.plan import Plan, check_size
from bootstrap.system import current
from bootstrap.system.processes import POLL_SECONDS
from bootstrap.trust import PinnedPeer
from wireproto.jaccl.topology import devices_of

SETTLE_SECONDS: Final = 2.0
"""How long the ranks may take to report the cause after the first failure."""
END_SECONDS: Final = 10.0
"""How long a rank may take to end, in addition to its program's grace."""
LOOK_SECONDS: Final = 5.0
"""How long a rank's guard may take to clean up after its connection has ended."""
LAST_LOOK_SECONDS: Final = CONNECT_SECONDS + LOOK_SECONDS + 10.0

_OWN: Final = ("command", "runs", "cwd")
"""Fields of a plan that only the rank's own host can check."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """The program to launch, and the hosts. Raise ConfigError if it cannot work."""

    hosts: tuple[str, ...] = ()
    """Hosts as for ssh, the first is rank 0; by default those of the hostfile."""
    hostfile: Hostfile | None = None
    """Addresses and devices; by default they are searched for."""
    way: Way = field(default_factory=Way)
    pin: bool = False
    """Pin the keys of all hosts on all hosts, for later use of `up`."""
    write_hostfile: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of `Plan` except rank, addresses and devices."""
    directory: str = field(default_factory=lambda: str(absolute(Path())))
    """The directory that the ranks run in, if their host has it."""

    def __post_init__(self) -> None:
        if self.hostfile is not None and not self.hosts:
            names = [ssh or ips[0] for ssh, ips in zip(self.hostfile.ssh, self.hostfile.all_ips, strict=True)]
            object.__setattr__(self, "hosts", tuple(names))
        check_size(len(self.hosts))
        for name in self.hosts:
            check_name(name)
        if self.hostfile is not None and len(self.hostfile.ips) != len(self.hosts):
            text = f"the hostfile has {len(self.hostfile.ips)} hosts, but --hosts has {len(self.hosts)}; give the same"
            raise ConfigError(text, code="bad-hosts")
        self.plans(self.hostfile or _example(len(self.hosts)))

    def plans(self, hostfile: Hostfile) -> list[Plan]:
        """Return the plan of each rank, without the fields that only its own host can check."""
        options = {name: value for name, value in self.options.items() if name not in _OWN}
        return [hostfile.plan(rank, **options) for rank in range(len(self.hosts))]

    @property
    def grace(self) -> float:
        return float(self.options.get("grace", Plan.grace))

    @property
    def reads_stdin(self) -> bool:
        return bool(self.options.get("stdin")) and bool(self.options.get("command"))


def _example(size: int) -> Hostfile:
    """Return a hostfile to check the options with, before the addresses are known."""
    ips = tuple(f"192.0.2.{number + 1}" for number in range(size))
    return Hostfile(ips=ips, all_ips=tuple((ip,) for ip in ips), devices=None, backend="ring")


@asynccontextmanager
async def launch(hosts: Sequence[str], *, run: "Launcher | None" = None, **wanted: Any) -> AsyncIterator[RunningRank]:
    """Run all ranks of a group inside the block, one on each of the `hosts`, in this order, over ssh.

        async with bootstrap.launch(["mac-a.local", "mac-b.local"], command=("python", "serve.py")) as run:
            async for event in run: ...

    `wanted` are fields of `launch.run.Job` and `Plan`. The events and failures of all ranks are as in `bootstrap.rank`.
    Leaving the block ends the ranks cleanly.

    A given `run` owns the events and rank 0's input; by default this function owns the events, and there is no input.
    """
    if isinstance(hosts, str):
        raise ConfigError("hosts must be a list of names, not one string", code="bad-hosts")
    if isinstance(wanted.get("command"), str):
        raise ConfigError("command must be a list of arguments, not one string", code="bad-command")
    events = EventQueue()
    if run is None:
        wanted["stdin"] = False
        own = {name: wanted.pop(name) for name in ("hostfile", "way", "pin", "write_hostfile") if name in wanted}
        job = Job(hosts=tuple(hosts), options=wanted, **own)
        run = Launcher(job, events, owns_process=False)
    async with running(run, run.act, events) as inside:
        yield inside


class Launcher(Run):
    """The run of a launch. It passes a stop on to the ranks, and ends after them."""

    def __init__(self, job: Job, display: Display, *, owns_process: bool = True) -> None:
        super().__init__(display, timeout=0, owns_process=owns_process)
        self.job = job
        self._stopping, self._hurrying, self._feeding = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._is_ending = False
        self._members: list[Member] = []
        self._failures: list[Failure] = []

    # -- requests from outside -----------------------------------------------------------------------------------------

    def stop(self, reason: Stopped | BootstrapError) -> None:
        if self._stop_reason is None:
            self._stop_reason = reason
            self._stopping.set()

    def interrupt(self, number: int) -> None:
        if self._stop_reason is not None and number == signal.SIGINT:
            self._hurrying.set()
        self.stop(Stopped(number))

    def reap_orphans(self) -> None:
        """Do nothing: asyncio has started all children."""

    def suspend(self) -> None:
        """Refuse Ctrl-Z: the ranks would miss heartbeats and end."""
        self.report("warning", message="ignored Ctrl-Z, which would end the ranks; use Ctrl-C to stop")

    async def input_wanted(self) -> None:
        """Wait until rank 0 accepts input."""
        await self._feeding.wait()

    async def feed(self, data: bytes) -> bool:
        """Send input to rank 0's program. Return whether it still accepts input."""
        await self._feeding.wait()
        return await self._members[0].feed(data)

    async def end_input(self) -> None:
        await self._feeding.wait()
        self._members[0].end_input()

    # -- from start to end ---------------------------------------------------------------------------------------------

    async def act(self, run: Run) -> None:
        """Launch. Return early if the run is stopped."""
        ready = await self._unless_stopped(self._prepare())
        if ready is not None:
            hosts, plans, keys = ready
            try:
                await self._run(hosts, plans, keys)
            finally:
                await self._look(hosts, plans)
        if self._failures and not self._stopping.is_set():
            raise min(self._failures, key=lambda failure: failure.weight).error
        if self.job.options.get("command"):
            self.summary["status"] = 0

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopping.is_set() else working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _prepare(self) -> tuple[list[Host], list[Plan], list[str]]:
        """Survey and check the hosts. Return the hosts, plans and keys for the ranks."""
        names, run = self.job.hosts, current().random(8).hex()
        leads = await asyncio.gather(*map(destination, names))
        hosts = [
            Host(rank=rank, name=name, is_local=leads[rank].is_here, way=self.job.way, mark=f"{run}-{rank}")
            for rank, name in enumerate(names)
        ]
        async with AsyncExitStack() as stack:
            asked, reports = await surveyed(stack, hosts, self._ssh_asks)
            hosts = [each.host for each in asked]
            cables.check_distinct(reports, names)
            hostfile = self.job.hostfile
            if hostfile is None:
                backend = self.job.options.get("backend", "auto")
                found = await asyncio.to_thread(cables.find, reports, names, backend, resolving(names, leads))
                for remark in found.remarks:
                    self.report("warning", message=remark)
                hosts = [replace(hosts[at], rank=rank) for rank, at in enumerate(found.order)]
                asked, reports = [asked[at] for at in found.order], [reports[at] for at in found.order]
                hostfile = found.hostfile
            if self.job.write_hostfile is not None:
                await asyncio.to_thread(hostfile.write, self.job.write_hostfile)
            plans = self.job.plans(hostfile)
            await self._ladders(asked, plans)
            if self.job.pin:
                await store_pins(
                    asked,
                    [
                        PinnedPeer(pin_name(host, plan.own_ip), report.public_key, plan.own_ip)
                        for host, plan, report in zip(hosts, plans, reports, strict=True)
                    ],
                )
        return hosts, plans, [report.key for report in reports]

    def _ssh_asks(self, host: Host) -> None:
        self.show({"event": "ssh-asks", "rank": host.rank, "host": host.name, "t_ms": self.now()})

    async def _ladders(self, asked: Sequence[Asking], plans: Sequence[Plan]) -> None:
        """Run the doctor on each host and show the table. Raise RunError if a check is red."""
        checks = await all_of([each.each(_ladder(plan), CheckAnswer) for each, plan in zip(asked, plans, strict=True)])
        rows = [
            Row.of(plan.rank, each.host.name, [answer.check() for answer in answers])
            for each, plan, answers in zip(asked, plans, checks, strict=True)
        ]
        self.report("ladders", rows=[row.to_json() for row in rows])
        red = [row for row in rows if not row.ok]
        if red:
            assert red[0].check is not None  # noqa: S101
            text = f"{red[0].host}: {red[0].check.name}: {red[0].check.evidence}"
            raise RunError(text, code="host-not-ready")

    # -- the ranks -----------------------------------------------------------------------------------------------------

    async def _run(self, hosts: Sequence[Host], plans: Sequence[Plan], keys: list[str]) -> None:
        """Start all ranks and wait until they have ended. Collect their `_failures`."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for host, plan in zip(hosts, plans, strict=True):
                connection = await Connection.start(host, ["up", "--launched"], partial(self.display.log, host.rank))
                self._members.append(Member(connection, len(hosts), self, self.now))
                self._members[-1].start(self._start_of(plan, keys))
                tasks.append(asyncio.create_task(self._follow(self._members[-1])))
            if self.job.reads_stdin:
                self._feeding.set()
            beating = asyncio.create_task(self._beat())
            tasks.append(beating)
            await self._until_over({*tasks} - {beating})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*(member.connection.kill() for member in self._members))
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start_of(self, plan: Plan, keys: list[str]) -> Start:
        own = {name: value for name, value in self.job.options.items() if name in _OWN}
        reads = self.job.reads_stdin and plan.rank == 0
        fields = plan_fields(plan, **{**own, "stdin": reads})
        return Start(version=own_version(), directory=self.job.directory, plan=fields, keys=keys)

    async def _follow(self, member: Member) -> None:
        await member.follow()
        if member.backend is not None:
            self.summary["backend"] = member.backend
        if member.error is not None:
            self._failures.append(Failure(member.rank, member.error, len(self._failures)))

    async def _beat(self) -> None:
        while True:
            for member in self._members:
                member.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _until_over(self, following: set[asyncio.Task[None]]) -> None:
        """Wait until all ranks have ended. Once one fails, or the run is stopped, end the others."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while following and not self._failures and not stopping.done():
                await asyncio.wait({*following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                following = {task for task in following if not task.done()}
            if following and not stopping.done():
                await _any_of(asyncio.wait(following), stopping, seconds=SETTLE_SECONDS)
                following = {task for task in following if not task.done()}
                self._blame_silent()
        finally:
            stopping.cancel()
        if following:
            await self._end(following)

    def _blame_silent(self) -> None:
        """Add a failure of each host that has not started its rank, for which the others may have waited."""
        for member in self._members:
            seconds = (self.now() - member.began) / 1000
            if not member.has_spoken and not member.is_over and seconds > CONNECT_SECONDS:
                error = member.connection.silence(round(seconds))
                self._failures.append(Failure(member.rank, error, len(self._failures)))

    async def _end(self, following: set[asyncio.Task[None]]) -> None:
        """Stop the ranks and wait for their end for a while. A second Ctrl-C ends the grace periods."""
        self._is_ending = True
        number = self._stop_reason.number if isinstance(self._stop_reason, Stopped) else signal.SIGTERM
        failures, seconds = list(self._failures), self.job.grace + END_SECONDS
        for member in self._members:
            if member.has_spoken:
                member.stop(number)
            else:  # still connecting: closing its channel is enough
                await member.connection.kill()
        await _any_of(asyncio.wait(following), self._hurrying.wait(), seconds=seconds)
        if self._hurrying.is_set():
            for member in self._members:
                member.stop(signal.SIGINT)  # twice, for those whose first one was another signal
                member.stop(signal.SIGINT)
            await asyncio.wait(following, timeout=END_SECONDS)
        self._failures = failures  # later ones are consequences

    # -- output of ranks -----------------------------------------------------------------------------------------------

    def heard(self, member: Member, event: EventDict) -> None:
        name = event["event"]
        if name == "log":
            self.display.log(member.rank, str(event["line"]))
            return
        self.show(event)
        if name in ("holding", "running") or (
            name == "started" and self.native
        ):  # a command that forms the group itself
            self.met()

    def wrote(self, member: Member, stream: str, line: str, partial: bool) -> None:
        self.display.output(member.rank, stream, line.encode() + (b"" if partial else b"\n"))
        if partial:
            self.display.quiet(member.rank, stream)

    async def room(self) -> None:
        def is_full() -> bool:
            return self.display.full("stdout") or self.display.full("stderr")

        while is_full() and not self._is_ending:  # noqa: ASYNC110 - threads tell no event loop
            await asyncio.sleep(POLL_SECONDS)

    # -- the last look -------------------------------------------------------------------------------------------------

    async def _look(self, hosts: Sequence[Host], plans: Sequence[Plan]) -> None:
        """Check each host for leftovers, unless in a hurry."""
        looks = [asyncio.create_task(self._left_on(host, plan)) for host, plan in zip(hosts, plans, strict=True)]
        try:
            await _any_of(asyncio.wait(looks), self._hurrying.wait())
        finally:
            for task in looks:
                task.cancel()
        answers = await asyncio.gather(*looks, return_exceptions=True)
        for host, answer in zip(hosts, answers, strict=True):
            left, why = (answer, None) if isinstance(answer, str) else ("", str(answer) or "interrupted")
            self.show(
                {
                    "event": "looked",
                    "rank": host.rank,
                    "host": host.name,
                    "left": left,
                    "not_checked": why,
                    "t_ms": self.now(),
                }
            )

    async def _left_on(self, host: Host, plan: Plan) -> str:
        """Return what is left of the run on a host; "" for nothing."""
        wanted = Look(run=host.mark, ip=plan.own_ip, link_port=plan.link_port(plan.rank), seconds=LOOK_SECONDS)
        async with asking(replace(host, mark="")) as asked:
            return str(await asked.one(wanted, Left, LAST_LOOK_SECONDS))


async def _any_of(*waits: Awaitable[Any], seconds: float | None = None) -> None:
    """Wait until one of these is done, for at most so long."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _ladder(plan: Plan) -> Doctor:
    """Return the request for the checks of a plan's rank."""
    row = {} if plan.devices is None else devices_of(plan.devices, plan.rank)
    return Doctor(
        rank=plan.rank,
        ips=plan.ips,
        link_ports=plan.link_ports,
        port=plan.port,
        backend=plan.backend,
        devices=tuple(dict.fromkeys(name for names in row.values() for name in names)),
    )
