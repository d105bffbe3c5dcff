"""The reason why there is no group, from several links."""

from bootstrap.errors import LinkError
from bootstrap.link.reason import Reason

REFUSED = LinkError("127.0.0.4 refused the connection", code="link-refused")
CLOSED = LinkError("127.0.0.3 closed the connection", code="link-closed")


def test_a_rank_that_gave_up_was_named_instead_of_the_one_that_was_missing() -> None:
    reason = Reason()
    reason.lost(1, REFUSED)
    reason.lost(2, REFUSED)
    reason.established(1)
    reason.lost(1, CLOSED)
    assert reason.error is REFUSED
    reason.lost(2, CLOSED)
    assert reason.error is CLOSED


def test_a_link_that_is_back_is_no_reason() -> None:
    reason = Reason()
    reason.lost(1, REFUSED)
    reason.lost(2, CLOSED)
    reason.established(1)
    assert reason.error is CLOSED
    reason.established(2)
    assert reason.error is None


def test_what_rank_0_did_last_is_the_reason() -> None:
    reason = Reason()
    reason.lost(None, CLOSED)
    reason.seen("a ping", 1500.0)
    assert reason.error is not None
    assert (reason.error.code, "last seen: a ping, 1.5 s" in str(reason.error)) == ("no-bootstrap", True)
    reason.lost(None, CLOSED)
    assert reason.error is CLOSED
    reason.seen(None, 2000.0)
    assert reason.error is None


def test_a_rank_that_loads_is_what_is_waited_for() -> None:
    reason = Reason()
    reason.established(1)
    reason.established(2)
    reason.loading(2, True)
    assert reason.error is not None
    assert (reason.error.code, str(reason.error)) == ("peer-loading", "MLX is still loading on rank 2")
    reason.lost(2, REFUSED)
    text = "127.0.0.4 refused the connection (rank 2 was still loading MLX when last heard)"
    assert (reason.error.code, str(reason.error)) == ("link-refused", text)
    reason.established(2)
    reason.loading(2, False)
    assert reason.error is None


def test_an_unconfirmed_connection_hid_what_rank_0_did_wrong() -> None:
    """A rank 0 that connects again may leave such connections behind, which time out later."""
    reason = Reason()
    reason.seen(LinkError("an unusable jacclBootstrap", code="bad-bootstrap"), 1000.0)
    reason.lost(None, LinkError("the peer's first box did not arrive", code="link-timeout"))
    assert reason.error is not None
    assert reason.error.code == "bad-bootstrap"
    reason.lost(1, REFUSED)
    reason.seen(None, 2000.0)
    assert reason.error is None
