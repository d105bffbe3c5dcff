"""`jaccl-bootstrap up --launched`: one rank that a launcher has started, see `bootstrap.launch.channel`."""

import os
from contextlib import suppress

import bootstrap
from bootstrap.cli.display import channel_display
from bootstrap.control.run import Display, Run, execute
from bootstrap.errors import BootstrapError
from bootstrap.launch.channel import plan_of, read_start
from bootstrap.launch.launched import following, take_standard_input, trust_of
from bootstrap.rank import run_for


def run_launched(prog: str) -> int:
    """Run the rank that the channel on standard input describes. Return the exit code."""
    with channel_display(prog) as display:
        has_command = True
        try:
            start, rest = read_start(0)
            has_command = bool(start.plan.get("command"))
            with suppress(OSError, ValueError):
                os.chdir(start.directory)
            plan = plan_of(start)
            trust = trust_of(start, plan)
        except BootstrapError as error:
            return refuse(display, error, has_command=has_command)
        channel, writing = take_standard_input(plan.reads_stdin)
        run = run_for(plan, display)

        async def main() -> None:
            async with (
                following(run, channel, rest, writing, display.taken),
                bootstrap.rank(plan, trust, run=run) as running,
            ):
                await running.ended()

        return execute(run, main, has_command=bool(plan.command), ranks=plan.size, backend=plan.backend)


def refuse(display: Display, error: BootstrapError, *, has_command: bool) -> int:
    """Tell the launcher why there is no rank. Return the exit code."""
    run = Run(display, timeout=0)
    code = run.conclude(error, has_command=has_command)
    run.done()
    return code
