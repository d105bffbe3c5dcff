"""Bugs in a peer's output."""

import base64
import json
import os
from collections.abc import Callable

from tests.wireproto.conformance.peers.conversation import Conversation
from tests.wireproto.conformance.peers.mutant import ONE, ZERO, mutant
from tests.wireproto.conformance.peers.reference import RankOne
from wireproto import (
    Message,
    PongPayload,
)


def _spelt(rule: str, name: str, about: str, change: Callable[[bytes], bytes]) -> None:
    """Encodes its hello or ack in another way."""

    def spell(self: Conversation, values: dict[str, bytes]) -> bytes:
        return change(Conversation.spell(self, values))

    mutant(rule)(type(name, (Conversation,), {"__doc__": about, "spell": spell}))


_spelt("JSON-BASE64", "NoPaddingSent", "Base64 is sent without padding.", lambda text: text.replace(b"=", b""))
_spelt("JSON-DUPLICATE-KEY", "KeyTwiceSent", "A key is sent twice.", lambda text: text[:-1] + b',"v":1,"v":1}')


@mutant("JSON-BASE64")
class UrlSafeSent(Conversation):
    """Base64 is sent in the URL-safe alphabet."""

    def spell(self, values: dict[str, bytes]) -> bytes:
        texts = {key: base64.urlsafe_b64encode(value).decode() for key, value in values.items()}
        return json.dumps(texts).encode()

    def sign(self, commitment: bytes) -> bytes:
        while True:
            signature = super().sign(commitment)
            if b"+" in base64.b64encode(signature) or b"/" in base64.b64encode(signature):
                return signature


@mutant("PAYLOAD-HELLO")
class PointPrefixSent(Conversation):
    """The identity key is sent with the 0x04 of the uncompressed form."""

    def own_identity(self) -> bytes:
        return b"\x04" + super().own_identity()


@mutant("PAYLOAD-HELLO")
class NonceOf16Sent(Conversation):
    """The nonce has 16 bytes."""

    def make_nonce(self) -> bytes:
        return os.urandom(16)


class SentOtherwise(Conversation):
    """Frames of one type are sent with some bytes changed."""

    old, new = b"", b""

    def encode(self, message: Message) -> bytes:
        return super().encode(message).replace(self.old, self.new)


@mutant("PAYLOAD-PONG", roles=ONE)
class PongMalformed(SentOtherwise):
    """A pong says 0 for false."""

    old, new = b'"modelLoaded":false', b'"modelLoaded":0'


@mutant("JSON-KEYS", roles=ONE)
class PongWithoutField(SentOtherwise):
    """A pong leaves out a field that is false."""

    old, new = b'"inferenceInFlight":false,', b""


@mutant("JSON-KEYS", roles=ONE)
class PongEmpty(RankOne):
    """A pong has no payload."""

    def encode(self, message: Message) -> bytes:
        frame = super().encode(message)
        return frame[:1] + (b"{}" if isinstance(message, PongPayload) else frame[1:])


@mutant("PAYLOAD-BOOTSTRAP", roles=ZERO)
class PortSentAsString(SentOtherwise):
    """The port is sent as a string."""

    old, new = b"29400", b'"29400"'


@mutant("JSON-INTEGER", roles=ZERO)
class PortSentAsDouble(SentOtherwise):
    """The port is sent as 29400.0."""

    old, new = b"29400", b"29400.0"
