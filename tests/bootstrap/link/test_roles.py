"""Rank 0 and rank 1 with each other, and with unauthenticated peers, over real sockets."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from bootstrap import LinkError
from bootstrap.link.sessions import MAX_UNCONFIRMED, MISSED_PONGS, Health, RankZero, alongside
from bootstrap.link.transport import connect
from tests.bootstrap.links import (
    HOST,
    QUICK,
    RANK_1,
    SECONDS,
    STRANGER,
    Steps,
    leading,
    run,
    serving,
    session_0,
    session_1,
)
from tests.wireproto.peers import output, take
from wireproto import (
    InferenceStep,
    InferenceToken,
    JacclBootstrapPayload,
    MemoryPressure,
    Message,
    Outcome,
    OutcomeState,
    Ping,
    PongPayload,
    PromptTokensPayload,
    Revision,
    SessionEnd,
)
from wireproto.messages import OUTCOME_1, SIDE_CHANNEL_1
from wireproto.session import Config, Role, Session, State

PAYLOAD = JacclBootstrapPayload(29400, "S-1")
OTHER = JacclBootstrapPayload(29400, "S-2")
UNLOADED = PongPayload(model_loaded=False, inference_in_flight=False, memory_pressure=MemoryPressure.NORMAL)
LOADED = PongPayload(model_loaded=True, inference_in_flight=False, memory_pressure=MemoryPressure.WARNING)


@pytest.mark.parametrize("revision", list(Revision))
def test_established_is_enough_to_bootstrap(revision: Revision) -> None:
    """The reference peer waits for a rank 1 whose model is loaded; this one's is not.

    [BOOT-ESTABLISHED, BOOT-SEND, SESSION-END-SEND]
    """

    async def main() -> None:
        async with (
            serving(revision=revision, status=lambda: UNLOADED) as (one, seen, port),
            leading(port, revision=revision) as (zero, steps),
        ):
            await zero.bootstrap(PAYLOAD)
            assert await one.bootstrap() == PAYLOAD
            await zero.ponged()
            assert (await steps.until("pong"))["modelLoaded"] is False
            assert zero.health == Health("degraded")
            fields = {"port": 29400, "session_id": "S-1"}
            assert steps.of("bootstrap-sent") == [{"peer": 1, **fields}]
            assert seen.of("bootstrap-received") == [{"peer": 0, **fields}]
            await zero.stop()
            assert await one.over() is None
            await seen.until("session-ended")

    run(main)


def test_health_is_ready_when_the_model_is_loaded() -> None:
    """[SESSION-PING]"""

    async def main() -> None:
        async with serving(status=lambda: LOADED) as (_, _, port), leading(port) as (zero, steps):
            assert zero.health == Health("unavailable")
            await steps.until("health", state="ready", missed=0)
            assert zero.health == Health("ready")
            assert (await steps.until("pong"))["memoryPressure"] == "warning"

    run(main)


async def silent_rank_1(port: asyncio.Future[int], done: asyncio.Event, sessions: list[Session]) -> None:
    """Completes a handshake, then sends nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = session_1()
        sessions.append(session)
        while data := await reader.read(65536):
            take(session, data)
            writer.write(output(session))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    port.set_result(server.sockets[0].getsockname()[1])
    await done.wait()
    server.close()


def test_missed_pongs_end_the_session_and_a_fresh_one_follows() -> None:
    """[SESSION-MISSED, SESSION-RECONNECT, SESSION-TIMES]"""

    async def main() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()
        sessions: list[Session] = []
        silent = asyncio.create_task(silent_rank_1(port, done, sessions))
        async with leading(await port, replace(QUICK, pong=0.02)) as (zero, steps):
            await steps.until("link-lost", code="ping-timeout")
            missed = [fields["missed"] for fields in steps.of("health") if fields["state"] == "degraded"]
            assert missed[:MISSED_PONGS] == [1, 2, 3]
            await steps.until("established", 2)
            assert sessions[0].peer_key == sessions[1].peer_key
            assert zero.health.state == "degraded"
        done.set()
        await silent

    run(main)


def test_no_pings_while_inference_is_in_flight() -> None:
    """[SESSION-PING-QUIET]"""

    async def main() -> None:
        async with serving() as (_, _, port), leading(port) as (zero, steps):
            await steps.until("pong", 2)
            zero.inference_in_flight = True
            pongs = len(steps.of("pong"))
            # A message sent now is answered after every earlier ping.
            await asyncio.sleep(10 * QUICK.ping_every)
            assert len(steps.of("pong")) <= pongs + 1
            zero.inference_in_flight = False
            await steps.until("pong", pongs + 2)

    run(main)


def test_rank_0_may_come_first() -> None:
    async def main() -> None:
        async with serving() as (_, _, port):
            pass
        async with leading(port) as (zero, steps):
            await steps.until("link-lost", code="link-refused", retry_s=QUICK.retry)
            assert zero.health == Health("unavailable")
            with pytest.raises(LinkError):
                await zero.send(PAYLOAD)

    run(main)


def test_a_session_that_was_ended_in_order_was_told_as_lost() -> None:
    """The other side closes the connection first; no other session follows."""

    async def main() -> None:
        async with serving() as (one, seen, port):
            steps = Steps()
            zero = RankZero(HOST, port, session_0, times=QUICK, report=steps)
            running = asyncio.create_task(zero.run())
            await zero.bootstrap(PAYLOAD)
            await one.bootstrap()
            await zero.stop()
            await running
            assert steps.of("link-lost") == []
            assert len(seen.of("connected")) == 1

    run(main)


def test_an_end_in_order_was_reset_by_bytes_that_crossed_it() -> None:
    """Rank 0 leaves the close to rank 1: its own could reset the connection before sessionEnd is read."""

    async def main() -> None:
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
        server = await asyncio.start_server(lambda *streams: connected.set_result(streams), HOST, 0)
        port = server.sockets[0].getsockname()[1]
        async with server, leading(port, times=replace(QUICK, end=SECONDS)) as (zero, steps):
            reader, writer = await connected
            one = session_1()
            stopping = None
            while one.state is not State.CLOSED:
                one.receive_data(await reader.read(65536))
                while one.next_event() is not None:
                    pass
                writer.writelines(one.data_to_send())
                if stopping is None:
                    await steps.until("established")
                    stopping = asyncio.create_task(zero.stop())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.2)
            assert stopping is not None
            assert not stopping.done()
            writer.close()
            await stopping

    run(main)


def test_a_session_that_is_lost_is_made_anew() -> None:
    """[SESSION-RECONNECT]"""

    async def main() -> None:
        async with serving() as (one, seen, port), leading(port) as (zero, steps):
            await zero.bootstrap(PAYLOAD)
            assert await one.bootstrap() == PAYLOAD
            assert one._current is not None
            one._current._transport.abort()
            await zero.lost()
            reason = await one.over()
            assert reason is not None
            await steps.until("link-lost", retry_s=QUICK.reconnect)
            await seen.until("confirmed", 2)
            await zero.bootstrap(OTHER)
            assert await one.bootstrap() == OTHER


@pytest.mark.parametrize("drops", ["rank 0", "rank 1"])
def test_a_bootstrap_of_a_lost_session_is_forgotten(drops: str) -> None:
    """It was not taken in time; the next taker must not get the first."""

    async def main() -> None:
        async with serving() as (one, seen, port), leading(port) as (zero, steps):
            await zero.bootstrap(PAYLOAD)
            await seen.until("bootstrap-received")
            if drops == "rank 0":
                zero.drop()
                await steps.until("link-lost", code="link-replaced")
            else:
                assert one._current is not None
                one._current._transport.abort()
            await seen.until("confirmed", 2)
            await zero.bootstrap(OTHER)
            assert await one.bootstrap() == OTHER

    run(main)


def test_over_is_that_of_the_session_that_brought_the_bootstrap() -> None:
    """Not of an earlier one, and not of a later one."""

    async def main() -> None:
        async with serving() as (one, seen, port), leading(port) as (zero, _):
            await seen.until("confirmed")
            zero.drop()
            await seen.until("confirmed", 2)
            await zero.bootstrap(PAYLOAD)
            await one.bootstrap()
            over = asyncio.create_task(one.over())
            async with leading(port, replace(QUICK, reconnect=SECONDS)):
                await seen.until("link-lost", code="link-replaced")
                reason = await over
                assert reason is not None
                assert reason.code == "link-replaced"

    run(main)


def test_one_bootstrap_a_session() -> None:
    """A process forms one group, so a second frame has no effect. [BOOT-RECEIVE]"""

    async def main() -> None:
        async with serving() as (one, seen, port), leading(port) as (zero, _):
            for payload in (PAYLOAD, OTHER):
                await zero.bootstrap(payload)
            assert await seen.until("ignored") == {"peer": 0, "name": "jacclBootstrap"}
            assert await one.bootstrap() == PAYLOAD
            assert one._bootstraps.empty()
            assert len(seen.of("bootstrap-received")) == 1

    run(main)


OFFERS = ("outcome/1", "review/1")


@pytest.mark.parametrize(
    ("revision", "own", "theirs", "offered"),
    [
        (Revision.V2, OFFERS, OFFERS, OFFERS),
        (Revision.V2, OFFERS, ("review/1", "side-channel/1"), ("review/1",)),
        (Revision.V2, OFFERS, (), ()),
        (Revision.V2, (), OFFERS, ()),
        (Revision.V1, OFFERS, OFFERS, ()),
    ],
)
def test_what_rank_1_offers(
    revision: Revision, own: tuple[str, ...], theirs: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    """[EXT-OFFER, EXT-UNKNOWN, EXT-REVISION]"""

    async def main() -> None:
        make_0 = partial(session_0, revision=revision, extensions=own)
        make_1 = partial(session_1, revision=revision, extensions=theirs)
        async with (
            serving(make_session=make_1, status=lambda: LOADED) as (one, _, port),
            leading(port, make_session=make_0) as (zero, steps),
        ):
            assert await zero.offered() == set(offered)
            pong = await steps.until("pong")
            assert pong.get("extensions", ()) == (theirs if revision is Revision.V2 else ())
            assert pong["modelLoaded"] is True
            payload = replace_fields(PAYLOAD, extensions=offered)
            await zero.bootstrap(payload)
            assert await one.bootstrap() == payload

    run(main)


def test_a_missing_pong_was_taken_for_an_offer_of_nothing() -> None:
    """Rank 0 waits for a pong until three are missed, and again in the next session. [PLAIN-OFFER]"""

    async def main() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()
        silent = asyncio.create_task(silent_rank_1(port, done, []))
        make_session = partial(session_0, extensions=OFFERS)
        async with leading(await port, replace(QUICK, pong=0.02), make_session=make_session) as (zero, steps):
            offered = asyncio.create_task(zero.offered())
            await steps.until("link-lost", 2, code="ping-timeout")
            assert not offered.done()
            offered.cancel()
        done.set()
        await silent

    run(main)


def test_frames_of_an_extension_go_both_ways() -> None:
    """[EXT-CHOICE]"""

    async def main() -> None:
        down, up = Outcome(0, OutcomeState.STARTED, "", "", ""), Outcome(1, OutcomeState.READY, "", "", "")
        got: asyncio.Queue[Message] = asyncio.Queue()
        answers: asyncio.Queue[Message] = asyncio.Queue()
        make_0, make_1 = (partial(each, extensions=OFFERS) for each in (session_0, session_1))
        async with (
            serving(make_session=make_1, on_message=got.put_nowait) as (one, _, port),
            leading(port, make_session=make_0, on_message=answers.put_nowait) as (zero, _),
        ):
            await zero.offered()
            await zero.bootstrap(replace_fields(PAYLOAD, extensions=("outcome/1",)))
            await zero.send(down)
            assert await got.get() == down
            await one.send(up)
            assert await answers.get() == up

    run(main)


def test_without_a_session_nothing_can_be_sent() -> None:
    async def main() -> None:
        async with serving() as (one, _, _):
            with pytest.raises(LinkError) as caught:
                await one.send(InferenceToken(b"box"))
            assert caught.value.code == "link-closed"

    run(main)

    run(main)


@pytest.mark.parametrize(
    ("pins", "code"),
    [
        ({"pin": STRANGER.public_key}, "handshake-wrong-pin"),
        ({"pin": None}, "handshake-no-pin"),
    ],
    ids=["another key", "no key"],
)
def test_a_failed_handshake_is_final_for_rank_0(pins: dict[str, Any], code: str) -> None:
    """[SESSION-GIVE-UP, HANDSHAKE-PIN]"""

    async def main() -> None:
        async with serving() as (_, _, port):
            rank = RankZero(HOST, port, partial(session_0, **pins), times=QUICK)
            with pytest.raises(LinkError) as caught:
                await rank.run()
            assert caught.value.code == code

    run(main)


def test_rank_1_turns_away_whom_it_does_not_know_and_serves_on() -> None:
    async def main() -> None:
        config = Config(role=Role.INITIATOR, signer=STRANGER, pin=RANK_1.public_key)
        async with serving() as (one, seen, port):
            async with leading(port, make_session=lambda ip: Session(config)):
                await seen.until("link-lost", code="handshake-wrong-pin")
            async with leading(port) as (zero, _):
                await zero.bootstrap(PAYLOAD)
                assert await one.bootstrap() == PAYLOAD

    run(main)


def test_silent_strangers_hold_up_nobody() -> None:
    """With too many, the oldest are dropped, rank 0 connects, the rest end at their deadline.

    [SESSION-CROWD, SESSION-DISPLACE, SESSION-TIMES]
    """

    async def main() -> None:
        async with serving(replace(QUICK, handshake=1.0)) as (one, seen, port):
            strangers = [await asyncio.open_connection(HOST, port) for _ in range(MAX_UNCONFIRMED + 2)]
            await seen.until("link-lost", 2, code="link-crowded")
            async with leading(port) as (zero, _):
                await zero.bootstrap(PAYLOAD)
                assert await one.bootstrap() == PAYLOAD
                await seen.until("link-lost", MAX_UNCONFIRMED - 1, code="link-timeout")
                assert zero.health.state != "unavailable"
            for reader, writer in strangers:
                assert await reader.read() == b""
                writer.close()

    run(main)


def test_a_recorded_hello_displaces_nobody() -> None:
    """Rank 1 answers it, because it is valid; but no box opens after it.

    [SESSION-CONFIRM, SESSION-DISPLACE, SESSION-TIMES]
    """

    async def main() -> None:
        async with serving(replace(QUICK, confirm=0.2)) as (one, seen, port), leading(port) as (zero, _):
            await seen.until("confirmed")
            current = one._current
            recorded = output(session_0())
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(recorded)
            assert (await reader.readexactly(8))[:1] != b""
            await seen.until("established", 2)
            await seen.until("link-lost", code="link-timeout")
            assert one._current is current
            await zero.bootstrap(PAYLOAD)
            assert await one.bootstrap() == PAYLOAD
            writer.close()

    run(main)


def test_a_confirmed_newcomer_takes_the_place_of_the_session() -> None:
    """Like after a pulled cable: the peer reconnects before the old connection is known dead. [SESSION-REPLACE]"""

    async def main() -> None:
        patient = replace(QUICK, reconnect=SECONDS)
        async with serving() as (one, seen, port), leading(port, patient) as (_, first):
            await seen.until("confirmed")
            old = one._current
            async with leading(port) as (again, _):
                await first.until("link-lost")
                await seen.until("link-lost", code="link-replaced")
                await again.bootstrap(PAYLOAD)
                assert await one.bootstrap() == PAYLOAD
                assert one._current is not old

    run(main)


def test_while_a_group_is_up_a_newcomer_does_not_end_it() -> None:
    """A second start of rank 0, or its dry run: its handshake is answered, then its connection is closed.

    [SESSION-REPLACE]
    """

    async def main() -> None:
        patient = replace(QUICK, reconnect=SECONDS)
        async with serving(holds=lambda: True) as (one, seen, port), leading(port, patient) as (_, first):
            await seen.until("confirmed")
            current = one._current
            async with leading(port, patient) as (_, second):
                await second.until("established")
                await second.until("link-lost")
                await seen.until("link-lost", code="link-taken")
            assert one._current is current
            assert first.of("link-lost") == []

    run(main)


def test_rank_0_waits_until_offers_are_complete() -> None:
    """A rank 1 that is still loading MLX does not know its extensions. [EXT-OFFER-COMPLETE, EXT-OFFER-WAIT]"""
    loaded = False

    async def main() -> None:
        nonlocal loaded
        every = {OUTCOME_1, SIDE_CHANNEL_1}
        async with (
            serving(
                status=lambda: LOADED if loaded else UNLOADED,
                offers=lambda: frozenset(every if loaded else {OUTCOME_1}),
                make_session=partial(session_1, extensions=every),
            ) as (_, _, port),
            leading(port, make_session=partial(session_0, extensions=every)) as (zero, steps),
        ):
            offered = asyncio.create_task(zero.offered())
            await steps.until("pong", 3)
            assert not offered.done()
            loaded = True
            assert await offered == every

    run(main)


def test_revision_1_keeps_the_session_that_lives() -> None:
    """Nothing that it sends proves the key, so a new connection could be a replay. [SESSION-NEWCOMER]"""

    async def main() -> None:
        one_of = serving(revision=Revision.V1)
        async with one_of as (one, seen, port), leading(port, revision=Revision.V1) as (_, steps):
            await steps.until("pong")
            current = one._current
            async with await connect(HOST, port, partial(session_0, revision=Revision.V1), seconds=SECONDS):
                await seen.until("link-lost", code="link-taken")
            assert one._current is current

    run(main)


def test_inference_has_a_handler_of_its_own() -> None:
    async def main() -> None:
        got: list[Message] = []
        answers: list[Message] = []
        prompt, step = PromptTokensPayload("u", (1, 2), 3), InferenceStep(b"box")
        async with (
            serving(on_message=got.append) as (one, _, port),
            leading(port, on_message=answers.append) as (zero, steps),
        ):
            await zero.established()
            for message in (prompt, step, PAYLOAD):
                await zero.send(message)
            assert await one.bootstrap() == PAYLOAD
            assert got == [prompt, step]
            assert one._current is not None
            await one._current.send(InferenceToken(b"box"), SECONDS)
            pongs = len(steps.of("pong"))
            await steps.until("pong", pongs + 2)
            assert answers == [InferenceToken(b"box")]

    run(main)


@pytest.mark.parametrize(
    "payload",
    [JacclBootstrapPayload(0, "S-1"), JacclBootstrapPayload(65535, "S-1"), JacclBootstrapPayload(29400, "../x")],
    ids=["port 0", "no port for the ring", "a path"],
)
def test_a_bootstrap_that_cannot_be_used(payload: JacclBootstrapPayload) -> None:
    """[BOOT-REFUSE]"""

    async def main() -> None:
        async with serving() as (one, seen, port), leading(port) as (zero, _):
            await zero.bootstrap(payload)
            await seen.until("link-lost", code="bad-bootstrap")
            assert one._bootstraps.empty()

    run(main)


def test_what_came_before_the_end_counts_when_all_comes_at_once() -> None:
    """The pong to a disconnected peer failed, and the bootstrap after the ping was lost with the link.

    [BOOT-INDEPENDENT]
    """

    async def main() -> None:
        async with serving() as (one, seen, port):
            session = session_0()
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(output(session))
            while session.state is not State.ESTABLISHED:
                take(session, await reader.read(4096))
            writer.write(output(session, Ping(), PAYLOAD, SessionEnd()))
            assert await one.bootstrap() == PAYLOAD
            await seen.until("session-ended")
            writer.close()

    run(main)


def test_a_flood_of_pings_is_answered() -> None:
    """[SESSION-PONG]"""

    async def main() -> None:
        async with serving() as (_, _, port), leading(port, replace(QUICK, ping_every=0.0)) as (_, steps):
            await steps.until("pong", 500)

    run(main)


def test_rank_1_leaves_nothing_open() -> None:
    async def main() -> None:
        async with serving() as (_, seen, port), leading(port):
            await seen.until("confirmed")
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection(HOST, port)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(main)


def test_alongside_gives_what_the_work_gives_and_ends_the_services() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def service() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("service")

        async def brief() -> None:
            pass  # a finished service ends nothing else

        async def work() -> int:
            await asyncio.sleep(0.01)
            return 7

        assert await alongside(work(), service(), brief()) == 7
        assert ended == ["service"]

    run(main)


def test_alongside_a_service_that_fails_ends_the_work() -> None:
    """The other services run until the work has sent everything."""

    async def main() -> None:
        steps: list[str] = []

        async def service() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                steps.append("service ends")

        async def failing() -> None:
            await asyncio.sleep(0.01)
            raise LinkError("text", code="link-lost")

        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await asyncio.sleep(0.01)
                steps.append("final message")

        with pytest.raises(LinkError):
            await alongside(work(), service(), failing())
        assert steps == ["final message", "service ends"]
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(main)


def test_alongside_a_second_cancellation_left_its_services() -> None:
    """While the work had output left, a rank continued to connect in the caller's event loop."""
    states: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            await asyncio.sleep(SECONDS)

    async def service() -> None:
        try:
            await asyncio.sleep(SECONDS)
        finally:
            states.append("ended")

    async def main() -> None:
        both = asyncio.create_task(alongside(work(), service()))
        for _ in range(2):
            await asyncio.sleep(0.01)
            both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both
        assert states == ["ended"]

    run(main)


def test_alongside_of_two_failures_the_first_services_is_raised() -> None:
    async def failing(text: str) -> None:
        await asyncio.sleep(0.01)
        raise LinkError(text, code="link-lost")

    async def main() -> None:
        for _ in range(20):
            with pytest.raises(LinkError, match="a"):
                await alongside(asyncio.sleep(SECONDS), failing("a"), failing("b"))

    run(main)


def test_alongside_the_works_own_failure_is_raised() -> None:
    async def main() -> None:
        async def work() -> None:
            raise LinkError("text", code="link-lost")

        with pytest.raises(LinkError):
            await alongside(work(), asyncio.sleep(SECONDS))

    run(main)
