"""The guarantees of the public strategies, and shrinking to readable examples."""

import re
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.vectors.running import run_session
from tests.wireproto.oracle import judge
from tests.wireproto.payloads import ALL_EXTENSIONS, JSON_CLASSES, TYPE_BYTE, canonical_frame
from tests.wireproto.verdicts import Accepted, Rejected, decode_stream, fast, read_stream, slow
from wireproto import ERROR_CODES, MAX_LINK_LENGTH, Message, Revision, decode_frame, encode_frame
from wireproto.session import Role
from wireproto.session.handshake import Initiator, Responder
from wireproto.session.seal import Seal
from wireproto.testing import strategies
from wireproto.testing.fixed_keys import KNOWN, KnownHandshake
from wireproto.testing.malformed import VIOLATIONS
from wireproto.testing.strategies import BrokenFrame, BrokenStream, EncodedFrame, LinkStream, SealedStream
from wireproto.testing.vectors import SessionTest

EVERY_CLASS = pytest.mark.parametrize("cls", tuple(TYPE_BYTE), ids=lambda cls: cls.__name__)
EVERY_VIOLATION = pytest.mark.parametrize("violation", [each.name for each in VIOLATIONS])
JSON_TYPES = {TYPE_BYTE[cls] for cls in JSON_CLASSES}
SHRINKING = settings(max_examples=2000, phases=[Phase.generate, Phase.shrink])
"""Without hypothesis's attempts to explain the smallest example, which take longer than to find it."""


@EVERY_CLASS
@given(data=st.data())
def test_canonical_frames(cls: type[Message], data: st.DataObject) -> None:
    frame = data.draw(strategies.frames(cls))
    assert frame.data == canonical_frame(frame.message) == encode_frame(frame.message, Revision.V2, ALL_EXTENSIONS)
    assert fast(frame.data) == Accepted(cls, frame.message)


@EVERY_CLASS
@given(data=st.data())
def test_encoded_frames(cls: type[Message], data: st.DataObject) -> None:
    """[JSON-SPELLING, JSON-UNKNOWN-KEY]"""
    frame = data.draw(strategies.encoded_frames(cls))
    assert fast(frame.data) == slow(frame.data) == Accepted(cls, frame.message)
    if frame.data[0] in JSON_TYPES:
        assert judge(frame.data, Revision.V2) == frame.message


@EVERY_VIOLATION
@given(data=st.data())
def test_broken_frames(violation: str, data: st.DataObject) -> None:
    broken = data.draw(strategies.broken_frames(violation))
    assert broken.violation == violation
    verdict = fast(broken.frame)
    assert isinstance(verdict, Rejected)
    assert verdict.code == broken.code
    assert slow(broken.frame) == verdict
    if broken.frame and broken.frame[0] in JSON_TYPES:
        assert judge(broken.frame, Revision.V2) is None


def test_every_code_of_a_frame_has_a_violation() -> None:
    codes = {code for code in ERROR_CODES if re.match("json-|field-|payload-|type-", code)}
    assert codes | {"truncated", "trailing-data"} == {each.code for each in VIOLATIONS}
    assert len({each.name for each in VIOLATIONS}) == len(VIOLATIONS)


@given(stream=strategies.link_streams())
def test_link_streams(stream: LinkStream) -> None:
    decoded = decode_stream(stream.chunks)
    assert decoded == read_stream(stream.data, MAX_LINK_LENGTH)
    assert (decoded.end, tuple(decoded.bodies)) == (None, stream.bodies)


@given(data=st.binary(max_size=40), draw=st.data())
def test_chunkings(data: bytes, draw: st.DataObject) -> None:
    assert b"".join(draw.draw(strategies.chunkings(data))) == data


@given(broken=strategies.broken_link_streams(), data=st.data())
def test_broken_link_streams(broken: BrokenStream, data: st.DataObject) -> None:
    decoded = decode_stream(data.draw(strategies.chunkings(broken.stream)))
    assert decoded == read_stream(broken.stream, MAX_LINK_LENGTH)
    assert decoded.end is not None
    assert (decoded.end.code, tuple(decoded.bodies)) == (broken.code, broken.bodies)


@given(shake=strategies.handshakes())
def test_handshakes(shake: KnownHandshake) -> None:
    initiator = Initiator(shake.rank_0, shake.rank_1.public_key, shake.rank_0.random())
    responder = Responder(shake.rank_1, shake.rank_0.public_key, shake.rank_1.random())
    ack, secrets = responder.respond(shake.hello)
    assert (initiator.hello, ack) == (shake.hello, shake.ack)
    assert initiator.finish(shake.ack).key == secrets.key == shake.key


def test_the_known_handshake_is_that_of_the_vectors() -> None:
    assert KNOWN.key.hex() == "23ad0ed31219b3aa997fc81086c85966b7a61e308497acfdf9519602406531ad"


@given(stream=strategies.sealed_streams())
def test_sealed_streams(stream: SealedStream) -> None:
    seal = Seal(stream.key)
    bodies = decode_stream([stream.data]).bodies
    assert tuple(bodies) == stream.boxes
    assert tuple(decode_frame(seal.decrypt(body)) for body in bodies) == stream.messages


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("revision", Revision)
def test_sessions(role: Role, revision: Revision) -> None:
    @given(script=strategies.sessions(role, revision))
    def runs(script: SessionTest) -> None:
        assert (script.role, script.revision) == (role.value, revision)
        with pytest.MonkeyPatch.context() as patch:
            run_session(script, patch)

    runs()


# -- registration, shrinking ------------------------------------------------------------------------------------------


@EVERY_CLASS
def test_every_payload_class_is_registered(cls: type[Message]) -> None:
    @given(message=st.from_type(cls))
    @settings(max_examples=examples(20))
    def holds(message: Message) -> None:
        assert type(message) is cls
        assert decode_frame(encode_frame(message, Revision.V2, ALL_EXTENSIONS), Revision.V2, ALL_EXTENSIONS) == message

    holds()


@given(message=st.from_type(Message))  # type: ignore[arg-type]
def test_the_union_is_registered(message: Message) -> None:
    assert isinstance(message, get_args(Message))


@pytest.mark.parametrize(
    "cls", [EncodedFrame, BrokenFrame, LinkStream, BrokenStream, KnownHandshake, SealedStream, SessionTest]
)
def test_registered_classes(cls: type[Any]) -> None:
    @given(value=st.from_type(cls))
    @settings(max_examples=5)
    def holds(value: object) -> None:
        assert type(value) is cls

    holds()


def test_a_spelling_shrinks_to_the_canonical_frame() -> None:
    small = find(strategies.encoded_frames(), lambda frame: frame.data[0] == 0x07, settings=SHRINKING, random=Random(1))
    assert small.data == b'\x07{"port":0,"sessionID":""}'


@pytest.mark.parametrize("code", ["json-duplicate-key", "field-base64"])
def test_a_broken_frame_shrinks(code: str) -> None:
    def is_wanted(broken: BrokenFrame) -> bool:
        return broken.code == code

    small = find(strategies.broken_frames(), is_wanted, settings=settings(max_examples=2000), random=Random(1))
    assert len(small.frame) < 60, small


def test_a_session_shrinks_to_a_handshake_and_the_end() -> None:
    small = find(strategies.sessions(Role.INITIATOR), lambda script: True, settings=SHRINKING, random=Random(1))
    assert [step.do for step in small.steps] == ["start", "receive", "end"]
