"""Faults of a world, and their times."""

import asyncio
import errno
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from tests.simulation.invariants import check_continued, check_suspended
from tests.simulation.machine import SimulatedProcess
from tests.simulation.network import LOOPBACK
from tests.simulation.ssh import SSH_FAULTS, STAGES
from wireproto.jaccl.records import I32

if TYPE_CHECKING:
    from tests.simulation.world import World

LOOK_SECONDS: Final = 0.5
"""Until a process that has been told to stop or to continue has done so, if it can."""
STEPS: Final = ("import", "prepared", "init", "ready", "held", "program")
"""Of a worker."""
EVENTS: Final = (
    "started", "connected", "established", "confirmed", "bootstrap-sent", "bootstrap-received", "environment-set",
    "group-ready", "holding", "running", "link-lost", "finished", "command-ended", "consequence", "restarting",
)  # fmt: skip
"""Events after which a fault may occur."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a rank's host: at a time, or right after its control process has shown an event."""

    kind: str
    rank: int
    at: float
    event: str = ""
    seconds: float = 0.0
    peer: int = 0

    def __str__(self) -> str:
        when = f"{self.at:.3f} s after {self.event}" if self.event else f"at {self.at:.3f} s"
        return f"{self.kind} rank {self.rank} {when}" + (f" for {self.seconds:.1f} s" if self.seconds else "")


def strike(world: "World", fault: Fault) -> None:
    """Let a fault happen now."""
    name, _, step = fault.kind.partition(":")
    world.record(f"fault: {fault}")
    world.struck.append(fault)
    if name in SSH_FAULTS:
        world.ssh_faults[fault.rank, step] = fault
    else:
        (_FAULTS | _LAUNCH)[name](world, fault, step)


def random_fault(random: Random, size: int) -> Fault:
    name = random.choice(sorted(_FAULTS))
    kind = f"{name}:{random.choice(STEPS)}" if name in _AT_A_STEP else name
    rank = random.randrange(size)
    peer = random.choice([each for each in range(size) if each != rank])
    seconds = random.choice((0.0, random.uniform(0.1, 5.0), random.uniform(5.0, 60.0), random.uniform(30.0, 120.0)))
    if name in _AT_A_STEP or random.random() < 0.1:
        return Fault(kind, rank, 0.0, seconds=seconds, peer=peer)
    if random.random() < 0.5:
        return Fault(
            kind,
            rank,
            random.choice((0.0, random.uniform(0.0, 0.01), random.uniform(0.0, 6.0))),
            random.choice(EVENTS),
            seconds,
            peer,
        )
    return Fault(kind, rank, random.choice((random.uniform(0.0, 3.0), random.uniform(0.0, 60.0))), "", seconds, peer)


def random_ssh_fault(random: Random, size: int) -> Fault:
    """Return a fault of ssh, or of a host between the survey and the start."""
    rank = random.randrange(size)
    if random.random() < 0.1:
        kind = random.choice(("power", "cut-off", "port-down", "kill-both", "launcher-int", "launcher-term"))
        return Fault(kind, rank, random.choice((0.0, random.uniform(0.0, 0.5))), "ladders", peer=(rank + 1) % size)
    stage = random.choice(STAGES)
    kind = random.choice(SSH_FAULTS)
    if random.random() < 0.05:
        kind, stage = "ssh-hang", "config"
    return Fault(f"{kind}:{stage}", rank, 0.0, seconds=random.choice((0.0, random.uniform(0.5, 50.0))))


def _signal(number: int) -> Callable[["World", Fault, str], None]:
    def act(world: "World", fault: Fault, step: str) -> None:
        for process in world.mains(fault.rank):
            control = world.control_of(process)
            if number == signal.SIGKILL or control is None:
                process.signal(number)
            else:
                world.stop(control, number)

    return act


def _freeze(world: "World", fault: Fault, step: str) -> None:
    world.settle_in(fault.seconds)
    for process in world.mains(fault.rank):
        process.signal(signal.SIGSTOP)
        world.later(fault.seconds, process.signal, signal.SIGCONT)


def _ctrl_z(world: "World", fault: Fault, step: str) -> None:
    """The user stops a rank, which stops its children, too, and continues it later."""
    for process in world.mains(fault.rank):
        if signal.SIGTSTP in process.handlers:
            process.signal(signal.SIGTSTP)
            _continue(world, process, fault.seconds)


def _continue(world: "World", process: SimulatedProcess, seconds: float) -> None:
    """Continue a process so long after it has stopped: it may still wait for its disk, or take the signal no more."""
    world.settle_in(seconds + LOOK_SECONDS)
    is_suspended = process.is_stopped and process.suspended_at == process.stopped_at  # not by a freeze
    if is_suspended and world.loop.now >= process.stopped_at + seconds:
        check_suspended(world, process)
        process.signal(signal.SIGCONT)
        world.later(LOOK_SECONDS, check_continued, world, process)
    elif signal.SIGTSTP in process.handlers and not process.is_dead:
        world.later(max(is_suspended * seconds, LOOK_SECONDS), _continue, world, process, seconds)


def _children(number: int) -> Callable[["World", Fault, str], None]:
    def act(world: "World", fault: Fault, step: str) -> None:
        for main in world.mains(fault.rank):
            for process in list(world.machines[fault.rank].processes.values()):
                if process.parent is main and process.arguments != ("guard",) and not process.is_dead:
                    process.end(number)

    return act


def _at_step(act: Callable[[SimulatedProcess], None]) -> Callable[["World", Fault, str], None]:
    def strike(world: "World", fault: Fault, step: str) -> None:
        world.habits[fault.rank].at_step[step] = act

    return strike


def _hang(process: SimulatedProcess) -> None:
    process.ignored |= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def _cannot_be_killed(process: SimulatedProcess) -> None:
    process.is_unkillable = True


def _separate(world: "World", fault: Fault, step: str) -> None:
    one, other = world.machines[fault.rank].ip, world.machines[fault.peer].ip
    world.network.separate(one, other)
    if fault.seconds:
        world.later(fault.seconds, world.network.join, one, other)


def _reset(world: "World", fault: Fault, step: str) -> None:
    world.network.reset(world.machines[fault.rank].ip, world.machines[fault.peer].ip)


def _power(world: "World", fault: Fault, step: str) -> None:
    world.machines[fault.rank].lose_power()


def _disk(number: int) -> Callable[["World", Fault, str], None]:
    def act(world: "World", fault: Fault, step: str) -> None:
        machine = world.machines[fault.rank]
        machine.disk_error = number
        if fault.seconds:
            world.later(fault.seconds, setattr, machine, "disk_error", None)

    return act


def _slow_disk(world: "World", fault: Fault, step: str) -> None:
    """Each write takes a while, for good."""
    world.machines[fault.rank].disk_seconds = fault.seconds / 20.0 + 0.1


def _stall(world: "World", fault: Fault, step: str) -> None:
    """Nobody reads a rank's output for a while."""
    for control in world.live(fault.rank):
        control.stalled_until = world.loop.now + fault.seconds


def _no_reader(world: "World", fault: Fault, step: str) -> None:
    """The reader of a rank's output leaves."""
    for control in world.live(fault.rank):
        control.reader_left.set()


def _again(world: "World", fault: Fault, step: str) -> None:
    """The user starts the rank a second time."""
    if not world.is_ending and world.has_started(fault.rank):
        world.start(fault.rank)


def _kill_both(world: "World", fault: Fault, step: str) -> None:
    """The control process and its guard are killed, and the user restarts the rank a little later."""
    machine = world.machines[fault.rank]
    for main in world.mains(fault.rank):
        for process in list(machine.processes.values()):
            if process.parent is main and process.arguments == ("guard",):
                process.end(-signal.SIGKILL)
        main.signal(signal.SIGKILL)
        machine.guard_killed_at = world.loop.now
    world.later(1.0 + fault.seconds, _again, world, fault, step)


def _kill_and_again(world: "World", fault: Fault, step: str) -> None:
    """The control process is killed, and the user starts the rank again at once, or soon."""
    for main in world.mains(fault.rank):
        main.signal(signal.SIGKILL)
    world.later(fault.seconds / 60.0, _again, world, fault, step)


def _slow_import(world: "World", fault: Fault, step: str) -> None:
    habits = world.habits[fault.rank]
    habits.import_seconds = max(habits.import_seconds, fault.seconds + 1.0)


def _port_down(world: "World", fault: Fault, step: str) -> None:
    """The host's RDMA devices cannot be used, for a while."""
    machine = world.machines[fault.rank]
    machine.is_port_down = True
    if fault.seconds:
        world.later(fault.seconds, setattr, machine, "is_port_down", False)


def _stray(world: "World", fault: Fault, step: str) -> None:
    """Another program of the host connects to the relay for a native worker, and says what that would say."""
    machine = world.machines[fault.rank]

    async def main(process: SimulatedProcess) -> int:
        for port in machine.relays & machine.host.listeners.keys():
            with suppress(OSError):
                _, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(I32.pack(fault.peer if fault.seconds else fault.rank))
        await asyncio.sleep(fault.seconds)
        return 0

    machine.spawn(main, ("stray",))


def _program_fails(world: "World", fault: Fault, step: str) -> None:
    world.habits[fault.rank].program_status = 7


def _launcher(number: int) -> Callable[["World", Fault, str], None]:
    def act(world: "World", fault: Fault, step: str) -> None:
        if world.launcher is not None and number == signal.SIGKILL:
            world.launcher.process.signal(number)
        elif world.launcher is not None:
            world.stop(world.launcher, number)

    return act


def _cut_off(world: "World", fault: Fault, step: str) -> None:
    """The launcher cannot reach a host, for a while."""
    one, other = world.launcher_machine.ip, world.machines[fault.rank].ip
    if one == other:
        return
    world.network.separate(one, other)
    if fault.seconds:
        world.later(fault.seconds, world.network.join, one, other)


def _refuse(world: "World", fault: Fault, step: str) -> None:
    """A host refuses the launcher, if that has not come yet."""
    world.refuses = fault.rank


_LAUNCH: Final[dict[str, Callable[["World", Fault, str], None]]] = {
    "launcher-kill": _launcher(signal.SIGKILL),
    "launcher-int": _launcher(signal.SIGINT),
    "launcher-term": _launcher(signal.SIGTERM),
    "cut-off": _cut_off,
    "refuse": _refuse,
}
_AT_A_STEP: Final = ("crash", "exit", "hang", "unkillable")
_FAULTS: Final[dict[str, Callable[["World", Fault, str], None]]] = {
    "kill": _signal(signal.SIGKILL),
    "int": _signal(signal.SIGINT),
    "term": _signal(signal.SIGTERM),
    "hup": _signal(signal.SIGHUP),
    "freeze": _freeze,
    "ctrl-z": _ctrl_z,
    "kill-child": _children(-signal.SIGKILL),
    "segfault-child": _children(-signal.SIGSEGV),
    "end-child": _children(0),
    "crash": _at_step(lambda process: process.end(-signal.SIGSEGV)),
    "exit": _at_step(lambda process: process.end(7)),
    "hang": _at_step(_hang),
    "unkillable": _at_step(_cannot_be_killed),
    "separate": _separate,
    "reset": _reset,
    "power": _power,
    "disk-full": _disk(errno.ENOSPC),
    "disk-read-only": _disk(errno.EROFS),
    "slow-disk": _slow_disk,
    "stall": _stall,
    "no-reader": _no_reader,
    "again": _again,
    "kill-both": _kill_both,
    "kill-again": _kill_and_again,
    "slow-import": _slow_import,
    "port-down": _port_down,
    "stray": _stray,
    "program-fails": _program_fails,
}
LAUNCH_FAULTS: Final = (*_LAUNCH, "power", "kill")
"""Faults that concern a launcher."""
