"""Every failure has advice, and all advice has a failure."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import click
import pytest
import typer

import bootstrap
from bootstrap.advice import ADVICE, NATIVE, Advice, advise
from bootstrap.cli.app import app
from wireproto.errors import ERROR_CODES

COMMANDS_OWN = {"unreadable"}
"""Messages of the command `devices` itself, which are not failures of a run."""
PUT_TOGETHER = {f"{what}-failed" for what in ("read", "write", "lock")}
"""In `identity`."""


@cache
def modules() -> list[ast.Module]:
    files = Path(bootstrap.__file__).parent.rglob("*.py")
    return [ast.parse(path.read_text()) for path in files if path.stem != "advice"]


@cache
def codes() -> set[str]:
    return PUT_TOGETHER.union(*map(codes_in, modules())) - COMMANDS_OWN


def codes_in(module: ast.Module) -> Iterator[str]:
    """Yield literals used as a `code`: for a keyword, a function's parameter, or a variable of that name."""
    places = {
        function.name: [argument.arg for argument in function.args.args if argument.arg != "self"].index("code")
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef) and "code" in [argument.arg for argument in function.args.args]
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield from literals([keyword.value for keyword in node.keywords if keyword.arg == "code"])
            if name in places:
                yield from literals(node.args[places[name] : places[name] + 1])
        elif isinstance(node, ast.Assign):
            yield from assigned(node.targets[0], node.value)


def assigned(target: ast.expr, value: ast.expr) -> Iterator[str]:
    match target, value:
        case ast.Name(id="code"), _:
            yield from literals([value])
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for each in zip(targets, values, strict=True):
                yield from assigned(*each)


def literals(values: list[ast.expr]) -> Iterator[str]:
    """Return the possible string values of an expression."""
    for value in values:
        match value:
            case ast.Constant(value=str(text)):
                yield text
            case ast.IfExp(body=body, orelse=other):
                yield from literals([body, other])
            case ast.Call(func=ast.Name(id="next")):
                yield from literals(value.args[1:])  # the value if the search finds nothing


FAMILIES = tuple(name[:-1] for name in ADVICE if name.endswith("*"))
TEXTS = {**ADVICE, **dict(NATIVE)}


def test_the_codes_are_found() -> None:
    """In each way of passing one."""
    assert {"bad-ip", "port-in-use", "link-failed", "worker-killed", "symbolic-link", "side-channel-size"} <= codes()
    assert len(codes()) > 60


def test_every_code_has_its_advice() -> None:
    assert [code for code in codes() if code not in ADVICE and not code.startswith(FAMILIES)] == []


@pytest.mark.parametrize("code", [code for code in ERROR_CODES if code.startswith(("handshake-", "seal-", "link-"))])
def test_what_ends_a_link_has_its_advice(code: str) -> None:
    assert code in ADVICE or code.startswith(FAMILIES)


def test_every_advice_is_somebodys() -> None:
    nodes = chain.from_iterable(map(ast.walk, modules()))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    known = strings | PUT_TOGETHER | set(ERROR_CODES)
    for name in ADVICE:
        if name.endswith("*"):
            assert [code for code in known if code.startswith(name[:-1]) and advise(code) is ADVICE[name]], name
        else:
            assert name in known


def test_an_advice_is_two_short_lines() -> None:
    for text in chain.from_iterable((advice.cause, advice.remedy) for advice in TEXTS.values()):
        assert text
        assert text.isprintable()
        assert len(text) <= 80
        assert not text.endswith(".")


def options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    for each in getattr(command, "commands", {}).values():
        yield from options(each)


def test_what_an_advice_names_is_there() -> None:
    known = {*options(typer.main.get_command(app)), "--help"}
    commands = {"doctor", "identity", "pin", "devices", "launch"}
    for name, advice in TEXTS.items():
        assert set(re.findall(r"--[a-z][a-z-]*", advice.remedy)) <= known, name
        assert set(re.findall(r"jaccl-bootstrap (\w+)", advice.remedy)) <= commands, name


def test_the_code_itself_comes_before_its_family() -> None:
    assert advise("handshake-no-pin") is ADVICE["handshake-no-pin"]
    assert advise("handshake-point") is ADVICE["handshake-*"]
    assert advise("link-length-limit") is ADVICE["link-length-*"]
    assert advise("link-reset") is ADVICE["link-*"]


@pytest.mark.parametrize("code", ["type-unknown", "json-syntax", "truncated"])
def test_whoever_breaks_the_protocol(code: str) -> None:
    assert code in ERROR_CODES
    assert advise(code).cause == "the other end breaks the protocol"


@pytest.mark.parametrize("code", ["init-failed", "sum-failed"])
@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("[jaccl] Changing queue pair to RTR failed with errno 22", "no IPv4 address yet"),
        ("[jaccl] Changing queue pair to RTR failed with errno 96", "no IPv4 address yet"),
        ("[jaccl] Couldn't allocate protection domain", "too many inits since boot"),
        ("[jaccl] Recv failed with errno=2", "the other rank failed first"),
        ("[jaccl] Couldn't connect (errno: 60)", "packets are dropped"),
        ("[ring] Couldn't connect (error: 110)", "packets are dropped"),
        ("[jaccl] Couldn't connect (errno: 61)", "does not listen"),
        ("[ring] Couldn't connect (error: 111)", "does not listen"),
        ("[jaccl] Couldn't connect (errno: 65)", "there is no route"),
        ("[ring] Couldn't connect (error: 113)", "there is no route"),
    ],
)
def test_what_native_code_says(code: str, message: str, cause: str) -> None:
    wrapped = f"MLX could not form the jaccl group: {message}"
    assert cause in advise(code, wrapped).cause


@pytest.mark.parametrize(
    "message", ["", "errno=22", "errno=20", "RTR failed with errno 222", "errno 600", "error: 1110", "rank 60 of 61"]
)
def test_what_native_code_does_not_say(message: str) -> None:
    assert advise("init-failed", message) is ADVICE["init-failed"]


RDMA = ("GID", "cable", "address", "ibv_devinfo", "reboot", "matrix")


@pytest.mark.parametrize("errno", [1, 12, 16, 22, 60, 61, 65, 96, 110, 111, 113])
@pytest.mark.parametrize("step", ["INIT", "RTR", "RTS"])
@pytest.mark.parametrize("prefix", ["", "MLX could not form the jaccl group: "])
def test_an_errno_of_a_queue_pair_is_about_the_rdma_link(step: str, errno: int, prefix: str) -> None:
    """TCP over the same link worked just before."""
    advice = advise("init-failed", f"{prefix}[jaccl] Changing queue pair to {step} failed with errno {errno}")
    assert advice is not ADVICE["init-failed"]
    text = f"{advice.cause}; {advice.remedy}"
    assert any(word in text for word in RDMA)
    assert not any(word in text for word in ("VPN", "Local Network", "route", "listen"))


@pytest.mark.parametrize("peer", ["[jaccl] Couldn't connect (errno: {})", "[ring] Couldn't connect (error: {})"])
@pytest.mark.parametrize(("errno", "word"), [(60, "VPN"), (110, "VPN"), (61, "listen"), (111, "listen"), (51, "route")])
def test_the_same_errno_of_connect_is_about_tcp(peer: str, errno: int, word: str) -> None:
    assert word in advise("init-failed", peer.format(errno)).cause


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("[jaccl] No IPv4-mapped GID for this device. Thunderbolt RDMA ports only publish one", "no IPv4 address"),
        ("[jaccl] Could not find device rdma_en7 (4 available)", "does not have"),
        ("[jaccl] Could not open device rdma_en7", "not enabled"),
        ("[jaccl] Creating the queue pair failed with 'Cannot allocate memory (12)'.", "no resources"),
        ("[jaccl] Couldn't create completion queue", "no resources"),
        ("[jaccl] Register memory region failed", "memory"),
        ("[ring] connection to a peer was lost", "the other rank failed first"),
        ("[jaccl] Send failed with errno=32", "the other rank failed first"),
        ("[jaccl] Recv failed with errno=54", "the other rank failed first"),
        ("[jaccl] Couldn't bind socket (error: 48)", "uses the port"),
        ("[ring] Couldn't listen (error: 98)", "uses the port"),
        ("[ring] Accept failed (error: 4)", "signal"),
        ("Can't parse address m1.local", "ip:port"),
        ("[jaccl] The JACCL mesh supports up to 8 peers but 9 were provided.", "matrix"),
        ("[jaccl] Up to 4 per direction supported but 5 were provided.", "matrix"),
        ("[jaccl] The configuration should define a valid mesh or a valid ring.", "matrix"),
        ("[jaccl] The device file should have an array of arrays", "matrix"),
        ("[json.exception.parse_error.101] parse error at line 1", "not JSON"),
        ("[jaccl] You need to provide via environment variables a rank (JACCL_RANK/MLX_RANK)", "variable"),
        ("Cannot initialize jaccl distributed backend.", "no jaccl"),
        ("[jaccl] Group split not supported.", "split"),
        ("[ring] It is required to have as many connections to the left as to the right", "hostfiles"),
    ],
)
def test_every_message_of_mlx_has_its_advice(message: str, word: str) -> None:
    advice = advise("init-failed", f"MLX could not form the group: {message}")
    assert advice is not ADVICE["init-failed"]
    assert word in advice.cause


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [
        ("port-in-use", "port 31000 on 10.0.0.1 is in use", "lsof -nP -iTCP:31000"),
        ("link-crowded", "16 connections of 10.0.0.9 to 10.0.0.1:7001", "lsof -nP -iTCP"),
        ("link-timeout", "connecting to 10.0.0.2:7777 took too long", "doctor --peer-ip 10.0.0.2"),
        ("not-pinned", "no key is pinned for 10.0.0.2; run", "--address 10.0.0.2; or --peer"),
        ("not-own-address", "rank 0 is the coordinator at 10.0.0.1, an address", "doctor --own-ip 10.0.0.1"),
        ("link-timeout", "the other rank takes no more bytes", "jaccl-bootstrap doctor"),
        ("ring-port-taken", "the ring port at 10.0.0.1:29500 cannot be used: x", "lsof -nP -iTCP:29500, or another"),
    ],
)
def test_a_remedy_names_what_the_message_names(code: str, message: str, remedy: str) -> None:
    found = advise(code, message).remedy
    assert remedy in found
    assert not re.search(r"\b(IP|PORT)\b", found)


def test_native_words_in_another_failure_mean_nothing() -> None:
    assert advise("deadline", "Recv failed with errno=2") is ADVICE["deadline"]


def test_whether_to_try_again() -> None:
    assert Advice("c", "m").retry(native=False) == "safe"
    assert Advice("c", "m").retry(native=True) == "unsafe"
    assert Advice("c", "m", fix_first=True).retry(native=True) == "fix-first"
