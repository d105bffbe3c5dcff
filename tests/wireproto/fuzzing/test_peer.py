"""`fuzz peer`: scripts from seeds, what must come of them, and peers that do it or do not."""

import base64
import json
import shlex
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.trying import HOST, OURS, PATIENCE, THEIRS, free_port, settings, target
from tests.wireproto.fuzzing.test_fuzz_cli import fuzz as fuzz_command
from wireproto import Revision, WireError, decode_frame
from wireproto.conformance import RankOneTarget, Target, command_launcher
from wireproto.conformance.frames import PONG
from wireproto.fuzzing.peer import PeerFinding, fuzz
from wireproto.fuzzing.scripts import Act, End, Listener, Script, drawn_script, end_of, is_answered
from wireproto.messages import JacclBootstrapPayload
from wireproto.session import Role

RANK_0, RANK_1 = (Listener(role, Revision.V2) for role in Role)
RANK_1_V1 = Listener(Role.RESPONDER, Revision.V1)
PING, STEP, STOP, END = "03", "05", b'\x0a{"uid":""}'.hex(), "ff"


def act(do: str, data: str, nonce: int = 0) -> Act:
    return Act(do=do, data=data, nonce=bytes([nonce] * 12).hex())  # type: ignore[arg-type]


def script(*acts: Act) -> Script:
    return Script(seed=0, number=0, acts=acts)


# -- scripts ----------------------------------------------------------------------------------------------------------


def test_scripts_follow_from_seed_and_number() -> None:
    first = [drawn_script(1, number, Revision.V2) for number in range(50)]
    assert first == [drawn_script(1, number, Revision.V2) for number in range(50)]
    assert len({each.acts for each in first}) > 40
    assert first != [drawn_script(2, number, Revision.V2) for number in range(50)]


def test_scripts_are_kept_as_they_are() -> None:
    one = drawn_script(3, 4, Revision.V2)
    assert msgspec.json.decode(msgspec.json.encode(one), type=Script) == one


def test_scripts_do_everything_but_start_a_group() -> None:
    acts = [each for number in range(400) for each in drawn_script(1, number, Revision.V2).acts]
    assert {each.do for each in acts} == {"frame", "unsealed", "broken box", "bytes"}
    for each in acts:
        if each.do == "frame":
            try:
                assert not isinstance(decode_frame(bytes.fromhex(each.data)), JacclBootstrapPayload)
            except WireError:
                continue


@pytest.mark.parametrize(
    ("acts", "count", "end"),
    [
        ([act("frame", PING)], 1, End.OPEN),
        ([act("frame", PING), act("frame", STOP, 1)], 2, End.OPEN),
        ([act("frame", "")], 1, End.CLOSED),
        ([act("frame", PING), act("frame", "00", 1), act("frame", PING, 2)], 2, End.CLOSED),
        ([act("unsealed", PING)], 1, End.CLOSED),
        ([act("broken box", PING)], 1, End.CLOSED),
        ([act("bytes", "00" * 8)], 1, End.CLOSED),
        ([act("frame", END)], 1, End.CLOSED),
        ([act("frame", STEP)], 1, End.EITHER),
        ([act("frame", STEP), act("frame", "00", 1)], 2, End.EITHER),
        ([act("frame", PING), act("frame", PING)], 2, End.EITHER),  # the same nonce
        ([], 0, End.OPEN),
    ],
)
def test_what_must_come_of_a_script(acts: list[Act], count: int, end: End) -> None:
    assert end_of(tuple(acts), RANK_1) == (count, end)


def test_what_depends_on_role_and_revision() -> None:
    assert end_of((act("frame", END),), RANK_0)[1] is End.OPEN
    assert end_of((act("unsealed", PING),), RANK_1_V1)[1] is End.OPEN
    assert end_of((act("frame", STOP),), RANK_1_V1)[1] is End.CLOSED


def test_a_peer_without_extensions_was_accused_of_what_it_makes_of_their_names() -> None:
    names = PONG[:-1] + b',"extensions":["no version"]}'
    for has_extensions, end in ((True, End.CLOSED), (False, End.EITHER), (None, End.EITHER)):
        peer = Listener(Role.INITIATOR, Revision.V2, has_extensions)
        assert end_of((act("frame", names.hex()),), peer)[1] is end


# -- live peers -------------------------------------------------------------------------------------------------------


def findings(make: type[RankOne] | type[RankZero], scripts: list[Script], revision: Revision) -> list[PeerFinding]:
    found: list[PeerFinding] = []
    seen: list[int] = []
    progress = fuzz(
        [target(make, revision)],
        settings(revision),
        scripts,
        seconds=60,
        rate=1000,
        found=found.append,
        tell=lambda progress: seen.append(progress.sessions),
    )
    assert (progress.sessions, progress.findings) == (len(scripts), len(found))
    assert seen == list(range(1, len(scripts) + 1))
    return found


@pytest.mark.parametrize("revision", Revision)
def test_a_good_rank_1(revision: Revision) -> None:
    scripts = [drawn_script(1, number, revision) for number in range(25)]
    assert findings(RankOne, scripts, revision) == []


def test_what_a_peer_must_answer() -> None:
    bad = act("frame", "00", 9)
    assert findings(RankOne, [script(act("frame", PING), act("frame", PING, 1), bad)], Revision.V2) == []
    for acts, answered in (
        ([act("frame", PING)], True),
        ([act("frame", STOP)], False),
        ([act("frame", PING), act("frame", PING)], False),  # the same nonce
        ([act("frame", STEP), act("frame", PING, 1)], False),  # there may be nobody any more
    ):
        assert is_answered(tuple(acts), RANK_1) is answered
    assert not is_answered((act("frame", PING),), RANK_0)
    assert not is_answered((act("unsealed", PING),), RANK_1)
    assert is_answered((act("unsealed", PING),), RANK_1_V1)


def test_a_good_rank_0() -> None:
    scripts = [drawn_script(1, number, Revision.V2) for number in range(4)]
    assert findings(RankZero, scripts, Revision.V2) == []


def peer_command(name: str, identity: Path) -> str:
    pin = base64.b64encode(OURS.public).decode()
    return shlex.join([sys.executable, "-m", "tests.wireproto.conformance.peers", name, str(identity), pin])


@pytest.mark.parametrize(
    ("name", "code", "rule"),
    [
        ("rank1.trailing-bytes-accepted", "json-syntax", "JSON-TEXT"),
        ("rank1.duplicate-key-accepted", "json-duplicate-key", "JSON-DUPLICATE-KEY"),
    ],
)
def test_a_tolerant_peer_is_found_and_the_script_made_small(name: str, code: str, rule: str, tmp_path: Path) -> None:
    """A process, started again for each attempt to make the input smaller."""
    pem = THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "theirs.pem").write_bytes(pem)

    def process(name: str) -> Target:
        command = peer_command(name, tmp_path / "theirs.pem")
        return RankOneTarget(HOST, free_port(), command_launcher(command))

    def until_found() -> Iterator[Script]:
        for number in range(400):
            if found:
                return
            yield drawn_script(1, number, Revision.V2)

    found: list[PeerFinding] = []
    fuzz([process(name)], settings(), until_found(), seconds=100, rate=1000, found=found.append)
    assert [(finding.kind.partition(" with ")[2], finding.rule) for finding in found] == [(code, rule)]
    assert len(found[0].script.acts) == 1
    again: list[PeerFinding] = []
    fuzz([process(name)], settings(), [found[0].script], seconds=60, rate=1, found=again.append)
    assert [each.kind for each in again] == [found[0].kind]
    assert findings(RankOne, [found[0].script], Revision.V2) == []


@pytest.mark.parametrize(("name", "code"), [("rank1.trailing-bytes-accepted", 1), ("rank1", 0)])
def test_the_command(name: str, code: int, tmp_path: Path) -> None:
    """A kept script, told as JSON, with the command that shows it again."""
    one = script(act("frame", STOP + b"x".hex()))
    (tmp_path / "kept").write_bytes(msgspec.json.encode(one))
    for side, key in (("ours", OURS.key), ("theirs", THEIRS)):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{side}.pem").write_bytes(pem)
    peer = peer_command(name, tmp_path / "theirs.pem")
    options = [
        "--restart-command",
        peer,
        "--identity",
        str(tmp_path / "ours.pem"),
        "--findings",
        str(tmp_path / "found"),
    ]
    address = f"{HOST}:{free_port()}"
    command = ["peer", "--connect", address, *options, "--replay", str(tmp_path / "kept"), "--json"]
    done = fuzz_command(*command, cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (code, "")
    *told, last = map(json.loads, done.stdout.splitlines())
    assert (last["done"], last["sessions"], last["findings"], len(told)) == (True, 1, code, code)
    for finding in told:
        assert (finding["kind"], finding["rule"]) == ("takes sessionStop with trailing-data", "JSON-TEXT")
        again = shlex.split(finding["replay"])[2:]
        assert fuzz_command(*again, cwd=Path.cwd()).returncode == 1


def test_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session waits for its turn, counted from the turn before it."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("wireproto.fuzzing.peer.asyncio.sleep", sleep)
    one = script(act("frame", PING))
    fuzz([target(RankOne)], settings(), [one] * 3, seconds=60, rate=0.01, found=lambda finding: None)
    assert [round(seconds, -2) for seconds in slept if seconds > 50] == [100, 200]


def test_findings_of_two_rules_were_one() -> None:
    """A peer that takes whatever does not decode: one finding for each rule and input."""
    faults = [b'\x0a{"uid":""}x', b'\x0a{"uid":"","uid":""}', b'\x0a{"uid":"","uid":"b"}', b"\x0a{}"]
    scripts = [script(act("frame", frame.hex())) for frame in faults]
    found = findings(TakesEverything, scripts, Revision.V2)
    assert [(each.kind, each.rule) for each in found] == [
        ("takes sessionStop with trailing-data", "JSON-TEXT"),
        ("takes sessionStop with json-duplicate-key", "JSON-DUPLICATE-KEY"),
        ("takes sessionStop with field-missing", "JSON-KEYS"),
    ]


class TakesEverything(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return True


def test_expected_failures_are_left_out() -> None:
    scripts = [script(act("frame", frame.hex())) for frame in (b'\x0a{"uid":""}x', b"\x0a{}")]
    found: list[PeerFinding] = []
    progress = fuzz(
        [target(TakesEverything)],
        settings(),
        scripts,
        seconds=60,
        rate=1000,
        found=found.append,
        expected=["JSON-TEXT"],
    )
    assert [each.rule for each in found] == ["JSON-KEYS"]
    assert (progress.sessions, progress.findings, progress.expected) == (2, 1, 1)


def test_waits_overlap() -> None:
    """Each session waits for the end of a connection that does not come."""
    scripts = [script(act("frame", b"\x0a{}".hex()))] * 8
    began = time.monotonic()
    fuzz([target(TakesEverything) for _ in range(8)], settings(), scripts, seconds=60, rate=1000, found=lambda _: None)
    assert time.monotonic() - began < 4 * PATIENCE.close


def test_the_time_given_holds() -> None:
    began = time.monotonic()
    progress = fuzz(
        [target(TakesEverything)],
        settings(),
        (script(act("frame", b"\x0a{}".hex())) for _ in count()),
        seconds=0.3,
        rate=1000,
        found=lambda _: None,
    )
    assert progress.sessions == 0
    assert time.monotonic() - began < 0.3 + PATIENCE.close


DYING = """
import asyncio, os, sys
from tests.wireproto.conformance.peers import __main__ as main
from tests.wireproto.conformance.peers.conversation import Conversation

Conversation.look_at = lambda self, frame: os.abort() if frame.count(b"[") > 2 else None
asyncio.run(main.main("rank1", open(sys.argv[1]).read(), sys.argv[2]))
"""


def test_the_death_of_the_process_is_told_with_the_shortest_input(tmp_path: Path) -> None:
    pem = THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "theirs.pem").write_bytes(pem)
    pin = base64.b64encode(OURS.public).decode()
    command = shlex.join([sys.executable, "-c", DYING, str(tmp_path / "theirs.pem"), pin])
    one = script(act("frame", STOP), act("frame", b'\x0a{"x":[[[]]],"uid":""}'.hex(), 1))
    found: list[PeerFinding] = []
    peer = RankOneTarget(HOST, free_port(), command_launcher(command))
    fuzz([peer], settings(), [one], seconds=60, rate=1000, found=found.append, expected=["JSON-TEXT", "PAYLOAD-UID"])
    (crash,) = found
    assert crash.is_crash
    assert crash.came == "the peer has ended with SIGABRT"
    assert [bytes.fromhex(each.data) for each in crash.script.acts] == [b"[[["]
