"""`up` and a peer that behaves like the reference peer, as either rank, in both revisions. [PLAIN-*]"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bootstrap.conftest import SCRIPTS
from tests.bootstrap.ranks import Check, Rank, Start, names, of, output, write_hostfile
from tests.bootstrap.system_tools import Tools
from tests.interop.scenes import SCENES, ReferencePeer, Scene, outcome, played

pytestmark = pytest.mark.waits

Pair = tuple[Rank, Rank]


ONCE = ("slow init", "never sends jacclBootstrap", "malformed jacclBootstrap")
"""Scenes that wait, and so are played once: the simulation has the other revision and rank."""


@pytest.mark.parametrize(
    ("scene", "revision"),
    [
        pytest.param(scene, revision, id=f"reference rank {scene.rank}-{revision}-{scene.name}")
        for scene in SCENES
        for revision in scene.revisions
        if scene.name not in ONCE or (scene.rank, revision) == (0, 2)
    ],
)
def test_scenes(scene: Scene, revision: int, pair: Pair, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """[PLAIN-LOADED, PLAIN-OFFER, PLAIN-INIT, PLAIN-SUM, PLAIN-STALLED, PLAIN-DRY-RUN]"""
    with played(scene, revision, [*pair], up, tmp_path) as play:
        assert outcome(play) == scene.outcome, (play.run.events, play.run.stderr)
        run = play.run
        assert names(run, "sum-checked") == []
        if scene.wanted == "holding":
            assert len(of(run, "sum-skipped")) == scene.count
        if scene.name == "never sends jacclBootstrap":
            (error,) = of(run, "error")
            assert error["message"].startswith("rank 0 has not sent a jacclBootstrap (last seen: a ping, ")
        if scene.name == "dry run":
            assert len(of(run, "would-set")) == 1
            assert play.peer.said("bootstrap") == (scene.rank == 0)
            text = "rank 0 has started its init" if scene.rank == 0 else "no jacclBootstrap is sent"
            assert text in of(run, "warning")[0]["message"]
    nothing_left(play.run)


def test_a_command_in_a_slow_init_was_ended_with_the_session(
    pair: Pair, up: Start, tmp_path: Path, nothing_left: Check
) -> None:
    """However slow the command is before its init: the reference rank 1 reads nothing meanwhile. [PLAIN-INIT]"""
    text = (
        "import time, mlx.core as mx; time.sleep(5); "
        "group = mx.distributed.init(strict=True, backend='ring'); print(group.size())"
    )
    zero, one = pair
    peer = ReferencePeer(one, [zero, one], 2, tmp_path)
    try:
        run = up(zero, one, "--json", "--backend", "ring", "--", sys.executable, "-c", text, program="scaled.py")
        assert run.end() == 0, (run.events, run.stderr)
        assert output(run) == ["2"]
        assert max(event["missed"] for event in of(run, "health")) > 3
        peer.until("session-end")
    finally:
        peer.end()
    nothing_left(run)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_script_with_a_reference_peer(rank: int, pair: Pair, up: Start, tmp_path: Path, nothing_left: Check) -> None:
    """It finds the group formed, but only this rank is known to be ready. [PLAIN-SUM]"""
    own, other = pair[rank], pair[1 - rank]
    script = tmp_path / "program.py"
    script.write_text("import mlx.core as mx\nprint(mx.distributed.init().size(), flush=True)\n")
    peer = ReferencePeer(other, [*pair], 2, tmp_path)
    try:
        run = up(own, other, "--json", "--backend", "ring", "--script", str(script), program="scaled.py")
        run.until(("command-ended", rank))
        assert names(run, "sum-checked", "sum-skipped", "running") == ["sum-skipped", "running"]
        assert [event["all_ready"] for event in of(run, "running")] == [False]
        assert output(run) == ["2"]
        if rank == 1:  # a reference rank 0 sends nothing at its end
            run.process.send_signal(signal.SIGINT)
        assert run.end() == 130 * rank, (run.events, run.stderr)
    finally:
        peer.end()
    nothing_left(run)


def test_one_reference_peer_of_three_means_no_sum_for_all(
    ranks: Callable[[int], list[Rank]], up: Start, tmp_path: Path
) -> None:
    """[PLAIN-SUM]"""
    group = ranks(3)
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in group])
    peer = ReferencePeer(group[2], group, 2, tmp_path)
    try:
        runs = [up(rank, hostfile, "--json", "--backend", "ring", program="scaled.py") for rank in group[:2]]
        for rank, run in enumerate(runs):
            run.until(("holding", rank))
        reasons = [of(run, "sum-skipped")[0]["reason"] for run in runs]
        assert reasons == ["rank 2 did not offer outcome/1", "rank 0 did not choose outcome/1"]
        runs[0].process.send_signal(signal.SIGINT)
        assert [run.end() for run in runs] == [130, 0]
    finally:
        peer.end()


def test_a_first_pong_that_was_late_switched_the_checks_off(pair: Pair, up: Start) -> None:
    """Between two of our ranks, the pong is 0.8 s late, with a limit of 0.6 s. [PLAIN-OFFER]"""
    zero, one = pair
    late = up(one, zero, "--json", "--backend", "ring", program="scaled.py", env={"LATE_PONG": "0.8"})
    late.until(("listening", 1))
    run = up(zero, one, "--json", "--backend", "ring", program="scaled.py")
    run.until(("holding", 0))
    assert [event["value"] for event in of(run, "sum-checked")] == [3]
    run.process.send_signal(signal.SIGINT)
    assert (run.end(), late.end()) == (130, 0)


@pytest.mark.parametrize("option", ["--revision", "--extensions"])
def test_our_own_peer_counts_as_plain_and_the_event_says_so(option: str, pair: Pair, up: Start) -> None:
    """[PLAIN-SUM]"""
    value = {"--revision": "1", "--extensions": "off"}[option]
    runs = [up(own, other, "--json", "--backend", "ring", option, value) for own, other in (pair, pair[::-1])]
    for rank, run in enumerate(runs):
        run.until(("holding", rank))
        (skipped,) = of(run, "sum-skipped")
        assert "so no peer has outcome/1" in skipped["reason"]
    runs[0].process.send_signal(signal.SIGINT)
    assert [run.end() for run in runs] == [130, 0]


@pytest.mark.parametrize("reference", [0, 1])
def test_jaccl(reference: int, pair: Pair, up: Start, tmp_path: Path) -> None:
    """The same with the stand-in for native JACCL on both sides."""
    tools = Tools(tmp_path / "bin")
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    tools.prints("ibv_devinfo", "ibv_devinfo-active.txt")
    path = f"{tools.path}{os.pathsep}{os.environ['PATH']}"
    matrix = [[None, "rdma_en3"], ["rdma_en2", None]]
    hostfile = write_hostfile(tmp_path / "hosts.json", [rank.ip for rank in pair], matrix)
    stand_in = str(SCRIPTS / "jaccl_stand_in.py")
    options = ["--devices", json.dumps(matrix), "--stand-in", stand_in]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        peer = ReferencePeer(pair[reference], [*pair], 2, tmp_path, *options)
    try:
        ours = 1 - reference
        run = up(
            pair[ours],
            hostfile,
            *("--json", "--backend", "jaccl", "--", sys.executable, stand_in),
            env={"PATH": path},
            program="scaled.py",
        )
        run.until(("command-ended", ours))
        assert output(run)[0] == f"rank {ours} of a mesh of 2 over rdma_en{3 - ours}"
        peer.until("group")
        if reference == 0:  # it is rank 0 that ends the session
            peer.end()
        assert run.end() == 0, (run.events, run.stderr)
    finally:
        peer.end()
