"""`jaccl-bootstrap` with shorter waits: between pings, between attempts to connect, and for stopped commands."""

import sys

from bootstrap import __main__
from bootstrap.link import sessions as roles

roles.RankZero.__init__.__kwdefaults__["times"] = roles.Times(ping_every=0.1, pong=1.0, reconnect=0.1, retry=0.1)
sys.argv[2:2] = ["--grace", "0.5"]
__main__.main()
