"""`import wireproto` is light: it loads only what the codec needs."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "construct",
    "mlx",
    "hypothesis",
    "cryptography",
    "asyncio",
    "socket",
    "ssl",
    "numpy",
    "typer",
    "rich",
    "bootstrap",
}
USE = """
from wireproto import *
decoder = LinkDecoder()
frame = encode_frame(JacclBootstrapPayload(port=29400, session_id="a"))
(body,) = decoder.feed(encode_link_frame(frame))
assert decode_frame(body).port == 29400
try:
    decode_frame(b"\\x07{")
except WireError:
    pass
"""


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that the code loads in a fresh interpreter, beyond the initial ones."""
    script = f"import json, sys\nthere = {{*sys.modules}}\n{code}\nprint(json.dumps([*({{*sys.modules}} - there)]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "code",
    [
        "import wireproto",
        "import wireproto.errors, wireproto.messages\n"
        "import wireproto.codec.frame, wireproto.codec.link, wireproto.codec.json_scanner",
        "import wireproto.codec.tensor",
        USE,
    ],
    ids=["package", "codec-modules", "tensor", "in-use"],
)
def test_light(code: str) -> None:
    loaded = loaded_by(code)
    assert {"wireproto", "msgspec"} <= loaded
    assert loaded & HEAVY == set()


SESSION_NAMES = (
    *("Closed", "Config", "Confirmed", "Established", "Event", "KeyNearLimit"),
    *("MessageIgnored", "MessageReceived", "Role", "Session", "State"),
)


def test_the_session_loads_on_first_use() -> None:
    """Only the use of one of its names in `wireproto` loads cryptography, and none loads asyncio."""
    assert "cryptography" in loaded_by("from wireproto import Session")
    assert loaded_by("from wireproto import Session, LocalError, RemoteError") & HEAVY == {"cryptography"}
    import wireproto
    from wireproto import session

    for name in SESSION_NAMES:
        assert getattr(wireproto, name) is getattr(session, name)
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = wireproto.Sesion  # type: ignore[attr-defined]


def test_imports_without_fork_or_unix_modules() -> None:
    """As on Windows. The libraries are imported first, because they behave differently there."""
    code = """
import os, sys
import wireproto.session
for name in [name for name in sys.modules if name.partition(".")[0] == "wireproto"]:
    del sys.modules[name]
for name in ("fork", "forkpty", "register_at_fork"):
    delattr(os, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None  # importing it raises ImportError
sys.platform, os.name = "win32", "nt"
import wireproto, wireproto.session, wireproto.schema, wireproto.jaccl
"""
    assert "wireproto" in loaded_by(code)


def test_the_probe_sees_what_is_loaded() -> None:
    assert "construct" in loaded_by("import wireproto.schema")


def test_schema_needs_nothing_else_that_is_heavy() -> None:
    assert loaded_by("import wireproto.schema") & (HEAVY - {"construct"}) == set()


def test_public_names() -> None:
    import wireproto

    assert sorted(wireproto.__all__, key=str.casefold) == sorted(set(wireproto.__all__), key=str.casefold)
    assert all(hasattr(wireproto, name) for name in wireproto.__all__)


def test_valid_frames_need_no_scanner() -> None:
    """It would increase the import time by a third."""
    code = USE.partition("try:")[0] + "import sys; assert 'wireproto.codec.json_scanner' {} sys.modules"
    loaded_by(code.format("not in"))
    loaded_by(USE + code.format("in"))


def test_the_command_loads_what_its_tools_need_only_with_them() -> None:
    assert loaded_by("import wireproto.cli.app") & HEAVY == {"typer"}
