"""Real files and real processes. The tests may run as root, whom permission bits do not stop: a directory that cannot
be made is one beneath a regular file, or in /proc."""

import base64
import errno
import fcntl
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import BootstrapError, ConfigError, identity
from bootstrap.identity import (
    IdentityError,
    Pins,
    config_directory,
    decode_public_key,
    encode_public_key,
    load_identity,
)
from wireproto.handshake import KeySigner, fingerprint

IPS = [f"169.254.1.{number}" for number in range(1, 9)]
KEYS = [KeySigner(ec.derive_private_key(number, ec.SECP256R1())).public_key for number in range(1, 9)]
A, B = KEYS[:2]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".config" / "cluster-wireproto" / "identity.pem"


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "peers.json")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    *,
    passphrase: bytes | None = None,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
    encoding: serialization.Encoding = serialization.Encoding.PEM,
) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(encoding, form, encryption)


P256 = ec.derive_private_key(1, ec.SECP256R1())


def put(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def refused(act: Callable[[], object], code: str) -> str:
    with pytest.raises(IdentityError) as caught:
        act()
    assert caught.value.code == code
    assert caught.value.stage == "identity"
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Together:
    """Processes that run `code` after their imports, all at the moment when `go` is called."""

    def __init__(self, count: int, code: str, *arguments: str) -> None:
        script = (
            f"import sys\nfrom pathlib import Path\nfrom bootstrap.identity import *\nfrom bootstrap import identity\n\
print('ready', flush=True)\nsys.stdin.read()\nnumber, *arguments = sys.argv[1:]\n{code}"
        )
        gate, self._hold = os.pipe()  # its end of file is what all wait for
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(number), *arguments],
                stdin=gate,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        os.close(gate)
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()

    def go(self) -> list[str]:
        os.close(self._hold)
        outputs = [process.communicate(timeout=60) for process in self.processes]
        assert [(process.returncode, errors) for process, (_, errors) in zip(self.processes, outputs, strict=True)] == [
            (0, "") for _ in self.processes
        ]
        return [output for output, _ in outputs]


# -- where -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xdg", "home", "directory"),
    [
        ("/x", "/home/a", "/x/cluster-wireproto"),
        (None, "/home/a", "/home/a/.config/cluster-wireproto"),
        ("", "/home/a", "/home/a/.config/cluster-wireproto"),
        ("relative", "/home/a", "/home/a/.config/cluster-wireproto"),
        ("/x", None, "/x/cluster-wireproto"),
    ],
)
def test_the_directory(xdg: str | None, home: str | None, directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("XDG_CONFIG_HOME", xdg), ("HOME", home)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert config_directory() == Path(directory)
    assert Pins().path == Path(directory) / "peers.json"


@pytest.mark.parametrize("home", [None, "", "relative"])
@pytest.mark.parametrize("ask", [config_directory, load_identity, Pins])
def test_without_a_home_the_option_is_named(
    home: str | None, ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert "--identity PATH" in refused(ask, "no-home")


def test_the_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    made = load_identity()
    assert load_identity(tmp_path / "cluster-wireproto" / "identity.pem", create=False).public_key == made.public_key


# -- the first use -----------------------------------------------------------------------------------------------------


def test_the_key_is_made_once(path: Path, umask: int) -> None:
    first = load_identity(path)
    written = path.read_bytes()
    assert load_identity(path).public_key == load_identity(path, create=False).public_key == first.public_key
    assert path.read_bytes() == written
    assert list(path.parent.iterdir()) == [path]
    assert mode(path) == 0o600
    for directory in (path.parent, path.parent.parent, path.parent.parent.parent):
        assert mode(directory) == 0o700
    assert written.startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_umask_that_takes_everything(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    before = os.umask(0o777)
    try:
        load_identity(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    load_identity(tmp_path / "identity.pem")
    assert mode(tmp_path) == 0o755


def test_the_key_signs_and_is_a_valid_public_key(path: Path) -> None:
    signer = load_identity(path)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + signer.public_key)
    key.verify(signer.sign(bytes(32)), bytes(32), ec.ECDSA(hashes.SHA256()))
    assert decode_public_key(encode_public_key(signer.public_key)) == signer.public_key


def test_two_hosts_have_two_keys(tmp_path: Path) -> None:
    assert load_identity(tmp_path / "a").public_key != load_identity(tmp_path / "b").public_key


def test_no_key_where_none_may_be_made(path: Path) -> None:
    message = refused(lambda: load_identity(path, create=False), "no-identity")
    assert message.endswith(f"make one: jaccl-bootstrap identity --identity {path}")
    assert not path.parent.exists()


NO_LINKS = """
def no_links(self, target):
    raise PermissionError(1, "Operation not permitted")
Path.hardlink_to = no_links
"""


@pytest.mark.parametrize("file_system", ["", NO_LINKS], ids=["links", "no links"])
def test_first_uses_at_once_end_with_one_key(file_system: str, path: Path) -> None:
    code = f"{file_system}print(load_identity(Path(arguments[0])).public_key.hex())"
    outputs = Together(8, code, str(path)).go()
    assert {line for output in outputs for line in output.split()} == {load_identity(path).public_key.hex()}
    assert {file.name for file in path.parent.iterdir()} - {"identity.pem.lock"} == {"identity.pem"}
    assert bool(file_system) == (path.parent / "identity.pem.lock").exists()
    assert mode(path) == 0o600


@pytest.mark.parametrize("links", [True, False])
def test_the_quicker_one_wins(links: bool, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = put(path.parent / "other", pem(P256))

    def another_is_quicker() -> bytes:
        others.rename(path)
        return pem(ec.generate_private_key(ec.SECP256R1()))

    def no_links(path: Path, target: Path) -> None:
        raise OSError(errno.ENOTSUP, "Not supported")

    monkeypatch.setattr(identity, "_new_key", another_is_quicker)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    assert load_identity(path).public_key == A
    assert list(path.parent.glob(".*")) == []


def test_a_link_put_there_in_the_middle_is_not_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = path.parent / "target"

    def somebody_puts_a_link() -> bytes:
        path.parent.mkdir(parents=True)
        path.symlink_to(target)
        return pem(P256)

    monkeypatch.setattr(identity, "_new_key", somebody_puts_a_link)
    refused(lambda: load_identity(path), "symbolic-link")
    assert not target.exists()
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refused(lambda: load_identity(tmp_path / "identity.pem"), "write-failed")
    assert "identity.pem: No space left on device; " in message
    assert list(tmp_path.iterdir()) == []


# -- files that are not safe -------------------------------------------------------------------------------------------

Use = Callable[[Path], object]


def use_identity(path: Path) -> object:
    return load_identity(path)


def use_pins(path: Path) -> object:
    return Pins(path).list()


def add_pin(path: Path) -> object:
    Pins(path).add(IPS[1], B)
    return None


USES = pytest.mark.parametrize("use", [use_identity, use_pins, add_pin])


def good(use: Use) -> bytes:
    return pem(P256) if use is use_identity else json.dumps({IPS[0]: encode_public_key(A)}).encode()


@USES
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o610, 0o777])
def test_a_file_open_to_others_is_refused(use: Use, bits: int, tmp_path: Path) -> None:
    path = put(tmp_path / "its file", good(use), bits)
    message = refused(lambda: use(path), "permissions")
    assert f"(mode 0{bits:o})" in message
    command = message.partition("run: ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    use(path)


@USES
@pytest.mark.parametrize("bits", [0o600, 0o400, 0o700])
def test_a_file_of_its_owners_alone_is_good(use: Use, bits: int, tmp_path: Path) -> None:
    use(put(tmp_path / "file", good(use), bits))


@USES
@pytest.mark.parametrize("target", ["good", "missing", "itself"])
def test_a_symbolic_link_is_refused(use: Use, target: str, tmp_path: Path) -> None:
    put(tmp_path / "good", good(use))
    (tmp_path / "file").symlink_to(tmp_path / {"itself": "file"}.get(target, target))
    refused(lambda: use(tmp_path / "file"), "symbolic-link")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "good").read_bytes() == good(use)
    assert not (tmp_path / "missing").exists()


def make_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        # A socket's path has to be short.
        before = Path.cwd()
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(before)


@USES
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, make_socket])
def test_what_is_no_regular_file_is_refused(use: Use, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    refused(lambda: use(tmp_path / "file"), "not-a-regular-file")


@USES
def test_another_users_file_is_refused(use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "file", good(use))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    refused(lambda: use(path), "wrong-owner")


@USES
def test_size_limits(use: Use, tmp_path: Path) -> None:
    limit = identity.MAX_KEY_FILE if use is use_identity else identity.MAX_PINS_FILE
    padding = b"\n" if use is use_identity else b" "
    path = put(tmp_path / "file", good(use).ljust(limit, padding))
    use(path)
    put(path, good(use).ljust(limit + 1, padding))
    assert str(limit) in refused(lambda: use(path), "too-large")


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "file", bytes(identity.MAX_KEY_FILE + 1))
    monkeypatch.setattr(identity._PrivateFile, "_check", lambda self, status: None)
    refused(lambda: load_identity(path), "too-large")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-pem"),
        (b"\x00\xff" * 50, "not-pem"),
        (pem(P256)[:100], "not-pem"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "not-pem"),
        (pem(P256, encoding=serialization.Encoding.DER), "not-pem"),
        (pem(P256, form=serialization.PrivateFormat.OpenSSH), "not-pem"),
        (
            P256.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "not-pem",
        ),
        (pem(P256, passphrase=b"secret"), "encrypted"),
        (pem(P256, passphrase=b"secret", form=serialization.PrivateFormat.TraditionalOpenSSL), "encrypted"),
        (pem(ec.derive_private_key(1, ec.SECP384R1())), "not-p256"),
        (pem(ec.derive_private_key(1, ec.SECP256K1())), "not-p256"),
        (pem(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))), "not-p256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_p256_key_is_refused_and_kept(data: bytes, code: str, path: Path) -> None:
    put(path, data)
    message = refused(lambda: load_identity(path), code)
    assert str(path) in message
    assert "--identity PATH" in message
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        pem(P256),
        pem(P256, form=serialization.PrivateFormat.TraditionalOpenSSL),  # as `openssl ecparam -genkey` writes it
        b"this host's key\n" + pem(P256),
        pem(P256).replace(b"\n", b"\r\n"),
    ],
)
def test_a_key_of_the_users_own_is_good(data: bytes, path: Path) -> None:
    assert load_identity(put(path, data)).public_key == A


@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_key_or_a_refusal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = put(Path(directory) / "file", data)
        with pytest.raises(IdentityError):
            load_identity(path)


# -- places that cannot be used ----------------------------------------------------------------------------------------


def places(tmp_path: Path) -> list[Path]:
    """Two where nobody, not even root, can make a file."""
    put(tmp_path / "regular", b"")
    return [tmp_path / "regular" / "sub" / "file"] + ([Path("/proc/sub/file")] if Path("/proc/self").exists() else [])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for place in places(tmp_path):
        with pytest.raises(IdentityError, match=r"cannot (read|write) .*; .* --identity PATH$") as caught:
            load_identity(place)
        assert caught.value.code in ("read-failed", "write-failed")
        with pytest.raises(IdentityError, match=r"cannot (read|lock) .*; .* XDG_CONFIG_HOME .*$") as caught:
            Pins(place).add(IPS[0], A)
        assert caught.value.code in ("read-failed", "lock-failed")


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not stop root")
def test_a_read_only_home(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(lambda: load_identity(tmp_path / "identity.pem"), "write-failed")
    refused(lambda: Pins(tmp_path / "peers.json").add(IPS[0], A), "lock-failed")
    tmp_path.chmod(0o000)
    refused(lambda: load_identity(tmp_path / "sub" / "identity.pem"), "read-failed")
    tmp_path.chmod(0o700)


def test_a_directory_that_is_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    refused(lambda: load_identity(tmp_path / "link" / "identity.pem"), "write-failed")


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load_identity(Path("sub/identity.pem"))
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["identity.pem"]


# -- public keys as text -----------------------------------------------------------------------------------------------


@given(scalar=st.integers(1, P256_ORDER - 1))
def test_a_public_key_comes_back_from_its_text(scalar: int) -> None:
    key = KeySigner(ec.derive_private_key(scalar, ec.SECP256R1())).public_key
    assert decode_public_key(encode_public_key(key)) == key
    assert re.fullmatch("[A-Za-z0-9+/]{86}==", encode_public_key(key))


def other_padding_bits(text: str) -> str:
    return text[:-3] + chr(ord(text[-3]) + 1) + "=="


TEXT = encode_public_key(A)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "é" * 88,
        "\ud800",
        TEXT[:-1],
        TEXT.rstrip("="),
        TEXT + "=",
        TEXT + "\n",
        " " + TEXT,
        TEXT[:40] + "\n" + TEXT[40:],
        TEXT.replace("+", "-").replace("/", "_"),
        other_padding_bits(TEXT),
        base64.b64encode(A[:63]).decode(),
        base64.b64encode(b"\x04" + A).decode(),
        base64.b64encode(bytes(64)).decode(),
        base64.b64encode(A[:32] + B[32:]).decode(),
        base64.b64encode(b"\xff" * 64).decode(),
        A.hex(),
    ],
    ids=lambda text: ascii(text[:8]),
)
def test_a_wrong_key_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^the public key is wrong: .*; use what") as caught:
        decode_public_key(text)
    assert caught.value.code == "bad-key"


@pytest.mark.parametrize("key", [b"", A[:63], b"\x04" + A, bytes(64), A[:32] + B[32:]], ids=len)
def test_wrong_key_bytes_are_refused(key: bytes, pins: Pins) -> None:
    for act in (lambda: encode_public_key(key), lambda: pins.add(IPS[0], key)):
        with pytest.raises(ConfigError) as caught:
            act()
        assert caught.value.code == "bad-key"
    assert list(pins.path.parent.iterdir()) == []


@given(text=st.text() | st.binary(max_size=80).map(lambda data: base64.b64encode(data).decode()))
def test_any_text_is_a_key_or_a_refusal(text: str) -> None:
    try:
        key = decode_public_key(text)
    except ConfigError:
        return
    assert encode_public_key(key) == text


# -- pins --------------------------------------------------------------------------------------------------------------


def test_a_pins_life(pins: Pins) -> None:
    assert pins.list() == {}
    assert pins.get(IPS[0]) is None
    assert list(pins.path.parent.iterdir()) == []  # to look makes nothing
    pins.add("169.254.1.10", A)
    pins.add("169.254.1.9", B)
    assert pins.get("169.254.1.9") == B
    assert list(pins.list().items()) == [("169.254.1.9", B), ("169.254.1.10", A)]
    assert pins.path.read_text() == (
        f'{{\n  "169.254.1.9": "{encode_public_key(B)}",\n  "169.254.1.10": "{encode_public_key(A)}"\n}}\n'
    )
    assert pins.remove("169.254.1.9") == B
    assert pins.list() == {"169.254.1.10": A}
    pins.remove("169.254.1.10")
    assert pins.list() == {}


def test_the_files_are_for_their_owner_alone(tmp_path: Path, umask: int) -> None:
    pins = Pins(tmp_path / "sub" / "peers.json")
    pins.add(IPS[0], A)
    assert {file.name: mode(file) & 0o177 for file in pins.path.parent.iterdir()} == {
        "peers.json": 0,
        "peers.json.lock": 0,
    }
    assert mode(pins.path) == 0o600
    assert mode(pins.path.parent) == 0o700


def test_the_same_key_again_changes_nothing(pins: Pins) -> None:
    pins.add(IPS[0], A)
    before = pins.path.stat()
    pins.add(IPS[0], A)
    after = pins.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_key_never_overwrites(pins: Pins) -> None:
    pins.add(IPS[0], A)
    message = refused(lambda: pins.add(IPS[0], B), "pin-conflict")
    assert fingerprint(A) in message
    assert fingerprint(B) in message
    assert message.endswith(f"jaccl-bootstrap pin --remove {IPS[0]}")
    assert pins.list() == {IPS[0]: A}
    pins.remove(IPS[0])
    pins.add(IPS[0], B)
    assert pins.list() == {IPS[0]: B}


def test_to_remove_what_is_not_pinned(pins: Pins) -> None:
    refused(lambda: pins.remove(IPS[0]), "not-pinned")
    assert list(pins.path.parent.iterdir()) == []
    pins.add(IPS[0], A)
    refused(lambda: pins.remove(IPS[1]), "not-pinned")
    assert pins.list() == {IPS[0]: A}


def test_a_remove_that_comes_second(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.add(IPS[0], A)
    locked = identity._PrivateFile.locked

    def after_another(file: identity._PrivateFile) -> AbstractContextManager[None]:
        monkeypatch.undo()
        Pins(pins.path).remove(IPS[0])
        return locked(file)

    monkeypatch.setattr(identity._PrivateFile, "locked", after_another)
    refused(lambda: pins.remove(IPS[0]), "not-pinned")


@pytest.mark.parametrize(
    "ip", ["", "mac.local", "::1", "169.254.1", "169.254.1.01", "255.255.255.255", "224.0.0.1", " 1.2.3.4"]
)
def test_what_is_no_ip(ip: str, pins: Pins) -> None:
    acts: list[Callable[[], object]] = [lambda: pins.get(ip), lambda: pins.add(ip, A), lambda: pins.remove(ip)]
    for act in acts:
        with pytest.raises(ConfigError) as caught:
            act()
        assert caught.value.code == "bad-ip"
    assert list(pins.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{",
        "{} {}",
        "\ufeff{}",
        "[" * 100_000,
        '{"":' * 100_000,
        "1" * 10_000,
        '{"169.254.1.1": NaN}',
        '{"169.254.1.1": null}',
        '{"169.254.1.1": 5}',
        '{"169.254.1.1": ["x"]}',
        '{"169.254.1.1": {"169.254.1.1": "x"}}',
        '{"169.254.1.1": ""}',
        '{"169.254.1.1": "\\ud800"}',
        f'{{"169.254.1.1": "{TEXT}\\n"}}',
        f'{{"169.254.1.1": "{other_padding_bits(TEXT)}"}}',
        f'{{"169.254.1.1": "{base64.b64encode(bytes(64)).decode()}"}}',
        f'{{"169.254.1.1": "{base64.b64encode(A[:63]).decode()}"}}',
        f'{{"mac.local": "{TEXT}"}}',
        f'{{"": "{TEXT}"}}',
        f'{{"\\ud800\\n\\u001b[31m": "{TEXT}"}}',
        f'{{"{"1" * 5000}": "{TEXT}"}}',
        f'{{"169.254.1.1": "{TEXT}", "169.254.1.1": "{TEXT}"}}',
        f'{{"169.254.1.1": "{TEXT}", "169.254.1.\\u0031": "{TEXT}"}}',
        f'{{"169.254.1.1": "{TEXT}",}}',
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_a_pins_file_that_is_not_right_is_refused_and_kept(text: str, pins: Pins) -> None:
    put(pins.path, text.encode())
    for act in (pins.list, lambda: pins.get(IPS[1]), lambda: pins.add(IPS[1], B), lambda: pins.remove(IPS[1])):
        message = refused(act, "pins-malformed")
        assert str(pins.path) in message
        assert message.isprintable()
        assert len(message) < 400
    assert pins.path.read_bytes() == text.encode()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32-be"])
def test_a_pins_file_that_is_not_utf_8(encoding: str, pins: Pins) -> None:
    put(pins.path, '{"é": ""}'.encode(encoding))
    refused(pins.list, "pins-malformed")


@given(data=st.binary() | st.text().map(str.encode) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just(TEXT),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(IPS), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_pins_or_a_refusal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pins = Pins(put(Path(directory) / "peers.json", data))
        try:
            found = pins.list()
        except IdentityError as error:
            assert error.code == "pins-malformed"  # noqa: PT017
        else:
            assert {ip: encode_public_key(key) for ip, key in found.items()} == json.loads(data)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "get"]), st.sampled_from(IPS), st.sampled_from(KEYS[:3])),
        max_size=20,
    )
)
def test_pins_are_a_dictionary_that_refuses_to_overwrite(steps: list[tuple[str, str, bytes]]) -> None:
    expected: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as directory:
        pins = Pins(Path(directory) / "peers.json")
        for step, ip, key in steps:
            if step == "get":
                assert pins.get(ip) == expected.get(ip)
            elif step == "remove" and ip not in expected:
                refused(lambda ip=ip: pins.remove(ip), "not-pinned")  # type: ignore[misc]
            elif step == "remove":
                assert pins.remove(ip) == expected.pop(ip)
            elif expected.get(ip, key) != key:
                refused(lambda ip=ip, key=key: pins.add(ip, key), "pin-conflict")  # type: ignore[misc]
            else:
                pins.add(ip, key)
                expected[ip] = key
            assert pins.list() == expected
        assert {file.name for file in Path(directory).iterdir()} <= {"peers.json", "peers.json.lock"}


def test_more_pins_than_could_be_read_again_are_not_written(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_PINS_FILE", 300)
    small = Pins(pins.path)
    small.add(IPS[0], A)
    small.add(IPS[1], A)
    refused(lambda: small.add(IPS[2], A), "too-large")
    assert small.list() == {IPS[0]: A, IPS[1]: A}
    assert list(pins.path.parent.glob(".*")) == []


def test_pins_of_8_processes_at_once_all_land(pins: Pins) -> None:
    code = """
for n in range(10):
    Pins(Path(arguments[0])).add(f"10.0.{number}.{n + 1}", decode_public_key(arguments[1]))
"""
    Together(8, code, str(pins.path), TEXT).go()
    assert pins.list() == {f"10.0.{number}.{n}": A for number in range(8) for n in range(1, 11)}
    assert {file.name for file in pins.path.parent.iterdir()} == {"peers.json", "peers.json.lock"}


def test_of_different_keys_for_one_ip_at_once_one_is_pinned(pins: Pins) -> None:
    code = """
key = decode_public_key(arguments[1 + int(number)])
try:
    Pins(Path(arguments[0])).add("10.0.0.1", key)
    print("pinned", key.hex())
except IdentityError as error:
    print(error.code)
"""
    outputs = Together(8, code, str(pins.path), *map(encode_public_key, KEYS)).go()
    key = pins.get("10.0.0.1")
    assert key is not None
    assert sorted(outputs) == ["pin-conflict\n"] * 7 + [f"pinned {key.hex()}\n"]


def test_adds_and_removes_of_threads_at_once(pins: Pins) -> None:
    def work(ip: str) -> None:
        for _ in range(5):
            pins.add(ip, A)
            pins.remove(ip)
        pins.add(ip, B)

    threads = [threading.Thread(target=work, args=(ip,)) for ip in IPS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pins.list() == dict.fromkeys(IPS, B)


def test_the_lock_is_free_after_a_refusal(pins: Pins) -> None:
    pins.add(IPS[0], A)
    refused(lambda: pins.add(IPS[0], B), "pin-conflict")
    with (pins.path.parent / "peers.json.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_file_that_is_a_link_is_not_followed(pins: Pins, tmp_path: Path) -> None:
    (tmp_path / "peers.json.lock").symlink_to(tmp_path / "target")
    message = refused(lambda: pins.add(IPS[0], A), "lock-failed")
    assert "peers.json.lock: it is a symbolic link; " in message
    assert not (tmp_path / "target").exists()


def test_the_error_is_one_of_the_package() -> None:
    assert issubclass(IdentityError, BootstrapError)
