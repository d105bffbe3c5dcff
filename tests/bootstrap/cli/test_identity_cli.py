"""`identity` and `pin` for people and for programs: processes with their own home."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.trust import Pins, encode_public_key, load_identity
from tests.forks import run_text
from wireproto.session.handshake import KeySigner, fingerprint

APP = "from bootstrap.__main__ import main; main()"
IP = "169.254.1.2"
A, B = (KeySigner(ec.derive_private_key(number, ec.SECP256R1())).public_key for number in (1, 2))
KEY_A, KEY_B = encode_public_key(A), encode_public_key(B)

MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""Variables that `make coverage` passes to its children."""

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Run:
    def start(*arguments: str, code: str | None = None, **env: str) -> Done:
        env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "COLUMNS": "80", **MEASURED, **env}
        if code is None:
            return run_text(*arguments, module="bootstrap", environment=env)
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=env,
        )

    return start


def pins_of(home: Path) -> Pins:
    return Pins(home / ".config" / "cluster-wireproto" / "peers.json")


def refusal(done: Done, code: int) -> str:
    """Return the only line on stderr."""
    assert done.returncode == code, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("jaccl-bootstrap ")
    return line


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_makes_the_key_and_shows_it(run: Run, home: Path) -> None:
    path = home / ".config" / "cluster-wireproto" / "identity.pem"
    first = run("identity")
    assert (first.returncode, first.stderr) == (0, "")
    key = load_identity(path, create=False).public_key
    assert first.stdout.splitlines() == [
        f"public key   {encode_public_key(key)}",
        f"fingerprint  {fingerprint(key)}",
        f"path         {path}",
    ]
    assert run("identity").stdout == first.stdout


def test_identity_as_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "key.pem"
    done = run("identity", "--identity", str(path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    key = load_identity(path, create=False).public_key
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {
        "public_key": encode_public_key(key),
        "fingerprint": fingerprint(key),
        "path": str(path),
    }


def test_a_relative_path_is_shown_absolute(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("identity", "--identity", "key.pem", "--json")
    assert json.loads(done.stdout)["path"] == str(tmp_path / "key.pem")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes only UTF-8 as a file name")
@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_path_that_is_not_utf_8(json_too: list[str], run: Run, tmp_path: Path) -> None:
    done = run("identity", "--identity", str(tmp_path / "key\udcff.pem"), *json_too)
    assert (done.returncode, done.stderr) == (0, "")
    assert "xff.pem" in done.stdout


def test_identity_that_others_can_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    load_identity(path)
    path.chmod(0o644)
    line = refusal(run("identity", "--identity", str(path)), 3)
    assert line == (f"jaccl-bootstrap identity: {path} is accessible to other users (mode 0644); run: chmod 600 {path}")


def test_identity_error_as_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.symlink_to(tmp_path / "other")
    done = run("identity", "--identity", str(path), "--json")
    line = refusal(done, 3)
    assert json.loads(done.stdout) == {
        "state": "error",
        "code": "symbolic-link",
        "stage": "identity",
        "message": line.removeprefix("jaccl-bootstrap identity: "),
    }


@pytest.mark.parametrize("env", [{"HOME": ""}, {"HOME": "/dev/null"}])
def test_a_home_that_cannot_be_used(env: dict[str, str], run: Run, tmp_path: Path) -> None:
    assert "--identity PATH" in refusal(run("identity", **env), 3)
    assert "XDG_CONFIG_HOME" in refusal(run("pin", **env), 3)
    assert run("identity", "--identity", str(tmp_path / "key.pem"), **env).returncode == 0


# -- pin ---------------------------------------------------------------------------------------------------------------


def test_a_pins_life(run: Run, home: Path) -> None:
    assert run("pin").stdout == "no peer is pinned\n"
    assert not home.exists()
    added = run("pin", "mac-b", KEY_A, "--address", IP)
    assert (added.returncode, added.stdout, added.stderr) == (
        0,
        f"pinned mac-b           {IP}     {fingerprint(A)}\n",
        "",
    )
    assert run("pin", "mac-b", KEY_A).stdout == added.stdout
    assert run("pin").stdout == added.stdout
    assert pins_of(home).list() == [("mac-b", A, IP)]
    assert run("pin", "mac-c", KEY_B, "--address", IP).returncode == 0
    assert [line.split() for line in run("pin").stdout.splitlines()] == [
        ["pinned", "mac-b", "-", fingerprint(A)],
        ["pinned", "mac-c", IP, fingerprint(B)],
    ]
    removed = run("pin", "--remove", "mac-c")
    assert (removed.returncode, removed.stdout, removed.stderr) == (
        0,
        f"removed mac-c           {IP}     {fingerprint(B)}\n",
        "",
    )
    assert pins_of(home).list() == [("mac-b", A, None)]


def test_pin_as_json(run: Run) -> None:
    one = {"state": "pinned", "name": IP, "address": IP, "public_key": KEY_A, "fingerprint": fingerprint(A)}
    other = {"state": "pinned", "name": "mac-b", "address": None, "public_key": KEY_B, "fingerprint": fingerprint(B)}
    assert run("pin", "--json").stdout == ""
    assert json.loads(run("pin", "mac-b", KEY_B, "--json").stdout) == other
    assert json.loads(run("pin", "--json", IP, KEY_A).stdout) == one
    assert [json.loads(line) for line in run("pin", "--json").stdout.splitlines()] == [one, other]
    assert json.loads(run("pin", "--json", "--remove", IP).stdout) == {**one, "state": "removed"}


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_conflict_is_a_no_that_names_both_keys(json_too: list[str], run: Run, home: Path) -> None:
    pins_of(home).add(IP, A)
    done = run("pin", IP, KEY_B, *json_too)
    line = refusal(done, 1)
    assert fingerprint(A) in line
    assert fingerprint(B) in line
    assert line.endswith(f"jaccl-bootstrap pin --remove {IP}")
    assert [json.loads(text)["code"] for text in done.stdout.splitlines()] == ["pin-conflict"] * len(json_too)
    assert pins_of(home).list() == [(IP, A, IP)]


def test_to_remove_what_is_not_pinned_is_a_no(run: Run, home: Path) -> None:
    done = run("pin", "--remove", IP)
    assert f"no peer is pinned as {IP}; " in refusal(done, 1)
    assert done.stdout == ""
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([IP], "give NAME and KEY, or --remove NAME"),
        ([IP, KEY_A, "--remove", IP], "give NAME and KEY, or --remove NAME"),
        ([IP, "--remove", IP], "give NAME and KEY, or --remove NAME"),
        (["--address", IP], "give NAME and KEY, or --remove NAME"),
        ([IP, KEY_A, "x"], "unexpected extra argument"),
        (["--nonsense"], "no such option"),
        (["mac b", KEY_A], "'mac b' is not a valid peer name, use 1 to 64 of"),
        (["169.254.1.300", KEY_A], "'169.254.1.300' is not the IPv4 address of a host, use one such as"),
        (["--remove", "::1"], "'::1' is not a valid peer name, use 1 to 64 of"),
        (["mac-b", KEY_A, "--address", "mac.local"], "'mac.local' is not the IPv4 address of a host, use one such as"),
        (
            [IP, KEY_A, "--address", "169.254.1.3"],
            f"the name {IP} is an address, so --address 169.254.1.3 contradicts it",
        ),
        (["", ""], "the public key is wrong: 0 bytes, not 64; use what"),
        ([IP, KEY_A[:-1]], "the public key is wrong: not standard base64; use what"),
        ([IP, "AAAA"], "the public key is wrong: 3 bytes, not 64; use what"),
        ([IP, "A" * 86 + "=="], "the public key is wrong: not a point on P-256; use what"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_happens(arguments: list[str], text: str, run: Run, home: Path) -> None:
    done = run("pin", "--json", *arguments)
    line = refusal(done, 2)
    assert line.startswith("jaccl-bootstrap pin: ")
    assert text in line
    assert done.stdout == ""
    assert not home.exists()


@pytest.mark.parametrize("arguments", [[], [IP, KEY_A], ["--remove", IP]])
def test_a_pins_file_that_cannot_be_used(arguments: list[str], run: Run, home: Path) -> None:
    pins = pins_of(home)
    pins.add(IP, A)
    pins.path.chmod(0o666)
    line = refusal(run("pin", *arguments), 3)
    assert line.endswith(f"(mode 0666); run: chmod 600 {pins.path}")


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["identity", "pin"])
def test_help_fits_a_screen_and_has_an_example(command: str, run: Run) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(f"Example: jaccl-bootstrap {command}" in line for line in lines)


def test_help_does_without_cryptography(run: Run) -> None:
    assert run("pin", "--help", code=f"import sys; sys.modules['cryptography'] = None\n{APP}").returncode == 0


@pytest.mark.parametrize("make", [Path.mkdir, None])
def test_a_file_name_reached_the_terminal_unescaped(make: Any, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "\x1b]0;title\x07\nkey\u202e"
    if make is not None:
        make(path)
    done = run("identity", "--identity", str(path))
    assert done.returncode == (0 if make is None else 3)
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    assert len(lines) == (3 if make is None else 1)
    assert all(line.isprintable() for line in lines)
