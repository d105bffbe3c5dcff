"""`make conform`: run the whole suite against a peer in another language, several times.

`python -m tests.wireproto.conformance.foreign` takes:

    --peer NAME javascript (the default) or go
    --runs N    of each role (default: 10)
    --busy      with one core kept busy by something else
    --full      with all generated content

Prints a line a run, and is 1 where one did not pass, or took a minute or more with both cores for it.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.interop.golang import build, missing
from tests.wireproto.conformance.test_conform_cli import ROOT, new_key
from tests.wireproto.conformance.trying import HOST, free_port


class Foreign(NamedTuple):
    """A peer in another language: the start of its command, and what the suite has to know of it."""

    command: tuple[str, ...]
    options: tuple[str, ...] = ()


def javascript() -> Foreign:
    return Foreign(("node", str(ROOT / "tests" / "interop" / "peer.mjs")), ("--session-id-file",))


def go(directory: Path) -> Foreign:
    return Foreign((str(build(directory) / "peer"),))


ROLES = {"rank 1": ("listen", "--connect"), "rank 0": ("connect", "--listen")}
FINE = ("pass", "unimplemented", "non-strict", "skipped")
MOST_SECONDS = 60.0
JOBS = 8


@contextmanager
def busy_core() -> Iterator[None]:
    """A process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def one_run(directory: Path, role: str, peer: Foreign, *options: str) -> tuple[float, dict[str, int], list[str]]:
    """Return the seconds, the number of cases per verdict, and the failures."""
    mode, option = ROLES[role]
    theirs, ours = new_key(directory / "theirs.pem"), new_key(directory / "ours.pem")
    keys = ["--identity", str(directory / "theirs.pem"), "--peer-key", ours]
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "wireproto", "conform", "peer", "--json"),
            *(option, f"{HOST}:{free_port()}", "--jobs", str(JOBS), *peer.options, *options),
            *("--identity", str(directory / "ours.pem"), "--peer-key", theirs),
            *("--restart-command", shlex.join([*peer.command, mode, *keys])),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
    )
    seconds = time.monotonic() - began
    *cases, summary = [json.loads(line) for line in done.stdout.splitlines()] or [{"verdicts": {}}]
    wrong = [f"{case['id']}: {case.get('reason')}" for case in cases if case["verdict"] not in FINE]
    if done.returncode and not wrong:
        wrong = [f"exit code {done.returncode}: {done.stderr.strip()}"]
    return seconds, summary["verdicts"], wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("javascript", "go"), default="javascript")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    if options.peer == "go" and (reason := missing()) is not None:
        parser.error(reason)
    bad = 0
    for number in range(1, options.runs + 1):
        for role in ROLES:
            with TemporaryDirectory() as directory, busy_core() if options.busy else nullcontext():
                peer = go(Path(directory)) if options.peer == "go" else javascript()
                seconds, verdicts, wrong = one_run(Path(directory), role, peer, *["--full"] * options.full)
            counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items() if count)
            late = (
                f", more than {MOST_SECONDS:g} s"
                if seconds > MOST_SECONDS and not options.busy and not options.full
                else ""
            )
            bad += bool(wrong or late)
            print(f"run {number}, {role}: {seconds:.1f} s{late}; {counts}", flush=True)  # noqa: T201
            for line in wrong:
                print(f"    {line}", flush=True)  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
