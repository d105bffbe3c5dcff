"""One run: its deadline, signals, exit code, lock and children."""

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
from bootstrap.control.lock import host_lock
from bootstrap.control.strays import adopting, descendants, end_strays, reap_orphans
from bootstrap.control.watchers import Watchers
from bootstrap.errors import BootstrapError, ConfigError, refused
from bootstrap.events import EventDict
from bootstrap.link.outcome import PeerError
from bootstrap.link.reason import Reason
from bootstrap.system import current
from bootstrap.system.processes import POLL_SECONDS
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_OK

WORKER_SLACK: Final = 1.0
"""A worker's own deadline is this much later, so that the run reports first."""
COMMAND_GRACE_SECONDS: Final = 5.0
"""From TERM to KILL for a user's command, which may have data to save."""
LAST_WORDS_SECONDS: Final = 2.0
"""How long the rank may take to tell the others why it stops."""
OUTPUT_SECONDS: Final = 1.0
"""How long to wait for the last output of a command that has ended."""
FAILED_OUTPUT_SECONDS: Final = 0.05
"""The same if it has failed: the other ranks are to hear of that before they notice."""
QUIET_SECONDS: Final = 0.2
"""After this time without output, an unfinished line is passed on."""
EXIT_RUN_FAILED: Final = 125
"""The exit code for a failure of the run around a user's program, as with env and timeout."""


class Display(Protocol):
    """Receives events, a worker's log lines and a command's output. No method blocks."""

    def event(self, event: EventDict) -> None: ...

    def log(self, rank: int | None, line: str) -> None: ...

    def output(self, rank: int | None, stream: str, data: bytes) -> None:
        """Take the next bytes of a command's output; b"" ends the stream."""

    def quiet(self, rank: int | None, stream: str) -> None:
        """Note that no output has come for a while."""

    def full(self, stream: str) -> bool:
        """Whether a command's output must wait for the reader of a stream."""

    async def failed(self) -> OSError:
        """Wait until writing the output fails; return the reason."""


class RunError(BootstrapError):
    """The run ended early, for example at its deadline."""

    stage = "run"
    rank: int | None = None
    """The rank that failed; None for the run itself."""


class Stopped(Exception):  # noqa: N818 - no error
    """A signal stopped the run."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def execute(
    run: "Run", main: Callable[[], Coroutine[Any, Any, None]], *, has_command: bool = False, **summary: object
) -> int:
    """Run `main`, which is `run.main` or calls it, to its end. Return the exit code.

    The last event is `done`, with `summary` and what the run adds. A stop by a signal is no error: 130 for SIGINT, 143
    for SIGTERM. With a command, the exit code is the command's, or 125 for a failure of the run around it.
    """
    run.summary.update(summary)
    error: Exception | None = None
    try:
        try:
            asyncio.run(main())
        except OSError as refusal:
            raise refused(refusal) from refusal
        finally:
            for directory in run.watchers.directories:  # the end of the event loop freed descriptors
                current().files.remove_directory(directory)
    except (Stopped, BootstrapError) as failure:
        error = failure
    code = run.conclude(error, has_command=has_command)
    run.exit_on_signals(code)
    run.done()
    return code


class Run:
    """Owns the clock, events, signals and children of one run, of the rank `rank`.

    It holds the lock of `host` (address, link port). A run that `owns_process` handles signals, and ends everything
    that was started in this process meanwhile; another one ends only its own children.
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
        """When the group must be up; None for no limit."""
        self.summary: dict[str, object] = {}
        """Further members of `done`."""
        self._failure: str | None = None
        self.native = False
        """Whether native code has run."""
        self.is_met = False
        """Whether the group is up."""
        self._met_changed = asyncio.Event()
        self.reason = Reason()
        """Why there is no group yet, for the error at the deadline."""
        self.verdict: PeerError | None = None
        """The first failure that is known: it will end this attempt, even if the deadline comes before that."""
        self.command_status: int | None = None
        """How the command ended; None while it runs, or without one."""
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
        """Return the milliseconds since the start."""
        return round((self._clock() - self.origin) * 1000, 1)

    def report(self, event: str, /, **fields: object) -> None:
        self.show({"event": event, "rank": self._rank, **fields, "t_ms": self.now()})

    def show(self, event: EventDict) -> None:
        """Pass on an event unchanged."""
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
        """Report how the run ended, by Stopped, a BootstrapError or success. Return the exit code."""
        code = EXIT_OK
        if isinstance(error, Stopped):
            code = 128 + error.number
            self.summary["stopped"] = True
            if not self.is_met:
                self._failure = "interrupted"
        elif isinstance(error, PeerError) and error.code == "interrupted":  # another rank's user stopped it
            self.summary["stopped"] = True
        elif isinstance(error, BootstrapError):
            self._failure = error.code
            # If another rank failed first, a command's end is a consequence, but still gives the exit code.
            codes = [getattr(each, "exit_code", None) for each in (error, error.__cause__)]
            code = next(filter(None, codes), EXIT_RUN_FAILED if has_command else EXIT_COULD_NOT_RUN)
            if error.code != "output-closed":  # nobody reads it
                self.fail(error)
        elif self.command_status is not None:
            status = self.summary["status"] = exit_code(self.command_status)
            if not self.summary.get("stopped"):  # else the run ended the command
                code = status
        return code

    def done(self) -> None:
        """Report the last event of a run."""
        failure = {} if self._failure is None else {"code": self._failure}
        self.display.event({"event": "done", "ok": not failure, **self.summary, **failure, "t_ms": self.now()})

    # -- from start to end ---------------------------------------------------------------------------------------------

    async def main(self, act: Callable[["Run"], Coroutine[Any, Any, None]]) -> None:
        """Run `act`. Raise BootstrapError or Stopped. However it ends, no child and no file of one is left."""
        if not self._owns_process and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            text = "this process ignores SIGCHLD, so no exit status of a program is known; restore signal.SIG_DFL"
            raise ConfigError(text, code="bad-signals")
        with suppress(OSError):
            # Chosen once: if the disk is full later, that is an error, not a reason to use another directory.
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
                if main.cancel():  # it still talks to a rank that does not listen
                    await asyncio.wait({main}, timeout=LAST_WORDS_SECONDS)
                if self._children:  # one has started during the cancellation
                    await self.end_children()
                if self._alarm is not None:
                    self._alarm.cancel()

    def stop(self, reason: Stopped | BootstrapError) -> None:
        """Stop the run for an external reason; only the first one counts."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._stopped.set()

    async def _guarded(self, act: Callable[["Run"], Coroutine[Any, Any, None]], held: AsyncExitStack) -> None:
        lock = None
        if self._host is not None:
            lock = await held.enter_async_context(host_lock(*self._host))
            if lock.left_over:
                self.report("reaped", pids=lock.left_over)
        processes = current().processes()
        # Before there is anything to clean up.
        guard = processes.guard() if lock is None else processes.guard(lock.descriptor, lock.path)
        self._before |= {guard.pid}
        held.callback(guard.dismiss)
        self.watchers = Watchers(guard, lock)
        held.callback(self.watchers.remove_directories)
        held.callback(self.watchers.forget_ended)
        await act(self)

    def met(self) -> None:
        """Note that the group is up, so this attempt has met its deadline."""
        self._set_met(True)
        if self._alarm is not None:
            self._alarm.cancel()

    async def changed(self, *, met: bool) -> None:
        """Wait until the group is up, or no longer up."""
        while self.is_met is not met:
            await self._met_changed.wait()

    def _set_met(self, value: bool) -> None:
        self.is_met = value
        self._met_changed.set()
        self._met_changed = asyncio.Event()

    async def again(self, seconds: float = 0.0) -> None:
        """End the children, wait, and restart the deadline for another attempt."""
        self._set_met(False)
        self.command_status = self.verdict = None
        if self._alarm is not None:
            self._alarm.cancel()
        await self.end_children()
        await asyncio.sleep(seconds)
        self.deadline = self._clock() + self._timeout if self._timeout else None
        self._set_alarm()

    @property
    def stopped_by(self) -> BootstrapError | None:
        """Why the run is being stopped, for the other ranks: a signal, the deadline, or a failed output."""
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
        """Ignore stops from now on, so that a late one does not replace the exit code.

        The loop itself would restore the defaults at its end, and close its signal pipe while that is still in use.
        """
        for number in (*self._stops, signal.SIGTSTP, signal.SIGCHLD):
            loop.remove_signal_handler(number)
        self._ignore_stops()

    def _ignore_stops(self) -> None:
        for number in self._stops:
            signal.signal(number, signal.SIG_IGN)

    def exit_on_signals(self, code: int) -> None:
        """Exit at a signal from now on, with the code of the finished run: writing its last output may take long."""
        for number in self._stops:
            signal.signal(number, lambda *_: os._exit(code))
        atexit.register(self._ignore_stops)  # the interpreter restores the defaults at exit, too

    def interrupt(self, number: int) -> None:
        """Stop the run as by a signal. A second SIGINT ends all grace periods."""
        if self._stop_reason is not None and number == signal.SIGINT:  # a second Ctrl-C
            self._hurries = True
            for child in self._children:
                child.hurry.set()
        self.stop(Stopped(number))

    def suspend(self) -> None:
        """Stop the children at Ctrl-Z too; they continue with this process."""
        for child in (*self._children, *self.watchers.starting):
            child.send(signal.SIGSTOP)  # SIGTSTP has no effect in a session without a terminal
        current().processes().pause(self._resume)

    def _resume(self) -> None:
        for child in (*self._children, *self.watchers.starting):
            child.send(signal.SIGCONT)

    def reap_orphans(self) -> None:
        """Reap adopted descendants that have exited."""
        reap_orphans(self._before | self.watchers.children | {child.pid for child in self._children})

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._timeout:
            self._alarm = asyncio.get_running_loop().call_later(self._timeout, self._too_late)

    def _too_late(self) -> None:
        if self.verdict is not None:
            self.stop(self.verdict)
            return
        states = ", ".join(f"the worker after '{child.last}'" for child in self._children)
        late = f"no group within {self._timeout:g} s"
        reason = self.reason.error
        is_importing = any(child.is_worker and child.last == "started" for child in self._children)
        if is_importing and (reason is None or self.reason.has_met):  # then the other ranks wait for this
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
            self.stop(RunError("the reader of the output has exited", code="output-closed"))
        else:
            self.stop(RunError(f"the output cannot be written: {error.strerror or error}", code="output-failed"))

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report errors of the event loop, such as an accept without descriptors. Bugs go to the default handler."""
        error = context.get("exception")
        if "_start_serving" in context["message"]:
            return  # asyncio listens again after a lack of descriptors, even if that was closed
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        text = f"{context['message']}: {error.strerror or error}"
        if text not in self._complaints:  # it may repeat for as long as the run
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
        """Start a process that holds MLX, and show its log lines. Its events come from `Child.next_event`.

        `quiet` reports no start, for a worker that only tells what MLX can do. `program` is for `run_program`; with
        `stdin` the program reads this process's standard input.
        """
        child = await Child.worker(backend, self.watchers, channel, program=program, stdin=stdin)
        self._children.append(child)
        if not quiet:
            self.report("started", pid=child.pid)
        self._logs.append(asyncio.create_task(self._log(child)))
        return child

    async def start_run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start another run of this program for the demo, and show its log lines."""
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
        """Run a user's command to its end and pass on its output. Raise CommandError unless its exit status is 0."""
        child = await Child.command(arguments, environment, self.watchers, self._grace, channel, cwd=cwd, stdin=stdin)
        self._children.append(child)
        self.report("started", pid=child.pid)
        self.native = True
        await self._until_it_ends(child)

    async def run_program(self, worker: Child) -> None:
        """Have a worker run the program of its order to its end, as `run_command` runs a command."""
        worker.becomes_program(self._grace)
        telling = asyncio.create_task(self._events(worker))
        try:
            await self._until_it_ends(worker)
        finally:
            telling.cancel()

    async def output_of(self, arguments: Sequence[str], seconds: float) -> bytes:
        """Return the stdout of a short command within `seconds`; b"" if it fails."""
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
        if (failed_with := child.failed_with) is not None:
            # Told at once, so that no consequence on another rank comes first. Its group ends with the attempt.
            self._command_ended(failed_with)
        await child.end()
        if self._owns_process and not child.status:  # those of a failed one end with the attempt, too
            await end_strays(self._before | {each.pid for each in self._children if each is not child})
        seconds = FAILED_OUTPUT_SECONDS if child.status else OUTPUT_SECONDS
        while (await asyncio.wait(outputs, timeout=seconds))[1]:
            if not (self.display.full("stdout") or self.display.full("stderr")):
                break
        self._command_ended(child.status if child.status is not None else -signal.SIGKILL)

    def _command_ended(self, status: int) -> None:
        """Report the status of the user's command. Raise CommandError if it has failed."""
        self.command_status = status
        self.report("command-ended", status=exit_code(status))
        if status:
            raise CommandError(status)

    def is_running(self) -> bool:
        """Whether a child has not exited."""
        return any(not child.has_exited for child in self._children)

    async def owns(self, address: tuple[str, int]) -> bool | None:
        """Whether a child or a descendant of one has a TCP socket with this local address; None if unknown."""
        # If the run owns the process, all descendants are its own, even those whose parent has exited.
        pids = None if self._owns_process else [child.pid for child in self._children]
        return await asyncio.to_thread(current().processes().owns, pids, address)

    async def end(self, child: Child) -> None:
        """End one child that is no longer needed."""
        if await child.end():
            child.close()
            self._children = [each for each in self._children if each is not child]

    async def end_children(self) -> None:
        """End all children and everything that they started. Warn about what cannot be ended."""
        children = list(self._children)
        number = self._stop_reason.number if isinstance(self._stop_reason, Stopped) else signal.SIGTERM
        for child in children if self._hurries else ():
            child.hurry.set()
        try:
            gone = await asyncio.gather(
                *(child.end(signal.SIGTERM if child.is_worker else number) for child in children)
            )
        finally:
            self._children = [child for child in self._children if child not in children]
        for child, done in zip(children, gone, strict=True):
            if not done:  # said at once: a stop may cancel what follows
                text = f"process {child.pid} did not end after SIGKILL; a reboot may be needed"
                self.report("warning", message=text)
        logs, self._logs = self._logs, []
        try:
            if self._owns_process:
                await end_strays(self._before)
            self.watchers.remove_directories()
            if logs:
                await asyncio.wait(logs, timeout=OUTPUT_SECONDS)
        finally:  # a stop may come during the wait for a process that cannot be killed
            for task in logs:
                task.cancel()
            for child in children:
                child.close()

    async def _events(self, child: Child) -> None:
        """Show the events of a worker that runs its program."""
        while (line := await child.line("events")) is not None:
            if (event := parse(line)) is not None:
                self.show(event)

    async def _log(self, child: Child) -> None:
        while (line := await child.log_line()) is not None:
            if child.is_worker or line.startswith("["):  # a run of the demo reports errors as events
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
