"""`jaccl-bootstrap` with another worker: command.py WORKER_SCRIPT ARGUMENT..."""

import sys

from bootstrap import __main__
from bootstrap.cli import demo
from bootstrap.control import child as processes

program, worker = sys.argv[0], sys.argv.pop(1)
processes.WORKER = (worker,)
demo.PROGRAM = (program, worker)
__main__.main()
