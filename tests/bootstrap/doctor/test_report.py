"""The report for a bug tracker: its contents, and what it leaves out."""

import getpass
import json
import re
import socket
from pathlib import Path

import pytest

from bootstrap.doctor.checks import Check
from bootstrap.doctor.report import Redaction, write_report
from bootstrap.system.tools import ToolResult
from bootstrap.tools import Call, recorded, run_tool

KEY = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE" + "a" * 50 + "=="
LINK = ("169.254.1.1", "10.7.0.2")


@pytest.fixture
def redact(monkeypatch: pytest.MonkeyPatch) -> Redaction:
    monkeypatch.setattr(socket, "gethostname", lambda: "annas-mac.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(Path, "home", lambda: Path("/Users/anna"))
    return Redaction(LINK, ("studio-7", "me.lan"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # keys
        (f"key {'A' * 86}== of it", "key <key 1> of it"),
        ("-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----", "<key 1>"),
        ("own key a8b4:31a0:7e80:3819", "own key <fingerprint 1>"),
        # names
        ("annas-mac.example.org and Annas-Mac", "<name 1> and <name 2>"),
        ("the user anna, in /Users/anna/keys", "the user <name 1>, in ~/keys"),
        ("studio-7 studio-70 m3.local", "<name 2> studio-70 <name 1>"),
        # addresses of other networks
        ("inet 192.168.1.7 netmask 255.255.255.0 broadcast 192.168.1.255", "inet <address 1> netmask 255.255.255.0 "
         "broadcast <address 2>"),
        ("100.64.1.2:22 8.8.8.8", "<address 1>:22 <address 2>"),
        ("inet6 2001:db8::7 prefixlen 64", "inet6 <address 1> prefixlen 64"),
        ("::ffff:192.168.1.7", "<address 1>"),
        ("ether 02:00:5e:10:00:01", "ether <mac 1>"),
        # unique numbers
        ('"domain_uuid_key": "00000000-0000-4000-8000-000000000009"', '"domain_uuid_key": "<uuid 1>"'),
        ("rdma_en5 e5c5790000000005 0x0000000000000002", "rdma_en5 <number 1> <number 2>"),
        ('"serial_number": "C02XYZ"', '"serial_number": "<serial>"'),
        # equal values have the same number
        ("8.8.8.8 9.9.9.9 8.8.8.8", "<address 1> <address 2> <address 1>"),
    ],
)  # fmt: skip
def test_what_is_removed(text: str, shown: str, redact: Redaction) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "169.254.1.1:7777 and 169.254.9.9",
        "10.7.0.9 is in the link's network",
        "127.0.0.1 ::1 0.0.0.0 fe80::1 ::ffff:169.254.1.1",
        "macOS 26.2.1, MLX 0.32.4, Darwin 25.2.0 at 01:02:03",
        "netmask 255.255.0.0, rdma_en5 is PORT_ACTIVE, MTU 4096, 80 Gb/s",
        "flags=8863<UP,BROADCAST>",
    ],
)
def test_what_is_kept(text: str, redact: Redaction) -> None:
    assert redact(text) == text


def test_calls_are_recorded(tmp_path: Path) -> None:
    with recorded() as calls:
        run_tool(["/bin/echo", "hello"])
        run_tool([str(tmp_path / "missing")])
    run_tool(["/bin/echo", "later"])
    assert [(call.argv[-1], call.result.status) for call in calls] == [
        ("hello", "ok"),
        (str(tmp_path / "missing"), "missing"),
    ]


def test_a_report(redact: Redaction) -> None:
    checks = [
        Check("address", "green", "10.7.0.2 on en5"),
        Check("peer", "red", "annas-mac.example.org 8.8.8.8 gone", "no route", "ping -c 3 8.8.8.8"),
        Check("pin", "skipped", "fix peer first"),
    ]
    calls = [
        Call(("sw_vers",), ToolResult(status="ok", stdout="ProductVersion:\t26.2\n\x1b[31m", returncode=0)),
        Call(("ibv_devinfo", "-v"), ToolResult(status="hung")),
    ]
    text = write_report({"backend": "jaccl", "peers": "10.7.0.3, 8.8.8.8"}, checks, calls, redact)
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [(each["name"], each["verdict"]) for each in found] == [
        ("address", "green"),
        ("peer", "red"),
        ("pin", "skipped"),
    ]
    assert found[0]["evidence"] == "10.7.0.2 on en5"
    assert found[1]["remedy"] == "ping -c 3 <address 1>"
    assert "- backend: jaccl" in text
    assert "### sw_vers: ok, exit status 0\n\nProductVersion:\t26.2\n?[31m" in text
    assert "### ibv_devinfo -v: hung" in text
    assert re.search(r"- python: 3\.\d+", text)
    assert "8.8.8.8" not in text
    assert "annas" not in text
