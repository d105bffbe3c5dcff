import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from bootstrap import LinkError, roles
from bootstrap.transport import connect, listen
from wireproto import JacclBootstrapPayload, Ping, SessionEnd, encode_frame
from wireproto.messages import Message

SECONDS = 30.0
PAYLOAD = JacclBootstrapPayload(port=29400, session_id="S-1")


class Steps(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))


def test_rank_0_sends_the_same_frame_to_every_other_rank() -> None:
    steps, others = Steps(), [Steps(), Steps(), Steps()]

    async def main() -> list[JacclBootstrapPayload]:
        with ExitStack() as stack:
            listeners = [stack.enter_context(listen("127.0.0.1")) for _ in others]
            peers = [(listener.host, listener.port) for listener in listeners]
            following = [
                asyncio.create_task(roles.follow(listener, 4, SECONDS, seen))
                for listener, seen in zip(listeners, others, strict=True)
            ]
            await roles.lead(PAYLOAD, peers, SECONDS, steps)
            return [await task for task in following]

    assert asyncio.run(main()) == [PAYLOAD] * 3
    frame = {
        "type": 7,
        "name": "jacclBootstrap",
        "port": 29400,
        "session_id": "S-1",
        "bytes": len(encode_frame(PAYLOAD)),
    }
    assert [name for name, _ in steps] == ["link-up", "frame-sent"] * 3
    assert [fields for name, fields in steps if name == "frame-sent"] == [{"peer": p, **frame} for p in (1, 2, 3)]
    for seen in others:
        assert [name for name, _ in seen] == ["link-up", "frame-received"]
        assert seen[1][1] == {"peer": 0, **frame}


def follow_after(message: Message, size: int = 2) -> JacclBootstrapPayload:
    """What another rank makes of `message` as the first that comes."""

    async def main() -> JacclBootstrapPayload:
        with listen("127.0.0.1") as listener:
            following = asyncio.create_task(roles.follow(listener, size, SECONDS))
            async with await connect(listener.host, listener.port, SECONDS) as link:
                await link.send(message, SECONDS)
                return await following

    return asyncio.run(main())


@pytest.mark.parametrize("message", [Ping(), SessionEnd()])
def test_only_the_bootstrap_message_will_do(message: Message) -> None:
    with pytest.raises(LinkError, match="where jacclBootstrap was due") as caught:
        follow_after(message)
    assert caught.value.code == "unexpected-message"


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (JacclBootstrapPayload(port=0, session_id="S"), 2),
        (JacclBootstrapPayload(port=65535, session_id="S"), 2),
        (JacclBootstrapPayload(port=65530, session_id="S"), 8),
        (JacclBootstrapPayload(port=29400, session_id="../../etc/cron.d/x"), 2),
        (JacclBootstrapPayload(port=29400, session_id=""), 2),
    ],
)
def test_a_bootstrap_that_cannot_be_used_is_the_peers_fault(payload: JacclBootstrapPayload, size: int) -> None:
    with pytest.raises(LinkError, match="cannot be used") as caught:
        follow_after(payload, size)
    assert caught.value.code == "bad-bootstrap"
