"""Write the worked example of spec/protocol.md from the test vectors."""

from itertools import zip_longest
from typing import Final, TypeVar

from wireproto.session.seal import Seal
from wireproto.testing.vectors import HandshakeTest, Secrets, SessionTest, load

_LINE: Final = 32
"""Bytes per line."""
_COLUMNS: Final = 110

_TestT = TypeVar("_TestT", HandshakeTest, SessionTest)


def worked_example() -> str:
    """Return one handshake, value by value, and the first frames of its session, byte by byte."""
    zero, one = _test(HandshakeTest, "worked-example"), _test(HandshakeTest, "worked-example-rank-1")
    values = zero.derived
    if values is None or zero.ack is None:
        raise ValueError("the worked example must be a handshake that succeeds")
    return (
        "\nRank 0 has these values:\n\n"
        + _block(*_secrets(zero.secrets, 0))
        + "Rank 1 has these values:\n\n"
        + _block(*_secrets(one.secrets, 1))
        + "Rank 0 signs its commitment. The signature is a SEQUENCE (0x30) of two INTEGERs (0x02), each with its\n"
        "length. An INTEGER whose first bit would otherwise be set starts with a zero byte:\n\n"
        + _block(("x25519_0 ‖ nonce_0", zero.secrets.ephemeral + zero.secrets.nonce),
                 ("commitment_0", values.hello_commitment), ("seSignature", values.hello_signature))
        + "The hello is sent as a link frame: the length, the type byte, and the JSON text up to the end:\n\n"
        + _frame(zero.hello)
        + "Rank 1 checks the hello, signs its own commitment, and answers with the ack:\n\n"
        + _block(("nonce_0 ‖ nonce_1 ‖ x25519_1", zero.secrets.nonce + one.secrets.nonce + one.secrets.ephemeral),
                 ("commitment_1", values.ack_commitment), ("seSignature", values.ack_signature))
        + _frame(zero.ack)
        + "Both sides derive the session key. `pseudorandom key` is the output of HKDF-Extract:\n\n"
        + _block(("shared", values.shared_secret), ("salt", values.salt), ("info", values.info),
                 ("pseudorandom key", values.pseudorandom_key), ("session key", values.session_key))
        + "From here on a link frame is a length, a nonce, a ciphertext and a tag. These are a ping, a pong and a\n"
        "jacclBootstrap:\n\n"
        + _sealed(values.session_key)
    )  # fmt: skip


def _sealed(key: bytes) -> str:
    """Return the first three frames of the open session."""
    seal = Seal(key)
    text = ""
    for step in _test(SessionTest, "rank-0-v2").steps[2:5]:
        way = "rank 0 → rank 1" if step.do == "send" else "rank 1 → rank 0"
        frame = bytes(step.bytes or b"")
        plain = seal.decrypt(frame[8:])
        text += _block(
            (f"{way}, length", frame[:8]),
            ("nonce", frame[8:20]),
            ("ciphertext", frame[20:-16]),
            ("tag", frame[-16:]),
            ("plaintext, type", plain[:1]),
        )
        text += _text(plain[1:])
    return text


def _secrets(secrets: Secrets, rank: int) -> list[tuple[str, bytes]]:
    return [
        ("identity private key", secrets.identity_private),
        (f"identity_{rank}", secrets.identity),
        ("X25519 private key", secrets.ephemeral_private),
        (f"x25519_{rank}", secrets.ephemeral),
        (f"nonce_{rank}", secrets.nonce),
    ]


def _frame(frame: bytes) -> str:
    return _block(("length", len(frame).to_bytes(8, "little")), ("type", frame[:1])) + _text(frame[1:])


def _block(*rows: tuple[str, bytes]) -> str:
    """Return lines of names and bytes in hex."""
    lines = []
    for name, data in rows:
        pieces = [data[at : at + _LINE].hex() for at in range(0, len(data), _LINE)]
        lines += [f"    {label:<30}{piece}".rstrip() for label, piece in zip_longest([name], pieces, fillvalue="")]
    return "\n".join(lines) + "\n\n"


def _text(text: bytes) -> str:
    """Return JSON as it is on the wire, with line breaks added."""
    shown = text.decode()
    return "".join(f"    {shown[at : at + _COLUMNS]}\n" for at in range(0, len(shown), _COLUMNS)) + "\n" * bool(text)


def _test(kind: type[_TestT], name: str) -> _TestT:
    return next(test for group in load(kind).groups for test in group.tests if test.id == name)
