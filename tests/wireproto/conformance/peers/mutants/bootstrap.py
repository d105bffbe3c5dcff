"""Bugs in the bootstrap."""

import re

from tests.wireproto.conformance.peers.conversation import Fault
from tests.wireproto.conformance.peers.mutant import ONE, ZERO, mutant
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from wireproto import (
    JacclBootstrapPayload,
    PongPayload,
)


@mutant("BOOT-RECEIVE", roles=ONE)
class BootstrapBlocks(RankOne):
    """Nothing else runs during the init."""

    busy = False

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        super().bootstrap(payload)
        self.busy = True

    def pong(self) -> None:
        if not self.busy:
            super().pong()


@mutant("BOOT-SEND", roles=ONE)
class BootstrapAnswered(RankOne):
    """A jacclBootstrap is answered."""

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        super().bootstrap(payload)
        self.send(payload)


@mutant("BOOT-SEND", roles=ONE)
class BootstrapAnsweredTwice(RankOne):
    """A jacclBootstrap is answered by two pongs."""

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        super().bootstrap(payload)
        self.pong()
        self.pong()


@mutant("BOOT-ESTABLISHED", roles=ONE)
class BootstrapNeedsPing(RankOne):
    """A jacclBootstrap is refused before the first ping."""

    pinged = False

    def pong(self) -> None:
        super().pong()
        self.pinged = True

    def bootstrap(self, payload: JacclBootstrapPayload) -> None:
        if not self.pinged:
            raise Fault("not yet")
        super().bootstrap(payload)


@mutant("BOOT-SESSION-ID", roles=ONE)
class SessionIdUnchecked(RankOne):
    """Any session ID is accepted as a file name."""

    file_name = re.compile(r"[\s\S]*")


@mutant("BOOT-SESSION-ID", roles=ONE)
class SessionIdOf36(RankOne):
    """A session ID must be as long as a UUID."""

    file_name = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,36}")


@mutant("BOOT-SESSION-ID", roles=ONE)
class SessionIdWithLineFeed(RankOne):
    """`$` matches before a line feed."""

    def check_session_id(self, session_id: str) -> None:
        super().check_session_id(session_id.removesuffix("\n"))


@mutant("BOOT-REFUSE", roles=ONE)
class PortUnchecked(RankOne):
    """Any 16-bit port is accepted."""

    def check_port(self, port: int) -> None:
        pass


@mutant("BOOT-REFUSE", roles=ONE)
class HighPortRefused(RankOne):
    """A port must be below the ephemeral ones."""

    def check_port(self, port: int) -> None:
        if not 0 < port < 49152:
            raise Fault("port")


@mutant("BOOT-SEND", roles=ZERO)
class NeverBootstraps(RankZero):
    """No jacclBootstrap is sent."""

    def bootstrap(self) -> None:
        pass


@mutant("BOOT-SEND", roles=ZERO)
class BootstrapsTwice(RankZero):
    """A jacclBootstrap is sent twice."""

    def bootstrap(self) -> None:
        super().bootstrap()
        super().bootstrap()


@mutant("BOOT-ESTABLISHED", "BOOT-SEND", roles=ZERO)
class BootstrapNeedsModel(RankZero):
    """As in the Swift peer: no jacclBootstrap before a pong says that the model is loaded."""

    def bootstrap(self) -> None:
        pass

    def pong(self, payload: PongPayload) -> None:
        super().pong(payload)
        if payload.model_loaded:
            super().bootstrap()


@mutant("BOOT-REFUSE", roles=ZERO)
class PortZeroSent(RankZero):
    """The port is left to the system."""

    def port(self) -> int:
        return 0


@mutant("BOOT-SESSION-ID", roles=ZERO)
class PathAsSessionId(RankZero):
    """The session ID is a path."""

    def session_id(self) -> str:
        return "sessions/1"


@mutant("BOOT-FRESH-ID", roles=ZERO)
class SessionIdLowerCase(RankZero):
    """The UUID is in lower case."""

    def session_id(self) -> str:
        return super().session_id().lower()


@mutant("BOOT-FRESH-ID", roles=ZERO)
class SessionIdKept(RankZero):
    """The session ID is always the same."""

    def session_id(self) -> str:
        return "6F9619FF-8B86-D011-B42D-00CF4FC964FF"
