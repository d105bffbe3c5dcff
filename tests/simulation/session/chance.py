"""Longer schedules, drawn from a seed: each run depends only on the seed and its number."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from hashlib import sha256
from random import Random
from typing import Final, NamedTuple

from tests.simulation.session.attacker import earlier, is_possible, perform, strikes
from tests.simulation.session.explore import opening
from tests.simulation.session.invariants import Violation
from tests.simulation.session.snapshot import load, save
from tests.simulation.session.world import WORDS, Action, Setting, World
from wireproto import EXTENSIONS, Revision

SETTINGS: Final = (
    Setting(),
    Setting(Revision.V2, EXTENSIONS),
    Setting(Revision.V1),
    Setting(Revision.V1, EXTENSIONS),
    Setting(boxes=8),
    Setting(Revision.V1, boxes=8),
)
_WEIGHTS: Final = (4, 3, 3, 1, 2, 1)
_SESSIONS: Final = 8
"""Established sessions in which runs start, for each setting: a handshake takes 30 steps."""
_WORDS: Final = (
    ("ping", "step", "step", "bootstrap", "withdraw", "whole", "end", "close"),
    ("pong", "token", "token", "part", "close"),
)
_ENDS: Final = ("end", "close")
_LETHAL: Final = ("change", "cut", "inject")
"""Strikes that end most sessions at once."""


class Start(NamedTuple):
    """The start of a run."""

    setting: Setting
    coins: str
    is_established: bool

    def __str__(self) -> str:
        return f"{self.setting.name}, {'established' if self.is_established else 'from the hello on'}, {self.coins}"

    def world(self) -> World:
        """Return a new simulation."""
        return load(established(self.setting, self.coins)) if self.is_established else self.fresh()

    def fresh(self) -> World:
        """Return a simulation before its first step."""
        return World(self.setting, self.coins, earlier(self.setting))


@cache
def established(setting: Setting, coins: str) -> bytes:
    world = Start(setting, coins, False).fresh()
    for action in opening(setting):
        perform(world, action)
    return save(world)


class Run(NamedTuple):
    """A run and its violation."""

    number: int
    start: Start
    actions: list[Action]
    violation: Violation | None
    trace: list[str]

    @property
    def digest(self) -> str:
        """Hash of the trace, determined by seed and number."""
        return sha256("\n".join(self.trace).encode()).hexdigest()


def run(seed: int, number: int) -> Run:
    """Draw a schedule and run it, to the end or to the first broken promise."""
    random = Random(f"{seed}/{number}")
    (setting,) = random.choices(SETTINGS, _WEIGHTS)
    is_established = random.random() < 0.75
    coins = f"session {random.randrange(_SESSIONS)}" if is_established else f"{seed}/{number}"
    start = Start(setting, coins, is_established)
    return _run(number, start, partial(drawn, random))


def drawn(random: Random, world: World) -> Iterator[Action]:
    """Draw steps while they are performed, and let the streams end."""
    hostility = random.choice((0.05, 0.2, 0.4))
    if not world.sides[0].written:
        yield Action("says", 0, "hello")
    for _ in range(random.randint(5, 60)):
        if all(side.ideal.is_over for side in world.sides) and random.random() < 0.3:
            break
        rank = random.randrange(2)
        luck = random.random()
        if luck < hostility:
            yield _strike(random, world, rank)
        elif luck < hostility + 0.4 * (1 - hostility):
            yield _says(random, rank)
        else:
            action = Action("deliver", rank, random.choice(("", "", "", "in place", "held")))
            if is_possible(world, action):
                yield action
    for rank in (0, 1):
        for action in (Action("take", rank), Action("cut", rank)):
            if is_possible(world, action):
                yield action


def _says(random: Random, rank: int) -> Action:
    words: Iterable[str] = _WORDS[rank]
    if random.random() < 0.03:
        words = WORDS
    what = random.choice([*words])
    if what in _ENDS and random.random() < 0.7:  # most sessions are longer
        what = random.choice(_WORDS[rank][:2])
    return Action("says", rank, what)


def _strike(random: Random, world: World, rank: int) -> Action:
    written = [f"{side.rank}:{number}" for side in world.sides for number in range(len(side.written))]
    if written and not world.sides[rank].is_deaf and random.random() < 0.2:
        return Action("replay", rank, random.choice(written))
    if random.random() < 0.15:
        action = Action(random.choice(("piece", "change")), rank, str(random.randint(1, 400)))
        if is_possible(world, action):
            return action
    possible = strikes(world, rank)
    if random.random() < 0.6:
        possible = [each for each in possible if each.do not in _LETHAL] or possible
    return random.choice(possible) if possible else Action("says", rank, _WORDS[rank][0])


def _run(number: int, start: Start, schedule: Callable[[World], Iterable[Action]]) -> Run:
    """Run a schedule that may depend on earlier steps."""
    actions: list[Action] = []
    trace: list[str] = [str(start)]
    violation = None
    try:
        with start.setting.limits():
            world = start.world()
            world.trace = trace
            for action in schedule(world):
                actions.append(action)
                perform(world, action)
    except Violation as broken:
        violation = broken
        trace.append(str(broken))
    return Run(number, start, actions, violation, trace)


def again(start: Start, actions: Iterable[Action]) -> Run:
    """Run a given schedule; impossible steps are left out."""
    return _run(-1, start, lambda world: (each for each in actions if is_possible(world, each)))


def shrink(found: Run) -> Run:
    """Return a run from which no step can be removed without losing the violation."""
    at = len(found.actions) - 1
    while at >= 0:
        shorter = again(found.start, [*found.actions[:at], *found.actions[at + 1 :]])
        if shorter.violation and found.violation and shorter.violation.promise == found.violation.promise:
            return shrink(shorter._replace(number=found.number))
        at -= 1
    return found
