"""`jaccl-bootstrap` with a fifth of the session's times; LATE_PONG delays its first pong by that many seconds."""

import os
import time

from bootstrap import __main__
from bootstrap.link import sessions

SCALED = sessions.Times(confirm=3.0, ping_every=1.0, pong=0.6, reconnect=2.0, retry=0.2)
late = float(os.environ.get("LATE_PONG", "0"))
pong = sessions.RankOne._pong


def late_pong(rank, link):
    global late
    time.sleep(late)
    late = 0.0
    return pong(rank, link)


for role in (sessions.RankZero, sessions.RankOne):
    role.__init__.__kwdefaults__["times"] = SCALED
sessions.RankOne._pong = late_pong
__main__.main()
