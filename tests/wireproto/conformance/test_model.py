"""Sessions from a grammar: scripts, the model's decisions, and peers that disagree."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest

from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.simulated import simulated
from tests.wireproto.conformance.test_own_roles import target as own_target
from tests.wireproto.conformance.trying import OURS, PATIENT, results_of, settings, target
from wireproto import OUTCOME_1, JacclBootstrapPayload, Message, Revision, WireError, decode_frame
from wireproto.conformance import CASES, Settings, Target
from wireproto.conformance.byhand import Introduction
from wireproto.conformance.model.drawing import DISTANCES, TAG_POSITIONS, THEMES, drawn
from wireproto.conformance.model.introductions import PARTS
from wireproto.conformance.model.play import Disagreement, play
from wireproto.conformance.model.rules import End, Listener, Model
from wireproto.conformance.model.script import Act, Deed, Script, bursts, rewritten
from wireproto.conformance.model.shrink import shrunk
from wireproto.conformance.peer import Peer
from wireproto.conformance.runner import attempt_at
from wireproto.conformance.side import Side
from wireproto.conformance.verdicts import Record, Result, Verdict
from wireproto.messages import SPEC_BY_TYPE
from wireproto.session import Role

PING, STEP, STOP, END = b"\x03", b"\x05", b'\x0a{"uid":""}', b"\xff"
HELLO = Act(do="introduce")
RANK_1 = Listener(Role.RESPONDER, Revision.V2)
RANK_1_V1 = Listener(Role.RESPONDER, Revision.V1)
RANK_0 = Listener(Role.INITIATOR, Revision.V2)


def act(do: str, data: bytes = b"", nonce: int = 0, **more: Any) -> Act:
    return Act(do=do, data=data.hex(), nonce=bytes([nonce] * 12).hex(), **more)  # type: ignore[arg-type]


def frame(data: bytes, nonce: int = 0, **more: Any) -> Act:
    return act("frame", data, nonce, **more)


def script(*acts: Act) -> Script:
    return Script(seed=0, number=0, acts=(HELLO, *acts))


# -- scripts -----------------------------------------------------------------------------------------------------------


def scripts(role: Role, revision: Revision = Revision.V2, count: int = 60, **more: Any) -> list[Script]:
    return [drawn(1, number, role, revision, theme, **more) for theme in THEMES[role] for number in range(count)]


def test_scripts_follow_from_seed_and_number() -> None:
    first = [drawn(1, number, Role.RESPONDER, Revision.V2) for number in range(50)]
    assert first == [drawn(1, number, Role.RESPONDER, Revision.V2) for number in range(50)]
    assert len({each.acts for each in first}) > 40
    assert first != [drawn(2, number, Role.RESPONDER, Revision.V2) for number in range(50)]


def test_scripts_are_kept_as_they_are() -> None:
    for one in scripts(Role.RESPONDER, count=5):
        assert msgspec.json.decode(msgspec.json.encode(one), type=Script) == one


@pytest.mark.parametrize("role", Role)
def test_the_grammar_has_every_value_at_its_limit(role: Role) -> None:
    values = [drawn(1, number, role, Revision.V2, "values") for number in range(80)]
    last = [bytes.fromhex(one.acts[-1].data) for one in values]
    controls = {byte for frame in last for byte in frame[1:] if byte < 0x20}
    assert controls == set(range(0x20))
    sizes = {(len(frame) - SPEC_BY_TYPE[frame[0]].max_length) for frame in last if len(frame) > 4000}
    assert 1 in sizes
    assert all(size > 0 for size in sizes)
    frames = [bytes.fromhex(each.data) for one in values for each in one.acts[1:]]
    assert {len(frame) - SPEC_BY_TYPE[frame[0]].max_length for frame in frames} >= {-1, 0, 1}
    ports = {json.loads(frame[1:])["port"] for frame in last if re.match(rb'\x07\{"port": -?\d+, "sess', frame)}
    assert ports >= {-1, 65536} | ({0, 65535} if role is Role.RESPONDER else set())
    assert any(port > 2**32 for port in ports)


@pytest.mark.parametrize("role", Role)
def test_the_tag_is_wrong_of_early_and_of_late_boxes(role: Role) -> None:
    scripts = [drawn(1, number, role, Revision.V2, "boxes") for number in range(16)]
    before = [one.acts[1:-1] for one in scripts if one.number % 4 == 0]
    assert [sum(each.count for each in acts) + 1 for acts in before] == [*TAG_POSITIONS]
    assert {one.acts[-1].do for one in scripts if one.number % 4 == 0} == {"changed box"}
    assert all(-16 <= one.acts[-1].at < 0 for one in scripts if one.number % 4 == 0)


@pytest.mark.parametrize("role", Role)
def test_the_grammar_has_all_that_a_session_can_meet(role: Role) -> None:
    acts = [each for one in scripts(role, count=150) for each in one.acts]
    connecting = {"strangers", "newcomer", "part"}
    assert {each.do for each in acts} == set(get_args(Deed)) - (connecting if role is Role.INITIATOR else set())
    types = {bytes.fromhex(each.data)[0] for each in acts if each.do == "frame" and each.data}
    assert types >= SPEC_BY_TYPE.keys()
    assert len(types) > 80  # most of them unknown
    assert {each.count + 1 for each in acts if each.do == "others"} >= {each for each in DISTANCES if each > 1}
    assert {at for each in acts for at in each.cuts} >= {1, 7, 8, 9, 20, 36}
    assert {each.part for each in acts if each.do == "introduce"} == {"", *PARTS}
    assert any(each.joined for each in acts if each.do == "introduce") is (role is Role.INITIATOR)
    assert {each.early for each in acts} == ({0, 1, 7, 8, 9, 20} if role is Role.RESPONDER else {0})


def test_only_where_it_is_wanted_a_group_is_started() -> None:
    def usable(scripts: Sequence[Script]) -> list[Message]:
        found = []
        for each in [each for one in scripts for each in one.acts if each.do == "frame"]:
            try:
                found.append(decode_frame(bytes.fromhex(each.data)))
            except WireError:
                continue
        return [each for each in found if isinstance(each, JacclBootstrapPayload) and each.port not in (0, 0xFFFF)]

    assert usable(scripts(Role.RESPONDER)) == []
    assert usable(scripts(Role.RESPONDER, bootstraps=True)) != []


def test_another_form_of_the_hello_is_the_same_hello() -> None:
    hello = Side(Role.RESPONDER, Revision.V2, OURS).introduction()
    texts = {rewritten(hello, flags) for flags in range(128)}
    assert len(texts) == 8 + 8 * 8  # without an unknown key, and with one of eight
    assert {decode_frame(text) for text in texts} == {decode_frame(hello)}


# -- the model ---------------------------------------------------------------------------------------------------------


def outcome(listener: Listener, *acts: Act) -> tuple[End, int, str]:
    """Return the required result of the last act, the pongs due in all, and the rule."""
    side = Side(listener.role, listener.revision, OURS)
    if listener.role is Role.INITIATOR:
        side.theirs = A_HELLO
    model = Model(listener, side)
    groups = [*bursts((HELLO, *acts)), ()]
    found = [model.burst(burst, side.introduction(), after[0] if after else None) for burst, after in pairwise(groups)]
    return found[-1].end, sum(each.pongs for each in found), found[-1].rule


A_HELLO = Introduction.read(Side(Role.RESPONDER, Revision.V2, OURS).introduction()[1:])
BOOTSTRAP = b'\x07{"port":%d,"sessionID":"%s"}'


@pytest.mark.parametrize(
    ("acts", "end", "pongs", "rule"),
    [
        ([], End.OPEN, 0, "SESSION-PONG"),
        ([frame(PING), frame(STOP, 1)], End.OPEN, 1, "PAYLOAD-UID"),
        ([frame(PING, 1, joined=True), frame(PING, 2, joined=True), frame(PING, 3)], End.OPEN, 3, "SESSION-PONG"),
        ([frame(b"\x04{}")], End.CLOSED, 0, "JSON-KEYS"),
        ([frame(b"\x00")], End.CLOSED, 0, "FRAME-TYPE"),
        ([frame(PING), frame(PING)], End.CLOSED, 1, "SEAL-REPLAY"),
        ([frame(PING), act("own box")], End.CLOSED, 1, "SEAL-REFLECTION"),
        ([act("unsealed", PING)], End.CLOSED, 0, "SEAL-FRAMES"),
        ([act("changed box", PING, at=-1)], End.CLOSED, 0, "SESSION-BOX"),
        ([act("cut box", PING, at=20)], End.CLOSED, 0, "SESSION-BOX"),
        ([act("other key", PING)], End.CLOSED, 0, "SESSION-BOX"),
        ([act("bytes", bytes(8))], End.CLOSED, 0, "LINK-LEN-MIN"),
        ([act("wrapped length", PING, at=32)], End.CLOSED, 0, "LINK-LEN-MAX"),
        ([act("part", PING, at=9)], End.OPEN, 0, "SESSION-IGNORE"),
        ([act("tensor", STEP)], End.OPEN, 0, "PAYLOAD-OPAQUE"),
        ([frame(STEP)], End.EITHER, 0, "PAYLOAD-OPAQUE"),  # its box does not open, if it is opened
        ([frame(STEP), frame(b"\x00", 1)], End.EITHER, 0, "FRAME-TYPE"),
        ([act("others", nonce=1, count=70), frame(PING)], End.OPEN, 1, "SESSION-IGNORE"),
        ([act("introduce", nonce=1)], End.OPEN, 0, "SESSION-IGNORE"),
        ([frame(END)], End.CLOSED, 0, "SESSION-END"),
        ([frame(BOOTSTRAP % (0, b"a"))], End.CLOSED, 0, "BOOT-REFUSE"),
        ([frame(BOOTSTRAP % (65535, b"a"))], End.CLOSED, 0, "BOOT-REFUSE"),
        ([frame(BOOTSTRAP % (65500, b"a"))], End.EITHER, 0, "PAYLOAD-BOOTSTRAP"),  # there may be more ranks
        ([frame(BOOTSTRAP % (1, b"../a"))], End.EITHER, 0, "PAYLOAD-BOOTSTRAP"),  # it may name a file
        ([frame(BOOTSTRAP % (1, b"a")), frame(BOOTSTRAP % (0, b"a"), 1)], End.EITHER, 0, "PAYLOAD-BOOTSTRAP"),
        ([frame(b'\x42{"rank":0}')], End.CLOSED, 0, "FRAME-TYPE"),
    ],
)  # fmt: skip
def test_what_must_come_of_a_script(acts: list[Act], end: End, pongs: int, rule: str) -> None:
    assert outcome(RANK_1, *acts) == (end, pongs, rule)


def test_what_depends_on_the_peer() -> None:
    assert outcome(RANK_0, frame(END))[0] is End.OPEN
    assert outcome(RANK_0, act("own box"))[::2] == (End.CLOSED, "SEAL-REFLECTION")
    assert outcome(RANK_1_V1, act("unsealed", PING))[:2] == (End.OPEN, 1)
    assert outcome(RANK_1_V1, frame(STOP))[::2] == (End.CLOSED, "FRAME-TYPE")
    name = frame(BOOTSTRAP % (1, b"../a"))
    assert outcome(RANK_1._replace(names_file=True), name)[::2] == (End.CLOSED, "BOOT-SESSION-ID")


def test_a_peer_without_extensions_was_accused_of_what_it_makes_of_their_names() -> None:
    names = frame(BOOTSTRAP[:-1] % (1, b"a") + b',"extensions":["no version"]}')
    unoffered = frame(BOOTSTRAP[:-1] % (1, b"a") + b',"extensions":["outcome/1"]}')
    for acts, rule in (([names], "EXT-NAMES"), ([unoffered], "EXT-NOT-OFFERED")):
        assert outcome(RANK_1, *acts)[0] is End.EITHER
        assert outcome(RANK_1._replace(extensions=(OUTCOME_1,)), *acts)[::2] == (End.CLOSED, rule)


def test_instead_of_the_hello() -> None:
    side = Side(Role.RESPONDER, Revision.V2, OURS)
    found = Model(RANK_1, side).burst((frame(PING),), side.introduction(), None)
    assert (found.end, found.rule, found.has_ack) == (End.CLOSED, "HANDSHAKE-ONLY", False)


# -- peers -------------------------------------------------------------------------------------------------------------

Rank = type[RankOne] | type[RankZero]


def played(
    peers: list[Target], how: Settings, scripts: list[Script], listener: Listener, *, shrinks: bool = False
) -> list[tuple[Script, Disagreement]]:
    """Return the disagreement and its script, the smallest one if it `shrinks`."""
    found: list[tuple[Script, Disagreement]] = []
    left = iter(scripts)

    async def worker(target: Target) -> None:
        async def attempt(script: Script) -> Disagreement | None:
            await target.restart()
            peer = Peer(target, how, Record())
            try:
                return await play(peer, listener, script)
            finally:
                await peer.close()

        try:
            for one in left:
                if (disagreement := await attempt(one)) is not None:
                    found.append(await shrunk(one, disagreement, attempt, 20.0) if shrinks else (one, disagreement))
        finally:
            await target.stop()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for each in peers:
                group.create_task(worker(each))

    simulated(main())
    return found


@pytest.mark.parametrize("revision", Revision)
@pytest.mark.parametrize("role", Role)
def test_our_own_roles_are_not_accused(role: Role, revision: Revision) -> None:
    how = settings(revision, PATIENT)
    extensions = (OUTCOME_1,) if revision is Revision.V2 else ()
    listener = Listener(role, revision, extensions, names_file=True)
    some = [drawn(7, number, role, revision, theme, bootstraps=True) for theme in THEMES[role] for number in range(8)]
    assert played([own_target(role, revision) for _ in range(8)], how, some, listener) == []


def test_names_in_revision_1_were_taken_as_agreed() -> None:
    """Our rank 1 then sent its versions, which revision 1 does not have. [EXT-REVISION]"""
    names = frame(BOOTSTRAP[:-1] % (1, b"a") + b',"extensions":["outcome/1"]}')
    how = settings(Revision.V1, PATIENT)
    one = script(names, frame(PING, 1))
    assert played([own_target(Role.RESPONDER, Revision.V1)], how, [one, script()], RANK_1_V1) == []


class ForgetsNonces(RankOne):
    """After 20 others."""

    def check_replay(self, nonce: bytes) -> None:
        order: list[bytes] = self.shared.memory.setdefault("order", [])
        if nonce in order[-20:]:
            super().check_replay(nonce)
        order.append(nonce)


class LosesPieces(RankOne):
    """Of three bytes."""

    def data_received(self, data: bytes) -> None:
        if len(data) != 3:
            super().data_received(data)


class RefusesUnknownKeys(RankOne):
    def look_at(self, frame: bytes) -> None:
        if b'"extra"' in frame:
            self.end()


class RefusesPrompts(RankOne):
    def look_at(self, frame: bytes) -> None:
        if frame[:1] == b"\x08":
            self.end()


class RefusesHighPorts(RankZero):
    def look_at(self, frame: bytes) -> None:
        if frame[:1] == b"\x07" and json.loads(frame[1:])["port"] > 65000:
            self.end()


class EndsForStrangers(RankOne):
    def begin(self) -> None:
        super().begin()
        if self.shared.current is not None:
            self.shared.current.end()


class PongsTwice(RankOne):
    def pong(self) -> None:
        super().pong()
        super().pong()


EXTRA = b'\x0a{ "uid":"a", "extra":[1,2,{"x":null}] }'


@pytest.mark.parametrize(
    ("make", "acts", "rule", "smallest"),
    [
        (
            ForgetsNonces,
            [frame(STOP, 9), act("others", nonce=100, count=60), frame(PING, 9)],
            "SEAL-REPLAY",
            ["introduce", "frame", "others", "frame"],
        ),
        (
            LosesPieces,
            [frame(STOP, 1), frame(PING, 2, cuts=(7, 10), joined=True), frame(STOP, 3)],
            "LINK-CHUNKS",
            ["introduce", "frame"],
        ),
        (RefusesUnknownKeys, [frame(PING, 1), frame(EXTRA, 2)], "JSON-UNKNOWN-KEY", ["introduce", "frame"]),
        (
            EndsForStrangers,
            [frame(PING, 1), frame(STOP, 2), act("strangers", at=8, count=2, stays=True), frame(PING, 3)],
            "SESSION-DISPLACE",
            ["introduce", "frame", "strangers"],
        ),
        (PongsTwice, [frame(STOP, 1), frame(PING, 2)], "SESSION-PONG", ["introduce"]),
    ],
)
def test_a_disagreement_is_made_small_and_named(make: Rank, acts: list[Act], rule: str, smallest: list[str]) -> None:
    ((least, named),) = played([target(make)], settings(), [script(*acts)], RANK_1, shrinks=True)
    assert (named.rule, [each.do for each in least.acts]) == (rule, smallest)
    assert played([target(RankOne)], settings(), [script(*acts)], RANK_1) == []


def test_a_rank_0_that_does_not_end_is_found() -> None:
    class Tolerates(RankZero):
        def tolerates(self, error: WireError, frame: bytes) -> bool:
            return True

    ((_, named),) = played([target(Tolerates)], settings(), [script(frame(b"\x04{}"))], RANK_0)
    assert (named.does, named.shape, named.rule) == ("takes", "pong with field-missing", "JSON-KEYS")


def test_a_port_that_is_refused_was_named_as_an_integer() -> None:
    scripts = [script(frame(BOOTSTRAP % (port, b"a"), nonce)) for nonce, port in enumerate((65000, 65535))]
    ((_, named),) = played([target(RefusesHighPorts)], settings(), scripts, RANK_0, shrinks=True)
    assert (named.does, named.rule) == ("does not take", "PAYLOAD-BOOTSTRAP")


def test_a_peer_that_does_not_decode_was_told_of_each_fault_in_the_payload() -> None:
    class DecodesNoPong(RankOne):
        def tolerates(self, error: WireError, frame: bytes) -> bool:
            return frame[:1] == b"\x04"

    faults = [frame(b"\x04{}"), frame(b'\x04{"modelLoaded":1}')]
    found = played([target(DecodesNoPong)], settings(), [script(each) for each in faults], RANK_1, shrinks=True)
    assert {named.rule for _, named in found} == {"SESSION-BOX"}


def test_a_case_names_the_rule_and_shows_the_smallest_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.conformance.cases.model._SCRIPTS", {Role.RESPONDER: 40})
    (result,) = [
        each
        for each in simulated(results_of(RefusesPrompts, cases=[CASES["rank1.model.order"]]))
        if each.section == "model"
    ]
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert result.failure.requirement == "PAYLOAD-PROMPT"
    assert [step for step in result.record.steps if step.startswith("send")][-1] == "send a last ping"
    assert len(result.record.steps) < 8


def test_what_a_peer_is_known_to_break_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wireproto.conformance.cases.model._SCRIPTS", {Role.RESPONDER: 40})

    async def result() -> Result:
        peer = target(RefusesPrompts)
        try:
            how = replace(settings(), broken=frozenset({"PAYLOAD-PROMPT"}))
            return await attempt_at(peer, how, CASES["rank1.model.order"])
        finally:
            await peer.stop()

    assert simulated(result()).verdict is Verdict.PASS
