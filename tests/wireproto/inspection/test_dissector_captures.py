"""The dissector on real captures: in pieces, out of order, cut, on any port, without keys."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import pytest

from tests.bootstrap import links
from tests.vectors.sessions import BOOTSTRAP, KEY, PING, PONG, PROMPT
from tests.wireproto.inspection.agreement import check_frame
from tests.wireproto.inspection.dissecting import (
    HANDSHAKE,
    KEY_LOG,
    Conversation,
    Error,
    LinkFrame,
    Sent,
    capture,
    dissect,
    fields,
    opening,
    packets,
    sealed,
    tshark,
    unsealed,
)
from tests.wireproto.peers import STRANGER, box, hello
from tests.wireproto.streams import link
from wireproto import JacclBootstrapPayload, PromptTokensPayload, Revision
from wireproto.session import Config, Role, Session

pytestmark = pytest.mark.usefixtures("working_tshark")

SEALED = sealed(PING, BOOTSTRAP, PROMPT)
SHOWN = ["1", "2", "3", "7", "8"]


def types(frames: list[LinkFrame]) -> list[str]:
    return [str(value) for frame in frames for value in frame.all("type")]


def in_pieces(conversation: Conversation, size: int) -> Conversation:
    return [
        Sent(rank, data[start : start + size]) for rank, data in conversation for start in range(0, len(data), size)
    ]


# -- pieces -----------------------------------------------------------------------------------------------------------


def test_segmented(tmp_path: Path) -> None:
    """[LINK-CHUNKS]"""
    for frames in dissect(tmp_path, [in_pieces(SEALED, size) for size in (1, 7, 8, 9, 100)], key_log=KEY_LOG):
        assert types(frames) == SHOWN
        assert all(frame.errors == [] for frame in frames)


def test_two_passes(tmp_path: Path) -> None:
    """The output does not depend on how often, and in which order, Wireshark dissects the packets."""
    conversations = [in_pieces(SEALED, 70), unsealed(PING, BOOTSTRAP), [*unsealed(PING), Sent(0, bytes(8))]]
    once = dissect(tmp_path, conversations, key_log=KEY_LOG)
    assert dissect(tmp_path, conversations, "-2", "-R", "tcp", key_log=KEY_LOG) == once
    assert types(once[0]) == SHOWN


def test_coalesced(tmp_path: Path) -> None:
    """All of rank 0's frames in one segment, including its hello. [LINK-CHUNKS]"""
    asked = b"".join(data for rank, data in SEALED if rank == 0)
    (frames,) = dissect(tmp_path, [[Sent(0, asked), HANDSHAKE[1]]], key_log=KEY_LOG)
    assert types(frames) == ["1", "3", "7", "8", "2"]
    assert len({frame.packet for frame in frames}) == 2


def test_out_of_order(tmp_path: Path) -> None:
    """Segments out of order and repeated."""
    pieces = in_pieces(SEALED, 50)
    sent = packets(pieces)
    opened, rest = sent[:3], sent[3:]
    for at in range(len(opened), len(rest) - 1, 5):
        rest[at], rest[at + 1] = rest[at + 1], rest[at]
    late = [*opened, *rest, rest[2], rest[-1]]
    arguments = ["-o", "tcp.reassemble_out_of_order:TRUE", *opening(tmp_path, KEY_LOG, [pieces])]
    (frames,) = fields(tmp_path, capture(late), 1, *arguments)
    assert sorted(types(frames)) == sorted(SHOWN)
    assert all(frame.errors == [] for frame in frames)


@pytest.mark.parametrize("kept", [44, 52, 100])
def test_cut_packets(kept: int, tmp_path: Path) -> None:
    """A capture of packet headers says so, and reports nothing as malformed."""
    whole, cut = tmp_path / "whole.pcapng", tmp_path / "cut.pcapng"
    whole.write_bytes(capture(packets(SEALED)))
    subprocess.run(["editcap", "-s", str(kept), whole, cut], check=True, timeout=60)
    (frames,) = fields(tmp_path, cut.read_bytes(), 1)
    assert any("unread" in frame.names for frame in frames)
    assert all(frame.errors == [] for frame in frames)


def test_without_its_beginning(tmp_path: Path) -> None:
    """Without a captured handshake, frames of both revisions are distinguished by their contents."""
    conversations = [SEALED[2:], unsealed(PING, BOOTSTRAP, b"\xff")[2:]]
    boxes, frames = dissect(tmp_path, conversations, key_log=KEY_LOG)
    assert [frame.body for frame in boxes] == [sent.data[8:] for sent in SEALED[2:]]
    assert all("box" in frame.names for frame in boxes)
    assert types(frames) == ["3", "7", "255"]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_length_that_ends_the_connection(tmp_path: Path) -> None:
    """It is shown, and bytes after it are not read as frames. [LINK-LEN-MIN, LINK-LEN-MAX]"""
    codes = {0: "link-length-zero", 2**28 + 1: "link-length-limit", 2**63: "link-length-limit"}
    behind = [Sent(0, link(PING)), Sent(1, link(PONG))]
    conversations = [[*unsealed(PING), Sent(0, n.to_bytes(8, "little") + link(PING)), *behind] for n in codes]
    for length, frames in zip(codes, dissect(tmp_path, conversations), strict=True):
        assert types(frames) == ["1", "2", "3", "4"]
        assert frames[3].all("length") == [str(length)]
        assert frames[3].errors == [Error(codes[length], path="length")]
        assert frames[4].names == ["unread"]


def test_a_box_that_does_not_open(tmp_path: Path) -> None:
    """[SEAL-LAYOUT]"""
    good = box(KEY, PING, bytes(12))
    changed = good[:-1] + bytes([good[-1] ^ 1])
    conversation = [*HANDSHAKE, Sent(0, link(changed)), Sent(0, link(good)), Sent(0, link(good[:27]))]
    (frames,) = dissect(tmp_path, [conversation], "-o", "clusterlink.revision:2", key_log=KEY_LOG)
    assert [frame.errors for frame in frames[2:]] == [[Error("seal-tag", 0)], [], [Error("truncated", 27)]]
    assert types(frames[2:]) == ["3"]


def test_tensor_boxes(tmp_path: Path) -> None:
    """[TENSOR-ACTIVATION, TENSOR-STOP, TENSOR-TOKEN]"""
    plaintexts = [
        (5, (1).to_bytes(4, "little") + b"abcd"),
        (5, b"\xff\xff\xff\xff"),
        (5, b"\xff\xff\xff\xff\0"),
        (5, b"\xfe\xff\xff\xff"),
        (6, b"\x72\x0c\0\0"),
        (6, b"\x72\x0c\0"),
        (6, b"\x72\x0c\0\0\0"),
    ]
    inner = [bytes([kind]) + box(KEY, data, bytes([number] * 12)) for number, (kind, data) in enumerate(plaintexts, 1)]
    (frames,) = dissect(tmp_path, [sealed(*inner)], key_log=KEY_LOG)
    seen = [
        (frame.all("tensor.seq_len"), frame.all("tensor.data"), frame.all("tensor.token_id"), frame.errors)
        for frame in frames[2:]
    ]
    assert seen == [
        (["1"], [b"abcd"], [], []),
        (["-1"], [], [], []),
        (["-1"], [], [], [Error("trailing-data", 4)]),
        (["-2"], [], [], [Error("activation-seq-len", 0, "seqLen")]),
        ([], [], ["3186"], []),
        ([], [], [], [Error("truncated", 3)]),
        ([], [], ["3186"], [Error("trailing-data", 4)]),
    ]


# -- which connections ------------------------------------------------------------------------------------------------


STRANGERS = {
    "http": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(200),
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "length-only": link(PING)[:8],
    "unknown-type": link(b"\x20abc"),
    "ping-with-payload": link(PING + b"1"),
    "big-endian": (40).to_bytes(8, "big") + bytes(40),
    "second-length": link(PING) + b"\0\0\0\0\1\0\0\0\3\3\3",
    "jaccl": (1).to_bytes(4, "little") + bytes(60),
}


def test_other_ports_by_look(tmp_path: Path) -> None:
    """A link is recognised on any port by its contents; similar connections are left alone."""
    conversations = [SEALED, [Sent(0, link(BOOTSTRAP))], *([Sent(0, data)] for data in STRANGERS.values())]
    sealed_link, plain, *strangers = dissect(tmp_path, conversations, port=40_404, key_log=KEY_LOG)
    assert types(sealed_link) == SHOWN
    assert types(plain) == ["7"]
    assert [name for name, frames in zip(STRANGERS, strangers, strict=True) if frames] == []


def test_the_look_can_be_turned_off(tmp_path: Path) -> None:
    off = ["--disable-heuristic", "clusterlink_tcp"]
    assert dissect(tmp_path, [SEALED], *off, port=40_404) == [[]]
    (frames,) = dissect(tmp_path, [SEALED], *off)
    assert types(frames) == ["1", "2"]
    (frames,) = dissect(tmp_path, [SEALED], *off, "-o", "clusterlink.ports:40000-41000", port=40_404)
    assert types(frames) == ["1", "2"]


# -- revisions and keys -----------------------------------------------------------------------------------------------


def test_the_revision_is_told_by_the_first_frame(tmp_path: Path) -> None:
    """[HANDSHAKE-FIRST, SEAL-FRAMES]"""
    opaque = b"\x05" + bytes(40)
    conversations = [unsealed(PING, opaque), sealed(PING, opaque), [*HANDSHAKE, Sent(0, link(opaque))]]
    one, two, unsure = dissect(tmp_path, conversations, key_log=KEY_LOG)
    assert (types(one), types(two)) == (["1", "2", "3", "5"], ["1", "2", "3", "5"])
    assert [("box" in frame.names, frame.errors) for frame in unsure[2:]] == [(True, [Error("seal-tag", 0)])]
    (told,) = dissect(tmp_path, conversations[2:], "-o", "clusterlink.revision:1")
    assert types(told) == ["1", "2", "5"]


def test_without_a_key(tmp_path: Path) -> None:
    """An unopened box is shown with a hint, and is not an error. [KEY-LOG]"""
    stranger = [Sent(0, link(hello(STRANGER, nonce=bytes(32)))), HANDSHAKE[1], *SEALED[2:3]]
    sent = capture([*packets(SEALED[:3]), *packets(stranger, 1)])
    hints = tshark(tmp_path, sent, "-V", "-Y", "clusterlink.unopened")
    assert hints.count("preference key_log can name a file") == 4
    with_log = ["-V", "-Y", "clusterlink.unopened", *opening(tmp_path, KEY_LOG, [])]
    boxes = {"CLUSTERLINK_BOXES": str(tmp_path / "boxes")}
    assert "has no key for the nonce of this session's hello" in tshark(tmp_path, sent, *with_log, environment=boxes)
    (one, other) = dissect(tmp_path, [SEALED[:3], stranger])
    assert [frame.errors for frame in (*one, *other)] == [[]] * 6


def test_without_gcrypt_it_points_to_inspect(tmp_path: Path) -> None:
    log = tmp_path / "keys"
    log.write_text(KEY_LOG)
    text = tshark(tmp_path, capture(packets(SEALED)), "-o", f"clusterlink.key_log:{log}", "-V")
    assert ("wireproto inspect --decrypt" in text) != ("Type: jacclBootstrap" in text)


# -- a link that ran --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", list(Revision))
def test_recorded_link(revision: Revision, tmp_path: Path) -> None:
    """Both ranks as in the demo, over a recording relay: each frame is shown as it is decoded."""
    key_log = StringIO()
    sent: list[Sent] = []

    async def main() -> None:
        def make_0(_: str) -> Session:
            pin = links.RANK_1.public_key
            config = Config(role=Role.INITIATOR, signer=links.RANK_0, pin=pin, revision=revision, key_log=key_log)
            return Session(config)

        async with (
            links.serving(revision=revision) as (one, _, port),
            _recorded(port, sent) as relay,
            links.leading(relay, revision=revision, make_session=make_0) as (zero, _),
        ):
            await zero.bootstrap(JacclBootstrapPayload(29400, "S-1"))
            assert (await one.bootstrap()).session_id == "S-1"
            await zero.ponged()
            if revision is Revision.V2:
                await zero.send(PromptTokensPayload("u1", (1, -(2**63), 2**63 - 1), 3))
            await zero.stop()
            await one.over()

    links.run(main)
    (frames,) = dissect(tmp_path, [sent], key_log=key_log.getvalue())
    assert {"1", "2", "3", "4", "7", "255"} <= set(types(frames))
    assert ("8" in types(frames)) is (revision is Revision.V2)
    for frame in frames:
        (data,) = frame.all("frame")
        assert isinstance(data, bytes)
        check_frame(frame, data, revision)
        assert ("box" in frame.names) is (revision is Revision.V2 and data[0] > 2)


@asynccontextmanager
async def _recorded(port: int, sent: list[Sent]) -> AsyncIterator[int]:
    """A relay port, which passes all bytes on to another port and back."""

    async def pass_on(rank: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            sent.append(Sent(rank, data))
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(links.HOST, port)
        await asyncio.gather(pass_on(0, reader, back), pass_on(1, there, writer))

    async with await asyncio.start_server(serve, links.HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


# -- what people see --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ('clusterlink.jaccl.port == 29400 && clusterlink.jaccl.session_id contains "6F96" && json.key == "port"', 1),
        ("clusterlink.prompt.tokens == 2 && clusterlink.type == 8", 1),
        ("clusterlink.handshake.nonce[0:2] == 00:01 && clusterlink.length > 300", 1),
        ('clusterlink.error == "payload-not-empty" && clusterlink.error.offset == 1 && clusterlink.malformed', 1),
    ],
)
def test_filters(wanted: str, count: int, tmp_path: Path) -> None:
    conversation = sealed(PING, BOOTSTRAP, PROMPT, b"\x03x")
    environment = {"CLUSTERLINK_BOXES": str(tmp_path / "boxes")}
    arguments = opening(tmp_path, KEY_LOG, [conversation])
    text = tshark(tmp_path, capture(packets(conversation)), "-Y", wanted, *arguments, environment=environment)
    assert len(text.splitlines()) == count


def test_text(tmp_path: Path) -> None:
    """Return the output of `tshark -O clusterlink` for link frames, without Wireshark's JSON dissector."""
    conversation = [
        *HANDSHAKE, Sent(0, link(PING, BOOTSTRAP)), Sent(1, link(PONG)), Sent(0, link(b'\x07{"port":65536}')),
        Sent(0, link(b"\x0e")), Sent(0, bytes(8)), Sent(0, b"more"),
    ]  # fmt: skip
    sent = capture([*packets(conversation), *packets(SEALED[:3], 1)])
    text = tshark(tmp_path, sent, "-O", "clusterlink", "-Y", "tcp.stream == 0 || clusterlink.box")
    shown = re.findall(r"^(?:Cluster Link|Lua).*\n(?: .*\n)*", text, re.M)
    json_tree = r"( +)JavaScript Object Notation.*\n(?:\1 .*\n)*"
    same = re.sub(json_tree, "", "\n".join(shown))
    # The number of shown bytes differs between versions.
    same = re.sub(r"([0-9a-f]{64})[0-9a-f]+…?", r"\1…", same)
    assert same == (Path(__file__).parent / "dissected.txt").read_text()


def test_summaries(tmp_path: Path) -> None:
    environment = {"CLUSTERLINK_BOXES": str(tmp_path / "boxes")}
    conversation = [*SEALED, Sent(1, link(box(KEY, PONG, b"\1" * 12), box(KEY, b"\x0e", b"\2" * 12)))]
    columns = ["-Y", "clusterlink", "-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Info"]
    arguments = [*columns, *opening(tmp_path, KEY_LOG, [conversation])]
    text = tshark(tmp_path, capture(packets(conversation)), *arguments, environment=environment)
    assert [line.rstrip().split("\t") for line in text.splitlines()] == [
        ["ClusterLink", "handshakeHello"],
        ["ClusterLink", "handshakeAck"],
        ["ClusterLink", "ping"],
        ["ClusterLink", "jacclBootstrap"],
        ["ClusterLink", "promptTokens"],
        ["ClusterLink", "pong 0x0e"],
    ]
