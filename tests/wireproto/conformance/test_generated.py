"""Cases along a dimension: each finds a peer whose bug no single example shows."""

import asyncio
from collections import deque
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.wireproto.conformance.peers.conversation import MIB, Fault
from tests.wireproto.conformance.peers.mutants.session import StaysAfterSessionEnd
from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.test_verdicts import results, rules, verdicts
from tests.wireproto.conformance.trying import PATIENCE, cases_of, settings
from wireproto import PongPayload, WireError
from wireproto.conformance import CASES, Verdict
from wireproto.session import Role
from wireproto.testing.signatures import read_laxly

Rank = type[RankOne] | type[RankZero]


class LengthOf48Bits(RankOne):
    def length(self, header: bytes) -> int:
        return int.from_bytes(header[:6], "little")


class LimitOf16MiB(RankOne):
    """Of all that is in a link frame, its length included."""

    limit = 16 * MIB - 8


class LimitOf2To24(RankZero):
    limit = 16 * MIB - 1


class ZeroByteTooMany(RankOne):
    """It takes one before r, if the integer has no more than the 33 bytes of the longest."""

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        if signature[3:6] == b"\x21\0" + signature[5:6] and signature[5:6] < b"\x80":
            signature = encode_dss_signature(*read_laxly(signature))
        return super().verifies(identity, signature, commitment)


class NegativeTaken(RankOne):
    """It takes an r or s without its zero byte, if that starts with 0x80."""

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        r_size = signature[3]
        if 0x80 in (signature[4:5] + signature[6 + r_size : 7 + r_size]):
            signature = encode_dss_signature(*read_laxly(signature))
        return super().verifies(identity, signature, commitment)


class RefusesSomeSignatures(RankOne):
    """It refuses every tenth."""

    def verifies(self, identity: bytes, signature: bytes, commitment: bytes) -> bool:
        self.shared.memory["verified"] = self.shared.memory.get("verified", 0) + 1
        return self.shared.memory["verified"] % 10 != 0 and super().verifies(identity, signature, commitment)


class LongHelloTaken(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code == "payload-limit"


class WaitsTwiceAsLongEachTime(RankZero):
    def gone(self) -> None:
        super().gone()
        self.shared.reconnect_after *= 2


class TakesOneUnknownType(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return frame[:1] == b"\xb7"


class LosesWhatIsCutInItsLength(RankOne):
    def data_received(self, data: bytes) -> None:
        if self.key is not None and not self.buffer and len(data) == 5:
            return
        super().data_received(data)


class ForgetsNonces(RankOne):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.last: deque[bytes] = deque(maxlen=50)

    def check_replay(self, nonce: bytes) -> None:
        if nonce in self.last:
            raise Fault("replay")
        self.last.append(nonce)


class ForgetsItsOwnNonces(RankOne):
    def check_reflection(self, nonce: bytes) -> None:
        if nonce in list(self.sent_nonces)[-1:] and len(self.sent_nonces) < 3:
            raise Fault("reflection")


class ComparesFourBytesOfANonce(RankOne):
    def check_replay(self, nonce: bytes) -> None:
        if nonce[:4] in {each[:4] for each in self.opened_nonces}:
            raise Fault("replay")


class RemembersNoncesOfOtherSessions(RankOne):
    def check_replay(self, nonce: bytes) -> None:
        known = self.shared.memory.setdefault("nonces", set())
        if nonce in known:
            raise Fault("replay")
        known.add(nonce)


class FixedPrefix(RankOne):
    def box_nonce(self) -> bytes:
        return b"\x9c\x11" + super().box_nonce()[2:]


class ChecksTheFirstTags(RankOne):
    def take(self, body: bytes) -> None:
        try:
            super().take(body)
        except Fault:
            if len(self.opened_nonces) < 90:
                raise


class StrangersThatLeftStillCount(RankOne):
    def begin(self) -> None:
        strangers = self.shared.memory["strangers"] = self.shared.memory.get("strangers", 0) + 1
        super().begin()
        if strangers > 9 and self.shared.current is not None:
            self.shared.current.end()


class ResetEndsTheServer(RankOne):
    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.shared.memory["stop listening"]()
        super().connection_lost(error)


class HandshakeTimerIsNotStopped(RankOne):
    def handshake_timeout(self) -> None:
        self.end()


class TimerStartsAgainWithEachByte(RankOne):
    def data_received(self, data: bytes) -> None:
        if self.key is None:
            for timer in self.timers:
                timer.cancel()
            self.later(self.shared.handshake_within, self.handshake_timeout)
        super().data_received(data)


class TakesNullForTheSignature(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        if error.code == "field-type" and error.path == "seSignature":
            raise StopIteration
        return False

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except StopIteration:
            self.buffer.clear()  # and waits


class TakesADuplicateInAStepToken(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return frame[:1] == b"\x0c" and error.code == "json-duplicate-key"


class TakesASlashForADigit(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return b":1/2" in frame


class TakesOtherDigitsInAnEscape(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code == "json-escape" and b"\\u" in frame


class JoinsAnyTwoHalves(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code == "json-surrogate" and frame.count(b"\\u") == 2


class StaysAfterTheEnd(RankOne):
    """It ends its stream, and reads on for as long as the other side stays."""

    def session_end(self) -> None:
        self.over = True
        self.transport.write_eof()


class EndsItsSession(StaysAfterSessionEnd):
    def pong(self, payload: PongPayload) -> None:
        super().pong(payload)
        self.end()


class NoSpaceAtTheStartOfAString(RankOne):
    def look_at(self, frame: bytes) -> None:
        if b'" a ' in frame:
            raise Fault("a space")


class TakesCodePointsBeyondTheLast(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return b"\xf5\x80\x80\x80" in frame


class LosesWhatComesWithTheAck(RankZero):
    def established(self, key: bytes) -> None:
        super().established(key)
        del self.buffer[1:]


@pytest.mark.parametrize(
    ("make", "case", "rule"),
    [
        (LengthOf48Bits, "framing.lengths", "LINK-LEN-MAX"),
        (LimitOf16MiB, "framing.long-frames", "LINK-LEN-MAX"),
        (LimitOf2To24, "framing.long-frames", "LINK-LEN-MAX"),
        (ZeroByteTooMany, "handshake.der-grammar", "HANDSHAKE-SIGNATURE"),
        (NegativeTaken, "handshake.der-grammar", "HANDSHAKE-SIGNATURE"),
        (LongHelloTaken, "handshake.sizes", "PAYLOAD-LIMIT"),
        (LongHelloTaken, "payload.limits", "PAYLOAD-LIMIT"),
        (TakesASlashForADigit, "payload.each-fault-of-grammar", "JSON-TEXT"),
        (TakesOtherDigitsInAnEscape, "payload.each-escape", "JSON-STRING"),
        (JoinsAnyTwoHalves, "payload.each-half-surrogate-pair", "JSON-STRING"),
        (TakesOneUnknownType, "frame.types-unknown", "SESSION-BOX"),
        (LosesWhatIsCutInItsLength, "framing.every-split", "LINK-CHUNKS"),
        (ForgetsNonces, "seal.replay-after-65", "SEAL-REPLAY"),
        (ForgetsItsOwnNonces, "seal.reflection-of-the-first", "SEAL-REFLECTION"),
        (ComparesFourBytesOfANonce, "seal.nonces-share-a-prefix", "SEAL-LAYOUT"),
        (RemembersNoncesOfOtherSessions, "seal.nonce-of-the-last-session", "SEAL-LAYOUT"),
        (FixedPrefix, "seal.nonces-have-no-pattern", "SEAL-NONCE"),
        (ChecksTheFirstTags, "seal.changed-after-100", "SESSION-BOX"),
        (StrangersThatLeftStillCount, "session.12-strangers-pass", "SESSION-DISPLACE"),
        (ResetEndsTheServer, "session.cut-anywhere", "SESSION-ROLES"),
        (HandshakeTimerIsNotStopped, "session.idle-stays", "SESSION-TIMES"),
        (TakesNullForTheSignature, "handshake.field-null", "PAYLOAD-HELLO"),
        (TakesADuplicateInAStepToken, "vectors.rejects-pp-token-json-duplicate-key", "JSON-DUPLICATE-KEY"),
        (NoSpaceAtTheStartOfAString, "payload.strings-of-every-character", "JSON-STRING"),
        (TakesCodePointsBeyondTheLast, "payload.each-fault-of-utf-8", "JSON-STRING"),
        (LosesWhatComesWithTheAck, "framing.box-with-the-ack", "LINK-CHUNKS"),
    ],
)
def test_a_bug_at_one_point_is_found(make: Rank, case: str, rule: str) -> None:
    name = f"rank{make.rank}.{case}"
    assert rules(results(make, name))[name] == rule


def test_a_refused_handshake_was_told_as_a_fault_of_what_the_case_sends() -> None:
    name = "rank1.payload.each-control-character"
    assert rules(results(RefusesSomeSignatures, name))[name] == "HANDSHAKE-SIGNATURE"


def test_a_hello_that_drips_is_waited_for() -> None:
    name = "rank1.session.hello-drips"
    assert verdicts(results(TimerStartsAgainWithEachByte, name))[name] is Verdict.NON_STRICT
    assert verdicts(results(RankOne, name))[name] is Verdict.PASS


@pytest.mark.parametrize(
    ("make", "case", "verdict"),
    [
        (StaysAfterTheEnd, "rank1.session.closes-for-good", Verdict.NON_STRICT),
        (RankOne, "rank1.session.closes-for-good", Verdict.PASS),
        (StaysAfterSessionEnd, "rank0.session.end-closes", Verdict.NON_STRICT),
        (EndsItsSession, "rank0.session.end-closes", Verdict.PASS),
        (RankZero, "rank0.session.end-closes", Verdict.SKIPPED),
    ],
)
def test_a_peer_that_does_not_close_is_found(make: Rank, case: str, verdict: Verdict) -> None:
    assert verdicts(results(make, case)) == {case: verdict}


def test_a_case_with_many_handshakes_had_a_deadline_that_a_slow_peer_missed() -> None:
    """A key in a Secure Enclave is slow: 0.3 s per handshake is allowed."""
    many = {"frame.types-unknown": 240, "payload.each-escape": 220, "handshake.der-grammar": 110, "model.frames": 240}
    for name, handshakes in many.items():
        assert CASES[f"rank1.{name}"].deadline > 0.5 * handshakes


def test_a_wait_that_grows_is_found() -> None:
    name = "rank0.session.reconnect-each-time"
    how = replace(settings(), full=True)
    assert rules(results(WaitsTwiceAsLongEachTime, name, how=how)) == {name: "SESSION-RECONNECT"}
    assert verdicts(results(RankZero, name, how=how)) == {name: Verdict.PASS}


def test_what_takes_long_is_only_in_the_full_profile() -> None:
    names = ("rank1.seal.replay-after-20000", "rank1.session.200-strangers-pass")
    assert {result.reason for result in results(RankOne, *names).values()} == {"only with --full"}


@pytest.mark.parametrize("role", Role)
def test_both_roles_get_vectors_of_every_type(role: Role) -> None:
    """An unexpected frame is also decoded strictly."""
    ids = " ".join(case.id for case in cases_of(role))
    for name in ("ping", "pong", "jaccl-bootstrap", "prompt-tokens", "step-token", "pp-activation", "pp-token"):
        assert f".vectors.rejects-{name}-" in ids
    assert len(cases_of(role)) > 200
    assert all(CASES[need].role is role for case in cases_of(role) for need in case.needs)


def test_the_waits_of_the_cases_overlap() -> None:
    """Those that wait for a timer of the handshake, for real, by as many targets."""

    async def seconds() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        names = ("rank1.session.idle-stays", "rank1.session.hello-drips", "rank1.session.silent-stranger")
        await asyncio.to_thread(results, RankOne, *names, at_once=3, runs=asyncio.run)
        return loop.time() - began

    assert asyncio.run(seconds()) < 2 * (PATIENCE.handshake + 1)
