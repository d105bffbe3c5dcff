"""Cases for codecs: test vectors, and frames of each type along each dimension of the rules."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Final

from wireproto.conformance.case import strictest
from wireproto.conformance.contract import expected_answer
from wireproto.conformance.frames import RULES, payload_rule
from wireproto.messages import ClusterMsgType, Revision
from wireproto.testing.grid import Point, points, unknown_types
from wireproto.testing.long_frames import KINDS
from wireproto.testing.requirements import Level
from wireproto.testing.vectors import ClusterFrameTest, load

_BUDGET: Final = 8 * 1024
"""Bytes of all frames of one type and dimension without `full`; short frames all fit."""
_FEWEST: Final = 3
"""Frames that are always sent, however long they are."""


@dataclass(frozen=True)
class Question:
    """A frame."""

    about: str
    frame: bytes
    rules: tuple[str, ...]
    answer: dict[str, Any] | None = None
    """The right answer; None for that of this package's codec."""


@dataclass(frozen=True)
class CodecCase:
    """Frames sent one after the other."""

    id: str
    section: str
    about: str
    questions: tuple[Question, ...]
    is_of_extensions: bool = False
    """Whether it applies only to a codec with extensions."""

    @cached_property
    def requirements(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(each.rules for each in self.questions)))

    @property
    def level(self) -> Level:
        return strictest(self.requirements).level


@dataclass(frozen=True)
class GrowthCase:
    """Frames of one kind, of increasing length."""

    kind: str
    section = "time"
    requirements = ("JSON-TIME",)
    level = Level.SHOULD

    @property
    def id(self) -> str:
        return f"codec.time.{self.kind}"

    @property
    def about(self) -> str:
        return f"The time for a long frame is proportional to its length: {self.kind.replace('-', ' ')}."


def codec_cases(revision: Revision, *, full: bool = False) -> list[CodecCase | GrowthCase]:
    """Return the cases of a revision; `full` for all frames of each dimension, not a sample."""
    slow = [GrowthCase(kind) for kind in KINDS] if revision is Revision.V2 else []
    return [*vector_cases(revision), *_generated(revision, full), *slow]


def vector_cases(revision: Revision) -> Iterator[CodecCase]:
    """Return the vectors without extensions: a codec has no session that agreed on one."""
    for group in load(ClusterFrameTest).groups:
        for test in group.tests:
            if test.revision == revision and not test.extensions:
                named = any(each.startswith("EXT-") for each in test.requirements)
                is_of_extensions = named and (test.error is None or test.error.code != "type-unknown")
                question = Question(test.comment, bytes(test.frame), test.requirements, _answer(test))
                yield CodecCase(f"codec.{test.id}", group.name, test.comment, (question,), is_of_extensions)


def _answer(test: ClusterFrameTest) -> dict[str, Any]:
    if test.message is not None:
        return {"ok": True, "type": test.message.type, "payload": test.message.payload}
    assert test.error is not None  # noqa: S101 - a vector is a message or an error
    return {"ok": False, "error": test.error.code, "offset": test.error.offset}


def _generated(revision: Revision, full: bool) -> Iterator[CodecCase]:
    found: dict[tuple[str, str, bool], list[Point]] = defaultdict(list)
    for spec, point in points(revision):
        found[spec.msg_type.wire_name, point.kind, _names_extensions(point.frame)].append(point)
    for point in unknown_types(revision):
        found["any", point.kind, False].append(point)
    for (name, kind, of_extensions), group in found.items():
        chosen = group if full else _some(group)
        questions = tuple(
            Question(each.about, each.frame, (_rule(each, of_extensions),)) for each in sorted(chosen, key=_size)
        )
        suffix = "-extensions" if of_extensions else ""
        about = f"{len(questions)} frames of {name} along the dimension {kind.replace('-', ' ')}."
        yield CodecCase(f"codec.{name}.{kind}{suffix}", "generated", about, questions, of_extensions)


def _names_extensions(frame: bytes) -> bool:
    is_offer = frame[0] in (ClusterMsgType.PONG, ClusterMsgType.JACCL_BOOTSTRAP)
    return is_offer and (b'"extensions"' in frame or rb'"\u0065\u0078' in frame)


def _some(group: list[Point]) -> list[Point]:
    """Return as many frames as the budget allows, evenly spaced, the short ones first."""
    group = sorted(group, key=_size)
    fitting = next((at for at, total in enumerate(accumulate(map(_size, group))) if total > _BUDGET), len(group))
    short, long = group[:fitting], group[fitting:]
    if len(long) > _FEWEST:
        long = [long[at * (len(long) - 1) // (_FEWEST - 1)] for at in range(_FEWEST)]
    return [*short, *long]


def _size(point: Point) -> int:
    return len(point.frame)


_OF_VALID: Final = {
    "keys": "JSON-UNKNOWN-KEY",
    "texts": "JSON-STRING",
    "numbers": "JSON-UNKNOWN-KEY",
    "depth": "JSON-NESTING",
    "elements": "JSON-UNKNOWN-KEY",
    "white-space": "JSON-TEXT",
    "escapes": "JSON-STRING",
    "lengths": "JSON-STRING",
}
"""Return the rule that allows the valid frames of a dimension, or else that of the payload."""


def _rule(point: Point, of_extensions: bool) -> str:
    if of_extensions:
        return "EXT-NAMES"
    rule = RULES.get(point.code) if point.code else _OF_VALID.get(point.kind)
    return rule or payload_rule(point.frame)


def right_answer(question: Question, revision: Revision, has_extensions: bool) -> dict[str, Any]:
    """Return the required answer; an empty one if any is allowed."""
    if question.answer is not None:
        return question.answer
    return expected_answer(question.frame, revision, has_extensions=has_extensions)
