"""The one that holds the deadline, the signals and the workers' lives."""

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bootstrap import BootstrapError, ConfigError
from bootstrap.cli.demo import Demo
from bootstrap.control.child import new_directory
from bootstrap.control.lock import holder, host_lock, lock_path, process
from bootstrap.control.run import Supervisor, SupervisorError, _parse, cause, supervise
from bootstrap.events import FIELDS
from bootstrap.topology import private_directory

IP = "127.0.0.1"
Act = Callable[[Supervisor], Coroutine[Any, Any, None]]


class Shown:
    """A display that keeps what it is to show."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, event: dict[str, Any]) -> None:
        assert {"t_ms", *FIELDS[event["event"]]} <= event.keys()
        self.events.append({name: value for name, value in event.items() if name != "t_ms"})

    def log(self, rank: int, line: str) -> None:
        self.events.append({"event": "log", "rank": rank, "line": line})

    def output(self, rank: int, stream: str, line: str) -> None:
        self.events.append({"event": "output", "rank": rank, "stream": stream, "line": line})

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    return tmp


def supervised(act: Act, timeout: float = 60.0, **more: Any) -> tuple[int, Shown]:
    shown = Shown()
    return supervise(act, shown, timeout=timeout, rank=1, **more), shown


async def nothing(supervisor: Supervisor) -> None:
    pass


async def forever(supervisor: Supervisor) -> None:
    await asyncio.get_running_loop().create_future()


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_what_ends_well() -> None:
    async def act(supervisor: Supervisor) -> None:
        supervisor.report("holding", 1)

    code, shown = supervised(act, ranks=2)
    assert code == 0
    assert shown.events == [{"event": "holding", "rank": 1}, {"event": "done", "ok": True, "ranks": 2}]


@pytest.mark.parametrize(("native", "retry"), [(False, "safe"), (True, "unsafe")])
def test_a_failure_comes_with_advice(native: bool, retry: str) -> None:
    async def act(supervisor: Supervisor) -> None:
        supervisor.native = native
        raise BootstrapError("what was\nseen", code="link-lost")

    code, shown = supervised(act)
    assert code == 3
    assert shown.events == [
        {
            "event": "error",
            "rank": 1,
            "stage": "run",
            "code": "link-lost",
            "message": "what was seen",
            "cause": "the other rank ended, or the cable is out",
            "mend": "see what the other rank says",
            "retry": retry,
        },
        {"event": "done", "ok": False, "code": "link-lost"},
    ]


def test_another_exception_is_a_bug_and_stays_one() -> None:
    async def act(supervisor: Supervisor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        supervised(act)


def test_the_deadline() -> None:
    code, shown = supervised(forever, timeout=0.1)
    assert code == 3
    (error,) = shown.of("error")
    assert (error["code"], error["rank"]) == ("deadline", 1)
    assert error["message"] == "no group within 0.1 s (no worker yet); see the log lines, or raise --timeout"


def test_a_group_that_is_there_has_met_the_deadline() -> None:
    async def act(supervisor: Supervisor) -> None:
        supervisor.met()
        await asyncio.sleep(0.3)

    assert supervised(act, timeout=0.1)[0] == 0


def test_the_deadline_starts_again_for_another_attempt() -> None:
    async def act(supervisor: Supervisor) -> None:
        supervisor.met()
        await supervisor.anew()
        assert not supervisor.is_met
        await forever(supervisor)

    code, shown = supervised(act, timeout=0.1)
    assert (code, shown.events[-1]["code"]) == (3, "deadline")


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@SIGNALS
def test_a_signal_before_the_group_is_there(number: signal.Signals) -> None:
    async def act(supervisor: Supervisor) -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)  # an impatient second one changes nothing
        await forever(supervisor)

    code, shown = supervised(act)
    assert (code, shown.events[-1]["code"]) == (3, "interrupted")


@SIGNALS
def test_a_signal_after_that_is_the_proper_end(number: signal.Signals) -> None:
    async def act(supervisor: Supervisor) -> None:
        supervisor.met()
        signal.raise_signal(number)
        await forever(supervisor)

    code, shown = supervised(act)
    assert (code, shown.events) == (0, [{"event": "done", "ok": True, "stopped": True}])


def test_nohup_is_heeded() -> None:
    async def act(supervisor: Supervisor) -> None:
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert supervised(act)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_the_lock_is_held_meanwhile(tmp: Path) -> None:
    async def act(supervisor: Supervisor) -> None:
        assert supervisor.lock is not None
        assert supervisor.lock.path == lock_path(IP)
        assert holder(IP) == process(os.getpid())

    code, shown = supervised(act, lock_ip=IP)
    assert (code, shown.of("error")) == (0, [])
    assert list(tmp.iterdir()) == []


@pytest.mark.usefixtures("tmp")
def test_while_another_run_lives_nothing_is_done() -> None:
    async def act(supervisor: Supervisor) -> None:
        pytest.fail("it was done")

    with host_lock(IP):
        code, shown = supervised(act, lock_ip=IP)
    assert code == 3
    (error,) = shown.of("error")
    assert (error["stage"], error["code"], error["rank"]) == ("lock", "host-busy", 1)
    assert error["message"].startswith(f"process {os.getpid()} runs a group on this host already")


@pytest.fixture
def left_over(tmp: Path) -> Iterator[int]:
    """A worker of a run that was killed with its guard."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    record = {"holder": [4, 1.0], "workers": [process(child.pid)], "directories": []}
    lock_path(IP).write_bytes(msgspec.json.encode(record))
    yield child.pid
    child.kill()
    child.wait()


def test_what_an_earlier_run_left_is_reported(left_over: int) -> None:
    code, shown = supervised(nothing, lock_ip=IP)
    assert (code, shown.events[0]) == (0, {"event": "reaped", "rank": 1, "pids": [left_over]})


def test_a_directory_was_not_written_down_before_its_command_ran(tmp: Path) -> None:
    """So it stayed where control process and guard were killed just then."""
    directory = new_directory()

    async def act(supervisor: Supervisor) -> None:
        supervisor.guard_over(directory)
        assert json.loads(lock_path(IP).read_bytes())["directories"] == [str(directory)]

    code, _ = supervised(act, lock_ip=IP)
    assert code == 0


def test_what_a_worker_left_is_forgotten_with_it(tmp: Path) -> None:
    """Or the record would grow with each restart, until the next run could not read it."""

    async def act(supervisor: Supervisor) -> None:
        for _ in range(3):
            worker = await supervisor.start(1)
            record = json.loads(lock_path(IP).read_bytes())
            assert [pid for pid, _ in record["workers"]] == [worker.pid]
            assert record["directories"] == [str(worker.directory)]
            await supervisor.end_workers()
        record = json.loads(lock_path(IP).read_bytes())
        assert (record["workers"], record["directories"]) == ([], [])

    code, _ = supervised(act, lock_ip=IP)
    assert code == 0


# -- what the system has no more of ------------------------------------------------------------------------------------


def test_the_system_refuses() -> None:
    """Whatever it is that the run asked for."""

    async def act(supervisor: Supervisor) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    code, shown = supervised(act)
    assert code == 3
    (event,) = shown.of("error")
    assert (event["code"], event["retry"]) == ("system-refused", "safe")
    assert event["message"] == "the system refuses what this run needs: Too many open files"
    assert shown.events[-1] == {"event": "done", "ok": False, "code": "system-refused"}


def test_a_time_limit_of_ones_own_is_a_bug() -> None:
    """Though TimeoutError is an OSError; the same holds for a reader that has left."""

    async def act(supervisor: Supervisor) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        supervised(act)


def test_a_directory_is_removed_once_there_are_descriptors_again(tmp: Path) -> None:
    """Without any, no directory can be read."""
    directory = new_directory()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def act(supervisor: Supervisor) -> None:
        supervisor.guard_over(directory)
        with private_directory(directory):
            (directory / "file").touch()
            with socket.socket() as next_one:
                resource.setrlimit(resource.RLIMIT_NOFILE, (next_one.fileno(), limits[1]))
        assert directory.exists()

    try:
        code, _ = supervised(act, lock_ip=IP)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == 0
    assert list(tmp.iterdir()) == []


def test_what_the_event_loop_has_to_say() -> None:
    """The same once, and without a traceback; what is a bug stays one."""

    async def act(supervisor: Supervisor) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
        # What asyncio runs into a second later, where that socket was closed meanwhile.
        loop.call_exception_handler(
            {"message": "Exception in callback BaseSelectorEventLoop._start_serving()", "exception": ValueError()}
        )

    code, shown = supervised(act)
    assert code == 0
    (event,) = shown.of("warning")
    assert event["message"] == "socket.accept() out of system resource: Too many open files"


def test_a_bug_in_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def act(supervisor: Supervisor) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "a bug", "exception": ZeroDivisionError()})

    code, shown = supervised(act)
    assert (code, shown.of("warning")) == (0, [])
    assert "a bug" in caplog.text


# -- a command ---------------------------------------------------------------------------------------------------------


def commanded(code: str) -> tuple[int, Shown]:
    """A run whose work is a command of Python."""

    async def act(supervisor: Supervisor) -> None:
        await supervisor.run_command(1, [sys.executable, "-c", code], dict(os.environ), new_directory())

    return supervised(act)


def test_a_commands_output_is_passed_on(tmp: Path) -> None:
    text = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    text += "; sys.stdout.buffer.write(b'\\xff no end')"
    code, shown = commanded(text)
    assert code == 0
    lines = [(event["stream"], event["line"]) for event in shown.of("output")]
    assert sorted(lines) == [("stderr", "err"), ("stdout", "out"), ("stdout", "\ufffd no end")]
    assert shown.events[-2:] == [
        {"event": "command-ended", "rank": 1, "status": 0},
        {"event": "done", "ok": True, "status": 0},
    ]
    assert list(tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise SystemExit(7)", 7, "command-failed"),
        ("import os; os.kill(os.getpid(), 9)", 137, "command-killed"),
        ("import os; os.abort()", 134, "command-failed"),  # as native code does where another rank has gone
    ],
)
def test_a_commands_exit_status_is_the_runs(code: str, status: int, error: str) -> None:
    exit_code, shown = commanded(code)
    assert exit_code == status
    assert shown.events[-1]["code"] == error
    assert shown.of("error")[0]["message"] == f"the command ended with exit status {status}"


def test_what_a_command_leaves_running_is_ended() -> None:
    """Though it holds the command's pipes, and does not mind SIGTERM."""
    left = "import signal; signal.pause()"
    code, shown = commanded(
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print(subprocess.Popen([sys.executable, '-c', {left!r}]).pid)"
    )
    assert code == 0
    (event,) = shown.of("output")
    pid = int(event["line"])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_command_at_the_deadline() -> None:
    async def act(supervisor: Supervisor) -> None:
        command = [sys.executable, "-c", "import signal; signal.pause()"]
        await supervisor.run_command(1, command, dict(os.environ), new_directory())

    code, shown = supervised(act, timeout=0.5)
    assert (code, shown.events[-1]["code"]) == (3, "deadline")
    assert "(rank 1 after 'started')" in shown.of("error")[0]["message"]
    (started,) = shown.of("started")
    assert not psutil.pid_exists(started["pid"])


# -- a worker's events -------------------------------------------------------------------------------------------------


def test_an_event_of_a_worker() -> None:
    event = {"event": "sum-checked", "rank": 0, "value": 3, "t_ms": 1.5}
    assert _parse(json.dumps(event).encode()) == event


@pytest.mark.parametrize(
    "line",
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
def test_what_is_no_event(line: bytes) -> None:
    assert _parse(line) is None


# -- who is to blame ---------------------------------------------------------------------------------------------------


def error(code: str) -> SupervisorError:
    return SupervisorError("text", code=code)


def test_the_first_error_is_the_cause() -> None:
    first = error("init-failed")
    assert cause([first, error("sum-failed"), error("worker-died")]) is first


def test_a_rank_killed_from_outside_is_the_cause_even_when_others_were_heard_first() -> None:
    killed = error("worker-killed")
    assert cause([error("sum-failed"), error("worker-died"), killed]) is killed


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"ranks": 1}, "bad-ranks"),
        ({"ranks": 9}, "bad-ranks"),
        ({"backend": "any"}, "bad-backend"),
        ({"host": "169.254.1.1"}, "not-loopback"),
        ({"host": "::1"}, "bad-ip"),
        ({"port": 0}, "bad-port"),
        ({"ranks": 8, "port": 65529}, "bad-port"),
        ({"session_id": ".."}, "bad-session-id"),
        ({"timeout": 0.0}, "bad-timeout"),
        ({"timeout": float("nan")}, "bad-timeout"),
        ({"timeout": 1e9}, "bad-timeout"),
    ],
)
def test_a_demo_that_cannot_be(wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Demo(**wrong)
    assert caught.value.code == code


def test_loopback_is_the_whole_of_127() -> None:
    assert Demo(host="127.8.9.10").ranks == 2
