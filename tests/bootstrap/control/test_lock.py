"""One group a host: processes that really contend, and what a killed run left behind."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.control import lock
from bootstrap.control.lock import UNKNOWN, Lock, LockError, Process, Record, holder, host_lock, lock_path, process
from tests.bootstrap.conftest import SECONDS, wait_until

IP = "127.0.0.1"

HOLD = """
import sys
from bootstrap.control.lock import LockError, host_lock
sys.stdin.readline()
try:
    with host_lock("127.0.0.1"):
        print("held", flush=True)
        sys.stdin.read()
except LockError as error:
    print(error.code, error, flush=True)
"""

CHURN = """
import os, sys
from pathlib import Path
from bootstrap.control.lock import LockError, host_lock
marker = Path(sys.argv[1])
for _ in range(200):
    try:
        with host_lock("127.0.0.1"):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))  # fails where another process is in here, too
            marker.unlink()
    except LockError as error:
        assert error.code == "host-busy", error
"""

RUN = """
import sys
from pathlib import Path
from subprocess import DEVNULL, Popen
from bootstrap.control.lock import host_lock
with host_lock("127.0.0.1") as lock:
    worker = Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True, stdin=DEVNULL, stdout=DEVNULL)
    directory = Path(sys.argv[2])
    lock.watch_directory(directory)
    directory.mkdir()
    lock.watch(worker.pid)
    print(worker.pid, flush=True)
    sys.stdin.read()
"""
"""A run with one worker, without a guard."""

DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
signal.pause()
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, of this process and of its children."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    monkeypatch.setenv("TMPDIR", str(tmp))
    return tmp


class Children:
    """Processes with a pipe to and from each; none outlives its test."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self.groups: list[int] = []
        """Process groups that these have started."""

    def start(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._started.append(child)
        return child

    def end(self) -> None:
        for child in self._started:
            child.kill()
            child.communicate()
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.end()


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


def go(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def refusal(ip: str = IP) -> tuple[str, str]:
    with pytest.raises(LockError) as caught, host_lock(ip):
        pytest.fail("the lock was had")
    assert caught.value.stage == "lock"
    return caught.value.code, str(caught.value)


def descriptors() -> int:
    return psutil.Process().num_fds()


# -- held, and let go --------------------------------------------------------------------------------------------------


def test_the_file_is_there_while_the_lock_is_held_and_gone_afterwards(tmp: Path) -> None:
    with host_lock(IP) as held:
        assert list(tmp.iterdir()) == [held.path] == [lock_path(IP)]
        assert record(held) == Record(process(os.getpid()), (), ())
        assert held.path.stat().st_mode & 0o777 == 0o600
        assert held.left_over == []
    assert list(tmp.iterdir()) == []


def test_a_failure_inside_lets_go_of_it_and_stays_what_it_is(tmp: Path) -> None:
    before = descriptors()
    with pytest.raises(BrokenPipeError), host_lock(IP):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert list(tmp.iterdir()) == []
    assert descriptors() == before


def test_one_host_has_one_lock_and_each_loopback_address_is_a_host(tmp: Path) -> None:
    with host_lock("127.0.0.1"), host_lock("127.0.0.2"), host_lock("169.254.1.1"):
        assert len(list(tmp.iterdir())) == 3
        for ip in ("127.0.0.2", "169.254.1.1", "10.0.0.1"):
            assert refusal(ip)[0] == "host-busy"
    assert lock_path("169.254.1.1") == lock_path("10.0.0.1") == tmp / "jaccl-bootstrap.lock"
    assert lock_path("127.1.2.3") == tmp / "jaccl-bootstrap-127.1.2.3.lock"


def test_another_process_has_it(children: Children) -> None:
    child = children.start(HOLD)
    go(child)
    assert line(child) == "held"
    code, text = refusal()
    assert code == "host-busy"
    assert text.startswith(f"process {child.pid} runs a group on this host already ({lock_path(IP)})")
    assert holder(IP) == process(child.pid)
    child.communicate()
    assert holder(IP) is None
    with host_lock(IP) as held:
        assert held.left_over == []


def test_of_many_at_once_one_has_it(children: Children, tmp: Path) -> None:
    contenders = [children.start(HOLD) for _ in range(6)]
    for child in contenders:
        go(child)
    said = [line(child).split()[0] for child in contenders]
    assert sorted(said) == ["held"] + ["host-busy"] * 5
    for child in contenders:
        child.communicate()
    assert list(tmp.iterdir()) == []


def test_never_two_at_once(children: Children, tmp: Path, tmp_path: Path) -> None:
    """The file is removed and made anew all the time; who has locked one that is gone has locked nothing."""
    churning = [children.start(CHURN, str(tmp_path / "marker")) for _ in range(3)]
    for child in churning:
        child.communicate(timeout=SECONDS)
    assert [child.returncode for child in churning] == [0, 0, 0]
    assert list(tmp.iterdir()) == []


def test_a_child_that_lives_on_does_not_keep_it() -> None:
    with host_lock(IP):
        sleeper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        with host_lock(IP):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


# -- what a killed run left --------------------------------------------------------------------------------------------


def test_a_killed_runs_worker_is_ended_with_all_that_it_started(children: Children, tmp: Path) -> None:
    directory = tmp / "jaccl-bootstrap-0011223344556677"
    run = children.start(RUN, DEAF, str(directory))
    worker = psutil.Process(int(line(run)))
    children.groups.append(worker.pid)
    wait_until(lambda: len(worker.children()) == 1, "the worker has a child")
    (grandchild,) = worker.children()
    run.kill()
    run.communicate()
    assert worker.is_running()
    with host_lock(IP) as held:
        assert held.left_over == [worker.pid]
        assert not directory.exists()
    wait_until(lambda: not process_lives(worker) and not process_lives(grandchild), "both are gone")
    assert list(tmp.iterdir()) == []


def test_a_killed_runs_directory_goes_even_where_its_worker_had_not_started(tmp: Path) -> None:
    directory = tmp / "jaccl-bootstrap-x"
    with host_lock(IP) as killed:
        killed.watch_directory(directory)
        directory.mkdir()
        said = lock_path(IP).read_bytes()
    lock_path(IP).write_bytes(said)
    with host_lock(IP) as held:
        assert held.left_over == []
        assert not directory.exists()


def test_a_worker_that_has_ended_at_once_is_not_written_down() -> None:
    worker = subprocess.Popen(["true"])
    worker.wait()
    with host_lock(IP) as held:
        held.watch(worker.pid)
        assert record(held).workers == ()


def test_what_is_gone_is_forgotten(tmp: Path, bystander: Process) -> None:
    """However often a run starts its worker anew, the record stays one that the next run reads."""
    with host_lock(IP) as held:
        before = record(held)
        for number in range(2000):
            directory = tmp / f"jaccl-bootstrap-{number}"
            held.watch_directory(directory)
            held.watch(bystander.pid)
            assert record(held).workers == (bystander,)
            assert record(held).directories == (str(directory),)
            held.forget(bystander.pid, directory)
        assert record(held) == before
        assert held.path.stat().st_size < 1000


def process_lives(each: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def bystander() -> Iterator[Process]:
    """A process of its own group that has nothing to do with any run."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    yield process(child.pid)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def record(held: Lock) -> Record:
    return msgspec.json.decode(held.path.read_bytes(), type=Record)


def leave(workers: Any = (), directories: Any = ()) -> None:
    """A lock file as a killed run leaves it."""
    said = {"holder": (4, 1.0), "workers": workers, "directories": directories}
    lock_path(IP).write_bytes(msgspec.json.encode(said))


def test_a_process_that_has_the_number_of_a_worker_is_not_touched(bystander: Process, tmp: Path) -> None:
    leave([[bystander.pid, bystander.start - 1.0]])
    with host_lock(IP) as held:
        assert held.left_over == []
    assert bystander.alive()


def test_a_process_with_number_and_start_is_the_worker(bystander: Process, tmp: Path) -> None:
    leave([[bystander.pid, bystander.start]])
    with host_lock(IP) as held:
        assert held.left_over == [bystander.pid]
        assert not bystander.alive()


def test_only_directories_of_runs_are_removed(tmp: Path, tmp_path: Path) -> None:
    outside, other, file = tmp_path / "jaccl-bootstrap-outside", tmp / "precious", tmp / "jaccl-bootstrap-file"
    for each in (outside, other):
        each.mkdir()
        (each / "file").touch()
    file.touch()
    link = tmp / "jaccl-bootstrap-link"
    link.symlink_to(other)
    wrong = [outside, other, link, file, tmp, tmp / "jaccl-bootstrap-x" / ".." / "precious", Path("/"), Path()]
    leave(directories=[str(each) for each in wrong])
    with host_lock(IP) as held:
        assert held.left_over == []
    assert (outside / "file").exists()
    assert (other / "file").exists()
    assert link.is_symlink()


GOOD = msgspec.json.encode({"holder": [4, 1.0], "workers": [[5, 1.0]], "directories": ["/d"]})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 60_000,
        b'{"x":' * 10_000,
        b"x" * 1_000_000,
        b'{"holder":[4,1.0]}',
        b'{"holder":[4],"workers":[],"directories":[]}',
        b'{"holder":[4,1.0],"workers":5,"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[[5,1.0],"/d"]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[0,1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[1,1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[-1,1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[1e999,1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[99999999999999999999,1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[["5",1.0]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[[5,NaN]],"directories":[]}',
        b'{"holder":[4,1.0],"workers":[],"directories":[7]}',
        b'{"holder":[4,1.0],"workers":[],"directories":5}',
        *(GOOD[:end] for end in range(1, len(GOOD), 7)),
    ],
)
def test_a_file_that_says_nothing_is_taken_over(data: bytes, tmp: Path) -> None:
    lock_path(IP).write_bytes(data)
    with host_lock(IP) as held:
        assert held.left_over == []
        assert record(held).workers == ()
    assert list(tmp.iterdir()) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["holder", "workers", "directories"]), inner)
    ),
    max_leaves=12,
)


@given(VALUES.map(msgspec.json.encode) | st.binary(max_size=40))
def test_whatever_a_file_says(data: bytes) -> None:
    said = lock._record(data)
    assert said is None or all(worker.pid > 1 for worker in said.workers)


# -- a file that cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_not_followed(exists: bool, tmp: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if exists:
        target.write_bytes(b"precious")
    lock_path(IP).symlink_to(target)
    code, text = refusal()
    assert code == "lock-failed"
    assert text.startswith(f"cannot use the lock file {lock_path(IP)}: ")
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"precious"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file(make: Callable[[Path], None], tmp: Path) -> None:
    make(lock_path(IP))
    assert refusal()[0] == "lock-failed"


def test_no_directory_for_temporary_files(tmp: Path) -> None:
    tmp.rmdir()
    code, text = refusal()
    assert code == "lock-failed"
    assert "No such file or directory; mend that, or set TMPDIR" in text


def test_a_file_in_place_of_the_directory(tmp: Path) -> None:
    tmp.rmdir()
    tmp.touch()
    assert refusal()[0] == "lock-failed"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EMFILE])
def test_the_file_cannot_be_opened(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission bits do not stop root, so the system's answer is put in its mouth."""

    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    code, text = refusal()
    assert code == "lock-failed"
    assert os.strerror(number) in text


def full(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_disk_is_full(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        assert refusal()[0] == "lock-failed"
    assert list(tmp.iterdir()) == []
    assert descriptors() == before


def test_the_disk_becomes_full(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with host_lock(IP) as held:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LockError) as caught:
            held.watch(os.getpid())
        assert caught.value.code == "lock-failed"
    assert list(tmp.iterdir()) == []


def test_a_full_disk_leaves_the_last_record(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with host_lock(IP) as held:
        held.watch_directory(tmp / "jaccl-bootstrap-x")
        before = record(held)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LockError, match="No space left on device"):
            held.watch_directory(tmp / "jaccl-bootstrap-y")
        held.forget(5, tmp / "jaccl-bootstrap-x")
        assert record(held) == before


def test_another_users_file_is_not_believed(bystander: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says would end processes of this user's."""
    leave([[bystander.pid, bystander.start]])
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    code, text = refusal()
    assert code == "lock-failed"
    assert "it belongs to another user" in text
    assert bystander.alive()
    assert lock_path(IP).exists()


def test_a_file_that_vanishes_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    flock, calls = lock.fcntl.flock, []

    def vanish(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        calls.append(descriptor)
        if len(calls) < 4:
            lock_path(IP).unlink()
            if len(calls) < 3:
                lock_path(IP).touch()  # another run's

    monkeypatch.setattr(lock.fcntl, "flock", vanish)
    with host_lock(IP):
        assert len(calls) == 4
    assert descriptors() == before


def test_a_file_that_vanishes_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(lock.fcntl, "flock", lambda descriptor, operation: lock_path(IP).unlink())
    code, text = refusal()
    assert (code, "changes all the time; try again" in text) == ("host-busy", True)
    assert descriptors() == before


# -- who holds it ------------------------------------------------------------------------------------------------------


def test_nobody_holds_what_is_not_there() -> None:
    assert holder(IP) is None


def test_nobody_holds_what_is_not_locked() -> None:
    leave([])
    assert holder(IP) is None
    assert lock_path(IP).exists()


@pytest.mark.parametrize("data", [b"", GOOD[:9], b"[" * 60_000])
def test_a_holder_that_does_not_say_who_it_is(data: bytes) -> None:
    with host_lock(IP) as held:
        assert holder(IP) == process(os.getpid())
        held.path.write_bytes(data)
        assert holder(IP) == UNKNOWN
        assert refusal() == (
            "host-busy",
            f"another process runs a group on this host already ({held.path}); wait for its end, or end it",
        )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_nobody_holds_what_is_no_file(make: Callable[[Path], None]) -> None:
    """And nobody is waited for."""
    make(lock_path(IP))
    assert holder(IP) is None


def test_who_asks_lets_go_again() -> None:
    leave([])
    before = descriptors()
    holder(IP)
    assert descriptors() == before
    with host_lock(IP):
        holder(IP)
        assert descriptors() == before + 1
