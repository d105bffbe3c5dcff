"""What a user can do about a failure: its likely cause, its remedy, whether trying again is safe."""

import re
from typing import Final, Literal, NamedTuple

Retry = Literal["safe", "fix-first", "unsafe"]
"""safe: nothing native has run. unsafe: on jaccl each failed init can wedge the port until a reboot."""


class Advice(NamedTuple):
    """The likely cause of an error and its remedy. PORT and IP in the remedy stand for those in the error's message."""

    cause: str
    remedy: str
    fix_first: bool = False
    """Trying again without the remedy fails in the same way."""

    def retry(self, native: bool) -> Retry:
        """Return whether to try again; `native` says whether native code has run."""
        return "fix-first" if self.fix_first else "unsafe" if native else "safe"


def _fix_first(cause: str, remedy: str) -> Advice:
    return Advice(cause, remedy, fix_first=True)


ADVICE: Final[dict[str, Advice]] = {
    # config
    "bad-*": _fix_first("an argument cannot work", "give it as the message says (see --help)"),
    "not-own-address": _fix_first(
        "the address is another host's, or its interface has lost it", "jaccl-bootstrap doctor --own-ip IP"
    ),
    "not-loopback": _fix_first("the demo runs on one host", "leave --host out"),
    "key-repeated": _fix_first(
        "one identity key stands for two ranks", "compare jaccl-bootstrap identity on each rank; pin what each prints"
    ),
    "devices-needed": _fix_first("only a pair's device can be guessed", "mlx.distributed_config, then --hostfile"),
    # launch
    "host-repeated": _fix_first("two of the names are one host", "name each host once"),
    "no-cable": _fix_first(
        "JACCL needs a Thunderbolt cable for each pair, or a ring of them", "connect the two, or use --backend ring"
    ),
    "no-common-network": _fix_first(
        "the hosts are in no common IPv4 network, or a name leads elsewhere", "give the addresses in a --hostfile"
    ),
    # lock
    "host-busy": _fix_first("another group is up on this host", "end it, or wait for its end"),
    "lock-failed": _fix_first(
        "the loopback interface is down, or a file of the pins is kept locked", "ip link set lo up, or end who holds it"
    ),
    # RDMA
    "no-interface": _fix_first("the address has gone, as link-local ones do", "ifconfig"),
    "bridge-interface": _fix_first("the Thunderbolt bridge holds the port", "sudo ifconfig bridge0 down"),
    "no-rdma-device": _fix_first(
        "RDMA is not enabled, or the hardware has none (Thunderbolt 4)",
        "jaccl-bootstrap doctor --backend jaccl; with Thunderbolt 4: --backend ring",
    ),
    "device-missing": _fix_first(
        "device names change after a reboot, and differ on the two sides", "ibv_devices, then fix the matrix"
    ),
    "rdma-query-failed": _fix_first("the driver does not answer", "jaccl-bootstrap doctor --backend jaccl"),
    "rdma-query-hangs": _fix_first("the RDMA port is wedged", "reboot this host"),
    # link
    "link-refused": Advice("the other rank does not listen yet", "start it there"),
    "link-timeout": Advice(
        "packets are dropped: a VPN, a firewall, or macOS's Local Network privacy",
        "jaccl-bootstrap doctor --peer-ip IP",
    ),
    "link-lost": Advice("the other rank ended, or the cable is out", "see what the other rank says"),
    "link-taken": _fix_first("another rank 0 has a session with this one", "end that one"),
    "link-crowded": Advice("another program opens connections and sends nothing", "see which: lsof -nP -iTCP:PORT"),
    "link-replaced": Advice("rank 0 was started again", "start this rank again, or use --restart"),
    "link-length-*": _fix_first("the other side is no peer", "check --link-port"),
    "link-*": Advice("the link broke", "jaccl-bootstrap doctor --peer-ip IP"),
    "session-ended": Advice("rank 0 was stopped, or failed", "see what rank 0 says"),
    "ping-timeout": Advice("the other rank hangs, or the cable is out", "see whether its process still runs"),
    "handshake-no-pin": _fix_first(
        "this rank does not know the other's key", "jaccl-bootstrap pin NAME KEY --address IP"
    ),
    "handshake-wrong-pin": _fix_first(
        "the other rank has a new key, or is another host or rank",
        "compare jaccl-bootstrap identity there with pin here; if new: pin --remove NAME",
    ),
    "handshake-*": _fix_first("the other side is no peer, or another revision's", "check --link-port and --revision"),
    "seal-exhausted": Advice("the session key has served its time", "start again, or use --restart"),
    "seal-*": _fix_first(
        "the other rank speaks another revision, or somebody is in between", "the same --revision on both"
    ),
    "no-bootstrap": Advice(
        "rank 0 loads MLX, awaits a rank, or is a reference build that sends no frame",
        "see rank 0's output; use a build that tries again once it is ready",
    ),
    "peer-loading": Advice(
        "the import of MLX hangs on that rank, or takes longer than this rank may wait",
        "python -c 'import mlx.core' there; --timeout gives more time",
    ),
    "bad-bootstrap": _fix_first("rank 0 sent a port or a session ID that cannot be used", "fix rank 0"),
    # identity and pins
    "not-pinned": _fix_first(
        "this rank does not know the other's key, or its address has changed",
        "jaccl-bootstrap pin NAME KEY --address IP; or --peer NAME",
    ),
    "no-home": _fix_first("there is no place for the identity key", "set HOME, or use --identity PATH"),
    **dict.fromkeys(
        (
            "encrypted",
            "no-identity",
            "not-p256",
            "not-pem",
            "permissions",
            "pin-conflict",
            "pins-malformed",
            "read-failed",
            "symbolic-link",
            "too-large",
            "wrong-owner",
        ),
        _fix_first("the file of the identity key, or of the pins, is not as it has to be", "do as the message says"),
    ),
    # launch
    "launcher-gone": Advice("jaccl-bootstrap launch was killed, or its ssh connection broke", "launch again"),
    "launcher-silent": Advice("jaccl-bootstrap launch hangs, or the network is down", "launch again"),
    "host-not-ready": _fix_first("the doctor has found something there", "do what the table says for that host"),
    "ssh-missing": _fix_first("OpenSSH's client is not installed here", "install it: which ssh"),
    "ssh-failed": Advice("the host is off, its Remote Login is off, or its name is wrong", "try: ssh HOST true"),
    "ssh-denied": _fix_first("this user's ssh key is not known there", "ssh-copy-id HOST, then try: ssh HOST true"),
    "ssh-lost": Advice("the network between here and that host broke", "see whether: ssh HOST true"),
    "host-key": _fix_first("ssh does not know the host's key, or knows another one", "ssh HOST, and read what it says"),
    "host-silent": Advice("the host hangs, or ssh waits for an answer", "try: ssh HOST true"),
    "host-answer": _fix_first(
        "the shell's startup files there print something", "try: ssh HOST true, which prints nothing"
    ),
    "rank-lost": Advice(
        "somebody killed the rank, or ssh: the system, short of memory, or a user", "see the log there"
    ),
    "package-missing": _fix_first(
        "the package is not installed there, or not where ssh looks", "install it there, or use --python or --uvx"
    ),
    "channel-malformed": _fix_first(
        "something else than jaccl-bootstrap launch uses --launched, or its shell prints", "leave --launched to launch"
    ),
    "identity-changed": Advice("the identity key was replaced meanwhile", "launch again"),
    "package-version": _fix_first(
        "the hosts have different versions of cluster-wireproto", "install the same on all, or use --python or --uvx"
    ),
    # ports
    "port-in-use": _fix_first("another program, or an earlier group, has the port", "lsof -nP -iTCP:PORT"),
    "port-refused": _fix_first("this user may not listen there", "another --coordinator-port"),
    "coordinator-port-taken": _fix_first(
        "another program, or an earlier group, has the port", "lsof -nP -iTCP:PORT, or another --coordinator-port"
    ),
    "coordinator-port-refused": _fix_first("this user may not listen there", "another --coordinator-port"),
    "ring-port-taken": _fix_first(
        "another program, or an earlier group, has the port", "lsof -nP -iTCP:PORT, or another --coordinator-port"
    ),
    "ring-port-refused": _fix_first("this user may not listen there", "another --coordinator-port"),
    "ring-unreachable": Advice(
        "there is no route to that rank, or packets are dropped: a VPN, or a firewall",
        "jaccl-bootstrap doctor --peer-ip IP",
    ),
    # exchange and side channel
    "versions-missing": Advice("the other rank hangs, or is of another version", "compare the versions"),
    "backends-differ": _fix_first("the ranks were started differently", "the same --backend on all"),
    "programs-differ": _fix_first("the ranks were started differently", "-m or --script, -- or nothing, alike on all"),
    "mlx-differs": _fix_first(
        "MLX 0.32.4 and later use several cables of a mesh, older ones only one",
        "the same MLX on all ranks, or one device for each pair",
    ),
    "devices-differ": _fix_first("the ranks have different hostfiles", "copy one hostfile to all ranks"),
    "side-channel-late": Advice("a rank hangs, or runs another program", "see what the other ranks say"),
    "side-channel-lost": Advice("native code failed in the middle of its init", "see its output above"),
    "side-channel-rank": _fix_first("the command changes MLX_RANK", "leave MLX_* as they are"),
    "side-channel-*": Advice("the ranks do not run the same program", "compare what they run"),
    # file and environment
    "directory-failed": _fix_first("the directory for temporary files cannot be used", "set TMPDIR to one that can"),
    "write-failed": _fix_first("the disk is full, or read-only", "df, or set TMPDIR to another directory"),
    "remove-failed": _fix_first("the directory has become read-only", "remove the file by hand"),
    "not-a-regular-file": _fix_first("something else has the file's name", "remove it"),
    "variable-refused": _fix_first("a value holds what no variable can", "fix the value"),
    # MLX
    "mlx-missing": _fix_first("MLX is not installed for this Python", "pip install 'cluster-wireproto[bootstrap]'"),
    "backend-unavailable": _fix_first(
        "jaccl needs macOS 26.2 and Thunderbolt 5", "--backend ring, or jaccl-bootstrap doctor --backend jaccl"
    ),
    "already-formed": _fix_first("a group is made once in each process", "start a new process"),
    "init-failed": Advice("MLX says why", "jaccl-bootstrap doctor on each rank"),
    "wrong-group": Advice("the ranks do not agree on who is in the group", "compare the hostfiles"),
    "sum-failed": Advice("another rank ended right after the init", "see what the other ranks say"),
    "sum-wrong": Advice("ranks of two groups were paired", "end all groups, then start again"),
    # worker and supervisor
    "mlx-crashed": _fix_first("MLX, or a library of it, is broken or of another system", "python -c 'import mlx.core'"),
    "mlx-hangs": Advice("the import waits: for a slow disk, a network home, or the GPU", "python -c 'import mlx.core'"),
    "worker-died": Advice("native code crashed, or another rank failed first", "see the log lines above"),
    "worker-killed": Advice("somebody killed it: the system, short of memory, or a user", "see the system's log"),
    "worker-output": Advice("something writes to the worker's event pipe", "report it"),
    "system-refused": Advice("descriptors, processes or memory are used up", "ulimit -n; ulimit -u; free them"),
    "command-refused": _fix_first("the command does not exist, or may not be run", "check it in a shell"),
    "command-failed": Advice("the command says why", "see its output above"),
    "command-crashed": Advice("native code of the command crashed", "see its output, and its core dump"),
    "command-killed": Advice(
        "somebody killed it: the system, short of memory, or a user", "see its output, and the system's log"
    ),
    "log-refused": _fix_first("the log file cannot be made, or others can read it", "name another --log-dir"),
    "output-failed": _fix_first("the disk is full, or its place has gone", "df; write it elsewhere"),
    "output-closed": Advice("the reader of the output has left", "keep it, or send the output to a file"),
    "finish-timeout": Advice("the ranks' programs do not end together", "see what the awaited rank does"),
    "same-rank": _fix_first(
        "both ranks were started with the same --rank", "give one 0 and the other 1, or leave --rank out"
    ),
    "internal": Advice("a bug of this program, on the rank that is named", "report it with that rank's output"),
    "deadline": Advice("a rank is missing, or hangs", "see how far each rank came; --timeout gives more time"),
    "interrupted": Advice("a signal", "start again"),
}
"""By code; a name with a star is for all codes that start so and have no line of their own."""

_PROTOCOL: Final = _fix_first("the other side does not keep to the protocol", "compare the versions of both sides")

_OTHER_FAILED: Final = Advice("the other rank failed first, or its cable is out", "see what the other rank says")
_NO_ADDRESS: Final = Advice(
    "the interface has no IPv4 address yet, or the Thunderbolt bridge is on",
    "ibv_devinfo -v; jaccl-bootstrap doctor --backend jaccl",
)
_MATRIX: Final = _fix_first(
    "the device matrix does not describe this group", "jaccl-bootstrap devices check FILE, or mlx.distributed_config"
)
_TIMEOUT, _REFUSED, _NO_ROUTE = (rf"err(no|or)[ =:]*({numbers})\b" for numbers in ("60|110", "61|111", "51|65|101|113"))

NATIVE: Final[tuple[tuple[str, Advice], ...]] = (
    # RDMA: the operation tells, and an errno of it is never about TCP
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
    (r"No IPv4-mapped GID", _NO_ADDRESS._replace(cause="the interface has no IPv4 address yet, so the port no GID")),
    (
        r"[Cc]reating the queue pair failed|create completion queue",
        Advice("the RDMA driver has no resources left, or is wedged", "end other groups on this host, else reboot"),
    ),
    (r"protection domain", Advice("the port is down, or too many inits since boot", "ibv_devinfo, else reboot")),
    (
        r"Register memory region failed",
        Advice("memory cannot be wired: other groups or programs hold it", "end them, else reboot"),
    ),
    (
        r"Could not find device",
        _fix_first("the matrix names a device that this host does not have", "ibv_devices, then correct the matrix"),
    ),
    (
        r"Could not open device",
        Advice("RDMA is not enabled, or the driver is wedged", "rdma_ctl status; ibv_devinfo; else reboot"),
    ),
    # TCP: the same errnos, of connect
    (
        rf"[Cc]onnect\b.*{_TIMEOUT}",
        Advice("packets are dropped: VPN, firewall, or Local Network privacy", "jaccl-bootstrap doctor --peer-ip IP"),
    ),
    (
        rf"[Cc]onnect\b.*{_REFUSED}",
        Advice("the other rank does not listen, or has failed first", "see what the other rank says"),
    ),
    (
        rf"[Cc]onnect\b.*{_NO_ROUTE}",
        Advice("there is no route to the other rank", "jaccl-bootstrap doctor --peer-ip IP"),
    ),
    (r"Couldn't connect", Advice("the other rank cannot be reached", "jaccl-bootstrap doctor --peer-ip IP")),
    (
        r"Recv failed with errno=2\b",
        Advice("the other rank failed first; the errno is stale", "see what the other rank says"),
    ),
    (r"(Send|Recv) failed with errno|connection to a peer was lost", _OTHER_FAILED),
    (
        r"Couldn't (bind|listen|enable reuse)|Couldn't bind socket",
        Advice("another program, or an earlier group, has the port", "another --coordinator-port"),
    ),
    (
        r"Couldn't create socket|Accept failed",
        Advice("the system has no descriptors left, or a signal broke the wait", "ulimit -n; start again"),
    ),
    (
        r"Can't parse address",
        _fix_first("the coordinator or the hostfile names no ip:port", "give IPv4 addresses"),
    ),
    # what MLX reads
    (
        r"mesh supports up to|Up to \d+ per direction|valid (mesh|ring)|[Dd]evice (file|names)|connectivity",
        _MATRIX,
    ),
    (
        r"json.exception|parse_error",
        _fix_first("the file that MLX reads is not JSON", "jaccl-bootstrap devices check FILE"),
    ),
    (
        r"as many connections to the left|has no sockets|Rank cannot be larger",
        _fix_first("the ranks have different hostfiles", "copy one hostfile to all ranks"),
    ),
    (
        r"via environment variables",
        Advice("a variable that MLX reads was changed or removed", "do not change MLX_* in the command"),
    ),
    (
        r"Cannot initialize jaccl|[Bb]ackend .*not available",
        _fix_first(
            "this MLX has no jaccl: it needs macOS 26.2 and Thunderbolt 5",
            "--backend ring, or jaccl-bootstrap doctor --backend jaccl",
        ),
    ),
    (r"split not supported", _fix_first("JACCL and ring cannot split a group", "use the whole group")),
    (
        r"only supported (to|from) direct neighbors|sum_scatter not supported|Unsupported dtype",
        _fix_first("the program uses what this backend does not support", "another backend"),
    ),
)
"""What native code says when init fails: patterns of its message, the first that matches counts."""

_ADDRESS: Final = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?(?![\w.]*\d)")
_PORT: Final = re.compile(r"\bport (\d{1,5})\b")


def advise(code: str, message: str = "") -> Advice:
    """Return the advice for an error, with the address and port that its message names."""
    return _filled(_advice(code, message), message)


def _advice(code: str, message: str) -> Advice:
    if code in ("init-failed", "sum-failed"):
        for pattern, advice in NATIVE:
            if re.search(pattern, message):
                return advice
    if code in ADVICE:
        return ADVICE[code]
    stars = [advice for name, advice in ADVICE.items() if name.endswith("*") and code.startswith(name[:-1])]
    return stars[0] if stars else _PROTOCOL


def _filled(advice: Advice, message: str) -> Advice:
    """Replace IP and PORT by those in the message, or else drop the option that needs them."""
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
