"""Files that hold secrets, or that a user names: what is refused, and that nothing blocks."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.errors import ConfigError
from bootstrap.files import open_private
from bootstrap.keylog import VARIABLE, open_key_log
from bootstrap.link.record import open_capture


def wide(path: Path) -> None:
    path.touch(0o644)
    path.chmod(0o644)


def linked(path: Path) -> None:
    path.with_name("first").touch(0o600)
    path.hardlink_to(path.with_name("first"))


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.symlink_to(path.with_name("target")), "it is a symbolic link"),
    (wide, "others can read it (mode 0644)"),
    (linked, "it has a second name"),
    (Path.mkdir, os.strerror(errno.EISDIR)),
    (lambda path: os.mkfifo(path, 0o600), "it is a pipe that nobody reads"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=["link", "mode", "hard link", "directory", "pipe"])
def test_what_is_no_private_file_is_refused(
    make: Callable[[Path], object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By captures, which overwrote what a link named, and by key logs, which waited for a pipe's reader."""
    path, target = tmp_path / "file", tmp_path / "target"
    target.write_text("precious")
    make(path)
    with pytest.raises(ConfigError) as capture_error, open_capture(path):
        pass
    assert reason in str(capture_error.value)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(ConfigError) as caught, open_key_log():
        pass
    assert reason in str(caught.value)
    assert target.read_text() == "precious"


def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(0o600)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(OSError, match=f"it belongs to user {uid}"):
        open_private(tmp_path / "file")


def test_a_new_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    os.close(open_private(tmp_path / "file"))
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0


def test_a_full_disk_ends_the_key_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv(VARIABLE, str(tmp_path / "keys"))
    with caplog.at_level(logging.WARNING), open_key_log() as log:
        assert log is not None
        assert log.write("first\n") == 6
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", full)
            log.write("second\n")
        log.write("third\n")
        log.flush()
    assert (tmp_path / "keys").read_text() == "first\n"
    assert caplog.text.count("ends here: No space left on device") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_harm_nothing(closed: str, tmp_path: Path) -> None:
    command = f'"$@" {closed}'
    arguments = [sys.executable, "-m", "bootstrap", "identity", "--identity", str(tmp_path / "key")]
    done = subprocess.run(["/bin/sh", "-c", command, "sh", *arguments], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "key").exists()


def test_any_encoding_of_stdout_works(tmp_path: Path) -> None:
    """A traceback once: 'ascii' codec can't encode."""
    arguments = [sys.executable, "-m", "bootstrap", "identity", "--identity", str(tmp_path / "schlüssel")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(arguments, capture_output=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"schl\\xfcssel" in done.stdout
