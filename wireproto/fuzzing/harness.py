"""What a harness is: one layer, what is fed to it, how that is changed, and what has to hold of whatever comes in."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from wireproto.errors import ERROR_CODES, WireError

MAX_INPUT: Final = 256 * 1024
"""Bytes of an input; mutations do not go beyond."""
MAX_KEPT: Final = 16 * 1024
"""Bytes of an input that is kept, to be changed again."""


class FindingError(AssertionError):
    """Something that has to hold of every input does not hold of this one.

    `oracle` is the name of what does not hold; findings of one name with the same `detail` are one finding.
    """

    def __init__(self, oracle: str, detail: str) -> None:
        super().__init__(f"{oracle}: {detail}")
        self.oracle = oracle
        self.detail = detail


@dataclass(frozen=True)
class Harness:
    """One layer under test."""

    name: str
    check: Callable[[bytes], object]
    """Feeds one input to the layer. Returns, as something hashable, what kind of thing happened, or a frozenset of
    kinds: an input that makes a new one is kept. Raises `FindingError`; any other exception is a finding, too."""
    seeds: Callable[[], Iterable[tuple[str, bytes]]]
    """Inputs to begin with, and their names."""
    mutate: Callable[[Random, bytes], bytes]
    """Another input from one; deterministic under the seed of its `Random`."""
    modules: Sequence[str] = field(default=())
    """Those whose lines count as the layer's coverage."""
    quick: Callable[[bytes], object] | None = None
    """A part of `check`, with the same result: what a run does to most inputs, where all of `check` takes too long."""

    def fuzz_one_input(self, data: bytes) -> None:
        """`check`, as Atheris and pytest call it."""
        self.check(data)


def expect(holds: bool, oracle: str, detail: str = "") -> None:
    """Raises `FindingError` unless it holds."""
    if not holds:
        raise FindingError(oracle, detail)


Verdict = tuple[Any, ...]
"""("ok", class, value), or ("error", class, code, offset, path)."""


def verdict_of(call: Callable[..., Any], *args: Any) -> Verdict:
    """The outcome of a call: a value, or an error that is documented. Anything else goes on up, and is a finding."""
    try:
        value = call(*args)
    except WireError as error:
        return error_verdict(error)
    return "ok", type(value), value


def error_verdict(error: WireError) -> Verdict:
    """The error without its prose. Its code has to be in the table, with the error's own class."""
    expect(error.code in ERROR_CODES, "documented errors", error.code)
    expect(ERROR_CODES[error.code][0] is type(error), "class of the error", f"{error.code} as {type(error).__name__}")
    return "error", type(error), error.code, error.offset, error.path


def kind_of(verdict: Verdict) -> object:
    """A verdict without its value, offset and indexes: what kind of thing happened."""
    if verdict[0] == "ok":
        return verdict[:2]
    path = verdict[4]
    return verdict[2], path and path.partition("[")[0]


def expect_same(ours: Verdict, other: Verdict, oracle: str) -> None:
    """Two verdicts on one input are the same."""
    if ours != other:
        raise FindingError(oracle, f"{_shown(ours)} and {_shown(other)}")


def _shown(verdict: Verdict) -> str:
    if verdict[0] == "ok":
        return f"accepted as {verdict[1].__name__}"
    return f"{verdict[2]}"


def cuts(data: bytes) -> list[bytes]:
    """`data` in pieces, some of them empty: other places for other data, the same ones for the same."""
    random = Random(hashlib.blake2b(data, digest_size=8).digest())
    places = sorted(random.randint(0, len(data)) for _ in range(random.randint(1, 8)))
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]
