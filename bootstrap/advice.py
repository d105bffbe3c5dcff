"""Advice for each failure: its likely cause, its remedy, whether a retry is safe."""

import re
from typing import Final, Literal, NamedTuple

Retry = Literal["safe", "fix-first", "unsafe"]
"""safe: no native code has run. unsafe: on jaccl each failed init can wedge the port until a reboot."""


class Advice(NamedTuple):
    """The likely cause of an error and its remedy. PORT and IP in the remedy stand for those in the error's message."""

    cause: str
    remedy: str
    fix_first: bool = False
    """A retry fails in the same way until the remedy is applied."""

    def retry(self, native: bool) -> Retry:
        """Return whether to retry; `native` says whether native code has run."""
        return "fix-first" if self.fix_first else "unsafe" if native else "safe"


def _fix(cause: str, remedy: str) -> Advice:
    return Advice(cause, remedy, fix_first=True)


_SEE_OTHER: Final = "see what the other rank says"
_DOCTOR: Final = "jaccl-bootstrap doctor --peer-ip IP"
_JACCL: Final = "jaccl-bootstrap doctor --backend jaccl"
_DROPPED: Final = Advice("packets are dropped: VPN, firewall, or macOS Local Network privacy", _DOCTOR)
_PORT_TAKEN: Final = _fix(
    "another program or an earlier group uses the port", "lsof -nP -iTCP:PORT, or another --coordinator-port"
)
_PORT_REFUSED: Final = _fix("this user may not listen there", "another --coordinator-port")
_KEY_FILE: Final = _fix("the file of the identity key or of the pins is not usable", "do as the message says")
_ONE_HOSTFILE: Final = _fix("the ranks have different hostfiles", "copy one hostfile to all ranks")

ADVICE: Final[dict[str, Advice]] = {
    # config
    "bad-*": _fix("an argument is wrong", "correct it as the message says (see --help)"),
    "not-own-address": _fix(
        "the address is another host's, or its interface has lost it", "jaccl-bootstrap doctor --own-ip IP"
    ),
    "not-loopback": _fix("the demo runs on one host only", "leave --host out"),
    "key-repeated": _fix(
        "two ranks have the same identity key", "run jaccl-bootstrap identity on each; pin its output"
    ),
    "devices-needed": _fix("only a pair's device can be guessed", "mlx.distributed_config, then --hostfile"),
    # launch
    "host-repeated": _fix("two of the names lead to the same host", "name each host once"),
    "no-cable": _fix(
        "JACCL needs a Thunderbolt cable for each pair, or a ring of cables", "connect the two, or use --backend ring"
    ),
    "no-common-network": _fix(
        "the hosts share no IPv4 network, or a name resolves wrongly", "use a --hostfile with ips"
    ),
    # lock
    "host-busy": _fix("another group is up on this host", "stop it, or wait until it ends"),
    "lock-failed": _fix(
        "the loopback interface is down, or another process locks the pins", "ip link set lo up, or end that process"
    ),
    # RDMA
    "no-interface": _fix("the address is gone, as happens to link-local ones", "ifconfig"),
    "bridge-interface": _fix("the Thunderbolt bridge holds the port", "sudo ifconfig bridge0 down"),
    "no-rdma-device": _fix(
        "RDMA is not enabled, or the hardware has none (Thunderbolt 4)", f"{_JACCL}; with Thunderbolt 4: --backend ring"
    ),
    "device-missing": _fix(
        "device names change after a reboot, and differ between the two sides", "ibv_devices, then fix the matrix"
    ),
    "rdma-query-failed": _fix("the driver does not answer", _JACCL),
    "rdma-query-hangs": _fix("the RDMA port is wedged", "reboot this host"),
    # link
    "link-refused": Advice("the other rank is not listening yet", "start it"),
    "link-timeout": _DROPPED,
    "link-lost": Advice("the other rank ended, or the cable is out", _SEE_OTHER),
    "link-taken": _fix("another rank 0 has a session with this rank", "stop that one"),
    "link-crowded": Advice("another program opens connections and sends nothing", "find it: lsof -nP -iTCP:PORT"),
    "link-replaced": Advice("rank 0 was restarted", "start this rank again, or use --restart"),
    "link-length-*": _fix("the other end does not speak this protocol", "check --link-port"),
    "link-*": Advice("the link failed", _DOCTOR),
    "session-ended": Advice("rank 0 was stopped, or failed", "see what rank 0 says"),
    "ping-timeout": Advice("the other rank hangs, or the cable is out", "check whether its process still runs"),
    "handshake-no-pin": _fix("this rank does not know the other's key", "jaccl-bootstrap pin NAME KEY --address IP"),
    "handshake-wrong-pin": _fix(
        "the other rank has a new key, or is another host or rank",
        "compare jaccl-bootstrap identity there with pin here; if new: pin --remove NAME",
    ),
    "handshake-*": _fix(
        "the other end speaks another protocol or revision", "check --link-port and --revision on both"
    ),
    "seal-exhausted": Advice("the session key has reached its message limit", "start again, or use --restart"),
    "seal-*": _fix("the other rank uses another revision, or the bytes were altered", "the same --revision on both"),
    "no-bootstrap": Advice(
        "rank 0 loads MLX, waits for a rank, or is a reference build that sends no frame",
        "see rank 0's output; use a build that retries once it is ready",
    ),
    "peer-loading": Advice(
        "importing MLX hangs on that rank, or takes longer than this rank waits",
        "python -c 'import mlx.core' there; --timeout gives more time",
    ),
    "bad-bootstrap": _fix("rank 0 sent an unusable port or session ID", "fix rank 0"),
    # identity and pins
    "not-pinned": _fix(
        "this rank does not know the other's key, or its address has changed",
        "jaccl-bootstrap pin NAME KEY --address IP; or --peer NAME",
    ),
    "sign-failed": Advice("the store of the identity key is locked, or refused", "unlock it, then start again"),
    "no-home": _fix("there is no directory for the identity key", "set HOME, or use --identity PATH"),
    "encrypted": _KEY_FILE,
    "no-identity": _KEY_FILE,
    "not-p256": _KEY_FILE,
    "not-pem": _KEY_FILE,
    "permissions": _KEY_FILE,
    "pin-conflict": _KEY_FILE,
    "pins-malformed": _KEY_FILE,
    "read-failed": _KEY_FILE,
    "symbolic-link": _KEY_FILE,
    "too-large": _KEY_FILE,
    "wrong-owner": _KEY_FILE,
    # launch
    "launcher-gone": Advice("jaccl-bootstrap launch was killed, or its ssh connection dropped", "launch again"),
    "launcher-silent": Advice("jaccl-bootstrap launch hangs, or the network is down", "launch again"),
    "host-not-ready": _fix("the doctor found a problem on that host", "follow the table's remedy for that host"),
    "ssh-missing": _fix("the OpenSSH client is not installed here", "install it: which ssh"),
    "ssh-failed": Advice("the host is off, its Remote Login is off, or its name is wrong", "try: ssh HOST true"),
    "ssh-denied": _fix("the host does not accept this user's ssh key", "ssh-copy-id HOST, then try: ssh HOST true"),
    "ssh-lost": Advice("the network to that host failed", "try: ssh HOST true"),
    "host-key": _fix("ssh does not know the host's key, or expects another one", "ssh HOST, and read what it says"),
    "host-silent": Advice("the host hangs, or ssh waits for an answer", "try: ssh HOST true"),
    "host-answer": _fix("the shell's startup files there print something", "ssh HOST true must print nothing"),
    "rank-lost": Advice("the rank or ssh was killed: by a user, or by the system to free memory", "see the log there"),
    "package-missing": _fix(
        "the package is not installed there, or not on the PATH of ssh", "install it there, or use --python or --uvx"
    ),
    "channel-malformed": _fix(
        "something other than jaccl-bootstrap launch uses --launched, or its shell prints", "use jaccl-bootstrap launch"
    ),
    "identity-changed": Advice("the identity key was replaced meanwhile", "launch again"),
    "package-version": _fix(
        "the hosts have different versions of cluster-wireproto", "install the same on all, or use --python or --uvx"
    ),
    # ports
    "port-in-use": _fix("another program or an earlier group uses the port", "lsof -nP -iTCP:PORT"),
    "port-refused": _PORT_REFUSED,
    "coordinator-port-taken": _PORT_TAKEN,
    "coordinator-port-refused": _PORT_REFUSED,
    "ring-port-taken": _PORT_TAKEN,
    "ring-port-refused": _PORT_REFUSED,
    "ring-unreachable": Advice("no route to that rank, or packets are dropped: VPN or firewall", _DOCTOR),
    # exchange and side channel
    "versions-missing": Advice("the other rank hangs, or runs another version", "compare the versions"),
    "backends-differ": _fix("the ranks were started differently", "the same --backend on all"),
    "programs-differ": _fix("the ranks were started differently", "-m or --script, --, or no program, alike on all"),
    "mlx-differs": _fix(
        "MLX 0.32.4 and later use several cables of a mesh, older versions only one",
        "the same MLX on all ranks, or one device for each pair",
    ),
    "devices-differ": _ONE_HOSTFILE,
    "side-channel-late": Advice("a rank hangs, or runs another program", "see what the other ranks say"),
    "side-channel-lost": Advice("native code failed during its init", "see its output above"),
    "side-channel-rank": _fix("the command changes MLX_RANK", "leave the MLX_* variables alone"),
    "side-channel-*": Advice("the ranks do not run the same program", "compare what they run"),
    # file and environment
    "directory-failed": _fix("the directory for temporary files cannot be used", "set TMPDIR to one that can"),
    "write-failed": _fix("the disk is full or read-only", "df, or set TMPDIR to another directory"),
    "remove-failed": _fix("the directory has become read-only", "remove the file yourself"),
    "not-a-regular-file": _fix("something else has the file's name", "remove it"),
    "variable-refused": _fix("the value is not valid for a variable", "fix the value"),
    # MLX
    "mlx-missing": _fix("MLX is not installed for this Python", "pip install 'cluster-wireproto[bootstrap]'"),
    "backend-unavailable": _fix("jaccl needs macOS 26.2 and Thunderbolt 5", f"--backend ring, or {_JACCL}"),
    "already-formed": _fix("a process can form only one group", "start a new process"),
    "init-failed": Advice("see MLX's message", "jaccl-bootstrap doctor on each rank"),
    "wrong-group": Advice("the ranks do not agree on who is in the group", "compare the hostfiles"),
    "sum-failed": Advice("another rank ended right after the init", "see what the other ranks say"),
    "sum-wrong": Advice("ranks of two groups were paired", "stop all groups, then start again"),
    # worker and supervisor
    "mlx-crashed": _fix("MLX or one of its libraries is broken or for another system", "python -c 'import mlx.core'"),
    "mlx-hangs": Advice("the import waits for a slow disk, a network home, or the GPU", "python -c 'import mlx.core'"),
    "worker-died": Advice("native code crashed, or another rank failed first", "see the log lines above"),
    "worker-killed": Advice("it was killed: by a user, or by the system to free memory", "see the system log"),
    "worker-output": Advice("something else writes to the worker's event pipe", "report it"),
    "system-refused": Advice(
        "the limit of descriptors, processes or memory is reached", "ulimit -n; ulimit -u; free some"
    ),
    "command-refused": _fix("the command does not exist or may not be run", "try it in a shell"),
    "command-failed": Advice("see the command's message", "see its output above"),
    "command-crashed": Advice("native code of the command crashed", "see its output and its core dump"),
    "command-killed": Advice(
        "it was killed: by a user, or by the system to free memory", "see its output and the system log"
    ),
    "log-refused": _fix("the log file cannot be created, or others can read it", "name another --log-dir"),
    "output-failed": _fix("the disk is full, or the file's directory is gone", "df; write it elsewhere"),
    "output-closed": Advice("the reader of the output has exited", "keep it running, or send the output to a file"),
    "finish-timeout": Advice("the ranks' programs do not end together", "see what the late rank does"),
    "same-rank": _fix(
        "both ranks were started with the same --rank", "give one 0 and the other 1, or leave --rank out"
    ),
    "internal": Advice("a bug of this program, on the rank named above", "report it with that rank's output"),
    "deadline": Advice("a rank is missing, or hangs", "see how far each rank came; --timeout gives more time"),
    "interrupted": Advice("a signal", "start again"),
}
"""By code. A name with a star covers all codes that start like it and have no entry of their own."""

_PROTOCOL: Final = _fix("the other end breaks the protocol", "compare the versions of both ends")
_OTHER_FAILED: Final = Advice("the other rank failed first, or its cable is out", _SEE_OTHER)
_NO_ADDRESS: Final = Advice(
    "the interface has no IPv4 address yet, or the Thunderbolt bridge is on", f"ibv_devinfo -v; {_JACCL}"
)
_TIMEOUT, _REFUSED, _NO_ROUTE = (rf"err(no|or)[ =:]*({numbers})\b" for numbers in ("60|110", "61|111", "51|65|101|113"))

NATIVE: Final[tuple[tuple[str, Advice], ...]] = (
    # RDMA: the operation decides; its errno is never about TCP
    (r"queue pair to \w+ failed with errno (22|96)\b", _NO_ADDRESS),
    (
        r"queue pair to \w+ failed with errno (60|110)\b",
        Advice(
            "the peer's queue pair does not answer: its GID is not reachable on this cable",
            "ibv_devinfo -v on both: the GIDs' addresses must be those of this cable",
        ),
    ),
    (
        r"queue pair to INIT failed",
        Advice("the RDMA port is down, or its driver is wedged", "ibv_devinfo; if the port is active, reboot"),
    ),
    (
        r"queue pair to (RTR|RTS) failed",
        Advice("the RDMA link to the peer does not come up", "ibv_devinfo -v on both; check the cable; else reboot"),
    ),
    (
        r"No IPv4-mapped GID",
        _NO_ADDRESS._replace(cause="the interface has no IPv4 address yet, so the port has no GID"),
    ),
    (
        r"[Cc]reating the queue pair failed|create completion queue",
        Advice("the RDMA driver has no resources left, or is wedged", "stop other groups on this host, else reboot"),
    ),
    (r"protection domain", Advice("the port is down, or too many inits since boot", "ibv_devinfo, else reboot")),
    (
        r"Register memory region failed",
        Advice("memory cannot be wired: other groups or programs hold it", "stop them, else reboot"),
    ),
    (
        r"Could not find device",
        _fix("the matrix names a device that this host does not have", "ibv_devices, then correct the matrix"),
    ),
    (
        r"Could not open device",
        Advice("RDMA is not enabled, or the driver is wedged", "rdma_ctl status; ibv_devinfo; else reboot"),
    ),
    # TCP: the same errnos, from connect
    (rf"[Cc]onnect\b.*{_TIMEOUT}", _DROPPED),
    (rf"[Cc]onnect\b.*{_REFUSED}", Advice("the other rank does not listen, or failed first", _SEE_OTHER)),
    (rf"[Cc]onnect\b.*{_NO_ROUTE}", Advice("there is no route to the other rank", _DOCTOR)),
    (r"Couldn't connect", Advice("the other rank cannot be reached", _DOCTOR)),
    (r"Recv failed with errno=2\b", Advice("the other rank failed first; the errno is stale", _SEE_OTHER)),
    (r"(Send|Recv) failed with errno|connection to a peer was lost", _OTHER_FAILED),
    (
        r"Couldn't (bind|listen|enable reuse)|Couldn't bind socket",
        Advice("another program or an earlier group uses the port", "another --coordinator-port"),
    ),
    (
        r"Couldn't create socket|Accept failed",
        Advice("no descriptors are left, or a signal interrupted the wait", "ulimit -n; start again"),
    ),
    (r"Can't parse address", _fix("the coordinator or the hostfile has no ip:port", "use IPv4 addresses")),
    # what MLX reads
    (
        r"mesh supports up to|Up to \d+ per direction|valid (mesh|ring)|[Dd]evice (file|names)|connectivity",
        _fix(
            "the device matrix does not describe this group",
            "jaccl-bootstrap devices check FILE, or mlx.distributed_config",
        ),
    ),
    (r"json.exception|parse_error", _fix("the file for MLX is not JSON", "jaccl-bootstrap devices check FILE")),
    (r"as many connections to the left|has no sockets|Rank cannot be larger", _ONE_HOSTFILE),
    (
        r"via environment variables",
        Advice("a variable that MLX reads was changed or removed", "do not change MLX_* in the command"),
    ),
    (
        r"Cannot initialize jaccl|[Bb]ackend .*not available",
        _fix("this MLX has no jaccl: it needs macOS 26.2 and Thunderbolt 5", f"--backend ring, or {_JACCL}"),
    ),
    (r"split not supported", _fix("JACCL and ring cannot split a group", "use the whole group")),
    (
        r"only supported (to|from) direct neighbors|sum_scatter not supported|Unsupported dtype",
        _fix("the program uses what this backend does not support", "another backend"),
    ),
)
"""Patterns of native code's messages when init fails; the first match counts."""

_ADDRESS: Final = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?(?![\w.]*\d)")
_PORT: Final = re.compile(r"\bport (\d{1,5})\b")


def advise(code: str, message: str = "") -> Advice:
    """Return the advice for an error, with the address and port from its message."""
    return _filled(_advice(code, message), message)


def _advice(code: str, message: str) -> Advice:
    if code in ("init-failed", "sum-failed"):
        for pattern, advice in NATIVE:
            if re.search(pattern, message):
                return advice
    if code in ADVICE:
        return ADVICE[code]
    families = (advice for name, advice in ADVICE.items() if name.endswith("*") and code.startswith(name[:-1]))
    return next(families, _PROTOCOL)


def _filled(advice: Advice, message: str) -> Advice:
    """Replace IP and PORT with those in the message, or drop the option that needs them."""
    if not message or not re.search(r"\b(IP|PORT)\b", advice.remedy):
        return advice
    address, port = _ADDRESS.search(message), _PORT.search(message)
    number = port[1] if port else address[2] if address else None
    remedy = advice.remedy
    if address:
        remedy = re.sub(r"\bIP\b", address[1], remedy)
    if number:
        remedy = re.sub(r"\bPORT\b", number, remedy)
    remedy = remedy.replace(" --peer-ip IP", "").replace(" --own-ip IP", "").replace("-iTCP:PORT", "-iTCP")
    return advice._replace(remedy=remedy)
