"""ssh's errors about a host, and hosts with wrong answers: each has its code."""

import asyncio
import getpass
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.capabilities import own_version
from bootstrap.cli.host import SILENCE_SECONDS
from bootstrap.errors import ConfigError
from bootstrap.launch.asking import asking
from bootstrap.launch.requests import Failed, Hello, Over, Stored, StorePin, Survey, decode_answer, encode
from bootstrap.launch.ssh import Destination, Host, HostError, Way, check_name, destination
from bootstrap.launch.survey import HostReport
from tests.bootstrap.conftest import wait_until
from tests.bootstrap.launch.sshd import Hosts

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3r1RX3dDHyJ0LYTGfEz7mOUBaXj3TYBGYgXuqQKTfH"


@pytest.fixture(autouse=True)
def _client(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", hosts.client_env["PATH"])


def failure(name: str, way: Way | None = None, seconds: float = 60.0) -> HostError:
    """Return the error that asking a host for its report gives."""

    async def ask() -> None:
        async with asking(Host(rank=1, name=name, is_local=False, way=way or Way())) as asked:
            await asked.one(Survey(), HostReport, seconds)

    with pytest.raises(HostError) as caught:
        asyncio.run(ask())
    assert caught.value.rank == 1
    assert str(caught.value).startswith(f"{name}: ")
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize(
    ("config", "known", "code", "words"),
    [
        ("Port 1", True, "ssh-failed", "Connection refused"),
        ("HostName 256.1.1.1", True, "ssh-failed", "resolve hostname 256.1.1.1"),
        ("IdentityFile /dev/null", True, "ssh-denied", "Permission denied (publickey"),
        ("", False, "host-key", "Host key verification failed."),
        ("", KEY, "host-key", "Host key verification failed."),
        ("ProxyCommand sleep 0.1", True, "ssh-lost", "Connection closed by"),  # it has read ssh's first output
    ],
)
def test_a_host_that_ssh_does_not_reach(config: str, known: bool | str, code: str, words: str, hosts: Hosts) -> None:
    host = hosts.all[1]
    if config.startswith("IdentityFile"):
        text = hosts.config.read_text().replace(f"IdentityFile {hosts.directory}/user_key", config)
        hosts.config.write_text(text)
    else:
        hosts.more_config(f"Host {host.name}\n  {config}\n")
    if known is not True:
        hosts.trust([host] if known else [], known or None)
    error = failure(host.name)
    assert error.code == code, str(error)
    assert words in str(error)


def test_the_users_agent_has_the_key(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the host refuses the user; with it only Python is missing."""
    text = hosts.config.read_text().replace(f"IdentityFile {hosts.directory}/user_key", "IdentityFile none")
    hosts.config.write_text(text.replace("IdentitiesOnly yes", "IdentitiesOnly no"))
    way = Way(python="/nowhere/python")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert failure(hosts.all[1].name, way).code == "ssh-denied"
    address = f"/tmp/agent-{os.getpid()}"  # short enough for a socket's path
    with subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_until(Path(address).exists, "the agent listens")
            monkeypatch.setenv("SSH_AUTH_SOCK", address)
            subprocess.run(["ssh-add", "-q", hosts.directory / "user_key"], check=True, timeout=60)
            assert failure(hosts.all[1].name, way).code == "package-missing"
        finally:
            agent.terminate()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Timeout, server 10.77.0.2 not responding.", "ssh-lost"),
        ("Connection to 10.77.0.2 port 22 timed out", "ssh-lost"),
        ("ssh: connect to host 10.77.0.2 port 22: Connection timed out", "ssh-failed"),
    ],
)
def test_a_host_that_is_lost_and_one_that_was_never_reached(said: str, code: str, hosts: Hosts) -> None:
    (hosts.path / "ssh").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 255\n")
    error = failure(hosts.all[1].name)
    assert (error.code, str(error)) == (code, f"{hosts.all[1].name}: {said}")


HELLO = '{"type":"hello","version":"0.0.1"}'
OWN, STORED, OVER = (encode(each).decode().strip() for each in (Hello(version=own_version()), Stored(), Over()))


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo Welcome!", "host-answer", "its shell's startup files must not print"),
        (f"echo '{HELLO}'", "package-version", "it has cluster-wireproto 0.0.1"),
        (f"echo '{OWN}'; echo '{STORED}'", "host-answer", "it sent an unexpected answer"),
        (f"echo '{OWN}'; echo '{OVER}'", "host-answer", "it gave 0 answers"),
        ("echo \"No such command 'host'.\" >&2; exit 2", "package-version", "another version"),
        ("printf '\\033[2Jgone\\n' >&2; exit 9", "rank-lost", "exit status 9: \\x1b[2Jgone"),
        ("kill -9 $$", "rank-lost", "jaccl-bootstrap or ssh was killed"),
        ("head -c 3000000 /dev/zero | tr '\\0' x", "host-answer", "a line of more than"),
        ("exec sleep 60", "host-silent", "no answer within 1 s"),
    ],
)
def test_a_host_that_answers_otherwise(script: str, code: str, words: str, hosts: Hosts, tmp_path: Path) -> None:
    """The Python is at a path that a shell would split."""
    fake = tmp_path / 'it\'s $(exit 1) "here"'
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    error = failure(hosts.all[1].name, Way(python=str(fake)), 1.0 if code == "host-silent" else 60.0)
    assert error.code == code, str(error)
    assert words in str(error)


def test_a_host_that_waits_is_sent_heartbeats(hosts: Hosts, tmp_path: Path) -> None:
    """`jaccl-bootstrap host` ends after 10 s without any, so it ends on a host that is cut off."""
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nread line; read line; test -z "$line" && touch {tmp_path}/beat; cat >/dev/null\n')
    fake.chmod(0o755)

    async def wait() -> None:
        async with asking(Host(rank=1, name=hosts.all[1].name, is_local=False, way=Way(python=str(fake)))):
            await asyncio.to_thread(wait_until, (tmp_path / "beat").exists, "two empty lines")

    asyncio.run(wait())


def test_the_host_command_ends_without_a_launcher(tmp_path: Path) -> None:
    """It answers known requests, skips heartbeats, and ends with its input, or after some seconds without any."""
    words = [sys.executable, "-P", "-m", "bootstrap", "host"]
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    assert SILENCE_SECONDS == 10.0
    soon = "from bootstrap.cli import host; host.SILENCE_SECONDS = 0.2; raise SystemExit(host.host())"
    silenced = [sys.executable, "-P", "-c", soon]
    with subprocess.Popen(silenced, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as silent:
        given = b'\n{"type":"nothing"}\n' + encode(StorePin(name="mac-b", key="no key"))
        done = subprocess.run(words, input=given, capture_output=True, env=env, timeout=60, check=False)
        answers = [decode_answer(line) for line in done.stdout.splitlines()]
        assert (done.returncode, done.stderr) == (0, b"")
        codes = [each.code for each in answers if isinstance(each, Failed)]
        assert codes == ["bad-request", "bad-key"]
        assert isinstance(answers[-1], Over)
        assert silent.wait(60) == 0


@pytest.mark.parametrize("way", [Way(python="/nowhere/python"), Way(python=sys._base_executable), Way(uvx=True)])
def test_a_host_without_the_package(way: Way, hosts: Hosts) -> None:
    error = failure(hosts.all[1].name, way)
    assert error.code == "package-missing", str(error)
    assert ("install uv" if way.uvx else "run there: pip install 'cluster-wireproto[bootstrap]==") in str(error)


@pytest.mark.parametrize(
    ("config", "is_here"),
    [
        ("HostName 127.0.0.1\n  Port 22", True),
        ("HostName 127.0.0.1\n  Port 2222", False),
        ("HostName 127.0.0.1\n  Port 22\n  User somebody", False),
        ("HostName 127.0.0.1\n  Port 22\n  ProxyJump mac-b", False),
        ("HostName 192.0.2.1\n  Port 22", False),
    ],
)
def test_where_a_name_leads(config: str, is_here: bool, hosts: Hosts) -> None:
    hosts.more_config(f"Host mine\n  {config}\n")
    host = config.split()[1]
    assert asyncio.run(destination("mine")) == Destination(host, is_here)
    assert asyncio.run(destination(f"{getpass.getuser()}@mine")).host == host


def test_the_own_names() -> None:
    for name in ("localhost", socket.gethostname()):
        assert asyncio.run(destination(name)).is_here


@pytest.mark.parametrize("name", ["mac-b.local", "me@mac-b", "ssh://me@mac-b:22", "10.0.0.1", "fe80::1%en5", "[::1]"])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-oProxyCommand=true", "a b", "a;b", "a$(b)", "a'b", "me@-a", "-x@a", "a\x1b", "ä", "a,b", "a" * 256]
)
def test_names_that_ssh_or_a_shell_would_take_for_something_else(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_name(name)
    assert caught.value.code == "bad-hosts"
    assert str(caught.value).isprintable()


def test_an_unknown_host_key_is_asked_about_on_the_terminal(hosts: Hosts) -> None:
    """One host after the other. The launcher does not read the answers, and Ctrl-C also ends it at a question."""
    hosts.trust([])
    names = [host.name for host in hosts.all[:2]]
    words = [sys.executable, "-P", "-m", "bootstrap", "launch", "--hostfile", str(hosts.hostfile(names)), "--", "true"]
    # A session leader gets the first terminal that it opens.
    lead = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"
    terminal, inner = os.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", lead, os.ttyname(inner), *words],
        start_new_session=True,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, **hosts.client_env},
    )
    os.close(inner)
    try:
        for name in names:
            seen = _until(terminal, b"(yes/no/[fingerprint])? ")
            assert f"{name}: ssh asks".encode() in seen
            os.write(terminal, b"yes\n" if name == names[0] else b"\x03")
        assert run.wait(60) == 130
    finally:
        run.kill()
        run.wait()
        os.close(terminal)


def _until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        try:
            seen += os.read(terminal, 65536)
        except OSError as error:  # nobody has it open any more
            raise AssertionError(seen.decode(errors="replace")) from error
    return seen
