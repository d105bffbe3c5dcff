"""`doctor` for people and for programs: child processes with their own home and PATH."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.system.network import reserved_ports
from tests.bootstrap.system_tools import Tools, fake_mlx

Start = Callable[..., Any]


def red(run: Any) -> dict[str, Any]:
    """Return the failed check."""
    (check,) = [event for event in run.events if event.get("verdict") == "red"]
    return dict(check)


OWN, PEER = "127.84.1.1", "127.84.1.2"
SELF = ["--own-ip", OWN]


@pytest.fixture
def free() -> list[str]:
    with reserved_ports(OWN, 1) as port:
        return ["--coordinator-port", str(port)]


@pytest.fixture
def doctor(command: Start, tmp_path: Path) -> Start:
    """Start `doctor` with these arguments; `env` extends the environment of a home without keys."""

    def start(*arguments: str, into: str | None = None, **env: str) -> Any:
        return command("doctor", *arguments, into=into, env={"XDG_CONFIG_HOME": str(tmp_path / "config"), **env})

    return start


@pytest.fixture
def hanging(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """A PATH whose first tool hangs, and the file that the tool creates first."""
    tools, sign = Tools(tmp_path / "bin"), tmp_path / "sign"
    tools.hangs("sw_vers", f": > '{sign}'")
    return {"PATH": str(tools.path)}, sign


def test_a_good_host_for_programs(doctor: Start, free: list[str]) -> None:
    with socket.create_server((PEER, 0)) as peer:
        link = str(peer.getsockname()[1])
        run = doctor("--json", "--peer-ip", PEER, "--link-port", link, *SELF, *free)
        assert run.end() == 0
    *checks, done = run.events
    assert done == {"event": "done", "ok": True}
    assert [check["name"] for check in checks] == [
        "platform",
        "mlx",
        "address",
        "lock",
        "link-port",
        "coordinator-port",
        "peer",
        "identity",
        "pin",
        "leftovers",
    ]
    for check in checks:
        assert [*check] == ["event", "name", "verdict", "evidence", "cause", "remedy"]
        assert check["event"] == "check"
        assert (check["cause"] is not None) == (check["remedy"] is not None) == (check["verdict"] == "yellow")
    assert [check["verdict"] for check in checks if check["name"] != "link-port"][:8] == ["green"] * 6 + ["yellow"] * 2
    assert run.stderr == []


def test_something_wrong_for_programs(doctor: Start) -> None:
    run = doctor("--json", "--own-ip", "203.0.113.9")
    assert run.end() == 1
    *checks, done = run.events
    assert done == {"event": "done", "ok": False}
    verdicts = {check["name"]: check["verdict"] for check in checks}
    assert verdicts == {"platform": "green", "mlx": "green", "address": "red"} | dict.fromkeys(
        ["lock", "link-port", "coordinator-port", "peer", "identity", "leftovers"], "skipped"
    )
    assert all(check["evidence"] for check in checks)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_report_for_a_bug_tracker(doctor: Start, tmp_path: Path, as_json: bool) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(
        '[{"ssh": "me@secret-mac.local", "ips": ["127.84.1.1"]}, {"ssh": "other-mac", "ips": ["127.84.1.2"]}]'
    )
    file = tmp_path / "report.md"
    options = ["--json"] if as_json else []
    run = doctor("--hostfile", str(hosts), "--rank", "1", "--report", str(file), "--coordinator-port", "1", *options)
    assert run.end() in (0, 1)
    if as_json:
        assert {"event": "report", "path": str(file)} in run.events
    else:
        assert f"report written to {file}; read it before you publish it" in [line.rstrip() for line in run.seen]
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "127.84.1.1" in text
    assert socket.gethostname() not in text
    assert "secret-mac" not in text
    assert "other-mac" not in text
    listed = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    assert {"platform", "mlx", "address", "leftovers"} <= {each["name"] for each in listed}


def test_a_report_that_cannot_be_written(doctor: Start, tmp_path: Path) -> None:
    run = doctor("--own-ip", "203.0.113.9", "--report", str(tmp_path / "missing" / "report.md"))
    assert run.end() == 3
    (line,) = run.stderr
    assert "cannot write" in line


def test_plain_lines_when_nobody_watches(doctor: Start) -> None:
    run = doctor("--backend", "jaccl")
    assert run.end() == 1
    check, cause, remedy = (line.rstrip("\n") for line in run.seen)
    assert check.startswith("red      platform          Linux ")
    assert cause == "           cause           JACCL needs macOS 26.2 or later"
    assert remedy == "           remedy          use --backend ring"
    assert run.stderr == []


@pytest.mark.skipif(sys.platform != "linux", reason="another system ends a terminal in another way")
def test_marks_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-P", "-m", "bootstrap", "doctor", "--own-ip", "203.0.113.9"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "XDG_CONFIG_HOME": str(tmp_path)},
    )
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # Linux reports the end of a terminal this way
        pass
    os.close(ours)
    assert started.wait() == 1
    text = seen.decode()
    assert "\x1b[1;32m✓\x1b[0m" in text
    assert "\x1b[1;31m✗\x1b[0m" in text
    assert "203.0.113.9" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--own-ip", "localhost"], "'localhost' is not the IPv4 address of a host, use one such as 169.254.1.1"),
        (["--peer-ip", "::1"], "'::1' is not the IPv4 address of a host"),
        (["--rank", "64"], "rank 64 is wrong, use 0 to 63"),
        (["--rank", "2", "--peer-ip", PEER], "rank 2 is wrong, use 0 to 1"),
        (["--own-ip", PEER, "--peer-ip", PEER], "do not determine the ranks"),
        (["--link-port", "0"], "link port 0 is wrong, use 1 to 65535"),
        (["--coordinator-port", "70000"], "port 70000 is wrong, use 1 to"),
        (["--backend", "mpi"], "backend 'mpi' is unknown, use auto, jaccl or ring"),
        (["--timeout", "0"], "timeout 0.0 is wrong"),
        (["--timeout", "nan"], "timeout nan is wrong"),
        (["--peer-ip", PEER, "--hostfile", "hosts.json"], "--hostfile already names the peers; leave --peer-ip out"),
        (["--hostfile", "/dev/null"], "it is not a regular file"),
        (["--hostfile", "/nowhere/hosts.json"], "cannot read the hostfile /nowhere/hosts.json: No such file"),
        (["--nonsense"], "no such option"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line(doctor: Start, arguments: list[str], text: str) -> None:
    run = doctor("--json", *arguments)
    assert run.end() == 2
    assert run.seen == []
    (line,) = run.stderr
    assert line.startswith("jaccl-bootstrap doctor: ")
    assert text in line


def hostfile(directory: Path, *hosts: dict[str, object], backend: str = "ring") -> list[str]:
    file = directory / "hosts.json"
    file.write_text(json.dumps({"backend": backend, "hosts": hosts}))
    return ["--hostfile", str(file)]


def test_the_other_hosts_of_a_hostfile_are_the_peers(doctor: Start, free: list[str], tmp_path: Path) -> None:
    with socket.create_server((PEER, 0)) as first, reserved_ports("127.84.1.3", 1, first.getsockname()[1]):
        hosts = hostfile(tmp_path, *({"ips": [ip]} for ip in (OWN, PEER, "127.84.1.3")))
        run = doctor("--json", "--rank", "0", "--link-port", str(first.getsockname()[1]), *hosts, *free)
        assert run.end() == 0
    seen = {(each["name"], each["verdict"], each["evidence"].split(":")[0].split()[0]) for each in run.events[:-1]}
    assert {("address", "green", OWN), ("peer", "green", PEER), ("peer", "yellow", "127.84.1.3")} <= seen


def test_the_own_host_is_found_in_a_hostfile(doctor: Start, free: list[str], tmp_path: Path) -> None:
    with reserved_ports(OWN, 1) as closed:
        run = doctor(
            "--json", "--link-port", str(closed), *hostfile(tmp_path, {"ips": ["203.0.113.9"]}, {"ips": [OWN]})
        )
        run.end()
    address = next(event for event in run.events if event["name"] == "address")
    assert address["evidence"].startswith(OWN)


@pytest.mark.parametrize(
    ("ips", "rank", "text"),
    [
        (["203.0.113.8", "203.0.113.9"], [], "in the hostfile; give --rank"),
        ([OWN, PEER], [], "ranks 0, 1 all have this host's addresses in the hostfile; give --rank"),
        ([OWN, PEER], ["--rank", "2"], "rank 2 is wrong, "),
    ],
)
def test_a_hostfile_without_this_host(
    doctor: Start, tmp_path: Path, ips: list[str], rank: list[str], text: str
) -> None:
    run = doctor(*hostfile(tmp_path, *({"ips": [ip]} for ip in ips)), *rank)
    assert run.end() == 2
    assert text in run.stderr[0]


def test_the_devices_of_a_hostfile_are_those_of_the_own_row(doctor: Start, tmp_path: Path) -> None:
    tools = Tools(tmp_path / "bin")
    tools.prints("sw_vers", "sw_vers-26.2.txt")
    tools.prints("system_profiler", "system_profiler-tb5-linked.json")
    tools.prints("rdma_ctl", "rdma_ctl-enabled.txt")
    tools.prints("ibv_devices", "ibv_devices-4.txt")
    path = {"PATH": str(tools.path), "PYTHONPATH": fake_mlx(tmp_path / "python", "jaccl", "ring")}
    ours, theirs = ["rdma_en2", "rdma_en5"], ["rdma_en9", "rdma_en5"]
    hosts = hostfile(
        tmp_path, {"ips": [OWN], "rdma": [None, ours]}, {"ips": [PEER], "rdma": [theirs, None]}, backend="jaccl"
    )
    run = doctor("--json", "--rank", "1", *hosts, **path)
    assert run.end() == 1
    assert red(run)["evidence"].startswith("the hostfile names rdma_en9 for this host, which has rdma_en2, ")
    run = doctor("--json", "--rank", "0", *hosts, **path)
    assert run.end() == 1  # at a later check: these tools do not show the port
    (devices,) = [event for event in run.events if event.get("name") == "rdma-devices"]
    assert devices["verdict"] == "green"


def test_the_timeout_ends_a_tool_that_hangs(
    doctor: Start, hanging: tuple[dict[str, str], Path], nothing_left: Callable[..., None]
) -> None:
    run = doctor("--json", "--timeout", "1", **hanging[0])
    assert run.end() == 1
    check, *rest, done = run.events
    assert (check["name"], check["verdict"], done["ok"]) == ("timeout", "red", False)
    assert {each["evidence"] for each in rest} == {"fix timeout first"}
    assert check["evidence"] == "the checks took more than 1 s"
    nothing_left(run)


def test_the_timeout_names_the_last_check_that_ended(doctor: Start, tmp_path: Path) -> None:
    path = fake_mlx(tmp_path / "python", before="import time; time.sleep(60)")
    run = doctor("--json", "--timeout", "1", PYTHONPATH=path)
    assert run.end() == 1
    assert red(run)["evidence"] == "the checks took more than 1 s; the last one to finish was platform"


def test_ctrl_c_ends_a_tool_that_hangs(
    doctor: Start,
    hanging: tuple[dict[str, str], Path],
    soon: Callable[..., None],
    nothing_left_soon: Callable[..., None],
) -> None:
    path, sign = hanging
    run = doctor(**path)
    soon(sign.exists, "the tool runs")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130
    assert run.stderr == ["jaccl-bootstrap: interrupted"]
    nothing_left_soon(run)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_reader_that_wants_one_line(doctor: Start, free: list[str], arguments: list[str]) -> None:
    run = doctor(*arguments, *SELF, *free, into="head -n 1")
    assert run.end() == 0
    assert len(run.seen) == 1
    (line,) = run.stderr
    assert line in ("exit 3", "exit 0")  # depending on the speed of the reader


def test_nothing_is_changed(doctor: Start, free: list[str], tmp_path: Path, nothing_left: Callable[..., None]) -> None:
    run = doctor(*SELF, *free)
    assert run.end() == 0
    assert not (tmp_path / "config").exists()
    nothing_left(run)


def test_a_missing_extra_is_named() -> None:
    code = """
import sys
sys.argv = ["jaccl-bootstrap", "doctor"]
sys.modules["psutil"] = None
from bootstrap.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert (
        line == "jaccl-bootstrap needs psutil, which is not installed; run: pip install 'cluster-wireproto[bootstrap]'"
    )


def test_help_shows_an_example(doctor: Start) -> None:
    run = doctor("--help")
    assert run.end() == 0
    text = "".join(run.seen)
    assert "jaccl-bootstrap doctor --own-ip 169.254.1.1 --peer-ip 169.254.1.2" in text
    assert "Exit codes: 0 " in text
