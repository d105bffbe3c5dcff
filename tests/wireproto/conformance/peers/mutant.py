"""Mutants: reference peers with one bug each, of the kind that implementers make.

A mutant is a class with what it does otherwise than the reference. It names the requirement that it breaks, which a
case has to name too when it fails; where the bug shows in several ways, it names each.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from tests.wireproto.conformance.peers.conversation import Conversation
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import (
    MemoryPressure,
    PongPayload,
    Revision,
    WireError,
)

BOTH = (RankOne, RankZero)
ONE = (RankOne,)
ZERO = (RankZero,)
V1 = Revision.V1
PONG = PongPayload(False, False, MemoryPressure.NORMAL)


class Mutant(NamedTuple):
    """A peer with one bug."""

    name: str
    about: str
    rules: tuple[str, ...]
    """The requirement that the bug breaks, or those by which it can show."""
    revision: Revision
    make: type[RankOne] | type[RankZero]


MUTANTS: dict[str, Mutant] = {}


def mutant(
    *rules: str, roles: tuple[type[Conversation], ...] = BOTH, revision: Revision = Revision.V2
) -> Callable[[type], type]:
    """Make a mutant of each rank from a class, with its name and docstring."""

    def register(cls: type) -> type:
        words = re.sub(r"(?<!^)(?=[A-Z0-9])", "-", cls.__name__).lower()
        for role in roles:
            name = f"rank{role.rank}.{words}"
            assert name not in MUTANTS
            MUTANTS[name] = Mutant(name, cls.__doc__ or "", rules, revision, type(cls.__name__, (cls, role), {}))
        return cls

    return register


class Tolerant(Conversation):
    """Continues after some errors of the codec."""

    codes: tuple[str, ...] = ()
    path: str | None = None

    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code in self.codes and self.path in (None, error.path)
