"""Why there is no group yet, as the links show it: for the error at the deadline."""

from bootstrap.errors import BootstrapError, LinkError
from bootstrap.link.sessions import SessionLostError


class Reason:
    """`error` is why there is no group, or how far rank 0 was seen to come; None where nothing is wrong.

    Where several links are down it is the failure of the one that was lost first: a rank that gives up because another
    is missing closes its link, too.
    """

    def __init__(self) -> None:
        self.has_met = False
        """Whether there ever was a session: a loss after it may be a consequence of what keeps this rank waiting."""
        self._lost: dict[int | None, LinkError] = {}  # by rank, None where it is not known; in the order of the losses
        self._loading: set[int] = set()
        self._seen: LinkError | None = None
        self._protocol: LinkError | None = None  # stays the reason, since rank 0 reconnects and repeats it
        self._before: BootstrapError | None = None

    @property
    def error(self) -> BootstrapError | None:
        if self._loading and not self._lost:
            ranks = " and ".join(f"rank {peer}" for peer in sorted(self._loading))
            return LinkError(f"MLX is still being loaded on {ranks}", code="peer-loading")
        peer, error = next(iter(self._lost.items()), (None, self._seen))
        if error is not None and peer in self._loading:
            return LinkError(f"{error} (when last heard, rank {peer} was still loading MLX)", code=error.code)
        return error or self._before

    def failed(self, error: BootstrapError) -> None:
        """Another attempt follows a failure, which remains the reason as long as nothing else is known."""
        self._before = error

    def lost(self, peer: int | None, error: LinkError) -> None:
        """The link with a rank was lost, or could not be made."""
        self._lost[peer] = error

    def established(self, peer: int) -> None:
        """There is a session with a rank."""
        self.has_met = True
        self._lost.pop(peer, None)
        self._lost.pop(None, None)
        self._seen = self._protocol

    def loading(self, peer: int, is_loading: bool) -> None:
        """Say whether a rank still loads MLX, after its last pong."""
        (self._loading.add if is_loading else self._loading.discard)(peer)

    def ended_early(self, error: LinkError) -> None:
        """Rank 0 has ended its session without a jacclBootstrap."""
        self._lost.clear()
        self._seen = self._protocol or error

    def seen(self, what: str | LinkError | None, now: float) -> None:
        """Rank 0 did `what`, `now` milliseconds after the start, or its session ended; None if nothing is amiss."""
        self._lost.clear()
        if what is None:
            self._protocol = self._seen = None
        elif isinstance(what, LinkError):
            if not what.code.startswith("link-"):
                self._protocol = LinkError(str(SessionLostError(0, what)), code=what.code)
            self._seen = self._protocol or what
        elif self._protocol is None:
            text = (
                f"rank 0 is there (last seen: {what}, {now / 1000:.1f} s after the start of this run), "
                "and has not sent a jacclBootstrap"
            )
            self._seen = LinkError(text, code="no-bootstrap")
