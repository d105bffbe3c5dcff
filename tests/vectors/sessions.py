"""Vectors of sessions: scripts made with the tests' own peers, without the package."""

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from tests.vectors.handshakes import secrets
from tests.vectors.writing import BEYOND_LAYOUT, FOR_EXTENSIONS, fault, file
from tests.wireproto.peers import (
    EPHEMERAL_0,
    EPHEMERAL_1,
    RANK_0,
    RANK_1,
    STRANGER,
    ack,
    box,
    hello,
    introduction,
    session_key,
)
from tests.wireproto.streams import link
from wireproto.messages import MAX_LINK_LENGTH
from wireproto.testing.vectors import (
    Fault,
    Group,
    Hex,
    Payload,
    Revision,
    Role,
    SessionEvent,
    SessionStep,
    SessionTest,
    VectorFile,
)

_ABOUT = (
    "One side of a connection, with `secrets` in place of random values, which goes through `steps` in order. It "
    "must send `bytes`, with `nonce` as the nonce of the box. A side that writes JSON in another form compares what "
    "the bytes contain: the plaintext of the box, and the decoded payload. What it receives, in chunks of any size, "
    "must cause `events`. `error` is that of the last step, and ends the connection. Its offset counts from the "
    "first byte of the stream for a link frame, from 0 in the box for a box, and from the type byte for a cluster "
    "frame. The stream ends only at a step `end`; without one it stays open. `state` is the state at the end of the "
    "test."
)

HELLO: Final = hello()
ACK: Final = ack()
KEY: Final = session_key(EPHEMERAL_0.private, EPHEMERAL_1.public, EPHEMERAL_0.nonce, EPHEMERAL_1.nonce)

PING, END, STEP, TOKEN = b"\x03", b"\xff", b"\x05" + bytes(32), b"\x06" + bytes(32)
PONG: Final = b'\x04{"modelLoaded":true,"inferenceInFlight":false,"memoryPressure":"normal"}'
BOOTSTRAP: Final = b'\x07{"port":29400,"sessionID":"6F9619FF-8B86-D011-B42D-00CF4FC964FF"}'
PROMPT: Final = b'\x08{"uid":"u1","tokens":[1,2],"maxTokens":3}'
STOP: Final = b'\x0a{"uid":"u1"}'
PP_ACTIVATION: Final = b'\x0b{"uid":"u1","seqLen":1,"sealedActivation":"AAAA"}'
PP_TOKEN: Final = b'\x0c{"uid":"u1","sealedToken":"AAAA"}'

ESTABLISHED_0: Final = SessionEvent(event="established")
ESTABLISHED_1: Final = SessionEvent(event="established", reply=Hex(link(ACK)))
CONFIRMED: Final = SessionEvent(event="confirmed")
CLOSED: Final = SessionEvent(event="closed", orderly=True)
CUT: Final = SessionEvent(event="closed", orderly=False)


def payload(frame: bytes) -> Payload:
    kind = frame[0]
    if kind in (0x03, 0xFF):
        return Payload(type=kind, payload=None)
    if kind in (0x05, 0x06):
        return Payload(type=kind, payload=json.loads(base64_text(frame[1:])))
    return Payload(type=kind, payload=json.loads(frame[1:]))


def base64_text(data: bytes) -> str:
    return json.dumps(base64.b64encode(data).decode())


def message(frame: bytes) -> SessionEvent:
    return SessionEvent(event="message", message=payload(frame))


def ignored(frame: bytes) -> SessionEvent:
    return SessionEvent(event="ignored", message=payload(frame))


class Script:
    """A connection after its handshake, seen from one side; steps are added one by one."""

    def __init__(
        self, role: Role, revision: Revision, *, shaken: bool = True, extensions: tuple[str, ...] = ()
    ) -> None:
        self.role = role
        self.revision = revision
        self.extensions = extensions
        self.steps: list[SessionStep] = []
        self._nonces = 0
        self.received = 0
        if not shaken:
            return
        if role == "rank 0":
            self.start()
            self.raw(link(ACK), ESTABLISHED_0)
        else:
            self.raw(link(HELLO), ESTABLISHED_1)

    def start(self) -> "Script":
        self.steps.append(SessionStep(do="start", bytes=Hex(link(HELLO))))
        return self

    def raw(self, data: bytes, *events: SessionEvent) -> "Script":
        self.steps.append(SessionStep(do="receive", bytes=Hex(data), events=events))
        self.received += len(data)
        return self

    def receive(self, frame: bytes, *events: SessionEvent) -> "Script":
        return self.raw(self.wrap(frame), *events)

    def send(self, frame: bytes) -> "Script":
        nonce = self.nonce() if self.revision == 2 else None
        data = link(frame if nonce is None else box(KEY, frame, nonce))
        self.steps.append(
            SessionStep(do="send", message=payload(frame), bytes=Hex(data), nonce=None if nonce is None else Hex(nonce))
        )
        return self

    def end(self, *events: SessionEvent) -> "Script":
        self.steps.append(SessionStep(do="end", events=events))
        return self

    def wrap(self, frame: bytes) -> bytes:
        """A frame of the peer on the wire, in its revision."""
        return link(box(KEY, frame, self.nonce()) if self.revision == 2 else frame)

    def nonce(self) -> bytes:
        self._nonces += 1
        return b"test nonce" + self._nonces.to_bytes(2)

    def test(
        self,
        name: str,
        comment: str,
        *rules: str,
        state: str,
        error: Fault | None = None,
        pin: bytes | None = b"",
        flags: tuple[str, ...] = (),
    ) -> SessionTest:
        own, other = (RANK_0, RANK_1) if self.role == "rank 0" else (RANK_1, RANK_0)
        ephemeral = EPHEMERAL_0 if self.role == "rank 0" else EPHEMERAL_1
        answers = any(event.reply for step in self.steps for event in step.events)
        signs = answers or any(step.do == "start" for step in self.steps)
        return SessionTest(
            id=f"{name}-v{self.revision}",
            comment=comment,
            requirements=rules,
            flags=(
                *(("rfc-6979",) if signs else ()),
                *((BEYOND_LAYOUT,) if error else ()),
                *((FOR_EXTENSIONS,) if self.extensions or (error and error.code == "extension-not-offered") else ()),
                *flags,
            ),
            result="valid" if error is None else "invalid",
            error=error,
            role=self.role,
            revision=self.revision,
            extensions=self.extensions,
            secrets=secrets(own, ephemeral, other.public_key if pin == b"" else pin),
            steps=tuple(self.steps),
            state=state,  # type: ignore[arg-type]
        )


def _first(script: Script, *events: SessionEvent) -> tuple[SessionEvent, ...]:
    """The events of the first frame of the open session."""
    return (CONFIRMED, *events) if script.revision == 2 else events


def _open_state(script: Script) -> str:
    return "confirmed" if script.revision == 2 else "established"


# -- conversations ----------------------------------------------------------------------------------------------------


def _conversations(revision: Revision) -> Iterator[SessionTest]:
    one = Script("rank 0", revision)
    one.send(PING).receive(PONG, *_first(one, message(PONG))).send(BOOTSTRAP)
    one.send(STEP).receive(TOKEN, message(TOKEN)).send(END).end(CLOSED)
    yield one.test("rank-0", "Rank 0: hello, ping, pong, bootstrap, a step, the end", "HANDSHAKE-FIRST",
                   "SESSION-END-SEND", *(("SEAL-FRAMES",) if revision == 2 else ()), state="closed")  # fmt: skip
    one = Script("rank 1", revision)
    one.receive(PING, *_first(one, message(PING))).send(PONG).receive(BOOTSTRAP, message(BOOTSTRAP))
    one.receive(STEP, message(STEP)).send(TOKEN).receive(END, message(END), CLOSED)
    yield one.test("rank-1", "The same from rank 1", "HANDSHAKE-FIRST", "SESSION-END",
                   *(("SESSION-CONFIRM",) if revision == 2 else ()), state="closed")  # fmt: skip
    one = Script("rank 0", revision)
    yield one.test("rank-0-established", "The ack is enough for a session, whether or not rank 1 has a model",
                   "BOOT-ESTABLISHED", state="established")  # fmt: skip
    one = Script("rank 0", revision).send(BOOTSTRAP)
    yield one.test("rank-0-bootstrap-at-once", "The bootstrap may be the first frame", "BOOT-ESTABLISHED",
                   state="established")  # fmt: skip
    one = Script("rank 1", revision)
    one.raw(one.wrap(BOOTSTRAP) + one.wrap(END), *_first(one, message(BOOTSTRAP), message(END), CLOSED))
    yield one.test("rank-1-bootstrap-and-end", "A bootstrap counts, though the end stands right after it",
                   "BOOT-INDEPENDENT", "LINK-CHUNKS", state="closed")  # fmt: skip
    one = Script("rank 1", revision, shaken=False)
    data = link(HELLO) + one.wrap(PING)
    one.raw(data[:5]).raw(data[5:100]).raw(data[100:-1], ESTABLISHED_1)
    one.raw(data[-1:], *_first(one, message(PING)))
    yield one.test(
        "rank-1-in-pieces", "The hello and a frame, cut in odd places", "LINK-CHUNKS", state=_open_state(one)
    )
    one = Script("rank 0", revision, shaken=False).start()
    one.raw(link(ACK) + one.wrap(PONG) + one.wrap(TOKEN), ESTABLISHED_0, *_first(one, message(PONG)), message(TOKEN))
    yield one.test("rank-0-all-at-once", "The ack and two frames in one piece", "LINK-CHUNKS", state=_open_state(one))


def _sealed_conversations() -> Iterator[SessionTest]:
    one = Script("rank 1", 2)
    one.receive(PROMPT, CONFIRMED, message(PROMPT)).receive(STOP, message(STOP))
    one.receive(PP_ACTIVATION, message(PP_ACTIVATION)).send(PP_TOKEN)
    yield one.test("rank-1-inference", "Types that only revision 2 has", "FRAME-TYPE", "SEAL-FRAMES", state="confirmed")
    one = Script("rank 1", 2).receive(PONG, CONFIRMED, ignored(PONG))
    yield one.test("rank-1-confirmed-by-ignored", "Any box that opens confirms, even with a message that is ignored",
                   "SESSION-CONFIRM", state="confirmed")  # fmt: skip
    one = Script("rank 1", 2)
    yield one.test("rank-1-unconfirmed", "The hello alone does not confirm: it may be a recorded one",
                   "SESSION-CONFIRM", state="established")  # fmt: skip


# -- what does not belong, and the end --------------------------------------------------------------------------------


def _misplaced(revision: Revision) -> Iterator[SessionTest]:
    belongs_to_1 = {"ping": PING, "bootstrap": BOOTSTRAP, "step": STEP, "end": END, "hello": HELLO, "second-ack": ACK}
    belongs_to_0 = {"pong": PONG, "token": TOKEN, "ack": ACK, "second-hello": HELLO}
    for role, frames in (("rank 0", belongs_to_1), ("rank 1", belongs_to_0)):
        for name, frame in frames.items():
            one = Script(role, revision)  # type: ignore[arg-type]
            one.receive(frame, *_first(one, ignored(frame)))
            yield one.test(f"{role.replace(' ', '-')}-ignores-{name}", "An unexpected type has no effect",
                           "SESSION-IGNORE", state=_open_state(one))  # fmt: skip


def _ends(revision: Revision) -> Iterator[SessionTest]:
    for role in ("rank 0", "rank 1"):
        name = role.replace(" ", "-")
        one = Script(role, revision).end(CUT)  # type: ignore[arg-type]
        yield one.test(f"{name}-end-of-stream", "The stream ends between two frames: ended, but not in order",
                       "SESSION-END-SEND", state="closed")  # fmt: skip
        one = Script(role, revision)  # type: ignore[arg-type]
        one.raw((one.wrap(PONG if role == "rank 0" else PING))[:-1]).end()
        yield one.test(f"{name}-end-in-frame", "The stream ends inside a frame", "LINK-EOF", state="failed",
                       error=fault("truncated", one.received))  # fmt: skip
    one = Script("rank 1", revision, shaken=False).end(CUT)
    yield one.test("rank-1-nothing", "The peer connects and goes", "SESSION-END-SEND", state="closed")
    one = Script("rank 0", revision, shaken=False).start().end(CUT)
    yield one.test("rank-0-no-ack", "The stream ends where the ack belongs", "SESSION-END-SEND", state="closed")
    one = Script("rank 1", revision)
    one.raw(one.wrap(END) + one.wrap(PING), *_first(one, message(END), CLOSED))
    yield one.test("rank-1-frame-behind-end", "A frame after sessionEnd is ignored", "SESSION-END", state="closed")
    one = Script("rank 1", revision)
    one.raw(one.wrap(END) + bytes(8), *_first(one, message(END), CLOSED))
    yield one.test("rank-1-garbage-behind-end", "Nor is a length of 0 after it an error", "SESSION-END", state="closed")


# -- errors -----------------------------------------------------------------------------------------------------------


def _handshake_errors(revision: Revision) -> Iterator[SessionTest]:
    for name, comment, data, error in (
        ("ping-first", "A ping where the hello belongs", link(PING), fault("handshake-unexpected", 0)),
        ("ack-first", "An ack where the hello belongs", link(ACK), fault("handshake-unexpected", 0)),
        ("type-unknown-first", "No type", link(b"\x00"), fault("handshake-malformed", 0, "type")),
        ("json-first", "JSON without its type byte", link(HELLO[1:]), fault("handshake-malformed", 0, "type")),
        ("box-first", "A box before the handshake", link(box(KEY, PING, b"\x80nonce......")),
         fault("handshake-malformed", 0, "type")),
        ("length-zero", "A length of 0", bytes(8), fault("link-length-zero", 0, "length")),
        ("length-64-kib-1", "One byte more than 64 KiB", (65537).to_bytes(8, "little"),
         fault("link-length-limit", 0, "length")),
        ("http", "An HTTP client", b"GET / HTTP/1.1\r\n", fault("link-length-limit", 0, "length")),
    ):  # fmt: skip
        one = Script("rank 1", revision, shaken=False).raw(data)
        limit = ("this-implementation",) if name == "length-64-kib-1" else ()
        rule = "SESSION-LEN-MAX" if error.code == "link-length-limit" else "HANDSHAKE-ONLY"
        rule = "LINK-LEN-MIN" if error.code == "link-length-zero" else rule
        yield one.test(f"rank-1-{name}", comment, rule, state="failed", error=error, flags=limit)
    wrong = HELLO.replace(b'"seSignature":"ME', b'"seSignature":"MF')
    assert wrong != HELLO
    one = Script("rank 1", revision, shaken=False).raw(link(wrong))
    yield one.test("rank-1-wrong-signature", "A hello whose signature is wrong", "HANDSHAKE-SIGNATURE", state="failed",
                   error=fault("handshake-signature", None, "seSignature"))  # fmt: skip
    one = Script("rank 1", revision, shaken=False).raw(link(HELLO))
    yield one.test("rank-1-wrong-pin", "Another identity is pinned", "HANDSHAKE-PIN", state="failed",
                   error=fault("handshake-wrong-pin", None, "sePubKeyRaw"), pin=STRANGER.public_key)  # fmt: skip
    one = Script("rank 1", revision, shaken=False).raw(link(HELLO))
    yield one.test("rank-1-no-pin", "No identity is pinned", "HANDSHAKE-PIN", state="failed",
                   error=fault("handshake-no-pin", None, "sePubKeyRaw"), pin=None)  # fmt: skip
    one = Script("rank 0", revision, shaken=False).start().raw(link(HELLO))
    yield one.test("rank-0-hello-back", "Its own hello comes back", "HANDSHAKE-ONLY", state="failed",
                   error=fault("handshake-unexpected", 0))  # fmt: skip
    one = Script("rank 0", revision, shaken=False).start().raw(link(PONG))
    yield one.test("rank-0-pong-first", "A pong where the ack belongs", "HANDSHAKE-ONLY", state="failed",
                   error=fault("handshake-unexpected", 0))  # fmt: skip
    old = ack(bytes(32))
    one = Script("rank 0", revision, shaken=False).start().raw(link(old))
    yield one.test("rank-0-old-ack", "An ack to another hello, rightly signed: a recorded one", "HANDSHAKE-ACK",
                   state="failed", error=fault("handshake-signature", None, "seSignature"))  # fmt: skip


def _frame_errors(revision: Revision) -> Iterator[SessionTest]:
    def failing(name: str, comment: str, rule: str, frame: bytes, error: Fault) -> SessionTest:
        one = Script("rank 1", revision)
        one.receive(frame, *_first(one))
        return one.test(f"rank-1-{name}", comment, rule, state="failed", error=error)

    yield failing("type-unknown", "A type that there is not", "SESSION-BOX", b"\x10", fault("type-unknown", 0, "type"))
    yield failing(
        "ping-with-payload", "A ping with a payload", "PAYLOAD-EMPTY", b"\x03{}", fault("payload-not-empty", 1)
    )
    yield failing("bootstrap-cut", "A payload that is cut", "SESSION-BOX", BOOTSTRAP[:-1],
                  fault("truncated", len(BOOTSTRAP) - 1))  # fmt: skip
    yield failing("port-twice", "Two ports", "JSON-DUPLICATE-KEY", b'\x07{"port":1,"port":2,"sessionID":"a"}',
                  fault("json-duplicate-key", 11))  # fmt: skip
    yield failing("pong-malformed", "A message is decoded before it is ignored", "SESSION-IGNORE", b"\x04{}",
                  fault("field-missing", 2, "modelLoaded"))  # fmt: skip
    one = Script("rank 1", revision)
    at = one.received
    one.receive(PING, *_first(one, message(PING))).raw(bytes(8))
    at = one.received - 8
    yield one.test("rank-1-length-zero-later", "A length of 0 after a frame", "LINK-LEN-MIN", state="failed",
                   error=fault("link-length-zero", at, "length"))  # fmt: skip
    one = Script("rank 0", revision)
    at = one.received
    one.raw((MAX_LINK_LENGTH + 1).to_bytes(8, "little"))
    yield one.test("rank-0-length-limit", "One byte more than 256 MiB, behind the handshake", "LINK-LEN-MAX",
                   state="failed", error=fault("link-length-limit", at, "length"))  # fmt: skip
    one = Script("rank 1", revision).raw((65537).to_bytes(8, "little"))
    yield one.test("rank-1-length-64-kib-later", "64 KiB and one byte are no error behind the handshake",
                   "LINK-LEN-MAX", state="established")  # fmt: skip
    one = Script("rank 1", revision)
    one.raw(one.wrap(PING) + one.wrap(b"\x00"), *_first(one, message(PING)))
    yield one.test("rank-1-message-then-error", "A message before the error still counts", "SESSION-BOX",
                   state="failed", error=fault("type-unknown", 0, "type"))  # fmt: skip


def _revision_errors() -> Iterator[SessionTest]:
    for name, frame in (("prompt", PROMPT), ("stop", STOP), ("pp-activation", PP_ACTIVATION)):
        one = Script("rank 1", 1).receive(frame)
        yield one.test(f"rank-1-{name}", "A type of revision 2", "FRAME-TYPE", "REV-EXPLICIT", state="failed",
                       error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = Script("rank 1", 1).raw(link(box(KEY, PING, b"\x80nonce......")))
    yield one.test("rank-1-box", "A box, from a peer that speaks revision 2", "REV-EXPLICIT", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = Script("rank 0", 2).raw(link(PONG))
    yield one.test("rank-0-unsealed", "A frame that is not sealed, from a peer that speaks revision 1", "REV-EXPLICIT",
                   "SEAL-FRAMES", state="failed", error=fault("seal-tag", 0))  # fmt: skip
    one = Script("rank 1", 2).raw(link(PING))
    yield one.test("rank-1-unsealed", "A ping that is not sealed", "REV-EXPLICIT", "SEAL-FRAMES", state="failed",
                   error=fault("truncated", 1))  # fmt: skip


def _box_errors() -> Iterator[SessionTest]:
    one = Script("rank 1", 2)
    again = one.wrap(PING)
    one.raw(again, CONFIRMED, message(PING)).raw(again)
    yield one.test("rank-1-replay", "A link frame comes twice", "SEAL-REPLAY", state="failed",
                   error=fault("seal-replay", 0))  # fmt: skip
    one = Script("rank 0", 2).send(PING)
    own = one.steps[-1].bytes
    assert own is not None
    one.raw(own)
    yield one.test("rank-0-reflection", "Its own ping comes back", "SEAL-REFLECTION", state="failed",
                   error=fault("seal-reflection", 0))  # fmt: skip
    one = Script("rank 1", 2).raw(link(box(bytes(32), PING, b"other key..1")))
    yield one.test("rank-1-other-key", "A box of another key: whoever replays a hello has no other", "SESSION-BOX",
                   "SESSION-CONFIRM", state="failed", error=fault("seal-tag", 0))  # fmt: skip
    one = Script("rank 1", 2).raw(link(bytes(27)))
    yield one.test("rank-1-short-box", "27 bytes are not a box", "SEAL-LAYOUT", state="failed",
                   error=fault("truncated", 27))  # fmt: skip
    one = Script("rank 1", 2)
    one.receive(b"", CONFIRMED)
    yield one.test("rank-1-empty-box", "A box with no cluster frame in it", "FRAME-TYPE", state="failed",
                   error=fault("truncated", 0))  # fmt: skip
    one = Script("rank 1", 2)
    flipped = bytearray(one.wrap(PING))
    flipped[-1] ^= 1
    one.raw(bytes(flipped))
    yield one.test("rank-1-flipped", "One bit of the tag is another", "SESSION-BOX", state="failed",
                   error=fault("seal-tag", 0))  # fmt: skip
    one = Script("rank 1", 2)
    one.receive(one.wrap(PING)[8:], CONFIRMED)
    yield one.test("rank-1-box-in-box", "A box in a box", "SEAL-FRAMES", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip


# -- extensions -------------------------------------------------------------------------------------------------------

_KNOWN: Final = ("outcome/1", "side-channel/1")
OFFER: Final = PONG[:-1] + b',"extensions":["side-channel/1","outcome/1","z/9"]}'
OWN_OFFER: Final = PONG[:-1] + b',"extensions":["side-channel/1","outcome/1"]}'
CHOICE: Final = BOOTSTRAP[:-1] + b',"extensions":["outcome/1"]}'
OUTCOME: Final = b'\x42{"rank":1,"state":"ready","stage":"","code":"","message":""}'
VERSIONS: Final = b'\x43{"package":"0.1.0","mlx":"0.32.4","backend":"jaccl","devices":""}'


def _extended() -> Iterator[SessionTest]:
    def agreed() -> Script:
        one = Script("rank 1", 2, extensions=_KNOWN)
        return one.receive(PING, CONFIRMED, message(PING)).send(OWN_OFFER).receive(CHOICE, message(CHOICE))

    one = Script("rank 0", 2, extensions=_KNOWN).send(PING).receive(OFFER, CONFIRMED, message(OFFER)).send(CHOICE)
    one.send(VERSIONS).receive(VERSIONS, message(VERSIONS)).receive(OUTCOME, message(OUTCOME))
    yield one.test("rank-0-agreed", "An offer, of which one name is unknown; a choice; frames of the extension",
                   "EXT-CHOICE", "EXT-UNKNOWN", state="confirmed")  # fmt: skip
    one = agreed().receive(VERSIONS, message(VERSIONS)).send(VERSIONS).send(OUTCOME)
    yield one.test("rank-1-agreed", "The same from rank 1", "EXT-CHOICE", state="confirmed")
    one = agreed().receive(b"\x41\0\0\0\0")
    yield one.test("rank-1-offered-not-chosen", "A type of an extension that was offered, and not chosen",
                   "EXT-UNINVITED", state="failed", error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = agreed().receive(BOOTSTRAP, message(BOOTSTRAP)).receive(OUTCOME)
    yield one.test("rank-1-agreed-anew", "A later bootstrap replaces the agreement", "EXT-CHOICE", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = Script("rank 1", 2, extensions=_KNOWN).receive(OUTCOME, CONFIRMED)
    yield one.test("rank-1-uninvited", "A type of an extension before all", "EXT-UNINVITED", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip
    refused = fault("extension-not-offered", None, "extensions")
    one = Script("rank 1", 2, extensions=_KNOWN).receive(CHOICE, CONFIRMED)
    yield one.test("rank-1-not-offered", "A choice of what was not offered in this session", "EXT-NOT-OFFERED",
                   state="failed", error=refused)  # fmt: skip
    one = Script("rank 1", 2).receive(PING, CONFIRMED, message(PING)).send(PONG).receive(CHOICE)
    yield one.test("rank-1-plain", "A choice, and rank 1 has no extensions", "EXT-NOT-OFFERED", state="failed",
                   error=refused)  # fmt: skip
    one = Script("rank 0", 2).send(PING).receive(OFFER, CONFIRMED, message(OFFER)).receive(OUTCOME)
    yield one.test("rank-0-plain", "An offer is no agreement", "EXT-UNINVITED", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = Script("rank 1", 1, extensions=_KNOWN).receive(CHOICE, message(CHOICE)).receive(OUTCOME)
    yield one.test("rank-1-old-revision", "Revision 1 takes no extension as agreed, whatever a bootstrap names",
                   "EXT-REVISION", state="failed", error=fault("type-unknown", 0, "type"))  # fmt: skip
    one = Script("rank 0", 1, extensions=_KNOWN).receive(OFFER, message(OFFER)).receive(OUTCOME)
    yield one.test("rank-0-old-revision", "The same from rank 0", "EXT-REVISION", state="failed",
                   error=fault("type-unknown", 0, "type"))  # fmt: skip


def make() -> VectorFile[Any]:
    assert introduction(HELLO).nonce == EPHEMERAL_0.nonce
    both: tuple[Revision, ...] = (1, 2)
    return file(
        SessionTest,
        _ABOUT,
        (
            Group(
                name="conversations",
                about="Sessions without an error.",
                tests=(*(test for each in both for test in _conversations(each)), *_sealed_conversations()),
            ),
            Group(
                name="misplaced",
                about="Known types that the state does not allow.",
                tests=tuple(test for each in both for test in _misplaced(each)),
            ),
            Group(
                name="ends",
                about="How a session ends.",
                tests=tuple(test for each in both for test in _ends(each)),
            ),
            Group(
                name="handshake errors",
                about="Faults that end a connection before its session is established.",
                tests=tuple(test for each in both for test in _handshake_errors(each)),
            ),
            Group(
                name="frame errors",
                about="Link frames and cluster frames that end a session.",
                tests=(*(test for each in both for test in _frame_errors(each)), *_revision_errors()),
            ),
            Group(name="box errors", about="Boxes that end a session.", tests=tuple(_box_errors())),
            Group(name="extensions", about="Extensions, agreed or not.", tests=tuple(_extended())),
        ),
    )
