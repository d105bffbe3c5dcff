"""Others' decoders against this one, over a pipe: the contract of `wireproto codec`, generated frames, disagreements.

A frame in hex a line goes in, one JSON object a line has to come out. A disagreement is confirmed in a fresh process,
and made smaller there; one that needs the frames before it is kept with as few of them as do.
"""

import json
import os
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from wireproto.codec.frame import decode_frame
from wireproto.conformance.frames import OFFER
from wireproto.errors import ERROR_CODES, WireError
from wireproto.fuzzing import seeds
from wireproto.fuzzing.long_frames import long_frame
from wireproto.fuzzing.minimize import fewest
from wireproto.messages import SPEC_BY_CLASS, PayloadKind, Revision
from wireproto.testing.mutations import mutate_frame, random_frame

_BATCH: Final = 32
_LONG: Final = 4096
"""Frames of this size on are asked one by one."""
ANSWER_TIME: Final = 10.0
"""Seconds for the next answer to come."""
_ENDING: Final = 10.0
"""Seconds for a process to end."""
SLOW: Final = 2.0
"""Seconds for one answer that are too many, when a fresh process takes so long, too."""
MUCH_MEMORY: Final = 256 * 1024 * 1024
"""Bytes that a decoder may grow by."""
_REMEMBERED: Final = 2 * _BATCH
"""Frames before a disagreement that may be its cause."""
_MINIMIZING: Final = 10.0
"""Seconds for making a disagreement smaller."""
_EVERY_LONG: Final = 40
"""Batches between two long frames."""
_TOO_SLOW: Final = f"more than {SLOW:g} s for one answer"
_TOO_LARGE: Final = f"more than {MUCH_MEMORY >> 20} MiB of memory"
_PING: Final = b"\x03"


@dataclass(frozen=True)
class Disagreement:
    """Frames whose last one a decoder does not answer as it must."""

    kind: str
    """What is wrong with the answer; disagreements of one kind are one."""
    frames: tuple[bytes, ...]
    expected: str
    answer: str
    is_repeated: bool
    """Whether these frames alone show it, to a fresh process: a leak of memory takes more of them than are kept."""

    @property
    def text(self) -> bytes:
        """The frames as the decoder reads them."""
        return _lines(self.frames)


def expected_answer(frame: bytes, revision: Revision, *, has_extensions: bool = True) -> dict[str, Any]:
    """What `wireproto codec` answers, or would without extensions; nothing where that depends on them."""
    try:
        message = decode_frame(frame, revision)
    except WireError as error:
        if not has_extensions and (error.path or "").startswith("extensions"):
            return {}  # an unknown key to it: the value may be anything, and what follows it decides
        return {"ok": False, "error": error.code, "offset": error.offset}
    spec = SPEC_BY_CLASS[type(message)]
    payload = msgspec.to_builtins(message)
    if not has_extensions and isinstance(payload, dict):
        payload.pop("extensions", None)
    match spec.kind:
        case PayloadKind.EMPTY:
            payload = None
        case PayloadKind.OPAQUE:
            payload = payload["box"]
        case _:
            pass
    return {"ok": True, "type": spec.msg_type.value, "payload": payload}


def _lines(frames: Sequence[bytes]) -> bytes:
    return b"".join(frame.hex().encode() + b"\n" for frame in frames)


class CodecError(Exception):
    """The decoder does not answer: `kind` says how."""

    def __init__(self, kind: str, answers: Sequence[bytes] = ()) -> None:
        super().__init__(kind)
        self.kind = kind
        self.answers = answers
        """Those that came before."""


class Codec:
    """A decoder in a process of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, frames: Sequence[bytes]) -> list[bytes]:
        """An answer for each frame. Raises `CodecError`; then the next question goes to a fresh process."""
        is_fresh = self._process is None
        process = self._started()
        answers: list[bytes] = []
        last = time.monotonic()
        try:
            for answer in self._answers(process, _lines(frames)):
                before, last = last, time.monotonic()
                if last - before > SLOW and not (is_fresh and not answers):  # the first answer has the start in it
                    self.stop()
                    raise CodecError(_TOO_SLOW, answers)
                answers.append(answer)
                if len(answers) == len(frames):
                    return answers
        except TimeoutError:
            self.stop()
            raise CodecError(f"no answer within {ANSWER_TIME:g} s", answers) from None
        except OSError:
            pass  # it does not read any more
        raise CodecError(self._end(process), answers)

    def _end(self, process: "subprocess.Popen[bytes]") -> str:
        """How a process that answers no more has ended."""
        try:
            return f"it ends with exit code {process.wait(_ENDING)}"
        except subprocess.TimeoutExpired:
            return "it closes its output"
        finally:
            self.stop()

    def peak(self) -> int:
        """Bytes of memory that the process has had at the most; now, where that is not known; 0 where nothing is."""
        if self._process is None:
            return 0
        status = Path(f"/proc/{self._process.pid}/status")
        try:
            if status.exists():
                return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
            command = ["/bin/ps", "-o", "rss=", "-p", str(self._process.pid)]
            return int(subprocess.run(command, capture_output=True, timeout=10, check=True).stdout) * 1024
        except (OSError, ValueError, IndexError, subprocess.SubprocessError):
            return 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=_ENDING)
            self._process = None
            self._rest = b""

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
            for pipe in (self._process.stdin, self._process.stdout):
                os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        return self._process

    def _answers(self, process: "subprocess.Popen[bytes]", data: bytes) -> Iterator[bytes]:
        """The lines that come while `data` goes in, to the end of the stream. Raises TimeoutError."""
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None  # noqa: PT018, S101 - both are pipes
        deadline = time.monotonic() + ANSWER_TIME
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while True:
                ready = {key.fileobj for key, _ in selector.select(max(deadline - time.monotonic(), 0))}
                if not ready:
                    raise TimeoutError
                if stdin in ready:
                    data = data[os.write(stdin.fileno(), data[: 64 * 1024]) :]
                    if not data:
                        selector.unregister(stdin)
                if stdout in ready:
                    read = os.read(stdout.fileno(), 1024 * 1024)
                    if not read:
                        return
                    *lines, self._rest = (self._rest + read).split(b"\n")
                    if lines:
                        deadline = time.monotonic() + ANSWER_TIME
                    yield from lines


class Differential:
    """One run against one decoder. `run` gives each kind of disagreement once."""

    def __init__(
        self, command: Sequence[str], seed: int, revision: Revision = Revision.V2, has_extensions: bool | None = None
    ) -> None:
        """`has_extensions`: whether the decoder knows their names; None to ask it."""
        self.frames = 0
        self.found: list[Disagreement] = []
        self._random = Random(seed)
        self._revision = revision
        self._command = command
        self._codec = Codec(command)
        self._has_extensions = has_extensions
        self._vectors = [data for _, data in seeds.frame()]
        self._before: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._kinds: set[str] = set()
        self._first_peak = 0

    def run(self, seconds: float, tell: Callable[[int], None] = lambda frames: None) -> Iterator[Disagreement]:
        end = time.monotonic() + seconds
        try:
            for batch in self._batches():
                if time.monotonic() >= end:
                    break
                for kind, frames in self._asked(batch):
                    if kind in self._kinds:
                        continue
                    found = self._smaller(kind, frames, min(end, time.monotonic() + _MINIMIZING))
                    if found.is_repeated or kind != _TOO_SLOW:
                        self._kinds.add(kind)
                        self.found.append(found)
                        yield found
                self.frames += len(batch)
                tell(self.frames)
        finally:
            self._codec.stop()

    def replay(self, frames: Sequence[bytes]) -> Disagreement | None:
        """These frames to a fresh process: what is wrong with the last answer."""
        codec = Codec(self._command)
        try:
            kind, answer = self._last(codec, frames)
        finally:
            codec.stop()
        if not kind:
            return None
        return Disagreement(kind, tuple(frames), self._expected(frames[-1]), answer, is_repeated=True)

    def _batches(self) -> Iterator[Sequence[bytes]]:
        """First every test vector, valid or not, then frames from nothing and from the vectors, without end."""
        short = [frame for frame in self._vectors if len(frame) < _LONG]
        yield from (short[at : at + _BATCH] for at in range(0, len(short), _BATCH))
        yield from ([frame] for frame in self._vectors if len(frame) >= _LONG)
        for number in count(1):
            yield [long_frame(self._random)] if number % _EVERY_LONG == 0 else [*self._batch()]

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
        """Whether the decoder has any: all but one that takes an offer, and leaves it out."""
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
        """The kinds of disagreements in a batch, each with the frames up to the one that shows it."""
        failure = ""
        try:
            answers: Sequence[bytes] = self._codec.ask(batch)
        except CodecError as error:
            answers, failure = error.answers, error.kind
        for at, (frame, answer) in enumerate(zip(batch, answers, strict=False)):
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

    # -- smaller ------------------------------------------------------------------------------------------------------

    def _smaller(self, kind: str, frames: list[bytes], end: float) -> Disagreement:
        """As few frames, and as few bytes of the last one, as still give this kind in a fresh process; until `end`."""
        codec = Codec(self._command)

        answer = kind

        def is_same(kept: Sequence[bytes]) -> bool:
            nonlocal answer
            found, said = self._last(codec, kept) if kept else ("", "")
            answer = said if found == kind else answer
            return found == kind

        def is_same_anew(kept: Sequence[bytes]) -> bool:
            codec.stop()
            return is_same(kept)

        def disagreement(frames: list[bytes], is_repeated: bool) -> Disagreement:
            return Disagreement(kind, tuple(frames), self._expected(frames[-1]), answer, is_repeated)

        try:
            if is_same_anew(frames[-1:]):
                frames = frames[-1:]
            elif is_same_anew(frames):
                frames = fewest(frames, is_same_anew, end)
            else:
                return disagreement(frames, is_repeated=False)
            whole = disagreement(frames, is_repeated=True)
            *before, last = frames
            # Where nothing stays behind, one process can be asked one frame after the other.
            try_bytes = is_same_anew if before or kind == _TOO_LARGE else is_same
            smaller = fewest(last, lambda kept: try_bytes([*before, kept]), end)
        finally:
            codec.stop()
        found = None if smaller == last else self.replay([*before, smaller])
        return whole if found is None or found.kind != kind else found

    def _last(self, codec: Codec, frames: Sequence[bytes]) -> tuple[str, str]:
        """What is wrong with the last of the answers, if anything is, and that answer."""
        *before, last = frames
        with suppress(CodecError):
            codec.ask([_PING])  # so that neither time nor memory are those of the start
        try:
            if before:
                codec.ask(before)
        except CodecError as error:
            return "", error.kind
        first = codec.peak()
        try:
            answer = codec.ask([last])[0]
        except CodecError as error:
            return error.kind, error.kind
        kind = wrong(self._answer(last), answer)
        if not kind and codec.peak() - first > MUCH_MEMORY:
            kind = _TOO_LARGE
        return kind, answer.decode(errors="replace")


def wrong(expected: dict[str, Any], line: bytes) -> str:
    """What is wrong with an answer, in words that say the kind; empty where nothing is.

    A decoder that has no error codes, or others than the specification's, is held to its verdict alone.
    """
    try:
        answer = json.loads(line)
        ok = answer["ok"]
        if not isinstance(ok, bool):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        return "an answer that is none"
    if not expected:
        return ""
    if ok != expected["ok"]:
        return f"accepts {expected['error']}" if ok else f"refuses what is right, with {answer.get('error', 'no code')}"
    if not ok:
        code = answer.get("error")
        if code not in ERROR_CODES:
            return ""
        if code != expected["error"]:
            return f"{code} where it is {expected['error']}"
        if answer.get("offset", expected["offset"]) != expected["offset"]:
            return f"another offset of {code}"
        return ""
    if _written(answer.get("type")) != _written(expected["type"]):
        return "another type"
    return "" if _written(answer.get("payload")) == _written(expected["payload"]) else _other_value(expected, answer)


def _other_value(expected: dict[str, Any], answer: dict[str, Any]) -> str:
    payload, other = expected["payload"], answer.get("payload")
    if not isinstance(payload, dict) or not isinstance(other, dict):
        return "another payload"
    keys = [key for key in payload if _written(payload[key]) != _written(other.get(key))]
    return f"another value of {keys[0]}" if keys else "a key too many"


def _written(value: Any) -> str:
    """As text, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)
