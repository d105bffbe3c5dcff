"""A peer's allowed reactions to each act: our own `Session` as the model, plus freedoms that it does not use."""

import os
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from wireproto.codec.frame import decode_frame
from wireproto.conformance.byhand import Introduction
from wireproto.conformance.frames import is_of_extension, name_of, payload_rule, rule_of
from wireproto.conformance.model.introductions import commitment_rule
from wireproto.conformance.model.script import Act, Hand
from wireproto.conformance.side import Side
from wireproto.errors import RemoteError, WireError
from wireproto.messages import (
    MAX_LINK_LENGTH,
    SPEC_BY_CLASS,
    ClusterMsgType,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    PPActivationPayload,
    PPTokenPayload,
    Revision,
)
from wireproto.session import (
    Closed,
    Config,
    Established,
    KeySigner,
    MessageIgnored,
    MessageReceived,
    Role,
    Session,
    State,
)

_BOXES: Final = ("changed box", "cut box", "other key")
_MOST_RANKS: Final = 64
_FILE_NAME: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_RULES: Final = {
    "link-length-zero": "LINK-LEN-MIN",
    "link-length-limit": "LINK-LEN-MAX",
    "seal-replay": "SEAL-REPLAY",
    "seal-reflection": "SEAL-REFLECTION",
    "seal-tag": "SESSION-BOX",
    "extension-not-offered": "EXT-NOT-OFFERED",
    "handshake-malformed": "HANDSHAKE-ONLY",
    "handshake-length": "HANDSHAKE-ONLY",
    "handshake-unexpected": "HANDSHAKE-ONLY",
    "handshake-wrong-pin": "HANDSHAKE-PIN",
    "handshake-point": "HANDSHAKE-ORDER",
    "handshake-shared-secret": "HANDSHAKE-ORDER",
}


class End(Enum):
    """Allowed states of the connection."""

    OPEN = "open"
    """The connection continues."""
    CLOSED = "closed"
    """The connection ends."""
    EITHER = "either"


class Listener(NamedTuple):
    """The peer that a script is played to."""

    role: Role
    revision: Revision
    extensions: tuple[str, ...] = ()
    """The extensions that the peer is known to have."""
    names_file: bool = False
    """Whether the peer's session IDs name files."""


class Outcome(NamedTuple):
    """The required reaction to a burst."""

    end: End
    pongs: int
    """Pongs that are due."""
    has_ack: bool
    sent: int
    """Number of acts to send: those after the end are left out."""
    rule: str
    """The rule for the last act that counts."""
    shape: str
    """That act, in a few words."""
    has_bootstrap: bool = False
    """Whether a usable jacclBootstrap was received."""


class Model:
    """A peer that follows the rules, on one connection."""

    def __init__(self, listener: Listener, side: Side) -> None:
        """`side` is ours on the live connection, so the model sees the same bytes in its handshake."""
        self.listener = listener
        self._side = side.twin()
        theirs = side.theirs
        random = os.urandom if theirs is None else _giving(theirs.nonce)
        config = Config(
            role=listener.role,
            signer=_signer(),
            pin=side.identity.public,
            revision=listener.revision,
            extensions=listener.extensions,
            random=random,
        )
        self._session = Session(config)
        self._hand: Hand | None = None
        self._introduction = b""
        self._pongs = 0
        self._has_ack = False
        self._end = End.OPEN
        self._rule = "SESSION-ROLES"
        self._shape = "a connection"
        self._has_bootstrap = False
        self._offered = False
        """Whether we, as rank 1, offered extensions: rank 0 may choose at any time."""
        if listener.role is Role.INITIATOR:
            self._keep_sent()

    def burst(self, acts: tuple[Act, ...], introduction: bytes, following: Act | None) -> Outcome:
        """Process acts that are sent together; `following` is the act after them."""
        if self._hand is None:
            self._hand = Hand(self._side, introduction)
            self._introduction = introduction
        self._pongs, self._has_ack = 0, False
        count = 0
        for act, after in zip(acts, (*acts[1:], following), strict=True):
            count += 1
            self._take(act, self._hand.bytes_of(act, after))
            if self._end is End.CLOSED or self._session.state in (State.CLOSED, State.FAILED):
                break
        if self._has_ack:
            self._side.open()
        return self.last._replace(sent=count)

    @property
    def last(self) -> Outcome:
        """Return the required reaction to the last burst."""
        return Outcome(
            self._end, self._pongs, self._has_ack, 0, self._rule, self._shape, has_bootstrap=self._has_bootstrap
        )

    @property
    def is_settled(self) -> bool:
        """Return whether the other side is confirmed, and may be replaced by a new session. [SESSION-DISPLACE]"""
        settled = State.CONFIRMED if self.listener.revision is Revision.V2 else State.ESTABLISHED
        return self._session.state is settled

    def beside(self) -> None:
        """Record that others connect."""
        if not self.is_settled:
            self._may_end()
        self._rule, self._shape = "SESSION-DISPLACE", "other connections"

    # -- within --------------------------------------------------------------------------------------------------------

    def _take(self, act: Act, data: bytes) -> None:
        if act.do not in ("frame", "introduce"):
            self._rule, self._shape = "SESSION-IGNORE", _shape_of(act)
        if data:
            self._session.receive_data(data)
        try:
            while (event := self._session.next_event()) is not None:
                match event:
                    case Established():
                        self._rule, self._shape = "SESSION-PONG", "a valid ping"
                        self._establish()
                    case MessageReceived(message):
                        if not isinstance(message, Ping):  # it is sent to find the result of the acts before it
                            self._rule, self._shape = _rule_for(message), f"a valid {name_of(message)}"
                        self._receive(message, act)
                    case MessageIgnored(message):
                        self._rule, self._shape = "SESSION-IGNORE", f"a valid {name_of(message)}"
                    case Closed():
                        self._close("SESSION-END")
        except RemoteError as error:
            self._fault(error, act)
        self._keep_sent()

    def _establish(self) -> None:
        if self.listener.role is Role.INITIATOR:
            self._session.send(Ping())
        else:
            self._has_ack = True

    def _receive(self, message: Message, act: Act) -> None:
        match message:
            case Ping():
                self._pongs += 1
                extensions = self.listener.extensions if self.listener.revision is Revision.V2 else ()
                self._session.send(PongPayload(True, False, MemoryPressure.NORMAL, extensions))
            case JacclBootstrapPayload():
                self._bootstrap(message)
            case PongPayload(extensions=names):
                self._offered |= bool(names)
                self._may_end()  # rank 0 has its answer
            case InferenceStep() | InferenceToken() | PPActivationPayload() | PPTokenPayload():
                if act.do != "tensor" or self._side.key is None:  # it does not open, if it is opened at all
                    self._may_end()
            case _ if SPEC_BY_CLASS[type(message)].extension:
                self._may_end()  # their order is not part of the model

    def _bootstrap(self, message: JacclBootstrapPayload) -> None:
        """[BOOT-REFUSE, BOOT-SESSION-ID]"""
        name = message.session_id
        is_file_name = 0 < len(name) <= 128 and _FILE_NAME.issuperset(name) and not name.startswith(".")
        is_free = self._has_bootstrap or not self.listener.names_file  # the second one never starts anything
        if message.port in (0, 0xFFFF) and not self._has_bootstrap:
            self._close("BOOT-REFUSE")
        elif not is_file_name and not is_free:
            self._close("BOOT-SESSION-ID")
        elif not is_file_name or not 0 < message.port <= 0xFFFF - _MOST_RANKS or self._session.agreed:
            self._may_end()
        self._has_bootstrap |= self._end is not End.CLOSED

    def _may_end(self) -> None:
        if self._end is End.OPEN:
            self._end = End.EITHER

    def _close(self, rule: str) -> None:
        """Require the end of the connection, unless it may have ended earlier."""
        self._rule = rule
        self._end = End.CLOSED if self._end is not End.EITHER else End.EITHER

    def _fault(self, error: RemoteError, act: Act) -> None:
        frame = bytes.fromhex(act.data)
        is_named = (error.path or "").startswith("extensions") or error.code == "extension-not-offered"
        is_uninvited = error.code == "type-unknown" and is_of_extension(frame) and self._offered
        if (is_named and not self.listener.extensions) or is_uninvited:
            self._may_end()
        self._close(self._rule_of(error, act, frame))
        if error.code == "seal-replay":
            self._shape = "a repeated nonce"
        elif error.code == "link-length-limit":
            self._shape = "a link frame that is too long"
        elif act.part:
            self._shape = f"a handshake with {act.part} ({error.code})"
        elif act.do in ("frame", "tensor"):
            self._shape = f"{_name(frame)} with {error.code}"

    def _rule_of(self, error: RemoteError, act: Act, frame: bytes) -> str:
        is_sealed = self.listener.revision is Revision.V2 and (self._has_ack or self._side.key is not None)
        if error.code == "link-length-limit" and self._side.key is None:
            length = int.from_bytes(frame[:8], "little")
            return "LINK-LEN-MAX" if length > MAX_LINK_LENGTH else "SESSION-LEN-MAX"
        if is_sealed and act.do == "unsealed":
            return "SEAL-FRAMES"
        if is_sealed and act.do in _BOXES:
            return "SESSION-BOX"
        if act.part:
            return self._rule_of_part(error, act)
        return _RULES.get(error.code) or rule_of(error, frame)

    def _rule_of_part(self, error: RemoteError, act: Act) -> str:
        if error.code == "handshake-signature":
            is_other = act.part == "wrong commitment"
            return commitment_rule(self.listener.role) if is_other else "HANDSHAKE-SIGNATURE"
        try:
            decode_frame(self._introduction)
        except WireError as fault:
            return rule_of(fault, self._introduction)
        return _RULES[error.code]

    def _keep_sent(self) -> None:
        data = b"".join(self._session.data_to_send())
        while data:
            end = 8 + int.from_bytes(data[:8], "little")
            body, data = data[8:end], data[end:]
            if self._side.theirs is None:
                self._side.theirs = Introduction.read(body[1:])
            else:
                self._side.bodies.append(body)


def _giving(nonce: bytes) -> Callable[[int], bytes]:
    """Return a random source for a rank 0 with this nonce in its hello and any ephemeral key."""
    return lambda count: nonce if count == len(nonce) else os.urandom(count)


@cache
def _signer() -> KeySigner:
    return KeySigner.generate()


def _rule_for(message: Message) -> str:
    """Return the rule by which an expected message is accepted."""
    return payload_rule(bytes([SPEC_BY_CLASS[type(message)].msg_type]))


def _name(frame: bytes) -> str:
    try:
        return ClusterMsgType(frame[0]).wire_name
    except (ValueError, IndexError):
        return "a frame"


_SHAPES: Final = {
    "unsealed": "an unsealed frame",
    "changed box": "a changed box",
    "cut box": "a cut box",
    "other key": "a box sealed with another key",
    "own box": "its own box",
    "wrapped length": "a link frame that is too long",
    "part": "a part of a link frame",
    "strangers": "other connections",
    "newcomer": "a newcomer",
}


def _shape_of(act: Act) -> str:
    return _SHAPES.get(act.do, "a frame")
