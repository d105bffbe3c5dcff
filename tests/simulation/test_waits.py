"""Waits that take many seconds on real hosts: for a silent peer, for a deadline, for a slow import."""

from typing import Any, Final

from bootstrap.control.child import GRACE_SECONDS
from bootstrap.launch.channel import SILENCE_SECONDS
from bootstrap.launch.run import END_SECONDS, LAST_LOOK_SECONDS, SETTLE_SECONDS
from tests.simulation.faults import Fault
from tests.simulation.launching import Launch
from tests.simulation.test_found import cause, launched

PINGS_SECONDS: Final = 20.0
"""Seconds in which three pings are missed, or ssh gets no answer."""
CLEAN: Final = ("", None)


def began(launch: Launch) -> float:
    """Return when the fault occurred."""
    return next(float(line.split()[0]) for line in launch.world.trace if " fault: " in line)


def looks(launch: Launch) -> list[tuple[str, str | None]]:
    """Return the result of the last check of each host, and the reason if it failed."""
    return [(event["left"], event["not_checked"]) for event in launch.events if event["event"] == "looked"]


def message(control: Any) -> str:
    return str(control.last("error")["message"])


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
