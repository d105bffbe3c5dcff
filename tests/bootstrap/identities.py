"""Identity keys, their files and pins; and processes that access them at the same moment."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootstrap.errors import IdentityError
from wireproto.session.handshake import KeySigner

IPS = [f"169.254.1.{number}" for number in range(1, 9)]
KEYS = [KeySigner(ec.derive_private_key(number, ec.SECP256R1())).public_key for number in range(1, 9)]
A, B = KEYS[:2]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


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


START = """
import sys
from pathlib import Path
from bootstrap import private_file
from bootstrap.errors import *
from bootstrap.trust import *
private_file.LOCK_SECONDS = 60
print("ready", flush=True)
sys.stdin.read()
number, *arguments = sys.argv[1:]
"""


class Together:
    """Start processes that run `code` after their imports, all when `go` is called."""

    def __init__(self, count: int, code: str, *arguments: str) -> None:
        script = START + code
        gate, self._hold = os.pipe()  # all wait for its end of file
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
