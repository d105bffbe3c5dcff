"""What both commands do around their typer app: exit codes, one line for wrong usage, Ctrl-C, a closed pipe."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

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
"""The optional dependencies that a package comes with; None for those of the whole command."""


def run(load: Callable[[], "Typer"], prog: str, *, extra: str) -> NoReturn:
    """Run the app that `load` imports, on this process's arguments, and exit with what its command returns.

    `extra` names the optional dependencies that the command needs. A command says that it was used wrongly by
    `raise typer.BadParameter(text, ctx=context)`, where the text says what to do.
    """
    try:
        code = _invoke(load, prog)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = _complain(f"{prog}: interrupted", EXIT_COULD_NOT_RUN)
    except BrokenPipeError:  # whoever read the output has gone
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
        except OSError:  # it was the output that could not be written
            _drop_output()
    sys.exit(code)


def _drop_output() -> None:
    """What is still buffered must not raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def new_app(prog: str, summary: str) -> "Typer":
    """An app with sub-commands and `--version`, plain in its help and in its errors."""
    import typer

    app = typer.Typer(
        name=prog,
        help=summary,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(version_line(prog))
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
    """`prog 0.1.0`, for `--version`."""
    from importlib import metadata

    try:
        return f"{prog} {metadata.version('cluster-wireproto')}"
    except metadata.PackageNotFoundError:
        return f"{prog} (from a source tree, not installed)"


def _invoke(load: Callable[[], "Typer"], prog: str) -> int:
    app = load()
    import typer

    # typer carries a click of its own in later versions; this is its ClickException in every one.
    click_exception: type[Exception] = next(t for t in typer.BadParameter.__mro__ if t.__name__ == "ClickException")
    command = typer.main.get_command(app)
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
    """One line: which command, what was wrong, what to do."""
    context = getattr(error, "ctx", None)
    path = prog if context is None else context.command_path
    if hasattr(error, "param") and error.param is None:
        return f"{path}: {error}"  # the command's own words
    text = " ".join(str(getattr(error, "format_message", error.__str__)()).split()).rstrip(".")
    return f"{path}: {text[:1].lower()}{text[1:]} (see '{path} --help')"


def _complain(line: str, code: int) -> int:
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
    return code
