"""`wireproto conform peer`, as a forked process, on peers that are child processes."""

import base64
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.forks import run_text
from tests.wireproto.conformance.peers.conversation import public_bytes
from tests.wireproto.conformance.trying import HOST, free_port

ROOT = Path(__file__).parents[3]
Done = subprocess.CompletedProcess[str]


def new_key(path: Path) -> str:
    """A P-256 key in a file; its public key in base64."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return base64.b64encode(public_bytes(key)).decode()


@pytest.fixture
def conform(tmp_path: Path) -> Callable[..., Done]:
    """Run the command on a peer: `conform("rank1", …)`, or on a mutant by its name."""
    ours, theirs = new_key(tmp_path / "ours.pem"), new_key(tmp_path / "theirs.pem")
    (tmp_path / "ours.pub").write_text(ours)

    def run(peer: str, *arguments: str, key: str | None = None, start: str | None = None) -> Done:
        option = "--connect" if peer.startswith("rank1") else "--listen"
        start = start or shlex.join(
            [sys.executable, "-m", "tests.wireproto.conformance.peers", peer, str(tmp_path / "theirs.pem"), ours]
        )
        return run_text(
            *("conform", "peer", option, f"{HOST}:{free_port()}"),
            *("--identity", str(tmp_path / "ours.pem"), "--peer-key", key or theirs),
            *("--restart-command", start, *arguments),
            cwd=ROOT,
        )

    return run


def events(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("rank", ["rank1", "rank0"])
def test_several_at_a_time(conform: Callable[..., Done], rank: str) -> None:
    """Each job has a process and a port of its own."""
    names = [f"{rank}.handshake.{name}" for name in ("identity", "fields", "signature", "keys-reordered")]
    done = conform(rank, "--json", "--jobs", "3", *names)
    *cases, summary = events(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert {str(case["id"]) for case in cases if case["verdict"] == "pass"} >= set(names)
    assert summary["seconds"]
    assert str(summary["suite"]).startswith("wireproto ")
    assert "tests.wireproto.conformance.peers" in str(summary["peer"])


def test_a_peer_that_is_kept(conform: Callable[..., Done], tmp_path: Path) -> None:
    """One process for all cases: it is started once."""
    words = [sys.executable, "-m", "tests.wireproto.conformance.peers", "rank1", str(tmp_path / "theirs.pem")]
    started = tmp_path / "started"
    peer = f"{shlex.join(words)} {(tmp_path / 'ours.pub').read_text()}"
    start = shlex.join(["sh", "-c", f"echo >> {started}; exec {peer}"])
    done = conform("rank1", "--json", "--keep", "rank1.handshake.k*", start=start)
    assert (done.returncode, done.stderr) == (0, "")
    assert started.read_text() == "\n"


def test_the_reference_profile(conform: Callable[..., Done]) -> None:
    """An expected failure that does not happen is reported."""
    done = conform("rank1", "--json", "--profile", "reference", "rank1.seal.replay", "rank1.seal.reflection")
    *_, summary = events(done)
    assert done.returncode == 1
    missing = summary["unexpected_passes"]
    assert isinstance(missing, list)
    assert sorted(missing) == [f"rank1.seal.{name}" for name in ("reflection", "replay")]


def test_the_own_lines_of_a_peer_that_ends(conform: Callable[..., Done]) -> None:
    """Lines of node or the shell are left out, and there is no wait for more."""
    text = "import sys; print('no such key\\n\\nNode.js v22.1.0', file=sys.stderr); sys.exit(3)"
    done = conform("rank1", "--json", start=shlex.join([sys.executable, "-c", text]))
    first = events(done)[0]
    assert done.returncode == 3
    assert str(first["reason"]).endswith("the peer exited with exit status 3: no such key")
    assert float(str(first["seconds"])) < 5


@pytest.mark.parametrize("rank", ["rank1", "rank0"])
def test_a_good_peer(conform: Callable[..., Done], rank: str) -> None:
    done = conform(rank, "--json", f"{rank}.framing.length-zero", f"{rank}.handshake.identity")
    *cases, summary = events(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(case["event"], case["verdict"]) for case in cases] == [("case", "pass")] * 3
    assert summary["event"] == "summary"


def test_a_bad_peer(conform: Callable[..., Done], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = conform(
        "rank1.length-zero-accepted", "rank1.framing.length-zero", "rank1.framing.split-body", "--artifacts", str(kept)
    )
    assert done.returncode == 1
    for part in (
        "[LINK-LEN-MIN] A length of 0",
        "expected the end of the connection",
        "got      nothing",
        "again: wire",
    ):
        assert part in done.stdout
    names = sorted(path.name for path in kept.iterdir())
    assert names == [f"rank1.framing.length-zero.{kind}" for kind in ("keylog", "pcapng", "svg")]
    assert f"picture: {kept / names[2]}" in done.stdout
    shown = run_text("inspect", str(kept / names[1]), "--keylog", str(kept / names[0]))
    assert "handshakeHello" in shown.stdout


def test_the_command_that_runs_it_again(conform: Callable[..., Done]) -> None:
    done = conform("rank1.associated-data-accepted", "rank1.seal.associated-data", "--json")
    again = shlex.split(str(events(done)[1]["rerun"]))
    assert again[:3] == ["wireproto", "conform", "peer"]
    assert again[-1] == "rank1.seal.associated-data"
    repeated = run_text(*again[1:], "--json", cwd=ROOT)
    assert [case["verdict"] for case in events(repeated)[:2]] == ["pass", "fail"]


def test_expected_failures(conform: Callable[..., Done], tmp_path: Path) -> None:
    listed = tmp_path / "expected"
    listed.write_text("# what is known\n\nrank1.seal.associated-data  the peer takes it\n")
    done = conform(
        "rank1.associated-data-accepted", "rank1.seal.associated-data", "--json", "--expected-failures", str(listed)
    )
    assert (done.returncode, events(done)[1]["expected"]) == (0, "the peer takes it")
    done = conform("rank1", "rank1.seal.associated-data", "--json", "--expected-failures", str(listed))
    assert (done.returncode, events(done)[-1]["unexpected_passes"]) == (1, ["rank1.seal.associated-data"])


def test_nobody_reads_on(tmp_path: Path) -> None:
    """As in a pipe into `head`: no message, and no peer is left."""
    ours, theirs = new_key(tmp_path / "ours.pem"), tmp_path / "theirs.pem"
    new_key(theirs)
    peer = shlex.join([sys.executable, "-m", "tests.wireproto.conformance.peers", "rank1", str(theirs), ours])
    port = free_port()
    command = [
        *(sys.executable, "-m", "wireproto", "conform", "peer", "--connect", f"{HOST}:{port}", "--json"),
        *("--identity", str(tmp_path / "ours.pem"), "--restart-command", peer, "rank1.framing.*"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (3, "")
    with socket.socket() as probe:
        assert probe.connect_ex((HOST, port)) != 0


def test_a_report_that_cannot_be_written_is_said_at_once(conform: Callable[..., Done], tmp_path: Path) -> None:
    done = conform("rank1", "--html", str(tmp_path / "none" / "report.html"), start="/nonexistent/peer")
    assert (done.returncode, done.stdout) == (3, "")
    path = tmp_path / "none" / "report.html"
    assert done.stderr == f"wireproto: {path}: No such file or directory\n"


def test_another_identity_than_the_given_one(conform: Callable[..., Done], tmp_path: Path) -> None:
    done = conform("rank1", "rank1.handshake.identity", "--json", key=new_key(tmp_path / "another.pem"))
    assert (done.returncode, events(done)[1]["verdict"]) == (1, "fail")


def test_a_peer_that_cannot_be_started(conform: Callable[..., Done]) -> None:
    done = conform("rank0", "rank0.handshake.identity", "--json", start="/nonexistent/peer")
    first, *_ = events(done)
    assert (done.returncode, first["verdict"]) == (3, "inconclusive")
    assert "cannot be started" in str(first["reason"])


def test_a_peer_that_crashes(conform: Callable[..., Done]) -> None:
    start = shlex.join([sys.executable, "-c", "import os; os.abort()"])
    done = conform("rank1", "--json", start=start)
    assert done.returncode == 3
    assert "SIGABRT" in str(events(done)[0]["reason"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --listen or --connect"),
        (("--listen", "127.0.0.1:7777", "--connect", "127.0.0.1:7777"), "give --listen or --connect"),
        (("--connect", "7777"), "'7777' is not HOST:PORT"),
        (("--connect", "127.0.0.1:99999"), "'127.0.0.1:99999' is not HOST:PORT"),
        (("--connect", "127.0.0.1:7777", "rank0.*"), "no case matches the case 'rank0.*'"),
        (("--connect", "127.0.0.1:7777", "--section", "seals"), "no case matches the section 'seals'"),
        (("--connect", "127.0.0.1:7777", "--identity", "/nonexistent"), "/nonexistent does not exist; to create a key"),
        (("--connect", "127.0.0.1:7777", "--restart-command", "'"), "No closing quotation"),
        (("--connect", "127.0.0.1:7777", "--jobs", "2"), "add --restart-command to --jobs"),
        (("--connect", "127.0.0.1:7777", "--keep"), "add --restart-command to --keep"),
        (
            ("--connect", "127.0.0.1:65535", "--restart-command", "x", "--jobs", "2"),
            "not enough free ports after 65535",
        ),
        (("--connect", "127.0.0.1:7777", "--profile", "nobody"), "no such profile; use reference"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    done = run_text("conform", "peer", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rank1.framing.length-0 why", "no such case: 'rank1.framing.length-0'"),
        ("rank1.seal.replay", "add a reason after rank1.seal.replay"),
    ],
)
def test_a_bad_list_of_expected_failures(conform: Callable[..., Done], tmp_path: Path, line: str, message: str) -> None:
    listed = tmp_path / "expected"
    listed.write_text(f"{line}\n")
    done = conform("rank1", "--expected-failures", str(listed))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"line 1: {message}" in done.stderr


def test_list() -> None:
    done = run_text("conform", "peer", "--listen", "127.0.0.1:7777", "--list", "--level", "must")
    rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(rows) > 60
    assert all(row.startswith("rank0.") and " MUST " in row for row in rows)
