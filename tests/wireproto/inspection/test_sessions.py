"""Messages on the connections of a capture: with keys and without, complete and partial, right and wrong."""

import io
from itertools import pairwise

import pytest
from msgspec.structs import replace

from tests.wireproto.inspection.talks import BOOTSTRAP, ENDS, PONG, Talk, a_talk, cut, entries, with_data
from wireproto import (
    InferenceStep,
    InferenceToken,
    Outcome,
    OutcomeState,
    Ping,
    PPActivationPayload,
    Revision,
    SideChannelPart,
    encode_link_frame,
)
from wireproto.codec.tensor import STOP, Activation, encode_activation, encode_token
from wireproto.inspection.connections import Capture, entries_of_stream
from wireproto.inspection.keys import KeyLog
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.tcp import RST, Endpoint
from wireproto.inspection.timeline import summary, title

NAMES = ["handshakeHello", "handshakeAck", "ping", "pong", "jacclBootstrap", "sessionEnd"]
ALL = [Kind.OPENED, *[Kind.MESSAGE] * 6, Kind.CLOSED, Kind.CLOSED]


def kinds(found: list[Entry]) -> list[Kind]:
    return [entry.kind for entry in found]


def names(found: list[Entry]) -> list[str]:
    return [title(entry) for entry in found if entry.kind is Kind.MESSAGE]


def said(found: list[Entry]) -> list[Entry]:
    return [entry for entry in found if entry.kind not in (Kind.OPENED, Kind.CLOSED)]


def broken(found: list[Entry]) -> list[tuple[str, int | None]]:
    return [(entry.error.code, entry.error.offset) for entry in found if entry.error is not None]


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", list(Revision))
def test_a_session_is_open_with_its_key(revision: Revision) -> None:
    talk = a_talk(revision)
    found = entries(talk.segments, talk.keys())
    assert kinds(found) == ALL
    assert names(found) == NAMES
    assert [entry.sender for entry in said(found)] == [0, 1, 0, 1, 0, 0]
    assert [entry.sealed for entry in said(found)] == [False, False, *[revision is Revision.V2] * 4]
    assert found[0].ends == ENDS
    assert found[0].note == ""
    for side in (0, 1):
        own = [entry for entry in said(found) if entry.sender == side]
        assert own[0].offset == 0
        assert all(after.offset == before.offset + before.size for before, after in pairwise(own))


def test_a_sealed_session_stays_closed_without_its_key() -> None:
    other = a_talk().keys()
    for keys in (None, KeyLog(io.StringIO()), other):
        found = entries(a_talk().segments, keys)
        assert kinds(found) == [Kind.OPENED, *[Kind.MESSAGE] * 2, *[Kind.SEALED] * 4, Kind.CLOSED, Kind.CLOSED]
        assert [entry.frame for entry in found[3:7]] == [None] * 4


def test_an_unsealed_session_needs_no_key() -> None:
    assert kinds(entries(a_talk(Revision.V1).segments)) == ALL


def test_the_key_log_is_read_as_it_grows() -> None:
    talk = a_talk()
    line = talk.key_log.getvalue()
    file = io.StringIO()
    keys = KeyLog(file)

    def write(text: str) -> None:
        at = file.tell()
        file.seek(0, io.SEEK_END)
        file.write(text)
        file.seek(at)

    nonce = bytes.fromhex(line.split()[1])
    write("# a comment\nCLIENT_RANDOM 00 00\n" + line[:50])
    assert keys.find(nonce) is None
    write(line[50:-1])
    assert keys.find(nonce) == bytes.fromhex(line.split()[2])
    assert list(keys.all()) == [bytes.fromhex(line.split()[2])]


# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", list(Revision))
def test_tensor_boxes_are_opened(revision: Revision) -> None:
    talk = Talk(revision).say(0, Ping())
    zero, one = talk.sides
    activation = encode_activation(Activation(2, 4, bytes(16)))
    talk.say(0, InferenceStep(zero.seal_tensor(activation)), InferenceStep(zero.seal_tensor(STOP)))
    talk.say(1, InferenceToken(one.seal_tensor(encode_token(-7))))
    shown = [summary(entry) for entry in said(entries(talk.segments, talk.keys()))][-3:]
    assert shown == ["box [48 bytes]; activation [1, 2, 4]", "box [32 bytes]; stop", "box [32 bytes]; token -7"]
    closed = entries(talk.segments)[-3:]
    assert [entry.tensor for entry in closed] == [None] * 3


@pytest.mark.parametrize(
    ("plaintext", "code"),
    [(b"abc", "truncated"), (b"\2\0\0\0abc", "trailing-data"), (b"\xfe\xff\xff\xff", "activation-seq-len")],
)
def test_a_tensor_box_with_something_else(plaintext: bytes, code: str) -> None:
    talk = Talk().say(0, Ping())
    talk.say(0, PPActivationPayload("u", 2, talk.sides[0].seal_tensor(plaintext)))
    found = entries(talk.segments, talk.keys())
    assert found[-1].kind is Kind.BROKEN
    assert [each for each, _ in broken(found)] == [code]


def test_a_tensor_box_that_does_not_open() -> None:
    talk = Talk().say(0, Ping(), InferenceStep(bytes(32)), Ping())
    found = said(entries(talk.segments, talk.keys()))
    assert kinds(found[2:]) == [Kind.MESSAGE, Kind.BROKEN, Kind.MESSAGE]
    assert broken(found) == [("seal-tag", 0)]
    assert "at byte 0 of the tensor box" in summary(found[3])


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code", "offset"),
    [
        (b"\x07{}", "field-missing", 2),
        (b'\x07{"port":"x","sessionID":""}', "field-type", 9),
        (b"\x03!", "payload-not-empty", 1),
        (b"\x77", "type-unknown", 0),
    ],
)
def test_a_broken_frame_is_shown_where_it_breaks_and_the_next_is_read(frame: bytes, code: str, offset: int) -> None:
    talk = Talk(Revision.V1).say(0, Ping())
    found = entries(talk.raw(0, encode_link_frame(frame)).raw(0, encode_link_frame(b"\x03")).segments)
    assert kinds(found)[3:] == [Kind.MESSAGE, Kind.BROKEN, Kind.MESSAGE]
    assert broken(found) == [(code, offset)]
    assert found[4].frame == frame
    assert f"{code}" in summary(found[4])
    assert f"at byte {offset} of the cluster frame" in summary(found[4])


def test_a_broken_frame_in_a_box() -> None:
    talk = Talk().say(0, Ping())
    box = talk.sides[0].seal_tensor(b"\x07[]")
    found = entries(talk.raw(0, encode_link_frame(box)).segments, talk.keys())
    assert broken(found) == [("payload-not-object", 1)]
    assert found[-1].sealed
    assert found[-1].frame == b"\x07[]"


def test_a_box_that_was_tampered_with_and_one_that_came_twice() -> None:
    talk = Talk().say(0, Ping(), Ping())
    first = encode_link_frame(talk.sides[0].seal_tensor(b"\x03"))
    talk.raw(0, first).raw(0, first).raw(0, first[:-1] + b"\0").raw(0, encode_link_frame(b"\x03"))
    found = said(entries(talk.segments, talk.keys()))
    assert kinds(found[4:]) == [Kind.MESSAGE, Kind.BROKEN, Kind.BROKEN, Kind.BROKEN]
    assert broken(found)[0] == ("seal-replay", 0)
    assert broken(found)[2] == ("truncated", 1)
    assert "of the sealed box" in summary(found[-1])


def test_a_wrong_length_and_the_frames_behind_it() -> None:
    talk = Talk(Revision.V1).say(0, Ping())
    at = 8 + int.from_bytes(talk.segments[3].data[:8], "little") + 9
    talk.raw(0, b"\xff" * 8).raw(0, encode_link_frame(b"\x03") * 2)
    found = said(entries(talk.segments))
    assert kinds(found[3:]) == [Kind.BROKEN, Kind.SKIPPED, Kind.MESSAGE, Kind.MESSAGE]
    assert broken(found) == [("link-length-limit", at)]
    assert (found[4].offset, found[4].size) == (at, 8)


def test_a_broken_handshake() -> None:
    talk = Talk()
    talk.packets = talk.packets[:3]
    talk.tcp._next = [1, 1]
    found = entries(talk.raw(0, encode_link_frame(b'\x01{"nonce":5}')).segments)
    assert kinds(found) == [Kind.OPENED, Kind.BROKEN]
    assert broken(found) == [("field-type", 10)]


def test_a_message_from_the_wrong_rank() -> None:
    talk = Talk(Revision.V1).say(0, Ping())
    found = entries(talk.raw(1, encode_link_frame(b"\xff")).segments)
    assert found[-1].kind is Kind.MESSAGE
    assert found[-1].note == "unexpected from this rank; ignored"


# -- extensions --------------------------------------------------------------------------------------------------------


def test_frames_of_an_extension_are_known_once_it_is_agreed() -> None:
    talk = Talk().say(0, Ping()).say(1, PONG).say(0, BOOTSTRAP).say(1, SideChannelPart(0, b"abc"))
    talk.say(1, Outcome(1, OutcomeState.READY, "", "", ""))
    found = entries(talk.segments, talk.keys())
    assert names(found)[-2:] == ["sideChannelPart", "outcome"]


def test_frames_of_an_extension_are_unknown_before() -> None:
    talk = Talk().say(0, Ping()).say(1, PONG)
    box = talk.sides[1].seal_tensor(b"\x40\0\0\0\0abc")
    found = entries(talk.raw(1, encode_link_frame(box)).segments, talk.keys())
    assert broken(found) == [("type-unknown", 0)]


def test_an_extension_that_was_not_offered() -> None:
    talk = Talk().say(0, Ping())
    frame = b'\x07{"port":1,"sessionID":"a","extensions":["outcome/1"]}'
    box = talk.sides[0].seal_tensor(frame)
    found = entries(talk.raw(0, encode_link_frame(box)).segments, talk.keys())
    assert broken(found) == [("extension-not-offered", 0)]


# -- missing bytes -----------------------------------------------------------------------------------------------------


def test_small_segments_repeated_and_out_of_order() -> None:
    talk = a_talk()
    pieces = [piece for segment in talk.segments for piece in (cut(segment, 11) if segment.data else [segment])]
    pieces[5], pieces[6] = pieces[6], pieces[5]
    pieces.insert(20, pieces[10])
    found = entries(pieces, talk.keys())
    assert kinds(found) == ALL
    assert names(found) == NAMES


def test_a_packet_that_was_not_captured() -> None:
    talk = Talk().say(0, Ping(), Ping()).say(1, PONG, PONG)
    segments = talk.segments
    lost = with_data(segments, 0)[1]
    size = len(segments[lost].data)
    found = said(entries(segments[:lost] + segments[lost + 1 :], talk.keys()))
    assert [(entry.kind, entry.size) for entry in found if entry.kind is not Kind.MESSAGE] == [(Kind.LOST, size)]
    assert names(found) == ["handshakeHello", "handshakeAck", "ping", "pong", "pong"]


def test_without_the_hello_the_key_is_found_by_trying() -> None:
    talk = a_talk()
    other, third = a_talk(), a_talk()
    first = with_data(talk.segments, 0)[1]
    log = other.key_log.getvalue() + talk.key_log.getvalue() + third.key_log.getvalue()
    found = entries(talk.segments[first:], KeyLog(io.StringIO(log)))
    assert found[0].note == "joined later"
    assert names(found) == ["ping", "pong", "jacclBootstrap", "sessionEnd"]
    assert [entry.sender for entry in said(found)] == [0, 1, 0, 0]


@pytest.mark.parametrize("revision", list(Revision))
def test_joined_in_the_middle_of_a_frame(revision: Revision) -> None:
    talk = a_talk(revision)
    hello = with_data(talk.segments, 0)[0]
    segments = list(talk.segments)[hello:]
    segments[0] = replace(segments[0], sequence=segments[0].sequence + 20, data=segments[0].data[20:])
    found = said(entries(segments, talk.keys()))
    # Without the hello, the side of the first frame is unknown; the ack has its own type.
    assert names(found) == NAMES[1:]
    skipped = [entry.size for entry in found if entry.kind is Kind.SKIPPED]
    assert skipped in ([], [len(segments[0].data)])  # its DER signature varies in length


def test_the_same_ends_connect_again() -> None:
    first, second = a_talk(), a_talk()
    later = [replace(segment, sequence=segment.sequence + 777, time=segment.time + 9) for segment in second.segments]
    log = first.key_log.getvalue() + second.key_log.getvalue()
    found = entries([*first.segments, *later], KeyLog(io.StringIO(log)))
    assert kinds(found) == ALL * 2
    assert [entry.connection for entry in found] == [1] * 9 + [2] * 9


def test_a_reset_ends_both_streams() -> None:
    talk = Talk().say(0, Ping())
    talk.raw(1, b"\x1d\0\0\0")
    last = replace(talk.segments[-1], sequence=talk.segments[-1].sequence + 4, data=b"", flags=RST)
    found = entries([*talk.segments, last])
    assert kinds(found[-2:]) == [Kind.BROKEN, Kind.CLOSED]
    assert broken(found)[0][0] == "truncated"
    assert summary(found[-1]) == "by a reset"


# -- what is none of the protocol's ------------------------------------------------------------------------------------


def test_other_connections_are_left_out() -> None:
    talk = Talk()
    talk.packets = talk.packets[:3]
    talk.raw(0, b"GET / HTTP/1.1\r\n\r\n").raw(1, b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000)).close()
    capture = Capture(None)
    found = [entry for segment in talk.segments for entry in capture.take(segment)] + list(capture.end())
    assert found == []
    assert capture.others == 1


def test_another_connection_that_was_joined_later_holds_little_memory() -> None:
    capture = Capture(None)
    first = Talk().segments[3]
    for at in range(0, 2 << 20, 8192):
        data = b"\xff\0\0\x0f\0\0\0\0" * 1024  # any of them may be the length of a frame that follows
        segment = replace(first, sequence=(first.sequence + at) & 0xFFFF_FFFF, data=data)
        assert list(capture.take(segment)) == []
    (connection,) = capture._connections.values()
    assert len(connection._finders[0]._held) < 1 << 20
    assert list(capture.end()) == []
    assert capture.others == 1


def test_on_the_protocols_own_port_anything_is_told_of() -> None:
    talk = Talk(ends=(ENDS[0], Endpoint(b"\x7f\0\0\2", 7777)))
    talk.packets = talk.packets[:3]
    talk.tcp._next = [1, 1]
    found = entries(talk.raw(0, b"GET / HTTP/1.1\r\n\r\n").segments)
    assert kinds(found) == [Kind.OPENED, Kind.BROKEN, Kind.SKIPPED]
    assert broken(found) == [("link-length-limit", 0)]


def test_more_connections_than_are_followed() -> None:
    talk = a_talk()
    segments = [
        replace(segment, source=Endpoint(bytes(4), port), target=ENDS[1])
        for port in range(1, 200)
        for segment in talk.segments[:4]
        if segment.source == ENDS[0]
    ]
    found = entries(segments)
    assert kinds(found).count(Kind.OPENED) == 199


# -- bytes without packets ---------------------------------------------------------------------------------------------


def test_a_stream_of_one_direction() -> None:
    talk = a_talk()
    for side, expected in (
        (0, ["handshakeHello", "ping", "jacclBootstrap", "sessionEnd"]),
        (1, ["handshakeAck", "pong"]),
    ):
        chunks = [segment.data for segment in talk.segments if segment.source == ENDS[side]]
        found = list(entries_of_stream(chunks, talk.keys()))
        assert names(found) == expected
        assert {entry.sender for entry in found} == {side}
