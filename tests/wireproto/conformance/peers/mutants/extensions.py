"""Bugs in extensions."""

from tests.wireproto.conformance.peers.conversation import Conversation, Fault
from tests.wireproto.conformance.peers.mutant import ONE, V1, ZERO, Tolerant, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import (
    EXTENSIONS,
    MemoryPressure,
    Message,
    PongPayload,
    Versions,
    WireError,
    decode_frame,
)


@mutant("EXT-UNINVITED")
class UninvitedAccepted(Conversation):
    """The types of extensions are always known."""

    def decode(self, frame: bytes) -> Message | None:
        if 0x40 <= frame[0] <= 0x43:
            try:
                return decode_frame(frame, extensions=EXTENSIONS)
            except WireError as error:
                raise Fault(str(error)) from error
        return super().decode(frame)


@mutant("EXT-NAMES")
class AnyNamesAccepted(Tolerant):
    """`extensions` may hold anything."""

    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return (error.path or "").startswith("extensions")


@mutant("EXT-NOT-OFFERED", roles=ONE)
class NotOfferedAccepted(RankOne):
    """An extension that was not offered is agreed on."""

    def check_extensions(self, names: tuple[str, ...]) -> None:
        pass


@mutant("EXT-NOT-OFFERED", roles=ONE)
class OfferKept(RankOne):
    """A supported extension counts as offered."""

    def established(self, key: bytes) -> None:
        super().established(key)
        self.offered = frozenset(self.extensions)


@mutant("EXT-EMPTY")
class EmptyArrayRefused(Conversation):
    """An empty array of extensions is refused."""

    def look_at(self, frame: bytes) -> None:
        if b'"extensions":[]' in frame:
            raise Fault("empty")


@mutant("EXT-VERSIONS-SEND")
class NoVersions(Conversation):
    """outcome/1 is agreed on, but no versions are sent."""

    def send_versions(self) -> None:
        pass


@mutant("EXT-VERSIONS")
class ProgramMisspelt(Conversation):
    """Its versions name an unknown program."""

    def encode(self, message: Message) -> bytes:
        frame = super().encode(message)
        return frame[:-1] + b',"program":"dry_run"}' if isinstance(message, Versions) else frame


@mutant("EXT-VERSIONS")
class ProgramRefused(Conversation):
    """versions that say a program are refused."""

    def look_at(self, frame: bytes) -> None:
        if frame[0] == 0x43 and b'"program"' in frame:
            raise Fault("program")


@mutant("EXT-VERSIONS")
class AnyProgramAccepted(Tolerant):
    """`program` may hold anything."""

    path = "program"
    codes = ("field-enum", "field-type")


@mutant("EXT-REVISION", roles=ONE, revision=V1)
class OffersInRevision1(RankOne):
    """Extensions are offered in revision 1, too."""

    def pong(self) -> None:
        self.send(PongPayload(False, False, MemoryPressure.NORMAL, self.extensions))


@mutant("EXT-REVISION", roles=ZERO, revision=V1)
class ChoosesInRevision1(RankZero):
    """Extensions are chosen in revision 1, too."""

    def choose(self) -> frozenset[str]:
        return frozenset(self.extensions)


@mutant("EXT-CHOICE", roles=ZERO)
class ChoosesUnasked(RankZero):
    """A supported extension is chosen, offered or not."""

    def choose(self) -> frozenset[str]:
        return frozenset(self.extensions)

    def send_versions(self) -> None:
        pass


@mutant("EXT-UNKNOWN", roles=ZERO)
class UnknownNameRefused(RankZero):
    """An unknown offer is an error."""

    def known(self, names: tuple[str, ...]) -> frozenset[str]:
        if set(names) - set(EXTENSIONS):
            raise Fault("unknown")
        return super().known(names)


@mutant("EXT-CHOICE", roles=ZERO)
class UnknownNameChosen(RankZero):
    """Whatever is offered is chosen."""

    def known(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset(names)
