"""Our side of a scripted session, without I/O: the handshake, and the contents of link frames."""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wireproto.conformance import byhand
from wireproto.conformance.byhand import Identity, Introduction
from wireproto.conformance.frames import ACK, HELLO
from wireproto.conformance.verdicts import Missed
from wireproto.messages import Revision
from wireproto.session import Role
from wireproto.session.seal import OVERHEAD

_PIECE: Final = 1024 * 1024


class Side:
    """The other rank in one connection with a peer of this role."""

    def __init__(self, role: Role, revision: Revision, identity: Identity) -> None:
        self.role = role
        """The peer's."""
        self.revision = revision
        self.identity = identity
        self.ephemeral = X25519PrivateKey.generate()
        self.nonce = os.urandom(32)
        self.theirs: Introduction | None = None
        self.key: bytes | None = None
        """The session key, once the handshake is done."""
        self.bodies: list[bytes] = []
        """The bodies of the link frames received since then: boxes in revision 2."""

    def twin(self) -> "Side":
        """Return the same side for another peer, with the same hello."""
        other = Side(self.role, self.revision, self.identity)
        other.ephemeral, other.nonce = self.ephemeral, self.nonce
        return other

    @property
    def public(self) -> bytes:
        return self.ephemeral.public_key().public_bytes_raw()

    def introduction(
        self,
        *,
        identity: Identity | None = None,
        public: bytes | None = None,
        nonce: bytes | None = None,
        commit: Callable[[bytes, bytes], bytes] | None = None,
        sign: Callable[[Identity, bytes], bytes] = Identity.sign,
        shown: bytes | None = None,
    ) -> bytes:
        """Return our hello or ack as a cluster frame.

        `commit(public, nonce)` makes the commitment, `sign(identity, commitment)` signs it, and `shown` is the identity
        key in the frame.
        """
        identity = identity or self.identity
        public = self.public if public is None else public
        nonce = self.nonce if nonce is None else nonce
        signature = sign(identity, (commit or self.commitment)(public, nonce))
        payload = Introduction(identity.public if shown is None else shown, public, nonce, signature).payload()
        return (HELLO if self.role is Role.RESPONDER else ACK) + payload

    def commitment(self, public: bytes, nonce: bytes) -> bytes:
        """Return the commitment that we must sign."""
        if self.role is Role.RESPONDER:
            return byhand.hello_commitment(public, nonce)
        assert self.theirs is not None  # noqa: S101 - their hello has come
        return byhand.ack_commitment(self.theirs.nonce, nonce, public)

    def open(self) -> None:
        """Derive the session key."""
        self.key = byhand.derive(self.secret(), self.salt)

    def secret(self) -> bytes:
        assert self.theirs is not None  # noqa: S101
        try:
            return byhand.shared_secret(self.ephemeral, self.theirs.ephemeral)
        except ValueError:
            raise Missed("an X25519 key", self.theirs.ephemeral.hex(), "PAYLOAD-HELLO") from None

    @property
    def salt(self) -> bytes:
        """nonce_0 ‖ nonce_1"""
        assert self.theirs is not None  # noqa: S101
        pair = (self.nonce, self.theirs.nonce)
        return b"".join(pair if self.role is Role.RESPONDER else reversed(pair))

    def body_pieces(self, first: bytes, length: int) -> Iterator[bytes]:
        """Yield a body of this length in pieces, for a cluster frame of `first` and zeros."""
        assert self.key is not None  # noqa: S101
        is_sealed = self.revision is Revision.V2
        size = length - OVERHEAD if is_sealed else length
        zeros = (bytes(min(_PIECE, size - at)) for at in range(len(first), size, _PIECE))
        pieces = chain((first,), zeros)
        return byhand.sealed_pieces(self.key, pieces) if is_sealed else pieces

    def body(self, frame: bytes, **deviation: bytes) -> bytes:
        """Return the body of the link frame for a cluster frame; `deviation` is passed to `byhand.sealed`."""
        assert self.key is not None  # noqa: S101 - for the type checker: cases come here behind the handshake
        return byhand.sealed(self.key, frame, **deviation) if self.revision is Revision.V2 else frame
