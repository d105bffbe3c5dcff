"""One world: hosts that run ranks of a group, decided by a seed, and the results."""

import asyncio
import getpass
import math
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import Context
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final
from unittest.mock import patch

from bootstrap import capabilities
from bootstrap.cli.launched import refuse
from bootstrap.control.run import Run, Stopped
from bootstrap.errors import BootstrapError, refused
from bootstrap.launch import launched
from bootstrap.launch.channel import plan_of
from bootstrap.plan import Plan
from bootstrap.rank import Rank, run_for
from bootstrap.system.processes import POLL_SECONDS
from bootstrap.trust import Trust
from tests.simulation.faults import Fault, strike
from tests.simulation.invariants import check, check_end, check_event, check_left
from tests.simulation.keys import signer
from tests.simulation.launching import LAUNCHER_IP, Launch, line_of, told
from tests.simulation.loop import NoProgressError, SimulatedLoop
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.mlx import Mlx
from tests.simulation.network import Network
from tests.simulation.owned import owned_processes
from tests.simulation.programs import Habits, programs
from tests.simulation.reference import ReferencePeer
from tests.simulation.remembered import remembered
from tests.simulation.remote import host_command, real_launcher, tools
from tests.simulation.scenario import Scenario, ip
from tests.simulation.ssh import LocalProcess, Sshd
from tests.simulation.ssh import prepare as prepare_ssh
from tests.simulation.stand_in import stand_in
from wireproto.messages import Revision

STOP_SECONDS: Final = 60.0
"""Seconds after the user has stopped a group when all must be over."""
TIDY_SECONDS: Final = 10.0
"""Seconds for a guard to clean up after its killed run."""
HOST_SECONDS: Final = 30.0
"""Seconds for a host to notice that its launcher has gone, which its tools may delay."""
CHECK_SECONDS: Final = 5.0
VERSION: Final = "0.1.0"
EACH_REAL: Final = 20
"""One of this many worlds has real signatures and key agreement."""


class World:
    """Runs one scenario. `trace` has a line per event; `broken` has the violations."""

    def __init__(self, seed: int, scenario: Scenario | None = None) -> None:
        self.scenario = Scenario.of(seed) if scenario is None else scenario
        self.seed = seed
        self.has_real_keys = seed % EACH_REAL == 1
        """Whether signatures and key agreement are real."""
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.excused: set[str] = set()
        """The exceptions to the invariants that it uses."""
        self.struck: list[Fault] = []
        self.stopped_at = math.inf
        """The time at which a user stopped the first rank."""
        self.settled_at = 0.0
        """The time at which all processes go on, or begin, that a fault has stopped or made late."""
        self.is_over = False
        self.is_ending = False
        """Whether all users have finished."""
        self.machines: list[Machine] = []
        self.controls: list[Control] = []
        self.launcher: Launch | None = None
        self.daemons: list[SimulatedProcess] = []
        self.refuses: int | None = None
        """The rank whose host refuses the next launcher."""
        self.ssh_faults: dict[tuple[int, str], Fault] = {}
        """Those that wait for a connection to a rank's host, by what that is for."""
        self.ssh_faults_met: list[Fault] = []
        self.sshs: list[LocalProcess] = []
        """All processes of ssh."""
        self.has_terminal = Random(f"terminal {seed}").random() < 0.5
        """Whether the launcher's ssh may ask the user."""
        self.references: list[ReferencePeer] = []
        self.habits: list[Habits] = []
        random = Random(f"world {seed}")
        self.loop = SimulatedLoop(Random(random.random()))
        self.loop.set_exception_handler(self._complain)
        self.network = Network(self.loop, Random(random.random()), self.scenario.latency)
        self.mlx = Mlx(self.network)
        for rank in range(len(self.scenario.plans)):
            machine = Machine(self.loop, self.network, Random(random.random()), ip(rank), rank)
            habits = Habits(Random(random.random()))
            machine.has_jaccl = self.scenario.plans[0].devices is not None
            machine.programs = programs(self.mlx, habits)
            self.machines.append(machine)
            self.habits.append(habits)
        if self.scenario.is_launched:
            own = Random(random.random())
            self.launcher_machine = (
                self.machines[0] if self.scenario.is_local else Machine(self.loop, self.network, own, LAUNCHER_IP)
            )
            self.user = getpass.getuser()
            prepare_ssh(self)
            for machine, habits in zip(self.machines, self.habits, strict=True):
                machine.run_tool = tools(machine, machine.number, self._cabled(machine.number), habits)  # type: ignore[method-assign]
        has_plain = self.scenario.reference is not None or any(not plan.extensions for plan in self.scenario.plans)
        self.mlx.groups.must_be_relayed = not has_plain and self.scenario.plans[0].revision is Revision.V2
        self._awaited = [fault for fault in self.scenario.faults if fault.event]

    def run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(patch.object(capabilities, "own_version", lambda: VERSION))
            stack.enter_context(owned_processes())
            stack.enter_context(remembered())
            if self.scenario.is_launched:
                stack.enter_context(real_launcher(self))
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
        await self._over(max(self.loop.now, self.settled_at) + STOP_SECONDS)
        await asyncio.sleep(TIDY_SECONDS if self.launcher is None else HOST_SECONDS)
        for control in self.live():
            self.broken.append(f"{control.name} did not end within {STOP_SECONDS:.0f} s after SIGTERM")
        for process in (*self.daemons, *(peer.process for peer in self.references)):
            process.signal(signal.SIGKILL)
        check_end(self, [signer(plan.rank).scalar for plan in self.scenario.plans])

    async def _over(self, limit: float, *, even_if_none: bool = False) -> None:
        """Wait until all control processes have ended, but no longer than this."""

        def is_on() -> bool:
            launches = self.launcher is not None and not self.launcher.process.is_dead
            is_settled = self.loop.now > max(*self.scenario.starts, self.settled_at)
            return launches or even_if_none or bool(self.live()) or not is_settled

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

    def settle_in(self, seconds: float) -> None:
        """A process goes on or begins no later than this."""
        self.settled_at = max(self.settled_at, self.loop.now + seconds)

    def record(self, text: str) -> None:
        if not self.is_over:
            self.trace.append(f"{self.loop.now:11.6f} {text}")

    def shown(self, control: "Control", event: dict[str, Any]) -> None:
        """A control process has shown an event."""
        self.record(f"{control.name} {event}")
        check_event(self, control, event)
        self.strike_at(control.plan.rank, event["event"])

    def told(self, rank: int, name: str, event: str) -> None:
        """A reference peer has come to an event."""
        self.record(f"{name} {event}")
        self.strike_at(rank, event)

    def strike_at(self, rank: int, event: str) -> None:
        for fault in [each for each in self._awaited if each.event == event and each.rank == rank]:
            self._awaited.remove(fault)
            self.later(fault.at, strike, self, fault)

    def take_ssh_fault(
        self, rank: int, stage: str, *, of: Sequence[str] = (), but_not: Sequence[str] = ()
    ) -> Fault | None:
        """Return the fault that waits for a connection to a host, once."""
        fault = self.ssh_faults.get((rank, stage))
        kind = "" if fault is None else fault.kind.partition(":")[0]
        if fault is None or kind in but_not or (of and kind not in of):
            return None
        del self.ssh_faults[rank, stage]
        self.ssh_faults_met.append(fault)
        self.record(f"now: {fault}")
        return replace(fault, kind=kind)

    def _cabled(self, rank: int) -> tuple[int, ...]:
        devices = self.scenario.plans[0].devices
        return () if devices is None else tuple(peer for peer, device in enumerate(devices[rank]) if device)

    def answer(self, channel: Sshd) -> None:
        """Run the command that answers a launcher, on a rank's host."""
        process = self.machines[channel.rank].spawn(partial(host_command, channel), ("host",))
        process.mark = channel.mark
        process.at_end.append(lambda: channel.end(process.status or 0))

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
            self.process.mark = channel.mark
            self.process.at_end.append(lambda: channel.end(self.process.status or 0))

    async def _main(self, process: SimulatedProcess) -> int:
        plan, channel = self.plan, self.channel
        trust = Trust(signer(plan.rank), {peer: signer(peer).public_key for peer in plan.peers})
        if channel is not None:
            try:
                start = await told(channel)
                plan = plan_of(start)
                trust = launched.trust_of(start, plan)
            except BootstrapError as reason:
                return refuse(self, reason, has_command=bool(plan.command))
            assert plan.rank == self.plan.rank
        self.run = run = run_for(plan, self, owns_process=self.world.scenario.owns_process)
        script = Rank(plan, trust, run)
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
