"""One run: its deadline, signals, exit code and lock, and the children that end with it."""

import asyncio
import atexit
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Protocol

from bootstrap.advice import advise
from bootstrap.control.child import Child, CommandError, exit_code, parse
from bootstrap.control.lock import Lock, host_lock
from bootstrap.control.strays import adopting, descendants, end_strays, reap_orphans
from bootstrap.control.watchers import Watchers
from bootstrap.errors import BootstrapError, refused
from bootstrap.events import EventDict
from bootstrap.link.outcome import PeerError
from bootstrap.link.reason import Reason
from bootstrap.system import Guard, current
from bootstrap.system.processes import POLL_SECONDS
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_OK

WORKER_SLACK: Final = 1.0
"""A worker's own deadline is this much later, so that the message of the run is the one that is seen."""
COMMAND_GRACE_SECONDS: Final = 5.0
"""From TERM to KILL for a user's command, which may have something to save."""
LAST_WORDS_SECONDS: Final = 2.0
"""How long the rank may take to tell the others why it ends."""
OUTPUT_SECONDS: Final = 1.0
"""How long the last output of a command that has ended may take to come in."""
QUIET_SECONDS: Final = 0.2
"""After this time without more, the beginning of a line is passed on as it is."""
EXIT_RUN_FAILED: Final = 125
"""The exit code for a failure of the run around a user's program, as env and timeout have it."""


class Display(Protocol):
    """Where events, a worker's log lines and a command's output go. Nothing here blocks."""

    def event(self, event: EventDict) -> None: ...

    def log(self, rank: int | None, line: str) -> None: ...

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        """Take bytes of a command's output as they come; b"" ends the stream."""

    def quiet(self, rank: int | None, stream: str) -> None:
        """Say that no more output has come for a while."""

    def full(self, stream: str) -> bool:
        """Whether the reader of a stream lags so far behind that a command's output has to wait."""

    async def failed(self) -> OSError:
        """Wait until the output cannot be written; return the reason."""


class RunError(BootstrapError):
    """The run ended early: its deadline, or its output, which nobody reads any more."""

    stage = "run"
    rank: int | None = None
    """Whose failure it was; None for the run's own."""


class Stopped(Exception):  # noqa: N818 - no error
    """The user, or the system, stopped the run with a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def execute(
    run: "Run", main: Callable[[], Coroutine[Any, Any, None]], *, has_command: bool = False, **summary: object
) -> int:
    """Run `main`, which is `run.main` or contains it, to its end; return the exit code. The last event is `done`.

    `done` has `summary`, and what the run adds. A stop by a signal is no error: 130 for SIGINT, 143 for SIGTERM. With a
    command, the exit code is the command's, and 125 for a failure of the run around it.
    """
    run.summary.update(summary)
    error: Exception | None = None
    try:
        try:
            asyncio.run(main())
        except OSError as refusal:
            raise refused(refusal) from refusal
        finally:
            for directory in run.watchers.directories:  # without the event loop there are descriptors again
                current().files.remove_directory(directory)
    except (Stopped, BootstrapError) as failure:
        error = failure
    code = run.conclude(error, has_command=has_command)
    run.exit_on_signals(code)
    run.done()
    return code


class Run:
    """The clock, the events, the signals and the children of one run.

    `rank` is the rank whose run this is; `host` is its address and link port, whose lock is held meanwhile. A run that
    `owns_process` handles signals, and ends whatever has been started in this process meanwhile; another one ends its
    own children.
    """

    def __init__(
        self,
        display: Display,
        *,
        timeout: float,
        rank: int | None = None,
        host: tuple[str, int] | None = None,
        grace: float = COMMAND_GRACE_SECONDS,
        owns_process: bool = True,
    ) -> None:
        self.display = display
        self._clock = current().clock
        self.origin = self._clock()
        self.deadline = self.origin + timeout if timeout else None
        """When the group has to be there; None for no limit."""
        self.summary: dict[str, object] = {}
        """What `done` tells besides."""
        self._failure: str | None = None
        self.native = False
        """Whether native code was set to work."""
        self.is_met = False
        """Whether the group is there."""
        self._met_changed = asyncio.Event()
        self.reason = Reason()
        """What the deadline is to be blamed on."""
        self.command_status: int | None = None
        """How the command ended; None while it runs, or where none ran."""
        self.watchers = Watchers()
        self._timeout = timeout
        self._rank = rank
        self._host = host
        self._grace = grace
        self._children: list[Child] = []
        self._logs: list[asyncio.Task[None]] = []
        self._complaints: set[str] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._owns_process = owns_process
        self._stop_reason: Stopped | BootstrapError | None = None
        self._stopped = asyncio.Event()
        self._before: frozenset[int] = frozenset()
        self._hurries = False
        self._stops: list[signal.Signals] = []  # that this run handles

    # -- what it shows -------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Milliseconds since the start."""
        return round((self._clock() - self.origin) * 1000, 1)

    def report(self, event: str, /, **fields: object) -> None:
        self.show({"event": event, "rank": self._rank, **fields, "t_ms": self.now()})

    def show(self, event: EventDict) -> None:
        """Pass on an event as it is."""
        self.native |= event["event"] == "environment-set"
        self.display.event(event)

    def fail(self, error: BootstrapError) -> None:
        """Report an error with its advice."""
        advice = advise(error.code, str(error))
        self.show(
            {
                "event": "error",
                "rank": self._rank if (rank := getattr(error, "rank", None)) is None else rank,
                "stage": error.stage,
                "code": error.code,
                "message": str(error),
                "cause": advice.cause,
                "remedy": advice.remedy,
                "retry": advice.retry(self.native),
                "t_ms": self.now(),
            }
        )

    def conclude(self, error: Exception | None, *, has_command: bool) -> int:
        """Take how the run ended, Stopped or a BootstrapError; report a failure, and return the exit code."""
        code = EXIT_OK
        if isinstance(error, Stopped):
            code = 128 + error.number
            self.summary["stopped"] = True
            if not self.is_met:
                self._failure = "interrupted"
        elif isinstance(error, PeerError) and error.code == "interrupted":  # another rank was stopped by its user
            self.summary["stopped"] = True
        elif isinstance(error, BootstrapError):
            self._failure = error.code
            # Where another rank failed first, a command's end is a consequence, and still gives the exit code.
            codes = [getattr(each, "exit_code", None) for each in (error, error.__cause__)]
            code = next(filter(None, codes), EXIT_RUN_FAILED if has_command else EXIT_COULD_NOT_RUN)
            if error.code != "output-closed":  # nobody is left to read it
                self.fail(error)
        elif self.command_status is not None:
            status = self.summary["status"] = exit_code(self.command_status)
            if not self.summary.get("stopped"):  # else the command was ended with the group
                code = status
        return code

    def done(self) -> None:
        """Report the end, the last event of a run."""
        failure = {} if self._failure is None else {"code": self._failure}
        self.display.event({"event": "done", "ok": not failure, **self.summary, **failure, "t_ms": self.now()})

    # -- from start to end ---------------------------------------------------------------------------------------------

    async def main(self, act: Callable[["Run"], Coroutine[Any, Any, None]]) -> None:
        """Raise BootstrapError or Stopped; whichever way it ends, no process and no file of a child is left."""
        with suppress(OSError):
            # Chosen now, and kept: a disk that is full later is an error, not another place.
            current().files.temporary_directory()
        async with AsyncExitStack() as held:
            if self._owns_process:
                self._before = descendants()
                loop = asyncio.get_running_loop()
                self._handle_signals(loop)
                held.callback(self._release_stops, loop)
                held.enter_context(adopting())
            self._set_alarm()
            output = asyncio.create_task(self._output_failed())
            stopped = asyncio.create_task(self._stopped.wait())
            main = asyncio.create_task(self._guarded(act, held))
            try:
                await asyncio.wait({main, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if self._stop_reason is not None:
                    raise self._stop_reason
                main.result()
            finally:
                for task in (output, stopped, main):
                    task.cancel()
                await self.end_children()
                await asyncio.wait({main}, timeout=LAST_WORDS_SECONDS)
                if self._children:  # one has started in the moment of the cancellation
                    await self.end_children()
                if self._alarm is not None:
                    self._alarm.cancel()

    def stop(self, reason: Stopped | BootstrapError) -> None:
        """End the run for a reason from outside; only the first one counts."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._stopped.set()

    async def _guarded(self, act: Callable[["Run"], Coroutine[Any, Any, None]], held: AsyncExitStack) -> None:
        lock = None
        if self._host is not None:
            lock = await held.enter_async_context(host_lock(*self._host))
            if lock.left_over:
                self.report("reaped", pids=lock.left_over)
        guard = _guard(lock)  # before anything is left behind
        self._before |= {guard.pid}
        held.callback(guard.dismiss)
        self.watchers = Watchers(guard, lock)
        held.callback(self.watchers.remove_directories)
        held.callback(self.watchers.forget_ended)
        await act(self)

    def met(self) -> None:
        """The group is there: the deadline is met, and no timer of this attempt is left."""
        self._set_met(True)
        if self._alarm is not None:
            self._alarm.cancel()

    async def changed(self, *, met: bool) -> None:
        """Wait until the group is there, or is not there any more."""
        while self.is_met is not met:
            await self._met_changed.wait()

    def _set_met(self, value: bool) -> None:
        self.is_met = value
        self._met_changed.set()
        self._met_changed = asyncio.Event()

    async def again(self, seconds: float = 0.0) -> None:
        """End what runs, wait, and start the deadline again for another attempt."""
        self._set_met(False)
        self.command_status = None
        if self._alarm is not None:
            self._alarm.cancel()
        await self.end_children()
        await asyncio.sleep(seconds)
        self.deadline = self._clock() + self._timeout if self._timeout else None
        self._set_alarm()

    @property
    def stopped_by(self) -> BootstrapError | None:
        """What ends the run from outside, for the other ranks: a signal, the deadline, or an output that is gone."""
        if isinstance(self._stop_reason, Stopped):
            return RunError(f"stopped by {self._stop_reason}", code="interrupted")
        return self._stop_reason

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_exception_handler(self._complain)
        self._stops = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else nohup asked for that
            self._stops.append(signal.SIGHUP)
        for number in self._stops:
            loop.add_signal_handler(number, self.interrupt, number)
        loop.add_signal_handler(signal.SIGTSTP, self.suspend)
        loop.add_signal_handler(signal.SIGCHLD, lambda: loop.call_later(POLL_SECONDS, self.reap_orphans))

    def _release_stops(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the signals from the loop, whose end would restore their defaults: too late to stop the run, they would
        take the place of its exit code. It would also close the pipe that tells of signals before it stops using it."""
        for number in (*self._stops, signal.SIGTSTP, signal.SIGCHLD):
            loop.remove_signal_handler(number)
        self._ignore_stops()

    def _ignore_stops(self) -> None:
        for number in self._stops:
            signal.signal(number, signal.SIG_IGN)

    def exit_on_signals(self, code: int) -> None:
        """From now on exit at a signal, with the code of the run that is over: its last output may take long."""
        for number in self._stops:
            signal.signal(number, lambda *_: os._exit(code))
        atexit.register(self._ignore_stops)  # the interpreter's end would restore their defaults, too

    def interrupt(self, number: int) -> None:
        """End the run as a signal does; a second SIGINT ends all graces."""
        if self._stop_reason is not None and number == signal.SIGINT:  # a second Ctrl-C
            self._hurries = True
            for child in self._children:
                child.hurry.set()
        self.stop(Stopped(number))

    def suspend(self) -> None:
        """Ctrl-Z stops the children too; they go on with this process."""
        for child in self._children:
            child.send(signal.SIGSTOP)  # SIGTSTP has no effect in a session without a terminal
        os.kill(os.getpid(), signal.SIGSTOP)
        for child in self._children:
            child.send(signal.SIGCONT)

    def reap_orphans(self) -> None:
        """Reap descendants that became this process's children and have ended."""
        reap_orphans(self._before | self.watchers.children | {child.pid for child in self._children})

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._timeout:
            self._alarm = asyncio.get_running_loop().call_later(self._timeout, self._too_late)

    def _too_late(self) -> None:
        states = ", ".join(f"the worker after '{child.last}'" for child in self._children)
        late = f"no group within {self._timeout:g} s"
        reason = self.reason.error
        is_importing = any(child.is_worker and child.last == "started" for child in self._children)
        if is_importing and (reason is None or self.reason.has_met):  # then this is what the other ranks wait for
            error = RunError(f"{late}: MLX is still being imported; try: python -c 'import mlx.core'", code="mlx-hangs")
        elif reason is not None:
            error = RunError(f"{reason}; {late}", code=reason.code)
            error.stage = reason.stage
            if isinstance(reason, PeerError):
                error.rank = reason.rank
        else:
            error = RunError(
                f"{late} ({states or 'no worker yet'}); see the log lines, or raise --timeout", code="deadline"
            )
        self.stop(error)

    async def _output_failed(self) -> None:
        error = await self.display.failed()
        if isinstance(error, BrokenPipeError):
            self.stop(RunError("the reader of the output has left", code="output-closed"))
        else:
            self.stop(RunError(f"the output cannot be written: {error.strerror or error}", code="output-failed"))

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report what the event loop cannot do, such as accept without descriptors; a bug goes the default way."""
        error = context.get("exception")
        if "_start_serving" in context["message"]:
            return  # a second after descriptors were short asyncio listens again, even if that was closed meanwhile
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        text = f"{context['message']}: {error.strerror or error}"
        if text not in self._complaints:  # it may go on for as long as the run
            self._complaints.add(text)
            self.report("warning", message=text)

    # -- its children --------------------------------------------------------------------------------------------------

    async def start_worker(
        self,
        backend: str,
        channel: socket.socket | None = None,
        *,
        quiet: bool = False,
        program: bool = False,
        stdin: bool = False,
    ) -> Child:
        """Start a process that holds MLX; its log lines are shown. Take its events with `Child.next_event`.

        `quiet` reports no start: the worker is to say what MLX can do, and no more. `program`: for `run_program`, which
        with `stdin` reads this process's.
        """
        child = await Child.worker(backend, self.watchers, channel, program=program, stdin=stdin)
        self._children.append(child)
        if not quiet:
            self.report("started", pid=child.pid)
        self._logs.append(asyncio.create_task(self._log(child)))
        return child

    async def start_run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start another run of this program, for the demo; its log lines are shown."""
        child = await Child.command(arguments, environment, self.watchers, self._grace)
        self._children.append(child)
        self._logs.append(asyncio.create_task(self._log(child)))
        return child

    async def run_command(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        channel: socket.socket | None = None,
        *,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> None:
        """Run a user's command to its end, and pass on what it writes. CommandError unless its exit status is 0."""
        child = await Child.command(arguments, environment, self.watchers, self._grace, channel, cwd=cwd, stdin=stdin)
        self._children.append(child)
        self.report("started", pid=child.pid)
        self.native = True
        await self._until_it_ends(child)

    async def run_program(self, worker: Child) -> None:
        """Have a worker run the program of its order, to its end, as `run_command` does a command."""
        worker.becomes_program(self._grace)
        telling = asyncio.create_task(self._events(worker))
        try:
            await self._until_it_ends(worker)
        finally:
            telling.cancel()

    async def output_of(self, arguments: Sequence[str], seconds: float) -> bytes:
        """Return what a short-lived command writes to stdout within `seconds`; b"" if it fails."""
        child = await Child.command(arguments, os.environ, self.watchers, self._grace)
        self._children.append(child)
        output = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while data := await child.read("stdout"):
                    output += data
                await child.exited()
        await self.end(child)
        return output if child.status == 0 else b""

    async def _until_it_ends(self, child: Child) -> None:
        outputs = [asyncio.create_task(self._pass_on(child, name)) for name in ("stdout", "stderr")]
        self._logs += outputs
        await child.exited()
        await child.end()
        if self._owns_process:
            await end_strays(self._before | {each.pid for each in self._children if each is not child})
        while (await asyncio.wait(outputs, timeout=OUTPUT_SECONDS))[1]:
            if not (self.display.full("stdout") or self.display.full("stderr")):
                break
        status = self.command_status = child.status if child.status is not None else -signal.SIGKILL
        self.report("command-ended", status=exit_code(status))
        if status:
            raise CommandError(status)

    def is_running(self) -> bool:
        """Whether a child has not exited."""
        return any(not child.has_exited for child in self._children)

    async def owns(self, address: tuple[str, int]) -> bool | None:
        """Return whether a child, or what it has started, has a TCP socket with this local address and port.

        None if it cannot be told.
        """
        # Of a process that it owns all descendants are the run's, also those whose own parent has ended.
        pids = None if self._owns_process else [child.pid for child in self._children]
        return await asyncio.to_thread(current().processes().owns, pids, address)

    async def end(self, child: Child) -> None:
        """End one child that is not needed any more."""
        if await child.end():
            child.close()
            self._children = [each for each in self._children if each is not child]

    async def end_children(self) -> None:
        """End all children, and all that they have started; say what cannot be ended."""
        children = list(self._children)
        number = self._stop_reason.number if isinstance(self._stop_reason, Stopped) else signal.SIGTERM
        for child in children:
            if self._hurries:
                child.hurry.set()
        try:
            gone = await asyncio.gather(
                *(child.end(signal.SIGTERM if child.is_worker else number) for child in children)
            )
        finally:
            self._children = [child for child in self._children if child not in children]
        if self._owns_process:
            await end_strays(self._before)
        self.watchers.remove_directories()
        logs, self._logs = self._logs, []
        if logs:
            await asyncio.wait(logs, timeout=OUTPUT_SECONDS)
        for task in logs:
            task.cancel()
        for child, done in zip(children, gone, strict=True):
            child.close()
            if not done:
                text = f"process {child.pid} did not end after SIGKILL; a reboot may be needed"
                self.report("warning", message=text)

    async def _events(self, child: Child) -> None:
        """Show what a worker tells of its program."""
        while (line := await child.line("events")) is not None:
            if (event := parse(line)) is not None:
                self.show(event)

    async def _log(self, child: Child) -> None:
        while (line := await child.log_line()) is not None:
            if child.is_worker or line.startswith("["):  # a run of the demo's has told of its errors in its events
                self.display.log(self._rank, line)

    async def _pass_on(self, child: Child, stream: str) -> None:
        data = b"begin"
        while data:
            while self.display.full(stream):  # noqa: ASYNC110 - threads tell no event loop
                await asyncio.sleep(POLL_SECONDS)
            reading = asyncio.create_task(child.read(stream))
            try:
                if not (await asyncio.wait({reading}, timeout=QUIET_SECONDS))[0]:
                    self.display.quiet(self._rank, stream)
                data = await reading
            finally:
                reading.cancel()
            self.display.output(self._rank, stream, data)


def _guard(lock: Lock | None) -> Guard:
    processes = current().processes()
    return processes.guard() if lock is None else processes.guard(lock.descriptor, lock.path)
