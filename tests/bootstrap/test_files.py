"""Files with secrets or named by users: refusals, no blocking, and writing."""

import errno
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap import files
from bootstrap.errors import ConfigError, TopologyWriteError
from bootstrap.files import open_private, private_directory, remove_file, write_file, written
from bootstrap.link.record import VARIABLE, open_capture, open_key_log


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
    (lambda path: os.mkfifo(path, 0o600), "it is a pipe without a reader"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=["link", "mode", "hard link", "directory", "pipe"])
def test_what_is_no_private_file_is_refused(
    make: Callable[[Path], object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captures overwrote the target of a link, and key logs waited for a pipe's reader."""
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
    """It was once a traceback: 'ascii' codec can't encode."""
    arguments = [sys.executable, "-m", "bootstrap", "identity", "--identity", str(tmp_path / "schlüssel")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(arguments, capture_output=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"schl\\xfcssel" in done.stdout


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_file_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "file.json"
    before = os.umask(umask)
    try:
        write_file(path, b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_file(path, b"first")
    with path.open("rb") as reader:
        write_file(path, b"second")
        assert reader.read() == b"first"
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_refused(tmp_path: Path, exists: bool) -> None:
    target, path = tmp_path / "target", tmp_path / "file.json"
    if exists:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(TopologyWriteError, match="symbolic link") as caught:
        write_file(path, b"data")
    assert caught.value.code == "not-a-regular-file"
    assert path.is_symlink()
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"precious"


def test_a_link_put_there_in_the_middle_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, path = tmp_path / "target", tmp_path / "file.json"
    target.write_bytes(b"precious")
    monkeypatch.setattr(files, "_refuse_irregular", lambda path: path.symlink_to(target))
    write_file(path, b"data")
    assert target.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: type[Path]) -> None:
    path = tmp_path / "file.json"
    make(path)
    with pytest.raises(TopologyWriteError, match="not a regular file"):
        write_file(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_directory_is_named_with_the_systems_reason(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file.json"
    with pytest.raises(
        TopologyWriteError, match=re.escape(f"cannot write {path}: No such file or directory")
    ) as caught:
        write_file(path, b"data")
    assert caught.value.stage == "topology"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TopologyWriteError, match="No space left"):
        write_file(tmp_path / "file.json", b"data")
    assert list(tmp_path.iterdir()) == []


def test_written_removes_the_file_even_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def fail_inside() -> None:
        with written(path, b"data"):
            assert path.read_bytes() == b"data"
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


def test_written_leaves_what_somebody_else_wrote(tmp_path: Path) -> None:
    path, other = tmp_path / "file.json", tmp_path / "other"
    other.write_bytes(b"theirs")
    with written(path, b"data"):
        other.replace(path)
    assert path.read_bytes() == b"theirs"


def test_written_does_not_mind_that_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with written(path, b"data"):
        remove_file(path)
        remove_file(path)


def test_a_removal_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(TopologyWriteError, match="cannot remove") as caught:
        remove_file(tmp_path)
    assert caught.value.code == "remove-failed"


def test_a_private_directory_is_for_its_owner_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "private"

    def fail_inside() -> None:
        with private_directory(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            (path / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("target")])
def test_a_private_directory_is_new(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "private"
    make(path)
    with pytest.raises(TopologyWriteError, match="File exists; check TMPDIR") as caught, private_directory(path):
        pass
    assert caught.value.code == "directory-failed"
    assert list(tmp_path.iterdir()) == [path]
