"""The registry, compared with the tables of the protocol, repeated here."""

from typing import Final

import msgspec
import pytest

from tests.wireproto.payloads import JSON_FIELDS, TYPE_BYTE
from wireproto import (
    EXTENSIONS,
    MAX_LINK_LENGTH,
    REGISTRY,
    ClusterMsgType,
    Direction,
    HandshakeAck,
    HandshakeHello,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    MessageSpec,
    Outcome,
    OutcomeState,
    PayloadKind,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPSessionEndPayload,
    PPTokenPayload,
    Program,
    PromptTokensPayload,
    Revision,
    SessionEnd,
    SessionStopPayload,
    SideChannelPart,
    SideChannelWhole,
    StepTokenPayload,
    Versions,
    encode_frame,
)

TABLE: Final = [
    (0x01, "handshakeHello", "0 → 1", HandshakeHello, "JSON object", 1, None),
    (0x02, "handshakeAck", "1 → 0", HandshakeAck, "JSON object", 1, None),
    (0x03, "ping", "0 → 1", Ping, "empty", 1, None),
    (0x04, "pong", "1 → 0", PongPayload, "JSON object", 1, None),
    (0x05, "inferenceStep", "0 → 1", InferenceStep, "opaque bytes", 1, None),
    (0x06, "inferenceToken", "1 → 0", InferenceToken, "opaque bytes", 1, None),
    (0x07, "jacclBootstrap", "0 → 1", JacclBootstrapPayload, "JSON object", 1, None),
    (0x08, "promptTokens", "0 → 1", PromptTokensPayload, "JSON object", 2, None),
    (0x09, "stepToken", "0 → 1", StepTokenPayload, "JSON object", 2, None),
    (0x0A, "sessionStop", "0 → 1", SessionStopPayload, "JSON object", 2, None),
    (0x0B, "ppActivation", "0 → 1", PPActivationPayload, "JSON object", 2, None),
    (0x0C, "ppToken", "1 → 0", PPTokenPayload, "JSON object", 2, None),
    (0x0D, "ppSessionEnd", "0 → 1", PPSessionEndPayload, "JSON object", 2, None),
    (0x40, "sideChannelPart", "1 → 0", SideChannelPart, "a number, then opaque bytes", 2, "side-channel/1"),
    (0x41, "sideChannelWhole", "0 → 1", SideChannelWhole, "a number, then opaque bytes", 2, "side-channel/1"),
    (0x42, "outcome", "0 ↔ 1", Outcome, "JSON object", 2, "outcome/1"),
    (0x43, "versions", "0 ↔ 1", Versions, "JSON object", 2, "outcome/1"),
    (0xFF, "sessionEnd", "0 → 1", SessionEnd, "empty", 1, None),
]

KEYS: Final = {
    HandshakeHello: ["sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature"],
    HandshakeAck: ["sePubKeyRaw", "ephemeralX25519PubKey", "nonce", "seSignature"],
    PongPayload: ["modelLoaded", "inferenceInFlight", "memoryPressure", "extensions"],
    JacclBootstrapPayload: ["port", "sessionID", "extensions"],
    PromptTokensPayload: ["uid", "tokens", "maxTokens"],
    StepTokenPayload: ["uid", "token"],
    SessionStopPayload: ["uid"],
    PPActivationPayload: ["uid", "seqLen", "sealedActivation"],
    PPTokenPayload: ["uid", "sealedToken"],
    PPSessionEndPayload: ["uid"],
    Outcome: ["rank", "state", "stage", "code", "message"],
    Versions: ["package", "mlx", "backend", "devices", "program"],
}


def test_registry() -> None:
    assert [
        (
            spec.msg_type.value,
            spec.msg_type.wire_name,
            spec.direction.value,
            spec.payload,
            spec.kind.value,
            spec.revision,
            spec.extension,
        )
        for spec in REGISTRY
    ] == TABLE
    assert all(isinstance(spec, MessageSpec) for spec in REGISTRY)


def test_types() -> None:
    assert {member.value: member.wire_name for member in ClusterMsgType} == {row[0]: row[1] for row in TABLE}
    assert ClusterMsgType.JACCL_BOOTSTRAP == 0x07
    assert ClusterMsgType(0xFF) is ClusterMsgType.SESSION_END
    assert ClusterMsgType.PP_SESSION_END.wire_name == "ppSessionEnd"
    with pytest.raises(ValueError, match="14"):
        ClusterMsgType(0x0E)


@pytest.mark.parametrize("revision", Revision)
def test_types_of_a_revision(revision: Revision) -> None:
    known = {spec.msg_type.value for spec in REGISTRY if spec.is_known(revision)}
    assert known == {0xFF, *range(0x01, 0x08 if revision == Revision.V1 else 0x0E)}


@pytest.mark.parametrize("revision", Revision)
def test_types_of_an_extension(revision: Revision) -> None:
    """Only revision 2 has them; an unknown extension adds nothing."""
    plain = {spec.msg_type for spec in REGISTRY if spec.is_known(revision)}
    for extension, types in {
        "side-channel/1": {0x40, 0x41},
        "outcome/1": {0x42, 0x43},
        "side-channel/2": set(),
        "": set(),
    }.items():
        known = {spec.msg_type for spec in REGISTRY if spec.is_known(revision, {extension})}
        assert known - plain == (types if revision == Revision.V2 else set())
    assert (*EXTENSIONS,) == ("side-channel/1", "outcome/1")


def test_enums() -> None:
    assert [(revision.name, revision.value) for revision in Revision] == [("V1", 1), ("V2", 2)]
    assert [pressure.value for pressure in MemoryPressure] == ["normal", "warning", "critical"]
    assert [state.value for state in OutcomeState] == ["started", "ready", "failed", "finished"]
    assert [program.value for program in Program] == ["hold", "module", "command", "dry-run"]
    assert len(Direction) == 3
    assert len(PayloadKind) == 4
    assert MAX_LINK_LENGTH == 268_435_456 == 256 * 1024 * 1024


@pytest.mark.parametrize("cls", KEYS, ids=lambda cls: cls.__name__)
def test_wire_keys(cls: type[Message]) -> None:
    fields = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    assert list(fields.values()) == KEYS[cls]
    assert fields == {name: key for name, (key, _) in JSON_FIELDS[cls].items()}


def test_the_tests_own_tables() -> None:
    assert {row[3]: row[0] for row in TABLE} == TYPE_BYTE
    assert {cls: [key for key, _ in fields.values()] for cls, fields in JSON_FIELDS.items()} == KEYS


def test_other_payloads() -> None:
    for empty in (Ping, SessionEnd):
        assert empty.__struct_fields__ == ()
    for opaque in (InferenceStep, InferenceToken):
        assert opaque.__struct_fields__ == ("box",)
    assert SideChannelPart.__struct_fields__ == ("sequence", "part")
    assert SideChannelWhole.__struct_fields__ == ("sequence", "whole")


def test_messages_are_values() -> None:
    payload = JacclBootstrapPayload(port=29400, session_id="a")
    assert payload == JacclBootstrapPayload(29400, "a")
    assert payload != JacclBootstrapPayload(29400, "b")
    assert len({payload, JacclBootstrapPayload(29400, "a")}) == 1
    assert "29400" in repr(payload)
    keys = (bytes(64), bytes(32), bytes(32), b"")
    assert HandshakeHello(*keys) != HandshakeAck(*keys)
    assert Ping() == Ping() != SessionEnd()
    assert SessionStopPayload("u") != PPSessionEndPayload("u")


@pytest.mark.parametrize("cls", [row[3] for row in TABLE], ids=lambda cls: cls.__name__)
def test_messages_are_frozen(cls: type[Message]) -> None:
    config = cls.__struct_config__
    assert config.frozen
    for name in cls.__struct_fields__:
        message = cls(*[None] * len(cls.__struct_fields__))
        with pytest.raises(AttributeError):
            setattr(message, name, 1)


@pytest.mark.parametrize("cls", [row[3] for row in TABLE if row[3].__struct_fields__], ids=lambda cls: cls.__name__)
def test_no_field_has_a_default(cls: type[Message]) -> None:
    with pytest.raises(TypeError):
        cls()


def test_construction_does_not_check_but_encoding_does() -> None:
    payload = JacclBootstrapPayload(port=-1, session_id="a")
    with pytest.raises(ValueError, match="-1 is not from 0 to 65535"):
        encode_frame(payload)
