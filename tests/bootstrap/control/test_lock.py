"""One live group per host: real locks, in this process and in others, and the remains of a killed run."""

import errno
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.control import lock
from bootstrap.control.lock import (
    LOCK_PORT,
    UNKNOWN,
    Lock,
    LockError,
    Record,
    holder,
    host_lock,
    lock_address,
    record_path,
)
from bootstrap.system.processes import Identity, alive, identity
from tests.bootstrap.links import run

SECONDS = 60.0
PORT = 7777
PAUSE = "import signal; signal.pause()"
HOLD = """
import asyncio, os, sys
from bootstrap.control import lock
lock.UNKNOWN_SECONDS = 0.0

async def main():
    sys.stdin.readline()
    try:
        async with lock.host_lock(sys.argv[1], 7777):
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    except lock.LockError as error:
        print(error.code, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def ip(monkeypatch: pytest.MonkeyPatch) -> str:
    """A separate host; its record is removed with it."""
    monkeypatch.setattr(lock, "UNKNOWN_SECONDS", 0.0)
    return f"127.98.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}"


@pytest.fixture(autouse=True)
def no_record_left(ip: str) -> Iterator[None]:
    yield
    record_path(ip, PORT).unlink(missing_ok=True)


def held(ip: str, act: Callable[[Lock], None] = lambda held: None, port: int = PORT) -> list[int]:
    """Take the lock, act, release it; return the leftovers."""

    async def main() -> list[int]:
        async with host_lock(ip, port) as taken:
            act(taken)
            return taken.left_over

    with ThreadPoolExecutor(1) as elsewhere:  # `act` may do the same again
        return elsewhere.submit(run, main).result()


def refusal(ip: str) -> tuple[str, str]:
    with pytest.raises(LockError) as caught:
        held(ip, lambda _: pytest.fail("the lock was taken"))
    assert caught.value.stage == "lock"
    return caught.value.code, str(caught.value)


@pytest.fixture
def other(ip: str) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start another process that takes the lock when it gets a line."""
    children: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, ip]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def record(ip: str) -> Record:
    return msgspec.json.decode(record_path(ip, PORT).read_bytes(), type=Record)


def leave(ip: str, children: Any = (), directories: Any = ()) -> None:
    """A record as a killed run leaves it."""
    path = record_path(ip, PORT)
    path.write_bytes(msgspec.json.encode({"holder": (4, "boot 1"), "children": children, "directories": directories}))
    path.chmod(0o600)


# -- held, and released ------------------------------------------------------------------------------------------------


def test_a_lock_that_is_held_has_a_record_of_its_holder(ip: str) -> None:
    def act(taken: Lock) -> None:
        assert record(ip) == Record(identity())
        assert record_path(ip, PORT).stat().st_mode & 0o777 == 0o600
        assert holder(ip) == identity()

    assert held(ip, act) == []
    assert holder(ip) is None
    assert not record_path(ip, PORT).exists()


def test_a_failure_inside_releases_it_and_stays_what_it_is(ip: str) -> None:
    def fail(_: Lock) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    before = psutil.Process().num_fds()
    with pytest.raises(BrokenPipeError):
        held(ip, fail)
    assert psutil.Process().num_fds() == before
    held(ip)


def test_one_host_has_one_lock_and_a_loopback_address_and_link_port_are_a_host(ip: str) -> None:
    assert lock_address("169.254.1.1", 7777) == lock_address("10.0.0.1", 8888) == ("127.0.0.1", LOCK_PORT)
    assert lock_address(ip, 7777) == (ip, 7777)

    def act(_: Lock) -> None:
        held(ip, port=PORT + 1)  # another host
        assert refusal(ip)[0] == "host-busy"

    held(ip, act)


def test_another_tmpdir_is_no_way_around_it(ip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(_: Lock) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert refusal(ip)[0] == "host-busy"

    held(ip, act)


def test_another_process_has_it(ip: str, other: Callable[[], Any]) -> None:
    child = other()
    go(child)
    assert line(child) == "held"
    code, text = refusal(ip)
    assert code == "host-busy"
    assert text.startswith(f"process {child.pid} runs a group on this host already (it holds UDP {ip}:7777)")
    assert holder(ip) == identity(child.pid)
    child.communicate()
    assert holder(ip) is None
    assert held(ip) == []


def test_of_many_at_once_one_has_it(ip: str, other: Callable[[], Any]) -> None:
    contenders = [other() for _ in range(4)]
    for child in contenders:
        go(child)
    assert sorted(line(child) for child in contenders) == ["held"] + ["host-busy"] * 3


def test_a_child_that_lives_on_does_not_keep_it(ip: str) -> None:
    sleepers = []
    held(ip, lambda _: sleepers.append(subprocess.Popen([sys.executable, "-c", PAUSE])))
    try:
        held(ip)
    finally:
        sleepers[0].kill()
        sleepers[0].wait()


def test_the_guard_of_a_killed_run_is_waited_for(ip: str) -> None:
    """Not refused, because its holder is dead: the lock is free a moment later."""
    leave(ip)
    guard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    guard.bind((ip, PORT))

    async def main() -> None:
        import asyncio

        asyncio.get_running_loop().call_later(0.3, guard.close)
        async with host_lock(ip, PORT):
            pass

    run(main)


# -- a record that means nothing ---------------------------------------------------------------------------------------


def test_a_file_that_nobody_has_locked_is_no_veto(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not block, whichever user made it; and another user's file is not trusted."""
    with subprocess.Popen([sys.executable, "-c", PAUSE], start_new_session=True) as bystander:
        leave(ip, [identity(bystander.pid)])
        uid, path = os.geteuid(), record_path(ip, PORT)
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        monkeypatch.setattr(lock, "record_path", lambda *_: path)
        assert held(ip) == []
        assert holder(ip) is None
        assert bystander.poll() is None
        bystander.kill()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_no_file_in_the_place_of_the_record_blocks_or_matters(make: Callable[[Path], None], ip: str) -> None:
    path = record_path(ip, PORT)
    make(path)
    try:
        held(ip)
        assert path.is_symlink() or path.exists()
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


GOOD = msgspec.json.encode({"holder": [4, "b 1"], "children": [[5, "b 1"]], "directories": ["/d"]})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"null",
        b"[" * 60_000,
        b"x" * 1_000_000,
        b'{"holder":[4],"children":[],"directories":[]}',
        b'{"holder":[4,"b"],"children":5,"directories":[]}',
        b'{"holder":[4,"b"],"children":[[0,"b"]],"directories":[]}',
        b'{"holder":[4,"b"],"children":[[1,"b"]],"directories":[]}',
        b'{"holder":[4,"b"],"children":[[-1,"b"]],"directories":[]}',
        b'{"holder":[4,"b"],"children":[[99999999999999999999,"b"]],"directories":[]}',
        b'{"holder":[4,"b"],"children":[],"directories":[7]}',
        *(GOOD[:end] for end in range(1, len(GOOD), 7)),
    ],
)
def test_a_record_that_says_nothing_is_replaced(data: bytes, ip: str) -> None:
    leave(ip)
    record_path(ip, PORT).write_bytes(data)
    assert held(ip, lambda _: None) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["holder", "children", "directories"]), inner)
    ),
    max_leaves=12,
)


@given(VALUES.map(msgspec.json.encode) | st.binary(max_size=40))
def test_whatever_a_record_says(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        said = lock._read(Path(file.name))
    assert said is None or all(child.pid > 1 for child in said.children)


def full(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_no_reason_to_refuse(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the cleanup after a crash of run and guard would lack the record."""
    monkeypatch.setattr(os, "pwrite", full)
    assert held(ip, lambda taken: taken.watch(os.getpid())) == []


def test_a_full_disk_leaves_the_last_record(ip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(taken: Lock) -> None:
        taken.remove(Path("/tmp/jaccl-bootstrap-x"))
        before = record(ip)
        monkeypatch.setattr(os, "pwrite", full)
        taken.remove(Path("/tmp/jaccl-bootstrap-y"))
        assert record(ip) == before

    held(ip, act)


def test_a_holder_that_does_not_say_who_it_is(ip: str) -> None:
    def act(_: Lock) -> None:
        record_path(ip, PORT).write_bytes(b"x" * 200)
        assert holder(ip) == UNKNOWN
        assert refusal(ip)[1].startswith("another process runs a group on this host already")

    held(ip, act)


def test_an_address_that_cannot_be_bound(monkeypatch: pytest.MonkeyPatch, ip: str) -> None:
    monkeypatch.setattr(lock, "lock_address", lambda *_: ("192.0.2.1", 7))
    code, text = refusal(ip)
    assert (code, "cannot take the host's lock" in text) == ("lock-failed", True)


# -- what a killed run left --------------------------------------------------------------------------------------------


@pytest.fixture
def bystander() -> Iterator[Identity]:
    """A process in another group, unrelated to any run."""
    child = subprocess.Popen([sys.executable, "-c", PAUSE], start_new_session=True)
    yield identity(child.pid)
    child.kill()
    assert child.wait() == -signal.SIGKILL


def test_a_process_with_number_and_start_is_ended(ip: str, bystander: Identity) -> None:
    leave(ip, [bystander])
    assert held(ip) == [bystander.pid]
    assert not alive(bystander)


def test_a_process_that_has_the_number_of_a_child_is_not_touched(ip: str, bystander: Identity) -> None:
    boot, ticks = bystander.start.split()
    leave(ip, [[bystander.pid, f"{boot} {int(ticks) - 1}"], [bystander.pid, f"another-boot {ticks}"]])
    assert held(ip) == []
    assert alive(bystander)


def test_a_step_of_the_clock_changes_no_identity(bystander: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start was once stored as a time of day, so a killed run's command was not recognised after a clock step."""
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() + 7)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert identity(bystander.pid) == bystander
    assert alive(bystander)


def test_all_that_a_killed_runs_child_started_is_ended(ip: str) -> None:
    code = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {PAUSE!r}]).pid, flush=True)\n{PAUSE}"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = psutil.Process(int(child.stdout.readline()))
        leave(ip, [identity(child.pid)])
        assert held(ip) == [child.pid]
    limit = time.monotonic() + SECONDS
    while lives(grandchild):
        assert time.monotonic() < limit
        time.sleep(0.01)


def lives(each: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return each.is_running() and each.status() != psutil.STATUS_ZOMBIE
    return False


def test_only_directories_of_runs_are_removed(ip: str, tmp_path: Path) -> None:
    ours, other = tmp_path / "jaccl-bootstrap-1", tmp_path / "precious"
    for each in (ours, other):
        each.mkdir()
        (each / "file").touch()
    link = tmp_path / "jaccl-bootstrap-link"
    link.symlink_to(other)
    wrong = [ours, other, link, tmp_path / "jaccl-bootstrap-1" / ".." / "precious", Path("/"), Path()]
    leave(ip, directories=[str(each) for each in wrong])
    assert held(ip) == []
    assert not ours.exists()
    assert (other / "file").exists()
    assert link.is_symlink()


def test_what_is_gone_is_forgotten(ip: str, bystander: Identity) -> None:
    """However often a run restarts its child, the next run can read the record."""

    def act(taken: Lock) -> None:
        before = record(ip)
        for number in range(300):
            directory = Path(f"/tmp/jaccl-bootstrap-{number}")
            taken.remove(directory)
            taken.watch(bystander.pid)
            assert record(ip).children == (bystander,)
            taken.forget(bystander.pid)
            taken.forget(directory)
        assert record(ip) == before
        assert record_path(ip, PORT).stat().st_size < 1000

    held(ip, act)


def test_a_child_that_could_not_be_ended_stays_recorded(ip: str, bystander: Identity) -> None:
    """So the next run tries it."""
    held(ip, lambda taken: taken.watch(bystander.pid))
    assert record(ip).children == (bystander,)
    assert held(ip) == [bystander.pid]


def test_a_directory_that_could_not_be_removed_stays_recorded(ip: str) -> None:
    """It was forgotten, and stayed permanently, in a directory that had been read-only for a while."""
    directory = Path(tempfile.gettempdir(), f"jaccl-bootstrap-{secrets.token_hex(8)}")
    directory.mkdir()
    held(ip, lambda taken: taken.remove(directory))
    assert record(ip).directories == (str(directory),)
    held(ip)
    assert not directory.exists()
    assert not record_path(ip, PORT).exists()


def test_a_lock_that_was_given_back_wrote_a_record_again(ip: str, bystander: Identity) -> None:
    """The record of a child that ended late; it could even have been the next run's."""
    kept: list[Lock] = []
    held(ip, kept.append)
    kept[0].watch(bystander.pid)
    assert not record_path(ip, PORT).exists()


def test_a_child_that_has_ended_at_once_is_not_recorded(ip: str) -> None:
    child = subprocess.Popen(["true"])
    child.wait()

    def act(taken: Lock) -> None:
        taken.watch(child.pid)
        assert record(ip).children == ()

    held(ip, act)
