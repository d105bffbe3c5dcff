"""Public keys as text, and the file of pinned ones: real files and real processes."""

import base64
import fcntl
import json
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import BootstrapError, ConfigError
from bootstrap import trust as identity
from bootstrap.trust import IdentityError, Pins, decode_public_key, encode_public_key
from tests.bootstrap.identities import IPS, KEYS, P256_ORDER, A, B, Together, mode, put, refused
from wireproto.session.handshake import KeySigner, fingerprint


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    return Pins(tmp_path / "peers.json")


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


def test_adds_and_removes_of_threads_at_once(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootstrap.trust.LOCK_SECONDS", 60)  # its turn may not come sooner on a busy machine

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
