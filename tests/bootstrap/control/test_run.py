"""A run: its deadline, signals and exit codes, its lock, and the end of its children."""

import asyncio
import errno
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil
import pytest

from bootstrap import BootstrapError, LinkError
from bootstrap.control.child import Child
from bootstrap.control.lock import holder, record_path
from bootstrap.control.run import Run, execute
from bootstrap.events import FIELDS
from bootstrap.files import private_directory
from bootstrap.link.outcome import PeerError
from bootstrap.system import Process, Processes, Start, current, processes, running_on
from bootstrap.system.processes import identity
from tests.bootstrap.conftest import wait_until
from wireproto.messages import Outcome, OutcomeState

IP = f"127.97.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}"
PORT = 7777
Act = Callable[[Run], Coroutine[Any, Any, None]]


class Shown:
    """A display that keeps its events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.bytes: dict[str, bytes] = {}
        self.is_full = False
        self.was_full = threading.Event()
        self.failure: OSError | None = None

    def event(self, event: dict[str, Any]) -> None:
        assert {"t_ms", *FIELDS[event["event"]]} <= event.keys()
        self.events.append({name: value for name, value in event.items() if name != "t_ms"})

    def log(self, rank: int | None, line: str) -> None:
        self.events.append({"event": "log", "rank": rank, "line": line})

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        self.bytes[stream] = self.bytes.get(stream, b"") + data

    def quiet(self, rank: int | None, stream: str) -> None:
        pass

    def full(self, stream: str) -> bool:
        if self.is_full:
            self.was_full.set()
        return self.is_full

    async def failed(self) -> OSError:
        while self.failure is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.failure

    def of(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    return tmp


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A finished run leaves its handlers, because its process exits."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def executed(
    act: Act,
    shown: Shown | None = None,
    *,
    timeout: float = 60.0,
    host: tuple[str, int] | None = None,
    grace: float = 5.0,
    **more: Any,
) -> tuple[int, Shown]:
    shown = shown or Shown()
    run = Run(shown, timeout=timeout, rank=1, host=host, grace=grace)
    return execute(run, lambda: run.main(act), **more), shown


async def nothing(run: Run) -> None:
    pass


async def forever(run: Run) -> None:
    await asyncio.get_running_loop().create_future()


def alarm(run: Run) -> float:
    """Return the time of this attempt's timer, on the event loop's clock."""
    assert run._alarm is not None
    return run._alarm.when()


async def later_than(when: float) -> None:
    """Wait until every timer set for `when` has fired."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_at(when + 0.01, over.set)
    await over.wait()


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_what_ends_well() -> None:
    async def act(run: Run) -> None:
        run.report("holding")

    code, shown = executed(act, ranks=2)
    assert code == 0
    assert shown.events == [{"event": "holding", "rank": 1}, {"event": "done", "ok": True, "ranks": 2}]


@pytest.mark.parametrize(("native", "retry"), [(False, "safe"), (True, "unsafe")])
def test_a_failure_comes_with_advice(native: bool, retry: str) -> None:
    async def act(run: Run) -> None:
        run.native = native
        raise BootstrapError("what was\nseen", code="link-lost")

    code, shown = executed(act)
    assert code == 3
    assert shown.events == [
        {
            "event": "error",
            "rank": 1,
            "stage": "run",
            "code": "link-lost",
            "message": "what was seen",
            "cause": "the other rank ended, or the cable is out",
            "remedy": "see what the other rank says",
            "retry": retry,
        },
        {"event": "done", "ok": False, "code": "link-lost"},
    ]


def test_another_exception_is_a_bug_and_stays_one() -> None:
    async def act(run: Run) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        executed(act)


def test_the_deadline() -> None:
    code, shown = executed(forever, timeout=0.1)
    assert code == 3
    (error,) = shown.of("error")
    assert (error["code"], error["rank"]) == ("deadline", 1)
    assert error["message"] == "no group within 0.1 s (no worker yet); see the log lines, or raise --timeout"


def test_the_deadline_names_its_reason() -> None:
    """The last failure of a link, with its own code."""

    async def act(run: Run) -> None:
        run.reason.lost(1, LinkError("connecting to 127.0.0.9:7777 failed: Connection refused", code="link-refused"))
        await forever(run)

    code, shown = executed(act, timeout=0.1)
    (error,) = shown.of("error")
    assert (code, error["code"], error["stage"]) == (3, "link-refused", "link")
    assert error["message"] == "connecting to 127.0.0.9:7777 failed: Connection refused; no group within 0.1 s"


def test_a_group_that_is_there_has_met_the_deadline() -> None:
    async def act(run: Run) -> None:
        when = alarm(run)
        run.met()
        await later_than(when)

    assert executed(act, timeout=0.1)[0] == 0


def test_the_deadline_starts_again_for_another_attempt() -> None:
    async def act(run: Run) -> None:
        run.met()
        await run.again()
        assert not run.is_met
        await forever(run)

    code, shown = executed(act, timeout=0.1)
    assert (code, shown.events[-1]["code"]) == (3, "deadline")


def test_the_timer_of_an_earlier_attempt_ends_no_later_one() -> None:
    """It stayed set if that attempt had not formed its group."""

    async def act(run: Run) -> None:
        when = alarm(run)
        await run.again()
        run.met()
        await later_than(when)

    assert executed(act, timeout=0.2)[0] == 0


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@SIGNALS
def test_a_signal_before_the_group_is_there(number: signal.Signals) -> None:
    """The user wanted that, so it is not an error."""

    async def act(run: Run) -> None:
        signal.raise_signal(number)
        await forever(run)

    code, shown = executed(act)
    assert code == 128 + number
    assert shown.events == [{"event": "done", "ok": False, "stopped": True, "code": "interrupted"}]


@SIGNALS
def test_a_signal_after_that_is_the_proper_end(number: signal.Signals) -> None:
    async def act(run: Run) -> None:
        run.met()
        signal.raise_signal(number)
        await forever(run)

    code, shown = executed(act)
    assert (code, shown.events) == (128 + number, [{"event": "done", "ok": True, "stopped": True}])


LATE = """
import asyncio, signal, sys
from bootstrap.control.run import Run, RunError, execute

number, moment = signal.Signals(int(sys.argv[1])), sys.argv[2]

class Display:
    def event(self, event):
        if event["event"] == moment:
            signal.raise_signal(number)

    async def failed(self):
        await asyncio.Event().wait()

async def act(run):
    raise RunError("no more", code="deadline")

async def main():
    try:
        await run.main(act)
    finally:
        if moment == "end":
            signal.raise_signal(number)

class AtTheEnd:
    def __del__(self, signal=signal, number=number):
        signal.raise_signal(number)

if moment == "finalized":
    sys.keeps = AtTheEnd()  # until the interpreter has restored its handlers
run = Run(Display(), timeout=60)
sys.exit(execute(run, main))
"""


@SIGNALS
@pytest.mark.parametrize("moment", ["end", "error", "done", "finalized"])
def test_a_signal_that_comes_too_late_does_not_replace_the_exit_code(number: signal.Signals, moment: str) -> None:
    """A terminal closed while its rank ended made it exit by SIGHUP, after it had reported success."""
    restore = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n"  # whatever this process ignores
    done = subprocess.run([sys.executable, "-c", restore + LATE, str(int(number)), moment], timeout=60, check=False)
    assert done.returncode == 3


def test_the_user_of_another_rank_has_stopped_the_group() -> None:
    async def act(run: Run) -> None:
        raise PeerError(Outcome(0, OutcomeState.FAILED, "run", "interrupted", "stopped by SIGINT"))

    code, shown = executed(act, has_command=True)
    assert (code, shown.events) == (0, [{"event": "done", "ok": True, "stopped": True}])


def test_a_failure_around_a_command_is_125() -> None:
    async def act(run: Run) -> None:
        raise BootstrapError("text", code="link-lost")

    assert executed(act, has_command=True)[0] == 125
    assert executed(act)[0] == 3


def test_a_reader_that_has_left_ends_the_run_without_a_word() -> None:
    shown = Shown()
    shown.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert executed(forever, shown)[0] == 3
    assert shown.events == [{"event": "done", "ok": False, "code": "output-closed"}]


def test_an_output_that_cannot_be_written_is_named() -> None:
    shown = Shown()
    shown.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert executed(forever, shown)[0] == 3
    assert shown.of("error")[0]["message"] == "the output cannot be written: No space left on device"


def test_nohup_is_heeded() -> None:
    async def act(run: Run) -> None:
        signal.raise_signal(signal.SIGHUP)
        await asyncio.sleep(0)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert executed(act)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_the_lock_is_held_meanwhile() -> None:
    async def act(run: Run) -> None:
        assert holder(IP, PORT) == identity()

    code, shown = executed(act, host=(IP, PORT))
    assert (code, shown.of("error")) == (0, [])
    assert holder(IP, PORT) is None


def test_while_another_run_lives_nothing_is_done() -> None:
    async def act(run: Run) -> None:
        pytest.fail("it was done")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((IP, PORT))
        code, shown = executed(act, host=(IP, PORT))
    assert code == 3
    (error,) = shown.of("error")
    assert (error["stage"], error["code"], error["rank"]) == ("lock", "host-busy", 1)
    assert error["message"].startswith("another process runs a group on this host already")


def test_signals_and_deadline_work_while_the_lock_is_awaited() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((IP, PORT))
        code, shown = executed(forever, timeout=0.2, host=(IP, PORT))
    assert (code, shown.events[-1]["code"]) == (3, "deadline")


@pytest.fixture
def left_over() -> Iterator[int]:
    """A child of a run that was killed with its guard."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    path = record_path(IP, PORT)
    path.write_bytes(msgspec.json.encode({"holder": [4, "b 1"], "children": [identity(child.pid)], "directories": []}))
    path.chmod(0o600)
    yield child.pid
    child.kill()
    child.wait()


def test_what_an_earlier_run_left_is_reported(left_over: int) -> None:
    code, shown = executed(nothing, host=(IP, PORT))
    assert (code, shown.events[0]) == (0, {"event": "reaped", "rank": 1, "pids": [left_over]})


def test_a_directory_was_not_recorded_before_its_command_ran(tmp: Path) -> None:
    """So it stayed if control process and guard were killed at that moment."""

    async def act(run: Run) -> None:
        directory = run.watchers.new_directory()
        assert json.loads(record_path(IP, PORT).read_bytes())["directories"] == [str(directory)]

    assert executed(act, host=(IP, PORT))[0] == 0


def test_what_a_worker_left_is_forgotten_with_it(tmp: Path) -> None:
    """Otherwise the record would grow with each restart, until the next run could not read it."""

    async def act(run: Run) -> None:
        for _ in range(3):
            worker = await run.start_worker("ring")
            record = json.loads(record_path(IP, PORT).read_bytes())
            assert [pid for pid, _ in record["children"]] == [worker.pid]
            await run.end_children()
        record = json.loads(record_path(IP, PORT).read_bytes())
        assert (record["children"], record["directories"]) == ([], [])

    assert executed(act, host=(IP, PORT))[0] == 0


def test_a_child_whose_start_was_cancelled_twice_left_the_record(tmp: Path) -> None:
    """The second cancellation interrupts the end of the child, and its process id would be lost."""

    async def act(run: Run) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)  # noqa: ASYNC220 - as in Child
        run.watchers.watch(process.pid)
        process.wait()
        assert json.loads(record_path(IP, PORT).read_bytes())["children"] != []

    assert executed(act, host=(IP, PORT))[0] == 0
    assert not record_path(IP, PORT).exists()


# -- what the system has no more of ------------------------------------------------------------------------------------


def test_the_system_refuses() -> None:
    """Whatever the run requested."""

    async def act(run: Run) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    code, shown = executed(act)
    assert code == 3
    (event,) = shown.of("error")
    assert (event["code"], event["retry"]) == ("system-refused", "safe")
    assert event["message"] == "out of system resources: Too many open files; free some, then start again"
    assert shown.events[-1] == {"event": "done", "ok": False, "code": "system-refused"}


def test_a_time_limit_of_ones_own_is_a_bug() -> None:
    """Although TimeoutError is an OSError; the same holds for a reader that has exited."""

    async def act(run: Run) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        executed(act)


def test_a_directory_is_removed_once_there_are_descriptors_again(tmp: Path) -> None:
    """Without any, no directory can be read."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def act(run: Run) -> None:
        directory = run.watchers.new_directory()
        with private_directory(directory):
            (directory / "file").touch()
            with socket.socket() as next_one:
                resource.setrlimit(resource.RLIMIT_NOFILE, (next_one.fileno(), limits[1]))
        assert directory.exists()

    try:
        code, _ = executed(act, host=(IP, PORT))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert code == 0
    assert list(tmp.iterdir()) == []


def test_without_descriptors_the_record_of_a_run_ended_it(tmp: Path) -> None:
    """The run could not read its own identity, and took that for an exited process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def act(run: Run) -> None:
        with socket.socket() as next_one:
            free = next_one.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        run.watchers.new_directory()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    try:
        assert executed(act, host=(IP, PORT))[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_the_event_loop_has_to_say() -> None:
    """Reported once, without a traceback; a bug still has one."""

    async def act(run: Run) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
        # asyncio's error a second later, if that socket was closed meanwhile.
        loop.call_exception_handler(
            {"message": "Exception in callback BaseSelectorEventLoop._start_serving()", "exception": ValueError()}
        )

    code, shown = executed(act)
    assert code == 0
    (event,) = shown.of("warning")
    assert event["message"] == "socket.accept() out of system resource: Too many open files"


def test_a_bug_in_a_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def act(run: Run) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "a bug", "exception": ZeroDivisionError()})

    code, shown = executed(act)
    assert (code, shown.of("warning")) == (0, [])
    assert "a bug" in caplog.text


# -- a command ---------------------------------------------------------------------------------------------------------


def commanded(code: str, shown: Shown | None = None, **more: Any) -> tuple[int, Shown]:
    """A run with a Python command as its work."""
    shown = shown or Shown()

    async def act(run: Run) -> None:
        run.met()
        await run.run_command([sys.executable, "-c", code], dict(os.environ))

    return executed(act, shown, has_command=True, **{"timeout": 60.0, "grace": 0.5, **more})


def test_a_commands_bytes_are_passed_on_as_they_are() -> None:
    text = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    text += "; sys.stdout.buffer.write(b'\\xff no end')"
    code, shown = commanded(text)
    assert code == 0
    assert shown.bytes == {"stdout": b"out\n\xff no end", "stderr": b"err\n"}
    assert shown.events[-2:] == [
        {"event": "command-ended", "rank": 1, "status": 0},
        {"event": "done", "ok": True, "status": 0},
    ]


@pytest.mark.parametrize(
    ("code", "status", "error", "how"),
    [
        ("raise SystemExit(7)", 7, "command-failed", "with exit status 7"),
        ("raise SystemExit(255)", 255, "command-failed", "with exit status 255"),
        ("raise SystemExit(137)", 137, "command-failed", "with exit status 137"),
        ("import os; os.kill(os.getpid(), 9)", 137, "command-killed", "by signal SIGKILL"),
        ("import os; os.abort()", 134, "command-failed", "by signal SIGABRT"),  # as native code does
        ("import os; os.kill(os.getpid(), 11)", 139, "command-crashed", "by signal SIGSEGV"),
    ],
)
def test_a_commands_exit_status_is_the_runs(code: str, status: int, error: str, how: str) -> None:
    exit_code, shown = commanded(code)
    assert exit_code == status
    assert shown.events[-1]["code"] == error
    assert shown.of("error")[0]["message"] == f"the command ended {how}"


SESSION = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True{more})"


@pytest.mark.parametrize("more", ["", ", stdout=-3, stderr=-3"], ids=["with the pipes", "without"])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no subreaper")
def test_what_a_command_leaves_in_a_session_of_its_own_is_ended(more: str) -> None:
    left = "import signal; signal.pause()"
    code, shown = commanded(SESSION.format(code=left, more=more) + "\nprint(p.pid)")
    assert code == 0
    assert not psutil.pid_exists(int(shown.bytes["stdout"]))


def test_what_a_command_leaves_running_is_ended() -> None:
    """Although it holds the command's pipes and ignores SIGTERM."""
    left = "import signal; signal.pause()"
    code, shown = commanded(
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"print(subprocess.Popen([sys.executable, '-c', {left!r}]).pid)"
    )
    assert code == 0
    pid = int(shown.bytes["stdout"])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_stalled_reader_holds_back_the_command_and_not_the_signals() -> None:
    shown = Shown()
    shown.is_full = True

    def stop() -> None:
        shown.was_full.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = threading.Thread(target=stop)
    stopping.start()
    code, _ = commanded("print('x' * 1_000_000); import signal; signal.pause()", shown)
    stopping.join()
    assert code == 143
    assert len(shown.bytes.get("stdout", b"")) < 1_000_000


NOTE = """
import signal, sys, time
def note(number, frame): print(signal.Signals(number).name, flush=True)
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, note)
print('ready', flush=True)
while True: time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("number", "again", "seen"),
    [
        (signal.SIGINT, False, ["SIGINT", "SIGTERM"]),
        (signal.SIGTERM, False, ["SIGTERM"]),
        (signal.SIGINT, True, ["SIGINT"]),
    ],
    ids=["Ctrl-C", "SIGTERM", "a second Ctrl-C is KILL"],
)
def test_signals_reach_the_command_as_they_came(number: int, again: bool, seen: list[str]) -> None:
    """Then TERM, then KILL."""
    shown = Shown()

    def until(text: bytes) -> None:
        while text not in shown.bytes.get("stdout", b""):
            time.sleep(0.01)

    def send() -> None:
        until(b"ready\n")
        os.kill(os.getpid(), number)
        if again:
            until(b"SIGINT\n")
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    code, _ = commanded(NOTE, shown, grace=50.0 if again else 2.0)
    sender.join()
    assert code == 128 + number
    assert shown.bytes["stdout"].decode().split()[1 : 1 + len(seen)] == seen


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="macOS before Python 3.13 tells no status without reaping")
def test_the_status_of_a_command_that_failed_waits_for_no_helper_that_ignores_sigterm() -> None:
    """Another rank's consequence could come first, and be told as the cause."""
    helper = "import signal; signal.pause()"
    code = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", {helper!r}])
sys.exit(7)
"""
    shown, helpers = Shown(), list[psutil.Process]()

    async def act(run: Run) -> None:
        run.met()
        try:
            await run.run_command([sys.executable, "-c", code], dict(os.environ))
        finally:
            (started,) = shown.of("started")
            helpers.extend(each for each in psutil.process_iter() if os.getpgid(each.pid) == started["pid"] != each.pid)
            assert [each.status() == psutil.STATUS_ZOMBIE for each in helpers] == [False]

    status, _ = executed(act, shown, has_command=True, timeout=60.0, grace=0.5)
    assert (status, shown.of("command-ended")[0]["status"]) == (7, 7)
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in helpers)


def test_a_command_at_the_deadline() -> None:
    async def act(run: Run) -> None:
        await run.run_command([sys.executable, "-c", "import signal; signal.pause()"], dict(os.environ))

    code, shown = executed(act, timeout=0.5, has_command=True)
    assert (code, shown.events[-1]["code"]) == (125, "deadline")
    (started,) = shown.of("started")
    assert not psutil.pid_exists(started["pid"])


@pytest.mark.parametrize(
    ("worker", "seconds", "code", "text"),
    [
        ("import signal; signal.pause()", 0.5, "mlx-hangs", "MLX is still being imported"),
        ("import os; os.abort()", 60.0, "mlx-crashed", "loading MLX failed: the worker ended by signal SIGABRT"),
        ("raise SystemExit(7)", 60.0, "mlx-crashed", "loading MLX failed: the worker ended with exit status 7"),
    ],
)
def test_an_import_of_mlx_that_goes_wrong(
    worker: str, seconds: float, code: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a named failure, within the deadline."""
    monkeypatch.setattr("bootstrap.control.child.WORKER", ("-c", worker))

    async def act(run: Run) -> None:
        await (await run.start_worker("ring")).next_event()

    exit_code, shown = executed(act, timeout=seconds)
    (error,) = shown.of("error")
    assert (exit_code, error["code"]) == (3, code)
    assert text in error["message"]


def test_a_process_that_cannot_be_killed_is_reported_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded time, for example if a driver holds it in the kernel."""
    for module in ("child", "strays"):
        monkeypatch.setattr(f"bootstrap.control.{module}.GRACE_SECONDS", 0.1)
        monkeypatch.setattr(f"bootstrap.control.{module}.KILL_SECONDS", 0.2)
    kill = os.killpg
    children: list[Child] = []

    async def act(run: Run) -> None:
        children.append(await run.start_worker("ring"))
        monkeypatch.setattr(os, "killpg", lambda *_: None)
        monkeypatch.setattr(psutil.Process, "send_signal", lambda *_: None)
        raise BootstrapError("text", code="link-lost")

    began = time.monotonic()
    _, shown = executed(act)
    assert time.monotonic() - began < 10
    (warning,) = shown.of("warning")
    assert warning["message"] == f"process {children[0].pid} did not end after SIGKILL; a reboot may be needed"
    kill(children[0].pid, signal.SIGKILL)
    wait_until(lambda: children[0]._process.poll() is not None, "its end")


def test_the_exit_status_of_a_command_that_ended_at_once_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it was reaped as an orphan before the run had it, and counted as a success."""

    async def act(run: Run) -> None:
        loop = asyncio.get_running_loop()
        connect = loop.connect_read_pipe

        async def slowly(*arguments: Any) -> Any:
            await asyncio.sleep(0.1)
            return await connect(*arguments)

        monkeypatch.setattr(loop, "connect_read_pipe", slowly)
        await run.run_command(("/bin/sh", "-c", "exit 7"), os.environ)

    code, shown = executed(act, has_command=True)
    assert (code, shown.of("error")[0]["code"]) == (7, "command-failed")


def test_the_system_can_be_replaced() -> None:
    """Like a simulation."""
    started: list[Sequence[str]] = []

    class Pretended:
        def __getattr__(self, name: str) -> Any:
            return getattr(processes, name)

        def start(self, wanted: Start) -> Process:
            started.append(wanted.arguments)
            raise BootstrapError("pretended", code="mlx-missing")

    async def act(run: Run) -> None:
        await run.start_worker("ring")

    shown = Shown()
    clock = iter(range(100, 200)).__next__
    with running_on(replace(current(), clock=clock, processes=lambda: cast(Processes, Pretended()))):
        run = Run(shown, timeout=60)
        assert execute(run, lambda: run.main(act)) == 3
    assert [arguments[-1] for arguments in started] == ["ring"]
    assert run.origin == 100
    assert shown.events[-1] == {"event": "done", "ok": False, "code": "mlx-missing"}
