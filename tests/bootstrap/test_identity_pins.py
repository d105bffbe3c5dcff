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
from bootstrap.errors import IdentityError
from bootstrap.private_file import PrivateFile
from bootstrap.trust import PinnedPeer, Pins, decode_public_key, encode_public_key
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
ENTRY = json.dumps({"key": TEXT, "address": "169.254.1.1"})


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
    assert pins.list() == []
    assert pins.get("mac-b") is None
    assert pins.at(IPS[0]) is None
    assert list(pins.path.parent.iterdir()) == []  # reading creates nothing
    assert pins.add("mac-c", A) == ("mac-c", A, None)
    assert pins.add("mac-b", B, "169.254.1.9") == ("mac-b", B, "169.254.1.9")
    assert pins.get("mac-b") == pins.at("169.254.1.9") == ("mac-b", B, "169.254.1.9")
    assert pins.list() == [("mac-b", B, "169.254.1.9"), ("mac-c", A, None)]
    assert pins.path.read_text() == (
        f'{{\n  "mac-b": {{\n    "key": "{encode_public_key(B)}",\n    "address": "169.254.1.9"\n  }},\n'
        f'  "mac-c": {{\n    "key": "{encode_public_key(A)}",\n    "address": null\n  }}\n}}\n'
    )
    assert pins.remove("mac-b") == ("mac-b", B, "169.254.1.9")
    assert pins.list() == [("mac-c", A, None)]
    pins.remove("mac-c")
    assert pins.list() == []


def test_a_name_that_is_an_address(pins: Pins) -> None:
    assert pins.add(IPS[0], A) == (IPS[0], A, IPS[0])
    assert pins.moved(PinnedPeer(IPS[0], A, IPS[0]), IPS[1])
    assert pins.list() == [(IPS[0], A, IPS[1])]
    pins.add(IPS[0], A)
    assert pins.list() == [(IPS[0], A, IPS[0])]
    with pytest.raises(ConfigError) as caught:
        pins.add(IPS[0], A, IPS[1])
    assert caught.value.code == "bad-name"


def test_no_two_pins_have_one_address(pins: Pins) -> None:
    """The newer one gets it."""
    pins.add("mac-b", A, IPS[0])
    pins.add("mac-c", B, IPS[0])
    assert pins.list() == [("mac-b", A, None), ("mac-c", B, IPS[0])]
    assert pins.moved(PinnedPeer("mac-b", A, None), IPS[0])
    assert pins.list() == [("mac-b", A, IPS[0]), ("mac-c", B, None)]


def test_an_address_is_kept_until_another_is_given(pins: Pins) -> None:
    pins.add("mac-b", A, IPS[0])
    pins.add("mac-b", A)
    assert pins.list() == [("mac-b", A, IPS[0])]
    pins.add("mac-b", A, IPS[1])
    assert pins.list() == [("mac-b", A, IPS[1])]


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
    assert pins.list() == [(IPS[0], A, IPS[0])]
    pins.remove(IPS[0])
    pins.add(IPS[0], B)
    assert pins.list() == [(IPS[0], B, IPS[0])]


def test_to_remove_what_is_not_pinned(pins: Pins) -> None:
    refused(lambda: pins.remove(IPS[0]), "not-pinned")
    assert list(pins.path.parent.iterdir()) == []
    pins.add(IPS[0], A)
    refused(lambda: pins.remove(IPS[1]), "not-pinned")
    assert pins.list() == [(IPS[0], A, IPS[0])]


def test_a_remove_that_comes_second(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.add(IPS[0], A)
    locked = PrivateFile.locked

    def after_another(file: PrivateFile) -> AbstractContextManager[None]:
        monkeypatch.undo()
        Pins(pins.path).remove(IPS[0])
        return locked(file)

    monkeypatch.setattr(PrivateFile, "locked", after_another)
    refused(lambda: pins.remove(IPS[0]), "not-pinned")


@pytest.mark.parametrize("ip", ["", "mac.local", "::1", "169.254.1", "169.254.1.01", "224.0.0.1", " 1.2.3.4"])
def test_what_is_no_address(ip: str, pins: Pins) -> None:
    acts: list[Callable[[], object]] = [
        lambda: pins.at(ip),
        lambda: pins.add("mac-b", A, ip),
        lambda: pins.moved(PinnedPeer("mac-b", A, None), ip),
    ]
    for act in acts:
        with pytest.raises(ConfigError) as caught:
            act()
        assert caught.value.code == "bad-ip"
    assert list(pins.path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", "bad-name"),
        ("-b", "bad-name"),
        (".b", "bad-name"),
        ("mac b", "bad-name"),
        ("mac=b", "bad-name"),
        ("mac-b\n", "bad-name"),
        ("m\u00e4c", "bad-name"),
        ("::1", "bad-name"),
        ("a" * 65, "bad-name"),
        ("\x1b[31m" * 100, "bad-name"),
        ("1", "bad-ip"),
        ("169.254.1", "bad-ip"),
        ("169.254.1.01", "bad-ip"),
        ("255.255.255.255", "bad-ip"),
    ],
)
def test_what_is_no_name(name: str, code: str, pins: Pins) -> None:
    acts: list[Callable[[], object]] = [lambda: pins.get(name), lambda: pins.add(name, A), lambda: pins.remove(name)]
    for act in acts:
        with pytest.raises(ConfigError) as caught:
            act()
        assert caught.value.code == code
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200
    assert list(pins.path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "_", "a" * 64, "mac-b.local", "Mac_B", "0a"])
def test_what_is_a_name(name: str, pins: Pins) -> None:
    pins.add(name, A)
    assert pins.list() == [(name, A, None)]


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
        '{"mac-b": NaN}',
        '{"mac-b": null}',
        '{"mac-b": ["x"]}',
        f'{{"mac-b": "{TEXT}"}}',
        '{"mac-b": {}}',
        f'{{"mac-b": {{"key": "{TEXT}"}}}}',
        '{"mac-b": {"key": null, "address": null}}',
        '{"mac-b": {"key": 5, "address": null}}',
        '{"mac-b": {"key": "", "address": null}}',
        '{"mac-b": {"key": "\\ud800", "address": null}}',
        f'{{"mac-b": {{"key": "{TEXT}", "address": null, "port": 1}}}}',
        f'{{"mac-b": {{"key": "{TEXT}", "address": 5}}}}',
        f'{{"mac-b": {{"key": "{TEXT}", "address": ""}}}}',
        f'{{"mac-b": {{"key": "{TEXT}", "address": "169.254.1.01"}}}}',
        f'{{"mac-b": {{"key": "{TEXT}", "address": "\\n\\u001b[31m"}}}}',
        f'{{"mac-b": {{"key": "{TEXT}", "key": "{TEXT}", "address": null}}}}',
        *(
            f'{{"mac-b": {{"key": "{key}", "address": null}}}}'
            for key in (
                f"{TEXT}\\n",
                other_padding_bits(TEXT),
                base64.b64encode(bytes(64)).decode(),
                base64.b64encode(A[:63]).decode(),
            )
        ),
        *(
            f'{{"{name}": {ENTRY}}}'
            for name in ("", "mac b", "169.254.1", "\\ud800\\n\\u001b[31m", "1" * 5000, "a" * 5000)
        ),
        f'{{"mac-b": {ENTRY}, "mac-b": {ENTRY}}}',
        f'{{"mac-b": {ENTRY}, "mac-\\u0062": {ENTRY}}}',
        f'{{"mac-b": {ENTRY}, "mac-c": {ENTRY}}}',
        f'{{"mac-b": {ENTRY},}}',
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
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([TEXT, *IPS]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["key", "address", *IPS]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_pins_or_a_refusal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pins = Pins(put(Path(directory) / "peers.json", data))
        try:
            found = pins.list()
        except IdentityError as error:
            assert error.code == "pins-malformed"  # noqa: PT017
        else:
            shown = {pin.name: {"key": encode_public_key(pin.key), "address": pin.address} for pin in found}
            assert shown == json.loads(data)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "get", "moved"]),
            st.sampled_from(["mac-b", "mac-c", IPS[0]]),
            st.sampled_from(KEYS[:2]),
            st.none() | st.sampled_from(IPS[:3]),
        ),
        max_size=20,
    )
)
def test_pins_are_a_dictionary_that_refuses_to_overwrite(steps: list[tuple[str, str, bytes, str | None]]) -> None:
    expected: dict[str, tuple[bytes, str | None]] = {}

    def place(name: str, key: bytes, address: str | None) -> None:
        for other, (its_key, its_address) in expected.items():
            if its_address == address:
                expected[other] = its_key, None
        expected[name] = key, address

    with tempfile.TemporaryDirectory() as directory:
        pins = Pins(Path(directory) / "peers.json")
        for step, name, key, ip in steps:
            address = name if step == "add" and name in IPS else ip
            known, known_address = expected.get(name, (None, None))
            if step == "get":
                assert pins.get(name) == (None if known is None else (name, known, known_address))
            elif step == "remove" and known is None:
                refused(lambda name=name: pins.remove(name), "not-pinned")  # type: ignore[misc]
            elif step == "remove":
                assert pins.remove(name) == (name, *expected.pop(name))
            elif step == "moved":
                to = ip or IPS[7]
                assert pins.moved(PinnedPeer(name, key, None), to) == (known == key and known_address != to)
                if known == key:
                    place(name, key, to)
            elif known not in (None, key):
                refused(lambda name=name, key=key: pins.add(name, key), "pin-conflict")  # type: ignore[misc]
            else:
                pins.add(name, key, address)
                place(name, key, address or known_address)
            assert pins.list() == sorted((name, *pin) for name, pin in expected.items())
        assert {file.name for file in Path(directory).iterdir()} <= {"peers.json", "peers.json.lock"}


def test_more_pins_than_could_be_read_again_are_not_written(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_PINS_FILE", 400)
    small = Pins(pins.path)
    small.add(IPS[0], A)
    small.add(IPS[1], A)
    refused(lambda: small.add(IPS[2], A), "too-large")
    assert [pin.name for pin in small.list()] == IPS[:2]
    assert list(pins.path.parent.glob(".*")) == []


def test_pins_of_8_processes_at_once_all_land(pins: Pins) -> None:
    code = """
for n in range(10):
    Pins(Path(arguments[0])).add(f"10.0.{number}.{n + 1}", decode_public_key(arguments[1]))
"""
    Together(8, code, str(pins.path), TEXT).go()
    assert {pin.name: pin.key for pin in pins.list()} == {
        f"10.0.{number}.{n}": A for number in range(8) for n in range(1, 11)
    }
    assert {file.name for file in pins.path.parent.iterdir()} == {"peers.json", "peers.json.lock"}


def test_of_different_keys_for_one_name_at_once_one_is_pinned(pins: Pins) -> None:
    code = """
key = decode_public_key(arguments[1 + int(number)])
try:
    Pins(Path(arguments[0])).add("mac-b", key)
    print("pinned", key.hex())
except IdentityError as error:
    print(error.code)
"""
    outputs = Together(8, code, str(pins.path), *map(encode_public_key, KEYS)).go()
    (pin,) = pins.list()
    assert sorted(outputs) == ["pin-conflict\n"] * 7 + [f"pinned {pin.key.hex()}\n"]


def test_adds_and_removes_of_threads_at_once(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootstrap.private_file.LOCK_SECONDS", 60)  # its turn may be late on a busy machine

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
    assert pins.list() == [(ip, B, ip) for ip in IPS]


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
