"""Shared parts of the commands: options, their meaning, and how failures are reported."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bootstrap.errors import BootstrapError, ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, EXIT_NO, say
from wireproto.messages import Revision

if TYPE_CHECKING:
    from bootstrap.launch.ssh import Way
    from bootstrap.plan import Runs

ProgramArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROGRAM ARGS", help="What to run. Default: hold the group until Ctrl-C."),
]
IdentityOption = Annotated[Path | None, typer.Option(metavar="PATH", help="Own key. Default: `identity` shows it.")]
BackendOption = Annotated[str, typer.Option(metavar="auto|jaccl|ring", help="auto: jaccl if MLX has it.")]
RevisionOption = Annotated[
    int, typer.Option(min=min(Revision), max=max(Revision), metavar="N", help="Protocol revision.")
]
LinkPortOption = Annotated[
    str, typer.Option(metavar="PORT[,PORT…]", help="TCP port for links: one for all ranks, or one each.")
]
CoordinatorPortOption = Annotated[
    int, typer.Option(metavar="PORT", help="MLX's TCP port; on a ring, rank R uses PORT + R.")
]
ModuleOption = Annotated[bool, typer.Option("-m", "--module", help="PROGRAM is a Python module; run it in the group.")]
ScriptOption = Annotated[bool, typer.Option("--script", help="PROGRAM is a Python file; run it in the group.")]
EnvOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set a variable for PROGRAM. Repeatable.")
]
GraceOption = Annotated[float, typer.Option(metavar="SECONDS", help="Time from SIGTERM to SIGKILL.")]
NoPrefixOption = Annotated[bool, typer.Option("--no-prefix", help="Omit [rank R] from PROGRAM's output.")]
CaptureOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Record this rank's links as pcapng.")]
KeyLogOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Log session keys, for `wireproto inspect`.")]
PythonOption = Annotated[str | None, typer.Option(metavar="PATH", help="Python with this package on the other hosts.")]
UvxOption = Annotated[bool, typer.Option("--uvx", help="Run the package there by uvx, from an index.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, the last one `done`.")]


@contextmanager
def failures(context: typer.Context, as_json: bool = False, answers_no: Collection[str] = ()) -> Iterator[None]:
    """Report a failure of the block and exit: 2 for a ConfigError, 1 for a code in `answers_no`, else 3.

    With `as_json` the failure goes to stdout as well, as an object.
    """
    try:
        yield
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except BootstrapError as error:
        if as_json:
            say(json.dumps({"state": "error", "code": error.code, "stage": error.stage, "message": str(error)}))
        say(f"{context.command_path}: {error}", err=True)
        raise typer.Exit(EXIT_NO if error.code in answers_no else EXIT_COULD_NOT_RUN) from error


@contextmanager
def no_run(context: typer.Context, as_json: bool, *, has_program: bool = False) -> Iterator[None]:
    """Report why there is no run, and exit: 2 for a ConfigError, else 3, or 125 with a program.

    With `as_json` the events of a failed run go to stdout as well, unless it is a ConfigError.
    """
    with failures(context):
        try:
            yield
        except ConfigError:
            raise
        except BootstrapError as error:
            from bootstrap.cli.display import display_for
            from bootstrap.cli.launched import refuse
            from bootstrap.control.run import EXIT_RUN_FAILED

            if as_json:
                with display_for(context.command_path, "", as_json) as display:
                    code = refuse(display, error, has_command=has_program)
            else:
                say(f"{context.command_path}: {error}", err=True)
                code = EXIT_RUN_FAILED if has_program else EXIT_COULD_NOT_RUN
            raise typer.Exit(code) from error


def runs(module: bool, script: bool, program: Sequence[str] | None) -> "Runs":
    """Return how PROGRAM runs."""
    if module and script:
        raise ConfigError("-m and --script cannot be combined; give one of them", code="bad-command")
    if (module or script) and not program:
        raise ConfigError("no program is given; name it after -m or --script", code="bad-command")
    return "module" if module else "script" if script else "command"


def way(python: str | None, uvx: bool) -> "Way":
    """Return how to start this package on other hosts."""
    from bootstrap.launch.ssh import Way

    if python is not None and uvx:
        raise ConfigError("--python and --uvx cannot be combined; give one of them", code="bad-command")
    return Way(python=python, uvx=uvx)


def ports(text: str) -> tuple[int, ...]:
    """Return the link ports: one, or one for each rank."""
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(
            f"link port {text!r} is not a number; give one port, or one per rank", code="bad-port"
        ) from None


def variable(text: str) -> tuple[str, str]:
    """Return the name and the value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--env {text!r} has no '='; use NAME=VALUE", code="bad-env")
    return name, value
