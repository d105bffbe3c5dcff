"""Harnesses: a layer, its seeds, their mutation, and the properties that hold for every input."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from wireproto.errors import ERROR_CODES, WireError

MAX_INPUT: Final = 256 * 1024
"""Bytes of an input; mutations do not exceed it."""
MAX_KEPT: Final = 16 * 1024
"""Bytes of an input that is kept for further mutation."""


class FindingError(AssertionError):
    """A property that holds for every input does not hold for this one.

    `oracle` names the property. Findings with the same `oracle` and `detail` are one finding.
    """

    def __init__(self, oracle: str, detail: str) -> None:
        super().__init__(f"{oracle}: {detail}")
        self.oracle = oracle
        self.detail = detail


class HarnessError(TypeError):
    """A function of a harness returned something of a wrong type. The code under test is not at fault."""

    def __init__(self, harness: "Harness", function: str, value: object, wanted: str) -> None:
        name = type(value).__name__
        super().__init__(f"{function} of the harness {harness.name!r} returned {name}, not {wanted}; correct it")


@dataclass(frozen=True)
class Harness:
    """One layer under test."""

    name: str
    check: Callable[[bytes], object]
    """Feeds one input to the layer. Returns the kind of outcome, which is hashable, or a frozenset of kinds: an input
    with a new kind is kept. Raises `FindingError`; any other exception is a finding, too."""
    seeds: Callable[[], Iterable[tuple[str, bytes]]]
    """The first inputs, with their names."""
    mutate: Callable[[Random, bytes], bytes]
    """Mutates an input; deterministic for the seed of its `Random`."""
    modules: Sequence[str] = field(default=())
    """The modules whose lines count as the layer's coverage."""
    quick: Callable[[bytes], object] | None = None
    """A faster part of `check` with the same result, which a run uses for most inputs."""

    def fuzz_one_input(self, data: bytes) -> None:
        """Call `check`, for Atheris and pytest."""
        self.check(data)


def expect(holds: bool, oracle: str, detail: str = "") -> None:
    """Raises `FindingError` unless it holds."""
    if not holds:
        raise FindingError(oracle, detail)


Verdict = tuple[Any, ...]
"""("ok", class, value), or ("error", class, code, offset, path)."""


def verdict_of(call: Callable[..., Any], *args: Any) -> Verdict:
    """Return the outcome of a call: a value or a documented error. Any other exception propagates, as a finding."""
    try:
        value = call(*args)
    except WireError as error:
        return error_verdict(error)
    return "ok", type(value), value


def error_verdict(error: WireError) -> Verdict:
    """Return the error without its text, after checking its code and class against the table."""
    expect(error.code in ERROR_CODES, "documented errors", error.code)
    expect(ERROR_CODES[error.code][0] is type(error), "class of the error", f"{error.code} as {type(error).__name__}")
    return "error", type(error), error.code, error.offset, error.path


def kind_of(verdict: Verdict) -> object:
    """Return the kind of a verdict: without value, offset and indexes."""
    if verdict[0] == "ok":
        return verdict[:2]
    path = verdict[4]
    return verdict[2], path and path.partition("[")[0]


def expect_same(ours: Verdict, other: Verdict, oracle: str) -> None:
    """Raise `FindingError` unless two verdicts on one input are the same."""
    if ours != other:
        raise FindingError(oracle, f"{_shown(ours)} and {_shown(other)}")


def _shown(verdict: Verdict) -> str:
    if verdict[0] == "ok":
        return f"accepted as {verdict[1].__name__}"
    return f"{verdict[2]}"


def cuts(data: bytes) -> list[bytes]:
    """Cut `data` into pieces, some of them empty, at places that depend only on the data."""
    random = Random(hashlib.blake2b(data, digest_size=8).digest())
    places = sorted(random.randint(0, len(data)) for _ in range(random.randint(1, 8)))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]
