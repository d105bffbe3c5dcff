"""`jaccl-bootstrap` with another worker: command.py WORKER_SCRIPT ARGUMENT..."""

import sys

from bootstrap import __main__
from bootstrap.control import child as processes

processes.WORKER = (sys.argv.pop(1),)
__main__.main()
