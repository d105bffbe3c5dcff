"""Cases, their registry, and selectors."""

import fnmatch
import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, TypeVar

from wireproto.conformance.peer import Peer
from wireproto.messages import Revision
from wireproto.session import Role
from wireproto.testing.requirements import Level, Requirement, requirements

SECTIONS: Final = (
    "sanity",
    "framing",
    "frame",
    "payload",
    "handshake",
    "seal",
    "session",
    "bootstrap",
    "extensions",
    "vectors",
    "model",
)
RANK_0: Final = (Role.INITIATOR,)
RANK_1: Final = (Role.RESPONDER,)
BOTH: Final = (*RANK_0, *RANK_1)
V1: Final = (Revision.V1,)
V2: Final = (Revision.V2,)
FULL_ONLY: Final = "only with --full"

Script = Callable[[Peer], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test of one property of a peer in one role."""

    id: str
    """Permanent: `rank1.framing.length-zero`; the rank is that of the peer under test."""
    role: Role
    section: str
    about: str
    requirements: tuple[str, ...]
    needs: tuple[str, ...]
    """Ids of cases that must pass first: otherwise this one would only repeat their failure, and is skipped."""
    revisions: tuple[Revision, ...]
    deadline: float
    """Seconds for the whole case."""
    script: Script

    @property
    def level(self) -> Level:
        return strictest(self.requirements).level

    @property
    def is_generated(self) -> bool:
        """Whether it runs points along a dimension, test vectors or scripts rather than one example."""
        return self.script.__module__.rpartition(".")[2] in ("generated", "contents", "vectors", "model")


class Registry:
    """All cases, in order of definition."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def __call__(
        self,
        section: str,
        name: str,
        *rules: str,
        roles: tuple[Role, ...] = BOTH,
        revisions: tuple[Revision, ...] = tuple(Revision),
        deadline: float = 20.0,
        about: str = "",
        needs: tuple[str, ...] = (),
    ) -> Callable[[Script], Script]:
        """Decorate the script of a case. Its docstring is the case's title, unless `about` is given.

        `needs` are other cases of the same role, as `section.name`.
        """

        def register(script: Script) -> Script:
            for role in roles:
                rank = role.value.replace(" ", "")
                each = f"{rank}.{section}.{name}"
                if each in self.cases:
                    raise ValueError(f"{each} is defined twice")
                self.cases[each] = Case(
                    id=each,
                    role=role,
                    section=section,
                    about=about or inspect.cleandoc(script.__doc__ or "").replace("\n", " "),
                    requirements=rules,
                    needs=tuple(f"{rank}.{need}" for need in needs),
                    revisions=revisions,
                    deadline=deadline,
                    script=script,
                )
            return script

        return register


case: Final = Registry()


class Selectable(Protocol):
    """The attributes used by `--list` and selectors."""

    @property
    def id(self) -> str: ...
    @property
    def section(self) -> str: ...
    @property
    def level(self) -> Level: ...
    @property
    def requirements(self) -> tuple[str, ...]: ...
    @property
    def about(self) -> str: ...


SelectableT = TypeVar("SelectableT", bound=Selectable)


class SelectionError(ValueError):
    """A selector matches nothing."""


def select(
    cases: Collection[SelectableT], patterns: Collection[str], sections: Collection[str], levels: Collection[str]
) -> list[SelectableT]:
    """Return the cases that match one selector of each given kind. Raise SelectionError if one matches nothing."""
    found = list(cases)
    found = _matching(found, patterns, "case", lambda each, pattern: fnmatch.fnmatchcase(each.id, pattern))
    found = _matching(found, sections, "section", lambda each, section: each.section == section)
    return _matching(found, levels, "level", lambda each, level: each.level.value == level.upper())


def _matching(
    cases: list[SelectableT], selectors: Collection[str], kind: str, matches: Callable[[SelectableT, str], bool]
) -> list[SelectableT]:
    for selector in selectors:
        if not any(matches(each, selector) for each in cases):
            raise SelectionError(f"no case matches the {kind} {selector!r}; --list shows them")
    return [each for each in cases if not selectors or any(matches(each, selector) for selector in selectors)]


_STRICTEST_FIRST: Final = (Level.MUST, Level.SHOULD, Level.MAY)


def strictest(names: Collection[str]) -> Requirement:
    """Return the first of the strictest requirements; its level is that of a failure."""
    return min(map(rule, names), key=lambda each: _STRICTEST_FIRST.index(each.level))


def rule(requirement: str) -> Requirement:
    """Return a requirement of spec/protocol.md by its id."""
    return _rules()[requirement]


@cache
def _rules() -> dict[str, Requirement]:
    return {each.id: each for each in requirements()}
