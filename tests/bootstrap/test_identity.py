"""The identity key: real files and real processes.

The tests may run as root, whom permission bits do not stop: a directory that cannot be made is one beneath a regular
file, or in /proc.
"""

import errno
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import trust as identity
from bootstrap.errors import IdentityError
from bootstrap.private_file import PrivateFile, config_directory
from bootstrap.trust import (
    Pins,
    decode_public_key,
    encode_public_key,
    load_identity,
)
from tests.bootstrap.identities import IPS, A, B, Together, mode, put, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".config" / "cluster-wireproto" / "identity.pem"


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
    assert message.endswith(f"to create a key, run: jaccl-bootstrap identity --identity {path}")
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
    return (
        pem(P256)
        if use is use_identity
        else json.dumps({IPS[0]: {"key": encode_public_key(A), "address": IPS[0]}}).encode()
    )


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
        # A socket's path must be short.
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
    monkeypatch.setattr(PrivateFile, "_check", lambda self, status: None)
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
        pem(P256, form=serialization.PrivateFormat.TraditionalOpenSSL),  # the format of `openssl ecparam -genkey`
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
    """Two directories in which not even root can create a file."""
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
