"""Captures with packets out of order: [LINK-CHUNKS] nothing may be lost."""

from collections.abc import Callable
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from tests.examples import examples
from tests.wireproto.inspection.captured import read
from tests.wireproto.inspection.talks import BOOTSTRAP, ENDS, PONG, Talk, a_talk, cut, entries, pcap, segments_of
from wireproto import Outcome, OutcomeState, Ping, Revision, SessionEnd
from wireproto.inspection.sessions import Kind
from wireproto.inspection.tcp import ACK, FIN, RST, SYN, Endpoint, Segment, Stream

Packets = list[tuple[float, bytes]]

NAMES = ["handshakeHello", "handshakeAck", "ping", "pong", "jacclBootstrap", "sideChannel", "outcome", "sessionEnd"]


def long_talk(revision: Revision = Revision.V2) -> Talk:
    """A session in which each side depends on the other's messages, such as extensions."""
    talk = Talk(revision).say(0, Ping()).say(1, PONG).say(0, BOOTSTRAP)
    talk.say(1, Outcome(1, OutcomeState.READY, "", "", "")).say(0, Outcome(0, OutcomeState.READY, "", "", ""))
    return talk.say(0, SessionEnd()).close()


TALK = long_talk()
CONTENTS = read(pcap(TALK.packets), TALK.keys()).names


def source(packet: bytes) -> bytes:
    return packet[12:16]


def acks(packet: bytes) -> list[bytes]:
    """A packet, preceded by its own acknowledgement, as another thread may write it."""
    (segment,) = segments_of([(0.0, packet)])
    if not segment.data:
        return [packet]
    talk = Talk()
    written: list[bytes] = []
    talk.tcp._ends = (segment.target, segment.source)
    talk.tcp._next = [segment.acknowledged, segment.sequence + len(segment.data)]
    talk.packets.clear()
    talk.tcp._segment(0, 0.0, ACK)
    written += [data for _, data in talk.packets]
    return [*written, packet]


def swapped(packets: Packets) -> Packets:
    """Each answer before its request."""
    out = packets[:3]
    rest = packets[3:]
    for at in range(0, len(rest) - 1, 2):
        out += [rest[at + 1], rest[at]]
    return out + rest[len(rest) // 2 * 2 :]


def by_thread(first: int) -> Callable[[Packets], Packets]:
    """All packets of one side, then those of the other."""

    def order(packets: Packets) -> Packets:
        return sorted(packets, key=lambda packet: source(packet[1]) != ENDS[first].ip)

    return order


ORDERS: dict[str, Callable[[Packets], Packets]] = {
    "as-sent": list,
    "answers-before-requests": swapped,
    "acks-before-data": lambda packets: [(time, each) for time, data in packets for each in acks(data)],
    "acks-before-data-without-a-start": lambda packets: [
        (time, each) for time, data in packets[3:] for each in acks(data)
    ],
    "answers-before-requests-without-a-start": lambda packets: swapped(packets)[3:],
    "one-thread-after-the-other": by_thread(0),
    "the-answering-thread-first": by_thread(1),
    "reversed-in-fours": lambda packets: [
        each for at in range(0, len(packets), 4) for each in packets[at : at + 4][::-1]
    ],
    "reversed": lambda packets: packets[::-1],
    "every-third": lambda packets: [each for at in range(3) for each in packets[at::3]],
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_loses_nothing(name: str) -> None:
    found = read(pcap(ORDERS[name](TALK.packets)), TALK.keys())
    assert sorted(found.names) == sorted(CONTENTS)
    assert found.lost == 0
    assert found.fault is None
    assert not [entry for entry in found.entries if entry.kind in (Kind.BROKEN, Kind.SKIPPED, Kind.LATE, Kind.SEALED)]


@pytest.mark.parametrize("name", ["answers-before-requests", "acks-before-data", "reversed-in-fours", "every-third"])
def test_what_was_sent_after_something_is_shown_after_it(name: str) -> None:
    assert read(pcap(ORDERS[name](TALK.packets)), TALK.keys()).names == CONTENTS


def disturbed(random: Random) -> list[Segment]:
    """The talk in many segments, some of them lost, repeated, late, cut, or with other flags and numbers."""
    segments = [part for segment in TALK.segments for part in (cut(segment, 40) if segment.data else [segment])]
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(len(segments))
        segment = segments.pop(at)
        short = random.randrange(len(segment.data) + 1)
        number = (segment.sequence + random.choice((-40, -1, 1, 40))) & 0xFFFF_FFFF
        changed = {
            "lost": [],
            "repeated": [segment, segment],
            "cut": [replace(segment, data=segment.data[:short], cut=len(segment.data) - short)],
            "closing": [replace(segment, flags=segment.flags | random.choice((FIN, RST)))],
            "elsewhere": [replace(segment, sequence=number)],
            "acknowledging": [replace(segment, acknowledged=(segment.acknowledged + 40) & 0xFFFF_FFFF)],
        }
        segments[at:at] = changed.get(kind := random.choice((*changed, "late")), [])
        if kind == "late":
            segments.insert(min(len(segments), at + random.randrange(1, 9)), segment)
    return segments


@given(seed=st.integers(0, 2**32))
@settings(max_examples=examples(240))
def test_the_short_way_of_most_segments_gives_the_same(seed: int) -> None:
    segments = disturbed(Random(seed))

    def found() -> list[dict[str, object]]:
        return [asdict(entry) | {"error": str(entry.error)} for entry in entries(segments, TALK.keys())]

    usual = found()
    with patch.object(Stream, "append", lambda self, segment: False):
        assert found() == usual


@given(seed=st.integers(0, 2**32), window=st.integers(2, 12))
def test_shuffled_within_a_window(seed: int, window: int) -> None:
    random = Random(seed)
    keys = [at + random.uniform(0, window) for at in range(len(TALK.packets))]
    shuffled = [packet for _, packet in sorted(zip(keys, TALK.packets, strict=True), key=lambda each: each[0])]
    found = read(pcap(shuffled), TALK.keys())
    assert sorted(found.names) == sorted(CONTENTS)
    assert found.lost == 0


def test_a_reset_before_the_last_data() -> None:
    talk = Talk().say(0, Ping()).say(1, PONG)
    last = talk.segments[-1]
    reset = replace(last, sequence=last.sequence + len(last.data), data=b"", flags=RST | ACK)
    found = entries([*talk.segments[:-1], reset, last], talk.keys())
    assert [entry.kind for entry in found] == [Kind.OPENED, *[Kind.MESSAGE] * 4, Kind.CLOSED]


def test_a_start_after_the_first_data() -> None:
    segments = a_talk().segments
    found = entries([*segments[3:6], *segments[:3], *segments[6:]])
    assert found[0].note == ""
    assert [entry.kind for entry in found].count(Kind.OPENED) == 1


@pytest.mark.parametrize("port", [7777, 49999])
def test_a_packet_that_never_comes_delays_the_others_and_no_more(port: int) -> None:
    """[SESSION-TCP] Entries continue after some segments or some time."""
    talk = Talk(ends=(ENDS[0], Endpoint(ENDS[1].ip, port)))
    for _ in range(100):
        talk.say(0, Ping()).say(1, PONG)
    segments = talk.segments
    missing = segments.pop(20)
    from wireproto.inspection.connections import Capture

    capture = Capture(talk.keys())
    shown = 0
    for count, segment in enumerate(segments):
        shown += sum(entry.kind is Kind.MESSAGE for entry in capture.take(segment))
        assert shown >= count - 3 - 2 * 66
    assert shown >= 199
    rest = list(capture.end())
    assert shown + sum(entry.kind is Kind.MESSAGE for entry in rest) == 201
    assert len(missing.data) > 0


def test_what_is_missing_is_given_up_after_a_second() -> None:
    from wireproto.inspection.connections import Capture

    talk = Talk().say(0, Ping()).say(1, PONG).say(0, Ping()).say(1, PONG)
    segments = talk.segments
    lost = segments.pop(-2)
    later = replace(segments[-1], sequence=segments[-1].sequence + len(segments[-1].data), time=segments[-1].time + 1.5)
    capture = Capture(talk.keys())
    found = [entry for segment in segments for entry in capture.take(segment)]
    assert found[-1].kind is Kind.MESSAGE
    assert len(found) == 5
    found = list(capture.take(replace(later, data=b"", flags=ACK)))
    assert [entry.kind for entry in found] == [Kind.MESSAGE]
    (missing,) = [entry for entry in capture.end() if entry.kind is Kind.LOST]
    assert missing.lost == len(lost.data)


# -- before the first frame, and one direction only --------------------------------------------------------------------


@pytest.mark.parametrize("port", [7777, 49999])
@pytest.mark.parametrize("cut", [5, 100, 300])
def test_a_gap_before_the_first_frame_is_counted(port: int, cut: int) -> None:
    """On any port; as a stream without its beginning, and as one whose first packet is missing."""
    ends = (ENDS[0], Endpoint(ENDS[1].ip, port))
    talk = a_talk(ends=ends)
    segments = talk.segments
    hello = next(at for at, segment in enumerate(segments) if segment.data)
    part = replace(segments[hello], sequence=segments[hello].sequence + cut, data=segments[hello].data[cut:])
    found = entries([*segments[:hello], part, *segments[hello + 1 :]], talk.keys())
    lost = sum(entry.lost for entry in found if entry.sender == 0)
    assert lost == cut
    found = entries([part, *segments[hello + 1 :]], talk.keys())
    assert sum(entry.size - entry.lost for entry in found) == sum(len(each.data) for each in segments) - cut


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("whole", [True, False])
def test_one_direction(side: int, whole: bool) -> None:
    """Missing bytes of the other side are counted, as far as they were acknowledged."""
    talk = long_talk()
    segments = [each for each in talk.segments if each.source == talk.ends[side] and (whole or not each.flags & SYN)]
    found = entries(segments, talk.keys())
    sent = sum(len(segment.data) for segment in segments)
    assert sum(entry.size - entry.lost for entry in found) == sent
    assert not [entry for entry in found if entry.kind is Kind.BROKEN]
    acknowledged = [segment.acknowledged for segment in segments if segment.flags & ACK]
    assert sum(entry.lost for entry in found) == max(acknowledged) - min(acknowledged)
