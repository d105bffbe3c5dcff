"""`jaccl-bootstrap` in the circumstances in $CIRCUMSTANCES, a JSON object.

`times`: the roles' own, and a short keep-alive, so that what goes silent is seen sooner. `namespace`: the network
namespace it lives in. `terminal`: the path of its terminal, and the streams that go there. `nohup`: SIGHUP is ignored.
`unprivileged`: permissions hold for root, too. `worker`: a script in place of the worker.
"""

import ctypes
import fcntl
import json
import os
import signal
import struct
import termios

SETNS_NETWORK, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 0x40000000, 1, 2, 24
CAPABILITIES = struct.pack("<Ii", 0x20080522, 0)


def enter(namespace):
    with open(f"/run/netns/{namespace}") as file:  # noqa: PTH123
        checked(libc.setns(file.fileno(), SETNS_NETWORK))


def drop_privilege():
    data = ctypes.create_string_buffer(24)
    checked(libc.capget(CAPABILITIES, data))
    effective, permitted, *rest = struct.unpack("<6I", data.raw)
    kept = ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        checked(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    checked(libc.capset(CAPABILITIES, struct.pack("<6I", effective & kept, permitted & kept, *rest)))


def take(path, *streams):
    os.setsid()
    terminal = os.open(path, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for stream in streams:
        os.dup2(terminal, stream)
    os.close(terminal)


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


wanted = json.loads(os.environ.pop("CIRCUMSTANCES"))
libc = ctypes.CDLL(None, use_errno=True)
if "namespace" in wanted:
    enter(wanted["namespace"])
if "terminal" in wanted:
    take(*wanted["terminal"])
    signal.signal(signal.SIGHUP, signal.SIG_IGN if wanted["nohup"] else signal.SIG_DFL)
if wanted.get("unprivileged") and os.geteuid() == 0:
    drop_privilege()

from bootstrap import __main__  # noqa: E402 - in the new circumstances
from bootstrap.control import child as processes  # noqa: E402
from bootstrap.link import sessions as roles  # noqa: E402
from bootstrap.link import transport  # noqa: E402

if "times" in wanted:
    for role in (roles.RankZero, roles.RankOne):
        role.__init__.__kwdefaults__["times"] = roles.Times(**wanted["times"])
    transport.KEEPALIVE_IDLE, transport.KEEPALIVE_INTERVAL, transport.KEEPALIVE_PROBES = 2, 1, 3
if "worker" in wanted:
    processes.WORKER = (wanted["worker"],)
__main__.main()
