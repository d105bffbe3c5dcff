"""The package's verdict on a vector: one function per kind, which raises `WireError` or AssertionError."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from tests.wireproto.peers import Ephemeral, FixedSigner, output, source
from tests.wireproto.verdicts import Accepted, decode_stream, fast, parse_stream, rejected, slow
from wireproto import LinkDecoder, Revision, WireError, decode_frame, encode_frame, jaccl, schema
from wireproto.codec import tensor
from wireproto.jaccl.topology import check_device_file, parse_rank_entries, parse_ring_hostfile
from wireproto.messages import SPEC_BY_CLASS, SPEC_BY_TYPE, Message, PayloadKind
from wireproto.session import (
    Closed,
    Config,
    Confirmed,
    Established,
    Event,
    KeyNearLimit,
    MessageIgnored,
    MessageReceived,
    Role,
    Session,
)
from wireproto.session.handshake import Initiator, Responder, ack_commitment, hello_commitment
from wireproto.session.seal import Seal
from wireproto.testing.by_schema import build_message
from wireproto.testing.vectors import (
    ClusterFrameTest,
    DeviceFileTest,
    Fault,
    HandshakeTest,
    Hex,
    JacclExchangeTest,
    JacclInitTest,
    JacclRecordTest,
    JacclStep,
    LinkStreamTest,
    Payload,
    SealTest,
    Secrets,
    SessionEvent,
    SessionStep,
    SessionTest,
    TensorTest,
)


def fault_of(error: WireError) -> Fault:
    return Fault(code=error.code, offset=error.offset, path=error.path)


# -- link streams, cluster frames -------------------------------------------------------------------------------------


def run_link_stream(test: LinkStreamTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole, and byte by byte; and by the schema, if the limit is the schema's."""
    whole = decode_stream([test.stream], LinkDecoder(test.max_length))
    single = [test.stream[at : at + 1] for at in range(len(test.stream))]
    assert decode_stream(single, LinkDecoder(test.max_length)) == whole
    if test.max_length == LinkDecoder().max_length:
        assert parse_stream(test.stream) == whole
    assert tuple(whole.bodies) == test.bodies
    if whole.end is not None:
        raise whole.end.cls(whole.end.code, "", offset=whole.end.offset, path=whole.end.path)


def run_cluster_frame(test: ClusterFrameTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the fast codec, and by the schema."""
    revision, extensions = Revision(test.revision), frozenset(test.extensions)
    outcome = fast(test.frame, revision, extensions)
    assert slow(test.frame, revision, extensions) == outcome
    message = decode_frame(test.frame, revision, extensions)
    assert isinstance(outcome, Accepted)
    assert _payload(message) == test.message
    assert _message(test.message) == message
    again = encode_frame(message, revision, extensions)
    assert build_message(message, revision, extensions) == again
    assert (again == test.frame) is ("canonical" in test.flags)


def _payload(message: Message) -> Payload:
    spec = SPEC_BY_CLASS[type(message)]
    values = json.loads(msgspec.json.encode(message))
    match spec.kind:
        case PayloadKind.EMPTY:
            return Payload(type=spec.msg_type.value, payload=None)
        case PayloadKind.OPAQUE:
            return Payload(type=spec.msg_type.value, payload=values["box"])
        case _:
            return Payload(type=spec.msg_type.value, payload=values)


def _message(payload: Payload | None) -> Message:
    assert payload is not None
    spec = SPEC_BY_TYPE[payload.type]
    match spec.kind:
        case PayloadKind.EMPTY:
            values = {}
        case PayloadKind.OPAQUE:
            values = {"box": payload.payload}
        case _:
            values = payload.payload
    message: Message = msgspec.convert(values, spec.payload)
    return message


# -- handshakes, boxes, tensors ---------------------------------------------------------------------------------------


def _own_side(secrets: Secrets) -> tuple[FixedSigner, Ephemeral]:
    """The side's identity, and its random values."""
    signer = FixedSigner(int.from_bytes(secrets.identity_private))
    ephemeral = Ephemeral.of(secrets.ephemeral_private.hex(), bytes(secrets.nonce))
    assert (signer.public_key, ephemeral.public) == (secrets.identity, secrets.ephemeral)
    return signer, ephemeral


def run_handshake(test: HandshakeTest, monkeypatch: pytest.MonkeyPatch) -> None:
    signer, ephemeral = _own_side(test.secrets)
    if test.role == "rank 0":
        initiator = Initiator(signer, test.secrets.pin, source(ephemeral))
        assert initiator.hello == test.hello
        assert test.ack is not None
        secrets = initiator.finish(test.ack)
    else:
        ack, secrets = Responder(signer, test.secrets.pin, source(ephemeral)).respond(test.hello)
        assert ack == test.ack
    assert test.derived is not None
    assert secrets.key == test.derived.session_key
    assert hello_commitment(*_key_and_nonce(test.hello)) == test.derived.hello_commitment
    key, nonce = _key_and_nonce(test.ack or b"")
    assert ack_commitment(_key_and_nonce(test.hello)[1], nonce, key) == test.derived.ack_commitment
    assert test.derived.key_log == f"CLUSTER_SESSION_KEY {secrets.hello_nonce.hex()} {secrets.key.hex()}\n"


def _key_and_nonce(frame: bytes) -> tuple[bytes, bytes]:
    message: Any = decode_frame(frame)
    return message.ephemeral_x25519_pub_key, message.nonce


def run_seal(test: SealTest, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Seal(test.key, source(None, *(step.nonce for step in test.steps if step.nonce is not None)))
    first: WireError | None = None
    for step in test.steps:
        try:
            if step.do == "seal":
                assert step.nonce is not None
                assert step.plaintext is not None
                assert one.encrypt(step.plaintext) == step.box
            else:
                assert one.decrypt(step.box) == step.plaintext
            assert step.error is None
        except WireError as error:
            assert fault_of(error) == step.error  # noqa: PT017
            first = first or error
    if first is not None:
        raise first


def run_tensor(test: TensorTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the decoder, and by the schema."""
    plaintext = Seal(test.key).decrypt(test.box)
    assert plaintext == test.plaintext
    if test.holds == "token":
        assert _same(lambda: schema.parse(schema.Token, plaintext).tokenID, lambda: tensor.decode_token(plaintext)) == (
            test.token_id
        )
        assert tensor.encode_token(test.token_id or 0) == plaintext
        return
    dim = test.hidden_dim or 0
    by_schema = lambda: schema.parse(schema.Activation, plaintext, hidden_dim=dim).seqLen  # noqa: E731
    assert _same(by_schema, lambda: _seq_len(plaintext, dim)) == test.seq_len


def _seq_len(plaintext: bytes, hidden_dim: int) -> int:
    activation = tensor.decode_activation(plaintext, hidden_dim)
    return -1 if activation is None else activation.seq_len


def _same(one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Return the common result of two readers: the same value, or the same error."""
    try:
        value = one()
    except WireError as error:
        with pytest.raises(WireError) as caught:
            other()
        assert rejected(caught.value) == rejected(error)  # noqa: PT017
        raise
    assert other() == value
    return value


# -- sessions ---------------------------------------------------------------------------------------------------------


def run_session(test: SessionTest, monkeypatch: pytest.MonkeyPatch, *, single_bytes: bool = False) -> None:
    signer, ephemeral = _own_side(test.secrets)
    random = source(ephemeral, *(step.nonce for step in test.steps if step.nonce is not None))
    config = Config(
        role=Role(test.role),
        signer=signer,
        pin=test.secrets.pin,
        revision=Revision(test.revision),
        extensions=test.extensions,
        random=random,
    )
    one = Session(config)
    try:
        for at, step in enumerate(test.steps):
            events: list[SessionEvent] = []
            try:
                for event in _act(one, step, single_bytes):
                    events.append(event)
            except WireError:
                assert at == len(test.steps) - 1
                raise
            finally:
                assert tuple(events) == step.events
    finally:
        assert one.state.value == test.state


def _act(one: Session, step: SessionStep, single_bytes: bool) -> Iterator[SessionEvent]:
    data = step.bytes or Hex()
    match step.do:
        case "start":
            assert output(one) == data
        case "send":
            assert output(one, _message(step.message)) == data
        case "end":
            yield from _events(one, b"")
        case "receive":
            for piece in [data[at : at + 1] for at in range(len(data))] if single_bytes else [data]:
                yield from _events(one, piece)


def _events(one: Session, data: bytes) -> Iterator[SessionEvent]:
    one.receive_data(data)
    while (event := one.next_event()) is not None:
        yield _event(event, output(one))


def _event(event: Event, reply: bytes) -> SessionEvent:
    match event:
        case Established():
            return SessionEvent(event="established", reply=Hex(reply) if reply else None)
        case Confirmed():
            return SessionEvent(event="confirmed")
        case MessageReceived(message):
            return SessionEvent(event="message", message=_payload(message))
        case MessageIgnored(message):
            return SessionEvent(event="ignored", message=_payload(message))
        case Closed(orderly=orderly):
            return SessionEvent(event="closed", orderly=orderly)
        case KeyNearLimit():
            raise AssertionError("no vector has so many boxes")


# -- JACCL's side channel ---------------------------------------------------------------------------------------------


def run_jaccl_record(test: JacclRecordTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the schema; a Destination by the decoder, too."""
    if test.holds == "hello":
        assert schema.parse(schema.JacclHello, test.data).rank == test.rank
        assert jaccl.Worker(test.rank or 0, jaccl.MAX_SIZE).start() == test.data
        return
    _same(lambda: _destination_by_schema(test.data), lambda: jaccl.decode_destination(test.data))
    destination = jaccl.decode_destination(test.data)
    assert (destination == jaccl.OWN_ENTRY) is test.own_entry
    if test.destination is not None:
        values = msgspec.structs.asdict(test.destination)
        assert msgspec.structs.asdict(destination) == values | {"gid": bytes(values["gid"])}


def _destination_by_schema(data: bytes) -> jaccl.Destination:
    value = schema.parse(schema.JacclDestination, data)
    if value.endpoint is None:
        return jaccl.OWN_ENTRY
    end = value.endpoint
    return jaccl.Destination(value.local_id, end.queue_pair_number, end.packet_sequence_number, end.gid)


def run_jaccl_exchange(test: JacclExchangeTest, monkeypatch: pytest.MonkeyPatch, *, single_bytes: bool = False) -> None:
    side: _Worker | _Root = (
        _Worker(test.rank, test.size, single_bytes) if test.role == "worker" else _Root(test.size, single_bytes)
    )
    first: WireError | None = None
    for step in test.steps:
        try:
            side.act(step)
            assert step.error is None
        except WireError as error:
            assert fault_of(error) == step.error  # noqa: PT017
            first = first or error
    if first is not None:
        raise first


class _Worker:
    def __init__(self, rank: int, size: int, single_bytes: bool) -> None:
        self._worker = jaccl.Worker(rank, size)
        self._single = single_bytes
        self._size = 0  # of the result
        self._received = b""

    def act(self, step: JacclStep) -> None:
        data = bytes(step.bytes or b"")
        match step.do:
            case "start":
                assert self._worker.start() == data
            case "gather":
                assert self._worker.gather(data) == data
                self._size, self._received = self._worker.size * len(data), b""
                if not data:
                    assert self._worker.receive(b"") == b""
            case "receive":
                self._received += data
                for piece in _pieces(data, self._single):
                    result = self._worker.receive(piece)
                assert result == (self._received if len(self._received) == self._size else None)
            case "end":
                self._worker.receive_eof()
            case _:
                raise AssertionError(step.do)


class _Root:
    def __init__(self, size: int, single_bytes: bool) -> None:
        self._root = jaccl.Root(size)
        self._single = single_bytes
        self._connections: list[jaccl.Connection] = []

    def act(self, step: JacclStep) -> None:
        data = bytes(step.bytes or b"")
        match step.do:
            case "connect":
                assert step.connection == len(self._connections)
                self._connections.append(self._root.connect())
            case "gather":
                self._root.gather(data)
                assert not self._root.missing or self._root.result() is None
            case "receive":
                for piece in _pieces(data, self._single):
                    self._connections[step.connection or 0].receive(piece)
            case "result":
                assert self._root.result() == data
            case "end":
                self._connections[step.connection or 0].receive_eof()
            case _:
                raise AssertionError(step.do)


def _pieces(data: bytes, single: bool) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))] if single else [data]


def run_jaccl_init(test: JacclInitTest, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [_list(gather.own) for gather in test.gathers if len(gather.own) > 4]
    if test.form == "mesh":
        init: Any = jaccl.mesh_init(test.rank, test.size, lists[0] if lists else _own_list(test))
    else:
        init = jaccl.ring_init(test.rank, test.size, lists[0], lists[-1])
    own = next(init)
    for gather in test.gathers[:-1]:
        assert own == gather.own
        own = init.send(bytes(gather.result))
    assert own == test.gathers[-1].own
    with pytest.raises(StopIteration) as ended:
        init.send(bytes(test.gathers[-1].result))
    formed = ended.value.value
    each = [formed] if test.form == "mesh" else [formed.left, formed.right]
    for lists_of_ranks, gather in zip(each, [g for g in test.gathers if len(g.own) > 4], strict=True):
        size = len(gather.own)
        results = [gather.result[at : at + size] for at in range(0, test.size * size, size)]
        assert [list(one) for one in lists_of_ranks] == [_list(part) for part in results]


def _list(part: bytes) -> list[jaccl.Destination]:
    return [jaccl.decode_destination(part[at : at + 32]) for at in range(0, len(part), 32)]


def _own_list(test: JacclInitTest) -> list[jaccl.Destination]:
    """Return any list of the count in the first gather, which ends before the list is sent."""
    count = int.from_bytes(test.gathers[0].own, "little")
    return [jaccl.OWN_ENTRY if at % test.size == test.rank else jaccl.Destination(1, 1) for at in range(count)]


# -- device files -----------------------------------------------------------------------------------------------------


def run_device_file(test: DeviceFileTest, monkeypatch: pytest.MonkeyPatch) -> None:
    if test.form == "rank entries":
        parse_rank_entries(test.file)
    elif test.form == "ring hostfile":
        parse_ring_hostfile(test.file)
    else:
        verdict = check_device_file(test.file)
        if verdict.faults:
            raise verdict.faults[0]
        assert (verdict.mesh, verdict.ring) == (test.mesh, test.ring)


RUNNERS: Final[dict[type, Callable[[Any, pytest.MonkeyPatch], None]]] = {
    LinkStreamTest: run_link_stream,
    ClusterFrameTest: run_cluster_frame,
    HandshakeTest: run_handshake,
    SealTest: run_seal,
    TensorTest: run_tensor,
    SessionTest: run_session,
    JacclRecordTest: run_jaccl_record,
    JacclExchangeTest: run_jaccl_exchange,
    JacclInitTest: run_jaccl_init,
    DeviceFileTest: run_device_file,
}
