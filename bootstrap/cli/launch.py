"""The command `jaccl-bootstrap launch`."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bootstrap.cli import options
from bootstrap.errors import ConfigError

if TYPE_CHECKING:
    from bootstrap.launch.run import Launcher

READ_SIZE: Final = 32 * 1024


def launch(
    context: typer.Context,
    program: options.ProgramArgument = None,
    hosts: Annotated[
        str | None, typer.Option(metavar="HOST,HOST…", help="ssh names, rank 0 first. This host needs no ssh.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hosts and addresses in an mlx.launch hostfile.")
    ] = None,
    write_hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save the addresses found, as a hostfile.")
    ] = None,
    module: options.ModuleOption = False,
    script: options.ScriptOption = False,
    backend: options.BackendOption = "auto",
    python: options.PythonOption = None,
    uvx: options.UvxOption = False,
    pin: Annotated[bool, typer.Option("--pin", help="Pin all keys on all hosts, for later `up`.")] = False,
    link_port: options.LinkPortOption = "7777",
    coordinator_port: options.CoordinatorPortOption = 29400,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Limit to form the group.")] = 60.0,
    env: options.EnvOption = None,
    cwd: Annotated[
        str | None, typer.Option(metavar="DIR", help="PROGRAM's directory. Default: this one, if there.")
    ] = None,
    no_prefix: options.NoPrefixOption = False,
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save PROGRAM's output here, one file per rank.")
    ] = None,
    grace: options.GraceOption = 5.0,
    restart: Annotated[int, typer.Option(metavar="N", help="Restarts per hour after a lost link.")] = 0,
    as_json: options.JsonOption = False,
) -> int:
    """Start every rank of a group over ssh. Run PROGRAM in the group, or hold the group.

    Keys, addresses and devices are found over ssh. Rank 0 reads this standard input.

    Exit codes: 0 done, 2 wrong usage, 3 could not run, 129 hangup, 130 Ctrl-C,
    143 SIGTERM. With PROGRAM: its own code, or 125 instead of 3.
    """
    from bootstrap.cli.display import display_for
    from bootstrap.cli.log_files import log_files
    from bootstrap.control.run import execute
    from bootstrap.hostfile import read_hostfile
    from bootstrap.launch.run import Job, Launcher

    with options.no_run(context, as_json, has_program=bool(program)):
        if hosts is None and hostfile is None:
            raise ConfigError("no hosts are given; use --hosts or --hostfile", code="bad-hosts")
        fields: dict[str, Any] = {
            "command": tuple(program or ()),
            "runs": options.runs(module, script, program),
            "backend": backend,
            "link_ports": options.ports(link_port),
            "port": coordinator_port,
            "timeout": timeout,
            "envs": tuple(options.variable(text) for text in env or ()),
            "cwd": cwd,
            "stdin": True,
            "grace": grace,
            "restarts": restart,
        }
        job = Job(
            hosts=tuple(hosts.split(",")) if hosts is not None else (),
            hostfile=None if hostfile is None else read_hostfile(hostfile),
            way=options.way(python, uvx),
            pin=pin,
            write_hostfile=write_hostfile,
            options=fields,
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


def _pass_on_stdin(run: "Launcher") -> None:
    """Read standard input for rank 0's program in a thread: an event loop cannot wait for every kind of file.

    A launcher in the background does not read the terminal.
    """
    import asyncio
    from concurrent.futures import CancelledError

    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(OSError, RuntimeError, CancelledError):
            asyncio.run_coroutine_threadsafe(run.input_wanted(), loop).result()  # until then ssh may prompt there
            while data := os.read(0, READ_SIZE):
                if not asyncio.run_coroutine_threadsafe(run.feed(data), loop).result():
                    return
            asyncio.run_coroutine_threadsafe(run.end_input(), loop).result()

    if not os.isatty(0) or os.tcgetpgrp(0) == os.getpgrp():
        threading.Thread(target=read, daemon=True).start()
