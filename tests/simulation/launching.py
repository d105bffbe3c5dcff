"""A launch: the real launcher on a host of its own, or on that of rank 0, with ssh to the others."""

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

from bootstrap.control.run import Stopped
from bootstrap.errors import BootstrapError
from bootstrap.hostfile import Hostfile
from bootstrap.launch.channel import SILENCE_SECONDS, Start, decode, gone, malformed, silent
from bootstrap.launch.run import Job, Launcher
from bootstrap.plan import Plan
from tests.simulation.exceptions import report
from tests.simulation.launch_invariants import check_launch, check_looked
from tests.simulation.machine import SimulatedProcess
from tests.simulation.ssh import Sshd, name_of

if TYPE_CHECKING:
    from tests.simulation.world import World

LAUNCHER_IP: Final = "10.0.1.1"
_OPTIONS: Final = (
    "backend", "link_ports", "port", "timeout", "restarts", "restart_on", "finish_timeout", "grace", "command", "runs",
)  # fmt: skip
"""Those of a plan that its launch has."""


class Launch:
    """The process of a launcher."""

    def __init__(self, world: "World") -> None:
        self.world, self.name = world, "launcher"
        self.stopped_by: int | None = None
        self.run: Launcher | None = None
        self.events: list[dict[str, Any]] = []
        self.process = world.launcher_machine.spawn(self._main, ("launch",))
        self.process.on_signal = self._signalled
        self.process.at_end.append(self._ended)
        self.ended_at: float | None = None

    async def _main(self, process: SimulatedProcess) -> int:
        plan = self.world.scenario.plans[0]
        self.run = run = Launcher(_job(self.world, plan), self, owns_process=False)
        error: Exception | None = None
        try:
            await run.main(run.act)
        except (Stopped, BootstrapError) as failure:
            error = failure
        code = run.conclude(error, has_command=bool(plan.command))
        run.done()
        check_launch(self.world, self, code)
        return code

    def _signalled(self, number: int) -> bool:
        if self.run is None:
            return False
        self.world.loop.call_soon(self.run.interrupt, number, context=self.process.context)
        return True

    def _ended(self) -> None:
        self.ended_at = self.world.loop.now
        self.world.record(f"the launcher has ended with {self.process.status}")
        if (error := self.process.error) is not None:
            report(self.world, f"the launcher fails: {type(error).__name__}: {error}")

    def last(self, event: str) -> dict[str, Any] | None:
        """Return the last event of that name, or None."""
        return next((each for each in reversed(self.events) if each["event"] == event), None)

    # -- its display ---------------------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> None:
        name = event["event"]
        if name not in ("error", "done", "ladders", "looked", "ssh-asks", "warning"):
            return
        self.events.append(event)
        self.world.record(f"launcher {event}")
        if name == "looked":
            check_looked(self.world, event)
        if name == "ladders":
            for rank in range(len(self.world.machines)):
                self.world.strike_at(rank, name)

    def log(self, rank: int | None, line: str) -> None:
        self.world.record(f"launcher log {rank} {line}")

    def output(self, rank: int | None, stream: str, data: bytes) -> None: ...

    def quiet(self, rank: int | None, stream: str) -> None: ...

    def full(self, stream: str) -> bool:
        return False

    async def failed(self) -> OSError:
        await asyncio.Event().wait()
        raise AssertionError


def _job(world: "World", plan: Plan) -> Job:
    """Return the job: its hosts in an order that the launch has to find, or with a hostfile."""
    random = Random(f"job {world.seed}")
    options = {name: getattr(plan, name) for name in _OPTIONS}
    pin, has_hostfile = random.random() < 0.3, random.random() < 0.3
    names = tuple(map(name_of, range(plan.size)))
    if has_hostfile:
        hostfile = Hostfile(
            ips=plan.ips,
            all_ips=plan.all_ips,
            devices=plan.devices,
            backend=plan.backend,
            jaccl_ring=plan.jaccl_ring,
            ssh=names,
        )
        return Job(hostfile=hostfile, pin=pin, options=options)
    if plan.devices is not None and plan.jaccl_ring and plan.size > 3:
        names = (names[0], *_mixed(random, names[1:]))
    return Job(hosts=names, pin=pin, options=options)


def _mixed(random: Random, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the hosts after the first one in another order, which leads round the ring in the same direction."""
    found = random.sample(names, len(names))
    one, last = found.index(names[0]), found.index(names[-1])
    if one > last:
        found[one], found[last] = found[last], found[one]
    return tuple(found)


async def told(channel: Sshd) -> Start:
    """Return what a rank gets from its launcher, as `channel.read_start` does. Raise ChannelError."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            start = decode(await channel.reader.readuntil(b"\n"))
    except TimeoutError:
        raise silent() from None
    except EOFError:
        raise gone() from None
    if not isinstance(start, Start):
        raise malformed("it does not begin with a start")
    return start


def line_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
