"""The suite on peers without a bug, with a bug, and on programs that are hardly peers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.simulated import simulated
from tests.wireproto.conformance.trying import (
    HOST,
    PATIENCE,
    PATIENT,
    cases_of,
    free_port,
    launcher,
    results_of,
    role_of,
    settings,
    target,
)
from wireproto import Revision
from wireproto.conformance import CASES, RankOneTarget, RankZeroTarget, Result, Running, Settings, Verdict, run
from wireproto.conformance.case import FULL_ONLY
from wireproto.conformance.cases.session import NO_END
from wireproto.conformance.runner import NO_RESTART, attempt_at
from wireproto.session import Role

FINE = (Verdict.PASS, Verdict.SKIPPED)
Rank = type[RankOne] | type[RankZero]

# -- good peers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("make", [RankOne, RankZero])
def test_a_reference_peer_passes(make: Rank, revision: Revision) -> None:
    results = simulated(results_of(make, revision, patience=PATIENT))
    assert {result.id: result.reason for result in results if result.verdict not in FINE} == {}
    assert len(results) == len(cases_of(role_of(make)))
    skipped = [result for result in results if result.verdict is Verdict.SKIPPED]
    assert all(revision not in CASES[each.id].revisions or each.reason in (FULL_ONLY, NO_END) for each in skipped)


# -- peers with a bug: all of them are tried by `make mutants` ---------------------------------------------------------

_SOME = [*[name for name in MUTANTS if name.startswith("rank1.")][::12], "rank0.salt-swapped", "rank0.pin-skipped"]


@pytest.mark.parametrize("name", _SOME)
def test_a_mutant_is_caught(name: str) -> None:
    """Detected by a case that names the requirement; only cases that cite it are run."""
    mutant = MUTANTS[name]
    cases = [case for case in cases_of(role_of(mutant.make)) if set(mutant.rules) & set(case.requirements)]
    results = simulated(results_of(mutant.make, mutant.revision, cases))
    assert {result.failure.requirement for result in results if result.failure} & set(mutant.rules)


def one(make: Rank, case: str, revision: Revision = Revision.V2) -> Result:
    """Return the result of one case."""
    return simulated(results_of(make, revision, [CASES[case]]))[-1]


def test_a_failure_says_what_was_wrong() -> None:
    result = one(MUTANTS["rank1.length-zero-accepted"].make, "rank1.framing.length-zero")
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert result.failure.requirement == "LINK-LEN-MIN"
    assert result.failure.text == "A length of 0 is an error, and MUST end the connection."
    assert (result.failure.expected, result.failure.came) == ("the end of the connection", "nothing")
    sent = [entry.data for entry in result.record.entries if entry.kind == "sent"]
    assert sent[-1] == bytes(8)
    assert result.record.steps[-2:] == ["send a length of 0", "expect that the peer closes without sending anything"]
    times = [entry.at for entry in result.record.entries]
    assert times == sorted(times)
    (line,) = result.record.key_log
    assert line.startswith("CLUSTER_SESSION_KEY ")


def test_a_should_that_is_missed_is_not_a_failure() -> None:
    result = one(MUTANTS["rank1.replay-accepted"].make, "rank1.seal.replay")
    assert (result.verdict, result.spoils) == (Verdict.NON_STRICT, False)


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        ("rank1.length-big-endian", "it accepted one that is big-endian"),
        ("rank0.length-big-endian", "the length"),
        ("rank1.salt-swapped", "the salt is nonce_1 ‖ nonce_0"),
        ("rank0.salt-swapped", "the salt is nonce_1 ‖ nonce_0"),
        ("rank0.no-info", "the info string is empty"),
        ("rank1.tag-truncated", "the tag has 12 bytes, not 16"),
        ("rank0.nonce-last", "the nonce is after the tag"),
        ("rank0.not-sealed", "unsealed"),
    ],
)
def test_what_is_not_even_sane_is_diagnosed(mutant: str, why: str) -> None:
    make = MUTANTS[mutant].make
    first, *rest = simulated(results_of(make))
    assert first.section == "sanity"
    assert first.failure is not None
    assert why in first.failure.came
    assert first.failure.requirement in MUTANTS[mutant].rules
    assert {result.verdict for result in rest} == {Verdict.SKIPPED}
    reasons = {result.reason for result in rest if Revision.V2 in CASES[result.id].revisions}
    assert reasons == {f"the sanity case did not pass: {first.reason}"}


@pytest.mark.parametrize(
    ("mutant", "case", "why"),
    [
        ("rank1.single-hash", "rank1.handshake.signature", "not hashed once more"),
        ("rank0.raw-signature", "rank0.handshake.signature", "a raw signature"),
        ("rank1.ack-signed-in-other-order", "rank1.handshake.signature", "over SHA256(nonce_1 ‖ nonce_0 ‖ x25519_1)"),
        ("rank0.hello-signed-in-other-order", "rank0.handshake.signature", "over SHA256(nonce_0 ‖ x25519_0)"),
    ],
)
def test_a_signature_is_diagnosed(mutant: str, case: str, why: str) -> None:
    result = one(MUTANTS[mutant].make, case)
    assert result.failure is not None
    assert why in result.failure.came


# -- peers that are hardly any -----------------------------------------------------------------------------------------


class Troublesome(asyncio.Protocol):
    """A rank 1 that ignores all input."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.meet()

    def meet(self) -> None:
        pass


class Hangs(Troublesome):
    """It accepts connections, and does nothing else."""


class Closes(Troublesome):
    """It closes at once."""

    def meet(self) -> None:
        self.transport.close()


class Floods(Troublesome):
    """It sends endless possible frames."""

    frame = (5).to_bytes(8, "little") + b"\x04{}  "
    going = True

    def meet(self) -> None:
        if self.going and not self.transport.is_closing():
            self.transport.write(self.frame * 1000)
            asyncio.get_running_loop().call_later(0.001, self.meet)

    def connection_lost(self, error: Exception | None) -> None:
        self.going = False


class FloodsInside(Floods):
    """It announces a long frame, and never ends it."""

    frame = bytes([0, 0, 64, 0, 0, 0, 0, 0]) + bytes(5000)


class Stutters(Troublesome):
    """It sends single bytes that never become a frame."""

    def meet(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"\x01" if self.transport.get_write_buffer_size() == 0 else b"")
            asyncio.get_running_loop().call_later(0.05, self.meet)


def troublesome(make: type[Troublesome]) -> RankOneTarget:
    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        server = await asyncio.get_running_loop().create_server(make, host, port)
        try:
            yield Running()
        finally:
            server.close()

    return RankOneTarget(HOST, free_port(), launch)


SHORT = replace(PATIENCE, answer=0.3, close=0.3, quiet=0.1)


@pytest.mark.parametrize("make", [Hangs, Closes, Floods, FloodsInside, Stutters])
@pytest.mark.timeout(60)
def test_trouble_is_a_verdict(make: type[Troublesome]) -> None:
    """Each case ends, whatever the peer does; the sanity case is left out here."""

    async def all_verdicts() -> set[Verdict]:
        peer = troublesome(make)
        names = ("rank1.sanity.rank-1-answers", "rank1.framing.byte-by-byte", "rank1.handshake.signature")
        try:
            return {(await attempt_at(peer, settings(patience=SHORT), CASES[name])).verdict for name in names}
        finally:
            await peer.stop()

    assert asyncio.run(all_verdicts()) == {Verdict.FAIL}


def test_a_case_that_fails_does_not_disturb_the_next() -> None:
    """Each of these runs after one that leaves the mutant's connection hanging."""
    make = MUTANTS["rank1.bad-box-skipped"].make
    results = simulated(results_of(make, cases=[case for case in cases_of(Role.RESPONDER) if case.section == "seal"]))
    verdicts = {result.id.rpartition(".")[2]: result.verdict for result in results}
    assert verdicts["tag-changed"] is verdicts["another-key"] is Verdict.FAIL
    assert verdicts["nonces-differ"] is verdicts["nonce-any"] is verdicts["replay"] is Verdict.PASS


def test_nobody_listens() -> None:
    peer = RankOneTarget(HOST, free_port())
    first, *rest = asyncio.run(_all(peer, settings(patience=replace(PATIENCE, start=0.2))))
    assert first.verdict is Verdict.INCONCLUSIVE
    assert first.reason.startswith(f"no connection to {HOST}:")
    assert {result.verdict for result in rest} == {Verdict.SKIPPED}


def test_nobody_connects() -> None:
    peer = RankZeroTarget(HOST, 0)
    first, *_ = asyncio.run(_all(peer, settings(patience=replace(PATIENCE, start=0.2))))
    assert (first.verdict, first.reason.split(" in ")[1]) == (Verdict.INCONCLUSIVE, "0.2 s")


async def _all(peer: RankOneTarget | RankZeroTarget, how: Settings) -> list[Result]:
    return [result async for result in run([peer], how, cases_of(peer.role))]


def test_without_a_restart_command_a_rank_0_is_met_once() -> None:
    async def main() -> list[Result]:
        port = free_port()
        peer = RankZeroTarget(HOST, port)
        cases = [CASES["rank0.framing.length-zero"], CASES["rank0.seal.replay"]]
        async with launcher(RankZero)(HOST, port):
            return [result async for result in run([peer], settings(), cases)]

    first, *rest = asyncio.run(main())
    assert first.verdict is Verdict.PASS
    assert [result.verdict for result in rest] == [Verdict.SKIPPED] * 2
    assert {result.reason for result in rest} == {NO_RESTART}


def test_retries_tell_a_flake() -> None:
    """The first attempt runs on a mutant, the second on a correct peer."""
    makes = iter([RankOne, MUTANTS["rank1.length-zero-accepted"].make, RankOne])

    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        async with launcher(next(makes))(host, port) as how:
            yield how

    async def main() -> Result:
        peer = RankOneTarget(HOST, free_port(), launch)
        case = CASES["rank1.framing.length-zero"]
        return [result async for result in run([peer], settings(), [case], retries=2)][-1]

    result = asyncio.run(main())
    assert (result.verdict, result.attempts, result.flaky, result.spoils) == (Verdict.PASS, 2, True, False)


def test_retries_do_not_hide_a_failure() -> None:
    async def main() -> Result:
        peer = target(MUTANTS["rank1.length-zero-accepted"].make)
        case = CASES["rank1.framing.length-zero"]
        return [result async for result in run([peer], settings(), [case], retries=1)][-1]

    result = asyncio.run(main())
    assert (result.verdict, result.attempts, result.flaky) == (Verdict.FAIL, 2, False)
