"""What a session says of its keys: to the key log, and to nobody else."""

import io
import json
from pathlib import Path

import pytest

from tests.wireproto.peers import (
    EPHEMERAL_0,
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
from wireproto.session import Config, RemoteError, Role, Session, State
from wireproto.session.handshake import Signer

# -- the key log ------------------------------------------------------------------------------------------------------


def recorded(revision: Revision, logs: dict[Role, io.StringIO | None]) -> list[bytes]:
    """The bodies of all link frames of a short conversation, as they go over the wire."""
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
    """As a reader of a capture would: the hello's nonce on the wire → the line → the key → the boxes."""
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
    """Both write the same line, and once a session. [KEY-LOG]"""
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
    """Whoever watches the file has the key before the first box."""
    path = tmp_path / "keys"
    with path.open("w") as log:
        one = session(RESPONDER, key_log=log)
        take(one, link(hello()))
        assert path.read_text().startswith(f"CLUSTER_SESSION_KEY {EPHEMERAL_0.nonce.hex()} ")


@EACH_REVISION
def test_no_key_log_unless_injected(
    revision: Revision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The environment is the commands' to read, not the session's. [KEY-LOG]"""
    path = tmp_path / "keys"
    monkeypatch.setenv("WIREPROTO_KEYLOGFILE", str(path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    monkeypatch.chdir(tmp_path)
    recorded(revision, {INITIATOR: None, RESPONDER: None})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


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


def test_signer_protocol() -> None:
    """Anything with a public key and `sign` will do: here, one that is neither a file's nor a package's."""

    class Elsewhere:
        public_key = SIGNERS[INITIATOR].public_key

        def sign(self, commitment: bytes) -> bytes:
            assert len(commitment) == 32
            return SIGNERS[INITIATOR].sign(commitment)

    signer: Signer = Elsewhere()
    one = Session(Config(role=INITIATOR, signer=signer, pin=RANK_1.public_key))
    frame = json.loads(output(one)[9:])
    assert sorted(frame) == ["ephemeralX25519PubKey", "nonce", "sePubKeyRaw", "seSignature"]
