"""`fuzz peer`: scripts from seeds, what must come of them, and peers that do it or do not."""

import base64
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.wireproto.conformance.peers.reference import RankOne, RankZero
from tests.wireproto.conformance.trying import OURS, THEIRS, free_port, settings, target
from tests.wireproto.fuzzing.test_fuzz_cli import fuzz as fuzz_command
from wireproto import Revision, WireError, decode_frame
from wireproto.conformance import RankOneTarget, Target, command_launcher
from wireproto.fuzzing.peer import PeerFinding, fuzz
from wireproto.fuzzing.scripts import Act, End, Script, drawn_script, end_of, is_answered
from wireproto.messages import JacclBootstrapPayload
from wireproto.session import Role

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
    assert end_of(tuple(acts), Role.RESPONDER, Revision.V2) == (count, end)


def test_what_depends_on_role_and_revision() -> None:
    assert end_of((act("frame", END),), Role.INITIATOR, Revision.V2)[1] is End.OPEN
    assert end_of((act("unsealed", PING),), Role.RESPONDER, Revision.V1)[1] is End.OPEN
    assert end_of((act("frame", STOP),), Role.RESPONDER, Revision.V1)[1] is End.CLOSED


# -- live peers -------------------------------------------------------------------------------------------------------


def findings(make: type[RankOne] | type[RankZero], scripts: list[Script], revision: Revision) -> list[PeerFinding]:
    found: list[PeerFinding] = []
    seen: list[int] = []
    progress = fuzz(
        target(make, revision),
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
        assert is_answered(tuple(acts), Role.RESPONDER, Revision.V2) is answered
    assert not is_answered((act("frame", PING),), Role.INITIATOR, Revision.V2)
    assert not is_answered((act("unsealed", PING),), Role.RESPONDER, Revision.V2)
    assert is_answered((act("unsealed", PING),), Role.RESPONDER, Revision.V1)


def test_a_good_rank_0() -> None:
    scripts = [drawn_script(1, number, Revision.V2) for number in range(4)]
    assert findings(RankZero, scripts, Revision.V2) == []


def peer_command(name: str, identity: Path) -> str:
    pin = base64.b64encode(OURS.public).decode()
    return shlex.join([sys.executable, "-m", "tests.wireproto.conformance.peers", name, str(identity), pin])


@pytest.mark.parametrize("name", ["rank1.trailing-bytes-accepted", "rank1.duplicate-key-accepted"])
def test_a_tolerant_peer_is_found_and_the_script_made_small(name: str, tmp_path: Path) -> None:
    """A process, started anew for each try to make it smaller."""
    pem = THEIRS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "theirs.pem").write_bytes(pem)

    def process(name: str) -> Target:
        command = peer_command(name, tmp_path / "theirs.pem")
        return RankOneTarget("127.0.0.1", free_port(), command_launcher(command))

    def until_found() -> Iterator[Script]:
        for number in range(400):
            if found:
                return
            yield drawn_script(1, number, Revision.V2)

    found: list[PeerFinding] = []
    fuzz(process(name), settings(), until_found(), seconds=100, rate=1000, found=found.append)
    assert [finding.kind for finding in found] == ["expected the end of the connection"]
    assert len(found[0].script.acts) == 1
    again: list[PeerFinding] = []
    fuzz(process(name), settings(), [found[0].script], seconds=60, rate=1, found=again.append)
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
    address = f"127.0.0.1:{free_port()}"
    command = ["peer", "--connect", address, *options, "--replay", str(tmp_path / "kept"), "--json"]
    done = fuzz_command(*command, cwd=Path.cwd())
    assert (done.returncode, done.stderr) == (code, "")
    *told, last = map(json.loads, done.stdout.splitlines())
    assert (last["done"], last["sessions"], last["findings"], len(told)) == (True, 1, code, code)
    for finding in told:
        assert finding["kind"] == "expected the end of the connection"
        again = shlex.split(finding["replay"])[2:]
        assert fuzz_command(*again, cwd=Path.cwd()).returncode == 1


def test_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two sessions is what is left of their time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("wireproto.fuzzing.peer.asyncio.sleep", sleep)
    one = script(act("frame", PING))
    fuzz(target(RankOne), settings(), [one] * 3, seconds=60, rate=0.01, found=lambda finding: None)
    waits = [seconds for seconds in slept if seconds > 50]
    assert len(waits) == 3
    assert all(wait <= 100 for wait in waits)
