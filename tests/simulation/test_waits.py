"""Waits that take many seconds on real hosts: for a silent peer, for a deadline, for a slow import."""

from typing import Final

import pytest

from bootstrap.control.child import GRACE_SECONDS
from bootstrap.launch.channel import SILENCE_SECONDS
from bootstrap.launch.run import END_SECONDS, LAST_LOOK_SECONDS, SETTLE_SECONDS
from tests.simulation.faults import Fault
from tests.simulation.launching import Launch
from tests.simulation.reference import Reference
from tests.simulation.test_found import cause, launched, world
from tests.simulation.world import Control
from wireproto.messages import Revision

PINGS_SECONDS: Final = 20.0
"""Seconds in which three pings are missed, or ssh gets no answer."""
CLEAN: Final = ("", None)


def began(launch: Launch) -> float:
    """Return when the fault occurred."""
    return next(float(line.split()[0]) for line in launch.world.trace if " fault: " in line)


def looks(launch: Launch) -> list[tuple[str, str | None]]:
    """Return the result of the last check of each host, and the reason if it failed."""
    return [(event["left"], event["not_checked"]) for event in launch.events if event["event"] == "looked"]


def message(control: Control | Launch) -> str:
    error = control.last("error")
    assert error is not None
    return str(error["message"])


def names(control: Control, *wanted: str) -> list[str]:
    """Return the events of these names in order."""
    return [event["event"] for event in control.events if event["event"] in wanted]


def test_a_host_that_is_cut_off_ends_the_group() -> None:
    """Its rank ends by itself, and rank 0 misses its pongs before ssh notices."""
    faults = Fault("cut-off", 1, 0.1, "holding"), *(Fault("separate", 1, 0.1, "holding", peer=peer) for peer in (0, 2))
    done = launched(*faults, size=3)
    lost = done.world.controls[1]
    assert cause(lost) == (1, "launcher-silent")
    assert lost.ended < began(done) + SILENCE_SECONDS + GRACE_SECONDS
    assert done.process.status == 3
    assert done.ended_at is not None
    assert done.ended_at < began(done) + PINGS_SECONDS + SETTLE_SECONDS + END_SECONDS + LAST_LOOK_SECONDS
    assert cause(done) == (0, "ping-timeout")
    assert "rank 1" in message(done)
    zero, (left, why), two = looks(done)
    assert (zero, left, two) == (CLEAN, "", CLEAN)
    assert why is not None
    assert why.startswith("mac-1: ssh: connect to host mac-1")


def test_what_a_frozen_rank_leaves_is_told_of_its_host_alone() -> None:
    """It ends once it goes on, which World.broken checks."""
    done = launched(Fault("freeze", 1, 0.1, "holding", seconds=60.0))
    assert done.process.status == 3
    assert cause(done) == (0, "ping-timeout")
    zero, (left, why) = looks(done)
    assert (zero, why) == (CLEAN, None)
    assert "the host's lock" in left
    assert str(done.world.controls[1].process.pid) in left


def test_a_rank_ends_when_its_launcher_is_silent() -> None:
    """With its own reason, which the other rank is told."""
    done = launched(Fault("cut-off", 1, 0.1, "running"), runs="module", command=("this",), program_seconds=100.0)
    for control in done.world.controls:
        assert cause(control) == (1, "launcher-silent")
        assert control.code == 125
        assert control.ended < began(done) + SILENCE_SECONDS + GRACE_SECONDS


# -- without a launcher ------------------------------------------------------------------------------------------------

SOON, LATER = 15.0, 20.0
"""Deadlines in seconds: the ranks have a session long before the first."""
HANGS: Final = (("mlx-hangs",), "no group within {:g} s: MLX is still being imported; try: python -c 'import mlx.core'")
ENDS: Final = {
    (0, 0): (HANGS, (("session-ended",), "rank 0 ended the session before the group was formed")),
    (0, 1): (HANGS, (("no-bootstrap",), "rank 0 has not sent a jacclBootstrap (last seen: a ping, ")),
    (1, 0): ((("peer-loading",), "MLX is still loading on rank 1; no group within {:g} s"), HANGS),
    (1, 1): (
        (
            ("link-closed", "link-reset", "link-refused"),
            " (rank 1 was still loading MLX when last heard); no group within {:g} s",
        ),
        HANGS,
    ),
}
"""The final messages, by the rank whose import hangs and the rank with the first deadline."""


@pytest.mark.parametrize("slow", [0, 1])
@pytest.mark.parametrize("seconds", [5.0, 20.0])
def test_a_slow_import_is_waited_for(slow: int, seconds: float) -> None:
    """The other rank reports neither missing versions nor missed pongs, nor any other error."""
    done = world(imports={slow: seconds}, timeout=100.0, stop=40.0)
    assert [control.code for control in done.controls] == [130, 0]
    for control in done.controls:
        assert names(control, "error", "warning", "link-lost", "consequence", "ignored", "restarting") == []
        assert names(control, "holding") == ["holding"]
    zero = done.controls[0]
    assert {event["missed"] for event in zero.events if event["event"] == "health"} == {0}
    frame = done.controls[slow].last(("bootstrap-sent", "bootstrap-received")[slow])
    assert frame is not None
    assert frame["t_ms"] > seconds * 1000


@pytest.mark.parametrize(("hanging", "first"), ENDS)
def test_an_import_that_outlasts_the_deadline(hanging: int, first: int) -> None:
    """The hanging rank reports itself, and the other names what it waits for, whichever gives up first."""
    timeouts = {rank: SOON if rank == first else LATER for rank in range(2)}
    done = world(Fault("hang:import", hanging, 0.0), timeouts=timeouts)
    controls = sorted(done.controls, key=lambda control: control.plan.rank)
    for control, (codes, text) in zip(controls, ENDS[hanging, first], strict=True):
        error = control.last("error")
        assert error is not None
        assert error["code"] in codes
        assert text.format(control.plan.timeout) in error["message"]
        assert control.code == 3
        assert names(control, "bootstrap-sent", "bootstrap-received") == []


def test_rank_0_cannot_load() -> None:
    """It exits before any bootstrap, and the others soon after it, unless another rank 0 connects. [BOOT-SEND]"""
    done = world(Fault("end-child", 0, 0.1, "confirmed"), size=3, timeout=100.0)
    zero, *others = sorted(done.controls, key=lambda control: control.plan.rank)
    assert cause(zero) == (0, "mlx-crashed")
    for rank, control in enumerate(others, start=1):
        error = control.last("error")
        assert error is not None
        assert (error["rank"], error["code"], error["stage"]) == (rank, "session-ended", "link")
        assert error["message"] == "rank 0 ended the session before the group was formed"
        assert control.ended < zero.ended + 15.0
        assert names(control, "bootstrap-received") == []
    assert [control.code for control in done.controls] == [3] * 3


# -- with a reference peer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_reference_peer_with_a_slow_init(rank: int, revision: Revision) -> None:
    """Pings are unanswered for long, and the group is held. [PLAIN-INIT, PLAIN-SUM]"""
    reference = Reference(rank, init_after=25.0)
    (own,) = world(reference=reference, revision=revision, stops=1 - rank, stop=60.0).controls
    assert names(own, "sum-checked", "sum-skipped", "holding") == ["sum-skipped", "holding"]
    assert own.code == 130
    assert names(own, "error", "link-lost") == []


@pytest.mark.parametrize(("sends", "code"), [("never", "no-bootstrap"), ("unusable", "bad-bootstrap")])
def test_a_reference_peer_without_a_usable_bootstrap(sends: str, code: str) -> None:
    (own,) = world(reference=Reference(0, sends=sends), revision=Revision.V1, timeout=20.0).controls
    assert cause(own) == (1, code)
    assert own.code == 3
    assert names(own, "sum-checked", "sum-skipped") == []
    if sends == "never":
        assert message(own).startswith("rank 0 has not sent a jacclBootstrap (last seen: a ping, ")
