"""Rank 0 and the others, as they act on the link: one jacclBootstrap frame from 0 to each."""

from collections.abc import Sequence

from bootstrap.errors import LinkError
from bootstrap.events import OnStep, silent
from bootstrap.plan import check_port, check_session_id
from bootstrap.transport import Link, Listener, connect
from wireproto import ClusterMsgType, JacclBootstrapPayload


async def lead(
    payload: JacclBootstrapPayload, peers: Sequence[tuple[str, int]], seconds: float, on_step: OnStep = silent
) -> None:
    """Rank 0: connect to ranks 1, 2, … at `peers` and send each the same frame."""
    for peer, (host, port) in enumerate(peers, start=1):
        async with await connect(host, port, seconds) as link:
            on_step("link-up", peer=peer, host=host, port=port)
            size = await link.send(payload, seconds)
            on_step("frame-sent", peer=peer, **_fields(payload, size))


async def follow(listener: Listener, size: int, seconds: float, on_step: OnStep = silent) -> JacclBootstrapPayload:
    """Any other rank of `size`: take one connection and return the bootstrap that comes over it."""
    async with await listener.accept(seconds) as link:
        on_step("link-up", peer=0, host=listener.host, port=listener.port)
        return await await_bootstrap(link, size, seconds, on_step)


async def await_bootstrap(link: Link, size: int, seconds: float, on_step: OnStep = silent) -> JacclBootstrapPayload:
    """LinkError for any other message, and for a payload that no group of `size` can use."""
    message, length = await link.receive(seconds)
    if not isinstance(message, JacclBootstrapPayload):
        raise LinkError(f"rank 0 sent {type(message).__name__} where jacclBootstrap was due", code="unexpected-message")
    on_step("frame-received", peer=0, **_fields(message, length))
    try:
        check_port(message.port, size)
        check_session_id(message.session_id)
    except ValueError as error:
        raise LinkError(f"rank 0 sent a jacclBootstrap that cannot be used: {error}", code="bad-bootstrap") from error
    return message


def _fields(payload: JacclBootstrapPayload, size: int) -> dict[str, object]:
    kind = ClusterMsgType.JACCL_BOOTSTRAP
    return {
        "type": int(kind),
        "name": kind.wire_name,
        "port": payload.port,
        "session_id": payload.session_id,
        "bytes": size,
    }
