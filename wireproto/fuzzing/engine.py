"""Runs a harness on one input after another, and keeps new inputs and findings.

Inputs depend on the seed alone. An input is new if the harness reports a new kind. One input in a hundred, and each
that is kept, is also traced for new lines: tracing all would take most of the time. If a harness has a quick check,
every input goes through it, and only new inputs and one in eight of the others go through the full check.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from wireproto.fuzzing.harness import MAX_INPUT, MAX_KEPT, Harness, HarnessError
from wireproto.fuzzing.lines import Lines
from wireproto.fuzzing.watch import Finding, Watch

_TRACED: Final = 100
"""One of this many inputs is traced."""
_CHECKED: Final = 8
"""One of this many inputs goes through the full check, if there is a quick one."""
_GROWN: Final = 2000
"""One of this many inputs is enlarged, to find excessive use of time or memory."""


@dataclass
class Progress:
    """The progress of a run."""

    layer: str
    executions: int = 0
    seconds: float = 0.0
    corpus: int = 0
    findings: int = 0
    lines: int = 0
    """Lines of the layer's functions covered by kept inputs, of `all_lines`."""
    all_lines: int = 0

    @property
    def rate(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0


class Engine:
    """One run of one harness. Raises `HarnessError` if a function of the harness returns a wrong type."""

    def __init__(self, harness: Harness, seed: int, corpus: Iterable[bytes] = ()) -> None:
        self.harness = harness
        self._quick = replace(harness, check=harness.quick or harness.check)
        self.progress = Progress(harness.name)
        self.findings: list[Finding] = []
        self.kept: list[bytes] = []
        """The inputs that showed something new, including seeds."""
        self._random = Random(seed)
        self._watch = Watch()
        self._kinds: set[object] = set()
        self._known: set[tuple[str, str]] = set()
        self._first = [*(self._checked("seeds", data) for _, data in harness.seeds()), *corpus] or [b""]
        self._lines = Lines(harness.modules)
        self.progress.all_lines = self._lines.total

    def run(self, seconds: float, tell: Callable[[Progress], None] = lambda _: None) -> Iterator[Finding]:
        """Run for some seconds; yield each new finding, and report progress several times a second."""
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
        """Yield inputs without end, made from those kept before."""
        yield from self._first
        random = self._random
        while True:
            data = random.choice(self.kept if self.kept and random.random() < 0.7 else self._first)
            for _ in range(random.choice((1, 1, 1, 1, 2))):
                data = self._checked("mutate", self.harness.mutate(random, data))
            if random.randrange(_GROWN) == 0:
                data = _blown_up(random, data)
            yield data[:MAX_INPUT]

    def feed(self, data: bytes) -> Finding | None:
        """Run one input, and keep it if it is new."""
        self.progress.executions += 1
        number = self.progress.executions
        kind, finding = self._watch.examine(self._quick if number % _CHECKED else self.harness, data)
        if finding is not None:
            return finding
        try:
            kinds = kind if isinstance(kind, frozenset) else {kind}
        except TypeError:
            raise HarnessError(self.harness, "check", kind, "something hashable") from None
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

    def _checked(self, function: str, data: object) -> bytes:
        if not isinstance(data, bytes):
            raise HarnessError(self.harness, function, data, "bytes")
        return data


def _blown_up(random: Random, data: bytes) -> bytes:
    """Repeat a piece of an input until it is long."""
    start = random.randint(0, len(data))
    piece = data[start : start + random.choice((1, 2, 5, 8, 16, 64))] or b"\0"
    times = random.choice((1000, 10_000, 64 * 1024)) // len(piece)
    return data[:start] + piece * times + data[start + len(piece) :]
