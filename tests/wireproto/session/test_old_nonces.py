"""A seal's table of old nonces: none is forgotten, none is found that was not there."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wireproto.peers import box
from tests.wireproto.session.test_seal import FEWER, KEY
from tests.wireproto.verdicts import Accepted, Rejected, expected, verdict
from wireproto.session import seal
from wireproto.session.seal import Seal

PREFIX: Final = b"pp"
"""The first two bytes of a nonce, by which the old ones are filed."""
FILLER: Final = b"fill"


class OldSeal(Seal):
    """A seal whose boxes, sent and opened, are all in the table of old ones at once."""

    @classmethod
    def ready(cls, monkeypatch: pytest.MonkeyPatch) -> "OldSeal":
        monkeypatch.setattr(seal, "_RECENT", 2)
        return cls(KEY)

    def send(self, nonce: bytes) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(seal, "_fresh", [FILLER + nonce[2:10], nonce])
            assert self.encrypt(b"")[:12] == nonce
            self.encrypt(b"")
        assert not self._recent

    def receive(self, nonce: bytes) -> Accepted | Rejected:
        """What becomes of a box under this nonce."""
        result = verdict(self.decrypt, box(KEY, b"text", nonce))
        if isinstance(result, Accepted):
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(seal, "_fresh", [FILLER + nonce[2:10]])
                self.encrypt(b"")
        assert not self._recent
        return result


NEW: Final = Accepted(bytes, b"text")
REPLAY: Final = expected("seal-replay", 0)
REFLECTION: Final = expected("seal-reflection", 0)


def test_same_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonces that share their first two bytes lie in one row, and are told apart."""
    one = OldSeal.ready(monkeypatch)
    nonces = [PREFIX + bytes([number]) * 10 for number in range(200)]
    for nonce in nonces[::2]:
        assert one.receive(nonce) == NEW
    assert set(one._old) == {PREFIX, FILLER[:2]}
    for nonce in nonces[::2]:
        assert one.receive(nonce) == REPLAY
    for nonce in nonces[1::2]:
        assert one.receive(nonce) == NEW
    for nonce in nonces:
        assert one.receive(nonce) == REPLAY


def test_other_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ten bytes behind another prefix are another nonce."""
    one = OldSeal.ready(monkeypatch)
    for prefix in (PREFIX, b"pq", b"qp", b"\0\0", b"0p"):
        assert one.receive(prefix + b"0123456789") == NEW
    for prefix in (PREFIX, b"pq", b"qp", b"\0\0", b"0p"):
        assert one.receive(prefix + b"0123456789") == REPLAY


FIRST, SECOND = b"ABCDEFGHIJ", b"KLMNOPQRST"
ROW: Final = FIRST + b"o" + SECOND + b"o"


@pytest.mark.parametrize("shift", range(1, 11))
def test_match_across_two_records(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten bytes that stand in the row, but across two records, are no nonce that was there; then they are."""
    one = OldSeal.ready(monkeypatch)
    assert one.receive(PREFIX + FIRST) == one.receive(PREFIX + SECOND) == NEW
    assert one._old[PREFIX] == ROW
    across = PREFIX + ROW[shift : shift + 10]
    assert one.receive(across) == NEW
    for nonce in (across, PREFIX + FIRST, PREFIX + SECOND):
        assert one.receive(nonce) == REPLAY


def test_overlapping_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of hardly anything but one letter, where ten of it stand at many places."""
    one = OldSeal.ready(monkeypatch)
    assert one.receive(PREFIX + b"xooooooooo") == NEW
    assert one.receive(PREFIX + b"ooooooooox") == NEW
    assert one._old[PREFIX] == b"xooooooooo" + b"o" + b"ooooooooox" + b"o"
    assert one.receive(PREFIX + b"oooooooooo") == NEW
    assert one.receive(PREFIX + b"oooooooooo") == REPLAY
    one.send(PREFIX + b"ooooooooos")
    assert one.receive(PREFIX + b"ooooooooos") == REFLECTION
    assert one.receive(PREFIX + b"oooooooosx") == NEW


def test_makers_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonces that end in the makers' own letters, sent and opened."""
    one = OldSeal.ready(monkeypatch)
    ends = (b"ss", b"oo", b"so", b"os")
    sent = [PREFIX + bytes([number]) * 8 + end for number, end in enumerate(ends)]
    came = [PREFIX + bytes([number + 9]) * 8 + end for number, end in enumerate(ends)]
    for out, into in zip(sent, came, strict=True):
        one.send(out)
        assert one.receive(into) == NEW
    for out, into in zip(sent, came, strict=True):
        assert one.receive(out) == REFLECTION
        assert one.receive(into) == REPLAY


@FEWER
@given(
    moves=st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from(b"oosx"), min_size=10, max_size=10).map(bytes)), max_size=12
    )
)
def test_crowded_row(moves: list[tuple[bool, bytes]]) -> None:
    """Nonces of very few letters, the makers' own among them, so that matches across records abound."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        one = OldSeal.ready(monkeypatch)
    known: dict[bytes, Rejected] = {}
    for sending, rest in moves:
        if sending and rest not in known:
            one.send(PREFIX + rest)
            known[rest] = REFLECTION
        else:
            assert one.receive(PREFIX + rest) == known.get(rest, NEW)
            known.setdefault(rest, REPLAY)
    assert all(one.receive(PREFIX + rest) == refused for rest, refused in known.items())
