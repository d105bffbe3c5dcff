"""Sessions under attack: short scripts in every schedule, longer ones at random; and the simulation itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import pytest

from tests.examples import examples
from tests.simulation.session import chance, snapshot
from tests.simulation.session.attacker import STEPS, STRIKES, is_possible, perform
from tests.simulation.session.chance import SETTINGS, Start, again, run, shrink
from tests.simulation.session.explore import Play, explore, replay, scenarios
from tests.simulation.session.planted import BUGS, hunt, planted
from tests.simulation.session.world import World

SEED = 20261127


@pytest.fixture(autouse=True)
def _copyable() -> Iterator[None]:
    with snapshot.copyable():
        yield


@pytest.mark.parametrize("name", scenarios(0))
def test_every_schedule(name: str) -> None:
    """A short script and one strike. More strikes: `make simulate-session`."""
    orderly, struck = (explore(scenarios(strikes)[name]) for strikes in (0, 1))
    assert (orderly.violation, struck.violation) == (None, None)
    assert struck.schedules > 200 * orderly.schedules**0.5
    assert struck.schedules >= struck.states


@pytest.mark.parametrize("name", scenarios(0))
def test_schedules_are_counted_as_if_one_by_one(name: str) -> None:
    """Without copies and without detection of equal states."""

    def count(path: tuple[chance.Action, ...]) -> int:
        play = Play(scenario)
        for action in path:
            play.perform(action)
        return sum(count((*path, action)) for action in play.possible()) or 1

    scenario = scenarios(0)[name]
    assert count(()) == explore(scenario).schedules > 5


def test_schedules_by_chance() -> None:
    """Every kind of step occurs, so none is superfluous."""
    runs = [run(SEED, number) for number in range(examples(3000))]
    made = {(action.do, action.what) for each in runs for action in each.actions}
    assert [str(each.violation) for each in runs if each.violation] == []
    assert {each.start.setting for each in runs} == {*SETTINGS}
    assert {do for do, _ in made} == {"says", *STEPS}
    assert {*STRIKES} <= made


def test_a_seed_decides_every_byte() -> None:
    """Also in another process, with other hash values."""
    command = [sys.executable, "-m", "tests.simulation.session", "--seed=7", "--runs=200", "--strikes=0", "--json"]
    reports = []
    for hashes in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
        report = json.loads(done.stdout)
        for row in (report["random"], *report["exhaustive"]):
            del row["cpu_seconds"]
        del report["random"]["runs_per_cpu_second"]
        reports.append(report)
    assert reports[0] == reports[1]
    assert reports[0]["violations"] == []
    assert run(7, 3).digest == run(7, 3).digest != run(7, 4).digest != run(8, 4).digest


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_copy_goes_on_as_the_original(setting: chance.Setting) -> None:
    """Whatever the state, copied after each step: the traces are the same."""
    random = Random(SEED)
    for number in range(examples(30)):
        start = Start(setting, f"copied {number}", is_established=number % 3 > 0)
        with setting.limits():
            original, copied = start.world(), start.world()
            original.trace, copied.trace = [], []
            for action in chance.drawn(random, original):
                perform(original, action)
                perform(copied, action)
                if not any(side.unread for side in copied.sides):
                    copied = snapshot.load(snapshot.save(copied))
            assert copied.trace == original.trace


@pytest.mark.parametrize(
    "name",
    [
        "a replayed box opens",
        "only the last nonce is remembered",
        "the second tag is not checked",
        "a bare end is orderly",
        "an ack answers no hello",
        "its sender goes on after sessionEnd",
    ],
)
def test_a_planted_bug_is_found_both_ways(name: str) -> None:
    """The others: `make simulate-session ARGS=--planted`."""
    found = hunt(name, seeds=(1,), most=1000)
    assert found.steps is not None
    assert found.runs[1] is not None


def test_what_is_planted_is_gone_afterwards() -> None:
    before = run(1, 5)
    with planted("a nonce is used again"):
        assert run(1, 5).trace != before.trace
    assert run(1, 5).trace == before.trace


def test_every_bug_takes_the_place_of_something() -> None:
    assert len(BUGS) >= 12
    for patches in BUGS.values():
        for owner, name, replacement in patches:
            assert getattr(owner, name) is not replacement


def test_a_finding_is_shrunk_and_shown_again() -> None:
    with planted("a replayed box opens"):
        found = next(each for number in range(1000) if (each := run(1, number)).violation)
        small = shrink(found)
        for at in range(len(small.actions)):
            fewer = again(small.start, [*small.actions[:at], *small.actions[at + 1 :]])
            assert fewer.violation is None or fewer.violation.promise != small.violation.promise
        assert again(found.start, found.actions).trace == found.trace
        assert again(found.start, small.actions).trace == small.trace


def test_a_schedule_that_breaks_a_promise_is_shown() -> None:
    with planted("a bare end is orderly"):
        scenario = scenarios(1)["end, revision 2"]
        explored = explore(scenario)
        assert explored.violation is not None
        assert replay(scenario, explored.path)[-1] == str(explored.violation)
        assert explored.violation.promise == "an orderly end was sent"


def test_what_is_not_possible_is_left_out() -> None:
    world: World = Start(SETTINGS[0], "fresh", is_established=False).world()
    strikes = (chance.Action(do, 1, what) for do, what in STRIKES)
    assert {each.do for each in strikes if is_possible(world, each)} == {"cut", "inject"}
