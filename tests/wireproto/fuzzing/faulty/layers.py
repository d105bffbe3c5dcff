"""This package's own layers, each with one fault, as the harness that must find it."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from wireproto import Message, Revision, decode_frame, jaccl
from wireproto.codec import tensor
from wireproto.codec.link import Frame, LinkDecoder
from wireproto.errors import MalformedError, SealError, WireError
from wireproto.fuzzing.codec_layers import frame_harness, link_harness, schema_harness
from wireproto.fuzzing.device_layer import device_file_harness
from wireproto.fuzzing.harness import Harness
from wireproto.fuzzing.session_harness import session_harness
from wireproto.fuzzing.session_layers import handshake_harness, seal_harness
from wireproto.jaccl.topology import DeviceVerdict, check_device_file
from wireproto.messages import EXTENSIONS
from wireproto.session import Config, Established, Event, MessageIgnored, MessageReceived, Session, State
from wireproto.session.handshake import Responder, SessionSecrets, TrustAnyKey
from wireproto.session.seal import Seal

FAULTS: Final[dict[str, Callable[[], Harness]]] = {}
"""The harness of each faulty layer, by the fault's name."""


def fault(make: Callable[[Any], Harness]) -> Callable[[Any], Any]:
    """Replace a class or function of the layer."""

    def plant(implementation: Any) -> Any:
        FAULTS[implementation.__name__] = lambda: make(implementation)
        return implementation

    return plant


# -- link streams -----------------------------------------------------------------------------------------------------

link = fault(link_harness)


class Simple(LinkDecoder):
    """A simple, correct link decoder, made to be broken."""

    def __init__(self) -> None:
        super().__init__()
        self.held = b""
        self.at = 0

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        self.held += bytes(data)
        while len(self.held) >= 8:
            length = self.length(self.held[:8])
            if len(self.held) < 8 + length:
                break
            frame, self.held = self.held[8 : 8 + length], self.held[8 + length :]
            self.at += 8 + length
            yield self.view(frame)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        self.space = bytearray(64 * 1024)
        return memoryview(self.space)

    def buffer_updated(self, count: int) -> Iterator[Frame]:
        return self.feed(bytes(self.space[:count]))

    def length(self, header: bytes) -> int:
        length = int.from_bytes(header, "little")
        if not 0 < length <= self.max_length:
            list(LinkDecoder.feed(self.real(), header))
        return length

    def real(self) -> LinkDecoder:
        decoder = LinkDecoder(self.max_length)
        decoder._passed = self.at
        return decoder

    def view(self, frame: bytes) -> memoryview:
        return memoryview(frame)

    def eof(self) -> None:
        if self.held:
            decoder = LinkDecoder()
            decoder._passed = self.at
            list(decoder.feed(self.held))
            decoder.eof()


@link
class LimitOneTooLow(Simple):
    def length(self, header: bytes) -> int:
        self.max_length = 2**28 - 1
        return super().length(header)


@link
class LimitOneTooHigh(Simple):
    def length(self, header: bytes) -> int:
        self.max_length = 2**28 + 1
        return super().length(header)


@link
class EmptyFramesPass(Simple):
    def length(self, header: bytes) -> int:
        return super().length(header) if any(header) else 0


@link
class LengthOf32Bits(Simple):
    def length(self, header: bytes) -> int:
        return super().length(header[:4] + bytes(4))


@link
class LengthIsSigned(Simple):
    def length(self, header: bytes) -> int:
        length = int.from_bytes(header, "little", signed=True)
        return super().length(header) if length >= 0 else 0


@link
class LengthInPiecesIsLost(Simple):
    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        if 0 < len(self.held) < 8:
            self.held = b""
        yield from super().feed(data)


@link
class FrameThatEndsWithTheChunkWaits(Simple):
    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        frames = list(super().feed(data))
        if len(frames) > 1 and not self.held:
            frames.pop()
        yield from frames


@link
class EndInsideAFramePasses(Simple):
    def eof(self) -> None:
        pass


@link
class BufferIsUsedAgain(Simple):
    shared = bytearray(1024)

    def view(self, frame: bytes) -> memoryview:
        if len(frame) > len(self.shared):
            return memoryview(frame)
        self.shared[: len(frame)] = frame
        return memoryview(self.shared)[: len(frame)].toreadonly()


@link
class MemoryForWhatIsAnnounced(Simple):
    def length(self, header: bytes) -> int:
        length = super().length(header)
        self.buffer = b"\0" * length
        self.buffer += b"\1"
        return length


@link
class OffsetFromTheFrame(Simple):
    def real(self) -> LinkDecoder:
        return LinkDecoder(self.max_length)


@link
class FramesInQuadraticTime(Simple):
    """Sums the sizes of all earlier frames to find the start of one."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def view(self, frame: bytes) -> memoryview:
        self.sizes.append(8 + len(frame))
        assert sum(size for size in self.sizes) == self.at
        return super().view(frame)


# -- cluster frames, records ------------------------------------------------------------------------------------------


@fault(frame_harness)
def ExtensionsAlwaysKnown(data: Any, revision: Revision, extensions: Collection[str]) -> Message:  # noqa: N802
    return decode_frame(data, revision, EXTENSIONS)


@fault(frame_harness)
def RevisionGuessed(data: Any, revision: Revision, extensions: Collection[str]) -> Message:  # noqa: N802
    return decode_frame(data, Revision.V2, extensions)


@fault(frame_harness)
def KeyErrorLeaks(data: Any, revision: Revision, extensions: Collection[str]) -> Message:  # noqa: N802
    try:
        return decode_frame(data, revision, extensions)
    except WireError as error:
        if error.code == "field-enum":
            raise KeyError(error.path) from error
        raise


@fault(lambda decode: schema_harness(decode_token=decode))
def TokenIsUnsigned(data: bytes) -> int:  # noqa: N802
    return tensor.decode_token(data) % 2**32


@fault(lambda decode: schema_harness(decode_destination=decode))
def OwnEntryOfAnyLength(data: bytes) -> jaccl.Destination:  # noqa: N802
    return jaccl.OWN_ENTRY if data[:4] == b"\xff" * 4 else jaccl.decode_destination(data)


@fault(lambda decode: schema_harness(decode_activation=decode))
def ActivationWithMoreBehind(data: bytes, hidden_dim: int) -> tensor.Activation | None:  # noqa: N802
    try:
        return tensor.decode_activation(data, hidden_dim)
    except MalformedError as error:
        if error.code != "trailing-data":
            raise
        return tensor.decode_activation(data[: error.offset], hidden_dim)


@fault(device_file_harness)
def UnevenLinksPass(data: bytes) -> DeviceVerdict:  # noqa: N802
    verdict = check_device_file(data)
    if [fault.code for fault in verdict.faults] == ["topology-incomplete"]:
        return DeviceVerdict((), False, True, ())
    return verdict


# -- boxes ------------------------------------------------------------------------------------------------------------

seal = fault(seal_harness)


@seal
class ReplayPasses(Seal):
    def _check(self, nonce: bytes, size: int) -> None:
        if self._first.get(nonce) == b"o":
            del self._first[nonce]
        super()._check(nonce, size)


@seal
class RefusedCountsAsOpened(Seal):
    def decrypt(self, box: bytes | memoryview) -> bytes:
        try:
            return super().decrypt(box)
        except SealError:
            self._first[bytes(box[:12])] = b"o"
            raise

    def decrypt_into(self, box: bytes | memoryview, out: bytearray | memoryview) -> None:
        try:
            super().decrypt_into(box, out)
        except SealError:
            self._first[bytes(box[:12])] = b"o"
            raise


@seal
class ReflectionPasses(Seal):
    def _next_nonce(self) -> bytes:
        nonce = super()._next_nonce()
        del self._first[nonce]
        return nonce


@seal
class NonceOf8Bytes(Seal):
    """Remembers only a part of each nonce."""

    def _check(self, nonce: bytes, size: int) -> None:
        super()._check(next((each for each in self._first if nonce[:1] == each[:1]), nonce), size)

    def decrypt(self, box: bytes | memoryview) -> bytes:
        self._check(bytes(box[:12]), len(box))
        return super().decrypt(box)


@seal
class TooShortIsNoBox(Seal):
    def _check(self, nonce: bytes, size: int) -> None:
        super()._check(nonce, max(size, 28))


# -- handshake --------------------------------------------------------------------------------------------------------

respond = fault(handshake_harness)


@respond
def AnyIdentity(responder: Responder, frame: bytes) -> tuple[bytes, SessionSecrets]:  # noqa: N802
    responder._pin = TrustAnyKey()
    return responder.respond(frame)


@respond
def HalfAPin(responder: Responder, frame: bytes) -> tuple[bytes, SessionSecrets]:  # noqa: N802
    """Compares only X."""
    message = decode_frame(frame) if frame[:1] == b"\1" and _decodes(frame) else None
    if message is not None and message.se_pub_key_raw[:32] == responder._pin[:32]:  # type: ignore[union-attr,index]
        responder._pin = message.se_pub_key_raw  # type: ignore[union-attr]
    return responder.respond(frame)


@respond
def SaltTheOtherWayRound(responder: Responder, frame: bytes) -> tuple[bytes, SessionSecrets]:  # noqa: N802
    ack, secrets = responder.respond(frame)
    return ack, secrets._replace(key=secrets.key[::-1])


@respond
def AckPassesAsHello(responder: Responder, frame: bytes) -> tuple[bytes, SessionSecrets]:  # noqa: N802
    return responder.respond(b"\1" + frame[1:] if frame[:1] == b"\2" else frame)


@respond
def SignatureBeforePin(responder: Responder, frame: bytes) -> tuple[bytes, SessionSecrets]:  # noqa: N802
    """Checks in another order, so a frame with two faults gets another error."""
    pin, responder._pin = responder._pin, TrustAnyKey()
    responder.respond(frame)
    responder._pin = pin
    return responder.respond(frame)


def _decodes(frame: bytes) -> bool:
    try:
        decode_frame(frame)
    except WireError:
        return False
    return True


# -- sessions ---------------------------------------------------------------------------------------------------------

session = fault(session_harness)


@session
class SpeaksOnBehindTheEnd(Session):
    """Reads bytes after sessionEnd."""

    def _end(self, state: State) -> None:
        if state is State.FAILED or self._stream_ended:
            super()._end(state)


@session
class IgnoresNothing(Session):
    def _message(self, frame: memoryview, seal: Seal | None) -> Event:
        event = super()._message(frame, seal)
        return MessageReceived(event.message) if isinstance(event, MessageIgnored) else event


@session
class ConfirmedFromTheStart(Session):
    def _introduction(self, frame: memoryview) -> Established:
        event = super()._introduction(frame)
        self._enter(State.CONFIRMED)
        return event


@session
class AgreedIsNeverTakenBack(Session):
    def _agree(self, message: Message) -> None:
        before = self._decodable
        super()._agree(message)
        self._decodable |= before


@session
class LongHelloPasses(Session):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._link.max_length = 2**28


@session
class UnsealedPasses(Session):
    """Reads a frame as plaintext if it does not open."""

    def _message(self, frame: memoryview, seal: Seal | None) -> Event:
        return super()._message(frame, None if frame == b"\x03" else seal)
