"""The campaign's machinery, mainly that it detects a rank that lies; `make campaign-quick` tests the ranks."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

import psutil
import pytest

from bootstrap.control.lock import lock_address
from tests.bootstrap.conftest import CommandRun
from tests.bootstrap.ranks import CABLE_PORT, LINK_PORT
from tests.campaign import play as playing
from tests.campaign import process
from tests.campaign.judge import CAUSES, is_documented
from tests.campaign.plan import CELLS, FAULTS, SHAPES, STAGES, Case, Shape, cases, lacks, makes_sense
from tests.campaign.play import Result, play
from tests.campaign.scene import START_SECONDS, Lane, Scene
from tests.campaign.strikes import strike
from tests.campaign.table import table

pytestmark = pytest.mark.waits

SEED = 11
LIAR = process.PROGRAM.with_name("liar.py")


def lane_of(directory: Path, shape: Shape) -> Lane:
    if reason := lacks(shape, "kill"):
        pytest.skip(f"{shape}: {reason}")
    return Lane(directory, shape, f"cwt{time.monotonic_ns() % 10**6}")


def case_of(stage: str, fault: str, shape: Shape = "loopback", **wanted: object) -> Case:
    """Return the first case of the seed with these properties."""
    if reason := lacks(shape, fault):
        pytest.skip(f"{shape} {fault}: {reason}")
    return next(
        case
        for case in cases(SEED, brisk=True, only=f"{stage}:{fault}")
        if case.shape == shape and all(getattr(case, name) == value for name, value in wanted.items())
    )


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_cases() -> None:
    assert list(islice(cases(SEED), 300)) == list(islice(cases(SEED), 300))
    assert list(islice(cases(SEED), 300)) != list(islice(cases(SEED + 1), 300))


def test_a_case_keeps_its_number_wherever_it_is_asked_for() -> None:
    by_number = {case.number: case for case in islice(cases(SEED), 600)}
    some = list(islice(cases(SEED, only="ready:kill"), 4))
    assert {(case.stage, case.fault) for case in some} == {("ready", "kill")}
    for case in some:
        assert by_number.get(case.number, case) == case
        assert case.again() == f"python -m tests.campaign --seed {SEED} --number {case.number}"


def test_each_cell_is_tried_before_one_is_tried_again() -> None:
    tried = [(case.shape, case.stage, case.fault) for case in islice(cases(SEED), len(CELLS))]
    possible = {cell for cell in CELLS if not lacks(cell.shape, cell.fault)}
    assert set(tried[: len(possible)]) == possible


def test_every_stage_and_fault_has_a_cell() -> None:
    assert {cell.stage for cell in CELLS} == set(STAGES)
    assert {cell.fault for cell in CELLS} == set(FAULTS) == set(CAUSES)
    assert all(makes_sense(cell) for cell in CELLS)


def test_every_cause_is_documented() -> None:
    """A pattern that matches no code would check nothing."""
    for codes in CAUSES.values():
        assert all(is_documented(code) for code in codes if not code.endswith("*"))


# -- the cases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "fault"), [("ready", "kill"), ("hello", "truncate"), ("files", "disk"), ("ready", "reader")]
)
def test_a_fault_on_loopback(stage: str, fault: str, tmp_path: Path) -> None:
    case = case_of(stage, fault)
    with lane_of(tmp_path, "loopback") as lane:
        result = play(case, lane)
    assert result.wrong == []


@pytest.mark.parametrize("fault", ["kill", "drop"])
def test_a_fault_between_two_hosts(fault: str, tmp_path: Path) -> None:
    case = case_of("hello", fault, "namespaces")
    with lane_of(tmp_path, "namespaces") as lane:
        result = play(case, lane)
    assert result.wrong == []


def test_a_cable_that_is_pulled_while_a_pong_is_on_its_way(tmp_path: Path) -> None:
    """Rank 1 notices, although the system has bytes to resend, and so sends no keep-alive."""
    case = case_of("ready", "partition", "namespaces", restarts=0)
    with lane_of(tmp_path, "namespaces") as lane:
        scene = Scene(lane, case, lambda _: None)
        try:
            scene.start(1)
            assert scene.news.until(lambda: scene.runs[1].said("listening"), START_SECONDS)
            scene.start(0)
            assert scene.news.until(lambda: scene.both(lambda run: run.said("holding")), START_SECONDS)
            scene.cable.deaf = 1
            assert scene.news.until(lambda: scene.runs[0].said("health", 4) or scene.runs[0].is_over, 20)
            scene.cable.harm("partition", 3600)
            assert scene.news.until(lambda: scene.is_over, 30), scene.runs[1].events[-2:]
            codes = {rank: run.error["code"] for rank, run in scene.runs.items() if run.error}
            assert codes == {0: "ping-timeout", 1: "link-timeout"}
        finally:
            scene.close()


def test_descriptors_are_counted_before_the_fault_not_while_it_has_effect(tmp_path: Path) -> None:
    """On a busy machine the ranks had closed a lost link before they were counted, so the next one was one too many."""

    def slow(scene: Scene) -> None:
        strike(scene)
        assert scene.news.until(lambda: scene.both(lambda run: run.said("restarting")), START_SECONDS)

    case = case_of("ready", "close", restarts=1)
    with lane_of(tmp_path, "loopback") as lane:
        result = play(case, lane, slow)
    assert (result.recovered, result.wrong) == (True, [])


def test_no_stream_is_closed_under_its_reader(tmp_path: Path) -> None:
    """Its number would be reused by another file at once, and the reader would read that, or fail."""
    closed: set[bool] = set()

    class Slow(CommandRun):
        def _read_stdout(self) -> None:
            assert self.process.stdout is not None
            limit = time.monotonic() + 0.5
            while self.process.poll() is None or time.monotonic() < limit:
                closed.add(self.process.stdout.closed)

    Slow((), tmp_path, None, None, None, {}).kill_all()
    assert closed == {False}


# -- lies --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Ranks that lie; nothing of theirs survives the test. Their next bootstrap is another test's."""
    monkeypatch.setattr(process, "PROGRAM", LIAR)
    monkeypatch.setattr(playing, "SLACK", 4.0)
    monkeypatch.setattr(playing, "TIDY_SECONDS", 1.0)
    monkeypatch.setattr(playing, "_once_more", lambda scene: iter(()))
    yield monkeypatch
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if each.environ().get("LIE") == os.environ["LIE"] and each.name() == "sleep":  # not another test's
                each.kill()


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("file", "files are left: ["),
        ("process", "processes are left: [['sleep', '60'],"),
        ("listener", "listeners are left: ['127."),
        ("hang", "a rank hangs: "),
        ("traceback", "it ends in a traceback: "),
        ("code", "the code made-up is documented nowhere"),
        ("cause", "port-in-use is no consequence of truncate"),
    ],
)
def test_a_rank_that_lies_is_caught(what: str, found: str, lie: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lie.setenv("LIE", what)
    if what == "hang":
        lie.setattr(playing, "SLACK", -10.0)  # no deadline follows this fault, whose limit would be 20 s
    case = case_of("files", "truncate", restarts=0, work="command")
    with lane_of(tmp_path, "loopback") as lane:
        result = play(case, lane)
    assert any(found in text for text in result.wrong), result.wrong


def test_the_next_bootstrap_has_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the result of the fault itself."""
    once_more = playing._once_more

    def in_the_way(scene: Scene) -> Iterator[str]:
        with ExitStack() as stack:
            for rank, port in zip(lane.ranks, (CABLE_PORT, LINK_PORT), strict=True):  # neither waits for the other
                held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                held.bind(lock_address(rank.ip, port))
            yield from once_more(scene)

    monkeypatch.setattr(playing, "_once_more", in_the_way)
    with lane_of(tmp_path, "loopback") as lane:
        result = play(case_of("hello", "close"), lane)
    assert any(text.startswith("the next bootstrap fails: ") for text in result.wrong), result.wrong


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    case = case_of("hello", "close")
    results = [Result(case, recovered=True, seconds=1.25), Result(case, seconds=3.0), Result(case, wrong=["x"])]
    lines = list(table(results))
    assert lines[0].split() == [*STAGES, "all"]
    (row,) = (number for number, line in enumerate(lines) if line.startswith("close"))
    assert lines[row].split() == ["close", "-", "3=1+1!1", "3=1+1!1"]
    assert lines[row + 1].split() == ["3.0", "s", "3.0", "s"]


def campaign(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.campaign", "--seed", str(SEED), "--brisk", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)


def test_the_command() -> None:
    done = campaign("--only", "hello:close", "--faults", "2")
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0] == f"seed {SEED}, 2 faults"
    assert lines[-1].startswith("2 faults in ")
    assert lines[-1].endswith("0 wrong")


def test_the_command_for_programs() -> None:
    number = next(cases(SEED, only="ack:reset")).number
    done = campaign("--number", str(number), "--json")
    assert done.returncode == 0, done
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert (said["case"]["stage"], said["case"]["fault"], said["wrong"]) == ("ack", "reset", [])


def test_it_is_interrupted_at_once() -> None:
    """It does not wait for the current faults, and leaves no rank."""
    command = [sys.executable, "-m", "tests.campaign", "--seed", str(SEED), "--only", "ready:stop", "--faults", "2"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        children: list[psutil.Process] = []
        end = time.monotonic() + 60
        while not children:
            assert time.monotonic() < end, "no rank was started"
            children = psutil.Process(started.pid).children(recursive=True)
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=30)
    assert started.returncode == 1
    assert errors == "interrupted after 0 of 2 faults\n"
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_the_shapes_share_the_lanes() -> None:
    from tests.campaign.__main__ import _shapes

    assert list(_shapes({"loopback": 70, "namespaces": 30}, 8)) == ["loopback"] * 6 + ["namespaces"] * 2
    assert sorted(_shapes({"loopback": 9, "namespaces": 1}, 1)) == sorted(SHAPES)
    assert list(_shapes({"loopback": 1, "namespaces": 0}, 8)) == ["loopback"]
