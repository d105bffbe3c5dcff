"""Why there is no group yet, judged by the links, for the error at the deadline."""

from bootstrap.errors import BootstrapError, LinkError
from bootstrap.link.sessions import SessionLostError


class Reason:
    """`error` is why there is no group, or rank 0's last visible step; None if nothing is wrong.

    If several links are down, it is the failure of the one that was lost first: a rank that gives up because another
    one is missing closes its link, too.
    """

    def __init__(self) -> None:
        self.has_met = False
        """Whether there ever was a session: a later loss may be a consequence of this rank's own delay."""
        self._lost: dict[int | None, LinkError] = {}  # by rank, None if unknown; oldest first
        self._loading: set[int] = set()
        self._seen: LinkError | None = None
        self._protocol: LinkError | None = None  # kept, since rank 0 reconnects and repeats it
        self._before: BootstrapError | None = None

    @property
    def error(self) -> BootstrapError | None:
        if self._loading and not self._lost:
            ranks = " and ".join(f"rank {peer}" for peer in sorted(self._loading))
            return LinkError(f"MLX is still loading on {ranks}", code="peer-loading")
        peer, error = next(iter(self._lost.items()), (None, self._seen))
        if peer is None and self._protocol is not None:
            error = self._protocol  # an unconfirmed connection hides no fault of rank 0
        if error is not None and peer in self._loading:
            return LinkError(f"{error} (rank {peer} was still loading MLX when last heard)", code=error.code)
        return error or self._before

    def failed(self, error: BootstrapError) -> None:
        """Note a failure that another attempt follows. It is the reason until there is a newer one."""
        self._before = error

    def lost(self, peer: int | None, error: LinkError) -> None:
        """Note that the link to a rank was lost or failed."""
        self._lost[peer] = error

    def established(self, peer: int) -> None:
        """Note that there is a session with a rank. On other ranks than 0 it may never be confirmed."""
        self.has_met = True
        self._lost.pop(peer, None)
        self._lost.pop(None, None)

    def loading(self, peer: int, is_loading: bool) -> None:
        """Note whether a rank is still loading MLX, by its last pong."""
        (self._loading.add if is_loading else self._loading.discard)(peer)

    def ended_early(self, error: LinkError) -> None:
        """Note that rank 0 has ended its session without a jacclBootstrap."""
        self._lost.clear()
        self._seen = self._protocol or error

    def seen(self, what: str | LinkError | None, now: float) -> None:
        """Note what rank 0 did `now` ms after the start, or how its session failed; None if nothing is wrong."""
        self._lost.clear()
        if what is None:
            self._protocol = self._seen = None
        elif isinstance(what, LinkError):
            if not what.code.startswith("link-"):
                self._protocol = LinkError(str(SessionLostError(0, what)), code=what.code)
            self._seen = self._protocol or what
        elif self._protocol is None:
            text = (
                f"rank 0 has not sent a jacclBootstrap "
                f"(last seen: {what}, {now / 1000:.1f} s after the start of this run)"
            )
            self._seen = LinkError(text, code="no-bootstrap")
