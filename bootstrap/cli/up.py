"""The command `jaccl-bootstrap up`."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import typer
from typer.core import TyperCommand

import bootstrap
from bootstrap.cli import options
from bootstrap.errors import ConfigError
from bootstrap.files import read_file
from wireproto.messages import Revision

VARIABLES: Final = "JACCL_BOOTSTRAP_"
MAX_CONFIG: Final = 1024 * 1024


class Command(TyperCommand):
    """Reads each option from a variable too, such as JACCL_BOOTSTRAP_OWN_IP for --own-ip."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for name, option in _long_names(self).items():
            if name != "launched":  # only the launcher gives it
                option.envvar, option.show_envvar = VARIABLES + name.upper().replace("-", "_"), False


def _long_names(command: TyperCommand) -> dict[str, Any]:
    """Return the options by long name, without the dashes."""
    return {text[2:]: each for each in command.params for text in each.opts if text.startswith("--")}


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Read defaults for the options from a TOML file: `own-ip = "…"`, `json = true`, `program = ["…"]`."""
    if path is None:
        return None
    import tomllib

    try:
        data = read_file(path, MAX_CONFIG)
        if len(data) > MAX_CONFIG:
            raise ValueError(f"it has more than {MAX_CONFIG} bytes")
        given = tomllib.loads(data.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(f"cannot read {path}: {reason}", ctx=context) from error
    parameters = {**_long_names(cast(TyperCommand, context.command)), "program": context.command.params[0]}
    if unknown := given.keys() - parameters.keys() | given.keys() & {"config", "help", "launched"}:
        names = ", ".join(sorted(unknown))
        raise typer.BadParameter(f"{path} sets {names}, which `up` does not have", ctx=context)
    context.default_map = {}
    for key, value in given.items():
        try:
            context.default_map[str(parameters[key].name)] = _as_given(parameters[key], value)
        except TypeError as error:
            raise typer.BadParameter(f"{path}: {key} takes {error}", ctx=context) from error
    return path


def _as_given(parameter: Any, value: object) -> bool | str | list[str]:
    """Return a value of the file as the command line would give it. Raise TypeError, which names the type it takes."""
    if getattr(parameter, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise TypeError("true or false")
    if parameter.name == "program" or parameter.multiple:
        values = [value] if isinstance(value, str) and parameter.name != "program" else value
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            return values
        raise TypeError("a list of strings")
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise TypeError("a string or a number")


def up(
    context: typer.Context,
    program: options.ProgramArgument = None,
    module: options.ModuleOption = False,
    script: options.ScriptOption = False,
    own_ip: Annotated[str | None, typer.Option(metavar="IP", help="Own address on the link (two ranks).")] = None,
    interface: Annotated[str | None, typer.Option(metavar="NAME", help="Take --own-ip from this interface.")] = None,
    peer_ip: Annotated[str | None, typer.Option(metavar="IP", help="The other rank's address on the link.")] = None,
    hostfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Addresses in an mlx.launch hostfile.")] = None,
    rank: Annotated[str, typer.Option(metavar="R|auto", help="Own rank; auto: by address.")] = "auto",
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="[RANK=]NAME|KEY", help="The peer's pin or key. Default: pin by address."),
    ] = None,
    trust_first_use: Annotated[
        bool, typer.Option("--trust-first-use", help="Pin the first key that an unpinned peer proves.")
    ] = False,
    identity: options.IdentityOption = None,
    link_port: options.LinkPortOption = "7777",
    coordinator_port: options.CoordinatorPortOption = 29400,
    revision: options.RevisionOption = Revision.V2,
    backend: options.BackendOption = "auto",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Limit to form the group; 0: none.")] = 60.0,
    env: options.EnvOption = None,
    cwd: Annotated[str | None, typer.Option(metavar="DIR", help="PROGRAM's directory. Default: this one.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Rank 0's PROGRAM reads this standard input.")] = False,
    no_prefix: options.NoPrefixOption = False,
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save PROGRAM's output here, one file per attempt.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Create this file while the group is up.")
    ] = None,
    grace: options.GraceOption = 5.0,
    finish_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Limit for other ranks to finish. Default: none.")
    ] = None,
    restart: Annotated[int, typer.Option(metavar="N", help="Allow N restarts per hour.")] = 0,
    restart_on: Annotated[
        str, typer.Option(metavar="link|exit|any", help="Restart after a lost link, a failed PROGRAM, or any failure.")
    ] = "link",
    extensions: Annotated[str, typer.Option(metavar="on|off", help="Use protocol extensions.")] = "on",
    session_id: Annotated[str | None, typer.Option(metavar="ID", help="Name the session.", hidden=True)] = None,
    launched: Annotated[bool, typer.Option("--launched", hidden=True)] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Form no group; show what MLX would be given.")] = False,
    capture: options.CaptureOption = None,
    keylog: options.KeyLogOption = None,
    as_json: options.JsonOption = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", is_eager=True, callback=_load_config, help="Read options from this TOML file."),
    ] = None,
) -> int:
    """Run one rank of a group. Form the group, then run PROGRAM or hold the group.

    A variable can replace each option: JACCL_BOOTSTRAP_OWN_IP for --own-ip.

    Exit codes: 0 done, 2 wrong usage, 3 could not run, 129 hangup, 130 Ctrl-C,
    143 SIGTERM. With PROGRAM: its own code, or 125 instead of 3.
    """
    import asyncio

    from bootstrap.cli.display import display_for
    from bootstrap.cli.launched import run_launched
    from bootstrap.cli.log_files import log_files
    from bootstrap.cli.ready import Readiness
    from bootstrap.control.run import execute
    from bootstrap.hostfile import read_hostfile
    from bootstrap.link.record import open_capture, open_key_log, set_key_log
    from bootstrap.plan import Plan, new_session_id
    from bootstrap.rank import run_for
    from bootstrap.trust import Trust

    if launched:
        return run_launched(context.command_path)
    with options.no_run(context, as_json, has_program=bool(program)):
        if extensions not in ("on", "off"):
            raise ConfigError(f"--extensions {extensions} is wrong, use on or off", code="bad-extensions")
        if interface is not None:
            own_ip = _address_of(interface)
        fields: dict[str, Any] = {
            "link_ports": options.ports(link_port),
            "port": coordinator_port,
            "session_id": session_id or new_session_id(),
            "backend": backend,
            "envs": tuple(options.variable(text) for text in env or ()),
            "command": tuple(program or ()),
            "runs": options.runs(module, script, program),
            "cwd": cwd,
            "stdin": stdin,
            "revision": Revision(revision),
            "extensions": extensions == "on",
            "timeout": timeout,
            "grace": grace,
            "finish_timeout": finish_timeout,
            "restarts": restart,
            "restart_on": restart_on,
            "dry_run": dry_run,
        }
        if hostfile is not None and (own_ip, peer_ip) == (None, None):
            plan = read_hostfile(hostfile).plan(_rank(rank), **fields)
        elif hostfile is None and own_ip is not None and peer_ip is not None:
            plan = Plan.of_pair(own_ip, peer_ip, _rank(rank), **fields)
        else:
            raise ConfigError("the ranks are not given; use --own-ip and --peer-ip, or --hostfile", code="bad-ranks")
        trust = Trust.of(plan, identity, peer or (), trust_first_use)
        set_key_log(keylog)
        with (
            open_key_log() as key_log,
            open_capture(capture) as recorded,
            display_for(context.command_path, f"rank {plan.rank} of {plan.size}", as_json, not no_prefix) as shown,
            log_files(shown, log_dir, [plan.rank]) as display,
        ):
            run = run_for(plan, display)
            readiness = Readiness(run, ready_file)

            async def main() -> None:
                watching = asyncio.create_task(readiness.watch())
                try:
                    async with bootstrap.rank(plan, trust, key_log=key_log, capture=recorded, run=run) as running:
                        await running.ended()
                finally:
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching

            summary = {"ranks": plan.size, "backend": plan.backend, "dry_run": plan.dry_run}
            return execute(run, main, has_command=bool(plan.command), **summary)


def _rank(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigError(f"--rank {text[:40]} is wrong, use a number or auto", code="bad-rank")
    return int(text)


def _address_of(interface: str) -> str:
    """Return the only IPv4 address of an interface."""
    from bootstrap.system.network import interfaces

    held = interfaces()
    own = [str(address) for name, address in held if name == interface]
    if len(own) == 1:
        return own[0]
    if own:
        text = f"interface {interface} has several addresses, {', '.join(own)}; choose one with --own-ip"
    else:
        names = ", ".join(sorted({name for name, _ in held}))
        text = f"interface {interface} has no IPv4 address; use one that has: {names}"
    raise ConfigError(text, code="bad-ip")
