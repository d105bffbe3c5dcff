"""The comparison of the campaign with the simulation, mainly that it detects a difference."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.link import ports
from tests.bootstrap.ranks import COORDINATOR_PORT
from tests.campaign.plan import FAULTS, Case, cases
from tests.campaign.play import End, Result
from tests.simulation.compare import Compared, Outcome, again, as_json, details, drawn, fits, simulated, table
from tests.simulation.machine import Disk
from tests.simulation.network import Network
from tests.simulation.played import LACKING, Played
from tests.simulation.world import ip

SEED = 11
WORLDS = 10
WELL = (End("-", None, 130), End("-", None, 0))


def case_of(cell: str, **wanted: Any) -> Case:
    """Return the first case of a cell, given as in SHAPE STAGE FAULT, with these properties."""
    shape, stage, fault = cell.split()
    case = next(case for case in cases(SEED, brisk=True, only=f"{stage}:{fault}") if case.shape == shape)
    return replace(case, revision=2, extensions="on", **{"rank": 0, "restarts": 0, "work": "group", **wanted})


def failed(code: str, rank: int) -> Outcome:
    return (End(code, rank, 3), End(code, rank, 3))


def played(cell: str, ends: Outcome, chosen: dict[str, Any], **wanted: Any) -> Compared:
    return simulated(Result(case_of(cell, **wanted), ends=ends, chosen=chosen, gap=0.3), WORLDS)


CONTROL_KILLED = (End("-", None, -9), End("link-lost", 1, 3))
REAL: list[tuple[str, Outcome, dict[str, Any]]] = [
    ("loopback ready kill", CONTROL_KILLED, {"target": ["control"]}),
    ("loopback ready kill", failed("worker-killed", 0), {"target": ["worker"]}),
    ("loopback ready kill", WELL, {"target": ["guard"]}),
    ("loopback ready stop", WELL, {"target": ["worker"], "seconds": 1.0}),
    ("namespaces ready freeze", WELL, {"target": ["worker"]}),
    ("loopback hello reset", WELL, {"seconds": 1.0}),
    ("loopback hello truncate", WELL, {"seconds": 1.0}),
    ("loopback ports drop", failed("versions-missing", 0), {"seconds": 1.0}),
    ("namespaces running partition", (End("ping-timeout", 0, 125), End("link-timeout", 1, 125)), {"seconds": 3600.0}),
    ("namespaces files partition", (End("ping-timeout", 0, 3), End("link-lost", 1, 3)), {"seconds": 3.36}),
    ("loopback hello disk", failed("write-failed", 0), {}),
    ("loopback listen disk", WELL, {"early": True}),
    ("loopback ready second", WELL, {}),
]
"""Outcomes of real runs."""


@pytest.mark.parametrize(("cell", "ends", "chosen"), REAL, ids=[f"{cell} {chosen}" for cell, _, chosen in REAL])
def test_a_simulated_world_ends_as_the_real_one_did(cell: str, ends: Outcome, chosen: dict[str, Any]) -> None:
    work = "command" if "running" in cell else "group"
    compared = played(cell, ends, chosen, work=work)
    assert compared.verdict == "agreed", "\n".join(details(compared))


def test_a_rank_that_was_stopped_while_it_connected_sees_the_answer_after_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As asyncio does. In a simulated world the rank once saw the answer first."""
    ends = tuple(End("ring-unreachable", 1, 125) for _ in range(2))
    cell, stopped = "namespaces ports stop", {"target": ["control"], "seconds": 2.9}
    compared = played(cell, ends, stopped, rank=1, work="command")
    assert (compared.verdict, (End("-", None, 0),) * 2 in compared.outcomes) == ("different", True)
    monkeypatch.setattr(ports, "TRIES", 1)
    assert played(cell, ends, stopped, rank=1, work="command").verdict == "agreed"


def test_a_damaged_network_loses_a_request_for_a_connection_or_the_answer() -> None:
    """It once lost only requests, and some even after the damage. Real checks of ring ports failed more often."""
    world = Played(Result(case_of("namespaces connect flip")), 0)
    world.cable.harm("flip", 2.5)
    late = Counter(world.cable.connect(ip(0), COORDINATOR_PORT) for _ in range(1000))
    world.loop.close()
    assert 460 < late[0.0] < 520  # each gets through in 0.7 of the cases
    assert late.keys() == {0.0, 1.0, 3.0}


# -- it can fail -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends",
    [
        WELL,
        (CONTROL_KILLED[0], CONTROL_KILLED[1]._replace(code="deadline")),
        (CONTROL_KILLED[0], CONTROL_KILLED[1]._replace(blamed=0)),
        (CONTROL_KILLED[0], CONTROL_KILLED[1]._replace(status=125)),
    ],
)
def test_another_end_is_a_difference(ends: Outcome) -> None:
    compared = played("loopback ready kill", ends, {"target": ["control"]})
    assert compared.verdict == "different"


def test_a_simulated_disk_that_never_fails_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "_writable", lambda disk, path: None)
    compared = played("loopback hello disk", failed("write-failed", 0), {})
    assert compared.verdict == "different"


def test_a_simulated_network_that_is_never_cut_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "reaches", lambda network, one, other: True)
    ends = (End("ping-timeout", 0, 125), End("link-timeout", 1, 125))
    compared = played("namespaces running partition", ends, {"seconds": 3600.0}, work="command")
    assert compared.verdict == "different"


def test_a_broken_world_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Played.run

    def run_and_break(world: Played) -> None:
        run(world)
        world.broken.append("two groups")

    monkeypatch.setattr(Played, "run", run_and_break)
    compared = played("loopback ready kill", WELL, {"target": ["guard"]})
    assert compared.verdict == "wrong"
    assert "world 0: two groups" in "\n".join(details(compared))


def test_a_real_run_that_went_wrong_is_not_compared() -> None:
    compared = simulated(Result(case_of("loopback ready kill"), wrong=["a rank hangs"]), WORLDS)
    assert (compared.verdict, compared.outcomes.total()) == ("wrong", 0)


def test_worlds_that_do_not_reach_the_stage_have_no_outcome() -> None:
    """Rank 0 starts after the deadline of rank 1."""
    real = Result(case_of("loopback ready kill"), ends=WELL, chosen={"target": ["guard"]}, gap=20.0)
    compared = simulated(real, WORLDS)
    assert (compared.verdict, compared.outcomes.total(), compared.broken) == ("different", 0, [])


# -- its parts ---------------------------------------------------------------------------------------------------------


def test_a_rank_that_cannot_report_is_compared_by_its_exit_status() -> None:
    simulated_end = (End("output-failed", 0, 3), WELL[1])
    assert fits((End("?", None, 3), WELL[1]), simulated_end)
    assert not fits((End("?", None, 0), WELL[1]), simulated_end)
    assert not fits((), simulated_end)


def test_faults_without_a_counterpart_are_drawn_beside_those_to_compare() -> None:
    wanted = list(drawn(SEED, 290))
    assert sum(case.fault not in LACKING for case in wanted) == 290
    assert {case.fault for case in wanted} == set(FAULTS)


def test_the_table_and_the_object() -> None:
    one = Compared(Result(case_of("loopback ready kill"), ends=WELL))
    one.outcomes[WELL] += 1
    other = Compared(Result(case_of("loopback ready stop"), ends=WELL))
    other.outcomes.update({failed("deadline", 0): 1, failed("deadline", 1): 2})
    rows = [line.split() for line in table([one, other])]
    assert rows[1:] == [
        ["kill", "1", "1", "0", "0", "1"],
        ["stop", "1", "0", "1", "0", "0"],
        ["all", "2", "1", "1", "0", "1"],
    ]
    said = json.loads(json.dumps(as_json(SEED, [case_of("loopback ready clock")], [one, other])))
    assert list(said["leftOut"].values()) == [1]
    assert [each["verdict"] for each in said["compared"]] == ["agreed", "different"]
    assert said["compared"][0]["again"] == list(again(one.real))


def test_the_replay_of_a_simulated_world_is_the_same() -> None:
    real = Result(case_of("loopback ack flip"), chosen={"seconds": 1.0}, gap=0.2)
    worlds = [Played(real, 5) for _ in range(2)]
    for world in worlds:
        world.run()
    assert worlds[0].trace == worlds[1].trace
    assert any("fault: flip" in line for line in worlds[0].trace)


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "tests.simulation.compare", "--seed", str(SEED), *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.waits
def test_the_command_plays_and_simulates() -> None:
    number = str(next(cases(SEED, only="hello:close")).number)
    done = command("--number", number, "--worlds", "5", "--json")
    assert done.returncode == 0, done
    (compared,) = json.loads(done.stdout)["compared"]
    assert (compared["cell"], compared["verdict"]) == (["loopback", "hello", "close"], "agreed")
    assert sum(count for count, _ in compared["simulated"]) == 5


def test_the_command_replays_simulated_worlds() -> None:
    number = str(next(cases(SEED, only="ready:kill")).number)
    done = command("--number", number, "--worlds", "2", "--known", '{"chosen": {"target": ["control"]}, "gap": 0.5}')
    assert done.returncode == 0, done
    assert "fault: kill" in done.stdout
    assert "2 of 2 worlds: " in done.stdout
