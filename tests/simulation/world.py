"""One world: hosts that run ranks of a group, decided by a seed, and the results."""

import asyncio
import math
import signal
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import Context
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Self
from unittest.mock import patch

from bootstrap import capabilities
from bootstrap.control.run import EXIT_RUN_FAILED, Run, Stopped
from bootstrap.errors import BootstrapError, refused
from bootstrap.launch import launched
from bootstrap.plan import Plan
from bootstrap.rank import Rank, run_for
from bootstrap.system.processes import POLL_SECONDS
from bootstrap.trust import Trust
from tests.simulation.faults import LAUNCH_FAULTS, Fault, random_fault, strike
from tests.simulation.invariants import check, check_end, check_event, check_left
from tests.simulation.keys import signer
from tests.simulation.launching import LAUNCHER_IP, Launch, Sshd, line_of, told
from tests.simulation.launching import prepare as prepare_launch
from tests.simulation.loop import NoProgressError, SimulatedLoop
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.mlx import Mlx
from tests.simulation.network import Network
from tests.simulation.owned import owned_processes
from tests.simulation.programs import Habits, programs
from tests.simulation.reference import Reference, ReferencePeer
from tests.simulation.remembered import remembered
from tests.simulation.stand_in import stand_in
from wireproto.jaccl.topology import DeviceMatrix
from wireproto.messages import Revision

STOP_SECONDS: Final = 60.0
"""Seconds after the user has stopped a group when all must be over."""
TIDY_SECONDS: Final = 10.0
"""Seconds for a guard to clean up after its killed run."""
CHECK_SECONDS: Final = 5.0
VERSION: Final = "0.1.0"
EACH_REAL: Final = 20
"""One of this many worlds has real signatures and key agreement."""


@dataclass
class Scenario:
    """The properties of a world decided by a seed, except for the order of events."""

    plans: list[Plan]
    starts: list[float]
    """When each rank is started."""
    stop: float
    """When the user stops the group, if it is still there."""
    stops: int
    """The rank that the user stops."""
    latency: float
    """Seconds, one way."""
    faults: list[Fault]
    reference: Reference | None = None
    """The rank that is a reference peer, if one is."""
    is_launched: bool = False
    """Whether a launcher starts the ranks, over ssh."""
    owns_process: bool = False
    """Whether a run handles the signals of its process, and ends all that has been started there."""

    @classmethod
    @remembered()
    def of(cls, seed: int) -> Self:
        random = Random(seed)
        size = random.choice((2, 2, 2, 2, 2, 2, 3, 3, 4, random.randrange(2, 9)))
        ips = tuple(ip(rank) for rank in range(size))
        kind = random.choice(("hold", "hold", "module", "command"))
        backend = random.choice(("ring", "ring", "ring", "ring", "jaccl", "auto"))
        is_ring = random.random() < 0.3
        has_reference = random.random() < 0.2
        is_old = size == 2 and random.random() < (0.5 if has_reference else 0.05)
        common: dict[str, Any] = {
            "ips": ips,
            "link_ports": (7777,) * size,
            "backend": backend,
            "devices": None if backend == "ring" else matrix(size, is_ring=is_ring),
            "jaccl_ring": backend != "ring" and is_ring,
            "timeout": random.choice((10.0, 30.0, 60.0)),
            "restarts": random.choice((0, 0, 0, 1, 2)),
            "restart_on": random.choice(("link", "exit", "any")),
            "finish_timeout": random.choice((None, None, 5.0, 30.0)),
            "grace": random.choice((1.0, 5.0)),
            "command": {"hold": (), "module": ("this",), "command": ("true",)}[kind],
            "runs": "module" if kind == "module" else "command",
            "revision": Revision.V1 if is_old else Revision.V2,
        }
        plain = random.randrange(size) if random.random() < 0.1 else None
        reference = Reference.of(random, size, common["revision"]) if has_reference else None
        plans = [
            Plan(
                rank=rank,
                extensions=rank != plain,
                session_id=f"{seed}-{rank}",
                dry_run=kind == "hold" and random.random() < 0.03,
                **common,
            )
            for rank in range(size)
        ]
        faults = [random_fault(random, size) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3)))]
        is_launched = reference is None and random.random() < 0.15
        if is_launched and faults:
            faults[0] = replace(faults[0], kind=random.choice(LAUNCH_FAULTS))
        close = random.random() < 0.6
        return cls(
            plans=plans,
            starts=[random.uniform(0.0, 0.5 if close else 20.0) for _ in ips],
            stop=random.choice((random.uniform(5.0, 30.0), random.uniform(30.0, 120.0))),
            stops=next(
                rank
                for rank in iter(lambda: random.choice((0, random.randrange(size))), None)
                if reference is None or rank != reference.rank
            ),
            latency=random.choice((0.0001, 0.001, 0.02, 0.2)),
            faults=faults,
            is_launched=is_launched,
            reference=reference,
            owns_process=random.random() < 0.3,
        )


class World:
    """Runs one scenario. `trace` has a line per event; `broken` has the violations."""

    def __init__(self, seed: int, scenario: Scenario | None = None) -> None:
        self.scenario = Scenario.of(seed) if scenario is None else scenario
        self.has_real_keys = seed % EACH_REAL == 1
        """Whether signatures and key agreement are real."""
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.struck: list[Fault] = []
        self.stopped_at = math.inf
        """The time at which a user stopped the first rank."""
        self.frozen_until = 0.0
        """The time at which all processes go on that a fault has stopped."""
        self.is_over = False
        self.is_ending = False
        """Whether all users have finished."""
        self.machines: list[Machine] = []
        self.controls: list[Control] = []
        self.launcher: Launch | None = None
        self.daemons: list[SimulatedProcess] = []
        self.refuses: int | None = None
        """The rank whose host refuses the next launcher."""
        self.references: list[ReferencePeer] = []
        self.habits: list[Habits] = []
        random = Random(f"world {seed}")
        self.loop = SimulatedLoop(Random(random.random()))
        self.loop.set_exception_handler(self._complain)
        self.network = Network(self.loop, Random(random.random()), self.scenario.latency)
        self.mlx = Mlx(self.network)
        for rank in range(len(self.scenario.plans)):
            machine = Machine(self.loop, self.network, Random(random.random()), ip(rank))
            habits = Habits(Random(random.random()))
            machine.has_jaccl = self.scenario.plans[0].devices is not None
            machine.programs = programs(self.mlx, habits)
            self.machines.append(machine)
            self.habits.append(habits)
        if self.scenario.is_launched:
            self.launcher_machine = Machine(self.loop, self.network, Random(random.random()), LAUNCHER_IP)
            prepare_launch(self)
        has_plain = self.scenario.reference is not None or any(not plan.extensions for plan in self.scenario.plans)
        self.mlx.groups.must_be_relayed = not has_plain and self.scenario.plans[0].revision is Revision.V2
        self._awaited = [fault for fault in self.scenario.faults if fault.event]

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(patch.object(capabilities, "own_version", lambda: VERSION))
            stack.enter_context(owned_processes())
            stack.enter_context(remembered())
            if not self.has_real_keys:
                stack.enter_context(stand_in())
            self._run()

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._main())
            self.broken += self.mlx.groups.broken
        except NoProgressError as error:
            self.broken.append(str(error))
        finally:
            self.is_over = True
            self.loop.clear()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an unhandled error of the loop."""
        if not self.is_over:
            self.broken.append(f"{context['message']}: {context.get('exception')!r}")
            self.record(f"BROKEN: {self.broken[-1]}")

    async def _main(self) -> None:
        scenario = self.scenario
        for rank, start in enumerate(scenario.starts) if not scenario.is_launched else ():
            self.later(start, self.start, rank)
        if scenario.is_launched:
            self.launcher = Launch(self)
        for fault in scenario.faults:
            if not fault.event:
                self.later(fault.at, strike, self, fault)
        end = max(*scenario.starts, scenario.stop)
        await self._over(
            end, even_if_none=any(fault.kind in ("again", "kill-both", "kill-again") for fault in scenario.faults)
        )
        self.is_ending = True
        for control in [self.launcher] if self.launcher is not None else self.live(scenario.stops):
            self.stop(control, signal.SIGINT)
        await self._over(self.loop.now + STOP_SECONDS)
        if self.launcher is not None and not self.launcher.process.is_dead:
            self.broken.append(f"the launcher did not end within {STOP_SECONDS:.0f} s")
        for control in self.live():
            self.stop(control, signal.SIGTERM)
        await self._over(max(self.loop.now, self.frozen_until) + STOP_SECONDS)
        await asyncio.sleep(TIDY_SECONDS)
        for control in self.live():
            self.broken.append(f"{control.name} did not end within {STOP_SECONDS:.0f} s after SIGTERM")
        for process in (*self.daemons, *(peer.process for peer in self.references)):
            process.signal(signal.SIGKILL)
        check_end(self, [signer(plan.rank).scalar for plan in self.scenario.plans])

    async def _over(self, limit: float, *, even_if_none: bool = False) -> None:
        """Wait until all control processes have ended, but no longer than this."""

        def is_on() -> bool:
            launches = self.launcher is not None and not self.launcher.process.is_dead
            return launches or even_if_none or bool(self.live()) or self.loop.now <= max(self.scenario.starts)

        while self.loop.now < limit and is_on():
            check(self)
            await asyncio.sleep(CHECK_SECONDS)

    def stop(self, control: "Control | Launch", number: int) -> None:
        self.record(f"the user stops {control.name} with {signal.Signals(number).name}")
        self.stopped_at = min(self.stopped_at, self.loop.now)
        for each in self.controls if control is self.launcher else [control]:
            each.stopped_by = each.stopped_by or number
        control.process.signal(number)

    def live(self, rank: int | None = None) -> "list[Control]":
        """Return the control processes that have not ended, of one rank or of all."""
        return [each for each in self.controls if not each.process.is_dead and rank in (None, each.plan.rank)]

    def mains(self, rank: int) -> list[SimulatedProcess]:
        """Return the processes of a rank that have not ended: control processes, or those of a reference peer."""
        started = (*self.controls, *self.references)
        return [each.process for each in started if each.plan.rank == rank and not each.process.is_dead]

    def control_of(self, process: SimulatedProcess) -> "Control | None":
        return next((each for each in self.controls if each.process is process), None)

    def has_started(self, rank: int) -> bool:
        """Whether a user has started a rank once."""
        return any(each.plan.rank == rank for each in (*self.controls, *self.references))

    def is_reference(self, rank: int) -> bool:
        return self.scenario.reference is not None and self.scenario.reference.rank == rank

    def later(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        self.loop.call_later(seconds, call, *arguments, context=Context())

    def record(self, text: str) -> None:
        if not self.is_over:
            self.trace.append(f"{self.loop.now:11.6f} {text}")

    def shown(self, control: "Control", event: dict[str, Any]) -> None:
        """A control process has shown an event."""
        self.record(f"{control.name} {event}")
        check_event(self, control, event)
        self._strike_at(control.plan.rank, event["event"])

    def told(self, rank: int, name: str, event: str) -> None:
        """A reference peer has come to an event."""
        self.record(f"{name} {event}")
        self._strike_at(rank, event)

    def _strike_at(self, rank: int, event: str) -> None:
        for fault in [each for each in self._awaited if each.event == event and each.rank == rank]:
            self._awaited.remove(fault)
            self.later(fault.at, strike, self, fault)

    def start(self, rank: int, channel: Sshd | None = None) -> None:
        if self.machines[rank].host.is_down:
            return
        reference = self.scenario.reference
        if reference is not None and self.is_reference(rank):
            name = "reference peer" + "'" * len(self.references)
            self.references.append(ReferencePeer(self, reference, name))
        else:
            number = sum(each.plan.rank == rank for each in self.controls)
            self.controls.append(Control(self, self.scenario.plans[rank], f"rank {rank}" + "'" * number, channel))


class Control:
    """A control process of a rank: `up`, without a terminal."""

    def __init__(self, world: World, plan: Plan, name: str, channel: Sshd | None = None) -> None:
        self.world, self.plan, self.name, self.channel = world, plan, name, channel
        self.events: list[dict[str, Any]] = []
        self.run: Run | None = None
        self.stopped_by: int | None = None
        """The signal with which its user has stopped it."""
        self.said = b""
        """The output of its programs."""
        self.stalled_until = 0.0
        """When its output is read again."""
        self.reader_left = asyncio.Event()
        """Set where nobody reads its output any more."""
        self.output_error: OSError = BrokenPipeError()
        """How writing fails then."""
        self.ended = math.inf
        """When."""
        self.code: int | None = None
        """The exit code; None while it runs, and if it was killed."""
        self.machine = world.machines[plan.rank]
        self.process = self.machine.spawn(self._main, ("up",))
        self.process.on_signal = self._signalled
        if channel is not None:
            self.process.at_end.append(lambda: channel.end(self.process.status or 0))

    async def _main(self, process: SimulatedProcess) -> int:
        plan, channel = self.plan, self.channel
        if channel is not None:
            try:
                plan = await told(channel)
            except (TimeoutError, EOFError):
                return EXIT_RUN_FAILED
        self.run = run = run_for(plan, self, owns_process=self.world.scenario.owns_process)
        script = Rank(plan, Trust(signer(plan.rank), {peer: signer(peer).public_key for peer in plan.peers}), run)
        error: Exception | None = None
        following = None if channel is None else asyncio.create_task(launched.follow(run, channel.reader, None))
        try:
            try:
                await run.main(lambda _: script.main())
            except OSError as refusal:
                raise refused(refusal) from refusal
        except (Stopped, BootstrapError) as failure:
            error = failure
        if following is not None:
            following.cancel()
        self.ended = self.world.loop.now
        self.code = run.conclude(error, has_command=bool(plan.command))
        run.done()
        await asyncio.sleep(0.001 + POLL_SECONDS * self.world.scenario.owns_process)  # for what was cancelled last
        check_left(self.world, self)
        return self.code

    def _signalled(self, number: int) -> bool:
        if self.run is None:
            return False
        self.world.loop.call_soon(self.run.interrupt, number, context=self.process.context)
        return True

    def last(self, event: str) -> dict[str, Any] | None:
        """Return the last event of that name, or None."""
        return next((each for each in reversed(self.events) if each["event"] == event), None)

    # -- its display ---------------------------------------------------------------------------------------------------

    def event(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.world.shown(self, event)
        if self.channel is not None:
            self.channel.say(line_of(event))

    def log(self, rank: int | None, line: str) -> None:
        self.world.record(f"{self.name} log {line}")

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        self.said += data

    def quiet(self, rank: int | None, stream: str) -> None: ...

    def full(self, stream: str) -> bool:
        return self.world.loop.now < self.stalled_until

    async def failed(self) -> OSError:
        await self.reader_left.wait()
        return self.output_error


def matrix(size: int, *, is_ring: bool) -> DeviceMatrix:
    """Return the devices that join the ranks: each with all others, or with its neighbours."""

    def entry(rank: int, peer: int) -> str | None:
        is_joined = not is_ring or (rank - peer) % size in (1, size - 1)
        return f"rdma_en{peer + 1}" if rank != peer and is_joined else None

    return tuple(tuple(entry(rank, peer) for peer in range(size)) for rank in range(size))


def ip(rank: int) -> str:
    return f"10.0.0.{rank + 1}"
