"""Runs a harness: inputs in turn, what is new kept, what must not be found kept apart.

Inputs follow from the seed alone. What is new is told by the harness, and, of one input in a hundred and of each that
is kept, by the lines that it runs through: tracing all of them would take most of the time. Where a harness has a
quick check, each input goes through that one; the full check sees what is new, and one input in eight.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from wireproto.fuzzing.harness import MAX_INPUT, MAX_KEPT, Harness
from wireproto.fuzzing.lines import Lines
from wireproto.fuzzing.watch import Finding, Watch

_TRACED: Final = 100
"""Of so many inputs one is traced."""
_CHECKED: Final = 8
"""Of so many inputs one goes through the full check, where there is a quick one."""
_GROWN: Final = 2000
"""Of so many inputs one is blown up: what takes too long or too much takes it with long ones."""


@dataclass
class Progress:
    """How far a run is."""

    layer: str
    executions: int = 0
    seconds: float = 0.0
    corpus: int = 0
    findings: int = 0
    lines: int = 0
    """Lines of the layer's functions that some kept input runs through, of `all_lines`."""
    all_lines: int = 0

    @property
    def rate(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0


class Engine:
    """One run of one harness."""

    def __init__(self, harness: Harness, seed: int, corpus: Iterable[bytes] = ()) -> None:
        self.harness = harness
        self._quick = replace(harness, check=harness.quick or harness.check)
        self.progress = Progress(harness.name)
        self.findings: list[Finding] = []
        self.kept: list[bytes] = []
        """The inputs that showed something new, seeds among them."""
        self._random = Random(seed)
        self._watch = Watch()
        self._kinds: set[object] = set()
        self._known: set[tuple[str, str]] = set()
        self._first = [*(data for _, data in harness.seeds()), *corpus] or [b""]
        self._lines = Lines(harness.modules)
        self.progress.all_lines = self._lines.total

    def run(self, seconds: float, tell: Callable[[Progress], None] = lambda _: None) -> Iterator[Finding]:
        """Runs for so long; gives each new finding, and tells how far it is, some times a second."""
        start = told = time.monotonic()
        with self._watch:
            for data in self.inputs():
                finding = self.feed(data)
                if finding is not None and finding.key not in self._known:
                    self._known.add(finding.key)
                    self.findings.append(finding)
                    self.progress.findings += 1
                    yield finding
                now = time.monotonic()
                self.progress.seconds = now - start
                if now - told > 0.2:
                    told = now
                    tell(self.progress)
                if now - start > seconds:
                    break
        tell(self.progress)

    def inputs(self) -> Iterator[bytes]:
        """The inputs of the run, without end; what is kept of those before has a part in them."""
        yield from self._first
        random = self._random
        while True:
            data = random.choice(self.kept if self.kept and random.random() < 0.7 else self._first)
            for _ in range(random.choice((1, 1, 1, 1, 2))):
                data = self.harness.mutate(random, data)
            if random.randrange(_GROWN) == 0:
                data = _blown_up(random, data)
            yield data[:MAX_INPUT]

    def feed(self, data: bytes) -> Finding | None:
        """One input, and what is to be kept of it."""
        self.progress.executions += 1
        number = self.progress.executions
        kind, finding = self._watch.examine(self._quick if number % _CHECKED else self.harness, data)
        if finding is not None:
            return finding
        kinds = kind if isinstance(kind, frozenset) else {kind}
        is_new = not kinds <= self._kinds
        if not is_new and number % _TRACED:
            return None
        if len(data) > MAX_KEPT:
            return self._watch.examine(self.harness, data)[1]
        (_, finding), has_new_lines = self._lines.run(lambda: self._watch.limited(self.harness, data))
        if finding is None and (is_new or has_new_lines):
            self._kinds |= kinds
            self.kept.append(data)
            self.progress.corpus = len(self.kept)
            self.progress.lines = self._lines.seen
        return finding


def _blown_up(random: Random, data: bytes) -> bytes:
    """A piece of an input so many times that it is long."""
    start = random.randint(0, len(data))
    piece = data[start : start + random.choice((1, 2, 5, 8, 16, 64))] or b"\0"
    times = random.choice((1000, 10_000, 64 * 1024)) // len(piece)
    return data[:start] + piece * times + data[start + len(piece) :]
