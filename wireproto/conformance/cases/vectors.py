"""The test vectors of cluster frames in a live session: valid ones are accepted, invalid ones end the connection.

Vectors of every type go to both roles: an unexpected frame is ignored, but decoded strictly first. A case has the
vectors of one type and rule. A rank 0 must be started for each that ends the connection, so it gets one in the standard
profile, and all with `--full`.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from wireproto.codec.frame import decode_frame
from wireproto.conformance.case import RANK_0, RANK_1, case, rule
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed
from wireproto.messages import (
    SPEC_BY_CLASS,
    SPEC_BY_TYPE,
    ClusterMsgType,
    Direction,
    HandshakeAck,
    HandshakeHello,
    JacclBootstrapPayload,
    Message,
    PayloadKind,
    PongPayload,
    Revision,
    SessionEnd,
)
from wireproto.session import Role
from wireproto.testing.vectors import ClusterFrameTest, load

_LONGEST: Final = 16 * 1024
_INFERENCE: Final = range(0x08, 0x0E)


def _vectors(revision: Revision) -> Iterator[ClusterFrameTest]:
    """Return the vectors that have a type, no extension, and a length that allows sending them often."""
    for group in load(ClusterFrameTest).groups:
        for test in group.tests:
            is_of_extensions = test.extensions or any(each.startswith("EXT-") for each in test.requirements)
            if test.revision == revision and not is_of_extensions and 0 < len(test.frame) <= _LONGEST:
                yield test


def _belongs(message: Message, role: Role) -> bool:
    theirs = Direction.RANK_0_TO_1 if role is Role.RESPONDER else Direction.RANK_1_TO_0
    return SPEC_BY_CLASS[type(message)].direction is theirs


def _is_harmless(message: Message, role: Role) -> bool:
    """Return whether every peer of the role must accept the frame and continue."""
    match message:
        case SessionEnd():
            return role is Role.INITIATOR
        case JacclBootstrapPayload():
            return role is Role.INITIATOR  # rank 1 would start an init
        case PongPayload():
            return role is Role.RESPONDER  # rank 0 may end its session
        case _:
            holds_tensor = SPEC_BY_CLASS[type(message)].kind is PayloadKind.OPAQUE or hasattr(message, "sealed_token")
            holds_tensor = holds_tensor or hasattr(message, "sealed_activation")
            return not (holds_tensor and _belongs(message, role))


def _accepted(role: Role, revision: Revision, name: str, tests: list[ClusterFrameTest]) -> None:
    about = f"Every valid {name} of the test vectors is accepted or ignored, and the session continues."
    rules = list(dict.fromkeys(each for test in tests for each in test.requirements))
    first = tests[0].requirements[0]
    message = decode_frame(bytes(tests[0].frame), revision)
    if isinstance(message, HandshakeHello | HandshakeAck) or not _belongs(message, role):
        first = "SESSION-IGNORE"
        rules.append(first)

    def broken(test: ClusterFrameTest) -> str:
        """Return the rule of a refused frame. The first one, which is like many others, has that of its type."""
        of_content = (each for each in test.requirements if each != "FRAME-TYPE")
        return first if test is tests[0] else next(of_content, first)

    @case(
        "vectors",
        f"accepts-{name}{_suffix(revision)}",
        *rules,
        roles=(role,),
        revisions=(revision,),
        about=about,
        deadline=60.0,
    )
    async def script(peer: Peer) -> None:
        link = await peer.session()
        for test in tests:
            await link.send(f"{test.id}: {test.comment}", bytes(test.frame))
            if role is Role.RESPONDER:
                await _expect_alive(link, test, broken(test))
        try:
            await _expect_alive(link, tests[-1], broken(tests[-1]))
        except Missed:
            for test in tests:  # find the refused one
                if not await peer.again():
                    break
                link = await peer.session()
                await link.send(f"{test.id}, alone", bytes(test.frame))
                await _expect_alive(link, test, broken(test))
            raise


async def _expect_alive(link: Link, test: ClusterFrameTest, rule: str) -> None:
    try:
        await link.expect_alive(f"that {test.id} is accepted")
    except Missed as missed:
        raise Missed(missed.expected, missed.came, missed.requirement or rule) from None


def _rejected(role: Role, revision: Revision, name: str, first: str, tests: list[ClusterFrameTest]) -> None:
    about = f"An invalid {name} of the test vectors, by {first}, ends the connection."
    need = _need(role, tests[0])

    @case(
        "vectors",
        f"rejects-{name}-{first.lower()}{_suffix(revision)}",
        *dict.fromkeys(each for test in tests for each in test.requirements),
        roles=(role,),
        revisions=(revision,),
        about=about,
        needs=(need,) if need else (),
        deadline=60.0,
    )
    async def script(peer: Peer) -> None:
        async for link, test in peer.sessions(tests if peer.settings.full or role is Role.RESPONDER else tests[:1]):
            await link.send(f"{test.id}: {test.comment}", bytes(test.frame))
            try:
                await link.expect_closed()
            except Missed as missed:
                came = f"{missed.came} ({test.id})"
                raise Missed(missed.expected, came, missed.requirement or first) from None


def _need(role: Role, test: ClusterFrameTest) -> str:
    """Return the case that must pass first: otherwise a vector only shows again that such frames are not refused."""
    assert test.error is not None  # noqa: S101 - it is invalid
    msg_type = test.frame[0]
    if test.error.code == "type-unknown":
        return "frame.type-of-revision-2" if msg_type in SPEC_BY_TYPE else "frame.type-unknown"
    theirs = Direction.RANK_0_TO_1 if role is Role.RESPONDER else Direction.RANK_1_TO_0
    if SPEC_BY_TYPE[msg_type].direction is not theirs or msg_type <= 2:
        return "frame.misplaced-and-malformed"
    if role is Role.INITIATOR:
        return "payload.cut-short"
    return "payload.step-token" if msg_type in _INFERENCE else ""


def _name(msg_type: int) -> str:
    try:
        return ClusterMsgType(msg_type).wire_name
    except ValueError:
        return "unknown-type"


def _slug(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)


def _suffix(revision: Revision) -> str:
    return "-v1" if revision is Revision.V1 else ""


def _register() -> None:
    for revision in Revision:
        valid: dict[str, list[ClusterFrameTest]] = defaultdict(list)
        invalid: dict[tuple[str, str], list[ClusterFrameTest]] = defaultdict(list)
        for test in _vectors(revision):
            name = _slug(_name(test.frame[0]))
            if test.error is None:
                valid[name].append(test)
            else:
                invalid[name, _rule(test)].append(test)
        for roles in (RANK_1, RANK_0):
            (role,) = roles
            for name, tests in valid.items():
                taken = [each for each in tests if _is_harmless(decode_frame(bytes(each.frame), revision), role)]
                if taken:
                    _accepted(role, revision, name, taken)
            for (name, first), tests in invalid.items():
                _rejected(role, revision, name, first, tests)


def _rule(test: ClusterFrameTest) -> str:
    first = test.requirements[0]
    assert rule(first).level.value == "MUST"  # noqa: S101 - what is invalid breaks a MUST
    return first


_register()
