"""`fuzz peer`: peers that follow the rules, and peers that do not."""

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
from wireproto import Revision, WireError
from wireproto.conformance import RankOneTarget, Target, command_launcher
from wireproto.conformance.model.drawing import drawn
from wireproto.conformance.model.script import Act, Script
from wireproto.fuzzing.peer import PeerFinding, fuzz
from wireproto.session import Role

PING, STOP = "03", b'\x0a{"uid":""}'.hex()
HELLO = Act(do="introduce")


def act(do: str, data: str, nonce: int = 0) -> Act:
    return Act(do=do, data=data, nonce=bytes([nonce] * 12).hex())  # type: ignore[arg-type]


def script(*acts: Act) -> Script:
    return Script(seed=0, number=0, acts=(HELLO, *acts))


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
    scripts = [drawn(1, number, Role.RESPONDER, revision) for number in range(25)]
    assert findings(RankOne, scripts, revision) == []


def test_a_good_rank_0() -> None:
    scripts = [drawn(1, number, Role.INITIATOR, Revision.V2) for number in range(6)]
    assert findings(RankZero, scripts, Revision.V2) == []


def peer_command(name: str, identity: Path) -> str:
    pin = base64.b64encode(OURS.public).decode()
    return shlex.join([sys.executable, "-m", "tests.wireproto.conformance.peers", name, str(identity), pin])


@pytest.mark.parametrize(
    ("name", "rule"),
    [("rank1.trailing-bytes-accepted", "JSON-TEXT"), ("rank1.duplicate-key-accepted", "JSON-DUPLICATE-KEY")],
)
def test_a_tolerant_peer_is_found_and_the_script_made_small(name: str, rule: str, tmp_path: Path) -> None:
    """A process of its own."""
    pem = THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "theirs.pem").write_bytes(pem)

    def process(name: str) -> Target:
        command = peer_command(name, tmp_path / "theirs.pem")
        return RankOneTarget(HOST, free_port(), command_launcher(command))

    def until_found() -> Iterator[Script]:
        for number in range(400):
            if found:
                return
            yield drawn(1, number, Role.RESPONDER, Revision.V2, "frames")

    found: list[PeerFinding] = []
    fuzz([process(name)], settings(), until_found(), seconds=100, rate=1000, found=found.append)
    assert [(finding.kind.partition(" ")[0], finding.rule) for finding in found] == [("takes", rule)]
    assert [each.do for each in found[0].script.acts] == ["introduce", "frame"]
    again: list[PeerFinding] = []
    fuzz([process(name)], settings(), [found[0].script], seconds=60, rate=1, found=again.append)
    assert [each.kind for each in again] == [found[0].kind]
    assert findings(RankOne, [found[0].script], Revision.V2) == []


@pytest.mark.parametrize(("name", "code"), [("rank1.trailing-bytes-accepted", 1), ("rank1", 0)])
def test_the_command(name: str, code: int, tmp_path: Path) -> None:
    """A saved script, reported as JSON with the command that reproduces it."""
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
    """A peer that accepts many invalid frames: one finding per rule and input."""
    faults = [b'\x0a{"uid":""}x', b'\x0a{"uid":"","uid":""}', b'\x0a{"uid":"","uid":"b"}', b"\x0a{}"]
    scripts = [script(act("frame", frame.hex())) for frame in faults]
    found = findings(TakesMuch, scripts, Revision.V2)
    assert [(each.kind, each.rule) for each in found] == [
        ("takes sessionStop with trailing-data", "JSON-TEXT"),
        ("takes sessionStop with json-duplicate-key", "JSON-DUPLICATE-KEY"),
        ("takes sessionStop with field-missing", "JSON-KEYS"),
    ]


class TakesMuch(RankOne):
    def tolerates(self, error: WireError, frame: bytes) -> bool:
        return error.code in ("trailing-data", "json-duplicate-key", "field-missing")


class Waits(RankOne):
    """It waits for the rest of a link frame of any length."""

    limit = 2**64


TOO_LONG = script(Act(do="bytes", data=(2**40).to_bytes(8, "little").hex()))


def test_expected_failures_are_left_out() -> None:
    scripts = [script(act("frame", frame.hex())) for frame in (b'\x0a{"uid":""}x', b"\x0a{}")]
    found: list[PeerFinding] = []
    progress = fuzz(
        [target(TakesMuch)],
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
    """Each session waits for the end of a connection, which does not come."""
    began = time.monotonic()
    targets = [target(Waits) for _ in range(8)]
    fuzz(targets, settings(), [TOO_LONG] * 8, seconds=60, rate=1000, found=lambda _: None)
    assert time.monotonic() - began < 4 * PATIENCE.close


def test_the_time_given_holds() -> None:
    began = time.monotonic()
    progress = fuzz(
        [target(Waits)], settings(), (TOO_LONG for _ in count()), seconds=0.3, rate=1000, found=lambda _: None
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
    assert crash.came == "the peer exited with SIGABRT"
    assert [bytes.fromhex(each.data) for each in crash.script.acts] == [b"[[["]
