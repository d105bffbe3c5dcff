"""Exceptions to the invariants: where a world may break one, and why."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.world import World

EXCEPTIONS: Final[dict[str, str]] = {
    "late": "Ranks that are started too late for the deadline may each name another one that it waits for.",
    "finish-timeout": "The end of the wait for the other programs is a cause of its own, at another time on each rank.",
    "deadline": "All ranks reach the deadline at the same time, and each names what it waits for then.",
    "no outcome/1": "A rank that is not told another one's outcome reports the loss of its link or command instead.",
    "restarts": "Each rank counts its own restarts: one may end, or miss the cause, where another begins again.",
    "not awaited": "A launch ends without a rank whose host is so slow that it has said nothing yet.",
    "disruption": "A fault that ends a rank or a link, or delays them, keeps the ranks from telling each other causes.",
    "waiting": "A rank that a failed one keeps waiting is late for the others, which may notice it first.",
    "consequence": "MLX ends a rank for the end of another one; their codes do not show which one ended first.",
    "slow network": "On a slow network a rank may hear of what follows a failure or a stop before it hears of that.",
    "guard killed": "What a run leaves whose guard was killed with it goes with the next start on that host.",
    "helper": "A helper in a session of its own is not known to be a rank's, once the program that started it is gone.",
    "parent killed": "A child that cannot be killed is not reported by a control process that was killed.",
    "program ended": "A program that was ended in the middle has not written all.",
}
"""The reason of each, by the name with which runs that use it are counted."""


def report(world: "World", text: str, exception: str | None = None) -> None:
    """Report that a world breaks an invariant, or count the exception by which it may."""
    if exception is not None:
        assert exception in EXCEPTIONS, exception
        world.excused.add(exception)
    elif text not in world.broken:
        world.record(f"BROKEN: {text}")
        world.broken.append(text)
