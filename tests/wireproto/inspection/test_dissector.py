"""The Wireshark dissector agrees with the decoder, and shows its messages, on every vector and more."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spec.tools.dissector import with_tables
from tests.examples import examples
from tests.vectors.writing import BEYOND_CAPTURE
from tests.wireproto.inspection.agreement import check_frame, errors
from tests.wireproto.inspection.dissecting import (
    DISSECTOR,
    KEY_LOG,
    Conversation,
    Error,
    Sent,
    agreeing,
    dissect,
    sealed,
    unsealed,
)
from tests.wireproto.payloads import ALL_EXTENSIONS, JSON_CLASSES
from wireproto import MAX_LINK_LENGTH, Message, Revision
from wireproto.testing import vectors
from wireproto.testing.encodings import foreign_frame
from wireproto.testing.mutations import nearly_valid_frame, token_soup
from wireproto.testing.strategies import messages, seeded_randoms
from wireproto.testing.vectors import ClusterFrameTest, LinkStreamTest, Payload, SessionTest

needs_tshark = pytest.mark.usefixtures("working_tshark")


def test_tables_are_those_of_the_registry() -> None:
    text = DISSECTOR.read_text()
    assert with_tables(text) == text, "run: make spec"


def every(kind: type[Any]) -> list[Any]:
    return [test for group in vectors.load(kind).groups for test in group.tests]


# -- vectors ----------------------------------------------------------------------------------------------------------


@needs_tshark
def test_link_streams(tmp_path: Path) -> None:
    """[LINK-LAYOUT, LINK-LEN-MIN, LINK-LEN-MAX]"""
    tests: list[LinkStreamTest] = every(LinkStreamTest)
    seen = dissect(tmp_path, [[Sent(0, test.stream)] for test in tests])
    for test, frames in zip(tests, seen, strict=True):
        expected = [] if test.error is None or BEYOND_CAPTURE in test.flags else [Error(test.error.code, path="length")]
        assert [error for frame in frames for error in frame.errors if error.code.startswith("link-")] == expected, (
            test.id
        )
        bodies = [frame.body for frame in frames if frame.body is not None]
        if test.max_length == MAX_LINK_LENGTH:
            assert bodies == list(test.bodies), test.id


@needs_tshark
@pytest.mark.parametrize(
    ("revision", "converse"), [(Revision.V1, unsealed), (Revision.V2, sealed)], ids=["unsealed", "sealed"]
)
def test_cluster_frames(revision: Revision, converse: Callable[..., Conversation], tmp_path: Path) -> None:
    """[FRAME-TYPE, PAYLOAD-*, JSON-*, EXT-UNINVITED]"""
    # An empty link frame is a separate error, so an empty cluster frame must be in a box.
    tests = [test for test in every(ClusterFrameTest) if test.revision == revision and (test.frame or revision == 2)]
    conversations = [converse(*agreeing(test.extensions), test.frame) for test in tests]
    seen = dissect(tmp_path, conversations, "-o", f"clusterlink.revision:{revision:d}", key_log=KEY_LOG)
    for test, frames in zip(tests, seen, strict=True):
        expected = [] if test.error is None else [Error(test.error.code, test.error.offset, test.error.path)]
        assert errors(frames[-1]) == expected, test.id
        check_frame(frames[-1], test.frame, revision, test.extensions)


@needs_tshark
@pytest.mark.parametrize("revision", list(Revision))
def test_sessions(revision: Revision, tmp_path: Path) -> None:
    """[SEAL-FRAMES]"""
    tests = [test for test in every(SessionTest) if test.revision == revision and test.result == "valid"]
    seen = dissect(
        tmp_path,
        [_conversation(test) for test in tests],
        "-o",
        f"clusterlink.revision:{revision:d}",
        key_log=KEY_LOG,
    )
    assert len(tests) > 10
    for test, frames in zip(tests, seen, strict=True):
        for rank, sent in enumerate(_messages(test)):
            own = [frame for frame in frames if frame.rank == rank][: len(sent)]
            assert [frame.all("type") for frame in own] == [[str(message.type)] for message in sent], test.id
            for frame in own:
                check_frame(frame, frame.all("frame")[0], revision, test.extensions)


def _conversation(test: SessionTest) -> list[Sent]:
    own = 0 if test.role == "rank 0" else 1
    sent = []
    for step in test.steps:
        if step.bytes:
            sent.append(Sent(1 - own if step.do == "receive" else own, step.bytes))
        sent += [Sent(own, event.reply) for event in step.events if event.reply]
    return sent


def _messages(test: SessionTest) -> tuple[list[Payload], list[Payload]]:
    """The frames of each rank, the handshake first."""
    hello, ack = Payload(type=1, payload=None), Payload(type=2, payload=None)
    sent: tuple[list[Payload], list[Payload]] = ([], [])
    own = 0 if test.role == "rank 0" else 1
    for step in test.steps:
        if step.do == "start":
            sent[0].append(hello)
        if step.message is not None:
            sent[own].append(step.message)
        for event in step.events:
            if event.event == "established":
                sent[1].append(ack)
                if own == 1:
                    sent[0].append(hello)
            elif event.message is not None:
                sent[1 - own].append(event.message)
    return sent


# -- beyond them ------------------------------------------------------------------------------------------------------


@needs_tshark
@given(some=st.lists(messages(), min_size=1, max_size=20), random=seeded_randoms)
@settings(max_examples=examples(6))
def test_any_frame(some: list[Message], random: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In nearly valid messages, and in near-random JSON, both find the same fault at the same byte."""
    extensions = tuple(ALL_EXTENSIONS)
    frames = [foreign_frame(random, message) for message in some if type(message) in JSON_CLASSES]
    frames += [nearly_valid_frame(random, message) for message in some * 5]
    frames += [token_soup(random) for _ in range(20)]
    conversations = [sealed(*agreeing(extensions), frame) for frame in frames]
    seen = dissect(tmp_path_factory.mktemp("any"), conversations, key_log=KEY_LOG)
    for data, found in zip(frames, seen, strict=True):
        check_frame(found[-1], data, Revision.V2, extensions)
