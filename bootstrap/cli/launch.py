"""The command `jaccl-bootstrap launch`."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bootstrap.cli.options import BackendOption, JsonOption, PythonOption, UvxOption, ports, runs, variable, way
from bootstrap.errors import BootstrapError, ConfigError
from wireproto.cli.console import EXIT_COULD_NOT_RUN, say

if TYPE_CHECKING:
    from bootstrap.launch.run import Launcher

READ_SIZE: Final = 32 * 1024


def register(app: typer.Typer) -> None:
    """Put the command on `app`."""
    app.command(context_settings={"allow_interspersed_args": False})(launch)  # PROGRAM's options are its own


def launch(
    context: typer.Context,
    program: Annotated[
        list[str] | None, typer.Argument(metavar="PROGRAM ARGS", help="Run this in the group. Default: hold the group.")
    ] = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="HOST,HOST…", help="As for ssh, rank 0 first; this host needs no ssh.")
    ] = None,
    hostfile: Annotated[Path | None, typer.Option(metavar="FILE", help="mlx.launch's: hosts and addresses.")] = None,
    write_hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the addresses that were found.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", "--module", help="PROGRAM is a module: form the group first.")] = False,
    script: Annotated[bool, typer.Option("--script", help="The same for a Python script.")] = False,
    backend: BackendOption = "auto",
    python: PythonOption = None,
    uvx: UvxOption = False,
    pin: Annotated[bool, typer.Option("--pin", help="Store all keys on all hosts, for `up`.")] = False,
    link_port: Annotated[
        str, typer.Option(metavar="PORT[,PORT…]", help="Listened on by all but 0; one, or one each.")
    ] = "7777",
    coordinator_port: Annotated[int, typer.Option(help="Rank r: r after it (ring).")] = 29400,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Until the group is up.")] = 60.0,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for PROGRAM; may be repeated.")
    ] = None,
    cwd: Annotated[str | None, typer.Option(metavar="DIR", help="PROGRAM's. Default: this one, if it exists.")] = None,
    no_prefix: Annotated[bool, typer.Option("--no-prefix", help="No [rank R] before PROGRAM's lines.")] = False,
    log_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep PROGRAM's output, a file a rank.")] = None,
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="From SIGTERM to SIGKILL.")] = 5.0,
    restart: Annotated[int, typer.Option(metavar="N", help="N times an hour after a lost link.")] = 0,
    as_json: JsonOption = False,
) -> int:
    """Start all ranks of a group over ssh, with a program or without.

    Example: jaccl-bootstrap launch --hosts mac-a.local,mac-b.local -m mlx_lm.server --model DIR

    Keys, addresses and devices are found over ssh. Rank 0 reads this standard input.

    Exit codes: 0 done, 2 wrong usage, 3 could not run, 130 Ctrl-C, 143 SIGTERM; of a program, its own, and 125 for 3.
    """
    from bootstrap.cli.display import display_for
    from bootstrap.cli.log_files import log_files
    from bootstrap.control.run import execute
    from bootstrap.hostfile import read_hostfile
    from bootstrap.launch.run import Job, Launcher

    try:
        if hosts is None and hostfile is None:
            raise ConfigError("give --hosts, or --hostfile", code="bad-hosts")
        options: dict[str, Any] = {
            "command": tuple(program or ()),
            "runs": runs(module, script, program),
            "backend": backend,
            "link_ports": ports(link_port),
            "port": coordinator_port,
            "timeout": timeout,
            "envs": tuple(variable(text) for text in env or ()),
            "cwd": cwd,
            "stdin": True,
            "grace": grace,
            "restarts": restart,
        }
        job = Job(
            hosts=tuple(hosts.split(",")) if hosts is not None else (),
            hostfile=None if hostfile is None else read_hostfile(hostfile),
            way=way(python, uvx),
            pin=pin,
            write_hostfile=write_hostfile,
            options=options,
        )
        size = len(job.hosts)
        with (
            display_for(context.command_path, f"launching {size} ranks", as_json, not no_prefix) as shown,
            log_files(shown, log_dir, range(size)) as display,
        ):
            run = Launcher(job, display)

            async def main() -> None:
                if job.reads_stdin:
                    _pass_on_stdin(run)
                await run.main(run.act)

            return execute(run, main, has_command=bool(program), ranks=size, backend=backend)
    except ConfigError as error:
        raise typer.BadParameter(str(error), ctx=context) from error
    except BootstrapError as error:
        say(f"{context.command_path}: {error}", err=True)
        return EXIT_COULD_NOT_RUN


def _pass_on_stdin(run: "Launcher") -> None:
    """Have a thread read standard input for rank 0's program: no event loop can wait for every kind of file.

    A launcher in the background leaves the terminal to others.
    """
    import asyncio
    from concurrent.futures import CancelledError

    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(OSError, RuntimeError, CancelledError):
            asyncio.run_coroutine_threadsafe(run.input_wanted(), loop).result()  # until then ssh may ask there
            while data := os.read(0, READ_SIZE):
                if not asyncio.run_coroutine_threadsafe(run.feed(data), loop).result():
                    return
            asyncio.run_coroutine_threadsafe(run.end_input(), loop).result()

    if not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp():
        threading.Thread(target=read, daemon=True).start()
