"""The simulation itself: clock, network, repeatability, and detection of planted bugs."""

import asyncio
import errno
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from bootstrap.plan import Plan
from tests.simulation import invariants
from tests.simulation.exceptions import EXCEPTIONS
from tests.simulation.faults import Fault
from tests.simulation.loop import NoProgressError, SimulatedLoop
from tests.simulation.machine import Machine, SimulatedProcess
from tests.simulation.network import VANISHED_SECONDS, WINDOW, Network
from tests.simulation.planted import PLANTED, found_after
from tests.simulation.ring import Stray
from tests.simulation.scenario import Scenario
from tests.simulation.shrinking import shrunk
from tests.simulation.ssh import Local
from tests.simulation.world import EACH_REAL, World
from wireproto.testing.fixed_keys import KnownSide

Program = Callable[[SimulatedProcess], Coroutine[Any, Any, int]]
A, B = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize("first", range(1, 61, 20))
def test_worlds(first: int) -> None:
    for seed in range(first, first + 20):
        world = World(seed)
        world.run()
        assert world.broken == [], f"python -m tests.simulation --seed {seed} --replay"


@pytest.mark.parametrize("seed", [3, 7])
def test_the_same_seed_gives_the_same_world(seed: int) -> None:
    worlds = [World(seed), World(seed)]
    for world in worlds:
        world.run()
    assert worlds[0].trace == worlds[1].trace
    assert len(worlds[0].trace) > 10


@pytest.mark.parametrize("seed", [EACH_REAL + 1, EACH_REAL + 2])
def test_one_world_of_twenty_signs_really_and_has_the_trace_of_stand_ins(seed: int) -> None:
    with patch.object(KnownSide, "sign", autospec=True, side_effect=KnownSide.sign) as really:
        world = World(seed)
        world.run()
        assert really.called is (seed % EACH_REAL == 1)
    other = World(seed)
    other.has_real_keys = not world.has_real_keys
    other.run()
    assert other.trace == world.trace


@pytest.mark.parametrize(
    "name",
    [
        "a child is not killed",
        "a crash is told as a kill",
        "a lost rank is not missed",
        "a rank is ready alone",
        "a signal is not taken",
        "directories are left",
        "rank 0 mixes up the parts of a gather",
        "rank 0 passes no state on",
        "the alarm goes on after the group is there",
        "the deadline is not set",
        "the lock's record is left",
    ],
)
def test_a_planted_bug_is_found(name: str) -> None:
    """Those that take few worlds; `--planted` looks for all."""
    assert found_after(name, 1_000_000, most=50) is not None


def test_the_command_counts_the_exceptions_that_worlds_use() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--runs", "60", "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
    assert (said["runs"], said["broken"]) == (60, [])
    assert {"late", "helper"} <= said["exceptions"].keys() <= EXCEPTIONS.keys()
    assert 0 < sum(said["exceptions"].values()) < 60


def test_each_exception_has_a_use() -> None:
    text = Path(inspect.getfile(invariants)).read_text()
    assert [name for name in EXCEPTIONS if f'"{name}"' not in text] == []


def test_planted_bugs_are_named_once() -> None:
    assert len(PLANTED) >= 30
    for target, attribute, _ in PLANTED.values():
        assert hasattr(target, attribute)


@pytest.mark.parametrize("number", [0, 1])
def test_a_group_with_a_reference_peer(number: int) -> None:
    """It forms, and is not checked by a sum; invariants see to the rest."""
    seed = next(
        seed
        for seed in range(1, 1000)
        if (scenario := Scenario.of(seed)).reference is not None
        and scenario.reference.rank == number
        and scenario.reference.sends == "ready"
        and scenario.stop > 60 > scenario.reference.init_after
        and not any(plan.command or plan.dry_run for plan in scenario.plans)
        and scenario.plans[0].timeout == 60
    )
    world = World(seed, replace(Scenario.of(seed), faults=[], starts=[0.0] * len(Scenario.of(seed).plans)))
    world.run()
    assert world.broken == []
    assert [control.last("holding") is not None for control in world.controls] == [True] * len(world.controls)


@pytest.mark.parametrize(("is_local", "codes"), [(False, {130}), (True, {130, 0})])
def test_a_launched_group_forms_and_ends_with_its_launcher(is_local: bool, codes: set[int]) -> None:
    """The others may end with rank 0, which is stopped first if it is on the launcher's host."""
    seed = next(
        seed
        for seed in range(1, 1000)
        if (scenario := Scenario.of(seed)).is_launched
        and scenario.stop > 30
        and scenario.plans[0].timeout == 60
        and not any(plan.command or plan.dry_run for plan in scenario.plans)
    )
    world = World(seed, replace(Scenario.of(seed), faults=[], is_local=is_local))
    world.run()
    assert world.broken == []
    assert any(isinstance(each, Local) for each in world.sshs) is is_local
    assert {control.code for control in world.controls} == codes
    assert all(control.last("holding") is not None for control in world.controls)
    assert world.launcher is not None
    assert world.launcher.process.status == 130


@pytest.mark.parametrize("seed", [3, 4])
def test_a_worker_that_is_about_to_end_met_a_stray_connection(seed: int) -> None:
    """The other rank checked for the next session whether its port can be reached, as the pong said MLX was loaded."""
    plans = [
        Plan(
            rank=rank,
            ips=(A, B),
            link_ports=(7777, 7777),
            backend="ring",
            session_id="S",
            restarts=1,
            restart_on="any",
            timeout=30.0,
        )
        for rank in range(2)
    ]
    crash = Fault("crash:init", 0, 0.0)
    world = World(seed, Scenario(plans, [0.0, 0.0], stop=20.0, stops=0, latency=0.0001, faults=[crash]))
    for habits in world.habits:
        habits.import_seconds = 0.5
    with patch.object(Stray, "connection_made", autospec=True, side_effect=Stray.connection_made) as strays:
        world.run()
    assert (strays.called, world.broken) == (False, [])


def test_a_sound_world_does_not_shrink() -> None:
    assert shrunk(5) == Scenario.of(5)


# -- the loop and the network ------------------------------------------------------------------------------------------


class Two:
    """Two hosts, with a program on each."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop(Random(1))
        self.network = Network(self.loop, Random(2), 0.01)
        self.machines = [
            Machine(self.loop, self.network, Random(number), address) for number, address in enumerate((A, B))
        ]

    def run(self, *programs: Program) -> list[int | None]:
        processes = [machine.spawn(program) for machine, program in zip(self.machines, programs, strict=False)]

        async def main() -> None:
            while not all(process.is_dead for process in processes):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        self.loop.run_until_complete(main())
        self.loop.clear()
        for process in processes:
            if process.error is not None:
                raise process.error
        return [process.status for process in processes]


async def listening(handle: Callable[..., Any]) -> None:
    await asyncio.start_server(handle, B, 1)


def test_time_passes_only_when_nothing_is_left_to_do() -> None:
    loop = SimulatedLoop(Random(1))
    loop.run_until_complete(asyncio.sleep(3600.0))
    assert loop.time() == 3600.0
    loop.clear()


def test_a_wait_without_end_is_noticed() -> None:
    loop = SimulatedLoop(Random(1))
    with pytest.raises(NoProgressError):
        loop.run_until_complete(asyncio.Event().wait())
    loop.clear()


def test_a_callback_that_fails_is_reported_and_the_loop_goes_on() -> None:
    loop, failures = SimulatedLoop(Random(1)), []
    loop.set_exception_handler(lambda _, context: failures.append((context["message"], context["exception"])))
    loop.call_soon(int, "x")
    loop.run_until_complete(asyncio.sleep(1.0))
    ((message, error),) = failures
    assert (message, type(error)) == ("Exception in callback int('x')", ValueError)
    loop.clear()


def test_bytes_arrive_in_order_and_then_the_end() -> None:
    data = bytes(range(256)) * 1000
    assert len(data) > WINDOW

    async def server(process: SimulatedProcess) -> int:
        read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            read.set_result(await reader.read(-1))
            writer.close()

        await listening(take)
        assert await read == data
        return 5

    async def client(process: SimulatedProcess) -> int:
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(B, 1)
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        assert await reader.read(1) == b""
        writer.close()
        return 6

    assert Two().run(client, server) == [6, 5]


def test_what_nobody_listens_for_is_refused() -> None:
    async def client(process: SimulatedProcess) -> int:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(B, 1)
        return 0

    assert Two().run(client) == [0]


def test_a_process_that_is_killed_closes_its_connections() -> None:
    two = Two()

    async def server(process: SimulatedProcess) -> int:
        kept: list[asyncio.StreamWriter] = []
        await listening(lambda reader, writer: kept.append(writer))
        await asyncio.Event().wait()
        return 0

    async def client(process: SimulatedProcess) -> int:
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(B, 1)
        (victim,) = two.machines[1].processes.values()
        victim.signal(9)
        assert await reader.read(1) == b""
        writer.close()
        return 0

    assert two.run(client, server) == [0, -9]


def test_a_cut_wire_is_noticed_as_late_as_tcp_does_and_loses_nothing_before() -> None:
    two = Two()

    async def server(process: SimulatedProcess) -> int:
        kept: list[asyncio.StreamWriter] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            kept.append(writer)
            writer.write(await reader.read(1))

        await listening(answer)
        await asyncio.sleep(200.0)
        kept[0].close()
        return 0

    async def client(process: SimulatedProcess) -> int:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(B, 1)
        two.network.separate(A, B)
        writer.write(b"x")
        await asyncio.sleep(10.0)
        two.network.join(A, B)
        assert await reader.read(1) == b"x"
        two.network.separate(A, B)
        began = loop.time()
        with pytest.raises(TimeoutError) as caught:
            await reader.read(1)
        assert caught.value.errno == errno.ETIMEDOUT
        assert loop.time() - began == pytest.approx(VANISHED_SECONDS)
        writer.close()
        return 0

    assert two.run(client, server) == [0, 0]


def test_a_stopped_process_does_nothing_until_it_goes_on() -> None:
    two, times = Two(), []

    async def program(process: SimulatedProcess) -> int:
        await asyncio.sleep(1.0)
        times.append(two.loop.time())
        return 0

    async def other(process: SimulatedProcess) -> int:
        await asyncio.sleep(0.5)
        (victim,) = two.machines[0].processes.values()
        victim.signal(19)
        await asyncio.sleep(5.0)
        victim.signal(18)
        return 0

    two.run(program, other)
    assert times == [5.5]
