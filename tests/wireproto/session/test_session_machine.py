"""Two sessions joined by a channel that does its worst: what is accepted was sent, once, by the peer.

The channel cuts, merges, delays, drops, duplicates, reorders, flips bits, replays and reflects. In revision 2 nothing
gets through that: what each side takes was sent by the other, and each message once. Revision 1 has no seal, and makes
no such promise: there only the documented errors may come out.
"""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.wireproto.peers import events, output
from wireproto import (
    EXTENSIONS,
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Ping,
    PongPayload,
    Revision,
    SideChannelPart,
    SideChannelWhole,
    StateError,
    UnknownTypeError,
)
from wireproto.session import (
    Closed,
    Config,
    Confirmed,
    Established,
    MessageIgnored,
    MessageReceived,
    RemoteError,
    Role,
    Session,
    State,
)
from wireproto.session.handshake import KeySigner

SIGNERS = (KeySigner.generate(), KeySigner.generate())

FROM_0 = st.one_of(
    st.just(Ping()),
    st.builds(InferenceStep, st.binary(max_size=40)),
    st.builds(JacclBootstrapPayload, st.integers(0, 65535), st.text(max_size=5)),
)
FROM_1 = st.one_of(
    st.builds(PongPayload, st.booleans(), st.booleans(), st.sampled_from(MemoryPressure)),
    st.builds(InferenceToken, st.binary(max_size=40)),
)


EXTENSION_FRAMES = (
    st.builds(SideChannelWhole, st.integers(0, 9), st.binary(max_size=9)),
    st.builds(SideChannelPart, st.integers(0, 9), st.binary(max_size=9)),
)
"""From rank 0, and from rank 1."""
NAMES = st.sets(st.sampled_from(EXTENSIONS)).map(sorted).map(tuple)


class Side:
    """One end: its session, what it sent and took, and the link frames that are on their way to it."""

    def __init__(self, rank: int, revision: Revision) -> None:
        role = Role.RESPONDER if rank else Role.INITIATOR
        pin = SIGNERS[1 - rank].public_key
        self.session = Session(
            Config(role=role, signer=SIGNERS[rank], pin=pin, revision=revision, extensions=EXTENSIONS)
        )
        self.sent: list[Message] = []
        self.taken: list[Message] = []
        self.confirmed = False
        self.coming: deque[bytes] = deque()
        self.recorded: list[bytes] = []
        self.failures: list[RemoteError] = []

    def send(self, message: Message, peer: "Side") -> None:
        data = output(self.session, message)
        self.sent.append(message)
        self.put_out(data, peer)

    def put_out(self, data: bytes, peer: "Side") -> None:
        self.recorded.append(data)
        peer.coming.append(data)

    def receive(self, data: bytes, peer: "Side") -> None:
        if data:
            self.session.receive_data(data)
        try:
            for event in events(self.session):
                match event:
                    case Established() if reply := output(self.session):
                        self.put_out(reply, peer)
                    case Confirmed():
                        assert not self.confirmed
                        self.confirmed = True
                    case MessageReceived(message) | MessageIgnored(message):
                        # A message of one's own that came back would be ignored; a box of one's own is not even opened.
                        self.taken.append(message)
                    case Closed():
                        assert self.session.state is State.CLOSED
        except RemoteError as error:
            self.failures.append(error)


class Channel(RuleBasedStateMachine):
    revision = Revision.V2

    @initialize()
    def connect(self) -> None:
        self.sides = (Side(0, self.revision), Side(1, self.revision))
        self.sides[0].put_out(output(self.sides[0].session), self.sides[1])

    def to(self, rank: int) -> tuple[Side, Side]:
        return self.sides[rank], self.sides[1 - rank]

    def is_open(self, rank: int) -> bool:
        return self.sides[rank].session.state in (State.ESTABLISHED, State.CONFIRMED)

    # -- the two ends ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.is_open(0))
    @rule(message=FROM_0)
    def rank_0_sends(self, message: Message) -> None:
        self.sides[0].send(message, self.sides[1])

    @precondition(lambda self: self.is_open(1))
    @rule(message=FROM_1)
    def rank_1_sends(self, message: Message) -> None:
        self.sides[1].send(message, self.sides[0])

    @precondition(lambda self: self.is_open(1))
    @rule(names=NAMES)
    def rank_1_offers(self, names: tuple[str, ...]) -> None:
        self.try_to_send(1, PongPayload(True, False, MemoryPressure.NORMAL, names))

    @precondition(lambda self: self.is_open(0))
    @rule(names=NAMES)
    def rank_0_chooses(self, names: tuple[str, ...]) -> None:
        self.try_to_send(0, JacclBootstrapPayload(1, "", names))

    @precondition(lambda self: self.is_open(0) or self.is_open(1))
    @rule(data=st.data(), rank=st.integers(0, 1))
    def frame_of_an_extension(self, data: st.DataObject, rank: int) -> None:
        if self.is_open(rank):
            self.try_to_send(rank, data.draw(EXTENSION_FRAMES[rank]))

    def try_to_send(self, rank: int, message: Message) -> None:
        """It goes out, or is the caller's mistake: then nothing goes out."""
        side, peer = self.to(rank)
        session = side.session
        if isinstance(message, SideChannelPart | SideChannelWhole):
            allowed = "side-channel/1" in session.agreed
        elif isinstance(message, PongPayload):
            allowed = not message.extensions or self.revision is Revision.V2
        else:
            assert isinstance(message, JacclBootstrapPayload)
            allowed = session.offered.issuperset(message.extensions)
        try:
            side.send(message, peer)
        except (StateError, UnknownTypeError):
            assert not allowed
        else:
            assert allowed

    # -- the channel -------------------------------------------------------------------------------------------------

    @rule(rank=st.integers(0, 1), count=st.integers(1, 4))
    def deliver(self, rank: int, count: int) -> None:
        """As many as `count` at once: merged."""
        side, peer = self.to(rank)
        data = b"".join(side.coming.popleft() for _ in range(min(count, len(side.coming))))
        side.receive(data, peer)

    @rule(rank=st.integers(0, 1), at=st.integers(0, 200))
    def cut(self, rank: int, at: int) -> None:
        """In two pieces; the second comes when it comes."""
        side, peer = self.to(rank)
        if side.coming:
            data = side.coming.popleft()
            side.receive(data[:at], peer)
            if data[at:]:
                side.coming.appendleft(data[at:])

    @rule(rank=st.integers(0, 1), at=st.integers(0, 5))
    def drop(self, rank: int, at: int) -> None:
        side, _ = self.to(rank)
        if at < len(side.coming):
            del side.coming[at]

    @rule(rank=st.integers(0, 1), at=st.integers(0, 5))
    def duplicate(self, rank: int, at: int) -> None:
        side, _ = self.to(rank)
        if at < len(side.coming):
            side.coming.append(side.coming[at])

    @rule(rank=st.integers(0, 1), by=st.integers(1, 5))
    def reorder(self, rank: int, by: int) -> None:
        self.sides[rank].coming.rotate(by)

    @rule(rank=st.integers(0, 1), bit=st.integers(0, 8 * 400))
    def flip(self, rank: int, bit: int) -> None:
        side, _ = self.to(rank)
        if side.coming:
            data = bytearray(side.coming.popleft())
            data[bit // 8 % len(data)] ^= 1 << bit % 8
            side.coming.appendleft(bytes(data))

    @rule(rank=st.integers(0, 1), at=st.integers(0, 20))
    def replay(self, rank: int, at: int) -> None:
        side, peer = self.to(rank)
        if at < len(peer.recorded):
            side.coming.append(peer.recorded[at])

    @rule(rank=st.integers(0, 1), at=st.integers(0, 20))
    def reflect(self, rank: int, at: int) -> None:
        side, _ = self.to(rank)
        if at < len(side.recorded):
            side.coming.append(side.recorded[at])

    # -- what holds --------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_taken_was_sent(self) -> None:
        if self.revision is Revision.V1:
            return
        for side, peer in ((self.sides[0], self.sides[1]), (self.sides[1], self.sides[0])):
            rest = list(peer.sent)
            for message in side.taken:
                assert message in rest, f"{message} was taken more often than it was sent"
                rest.remove(message)

    @invariant()
    def what_is_taken_was_confirmed(self) -> None:
        for side in self.sides:
            assert side.confirmed or self.revision is Revision.V1 or not side.taken

    @invariant()
    def what_is_agreed_was_offered(self) -> None:
        for side in self.sides:
            session = side.session
            assert session.agreed <= session.offered <= session.extensions
            assert session.extensions == ({*EXTENSIONS} if self.revision is Revision.V2 else set())
        if self.revision is Revision.V2:
            rank_0, rank_1 = self.sides
            assert rank_0.session.offered <= rank_1.session.offered
            chosen = {frozenset(each.extensions) for each in rank_0.sent if isinstance(each, JacclBootstrapPayload)}
            assert rank_1.session.agreed in chosen | {frozenset()}

    @invariant()
    def a_mistake_ends_the_session(self) -> None:
        for side in self.sides:
            assert (side.session.state is State.FAILED) == bool(side.failures)
            assert len(side.failures) <= 1


class ChannelOfRevision1(Channel):
    revision = Revision.V1


TestRevision2 = Channel.TestCase
TestRevision2.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestRevision1 = ChannelOfRevision1.TestCase
TestRevision1.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
