"""Shared by the commands `wireproto` and `jaccl-bootstrap`: exit codes, usage errors, signals, closed pipes."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

from wireproto.errors import printable

if TYPE_CHECKING:
    from typer import Typer

EXIT_OK: Final = 0
EXIT_NO: Final = 1
EXIT_WRONG_USAGE: Final = 2
EXIT_COULD_NOT_RUN: Final = 3

_EXTRAS: Final = {
    "cryptography": "session",
    "backports": "inspect",
    "hypothesis": "fuzz",
    "psutil": None,
    "rich": None,
    "typer": None,
}
"""The extra that installs a package; None for the extra of the whole command."""


def run(load: Callable[[], "Typer"], prog: str, *, extra: str) -> NoReturn:
    """Run the app that `load` imports with this process's arguments, and exit with the code that its command returns.

    `extra` is the extra that the command needs. A command reports wrong usage with
    `raise typer.BadParameter(text, ctx=context)`, where the text says what to do.
    """
    _complete_streams()
    stops = _signals_as_interrupts()
    try:
        code = _invoke(load, prog)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        number = stops[0] if stops else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        code = _complain(f"{prog}: {what}", 128 + number)
    except BrokenPipeError:  # the reader of the output has exited
        _drop_output()
        code = EXIT_COULD_NOT_RUN
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = _EXTRAS[package] or extra
        hint = f"{prog} needs {error.name}, which is not installed; run: pip install 'cluster-wireproto[{extra}]'"
        code = _complain(hint, EXIT_COULD_NOT_RUN)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        code = _complain(f"{prog}: {where}{error.strerror or error}", EXIT_COULD_NOT_RUN)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # the output cannot be written
            _drop_output()
    sys.exit(code)


def _signals_as_interrupts() -> list[int]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, so that it stops what it has started.

    Return a list that the signals that come are added to. A signal that is ignored, as by nohup, remains so.
    """
    stops: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)
        on_interrupt = signal.getsignal(signal.SIGINT)  # an event loop has its own
        if callable(on_interrupt):
            on_interrupt(signal.SIGINT, frame)
        else:  # a shell lets its background commands ignore SIGINT
            raise KeyboardInterrupt

    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no SIGHUP
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)
    return stops


def _complete_streams() -> None:
    """Treat a standard stream that is closed as /dev/null, and escape characters that the output cannot encode.

    Make pipes blocking: one that another process made non-blocking would lose output if its reader is slow.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in order of their descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if os.name == "posix":
                os.set_blocking(stream.fileno(), True)


def say(text: str, *, err: bool = False) -> None:
    """Write a line. Characters that the stream cannot encode are escaped.

    It is in colour on a terminal that has any, unless the user wants none.
    """
    import typer

    is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    # Without a file, echo would write UTF-8 to an ASCII stream.
    typer.echo(text, file=sys.stderr if err else sys.stdout, color=False if is_plain else None)


def _drop_output() -> None:
    """Keep buffered output from raising at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def example(*lines: str) -> str:
    """Return the epilog of a command's help: an example, broken as a shell allows it."""
    return "\b\nExample: " + " \\\n  ".join(lines)


def new_app(prog: str, summary: str, *, epilog: str) -> "Typer":
    """Return an app with subcommands, `--version` and shell completion, and with plain help and errors."""
    import typer

    app = typer.Typer(
        name=prog,
        help=summary,
        epilog=epilog,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            say(version_line(prog))
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        pass

    return app


def version_line(prog: str) -> str:
    """Return the output of `--version`, as in `wireproto 0.1.0`."""
    from importlib import metadata

    try:
        return f"{prog} {metadata.version('cluster-wireproto')}"
    except metadata.PackageNotFoundError:
        return f"{prog} (from a source tree, not installed)"


def _invoke(load: Callable[[], "Typer"], prog: str) -> int:
    app = load()
    import typer

    # Later versions of typer bundle click; this works with every version.
    click_exception: type[Exception] = next(t for t in typer.BadParameter.__mro__ if t.__name__ == "ClickException")
    command = typer.main.get_command(app)
    command._main_shell_completion({}, prog)  # answers the shell's script and exits, if a variable asks for it
    try:
        # Not command(...): that turns Ctrl-C into 130 and a closed pipe into 1.
        with command.make_context(prog, sys.argv[1:]) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as error:
        return int(error.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except click_exception as error:
        return _complain(_usage_line(error, prog), EXIT_WRONG_USAGE)


def _usage_line(error: Exception, prog: str) -> str:
    """Return one line: the command, the error, and what to do."""
    context = getattr(error, "ctx", None)
    path = prog if context is None else context.command_path
    if hasattr(error, "param") and error.param is None:
        return f"{path}: {error}"  # raised by the command itself
    text = " ".join(str(getattr(error, "format_message", error.__str__)()).split()).rstrip(".")
    return f"{path}: {text[:1].lower()}{text[1:]} (see '{path} --help')"


def _complain(line: str, code: int) -> int:
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()
    return code
