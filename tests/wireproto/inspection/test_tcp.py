"""Byte streams from segments captured in any order."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from wireproto.inspection.tcp import (
    ACK,
    FIN,
    MAX_EARLY,
    MAX_WINDOW,
    PSH,
    RST,
    SYN,
    Endpoint,
    Late,
    Piece,
    Segment,
    Stream,
)

A, B = Endpoint(b"\x7f\x00\x00\x01", 1), Endpoint(b"\x7f\x00\x00\x01", 2)


def segment(sequence: int, data: bytes = b"", flags: int = ACK) -> Segment:
    return Segment(0.0, A, B, sequence & 0xFFFF_FFFF, 0, flags, data)


def joined(pieces: list[Piece | Late]) -> bytes:
    return b"".join(piece.data for piece in pieces if isinstance(piece, Piece))


@given(
    data=st.binary(min_size=1, max_size=200),
    cuts=st.lists(st.tuples(st.integers(0, 199), st.integers(1, 60)), max_size=12),
    first=st.sampled_from([0, 1, 2**32 - 100, 2**32 - 1, 2**31]),
    seed=st.randoms(use_true_random=False),
)
def test_repeated_and_reordered_segments_give_the_stream(data, cuts, first, seed) -> None:  # type: ignore[no-untyped-def]
    stream = Stream()
    list(stream.take(segment(first - 1, flags=SYN)))
    whole = [segment(first + at, data[at : at + 7]) for at in range(0, len(data), 7)]
    again = [segment(first + at, data[at : at + size]) for at, size in cuts if at < len(data)]
    sent = whole + again
    seed.shuffle(sent)
    pieces = [piece for each in sent for piece in stream.take(each)]
    assert joined(pieces) == data
    assert not any(isinstance(piece, Late) or piece.lost for piece in pieces)
    assert stream.from_start
    assert stream.offset == len(data)
    assert stream.repeated == sum(len(each.data) for each in again)


def test_what_was_acknowledged_and_not_captured_is_lost() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    assert joined(list(stream.take(segment(100, b"abc")))) == b"abc"
    assert list(stream.take(segment(110, b"xyz"))) == []
    assert list(stream.acknowledged(103, 1.0)) == []
    assert list(stream.acknowledged(113, 1.0)) == [Piece(1.0, b"", 7), Piece(0.0, b"xyz")]
    assert stream.offset == 13
    list(stream.take(segment(120, b"!", FIN)))
    assert list(stream.acknowledged(122, 3.0)) == [Piece(3.0, b"", 7), Piece(0.0, b"!")]
    assert stream.is_over


def test_an_acknowledgement_loses_nothing_that_still_comes() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    assert list(stream.acknowledged(106, 1.0)) == []
    assert joined(list(stream.take(segment(100, b"abc")))) == b"abc"
    assert joined(list(stream.take(segment(103, b"def")))) == b"def"
    assert list(stream.give_up(2.0)) == []


def test_what_was_acknowledged_and_never_came_is_lost_at_the_end() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    list(stream.acknowledged(106, 1.0))
    assert list(stream.give_up(2.0)) == [Piece(2.0, b"", 6)]


def test_a_number_out_of_any_window_is_not_believed() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    assert stream.has(100 + MAX_WINDOW + 1)
    list(stream.acknowledged(100 + MAX_WINDOW + 1, 1.0))
    assert list(stream.give_up(2.0)) == []


def test_bytes_that_come_after_they_were_given_up_are_late_once() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    list(stream.take(segment(105, b"fg")))
    assert list(stream.acknowledged(107, 1.0)) == [Piece(1.0, b"", 5), Piece(0.0, b"fg")]
    assert list(stream.take(segment(103, b"defgh"))) == [Late(0.0, 3, b"de"), Piece(0.0, b"h")]
    assert stream.repeated == 2
    assert list(stream.take(segment(103, b"d"))) == []
    assert stream.repeated == 3
    assert list(stream.take(segment(101, b"bcd"))) == [Late(0.0, 1, b"bc")]


def test_a_segment_that_was_cut_loses_its_end_at_once() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    cut = replace(segment(100, b"abc"), cut=4)
    assert list(stream.take(cut)) == [Piece(0.0, b"abc"), Piece(0.0, b"", 4)]
    assert list(stream.take(cut)) == []
    assert list(stream.take(segment(107, b"h"))) == [Piece(0.0, b"h")]
    assert stream.repeated == 3


def test_a_cut_segment_that_is_early_loses_nothing_before_it() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    assert list(stream.take(replace(segment(103, b"d"), cut=2))) == []
    assert list(stream.take(segment(106, b"g"))) == []
    pieces = list(stream.take(segment(100, b"abc")))
    assert pieces == [Piece(0.0, b"abc"), Piece(0.0, b"d"), Piece(0.0, b"", 2), Piece(0.0, b"g")]


def test_the_number_of_an_end_that_was_not_captured_is_no_byte() -> None:
    stream = Stream()
    list(stream.take(segment(100, b"abc")))
    assert list(stream.acknowledged(104, 1.0)) == []


def test_what_is_missing_at_the_end_is_lost() -> None:
    stream = Stream()
    list(stream.take(segment(99, flags=SYN)))
    list(stream.take(segment(104, b"e")))
    list(stream.take(segment(102, b"c", FIN)))
    assert list(stream.give_up(2.0)) == [Piece(2.0, b"", 2), Piece(0.0, b"c"), Piece(2.0, b"", 1), Piece(0.0, b"e")]


def test_so_much_waits_and_no_more() -> None:
    stream = Stream()
    list(stream.take(segment(0, flags=SYN)))
    pieces = []
    for at in range(0, MAX_EARLY + 1, 1024):
        pieces += list(stream.take(segment(10 + at, bytes(1024))))
    assert pieces[0] == Piece(0.0, b"", 9)
    assert len(joined(pieces)) > MAX_EARLY


def test_a_stream_joined_later_starts_with_what_is_seen_first() -> None:
    stream = Stream()
    assert joined(list(stream.take(segment(5000, b"abc")))) == b"abc"
    assert not stream.from_start
    assert list(stream.take(segment(4990, b"before"))) == [Late(0.0, -10, b"before")]
    assert list(stream.take(segment(4997, b"xyzabcd"))) == [Late(0.0, -3, b"xyz"), Piece(0.0, b"d")]


def test_the_end_is_where_the_last_byte_was_passed_on() -> None:
    stream = Stream()
    list(stream.take(segment(0, flags=SYN)))
    list(stream.take(segment(4, b"d", FIN | ACK)))
    assert not stream.is_over
    assert joined(list(stream.take(segment(1, b"abc")))) == b"abcd"
    assert stream.is_over


def test_only_the_next_bytes_are_appended() -> None:
    stream = Stream()
    assert not stream.append(segment(100, b"abc"))  # it is unknown where the stream is
    list(stream.take(segment(99, flags=SYN)))
    assert stream.append(segment(100, b"abc"))
    assert stream.append(segment(103, b"de", ACK | PSH))
    assert stream.offset == 5
    other = segment(105, b"fg")
    for refused in (
        segment(104, b"efg"),
        segment(106, b"g"),
        segment(105, b"fg", ACK | FIN),
        segment(105, b"fg", ACK | RST),
        segment(105, b"fg", 0),
        replace(other, cut=1),
    ):
        assert not stream.append(refused)
    list(stream.take(segment(107, b"h")))
    assert not stream.append(other)  # then the early bytes follow
    assert joined(list(stream.take(other))) == b"fgh"
    list(stream.take(segment(110, flags=ACK | FIN)))
    assert not stream.append(segment(108, b"ij"))  # then the stream is over
    assert stream.offset == 8
