"""A rank that misbehaves at its end, as $LIE says."""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from bootstrap.control.output import Output

LIE = os.environ["LIE"]


def leave_file():
    Path(tempfile.gettempdir(), "left").touch()


def leave_process():
    subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def leave_listener():
    own = sys.argv[sys.argv.index("--own-ip") + 1]
    listener = socket.create_server((own, 7777))
    command = ["sleep", "60"]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(command, pass_fds=[listener.fileno()], env={"PATH": os.environ["PATH"], "LIE": LIE}, **streams)


def hang():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def fail():
    sys.stderr.write("Traceback (most recent call last):\n")


def say(**changes):
    """Replace these fields in all later errors."""
    write = Output.line

    def change(output, stream, line):
        if line.startswith("{") and json.loads(line)["event"] in ("error", "done"):
            event = json.loads(line)
            line = json.dumps({**event, **{name: value for name, value in changes.items() if name in event}})
        write(output, stream, line)

    Output.line = change


AT_THE_END = {"file": leave_file, "process": leave_process, "listener": leave_listener, "hang": hang, "traceback": fail}
if LIE in AT_THE_END:
    atexit.register(AT_THE_END[LIE])
elif LIE == "code":
    say(code="made-up")
elif LIE == "cause":
    say(code="port-in-use")
runpy.run_path(str(Path(__file__).with_name("rank.py")), run_name="__main__")
