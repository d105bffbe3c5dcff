"""Verdicts: the broken rule, its level, and its subject."""

import asyncio
import base64
import shlex
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.wireproto.conformance import matrix
from tests.wireproto.conformance.peers.conversation import Fault
from tests.wireproto.conformance.peers.harmless import HARMLESS
from tests.wireproto.conformance.peers.mutants import MUTANTS
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.simulated import simulated
from tests.wireproto.conformance.trying import (
    HOST,
    OURS,
    PATIENCE,
    PATIENT,
    THEIRS,
    cases_of,
    free_port,
    launcher,
    settings,
    target,
)
from wireproto import Message, PongPayload, WireError
from wireproto.conformance import (
    CASES,
    RankOneTarget,
    RankZeroTarget,
    Result,
    Running,
    Settings,
    Verdict,
    command_launcher,
    run,
)
from wireproto.conformance.targets import Ended
from wireproto.conformance.verdicts import Undecided
from wireproto.session import Role
from wireproto.testing.requirements import Level

Rank = type[RankOne] | type[RankZero]


def results(
    make: Rank,
    *names: str,
    how: Settings | None = None,
    at_once: int = 1,
    runs: Callable[[Coroutine[Any, Any, list[Result]]], list[Result]] = simulated,
) -> dict[str, Result]:
    """Return the results of the cases by id, without the sanity case. With `asyncio.run`, wait for real."""
    cases = [CASES[name] for name in names]

    async def main() -> list[Result]:
        played = how or settings()
        targets = [target(make, patience=played.patience) for _ in range(at_once)]
        return [result async for result in run(targets, played, cases)]

    return {result.id: result for result in runs(main()) if result.section != "sanity"}


def rules(found: dict[str, Result]) -> dict[str, str]:
    """Return the rule named by each failed case."""
    return {result.id: result.failure.requirement for result in found.values() if result.failure}


def verdicts(found: dict[str, Result]) -> dict[str, Verdict]:
    return {name: result.verdict for name, result in found.items()}


# -- how strictly a failure counts ------------------------------------------------------------------------------------


class RefusesEscapedSolidus(RankOne):
    def look_at(self, frame: bytes) -> None:
        if b"\\/" in frame:
            raise Fault("an escape that was not foreseen")


class RefusesUnknownKeyInHello(RankOne):
    def look_at(self, frame: bytes) -> None:
        if frame[:1] == b"\x01" and b'"x":' in frame:
            raise Fault("an unknown key")


@pytest.mark.parametrize("make", [RefusesEscapedSolidus, RefusesUnknownKeyInHello])
def test_a_peer_that_cannot_talk_to_the_reference_peer_only_missed_a_may(make: Rank) -> None:
    found = results(make, "rank1.handshake.as-swift-writes")["rank1.handshake.as-swift-writes"]
    assert found.verdict is Verdict.FAIL
    assert found.level == Level.MUST.value


class DoesNotReconnect(RankZero):
    def gone(self) -> None:
        pass


def test_a_should_counts_as_a_should_though_the_case_asks_for_a_must_too() -> None:
    how = settings(patience=replace(PATIENCE, slack=0.2))
    found = results(DoesNotReconnect, "rank0.session.reconnect", how=how)["rank0.session.reconnect"]
    assert found.verdict is Verdict.NON_STRICT
    assert found.failure is not None
    assert found.failure.requirement == "SESSION-RECONNECT"


# -- which rule is named ----------------------------------------------------------------------------------------------


class MalformedPong(RankOne):
    def encode(self, message: Message) -> bytes:
        frame = super().encode(message)
        return frame[:-1] + b',"a":1,"a":2}' if isinstance(message, PongPayload) else frame


def test_a_malformed_pong_was_shown_as_other_rules() -> None:
    names = (case.id for case in cases_of(Role.RESPONDER) if case.section != "extensions")
    found = results(MalformedPong, *names, how=settings(patience=PATIENT), at_once=4)
    assert rules(found) == {"rank1.session.pong-fields": "JSON-DUPLICATE-KEY"}


class DropsThirdPong(RankOne):
    count = 0

    def pong(self) -> None:
        self.count += 1
        if self.count % 3:
            super().pong()


def test_a_dropped_pong_was_shown_as_a_fault_of_framing() -> None:
    found = results(DropsThirdPong, "rank1.framing.coalesced-pings", "rank1.session.pong-each")
    assert rules(found) == {"rank1.session.pong-each": "SESSION-PONG"}
    assert found["rank1.framing.coalesced-pings"].verdict is Verdict.SKIPPED


class IgnoresUnknownTypes(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code == "type-unknown"


def test_unknown_types_were_shown_as_other_rules() -> None:
    names = ("framing.coalesced", "session.survives-a-fault", "extensions.uninvited-outcome", "frame.type-unknown")
    found = results(IgnoresUnknownTypes, *(f"rank1.{name}" for name in names))
    assert rules(found) == {"rank1.frame.type-unknown": "SESSION-BOX"}
    assert Counter(verdicts(found).values()) == {Verdict.SKIPPED: 3, Verdict.FAIL: 1}


class ServesOneAtATime(RankOne):
    def begin(self) -> None:
        super().begin()
        before = self.shared.memory.get("before")
        if before is not None and not before.over:
            self.transport.abort()
        else:
            self.shared.memory["before"] = self


def test_a_peer_that_serves_one_connection_at_a_time_was_shown_as_a_wrong_pin() -> None:
    found = results(
        ServesOneAtATime,
        *(case.id for case in cases_of(Role.RESPONDER) if case.section == "handshake"),
        "rank1.session.stranger-first",
        how=settings(patience=PATIENT),
        runs=asyncio.run,  # the simulated network may deliver a new connection before the end of the last one
    )
    assert rules(found) == {"rank1.session.stranger-first": "SESSION-DISPLACE"}


class StallsAfterBadPong(RankZero):
    def faulty(self) -> None:
        self.over = True
        for timer in self.timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self.over:
            super().data_received(data)


class GoesOnAfterBadPong(RankZero):
    def faulty(self) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "came"), [(StallsAfterBadPong, "nothing: it stalled"), (GoesOnAfterBadPong, "it continued with ping")]
)
def test_a_rank_0_that_stalls_was_not_told_from_one_that_goes_on(make: Rank, came: str) -> None:
    found = results(make, "rank0.payload.pong-null")["rank0.payload.pong-null"]
    assert found.failure is not None
    assert found.failure.came.startswith(came)


# -- whom a rule binds ------------------------------------------------------------------------------------------------


class WithoutExtensions(RankOne):
    extensions = ()


class ZeroWithoutExtensions(RankZero):
    extensions = ()


@pytest.mark.parametrize("make", [WithoutExtensions, ZeroWithoutExtensions])
@pytest.mark.parametrize("has_extensions", [None, False])
def test_a_peer_without_extensions_is_not_held_to_them(make: Rank, has_extensions: bool | None) -> None:
    role = Role.RESPONDER if issubclass(make, RankOne) else Role.INITIATOR
    names = [case.id for case in cases_of(role) if case.section == "extensions"]
    found = results(make, *names, how=replace(settings(), has_extensions=has_extensions))
    assert rules(found) == {}
    assert Verdict.UNIMPLEMENTED in verdicts(found).values()


class AnyFileName(RankOne):
    def check_session_id(self, session_id: str) -> None:
        pass


def test_a_session_id_that_names_no_file_was_held_to_file_names() -> None:
    name = "rank1.bootstrap.session-id-path"
    plain, named = (replace(settings(), names_file=each) for each in (False, True))
    assert results(AnyFileName, name, how=plain)[name].verdict is Verdict.SKIPPED
    assert results(AnyFileName, name, how=named)[name].verdict is Verdict.FAIL


class RefusesRecordedHello(RankOne):
    def shake_hands(self, frame: bytes) -> None:
        if frame in self.shared.memory.setdefault("hellos", []):
            raise Fault("a hello that came before")
        self.shared.memory["hellos"].append(frame)
        super().shake_hands(frame)


def test_an_ack_to_a_recorded_hello_was_a_must() -> None:
    name = "rank1.session.recorded-hello"
    assert results(RefusesRecordedHello, name)[name].verdict is Verdict.PASS


class BootstrapsWhenLoaded(RankZero):
    """Pings first, and sends jacclBootstrap after a pong with a loaded model."""

    is_sent = False

    def bootstrap(self) -> None:
        pass

    def pong(self, payload: PongPayload) -> None:
        super().pong(payload)
        if payload.model_loaded and not self.is_sent:
            self.is_sent = True
            super().bootstrap()


def test_a_rank_0_that_asks_first_had_no_pong() -> None:
    names = [f"rank0.bootstrap.{name}" for name in ("sent", "sent-once", "usable", "uuid", "sent-without-a-model")]
    assert rules(results(BootstrapsWhenLoaded, *names)) == {"rank0.bootstrap.sent-without-a-model": "BOOT-ESTABLISHED"}


# -- the peer's process -----------------------------------------------------------------------------------------------

CRASHING = """
import asyncio, os, sys
from tests.wireproto.conformance.peers import __main__ as main
from tests.wireproto.conformance.peers.conversation import Conversation

def look_at(self, frame):
    if frame.count(b"[") > 500:
        print("a fault deep inside", file=sys.stderr, flush=True)
        os.abort()

Conversation.look_at = look_at
asyncio.run(main.main("rank1", open(sys.argv[1]).read(), sys.argv[2]))
"""


def test_the_death_of_the_process_is_a_verdict_of_its_own_and_the_next_case_restarts_it(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pin = base64.b64encode(OURS.public).decode()
    command = shlex.join([sys.executable, "-c", CRASHING, str(tmp_path / "key.pem"), pin])
    names = ["rank1.handshake.nesting-513-last", "rank1.payload.nesting-513-last", "rank1.session.pong-each"]

    async def main() -> list[Result]:
        peer = RankOneTarget(HOST, free_port(), command_launcher(command), keep=True)
        return [result async for result in run([peer], settings(), [CASES[name] for name in names])]

    found = {result.id: result for result in asyncio.run(main())}
    assert [found[name].verdict for name in names] == [Verdict.CRASH, Verdict.CRASH, Verdict.PASS]
    crash = found[names[0]]
    assert crash.reason == "the peer exited with SIGABRT: a fault deep inside"
    assert crash.stderr == ("a fault deep inside",)
    assert crash.spoils
    sent = [len(entry.data) for entry in crash.record.entries if entry.kind == "sent"]
    assert sent[0] == 8 + 518


def test_a_kept_peer_that_ends_between_two_cases_is_started_again() -> None:
    """A rank 0 exits after its session, perhaps after the next case has checked that it runs."""
    ended: list[Ended | None] = []

    async def closed(writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        @asynccontextmanager
        async def launch(host: str, port: int) -> AsyncIterator[Running]:
            number = len(ended)
            ended.append(None)
            _, writer = await asyncio.open_connection(host, port)
            yield Running(ended=lambda: ended[number])
            await closed(writer)

        peer = RankZeroTarget(HOST, free_port(), launch, keep=True)
        await peer.fresh()
        await closed((await peer.connect(5))[1])
        await peer.fresh()
        ended[0] = Ended("the peer exited with exit status 0", 0)
        await closed((await peer.connect(5))[1])
        assert len(ended) == 2
        ended[1] = Ended("the peer exited with exit status 1", 1)
        with pytest.raises(Undecided, match="exit status 1"):  # in the middle of a case it must not exit
            await peer.connect(5)
        await peer.stop()

    asyncio.run(main())


# -- who does nothing wrong -------------------------------------------------------------------------------------------


def test_a_group_with_more_ports_was_accused() -> None:
    """A peer whose highest port is below that of two ranks. `make mutants` runs all variants."""
    name = "rank1.bootstrap.highest-port"
    found = results(HARMLESS["rank1.HasFourConnectionsEach"], name)[name]
    assert (found.verdict, found.reason) == (
        Verdict.UNIMPLEMENTED,
        "its group needs more ports than two ranks do",
    )
    assert verdicts(results(RankOne, name)) == {name: Verdict.PASS}


def test_a_variant_that_is_accused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    case = "rank1.framing.length-zero"
    monkeypatch.setattr(matrix, "HARMLESS", {"one": MUTANTS["rank1.length-zero-accepted"].make, "other": RankOne})
    monkeypatch.setattr(matrix, "written", lambda _: [CASES[case]])
    found = asyncio.run(matrix.accusations_of(["one", "other"], all_cases=False))
    assert found == {"one": [f"{case}: expected the end of the connection; got nothing"], "other": []}


def test_a_peer_that_was_asked_for_one_session_was_told_to_reconnect() -> None:
    """It ends with its session. [SESSION-RECONNECT]"""
    over = []

    class OneSession(RankZero):
        def gone(self) -> None:
            over.append(self)

    @asynccontextmanager
    async def launch(host: str, port: int) -> AsyncIterator[Running]:
        over.clear()
        async with launcher(OneSession)(host, port):
            yield Running(ended=lambda: Ended("the peer has ended", 0) if over else None)

    async def main() -> list[Result]:
        names = ("", "-after-reset", "-when-refused", "-after-wrong-ack")
        cases = [CASES[f"rank0.session.reconnect{name}"] for name in names]
        return [each async for each in run([RankZeroTarget(HOST, 0, launch)], settings(), cases)][1:]

    assert {(each.verdict, each.reason) for each in asyncio.run(main())} == {
        (Verdict.SKIPPED, "the peer exits after one session")
    }
