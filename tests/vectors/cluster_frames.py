"""Vectors of cluster frames. Bytes and verdicts are from the tests' own tables, which do not use the package."""

import json
from collections.abc import Iterator
from typing import Any, Final

from tests.vectors.frame_comments import ELEMENTS, FAULTS, FOREIGN, PARTS, TEXTS, TYPES
from tests.vectors.writing import BEYOND_LAYOUT, FOR_EXTENSIONS, fault, file
from tests.wireproto.accepted_frames import ACCEPTED
from tests.wireproto.payloads import EXTENSION_OF, JSON_FIELDS, TYPE_BYTE, V1_TYPES, canonical_frame, members
from tests.wireproto.rejected_fields import REJECTED_FIELDS
from tests.wireproto.rejected_texts import REJECTED_TEXTS, Reject
from wireproto import (
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Outcome,
    OutcomeState,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    SessionEnd,
    SessionStopPayload,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
)
from wireproto.testing.vectors import ClusterFrameTest, Group, Hex, Payload, VectorFile

_ABOUT = (
    "One cluster frame, starting with its type byte. A decoder of `revision`, which is not on the wire, must return "
    "`message`, with the keys of the wire and bytes in base64, or fail with `error`. The offset counts from the "
    "type byte."
)

_LONGEST: Final = 8192

_RULE_OF_TYPE: Final = {
    0x01: "PAYLOAD-HELLO", 0x02: "PAYLOAD-HELLO", 0x03: "PAYLOAD-EMPTY", 0x04: "PAYLOAD-PONG", 0x05: "PAYLOAD-OPAQUE",
    0x06: "PAYLOAD-OPAQUE", 0x07: "PAYLOAD-BOOTSTRAP", 0x08: "PAYLOAD-PROMPT", 0x09: "PAYLOAD-STEP-TOKEN",
    0x0A: "PAYLOAD-UID", 0x0B: "PAYLOAD-PP-ACTIVATION", 0x0C: "PAYLOAD-PP-TOKEN", 0x0D: "PAYLOAD-UID",
    0x40: "EXT-SIDE-CHANNEL-LAYOUT", 0x41: "EXT-SIDE-CHANNEL-LAYOUT", 0x42: "EXT-OUTCOME", 0x43: "EXT-VERSIONS",
    0xFF: "PAYLOAD-EMPTY",
}  # fmt: skip
_RULE_OF_CODE: Final = {
    "type-unknown": "FRAME-TYPE", "payload-limit": "PAYLOAD-LIMIT", "payload-not-empty": "PAYLOAD-EMPTY",
    "truncated": "JSON-TEXT", "trailing-data": "JSON-TEXT", "json-bom": "JSON-TEXT", "json-syntax": "JSON-TEXT",
    "payload-not-object": "JSON-TEXT", "json-utf8": "JSON-STRING", "json-control-character": "JSON-STRING",
    "json-escape": "JSON-STRING", "json-surrogate": "JSON-STRING", "json-duplicate-key": "JSON-DUPLICATE-KEY",
    "json-nesting": "JSON-NESTING", "field-missing": "JSON-KEYS", "field-not-integer": "JSON-INTEGER",
    "field-base64": "JSON-BASE64",
}  # fmt: skip
_SEEN_BY_LAYOUT: Final = ("type-unknown", "payload-not-empty")

# -- each type as it is written here ----------------------------------------------------------------------------------

_KEYS: Final[dict[str, bytes]] = {
    "se_pub_key_raw": bytes(range(64)),
    "ephemeral_x25519_pub_key": bytes(range(0x40, 0x60)),
    "nonce": bytes(range(0x60, 0x80)),
    "se_signature": bytes.fromhex("300602010102017f"),
}
_I64_MAX: Final = 2**63 - 1

_Rows = list[tuple[str, str, Any]]

_OWN: Final[_Rows] = [
    ("handshakeHello", "Whether the key is a point, and the signature right, the handshake says",
     HandshakeHello(**_KEYS)),
    ("handshakeHello-empty-signature", "A signature of any length", HandshakeHello(**{**_KEYS, "se_signature": b""})),
    ("handshakeAck", "The same four keys as the hello's", HandshakeAck(**_KEYS)),
    ("ping", "No payload", Ping()),
    ("pong-idle", "No model", PongPayload(False, False, MemoryPressure.NORMAL)),
    ("pong-ready", "A model, and no inference", PongPayload(True, False, MemoryPressure.WARNING)),
    ("pong-busy", "In the middle of inference", PongPayload(True, True, MemoryPressure.CRITICAL)),
    ("inferenceStep", "A box of 28 bytes and more", InferenceStep(bytes(range(60)))),
    ("inferenceStep-empty", "No box at all: the frame is right, the box is not", InferenceStep(b"")),
    ("inferenceStep-short", "Fewer bytes than a box has: likewise", InferenceStep(b"\x00")),
    ("inferenceStep-json", "JSON is bytes like any others here", InferenceStep(b'{"uid":"u"}')),
    ("inferenceToken", "A token's box: 12 + 4 + 16 bytes", InferenceToken(bytes(range(0x80, 0xA0)))),
    ("inferenceToken-empty", "No box at all", InferenceToken(b"")),
    ("jacclBootstrap", "As the reference peer fills it",
     JacclBootstrapPayload(29400, "6F9619FF-8B86-D011-B42D-00CF4FC964FF")),
    ("jacclBootstrap-port-0", "The frame carries 0; a group cannot use it", JacclBootstrapPayload(0, "a")),
    ("jacclBootstrap-port-65535", "The greatest port", JacclBootstrapPayload(65535, "a")),
    ("jacclBootstrap-empty-id", "The frame carries any string", JacclBootstrapPayload(29400, "")),
    ("jacclBootstrap-path", "Not a name for a file, and yet a string that the frame carries",
     JacclBootstrapPayload(29400, "../../etc/cron.d/x")),
    ("jacclBootstrap-unicode", "Characters of one to four bytes", JacclBootstrapPayload(1, "aé€😀")),
    ("promptTokens", "A prompt", PromptTokensPayload("u1", (1, 15043, 29892), 256)),
    ("promptTokens-none", "An empty array", PromptTokensPayload("u1", (), 0)),
    ("promptTokens-ends", "The ends of 64-bit integers", PromptTokensPayload("", (-_I64_MAX - 1, _I64_MAX), _I64_MAX)),
    ("stepToken", "A token", StepTokenPayload("u1", 3186)),
    ("stepToken-negative", "A negative number", StepTokenPayload("u1", -1)),
    ("stepToken-2-to-53", "2^53 + 1: a double makes 2^53 of it", StepTokenPayload("u1", 2**53 + 1)),
    ("sessionStop", "A uid", SessionStopPayload("u1")),
    ("sessionStop-quotes", "A uid with what JSON has to escape", SessionStopPayload('"\\\n')),
    ("ppActivation", "A box in base64", PPActivationPayload("u1", 3, bytes(range(61)))),
    ("ppActivation-stop", "seqLen -1, and a box with the stop sentinel", PPActivationPayload("u1", -1, bytes(32))),
    ("ppToken", "A box in base64", PPTokenPayload("u1", bytes(range(32)))),
    ("ppToken-empty", "No box at all: the frame is right, the box is not", PPTokenPayload("u1", b"")),
    ("ppSessionEnd", "A uid", PPSessionEndPayload("u1")),
    ("sessionEnd", "No payload", SessionEnd()),
]  # fmt: skip

_NAMES: Final = ("side-channel/1", "outcome/1", "review/1")
_OWN_EXTENDED: Final[_Rows] = [
    ("pong-offers", "Rank 1 offers extensions, an unknown one among them",
     PongPayload(True, False, MemoryPressure.NORMAL, _NAMES)),
    ("jacclBootstrap-choice", "Rank 0 chooses", JacclBootstrapPayload(29400, "a", ("outcome/1",))),
    ("jacclBootstrap-longest-name", "A name of 64 characters", JacclBootstrapPayload(1, "a", ("x" * 62 + "/1",))),
    ("jacclBootstrap-32-names", "As many names as may be",
     JacclBootstrapPayload(1, "a", tuple(f"x/{number}" for number in range(1, 33)))),
    ("sideChannelPart", "A part of a gather", SideChannelPart(0, bytes(range(4)))),
    ("sideChannelPart-empty", "A part of no bytes", SideChannelPart(2**32 - 1, b"")),
    ("sideChannelWhole", "The whole of two parts", SideChannelWhole(1, bytes(range(8)))),
    *((f"outcome-{state.value}", "How an init goes", Outcome(1, state, "", "", ""))
      for state in OutcomeState if state is not OutcomeState.FAILED),
    ("outcome-failed", "Why an init failed",
     Outcome(0, OutcomeState.FAILED, "init", "native-error", "Changing queue pair to RTR failed with errno 22")),
    ("outcome-longest", "1,024 characters of four bytes", Outcome(0, OutcomeState.FAILED, "", "", "😀" * 1024)),
    ("versions", "What a rank runs", Versions("0.1.0", "0.32.4", "jaccl", "0123456789abcdef" * 4)),
    ("versions-no-devices", "A rank without a device matrix", Versions("0.1.0", "0.32.4", "ring", "")),
    ("versions-program-hold", "A rank that holds the group", Versions("0.1.0", "0.32.4", "ring", "", Program.HOLD)),
    ("versions-program-module", "A rank that runs a module in the process that formed the group",
     Versions("0.1.0", "0.32.4", "ring", "", Program.MODULE)),
    ("versions-program-command", "A rank that runs a command in a process of its own",
     Versions("0.1.0", "", "jaccl", "0123456789abcdef" * 4, Program.COMMAND)),
    ("versions-program-dry-run", "A dry run", Versions("0.1.0", "0.32.4", "ring", "", Program.DRY_RUN)),
]  # fmt: skip
_UNINVITED: Final[_Rows] = [
    ("sideChannelPart", "A type of an extension that is not agreed", SideChannelPart(0, b"")),
    ("sideChannelWhole", "A type of an extension that is not agreed", SideChannelWhole(0, b"")),
    ("outcome", "A type of an extension that is not agreed", Outcome(1, OutcomeState.READY, "", "", "")),
    ("versions", "A type of an extension that is not agreed", Versions("", "", "", "")),
]


def _payload(message: Any) -> Payload:
    kind = TYPE_BYTE[type(message)]
    if type(message) in JSON_FIELDS:
        return Payload(type=kind, payload={key: json.loads(text) for key, text in members(message)})
    if isinstance(message, SideChannelPart | SideChannelWhole):
        name, data = ("part", message.part) if isinstance(message, SideChannelPart) else ("whole", message.whole)
        return Payload(type=kind, payload={"sequence": message.sequence, name: json.loads(_base64(data))})
    box = getattr(message, "box", None)
    return Payload(type=kind, payload=None if box is None else json.loads(_base64(box)))


def _base64(box: bytes) -> bytes:
    return members(PPTokenPayload("", box))[1][1]


def _int64(message: Payload) -> tuple[str, ...]:
    values = message.payload.values() if isinstance(message.payload, dict) else ()
    numbers = [n for value in values for n in (value if isinstance(value, list) else [value]) if type(n) is int]
    return ("int64",) if any(abs(number) > 2**53 for number in numbers) else ()


def _extensions_of(cls: type) -> tuple[str, ...]:
    return (EXTENSION_OF[cls],) if cls in EXTENSION_OF else ()


def _for_extensions(named: bool) -> tuple[str, ...]:
    return (FOR_EXTENSIONS,) if named else ()


def _own(rows: _Rows, revision: int) -> Iterator[ClusterFrameTest]:
    for name, comment, message in rows:
        kind = TYPE_BYTE[type(message)]
        if revision == 1 and kind not in V1_TYPES:
            continue
        payload = _payload(message)
        named = ("EXT-NAMES",) if getattr(message, "extensions", ()) else ()
        yield ClusterFrameTest(
            id=f"v{revision}-{name}",
            comment=comment,
            requirements=("FRAME-TYPE", _RULE_OF_TYPE[kind], *named),
            flags=("canonical", *_int64(payload), *_for_extensions(bool(named))),
            result="valid",
            revision=revision,  # type: ignore[arg-type]
            extensions=_extensions_of(type(message)),
            frame=Hex(canonical_frame(message)),
            message=payload,
        )


def _uninvited() -> Iterator[ClusterFrameTest]:
    for name, comment, message in _UNINVITED:
        for revision in (1, 2):
            yield ClusterFrameTest(
                id=f"v{revision}-uninvited-{name}",
                comment=comment if revision == 2 else "Revision 1 has no extensions",
                requirements=("EXT-REVISION" if revision == 1 else "EXT-UNINVITED", "FRAME-TYPE"),
                result="invalid",
                error=fault("type-unknown", 0, "type"),
                revision=revision,  # type: ignore[arg-type]
                frame=Hex(canonical_frame(message)),
            )


# -- foreign spellings ------------------------------------------------------------------------------------------------


def _foreign() -> Iterator[ClusterFrameTest]:
    rows = {row.id: row for row in ACCEPTED}
    for name, comment in FOREIGN.items():
        row = rows[name]
        payload = _payload(row.message)
        rules = ["JSON-UNKNOWN-KEY"] if name.startswith(("unknown", "nesting", "base64-key-nested")) else []
        rules += ["JSON-NESTING"] * name.startswith("nesting") + ["JSON-BASE64"] * name.startswith("base64")
        rules += ["JSON-INTEGER"] * name.startswith(("minus", "i64"))
        rules += ["JSON-KEYS"] * (name in ("order-turned", "unknown-other-case"))
        rules += ["JSON-UNKNOWN-KEY"] * (name in ("versions-program-other-case", "versions-program-nested"))
        rules += ["EXT-EMPTY"] * name.startswith("extensions-empty")
        rules += ["EXT-NAMES"] * (name in ("extensions-first-and-escaped", "extensions-nobody-knows"))
        rules += ["PAYLOAD-LIMIT"] * name.endswith("-longest")
        rules += ["JSON-STRING"] * ("escape" in name or name.startswith(("pair", "utf8", "c1", "delete", "line")))
        yield ClusterFrameTest(
            id=name,
            comment=comment,
            requirements=(*(rules or ["JSON-TEXT"]), "JSON-SPELLING", _RULE_OF_TYPE[row.frame[0]]),
            flags=(
                "canonical" if row.frame == canonical_frame(row.message) else "foreign-spelling",
                *_int64(payload),
                *_for_extensions(bool(getattr(row.message, "extensions", ()))),
            ),
            result="valid",
            revision=int(row.revision),  # type: ignore[arg-type]
            extensions=_extensions_of(type(row.message)),
            frame=Hex(row.frame),
            message=payload,
        )


# -- what must be refused ---------------------------------------------------------------------------------------------


def _rejected(row: Reject, name: str, comment: str) -> ClusterFrameTest:
    empty = not row.frame
    rule = "FRAME-TYPE" if empty else _RULE_OF_CODE.get(row.code)
    of_type = _RULE_OF_TYPE.get(row.frame[0]) if row.frame and row.path not in (None, "type") else None
    names_extensions = (row.path or "").startswith("extensions")
    if names_extensions:
        of_type = "EXT-NAMES"
    numbered = row.frame[:1] in (b"\x40", b"\x41")
    if numbered:
        rule = "EXT-SIDE-CHANNEL-LAYOUT"
    return ClusterFrameTest(
        id=name,
        comment=comment,
        requirements=tuple(each for each in (rule, of_type) if each),
        flags=(
            *(() if empty or numbered or row.code in _SEEN_BY_LAYOUT else (BEYOND_LAYOUT,)),
            *_for_extensions(names_extensions),
        ),
        result="invalid",
        error=fault(row.code, row.offset, row.path),
        revision=int(row.revision),  # type: ignore[arg-type]
        extensions=() if empty else tuple(EXTENSION_OF[cls] for cls in EXTENSION_OF if TYPE_BYTE[cls] == row.frame[0]),
        frame=Hex(row.frame),
    )


def _texts(comments: dict[str, str]) -> Iterator[ClusterFrameTest]:
    rows = {row.id: row for row in (*REJECTED_TEXTS, *REJECTED_FIELDS)}
    for name, comment in comments.items():
        yield _rejected(rows[name], name, comment)


def _fields() -> Iterator[ClusterFrameTest]:
    rows = {row.id: row for row in REJECTED_FIELDS}
    for cls, fields in JSON_FIELDS.items():
        wire_name = {0x01: "handshakeHello", 0x02: "handshakeAck"} | {
            TYPE_BYTE[type(message)]: name.partition("-")[0] for name, _, message in (*_OWN, *_OWN_EXTENDED)
        }
        for key, kind in fields.values():
            for name, comment in FAULTS[kind]:
                row = rows[f"{cls.__name__}-{key}-{name}"]
                yield _rejected(row, f"{wire_name[TYPE_BYTE[cls]]}-{key}-{name}", f"`{key}` {comment}")


def make() -> VectorFile[Any]:
    groups = [
        Group(name="revision 1", about="Every type of revision 1.", tests=tuple(_own(_OWN, 1))),
        Group(name="revision 2", about="Every type of revision 2.", tests=tuple(_own(_OWN, 2))),
        Group(name="extensions", about="Revision 2, with what `extensions` agree on.",
              tests=(*_own(_OWN_EXTENDED, 2), *_texts(PARTS), *_uninvited())),
        Group(name="foreign encodings", about="Forms that a peer may write.", tests=tuple(_foreign())),
        Group(name="types", about="Type bytes, and payloads of types without payload.", tests=tuple(_texts(TYPES))),
        Group(name="JSON texts", about="Texts that some parsers accept.", tests=tuple(_texts(TEXTS))),
        Group(name="fields", about="One wrong field each.", tests=(*_fields(), *_texts(ELEMENTS))),
    ]  # fmt: skip
    assert all(len(test.frame) <= _LONGEST for group in groups for test in group.tests)
    return file(ClusterFrameTest, _ABOUT, groups)
