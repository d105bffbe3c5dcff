"""Disclosure of session keys: to the key log and nowhere else."""

import gc
import io
import json
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.wireproto.peers import (
    EPHEMERAL_0,
    OTHER,
    RANK_0,
    RANK_1,
    SIGNERS,
    by_hand,
    hello,
    introduction,
    outcome,
    output,
    session,
    take,
    unbox,
)
from tests.wireproto.session_states import EACH_REVISION, EACH_ROLE, INITIATOR, RESPONDER, V2
from tests.wireproto.streams import link
from wireproto import InferenceStep, InferenceToken, Ping, Revision
from wireproto.session import (
    Config,
    Established,
    KeySigner,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
    TrustAnyKey,
    seal,
)
from wireproto.session.handshake import Responder, Signer
from wireproto.testing.fixed_keys import KNOWN

# -- the key log ------------------------------------------------------------------------------------------------------


def recorded(revision: Revision, logs: dict[Role, io.StringIO | None]) -> list[bytes]:
    """The bodies of all link frames of a short conversation, as on the wire."""
    initiator = session(INITIATOR, revision, key_log=logs[INITIATOR])
    responder = session(RESPONDER, revision, key_log=logs[RESPONDER])
    wire = [output(initiator)]
    take(responder, wire[0])
    wire.append(output(responder))
    take(initiator, wire[1])
    wire.append(output(initiator, Ping()))
    wire.append(output(responder, InferenceToken(responder.seal_tensor(b"token"))))
    wire.append(output(initiator, InferenceStep(initiator.seal_tensor(b"tensor"))))
    return [data[8:] for data in wire]


@EACH_REVISION
def test_key_log_opens_what_was_recorded(revision: Revision) -> None:
    """Like the reader of a capture: nonce on the wire → line → key → boxes."""
    log = io.StringIO()
    captures = [recorded(revision, {INITIATOR: log, RESPONDER: None}) for _ in range(3)]
    lines = log.getvalue().splitlines(keepends=True)
    assert len(lines) == 3
    keys = {}
    for line in lines:
        label, nonce, key = line.removesuffix("\n").split(" ")
        assert label == "CLUSTER_SESSION_KEY"
        assert (len(nonce), len(key)) == (64, 64)
        assert nonce == nonce.lower()
        assert key == key.lower()
        keys[nonce] = bytes.fromhex(key)
    for first, _, *rest in captures:
        key = keys[introduction(first).nonce.hex()]
        ping, token, step = (unbox(key, body) for body in rest) if revision is V2 else rest
        assert ping == b"\x03"
        assert (token[0], unbox(key, token[1:])) == (0x06, b"token")
        assert (step[0], unbox(key, step[1:])) == (0x05, b"tensor")


@EACH_REVISION
def test_key_log_of_either_side(revision: Revision) -> None:
    """Both write the same line, once per session. [KEY-LOG]"""
    logs = {INITIATOR: io.StringIO(), RESPONDER: io.StringIO()}
    recorded(revision, logs)  # type: ignore[arg-type]
    assert logs[INITIATOR].getvalue() == logs[RESPONDER].getvalue()
    assert logs[INITIATOR].getvalue().count("\n") == 1


@EACH_ROLE
def test_no_key_log_without_a_handshake(role: Role) -> None:
    log = io.StringIO()
    one = session(role, key_log=log)
    output(one)
    outcome(one, [link(b"\x03")])
    assert log.getvalue() == ""


def test_key_log_is_flushed_at_once(tmp_path: Path) -> None:
    """The key is in the file before the first box is sent."""
    path = tmp_path / "keys"
    with path.open("w") as log:
        one = session(RESPONDER, key_log=log)
        take(one, link(hello()))
        assert path.read_text().startswith(f"CLUSTER_SESSION_KEY {EPHEMERAL_0.nonce.hex()} ")


@EACH_REVISION
def test_no_key_log_unless_injected(
    revision: Revision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the commands read the environment, not the session. [KEY-LOG]"""
    path = tmp_path / "keys"
    monkeypatch.setenv("WIREPROTO_KEYLOGFILE", str(path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    monkeypatch.chdir(tmp_path)
    recorded(revision, {INITIATOR: None, RESPONDER: None})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class Unwritable(io.StringIO):
    """A full disk, or any other exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


@EACH_ROLE
def test_a_key_log_that_cannot_be_written_costs_no_frame(role: Role) -> None:
    """The ack is sent, Established has the error, and the session continues."""
    closed = io.StringIO()
    closed.close()
    for log in (Unwritable(OSError(28, "No space left on device")), closed):
        one, peer = session(role, key_log=log), session(OTHER[role])
        initiator, responder = (one, peer) if role is INITIATOR else (peer, one)
        came = take(responder, output(initiator)) + take(initiator, output(responder))
        errors = [event.key_log_error for event in came if isinstance(event, Established)]
        assert [error is None for error in errors] == ([False, True] if role is RESPONDER else [True, False])
        assert MessageReceived(Ping()) in take(responder, output(initiator, Ping()))


def test_any_other_exception_in_the_key_log_fails_the_session() -> None:
    one = session(RESPONDER, key_log=Unwritable(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        take(one, link(hello()))
    assert one.state is State.FAILED


# -- what is said about the session -----------------------------------------------------------------------------------


def test_states_and_roles() -> None:
    assert [state.value for state in State] == ["idle", "hello sent", "established", "confirmed", "closed", "failed"]
    assert {role: role.value for role in Role} == {INITIATOR: "rank 0", RESPONDER: "rank 1"}


@EACH_ROLE
def test_secrets_stay_inside(role: Role) -> None:
    """Neither the session nor its errors show the key."""
    peer = by_hand(role)
    assert peer.key.hex() not in repr(vars(peer.session))
    assert repr(peer.key) not in repr(vars(peer.session))
    with pytest.raises(RemoteError) as caught:
        take(peer.session, link(bytes(28)))
    assert peer.key.hex() not in repr(caught.value)


def holds_ephemeral_key(one: Session) -> bool:
    """Return whether an X25519 private key is reachable from a session."""
    seen, todo = set(), [vars(one)]
    while todo:
        each = todo.pop()
        if isinstance(each, X25519PrivateKey):
            return True
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType):
            seen.add(id(each))
            todo += gc.get_referents(each)
    return False


@pytest.mark.parametrize("data", ["ack", "refused", "end"])
def test_the_ephemeral_key_is_dropped_with_the_handshake(data: str) -> None:
    """It is no longer needed, and would open a recording of the session."""
    one = session(INITIATOR)
    greeting = output(one)
    assert holds_ephemeral_key(one)
    if data == "ack":
        responder = session(RESPONDER)
        take(responder, greeting)
        assert isinstance(*take(one, output(responder)), Established)
        assert not holds_ephemeral_key(responder)
    elif data == "refused":
        with pytest.raises(RemoteError):
            take(one, link(b"\0"))
    else:
        take(one, b"")
    assert not holds_ephemeral_key(one)


def test_signer_protocol() -> None:
    """Any object with a public key and `sign` works: here, one from neither a file nor the package."""

    class Elsewhere:
        public_key = SIGNERS[INITIATOR].public_key

        def sign(self, commitment: bytes) -> bytes:
            assert len(commitment) == 32
            return SIGNERS[INITIATOR].sign(commitment)

    signer: Signer = Elsewhere()
    one = Session(Config(role=INITIATOR, signer=signer, pin=RANK_1.public_key))
    frame = json.loads(output(one)[9:])
    assert sorted(frame) == ["ephemeralX25519PubKey", "nonce", "sePubKeyRaw", "seSignature"]


def test_no_secret_in_a_repr() -> None:
    """The repr of handshake results, of a configuration, and of test keys."""
    _, secrets = Responder(RANK_1, RANK_0.public_key).respond(hello())
    config = Config(role=INITIATOR, signer=KeySigner.from_scalar(KNOWN.rank_0.scalar), pin=RANK_1.public_key)
    for each in (secrets, config, Session(config), config.signer, KNOWN, KNOWN.rank_0):
        for secret in (secrets.key, KNOWN.rank_0.scalar, KNOWN.rank_0.ephemeral, KNOWN.rank_1.scalar):
            assert repr(secret)[2:-1] not in repr(each)
            assert secret.hex() not in repr(each)


# -- what a session is made of ----------------------------------------------------------------------------------------


class Long:
    public_key = b"\x04" + RANK_1.public_key

    def sign(self, commitment: bytes) -> bytes:
        return RANK_1.sign(commitment)


class Buffered:
    """A public key as some key stores return it; the handshake failed with it."""

    public_key = bytearray(RANK_1.public_key)

    def sign(self, commitment: bytes) -> bytes:
        return RANK_1.sign(commitment)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ({"role": "rank 2"}, ValueError),
        ({"role": None}, ValueError),
        ({"revision": 3}, ValueError),
        ({"revision": True}, TypeError),
        ({"revision": 2.0}, TypeError),
        ({"revision": "2"}, TypeError),
        ({"pin": bytes(63)}, ValueError),
        ({"pin": bytes(65)}, ValueError),
        ({"pin": "00" * 64}, TypeError),
        ({"pin": TrustAnyKey}, TypeError),
        ({"signer": Long()}, ValueError),
        ({"signer": Buffered()}, TypeError),
        ({"signer": RANK_0.public_key}, TypeError),
        ({"extensions": "outcome/1"}, TypeError),
        ({"extensions": b"outcome/1"}, TypeError),
        ({"extensions": (1,)}, TypeError),
        ({"extensions": 1}, TypeError),
        ({"key_log": "keys.log"}, TypeError),
        ({"random": b"random"}, TypeError),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_arguments_are_checked_at_construction(argument: dict[str, Any], error: type[Exception]) -> None:
    arguments = {"role": INITIATOR, "signer": RANK_0, "pin": RANK_1.public_key, **argument}
    with pytest.raises(error):
        Config(**arguments)


def test_role_and_revision_are_coerced_and_read_only() -> None:
    """A plain 2 means revision 2, so nothing is sent in the clear."""
    pin: Any = bytearray(RANK_1.public_key)
    role: Any = "rank 0"
    one = Session(Config(role=role, signer=RANK_0, pin=pin, revision=2, extensions=["outcome/1"]))  # type: ignore[arg-type]
    assert (one.role, one.revision, one.extensions) == (INITIATOR, V2, {"outcome/1"})
    assert type(one.revision) is Revision
    for name in ("role", "revision", "state", "extensions", "agreed", "offered", "peer_key", "boxes_left"):
        with pytest.raises(AttributeError):
            setattr(one, name, None)


def test_sessions_in_several_threads() -> None:
    """Each thread has its own session; they share nothing, so their calls cannot interfere."""

    def talk(_: int) -> int:
        initiator, responder = session(INITIATOR), session(RESPONDER)
        take(responder, output(initiator))
        take(initiator, output(responder))
        return sum(len(take(responder, output(initiator, Ping()))) for _ in range(1000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(talk, range(4))) == [1001] * 4
    finally:
        sys.setswitchinterval(interval)
    shared = [name for name, value in vars(seal).items() if isinstance(value, list | dict | set | deque)]
    assert [name for name in shared if not name.startswith("__")] == []
