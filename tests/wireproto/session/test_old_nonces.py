"""A seal's rows of nonces: no nonce is forgotten, no absent one is found, and no peer can slow it down."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wireproto.peers import box
from tests.wireproto.session.test_seal import KEY
from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto.session import seal
from wireproto.session.seal import Seal


class OneRow(Seal):
    """A seal with all nonces in one row."""

    @classmethod
    def ready(cls, monkeypatch: pytest.MonkeyPatch) -> "OneRow":
        monkeypatch.setattr(seal, "_FIRST", 0)
        monkeypatch.setattr(seal, "_MASK", 0)
        return cls(KEY)

    def seal_with(self, nonce: bytes) -> None:
        self._drawn = [nonce]
        assert self.encrypt(b"")[:12] == nonce

    def receive(self, nonce: bytes) -> Accepted | Rejected:
        """The verdict on a box under this nonce."""
        return verdict(self.decrypt, box(KEY, b"text", nonce))


NEW: Final = Accepted(bytes, b"text")
REPLAY: Final = expected("seal-replay", 0)
REFLECTION: Final = expected("seal-reflection", 0)


def test_same_row(monkeypatch: pytest.MonkeyPatch) -> None:
    one = OneRow.ready(monkeypatch)
    nonces = [bytes([number]) * 12 for number in range(200)]
    for nonce in nonces[::2]:
        assert one.receive(nonce) == NEW
    for nonce in nonces[::2]:
        assert one.receive(nonce) == REPLAY
    for nonce in nonces[1::2]:
        assert one.receive(nonce) == NEW
    for nonce in nonces:
        assert one.receive(nonce) == REPLAY


FIRST, SECOND = b"ABCDEFGHIJKL", b"MNOPQRSTUVWX"
ROW: Final = FIRST + b"o" + SECOND + b"o"


@pytest.mark.parametrize("shift", range(1, 13))
def test_match_across_two_records(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve bytes across two records are not an old nonce, until they are used as one."""
    one = OneRow.ready(monkeypatch)
    assert one.receive(FIRST) == one.receive(SECOND) == NEW
    assert one._rows == [ROW]
    across = ROW[shift : shift + 12]
    assert one.receive(across) == NEW
    for nonce in (across, FIRST, SECOND):
        assert one.receive(nonce) == REPLAY


def test_overlapping_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of almost one letter, in which twelve of it match at many places."""
    one = OneRow.ready(monkeypatch)
    assert one.receive(b"xooooooooooo") == NEW
    assert one.receive(b"ooooooooooox") == NEW
    assert one.receive(b"oooooooooooo") == NEW
    assert one.receive(b"oooooooooooo") == REPLAY
    one.seal_with(b"ooooooooooos")
    assert one.receive(b"ooooooooooos") == REFLECTION
    assert one.receive(b"oooooooooosx") == NEW


def test_origins_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonces that end in the letters of the origins, sent and received."""
    one = OneRow.ready(monkeypatch)
    ends = (b"ss", b"oo", b"so", b"os")
    sent = [bytes([number]) * 10 + end for number, end in enumerate(ends)]
    came = [bytes([number + 9]) * 10 + end for number, end in enumerate(ends)]
    for out, into in zip(sent, came, strict=True):
        one.seal_with(out)
        assert one.receive(into) == NEW
    for out, into in zip(sent, came, strict=True):
        assert one.receive(out) == REFLECTION
        assert one.receive(into) == REPLAY


@settings(max_examples=examples(60))
@given(
    moves=st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from(b"oosx"), min_size=12, max_size=12).map(bytes)), max_size=12
    )
)
def test_crowded_row(moves: list[tuple[bool, bytes]]) -> None:
    """Nonces of few letters, including those of the origins, so that matches across records abound."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        one = OneRow.ready(monkeypatch)
        known: dict[bytes, Rejected] = {}
        for sending, nonce in moves:
            if sending and nonce not in known:
                one.seal_with(nonce)
                known[nonce] = REFLECTION
            else:
                assert one.receive(nonce) == known.get(nonce, NEW)
                known.setdefault(nonce, REPLAY)
        assert all(one.receive(nonce) == refused for nonce, refused in known.items())


def test_a_peer_cannot_choose_nonces_that_share_a_row() -> None:
    """Nonces with a common prefix or suffix, or counted up: the longest row is as with random ones."""
    for make in (
        lambda number: b"prefix" + number.to_bytes(6),
        lambda number: number.to_bytes(6) + b"suffix",
        lambda number: (number * 2**16).to_bytes(12),
        lambda number: (number * (2**61 - 1)).to_bytes(12),
    ):
        one = Seal(KEY)
        for number in range(65_536):
            one._put_in_row(make(number), b"o")
        # There is one record in a row on average, and 16 in any with a probability of 10^-9.
        assert max(map(len, one._rows)) <= 15 * 13
