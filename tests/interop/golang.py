"""Build the peer in Go, or say what is missing for it."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "go"
_LIBRARY = Path("/usr/share/gocode/src/golang.org/x/crypto")
"""The path in go.mod, where the Debian package installs the library."""


def missing() -> str | None:
    """Return what the build lacks, or None."""
    if shutil.which("go") is None:
        return "go is not installed (Debian: golang-go)"
    if not _LIBRARY.is_dir():
        return "golang.org/x/crypto is not installed (Debian: golang-golang-x-crypto-dev)"
    return None


def go(*arguments: str) -> str:
    """Run the go command in the source directory, without a network, and return its output."""
    done = subprocess.run(
        ["go", *arguments],
        cwd=SOURCE,
        env={**os.environ, "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(directory: Path) -> Path:
    """Build `peer` and `codec` in a directory that other processes may share."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "built").exists():
            go("build", "-o", f"{directory}/", "./cmd/...")
            (directory / "built").touch()
    return directory
