"""The suite on the ranks of `jaccl-bootstrap up`, as far as their link is concerned."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest

from bootstrap import LinkError
from bootstrap.link.sessions import RankOne, RankZero, Times, alongside
from bootstrap.plan import new_session_id
from tests.examples import PROFILE
from tests.wireproto.conformance.simulated import simulated
from tests.wireproto.conformance.trying import AT_ONCE, HOST, OURS, PATIENT, THEIRS, cases_of, free_port, settings
from wireproto import JacclBootstrapPayload, Revision
from wireproto.conformance import CASES, Case, RankOneTarget, RankZeroTarget, Result, Running, Target, Verdict, run
from wireproto.conformance.case import FULL_ONLY
from wireproto.conformance.cases import generated
from wireproto.messages import MAX_LINK_LENGTH, OUTCOME_1, SIDE_CHANNEL_1, Versions
from wireproto.session import Config, Role, Session
from wireproto.session.handshake import KeySigner

TIMES = Times(
    connect=PATIENT.start,
    handshake=PATIENT.handshake,
    confirm=2 * PATIENT.handshake,
    ping_every=PATIENT.ping_every,
    pong=PATIENT.pong,
    reconnect=PATIENT.reconnect,
    retry=PATIENT.retry,
    send=5.0,
)
EXTENSIONS = (OUTCOME_1, SIDE_CHANNEL_1)
FINE = (Verdict.PASS, Verdict.SKIPPED)
END = "rank0.session.end-closes"
"""The one case that a rank 0 cannot pass if it stays."""
VERSIONS = Versions("1.0", "0.30.1", "ring", "")


def session(role: Role, revision: Revision, peer_ip: str) -> Session:
    extensions = EXTENSIONS if revision is Revision.V2 else ()
    signer = KeySigner(THEIRS)
    return Session(Config(role=role, signer=signer, pin=OURS.public, revision=revision, extensions=extensions))


async def rank_1(host: str, port: int, revision: Revision) -> None:
    """Listens, and sends its versions if asked."""
    rank = RankOne(host, port, partial(session, Role.RESPONDER, revision), times=TIMES)

    async def answer() -> None:
        while True:
            payload = await rank.bootstrap()
            if OUTCOME_1 in payload.extensions:
                with suppress(LinkError):  # the session is over
                    await rank.send(VERSIONS)

    await alongside(rank.run(), answer())


async def rank_0(host: str, port: int, revision: Revision) -> None:
    """Connects, and bootstraps with what was offered."""
    rank = RankZero(host, port, partial(session, Role.INITIATOR, revision), times=TIMES)

    async def lead() -> None:
        while True:
            offered = await rank.offered()
            chosen = tuple(sorted(offered.intersection(EXTENSIONS)))
            with suppress(LinkError):
                await rank.bootstrap(JacclBootstrapPayload(29400, new_session_id(), chosen))
                if OUTCOME_1 in chosen:
                    await rank.send(VERSIONS)
                await rank.lost()

    await alongside(rank.run(), lead())


async def rank_0_that_ends(host: str, port: int, revision: Revision) -> None:
    """Connects, waits for a pong, and ends its session."""
    rank = RankZero(host, port, partial(session, Role.INITIATOR, revision), times=TIMES)

    async def lead() -> None:
        await rank.ponged()
        await rank.stop()

    await alongside(lead(), rank.run())


Play = Callable[[str, int, Revision], Coroutine[None, None, object]]
PLAYS: dict[Role, Play] = {Role.RESPONDER: rank_1, Role.INITIATOR: rank_0}


def target(role: Role, revision: Revision, play: Play | None = None) -> Target:
    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        task = asyncio.create_task((play or PLAYS[role])(host, port, revision))
        try:
            yield Running()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, LinkError):  # a rank 0 exits if a handshake fails
                await task

    if role is Role.RESPONDER:
        return RankOneTarget(HOST, free_port(), launch)
    return RankZeroTarget(HOST, free_port(), launch)


async def results(
    role: Role, revision: Revision, cases: Collection[Case], *, full: bool = True, play: Play | None = None
) -> list[Result]:
    targets = [target(role, revision, play) for _ in range(2 * AT_ONCE)]
    how = replace(settings(revision, PATIENT), full=full)
    return [result async for result in run(targets, how, cases)]


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("role", Role)
def test_they_pass(role: Role, revision: Revision) -> None:
    """Nothing is missing, either, except in the profile `local` some of what takes long."""
    found = simulated(results(role, revision, cases_of(role), full=PROFILE != "local"))
    assert {result.id: result.reason for result in found if result.verdict not in FINE} == {}
    ran = {result.id for result in found if result.verdict is Verdict.PASS}
    left = {result.id for result in found if PROFILE == "local" and result.reason == FULL_ONLY}
    assert ran | left == {case.id for case in cases_of(role) if revision in CASES[case.id].revisions} - {END}


@pytest.mark.parametrize("revision", Revision)
def test_a_rank_0_that_ends_its_session_closes(revision: Revision) -> None:
    found = simulated(results(Role.INITIATOR, revision, [CASES[END]], play=rank_0_that_ends))
    assert [(result.id, result.verdict) for result in found if result.id == END] == [(END, Verdict.PASS)]


@pytest.mark.parametrize("role", Role)
def test_the_longest_frame_is_taken(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """[LINK-LEN-MAX]"""
    monkeypatch.setattr(
        sys.modules[__name__], "TIMES", replace(TIMES, ping_every=5.0, pong=3.0)
    )  # it cannot be answered
    monkeypatch.setattr(generated, "_LONG", ())
    monkeypatch.setattr(generated, "_LONGEST", (MAX_LINK_LENGTH,))
    case = CASES[f"{role.value.replace(' ', '')}.framing.long-frames"]
    found = asyncio.run(results(role, Revision.V2, [case]))[-1]
    assert (found.id, found.verdict) == (case.id, Verdict.PASS)
    assert f"send a link frame of {2**28:,} bytes" in found.record.steps
