"""Output that no reader can block: pipes that are full, closed, or read again."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from bootstrap.control.output import LIMIT, ROOM, Output
from tests.bootstrap.links import run

SECONDS = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    yield read, stream
    stream.close()
    os.close(read)


def test_a_reader_that_stalls_holds_up_nobody(pipe: tuple[int, TextIO]) -> None:
    """All output is queued, up to a limit, and the command must wait."""
    _, stream = pipe
    output = Output(stream, stream)
    began = time.monotonic()
    for _ in range(3 * LIMIT // 1000):
        output.write("stdout", b"x" * 1000)
    assert output.full("stdout")
    output.close()
    assert time.monotonic() - began < SECONDS


def test_a_reader_that_goes_on_gets_everything(pipe: tuple[int, TextIO]) -> None:
    read, stream = pipe
    output = Output(stream, stream)
    for _ in range(20):
        output.write("stdout", b"x" * 10_000)
    assert output.full("stdout") == (ROOM < 20 * 10_000 - 65_536)
    got = 0
    while got < 200_000:
        got += len(os.read(read, 65_536))
    output.close()
    assert not output.full("stdout")


def test_a_reader_that_has_left_is_noticed(pipe: tuple[int, TextIO]) -> None:
    read, stream = pipe
    other, _ = os.pipe()
    os.dup2(other, read)  # the read end is closed; its number is kept for the fixture

    async def main() -> OSError:
        output = Output(stream, stream)
        waiting = asyncio.create_task(output.failed())
        await asyncio.sleep(0)
        output.line("stdout", "text")
        error = await waiting
        assert await output.failed() is error
        output.line("stdout", "more")
        output.close()
        return error

    assert run(main).errno == errno.EPIPE


def test_lines_to_stderr_go_on_while_stdout_stalls(pipe: tuple[int, TextIO]) -> None:
    _, stream = pipe
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w") as stderr:
        output = Output(stream, stderr)
        output.write("stdout", b"x" * 200_000)
        output.line("stderr", "an error")
        assert reader.read(9) == b"an error\n"
        output.close()
