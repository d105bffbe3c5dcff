"""A run's processes: real ones with their own children, and the guard over them."""

import asyncio
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from bootstrap import BootstrapError
from bootstrap.control.child import Child, parse
from bootstrap.control.lock import holder, host_lock
from bootstrap.control.watchers import Watchers
from bootstrap.events import Event
from bootstrap.plan import Order, Plan
from bootstrap.system import Process, processes
from bootstrap.system.processes import GUARD, LONGEST_LINE
from tests.bootstrap.conftest import wait_until
from tests.bootstrap.links import run

PAUSE = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
FAMILY = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = [subprocess.Popen([sys.executable, "-c", {PAUSE!r}]) for _ in range(2)]
print(*(child.pid for child in children), flush=True)
signal.pause()
"""
"""None of them reacts to SIGTERM: children inherit that."""
PAUSE_AND_TELL = "import signal; print('ready', flush=True); signal.pause()"
LEAVES_AT_ONCE = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", {PAUSE!r}], stdout=subprocess.DEVNULL).pid, flush=True)
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files of this process and its children."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    monkeypatch.setenv("TMPDIR", str(tmp))
    return tmp


@pytest.fixture(autouse=True)
def nobody_left(tmp: Path) -> Iterator[None]:
    """No process started by a test survives it, even if the test fails."""
    yield
    left = [each for each in psutil.process_iter() if is_of(each, tmp)]
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    assert left == []


def is_of(process: psutil.Process, tmp: Path) -> bool:
    with suppress(psutil.Error, OSError):
        mine = process.environ().get("TMPDIR") == str(tmp) and process.pid != os.getpid()
        return mine and process.status() != psutil.STATUS_ZOMBIE
    return False


def lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def start(code: str, grace: float = 0.2) -> Child:
    """A Python command, with a directory that has a file in it."""
    watchers = Watchers()
    directory = watchers.new_directory()
    directory.mkdir()
    (directory / "file").touch()
    return await Child.command([sys.executable, "-c", code], dict(os.environ), watchers, grace)


async def line(child: Child) -> str:
    return (await child.line("stdout") or b"").decode()


async def end_all(children: Sequence[Child]) -> None:
    await asyncio.gather(*(child.end() for child in children))
    for child in children:
        child.close()
        child._watchers.remove_directories()


# -- the end of a worker -----------------------------------------------------------------------------------------------


def test_all_that_a_worker_started_ends_with_it(tmp: Path) -> None:
    async def main() -> None:
        worker = await start(FAMILY)
        children = [int(pid) for pid in (await line(worker)).split()]
        await end_all([worker])
        assert worker.status == -signal.SIGKILL
        wait_until(lambda: not any(map(lives, children)), "the children are gone")

    run(main)
    assert list(tmp.iterdir()) == []


def test_what_a_worker_left_ends_though_it_ended_long_before(tmp: Path) -> None:
    async def main() -> None:
        worker = await start(LEAVES_AT_ONCE)
        child = int(await line(worker))
        await worker.exited()
        assert lives(child)
        await end_all([worker])
        wait_until(lambda: not lives(child), "the child is gone")
        assert worker.status == 0

    run(main)
    assert list(tmp.iterdir()) == []


def test_a_worker_is_asked_first(tmp_path: Path) -> None:
    code = """
import signal, sys
from pathlib import Path
def save(number, frame):
    Path(sys.argv[1]).write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
signal.pause()
"""

    async def main() -> None:
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        worker = await Child.command(command, dict(os.environ), Watchers(), 5.0)
        assert await line(worker) == "ready"
        await end_all([worker])
        assert worker.status == 0

    run(main)
    assert (tmp_path / "out").read_text() == "saved"


def test_workers_share_the_longest_grace() -> None:
    """The impatient one does not shorten the other's time, and all exit after one grace period."""

    async def main() -> None:
        workers = [await start(DEAF, grace) for grace in (0.05, 0.3, 0.3)]
        for worker in workers:
            assert await line(worker) == "deaf"
        loop = asyncio.get_running_loop()
        began = loop.time()
        await end_all(workers)
        assert 0.3 <= loop.time() - began < 10
        assert {worker.status for worker in workers} == {-signal.SIGKILL}

    run(main)


def test_workers_that_have_ended_are_not_waited_for() -> None:
    async def main() -> None:
        workers = [await start(code, grace=60) for code in ("", "raise SystemExit(7)")]
        for worker in workers:
            await worker.exited()
        await end_all(workers)
        assert [worker.send(0) for worker in workers] == [False, False]
        await end_all([])
        assert [worker.status for worker in workers] == [0, 7]

    run(main)


def test_the_end_is_seen_though_a_child_holds_the_pipes() -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {PAUSE!r}]).pid, flush=True)"

    async def main() -> None:
        worker = await start(code)
        child = int(await line(worker))
        await worker.exited()
        assert lives(child)
        await end_all([worker])
        wait_until(lambda: not lives(child), "the child is gone")

    run(main)


def test_a_worker_has_a_session_of_its_own() -> None:
    async def main() -> None:
        worker = await start(PAUSE)
        assert os.getpgid(worker.pid) == os.getsid(worker.pid) == worker.pid
        assert worker.send(0) is True
        await end_all([worker])
        assert worker.status == -signal.SIGTERM

    run(main)


@pytest.mark.parametrize("turns", range(6))
def test_a_start_that_is_cancelled_leaves_nothing(turns: int) -> None:
    """`nobody_left` checks that."""

    async def main() -> None:
        starting = asyncio.create_task(start(PAUSE))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with suppress(asyncio.CancelledError):  # it may have started by then
            await end_all([await starting])

    run(main)


@pytest.mark.parametrize(
    ("command", "reason"),
    [("/nowhere/python", os.strerror(errno.ENOENT)), ("/", os.strerror(errno.EACCES))],
)
def test_a_command_that_is_refused(command: str, reason: str) -> None:
    async def main() -> None:
        with pytest.raises(BootstrapError) as caught:
            await Child.command([command], dict(os.environ), Watchers(), 5.0)
        assert caught.value.code == "command-refused"
        assert str(caught.value) == f"cannot start {command}: {reason}; check the command"

    run(main)


def test_a_command_is_not_to_blame_where_nothing_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(processes.subprocess, "Popen", refuse)

    async def main() -> None:
        with pytest.raises(OSError, match="Too many open files") as caught:
            await Child.command(["true"], dict(os.environ), Watchers(), 5.0)
        assert caught.value.errno == errno.EMFILE

    run(main)


def test_an_order_to_a_worker_that_died_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit shows that."""
    monkeypatch.setattr("bootstrap.control.child.WORKER", ("-c", "raise SystemExit(7)"))
    order = Order(plan=Plan(rank=0, ips=("127.0.0.1", "127.0.0.2"), backend="ring"), origin=0.0, deadline=0.0)

    async def main() -> None:
        worker = await Child.worker("ring", Watchers())
        await worker.exited()
        for _ in range(3):
            worker.tell(order)
        with pytest.raises(BootstrapError, match="exit status 7") as caught:
            await worker.next_event()
        assert caught.value.code == "mlx-crashed"

    run(main)


def test_status_that_something_else_has_taken() -> None:
    """A program that failed had succeeded, if another thread reaped it."""

    async def main() -> None:
        child = await start("raise SystemExit(3)")
        await child.exited()
        os.waitpid(child.pid, 0)  # noqa: ASYNC222 - it has exited
        assert await child.end()
        assert child.status == 255
        child.close()

    run(main)


def test_a_number_is_not_signalled_once_its_process_was_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may belong to another process by then."""

    async def main() -> None:
        worker = await start("")
        await worker.end()
        assert worker.reaped
        monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled"))
        await worker.end()
        assert worker.send(signal.SIGTERM) is False

    run(main)


def test_the_number_belongs_to_the_child_until_its_group_has_ended() -> None:
    """The process has exited, but was not reaped."""

    async def main() -> None:
        worker = await start(LEAVES_AT_ONCE)
        child = int(await line(worker))
        await worker.exited()
        assert psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE
        assert os.getpgid(child) == worker.pid
        await end_all([worker])

    run(main)


def test_guard_and_lock_forget_a_child_before_its_number_is_free() -> None:
    zombie: list[bool] = []

    class Watching(Watchers):
        def forget(self, pid: int) -> None:
            zombie.append(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)

    async def main() -> None:
        child = await Child.command(["true"], dict(os.environ), Watching(), 0.2)
        await child.exited()
        await child.end()

    run(main)
    assert zombie == [True]


def test_a_child_that_is_stopped_is_ended() -> None:
    async def main() -> None:
        worker = await start(PAUSE, grace=60)
        os.kill(worker.pid, signal.SIGSTOP)
        await end_all([worker])
        assert worker.status == -signal.SIGTERM

    run(main)


def test_a_second_ctrl_c_ends_the_grace() -> None:
    async def main() -> None:
        worker = await start(DEAF, grace=60)
        assert await line(worker) == "deaf"
        worker.hurry.set()
        await worker.end(signal.SIGINT)
        assert worker.status in (-signal.SIGKILL, -signal.SIGINT)

    run(main)


# -- what it writes ----------------------------------------------------------------------------------------------------


def collected(*chunks: bytes) -> list[bytes]:
    async def main() -> list[bytes]:
        child = object.__new__(Child)
        reader = asyncio.StreamReader(LONGEST_LINE)
        child._process = cast(Process, SimpleNamespace(streams={"stdout": reader}))
        for chunk in chunks:
            reader.feed_data(chunk)
        reader.feed_eof()
        lines = []
        while (each := await child.line("stdout")) is not None:
            lines.append(each)
        return lines

    return run(main)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\n\0\xff\n", [b"a\r", b"\0\xff"]),
        (b"no end", [b"no end"]),
    ],
)
def test_lines(data: bytes, lines: list[bytes]) -> None:
    assert collected(data) == lines


def test_a_long_line_comes_in_pieces() -> None:
    lines = collected(b"x" * 3 * LONGEST_LINE + b"\nend\n")
    assert b"".join(lines) == b"x" * 3 * LONGEST_LINE + b"end"
    assert lines[-1] == b"end"


EVENT: Event = {"event": "sum-checked", "rank": 0, "value": 3, "t_ms": 1.5}


def test_an_event_of_a_worker() -> None:
    assert parse(json.dumps(EVENT).encode()) == EVENT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"native noise",
        b"\xff",
        b"1",
        b"null",
        b"[]",
        b"{}",
        b'{"event":"nonsense","rank":0,"t_ms":1}',
        b'{"event":["started"],"rank":0,"t_ms":1}',
        b'{"event":"sum-checked","rank":0,"t_ms":1}',
        b'{"event":"sum-checked","value":3,"t_ms":1}',
        b'{"event":"sum-checked","rank":0,"value":3,"t_ms":1',
        b"[" * 60_000,
    ],
)
def test_text_that_is_no_event(text: bytes) -> None:
    assert parse(text) is None


def test_a_flood_without_a_line_end() -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(5_000_000)); sys.stderr.buffer.write(b'x' * 5_000_000)"

    async def main() -> None:
        worker = await start(code)

        async def count(stream: str) -> int:
            total = 0
            while data := await worker.read(stream):
                total += len(data)
            return total

        assert await asyncio.gather(count("stdout"), count("stderr")) == [5_000_000, 5_000_000]
        await worker.exited()
        await end_all([worker])

    run(main)


# -- the guard ---------------------------------------------------------------------------------------------------------

IP, PORT = f"127.99.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}", 7433
RUN = """
import asyncio, os, sys
from bootstrap.control.lock import host_lock
from bootstrap.control.child import Child
from bootstrap.control.watchers import Watchers
from bootstrap.system import processes

async def main():
    async with host_lock(sys.argv[2], 7433) as lock:
        guard = processes.guard(lock.descriptor, lock.path)
        watchers = Watchers(guard, lock)
        directory = watchers.new_directory()
        directory.mkdir()
        (directory / "file").touch()
        worker = await Child.command([sys.executable, "-c", sys.argv[1]], os.environ, watchers, 1.0)
        while (line := await worker.line("stdout")) is not None:
            print(guard.pid, worker.pid, line.decode(), flush=True)
        await asyncio.get_running_loop().create_future()  # until it is killed

asyncio.run(main())
"""


async def take_lock() -> list[int]:
    async with host_lock(IP, PORT) as held:
        return held.left_over


def started(code: str) -> "tuple[subprocess.Popen[str], int, list[int]]":
    """A run with a guard: the process, and the process ids of the guard, the worker and the worker's child."""
    process = subprocess.Popen([sys.executable, "-c", RUN, code, IP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    guard, worker, *others = process.stdout.readline().split()
    return process, int(guard), [int(worker), *(int(each) for each in others if each.isdecimal())]


def killed(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("code", [FAMILY, LEAVES_AT_ONCE], ids=["deaf", "only a child is left"])
def test_a_killed_run_is_tidied_up_and_has_the_lock_until_then(code: str, tmp: Path) -> None:
    process, guard, workers = started(code)
    os.kill(guard, signal.SIGSTOP)
    killed(process)
    assert any(map(lives, workers))
    assert holder(IP, PORT) is not None
    os.kill(guard, signal.SIGCONT)
    wait_until(lambda: not any(map(lives, [guard, *workers])), "all are gone")
    assert list(tmp.iterdir()) == []
    assert run(take_lock) == []


def test_the_next_run_waits_until_a_killed_one_is_tidied_up() -> None:
    """It is not refused."""
    process, _, workers = started(FAMILY)
    killed(process)
    assert run(take_lock) == []
    wait_until(lambda: not any(map(lives, workers)), "all are gone")


GUARD_THAT_TELLS = f"""
import runpy, signal
true_signal = signal.signal
def tell(number, handler):
    true_signal(number, handler)
    print(int(number), flush=True)
signal.signal = tell
runpy.run_path({GUARD[2]!r}, run_name="__main__")
"""
"""It reports the signals that it handled."""


def test_a_guard_is_not_to_be_stopped(tmp: Path) -> None:
    """Ctrl-C and a closed terminal reach it, too."""
    directory = Watchers().new_directory()
    directory.mkdir()
    command = [sys.executable, "-c", GUARD_THAT_TELLS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        numbers = [int(guard.stdout.readline()) for _ in range(3)]
        assert numbers == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        for number in numbers:
            guard.send_signal(number)
        guard.stdin.write(json.dumps(["remove", str(directory)]) + "\n")
    assert guard.returncode == 0
    assert list(tmp.iterdir()) == []


def test_a_guard_that_was_killed_too_leaves_it_to_the_next_run() -> None:
    process, guard, workers = started(PAUSE_AND_TELL)
    os.kill(guard, signal.SIGKILL)
    killed(process)
    assert all(map(lives, workers))
    assert run(take_lock) == [workers[0]]
    wait_until(lambda: not any(map(lives, workers)), "all are gone")


def test_a_guard_leaves_a_strangers_process_alone(tmp: Path) -> None:
    """It has the process id of a child that ended long ago."""
    with subprocess.Popen([sys.executable, "-c", PAUSE], start_new_session=True) as stranger:
        told = json.dumps(["kill", stranger.pid, 1])
        done = subprocess.run([sys.executable, *GUARD], input=told, text=True, timeout=60, check=False)
        assert done.returncode == 0
        assert stranger.poll() is None
        stranger.kill()


def test_a_dismissed_guard_does_nothing(tmp: Path) -> None:
    async def main() -> None:
        worker = await start(DEAF)
        assert await line(worker) == "deaf"
        guard = processes.guard()
        (directory,) = worker._watchers.directories
        guard.remove(directory)
        guard.watch(worker.pid)
        guard.dismiss()
        assert lives(worker.pid)
        assert (directory / "file").exists()
        await end_all([worker])

    run(main)


def test_a_run_works_on_without_its_guard() -> None:
    async def main() -> None:
        worker = await start(PAUSE)
        guard = processes.guard()
        guard._process.kill()
        guard._process.wait()
        for _ in range(3):
            guard.watch(worker.pid)
            guard.forget(worker.pid)
            guard.remove(worker._watchers.directories[0])
        guard.dismiss()
        await end_all([worker])

    run(main)


def told(*words: object) -> None:
    """A guard that gets this input, then nothing more; it ends by itself."""
    lines = "".join(json.dumps(each) + "\n" for each in words)
    subprocess.run([sys.executable, *GUARD], input=lines, text=True, check=True, timeout=60)


def test_of_a_file_only_the_file_is_removed(tmp_path: Path) -> None:
    """Its path is the user's: a directory created in its place stays, with its contents."""
    directory, file = tmp_path / "directory", tmp_path / "file"
    directory.mkdir()
    for each in (directory / "kept", file):
        each.touch()
    told(["unlink", str(directory)], ["unlink", str(file)])
    assert (directory / "kept").exists()
    assert not file.exists()


def test_a_forgotten_worker_is_left_alone() -> None:
    async def main() -> None:
        forgotten, watched = await start(DEAF), await start(DEAF)
        for worker in (forgotten, watched):
            assert await line(worker) == "deaf"
        await asyncio.to_thread(told, ["kill", forgotten.pid, 0], ["kill", watched.pid, 0], ["forget", forgotten.pid])
        await watched.exited()
        assert lives(forgotten.pid)
        await end_all([forgotten, watched])

    run(main)


def test_directories_go_even_where_no_worker_was_started(tmp: Path) -> None:
    directories = [Watchers().new_directory() for _ in range(3)]
    for directory in directories[:2]:
        directory.mkdir()
        (directory / "file").touch()
    told(*(["remove", str(directory)] for directory in directories))
    assert list(tmp.iterdir()) == []


def test_a_guard_needs_nothing_but_the_standard_library() -> None:
    """-I -S: neither the current directory nor installed packages interfere."""
    assert GUARD[:2] == ("-I", "-S")
    told()


# -- whose connection it is --------------------------------------------------------------------------------------------


def test_who_owns_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a process, a descendant, or neither; None if one of them belongs to another user."""
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        address = "127.0.0.1", int(child.stdout.readline())
        assert processes.owns([child.pid], address) is True
        assert processes.owns([os.getpid()], address) is True
        assert processes.owns([os.getpid()], ("127.0.0.2", address[1])) is False
        assert processes.owns([], address) is False

        def denied(process: psutil.Process, kind: str) -> None:
            raise psutil.AccessDenied(process.pid)

        monkeypatch.setattr(psutil.Process, "net_connections", denied)
        assert processes.owns([os.getpid()], address) is None
        child.communicate("\n", timeout=60)
    assert processes.owns([child.pid], address) is False
