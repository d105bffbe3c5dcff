"""Runs the system's tools."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NamedTuple

from bootstrap.system import current, running_on
from bootstrap.system.tools import RunTool, ToolResult

SECONDS: Final = 5.0


class Call(NamedTuple):
    """A call of a tool and its result."""

    argv: tuple[str, ...]
    result: ToolResult


def run_tool(argv: Sequence[str], seconds: float = SECONDS) -> ToolResult:
    """Run a program as `RunTool` says."""
    return current().run_tool(argv, seconds)


@contextmanager
def tools_run_by(runner: RunTool) -> Iterator[None]:
    """Have `runner` run the system's tools inside the block."""
    with running_on(replace(current(), run_tool=runner)):
        yield


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Collect the calls of `run_tool` inside the block."""
    calls: list[Call] = []
    inner = current().run_tool

    def run(argv: Sequence[str], seconds: float) -> ToolResult:
        result = inner(argv, seconds)
        calls.append(Call(tuple(argv), result))
        return result

    with tools_run_by(run):
        yield calls
