"""Compares another decoder with this one over a pipe, by the contract of `wireproto codec`.

One frame in hex per line goes in, one JSON object per line comes out. A disagreement is confirmed and reduced in a
fresh process. If it depends on earlier frames, it is kept with as few of them as possible.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any, Final

from wireproto.conformance.contract import expected_answer, names_no_code, wrong
from wireproto.conformance.frames import OFFER
from wireproto.conformance.growth import measuring
from wireproto.fuzzing import seeds
from wireproto.fuzzing.asked import TOO_SLOW, Codec, CodecError, TimeIsUp, lines
from wireproto.fuzzing.minimize import fewest
from wireproto.messages import Revision
from wireproto.testing.grid import points, unknown_types
from wireproto.testing.long_frames import KINDS
from wireproto.testing.mutations import mutate_frame, random_frame

_BATCH: Final = 32
_LONG: Final = 4096
"""Frames of at least this size are sent one by one."""
MUCH_MEMORY: Final = 256 * 1024 * 1024
"""Bytes by which a decoder may grow."""
_REMEMBERED: Final = 2 * _BATCH
"""Frames before a disagreement that may be its cause."""
_MINIMIZING: Final = 10.0
"""Seconds for reducing a disagreement."""
_EVERY_LONG: Final = 40
"""Batches between two long frames, or two measurements of growth."""
_LONG_SIZE: Final = 200_000
_TOO_LARGE: Final = f"more than {MUCH_MEMORY >> 20} MiB of memory"
_PING: Final = b"\x03"


@dataclass(frozen=True)
class Disagreement:
    """Frames, the last of which gets a wrong answer."""

    kind: str
    """The fault of the answer. Disagreements of the same kind are reported once."""
    frames: tuple[bytes, ...]
    expected: str
    answer: str
    is_repeated: bool
    """Whether these frames suffice in a fresh process. A memory leak needs more than are kept."""
    is_crash: bool = False
    stderr: tuple[str, ...] = ()
    """The last lines on standard error, if the decoder did not answer."""

    @property
    def text(self) -> bytes:
        """Return the frames in the format that the decoder reads."""
        return lines(self.frames)


class Differential:
    """One run against one decoder. `run` yields each kind of disagreement once."""

    def __init__(
        self, command: Sequence[str], seed: int, revision: Revision = Revision.V2, has_extensions: bool | None = None
    ) -> None:
        """`has_extensions`: whether the decoder knows the names of extensions; None to find out."""
        self.frames = 0
        self.found: list[Disagreement] = []
        self._random = Random(seed)
        self._revision = revision
        self._command = command
        self._codec = Codec(command)
        self._has_extensions = has_extensions
        self.by_verdict = False
        """Whether the decoder used an error name that the specification does not define."""
        self._vectors = [data for _, data in seeds.frame()]
        self._before: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._kinds: set[str] = set()
        self._first_peak = 0

    def run(self, seconds: float, tell: Callable[[int], None] = lambda frames: None) -> Iterator[Disagreement]:
        """Yield disagreements for `seconds` after the first answer, because a start may be slow."""
        try:
            try:
                self._codec.ask([_PING])
            except CodecError as error:
                found = Disagreement(error.kind, (_PING,), self._expected(_PING), error.kind, is_repeated=True)
                yield self._noted(replace(found, is_crash=error.crashed, stderr=error.stderr))
                return
            end = time.monotonic() + seconds
            self._codec.end = end
            for number, batch in enumerate(self._batches()):
                if time.monotonic() >= end:
                    break
                for kind, frames in self._asked(batch):
                    if kind not in self._kinds:
                        found = self._smaller(kind, frames, min(end, time.monotonic() + _MINIMIZING))
                        if found.is_repeated or kind != TOO_SLOW:
                            yield self._noted(found)
                self.frames += len(batch)
                tell(self.frames)
                if number % _EVERY_LONG == _EVERY_LONG - 1 and (grows := self._grows(number // _EVERY_LONG)):
                    yield self._noted(grows)
        except TimeIsUp:
            pass
        finally:
            self._codec.stop()

    def _noted(self, found: Disagreement) -> Disagreement:
        self._kinds.add(found.kind)
        self.found.append(found)
        return found

    def _grows(self, number: int) -> Disagreement | None:
        """Measure one kind of long frames, each kind once in a run."""
        if number >= len(KINDS):
            return None
        name, make = [*KINDS.items()][number]
        measure = measuring(make)
        frames = next(measure)
        try:
            while True:
                started = time.monotonic()
                self._codec.ask(frames)
                frames = measure.send(time.monotonic() - started)
        except CodecError:
            return None  # the next batch with a long frame will report it
        except StopIteration as end:
            said = f"slow: {name.replace('-', ' ')}"
            expected = "a time proportional to the length"
            return Disagreement(said, tuple(frames), expected, end.value, is_repeated=False) if end.value else None

    def replay(self, frames: Sequence[bytes]) -> Disagreement | None:
        """Send frames to a fresh process; return the fault of the last answer."""
        codec = Codec(self._command)
        try:
            return self._last(codec, frames)
        finally:
            codec.stop()

    def _batches(self) -> Iterator[Sequence[bytes]]:
        """Yield every test vector, then alternately frames along the rules' dimensions and random ones."""
        short = [frame for frame in self._vectors if len(frame) < _LONG]
        yield from (short[at : at + _BATCH] for at in range(0, len(short), _BATCH))
        yield from ([frame] for frame in self._vectors if len(frame) >= _LONG)
        grid = [point.frame for _, point in points(self._revision)]
        grid += [point.frame for point in unknown_types(self._revision)]
        self._random.shuffle(grid)
        for number in count(1):
            if number % _EVERY_LONG == 0:
                yield [self._random.choice([*KINDS.values()])(_LONG_SIZE)]
            elif number % 2 and grid:
                batch = [grid.pop() for _ in range(min(_BATCH, len(grid)))]
                yield [frame for frame in batch if len(frame) < _LONG]
                yield from ([frame] for frame in batch if len(frame) >= _LONG)
            else:
                yield [*self._batch()]

    def _batch(self) -> Iterator[bytes]:
        random = self._random
        for _ in range(_BATCH):
            if random.random() < 0.2:
                frame = mutate_frame(random, random.choice(self._vectors))
            else:
                frame = random_frame(random)
                frame = mutate_frame(random, frame) if random.random() < 0.2 else frame
            yield frame[: _LONG - 1]

    def _answer(self, frame: bytes) -> dict[str, Any]:
        if self._has_extensions is None:
            self._has_extensions = self._asks_for_extensions()
        return expected_answer(frame, self._revision, has_extensions=self._has_extensions)

    def _asks_for_extensions(self) -> bool:
        """Return whether the decoder has extensions, that is, does not accept an offer and leave it out."""
        codec = Codec(self._command)
        try:
            (line,) = codec.ask([OFFER])
            payload = json.loads(line)["payload"]
            return not isinstance(payload, dict) or "extensions" in payload
        except (CodecError, ValueError, TypeError, KeyError):
            return True
        finally:
            codec.stop()

    def _expected(self, frame: bytes) -> str:
        return json.dumps(self._answer(frame))

    def _asked(self, batch: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
        """Yield the kinds of disagreements in a batch, each with the frames up to the one that shows it."""
        failure = ""
        try:
            answers: Sequence[bytes] = self._codec.ask(batch)
        except CodecError as error:
            answers, failure = error.answers, error.kind
        for at, (frame, answer) in enumerate(zip(batch, answers, strict=False)):
            self.by_verdict = self.by_verdict or names_no_code(answer)
            if kind := wrong(self._answer(frame), answer):
                yield kind, [*self._before, *batch[: at + 1]]
        if failure:
            yield failure, [*self._before, *batch[: len(answers) + 1]]
        else:
            peak = self._codec.peak()
            self._first_peak = self._first_peak or peak
            if peak - self._first_peak > MUCH_MEMORY:
                self._codec.stop()
                self._first_peak = 0
                yield _TOO_LARGE, [*self._before, *batch]
        self._before.extend(batch)
        if failure:
            self._before.clear()

    # -- reducing -----------------------------------------------------------------------------------------------------

    def _smaller(self, kind: str, frames: list[bytes], end: float) -> Disagreement:
        """Return the fewest frames, and bytes of the last one, that show this kind in a fresh process, until `end`."""
        codec = Codec(self._command, end)
        smallest = Disagreement(kind, tuple(frames), self._expected(frames[-1]), kind, is_repeated=False)

        def is_same(kept: Sequence[bytes]) -> bool:
            nonlocal smallest
            found = self._last(codec, kept) if kept else None
            if found is None or found.kind != kind:
                return False
            smallest = found
            return True

        def is_same_anew(kept: Sequence[bytes]) -> bool:
            codec.stop()
            return is_same(kept)

        try:
            if is_same_anew(frames[-1:]):
                frames = frames[-1:]
            elif is_same_anew(frames):
                frames = fewest(frames, is_same_anew, end)
            else:
                return smallest
            whole = replace(smallest, frames=tuple(frames), expected=self._expected(frames[-1]))
            *before, last = frames
            # A decoder without state can be asked in one process.
            try_bytes = is_same_anew if before or kind == _TOO_LARGE else is_same
            smaller = fewest(last, lambda kept: try_bytes([*before, kept]), end)
            if smaller == last or not is_same_anew([*before, smaller]):
                return whole
        except TimeIsUp:
            pass
        finally:
            codec.stop()
        return smallest

    def _last(self, codec: Codec, frames: Sequence[bytes]) -> Disagreement | None:
        """Return the fault of the last answer, if any."""
        *before, last = frames
        found = Disagreement("", tuple(frames), self._expected(last), "", is_repeated=True)
        with suppress(CodecError):
            codec.ask([_PING])  # so that time and memory exclude the start
        try:
            if before:
                codec.ask(before)
        except CodecError:
            return None
        first = codec.peak()
        try:
            answer = codec.ask([last])[0]
        except CodecError as error:
            return replace(found, kind=error.kind, answer=error.kind, is_crash=error.crashed, stderr=error.stderr)
        kind = wrong(self._answer(last), answer)
        if not kind and codec.peak() - first > MUCH_MEMORY:
            kind = _TOO_LARGE
        return replace(found, kind=kind, answer=answer.decode(errors="replace")) if kind else None
