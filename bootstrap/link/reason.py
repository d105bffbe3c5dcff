"""Why there is no group yet, as the links show it: for the error at the deadline."""

from bootstrap.errors import LinkError
from bootstrap.link.sessions import SessionLostError


class Reason:
    """`error` is the last failure of a link, or how far rank 0 was seen to come; None where nothing is wrong."""

    def __init__(self) -> None:
        self.error: LinkError | None = None
        self._protocol: LinkError | None = None  # stays the reason, since rank 0 reconnects and repeats it

    def lost(self, error: LinkError) -> None:
        """A link was lost, or could not be made."""
        self.error = error

    def established(self) -> None:
        """There is a session."""
        self.error = self._protocol

    def ended_early(self, error: LinkError) -> None:
        """Rank 0 has ended its session without a jacclBootstrap."""
        self.error = self._protocol or error

    def seen(self, what: str | LinkError | None, now: float) -> None:
        """Rank 0 did `what`, `now` milliseconds after the start, or its session ended; None if nothing is amiss."""
        if what is None:
            self._protocol = self.error = None
        elif isinstance(what, LinkError):
            if not what.code.startswith("link-"):
                self._protocol = LinkError(str(SessionLostError(0, what)), code=what.code)
            self.error = self._protocol or what
        elif self._protocol is None:
            text = (
                f"rank 0 is there (last seen: {what}, {now / 1000:.1f} s after the start of this run), "
                "and has not sent a jacclBootstrap"
            )
            self.error = LinkError(text, code="no-bootstrap")
