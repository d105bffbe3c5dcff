"""Bugs planted in the session, which the simulation must find."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tests.simulation.session import attacker, chance, explore
from wireproto import RemoteError, SealError, WireError, session
from wireproto.codec.link import LinkDecoder
from wireproto.session import Closed, MessageReceived, Session, State, TrustAnyKey, handshake, seal
from wireproto.session.seal import NONCE, TAG, Seal

Patch = tuple[Any, str, Any]
"""An owner, a name, and the replacement."""

_check, _decrypt, _next_nonce, _seal_init = Seal._check, Seal.decrypt, Seal._next_nonce, Seal.__init__
_put_in_row = Seal._put_in_row
_end, _message, _next_event, _send = Session._end, Session._message, Session.next_event, Session.send
_agree, _feed, _session_agree, _init = handshake._agree, LinkDecoder.feed, Session._agree, Session.__init__


def _forgiving(*codes: str) -> Callable[..., None]:
    """A check of a box's nonce that does not refuse for these reasons."""

    def check(self: Seal, nonce: bytes, size: int) -> None:
        try:
            _check(self, nonce, size)
        except SealError as error:
            if error.code not in codes:
                raise

    return check


def _window_of_one(self: Seal, nonce: bytes, size: int) -> None:
    """Refuses the last box that it has opened, and forgets the others."""
    opened = [each for each, origin in self._recent.items() if origin == seal._OPENED]
    if nonce not in opened[:-1]:
        _check(self, nonce, size)


def _short_box(self: Seal, box: bytes) -> bytes:
    if len(box) < NONCE + TAG:
        raise IndexError("the box is too short")
    return _decrypt(self, box)


def _keeping_key(self: Seal, key: bytes, *rest: Any) -> None:
    self.key = key
    _seal_init(self, key, *rest)


def _second_tag_unchecked(self: Seal, box: bytes) -> bytes:
    try:
        return _decrypt(self, box)
    except SealError as error:
        if error.code != "seal-tag" or [*self._recent.values()].count(seal._OPENED) != 1:
            raise
        nonce = bytes(box[:NONCE])
        self._recent[nonce] = seal._OPENED
        counter = CTR(nonce + b"\0\0\0\2")
        return Cipher(AES(self.key), counter).decryptor().update(bytes(box[NONCE:-TAG]))


def _unsealed_accepted(self: Session, frame: memoryview, one: Seal | None) -> Any:
    try:
        return _message(self, frame, one)
    except SealError:
        return _message(self, frame, None)


def _first_nonce_again(self: Seal) -> bytes:
    nonce = _next_nonce(self)
    own = [each for each, origin in self._recent.items() if origin == seal._SENT]
    return own[0] if len(own) > 1 else nonce


def _orderly_anyhow(self: Session) -> Any:
    event = _next_event(self)
    return Closed(orderly=True) if event == Closed(orderly=False) else event


def _goes_on_after(*codes: str) -> Callable[[Session], Any]:
    """An error with one of these codes does not end the session."""

    def next_event(self: Session) -> Any:
        state, one, out = self.state, self._seal, list(self._out)
        try:
            return _next_event(self)
        except RemoteError as error:
            if error.code in codes:
                self._enter(state)
                self._seal, self._out = one, out
            raise

    return next_event


def _end_without_end(self: Session, state: State) -> None:
    """Input after sessionEnd is still accepted."""
    if state is not State.CLOSED or self._seal is None:
        _end(self, state)


def _silent_not(self: Session, state: State) -> None:
    out = list(self._out)
    one = self._seal
    _end(self, state)
    if state is State.FAILED and one is not None and self._revision == 2:
        self._out = [*out, memoryview(b"\1\0\0\0\0\0\0\0\3")]


def _cut_is_no_error(self: LinkDecoder) -> None:
    """The end of the stream inside a frame counts as one between two frames."""


def _any_pin(own: Any, pin: Any, *rest: Any) -> bytes:
    return _agree(own, TrustAnyKey(), *rest)


def _any_signature(own: Any, pin: Any, peer: Any, *rest: Any) -> bytes:
    try:
        return _agree(own, pin, peer, *rest)
    except WireError as error:
        if error.code != "handshake-signature":
            raise
        shared = own.private.exchange(handshake.X25519PublicKey.from_public_bytes(peer.ephemeral_x25519_pub_key))
        return handshake.HKDF(handshake.hashes.SHA256(), 32, rest[-1], handshake.KEY_INFO).derive(shared)


def _unbound_ack(_: bytes, ack_nonce: bytes, ephemeral_public: bytes) -> bytes:
    """The commitment of an ack to no hello."""
    return handshake.hello_commitment(ephemeral_public, ack_nonce)


def _same_key(own: Any, pin: Any, peer: Any, commitment: bytes, salt: bytes) -> bytes:
    _agree(own, pin, peer, commitment, salt)
    return handshake.hashlib.sha256(handshake.KEY_INFO).digest()


def _confirmed_by_hello(self: Session) -> Any:
    """Treats the handshake as a proof of the key."""
    event = _next_event(self)
    if isinstance(event, session.Established):
        self._enter(State.CONFIRMED)
    return event


def _one_frame_a_chunk(self: LinkDecoder, data: bytes) -> Iterator[memoryview]:
    """Loses the frames after the first of a chunk."""
    yield from [*_feed(self, data)][:1]


def _no_limit(self: Session, *arguments: Any) -> None:
    _init(self, *arguments)
    self._link.max_length = session.MAX_LINK_LENGTH


def _wrong_blame(self: Seal, box: bytes) -> bytes:
    """Every box that is refused has a wrong tag."""
    try:
        return _decrypt(self, box)
    except SealError as error:
        raise SealError("seal-tag", error.detail, offset=0) from None


def _shows_key(self: Seal, box: bytes) -> bytes:
    try:
        return _decrypt(self, box)
    except SealError as error:
        raise SealError(error.code, f"not with {self.key.hex()}", offset=0) from None


def _undocumented(self: Seal, box: bytes) -> bytes:
    try:
        return _decrypt(self, box)
    except SealError:
        raise SealError("seal-nonsense", "no such code", offset=0) from None


def _end_is_forgotten(self: Session, message: Any) -> None:
    _send(self, message)
    self._ended_here = self._closed_is_due = False


def _agreed_for_good(self: Session, message: Any) -> None:
    """A later jacclBootstrap adds to what an earlier one has agreed on."""
    before = self._agreed
    _session_agree(self, message)
    self._agreed |= before


def _sends_after_end(self: Session, message: Any) -> None:
    """sessionEnd does not end the session for its sender."""
    one = self._seal
    _send(self, message)
    if self.state is State.CLOSED:
        self._enter(State.CONFIRMED)
        self._seal = one


def _twice(self: Session) -> Any:
    """Reports the message of every second box twice."""
    if (kept := getattr(self, "kept", None)) is not None:
        self.kept = None
        return kept
    event = _next_event(self)
    if isinstance(event, MessageReceived) and self._seal and len(self._seal._recent) % 2:
        self.kept = event
    return event


def _tensor_errors_pass(self: Session, box: bytes) -> bytes:
    """A tensor box that does not open leaves the session as it was."""
    try:
        return self._key().decrypt(bytes(box))
    except WireError as error:
        raise session.blame(RemoteError, error, SealError) from error


def _goes_on_exhausted(self: Seal, nonce: bytes, origin: bytes) -> None:
    if self._row_room > 0:
        _put_in_row(self, nonce, origin)


def _forgets_rows(self: Seal, nonce: bytes, origin: bytes) -> None:
    """Nonces after the first ones are counted, but not kept."""
    _put_in_row(self, nonce, origin)
    self._rows = []


def _no_warning(self: Session) -> Any:
    event = _next_event(self)
    return _next_event(self) if isinstance(event, session.KeyNearLimit) else event


class _Fixed(handshake._Ephemeral):
    """The same in each handshake."""

    def __init__(self, _: Any) -> None:
        super().__init__(bytes)


BUGS: Final[dict[str, tuple[Patch, ...]]] = {
    "a replayed box opens": ((Seal, "_check", _forgiving("seal-replay")),),
    "a reflected box opens": ((Seal, "_check", _forgiving("seal-reflection")),),
    "only the last nonce is remembered": ((Seal, "_check", _window_of_one),),
    "a short box raises another exception": ((Seal, "decrypt", _short_box),),
    "the second tag is not checked": ((Seal, "__init__", _keeping_key), (Seal, "decrypt", _second_tag_unchecked)),
    "an unsealed frame is accepted": ((Session, "_message", _unsealed_accepted),),
    "a nonce is used again": ((Seal, "_next_nonce", _first_nonce_again),),
    "a bare end is orderly": ((Session, "next_event", _orderly_anyhow),),
    "an end inside a frame is no error": ((LinkDecoder, "eof", _cut_is_no_error),),
    "a wrong box does not end the session": ((Session, "next_event", _goes_on_after("seal-tag")),),
    "a replay does not end the session": ((Session, "next_event", _goes_on_after("seal-replay")),),
    "sessionEnd does not end the session": ((Session, "_end", _end_without_end),),
    "its sender goes on after sessionEnd": ((Session, "send", _sends_after_end),),
    "a failed session sends": ((Session, "_end", _silent_not),),
    "any identity is accepted": ((handshake, "_agree", _any_pin),),
    "signatures are not checked": ((handshake, "_agree", _any_signature),),
    "an ack answers no hello": ((handshake, "ack_commitment", _unbound_ack),),
    "all sessions have one key": ((handshake, "_agree", _same_key),),
    "ephemeral keys are used again": ((handshake, "_Ephemeral", _Fixed),),
    "a hello confirms the peer": ((Session, "next_event", _confirmed_by_hello),),
    "only the first frame of a chunk is taken": ((LinkDecoder, "feed", _one_frame_a_chunk),),
    "unauthenticated peers may send long frames": ((Session, "__init__", _no_limit),),
    "a replay is told as a wrong tag": ((Seal, "decrypt", _wrong_blame),),
    "an error shows the key": ((Seal, "__init__", _keeping_key), (Seal, "decrypt", _shows_key)),
    "an error has a code of its own": ((Seal, "decrypt", _undocumented),),
    "a sent sessionEnd is forgotten": ((Session, "send", _end_is_forgotten),),
    "an agreement outlasts the next": ((Session, "_agree", _agreed_for_good),),
    "a key outlives its limit": ((Seal, "_put_in_row", _goes_on_exhausted),),
    "old nonces are forgotten": ((Seal, "_put_in_row", _forgets_rows),),
    "the limit of a key is not announced": ((Session, "next_event", _no_warning),),
    "a message is told twice": ((Session, "next_event", _twice),),
    "a wrong tensor box does not end the session": ((Session, "open_tensor", _tensor_errors_pass),),
}
"""Replacements, by name of the bug."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Sessions have a bug in this context. Earlier recordings are dropped, because they may depend on it."""
    _forget()
    with ExitStack() as stack:
        for owner, attribute, replacement in BUGS[name]:
            stack.enter_context(patch.object(owner, attribute, replacement))
        yield
    _forget()


def _forget() -> None:
    attacker.earlier.cache_clear()
    chance.established.cache_clear()


class Hunt(NamedTuple):
    """How a planted bug was found: the steps of the exhaustive part, and the run of each seed."""

    name: str
    steps: int | None
    runs: dict[int, int | None]
    promise: str
    """The first broken promise."""

    @property
    def is_found(self) -> bool:
        """By every schedule of short scripts, or by chance with each seed."""
        return self.steps is not None or None not in self.runs.values()


def hunt(name: str, seeds: Collection[int], most: int) -> Hunt:
    """Plant a bug and search for it in both ways, with a limit on runs."""
    with planted(name):
        steps, promise = _explored()
        runs: dict[int, int | None] = {}
        for seed in seeds:
            found = next((run for run in (chance.run(seed, number) for number in range(most)) if run.violation), None)
            runs[seed] = None if found is None else found.number
            if found is not None and found.violation is not None:
                promise = promise or found.violation.promise
    return Hunt(name, steps, runs, promise)


def _explored() -> tuple[int | None, str]:
    steps = 0
    for strikes in (0, 1):
        for scenario in explore.scenarios(strikes).values():
            explored = explore.explore(scenario)
            steps += explored.steps
            if explored.violation is not None:
                return steps, explored.violation.promise
    return None, ""
