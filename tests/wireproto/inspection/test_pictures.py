"""Display of entries: hex dumps, the decrypted capture, the sequence diagram."""

import io
from xml.etree import ElementTree

import pytest

from tests.wireproto.inspection.captured import read
from tests.wireproto.inspection.talks import BOOTSTRAP, PONG, Talk, a_talk, entries
from wireproto import (
    InferenceStep,
    Outcome,
    OutcomeState,
    Ping,
    Revision,
    SideChannelPart,
    SideChannelWhole,
    encode_link_frame,
)
from wireproto.errors import printable
from wireproto.inspection.fields import layers
from wireproto.inspection.hexdump import FAULT, Line, dump
from wireproto.inspection.opened import OpenedCapture
from wireproto.inspection.sequence import SequenceDiagram
from wireproto.inspection.sessions import Entry, Kind
from wireproto.inspection.timeline import as_json, summary, title

EVIL = "\x1b[2J\x07 \u202e\x9b31m </text><script>"


def a_long_talk() -> Talk:
    talk = Talk().say(0, Ping()).say(1, PONG).say(0, BOOTSTRAP)
    talk.say(1, SideChannelPart(0, b"abc"), Outcome(1, OutcomeState.FAILED, "init", "x", EVIL))
    talk.say(0, InferenceStep(talk.sides[0].seal_tensor(b"\1\0\0\0" + bytes(4))))
    talk.raw(0, encode_link_frame(talk.sides[0].seal_tensor(b'\x07{"port": "29400", "sessionID": "a"}')))
    talk.raw(1, b"\xff" * 30)
    return talk


def found() -> list[Entry]:
    talk = a_long_talk()
    return entries(talk.segments, talk.keys())


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "counts", "shown"),
    [
        (0, (2, 2), "count 1 × 2, 1 × 2"),
        (0, (4, 2), "count 2 × 2, 1 × 2"),  # MLX 0.32.4 and an older one, which cannot form a group
        (0, (15, 15, 3), "count 5 × 3, 5 × 3, 1 × 3"),
        (0, (1, 1), "count 1, 1"),  # a ring
        (0, (4,), "count 4"),  # what one rank says
        (0, (0, 2), ""),
        (1, (2, 2), ""),
    ],
)
def test_the_counts_of_all_ranks_are_shown(sequence: int, counts: tuple[int, ...], shown: str) -> None:
    """[JACCL-MESH-INIT]"""
    gathered = b"".join(count.to_bytes(4, "little") for count in counts)
    message = SideChannelWhole(sequence, gathered) if len(counts) > 1 else SideChannelPart(sequence, gathered)
    talk = Talk().say(0, Ping()).say(1, PONG).say(0, BOOTSTRAP).say(int(len(counts) == 1), message)
    spans = [span for layer in layers(entries(talk.segments, talk.keys())[-1]) for span in layer.spans]
    assert [span.value for span in spans if span.name in ("part", "whole")] == [shown]


def test_every_byte_has_a_field() -> None:
    for entry in found():
        shown = list(layers(entry))
        if entry.wire:
            assert b"".join(span.data for span in shown[0].spans) == entry.wire
            assert all(span.name for layer in shown for span in layer.spans)
        if entry.sealed and entry.frame:
            assert b"".join(span.data for span in shown[1].spans) == entry.frame
        if entry.tensor is not None:
            assert b"".join(span.data for span in shown[-1].spans) == entry.tensor


def test_the_fields_of_a_frame() -> None:
    (entry,) = [each for each in entries(a_talk(Revision.V1).segments) if title(each) == "jacclBootstrap"]
    (layer,) = layers(entry)
    assert [(span.name, span.data, span.value) for span in layer.spans] == [
        ("length", b"\x21\0\0\0\0\0\0\0", "33"),
        ("type", b"\x07", "jacclBootstrap"),
        ("JSON", b"{", ""),
        ("port", b'"port":29400', ""),
        ("JSON", b",", ""),
        ("sessionID", b'"sessionID":"S-1"', ""),
        ("JSON", b"}", ""),
    ]


def test_the_field_that_is_broken_is_marked() -> None:
    (entry,) = [each for each in found() if each.kind is Kind.BROKEN and each.frame]
    assert entry.error is not None
    assert (entry.error.code, entry.error.offset) == ("field-type", 10)
    faulty = [span for layer in layers(entry) for span in layer.spans if span.is_faulty]
    assert [span.name for span in faulty] == ["port"]
    assert {line.colour for line in dump(entry) if isinstance(line, Line) and line.field == "port"} == {FAULT}


@pytest.mark.parametrize(
    ("payload", "names", "faulty"),
    [
        (b"{}", ["type", "JSON"], "JSON"),
        (b'{"port":1,"port":2}', ["type", "JSON", "port", "JSON", "unread"], "unread"),
        (b'{"port":1x', ["type", "JSON", "port", "unread"], "unread"),
        (b'{"port":1', ["type", "JSON", "port"], "port"),
        (b"", ["type"], "type"),
        (b"\xef\xbb\xbf{}", ["type", "unread"], "unread"),
        (b"[1]", ["type", "JSON"], "JSON"),
    ],
)
def test_json_that_breaks(payload: bytes, names: list[str], faulty: str) -> None:
    talk = Talk(Revision.V1).say(0, Ping()).raw(0, encode_link_frame(b"\x07" + payload))
    entry = entries(talk.segments)[-1]
    assert entry.kind is Kind.BROKEN
    (layer,) = layers(entry)
    spans = [span for span in layer.spans[1:] if span.data]
    assert [span.name for span in spans] == names
    assert [span.name for span in spans if span.is_faulty] == [faulty]


def test_long_fields_are_shown_in_part() -> None:
    talk = Talk(Revision.V1).say(0, Ping(), InferenceStep(bytes(28 + 100_000)))
    lines = [line for line in dump(entries(talk.segments)[-1]) if isinstance(line, Line)]
    assert len(lines) < 300
    (gap,) = [line for line in lines if not line.data]
    assert gap.value == f"{100_000 - 4096} more bytes of ciphertext"
    assert sum(len(line.data) for line in lines) == 8 + 1 + 28 + 4096


# -- lines -------------------------------------------------------------------------------------------------------------


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    for entry in found():
        assert summary(entry).isprintable()
        assert title(entry).isprintable()
        assert as_json(entry).isascii()
        assert as_json(entry).isprintable()
    assert printable(EVIL) == r"\x1b[2J\x07 \u202e\x9b31m </text><script>"


# -- the opened capture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_keys", [True, False])
def test_an_opened_capture_says_the_same_without_keys(with_keys: bool) -> None:
    talk = a_talk()
    before = entries(talk.segments, talk.keys() if with_keys else None)
    file = io.BytesIO()
    opened = OpenedCapture(file)
    for entry in before:
        opened.add(entry)
    after = read(file.getvalue()).entries
    assert [(entry.kind, entry.sender, entry.message) for entry in after] == [
        (entry.kind, entry.sender, entry.message) for entry in before
    ]
    assert [entry.time for entry in after] == pytest.approx([entry.time for entry in before], abs=1e-5)
    assert after[0].ends == before[0].ends


# -- the sequence diagram ----------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def drawn(shown: list[Entry]) -> tuple[str, list[str]]:
    diagram = SequenceDiagram()
    for entry in shown:
        diagram.add(entry)
    text = diagram.svg()
    return text, [each.text or "" for each in ElementTree.fromstring(text).iter(f"{SVG}text")]  # noqa: S314 - our own


def test_the_diagram_shows_every_message_and_needs_no_other_file() -> None:
    text, texts = drawn(found())
    names = [each for each in texts if each in {title(entry) for entry in found() if entry.sender is not None}]
    assert names == [title(entry) for entry in found() if entry.sender is not None]
    assert {"rank 0", "rank 1", "127.0.0.1:50001", "127.0.0.2:49999"} <= set(texts)
    assert "script>" not in text.replace("&lt;/text&gt;&lt;script&gt;", "")
    assert all(part not in text for part in ("href", "url(", "<script", "@import", "<image"))


def test_a_long_session_is_drawn_in_part() -> None:
    talk = Talk(Revision.V1)
    for _ in range(300):
        talk.say(0, Ping())
    _, texts = drawn(entries(talk.segments))
    assert texts.count("ping") == 198
    assert "… 102 more …" in texts


def test_no_session() -> None:
    assert "no session" in drawn([])[1]
