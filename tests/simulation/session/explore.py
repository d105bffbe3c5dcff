"""Every schedule of short scripts: each order of the actions of both programs and of an attacker, up to a bound."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

from tests.simulation.session.attacker import earlier, is_possible, perform, strikes
from tests.simulation.session.invariants import Violation
from tests.simulation.session.snapshot import load, save
from tests.simulation.session.world import Action, Setting, World
from wireproto import Revision
from wireproto.messages import SIDE_CHANNEL_1

_EXTENDED: Final = Setting(Revision.V2, (SIDE_CHANNEL_1,))


class Scenario(NamedTuple):
    """The actions of both programs, in words of `World.says`, and the attacker's number of strikes."""

    setting: Setting
    scripts: tuple[tuple[str, ...], tuple[str, ...]]
    strikes: int
    is_established: bool = True
    """Whether it starts after the handshake."""


def scenarios(strikes: int) -> dict[str, Scenario]:
    """All scripts by name, with the attacker's number of strikes."""
    scripts = {
        "handshake": (("hello", "ping"), ("token",)),
        "messages": (("step", "bootstrap"), ("token",)),
        "end": (("ping", "end", "close"), ("close",)),
    }
    found = {
        f"{name}, {setting.name}": Scenario(setting, script, strikes, is_established=name != "handshake")
        for name, script in scripts.items()
        for setting in (Setting(), Setting(Revision.V1))
    }
    found["extension"] = Scenario(_EXTENDED, (("bootstrap", "whole", "withdraw"), ("part",)), strikes)
    return found


class Play:
    """A scenario in progress."""

    def __init__(self, scenario: Scenario) -> None:
        self.world = World(scenario.setting, "explored", earlier(scenario.setting))
        if scenario.is_established:
            for action in opening(scenario.setting):
                perform(self.world, action)
        self.scripts = list(scenario.scripts)
        self.strikes = scenario.strikes

    def possible(self) -> Iterator[Action]:
        """Return all possible next steps."""
        for side, script in zip(self.world.sides, self.scripts, strict=True):
            if script and (script[0] in ("hello", "close") or side.ideal.is_open) and not side.has_hung_up:
                yield Action("says", side.rank, script[0])
            deliver = Action("deliver", side.rank)
            if is_possible(self.world, deliver):
                yield deliver
        if self.strikes:
            for side in self.world.sides:
                yield from strikes(self.world, side.rank)

    def perform(self, action: Action) -> None:
        """Do one of these."""
        if action.do == "says":
            self.scripts[action.rank] = self.scripts[action.rank][1:]
        elif action.do != "deliver":
            self.strikes -= 1
        perform(self.world, action)


def opening(setting: Setting) -> Iterator[Action]:
    """Yield the handshake and, with extensions, their offer."""
    yield from (Action("says", 0, "hello"), Action("deliver", 1), Action("deliver", 0))
    if setting.extensions:
        yield from (Action("says", 1, "pong"), Action("deliver", 0))


@dataclass
class Explored:
    """The size of the exploration, and the first schedule that breaks a promise."""

    states: int = 0
    steps: int = 0
    schedules: int = 0
    """Complete schedules from start to end."""
    violation: Violation | None = None
    path: tuple[Action, ...] = ()


def explore(scenario: Scenario) -> Explored:
    """Explore every schedule of a scenario, and equal states once: see `snapshot`."""
    explored = Explored()
    seen: dict[bytes, int] = {}  # the number of schedules from there
    path: list[Action] = []

    def visit(play: Play) -> int:
        snapshot = save(play)
        digest = blake2b(snapshot, digest_size=16).digest()
        if (count := seen.get(digest)) is not None:
            return count
        count = 0
        for action in list(play.possible()):
            following: Play = load(snapshot)
            path.append(action)
            following.perform(action)
            explored.steps += 1
            count += visit(following)
            path.pop()
        seen[digest] = count = count or 1
        return count

    try:
        explored.schedules = visit(load(save(Play(scenario))))
    except Violation as violation:
        explored.violation, explored.path = violation, tuple(path)
    explored.states = len(seen)
    return explored


def replay(scenario: Scenario, path: Iterable[Action]) -> list[str]:
    """Return the trace of a schedule, up to the broken promise."""
    trace: list[str] = []
    try:
        play = Play(scenario)
        play.world.trace = trace
        for action in path:
            play.perform(action)
    except Violation as violation:
        trace.append(str(violation))
    return trace
