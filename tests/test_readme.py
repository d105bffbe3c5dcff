"""README and the manual are promises: their commands and code run here, but for `make` and installs, which CI runs."""

import html
import json
import os
import plistlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import pytest
from typer.main import get_command

from bootstrap.advice import ADVICE
from bootstrap.cli.app import app
from bootstrap.cli.display import FORMED, LINES
from bootstrap.system.network import reserved_ports
from bootstrap.trust import Pins, load_identity
from spec.tools.advice import ROW, with_advice, with_all_advice
from spec.tools.picture import recorded, shown, svg
from tests.bootstrap.conftest import wait_until
from tests.bootstrap.launch.sshd import Hosts, ssh_hosts
from tests.bootstrap.tiny_model import NO_COMPILER, OFFLINE, write_model
from tests.examples import PROFILE
from tests.loopback import new_net
from tests.wireproto.conformance.trying import free_port
from wireproto import Revision
from wireproto.conformance.codec_cases import codec_cases
from wireproto.session import KeySigner

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "spec" / "manual" / "pages" / "guides"
PAGES = {
    "README": (ROOT / "README.md").read_text(),
    **{
        name: (GUIDES / f"{name}.md").read_text()
        for name in ("conform", "embedding", "fuzz", "inspect", "launch", "services", "troubleshooting", "up")
    },
}


def code(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


def commands(text: str) -> list[str]:
    lines = re.findall(r"^    ((?:make|wireproto|echo|jaccl).*)$", text, re.M)
    return [line.partition("  #")[0].strip() for line in lines]


COMMANDS = list(dict.fromkeys(command for text in PAGES.values() for command in commands(text)))
TARGETS = [command for command in COMMANDS if command.startswith("make")]

# What the commands of this environment print, as a user sees it.
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


DOCTOR = "jaccl-bootstrap doctor"
TOGETHER = (
    "jaccl-bootstrap identity --identity",
    "jaccl-bootstrap pin",
    "jaccl-bootstrap launch",
    "jaccl-bootstrap pair",
    "jaccl-bootstrap up",
    "jaccl-bootstrap demo",
    "wireproto inspect",
    "wireproto conform peer",
    "wireproto conform codec --",
)
ALONE = [command for command in COMMANDS if not command.startswith(("make", DOCTOR, *TOGETHER))]


@pytest.mark.parametrize("command", ALONE)
def test_command(command: str, tmp_path: Path) -> None:
    """Outside CI, a fuzzer runs for one second."""
    done = run(command.replace("--seconds 5", "--seconds 1") if PROFILE == "local" else command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_doctor(tmp_path: Path) -> None:
    """All is well in a network of its own; without one, another test's group may have a port at this moment."""
    assert {DOCTOR, f"{DOCTOR} --report report.md"} <= set(COMMANDS)
    doctor = f"{DOCTOR} --report report.md --json"
    own_network = "unshare --map-root-user --net"
    alone = run(f"{own_network} true", tmp_path).returncode == 0
    done = run(f"{own_network} {doctor}" if alone else doctor, tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    red = [event["name"] for event in events if event.get("verdict") == "red"]
    in_use = [] if alone else [(1, ["link-port"]), (1, ["coordinator-port"])]
    assert (done.returncode, red) in [(0, []), *in_use], done.stdout
    assert (tmp_path / "report.md").read_text().startswith("# jaccl-bootstrap doctor\n")


SERVE = """
import mlx.core as mx

group = mx.distributed.init(backend="ring", strict=True)
print("sum", mx.distributed.all_sum(mx.array(group.rank() + 1), group=group).item())
"""


class Macs:
    """The example of two Macs up to the pins, on two addresses of no other test."""

    def __init__(self, directory: Path) -> None:
        self.net = f"{new_net()}."
        self.homes = [directory / "first", directory / "second"]
        keys = [json.loads(run("jaccl-bootstrap identity --json", home).stdout)["public_key"] for home in self.homes]
        for home, command, key in zip(self.homes, self.commands("jaccl-bootstrap pin"), reversed(keys), strict=True):
            assert run(command.replace("KEY", key), home).returncode == 0

    def commands(self, begin: str, end: str = "") -> list[str]:
        """Return README's commands with this start and end, with the addresses."""
        found = [command for command in COMMANDS if command.startswith(begin) and command.endswith(end)]
        return [command.replace("169.254.1.", self.net) for command in found]


@pytest.fixture
def macs(tmp_path: Path) -> Macs:
    return Macs(tmp_path)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts with README's names, through OpenSSH on loopback."""
    variables = {"PATH": ENVIRONMENT["PATH"], "HF_HOME": str(tmp_path), **OFFLINE, **NO_COMPILER}
    with ssh_hosts(tmp_path / "hosts", 2, variables) as found:
        yield found


def launching(hosts: Hosts) -> dict[str, str]:
    """The variables of a third host."""
    home = str(hosts.directory)
    return {**ENVIRONMENT, "PATH": f"{hosts.path}:{ENVIRONMENT['PATH']}", "XDG_CONFIG_HOME": home}


def test_a_command_is_launched(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "serve.py").write_text(SERVE)
    (command,) = (each for each in COMMANDS if each.startswith("jaccl-bootstrap launch") and each.endswith("serve.py"))
    done = subprocess.run(
        shlex.split(command),
        cwd=tmp_path,
        env=launching(hosts),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [f"[rank {rank}] sum 3\n" in done.stdout for rank in (0, 1)] == [True, True]


def test_an_empty_group_is_launched(hosts: Hosts) -> None:
    """It is held on both ranks, and Ctrl-C ends it."""
    (command,) = (each for each in COMMANDS if re.fullmatch(r"jaccl-bootstrap launch --hosts \S+", each))
    launch = subprocess.Popen(
        shlex.split(command),
        env=launching(hosts),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    try:
        while launch.poll() is None and sum(LINES["holding"] in line for line in said) < 2:
            said.append(cast(IO[str], launch.stdout).readline())
        launch.send_signal(signal.SIGINT)
        rest = launch.communicate(timeout=60)[0]
        assert (launch.returncode, rest.count("nothing is left")) == (130, 2), [*said, rest]
    finally:
        launch.kill()
        launch.communicate()


def test_two_macs_are_paired(hosts: Hosts, tmp_path: Path) -> None:
    (command,) = (each for each in COMMANDS if each.startswith("jaccl-bootstrap pair"))
    done = subprocess.run(
        shlex.split(command), env=launching(hosts), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"pinned here: mac-b\.local ([0-9a-f]{4}:){3}", done.stdout)


def test_a_model_is_served_by_one_command(hosts: Hosts, tmp_path: Path) -> None:
    (command,) = (each for each in COMMANDS if each.startswith("jaccl-bootstrap launch") and "DIR" in each)
    (tmp_path / "model").mkdir()
    model, port = write_model(tmp_path / "model"), free_port("127.0.0.1")
    words = [*shlex.split(command.replace("DIR", str(model))), "--port", str(port)]
    run = subprocess.Popen(
        words,
        env=launching(hosts),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: listens(port, [run]), "rank 0's server listens")
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[0]
        assert run.returncode == 130, said
        assert said.count("nothing is left") == 2, said
    finally:
        run.kill()
        run.wait()


def test_two_ranks_serve_a_model(macs: Macs, tmp_path: Path) -> None:
    """Until Ctrl-C on rank 0, with the tiny model and another port."""
    (tmp_path / "model").mkdir()
    model, port = write_model(tmp_path / "model"), free_port("127.0.0.1")
    runs: list[subprocess.Popen[str]] = []
    ups = macs.commands("jaccl-bootstrap up", "-m mlx_lm.server --model DIR")
    for up, home in zip(ups, macs.homes, strict=True):
        command = [*shlex.split(up.replace("DIR", str(model))), "--port", str(port)]
        env = {**ENVIRONMENT, **OFFLINE, **NO_COMPILER, "XDG_CONFIG_HOME": str(home), "HF_HOME": str(home)}
        runs.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        wait_until(lambda: listens(port, runs), "rank 0's server listens")
        runs[0].send_signal(signal.SIGINT)
        said = [each.communicate(timeout=60)[0] for each in runs]
        assert [each.returncode for each in runs] == [130, 0], said
    finally:
        for each in runs:
            each.kill()
            each.wait()


def listens(port: int, runs: "list[subprocess.Popen[str]]") -> bool:
    assert {each.poll() for each in runs} == {None}, [each.communicate()[0] for each in runs]
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_files_of_a_service() -> None:
    """They are well formed, name existing options, and start the same command."""
    (config,), (unit,), (plist,) = (
        re.findall(rf"```{kind}\n(.*?)```", PAGES["services"], re.DOTALL) for kind in ("toml", "ini", "xml")
    )
    options = {name[2:] for each in get_command(app).commands["up"].params for name in each.opts}
    assert tomllib.loads(config).keys() <= options | {"program"}
    service = ConfigParser(interpolation=None)
    service.read_string(unit)
    assert service.sections() == ["Unit", "Service", "Install"]
    arguments = plistlib.loads(plist.encode())["ProgramArguments"]
    assert shlex.split(service["Service"]["ExecStart"]) == arguments[:4]
    assert {each[2:] for each in arguments if each.startswith("--")} <= options
    assert f"# {arguments[3]}\n" in config


def test_a_recorded_demo(tmp_path: Path) -> None:
    record, show = (command for command in COMMANDS if "demo.pcapng" in command)
    assert run(record, tmp_path).returncode == 0
    done = run(show, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0 → 1  jacclBootstrap .* sealed  port \d+, sessionID", done.stdout)
    assert (tmp_path / "demo.svg").read_text().startswith("<svg")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_peer_is_tried(tmp_path: Path) -> None:
    """One case of the suite: `make conform` and tests/wireproto/conformance/test_javascript_peer.py run all of it."""
    command = next(command for command in COMMANDS if command.startswith("wireproto conform peer"))
    make_key = next(command for command in COMMANDS if command.startswith("jaccl-bootstrap identity --identity"))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    key = json.loads(run("jaccl-bootstrap identity --json", tmp_path).stdout)["public_key"]
    assert run(make_key, tmp_path).returncode == 0
    command = command.replace("KEY", key).replace(":7777", f":{free_port('127.0.0.1')}")
    done = run(f"{command} rank1.handshake.identity", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no failure" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_codec_is_tried(tmp_path: Path) -> None:
    """This project's codec passes every case of revision 2: vectors, generated frames and times."""
    (command,) = (command for command in COMMANDS if command.startswith("wireproto conform codec --"))
    done = run(command.replace(" -- ", " --json -- "), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *cases, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert {case["id"]: case["reason"] for case in cases if case["verdict"] != "pass"} == {}
    assert summary["verdicts"]["pass"] == len(cases) == len(codec_cases(Revision.V2)) > 30


def test_the_tables_of_errors() -> None:
    """README's has the most frequent codes, the manual's all of them."""
    readme, manual = PAGES["README"], PAGES["troubleshooting"]
    assert with_advice(readme) == readme, "run: make spec"
    assert with_all_advice(manual) == manual, "run: make spec"
    assert len(ROW.findall(readme)) > 8
    assert set(ROW.findall(manual)) == set(ADVICE)


def test_the_picture_is_up_to_date() -> None:
    """It shows a whole run of the demo, in the words of today's display, and loads nothing."""
    picture = (ROOT / "spec" / "pictures" / "demo.svg").read_text()
    words = [text for text in LINES.values() if not text.startswith("{host}")]
    events = re.compile("|".join(re.sub(r"\\{\w+\\}", ".*", re.escape(text)) for text in words))
    first, *lines, last = [line for line in pictured(picture) if re.match(r"\$| *\d+ ms", line)]
    assert first == "$ jaccl-bootstrap demo"
    assert len(lines) > 10
    for line in lines:
        assert events.fullmatch(re.sub(r" *\d+ ms *rank \d *", "", line)), f"{line}; run: make picture"
    assert last.partition("done")[2].strip() == FORMED.format(ranks=2, backend="ring"), "run: make picture"
    assert "@font-face" not in picture
    assert "url(http" not in picture


def test_a_picture_is_made_of_what_a_terminal_shows() -> None:
    command = r"printf 'half a line\r\033[2Ka\033[32m green\033[0m <line>\n%0120d' 7"
    text = shown(recorded(command))
    assert text.plain.splitlines()[1:] == ["a green <line>", "0" * 100, f"{7:020}"]
    assert pictured(svg(text, "printf"))[1:] == ["a green <line>", "0" * 100, f"{7:020}"]
    with pytest.raises(ValueError, match="exit 3 failed"):
        recorded("exit 3")


def pictured(picture: str) -> list[str]:
    lines: dict[str, str] = defaultdict(str)
    for line, text in re.findall(r"<text[^>]*url\(#terminal-line-(\d+)\)[^>]*>(.*?)</text>", picture):
        lines[line] += html.unescape(text).replace("\xa0", " ")
    return list(lines.values())


def run(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a directory that is also the user's directory for keys."""
    home.mkdir(exist_ok=True)
    return subprocess.run(  # noqa: S602 - by a shell, as the reader types it
        command,
        shell=True,
        cwd=home,
        env={**ENVIRONMENT, "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_there_are_commands_of_each_kind() -> None:
    assert TARGETS == ["make demo", "make test"]
    assert len(ALONE) >= 9
    assert len(COMMANDS) == len(TARGETS) + len(ALONE) + 15


@pytest.mark.parametrize("target", TARGETS)
def test_ci_runs_the_make_targets(target: str) -> None:
    assert re.search(rf"^{target}$", (ROOT / ".ci" / "run").read_text(), re.M)


@pytest.mark.parametrize("example", [code("README")[0], code("embedding")[0]], ids=["README", "embedding"])
def test_codec_example(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "json-duplicate-key 15\n"


_, SERVER, CLIENT = code("README")
_, EMBEDDED, LIBRARY = code("embedding")


def test_server_and_client_examples(tmp_path: Path) -> None:
    """One session from the hello to sessionEnd; the server continues, and refuses a client with another key."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "client.py").write_text(CLIENT)
    keys = [KeySigner.generate() for _ in range(3)]
    port = free_port("127.0.0.1")
    command = [sys.executable, "server.py", str(port), keys[1].scalar.hex(), keys[0].public_key.hex()]
    server = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        while server.poll() is None and not _listens(port):
            pass
        said = [_client(tmp_path, port, own, keys[1]) for own in (keys[0], keys[2])]
        heard = [server.stdout.readline() for _ in range(8)]
    finally:
        server.kill()
        server.communicate()
    assert re.fullmatch(r"Established.*\nConfirmed.*\nMessageReceived\(message=PongPayload.*\n", said[0])
    assert said[1] == "Closed(orderly=False)\n"
    names = [re.split("[(:]", line)[0] for line in heard]
    assert names == ["Closed", "Established", "Confirmed", *["MessageReceived"] * 3, "Closed", "failed"]
    assert heard[-1].startswith("failed: handshake-wrong-pin in sePubKeyRaw")


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10):
        return True
    return False


def _client(folder: Path, port: int, own: KeySigner, peer: KeySigner) -> str:
    command = [sys.executable, "client.py", str(port), own.scalar.hex(), peer.public_key.hex()]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_examples_are_short_and_typed_from_outside(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """At most 30 lines each; `mypy --strict` has no complaints about them."""
    cache = pytestconfig.cache
    assert cache is not None
    files = {"server.py": SERVER, "client.py": CLIENT, "rank.py": LIBRARY}
    for name, code in files.items():
        assert len(code.splitlines()) <= 30
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache.mkdir("mypy")), *files]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_embedding_example(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(EMBEDDED)
    with reserved_ports("127.0.0.1", 2) as port:
        ranks = [
            subprocess.Popen(
                [sys.executable, script, str(rank), str(port)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
            )
            for rank in (0, 1)
        ]
        try:
            said = [rank.communicate(timeout=60)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    assert said == ["rank 0 of 2: 3\n", "rank 1 of 2: 3\n"]


def test_library_example(tmp_path: Path) -> None:
    """On two loopback addresses; each rank has its own home, with its key and the other's pin."""
    net = new_net()
    ips = [f"{net}.{number}" for number in (1, 2)]
    homes = [tmp_path / ip for ip in ips]
    keys = [load_identity(home / "cluster-wireproto" / "identity.pem").public_key for home in homes]
    (tmp_path / "serve.py").write_text(SERVE)
    (tmp_path / "rank.py").write_text(LIBRARY.replace("169.254.1.1", ips[0]).replace("169.254.1.2", ips[1]))
    ranks = []
    for rank, home in enumerate(homes):
        Pins(home / "cluster-wireproto" / "peers.json").add(ips[1 - rank], keys[1 - rank])
        command = [sys.executable, "rank.py", str(rank)]
        env = {**ENVIRONMENT, "XDG_CONFIG_HOME": str(home)}
        ranks.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True))
    try:
        said = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert said == ["rank 0: sum 3\n", "rank 1: sum 3\n"]
