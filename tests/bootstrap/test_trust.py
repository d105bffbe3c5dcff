"""One key for each rank: a run's expected keys, and its handling of others."""

import asyncio
import fcntl
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import bootstrap
from bootstrap import BootstrapError, ConfigError, Plan
from bootstrap.errors import LinkError
from bootstrap.trust import Pins, Trust, encode_public_key, load_identity
from tests.bootstrap.identities import IPS, KEYS, A, B, refused
from tests.bootstrap.links import run
from tests.bootstrap.ranks import Rank, make_ranks, of
from tests.bootstrap.working_ranks import Acting, Group, forever
from wireproto import Revision
from wireproto.errors import HandshakeError
from wireproto.session import Config, Established, Role, Session
from wireproto.session.handshake import KeySigner, TrustAnyKey, fingerprint

Start = Callable[..., Any]
OWN = KeySigner.generate()
KEY_A, KEY_B = encode_public_key(A), encode_public_key(B)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(tmp_path, monkeypatch)


def plan_of(rank: int = 0, size: int = 2, **options: Any) -> Plan:
    return Plan(rank=rank, ips=tuple(IPS[:size]), **options)


def impossible(act: Callable[[], object], code: str) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    assert caught.value.code == code
    return str(caught.value)


# -- one key, one rank -------------------------------------------------------------------------------------------------


def test_no_key_serves_two_ranks() -> None:
    assert "rank 1 has the key of rank 2; " in impossible(lambda: Trust(OWN, {1: A, 2: A}), "key-repeated")
    assert "rank 0 has the key of this rank; " in impossible(lambda: Trust(OWN, {0: OWN.public_key}), "key-repeated")
    assert Trust(OWN, {1: A, 2: B, 3: TrustAnyKey(), 4: TrustAnyKey()}).keys[2] == B


@pytest.mark.parametrize(
    ("signer", "key"),
    [(OWN, A[:63]), (OWN, encode_public_key(A)), (OWN, TrustAnyKey), (object(), A)],
    ids=["short", "base64", "class", "signer"],
)
def test_keys_that_no_session_accepts(signer: Any, key: Any) -> None:
    """The rank waited for its deadline, and then reported that the link had failed."""
    impossible(lambda: Trust(signer, {1: key}), "bad-key")


def test_key_in_a_buffer_is_a_key_too() -> None:
    trust = Trust(OWN, {1: bytearray(A)})  # type: ignore[dict-item]
    assert trust.keys == {1: A}
    impossible(lambda: Trust(OWN, {1: bytearray(A), 2: A}), "key-repeated")  # type: ignore[dict-item]


def test_a_key_of_first_use_is_no_other_ranks() -> None:
    """[HANDSHAKE-FIRST-USE]"""
    trust = Trust(OWN, {1: A, 2: TrustAnyKey(), 3: TrustAnyKey()})
    assert not trust.confirm(1, A)
    assert trust.confirm(2, B)
    assert not trust.confirm(2, B)
    for key, holder in ((OWN.public_key, "this rank"), (A, "rank 1"), (B, "rank 2")):
        with pytest.raises(LinkError, match=f"rank 3 has the key of {holder}, ") as caught:
            trust.confirm(3, key)
        assert caught.value.code == "handshake-wrong-pin"
    assert trust.confirm(3, KEYS[2])
    assert trust.keys == {1: A, 2: B, 3: KEYS[2]}


def test_the_first_use_is_the_first_alone() -> None:
    """Two connections of a rank 0 can be in progress at once."""
    trust = Trust(OWN, {0: TrustAnyKey()})
    trust.confirm(0, A)
    with pytest.raises(LinkError, match=fingerprint(B)) as caught:
        trust.confirm(0, B)
    assert caught.value.code == "handshake-wrong-pin"
    assert trust.keys == {0: A}


def test_a_rank_needs_a_key_for_each_peer() -> None:
    async def main() -> None:
        async with bootstrap.rank(plan_of(0, 3), Trust(OWN, {1: A})):
            raise AssertionError

    assert "rank 2" in impossible(lambda: asyncio.run(main()), "bad-trust")


# -- which key that is -------------------------------------------------------------------------------------------------


def test_the_keys_of_a_run(home: Path) -> None:
    """By the peer's address first, otherwise by --peer."""
    Pins().add("mac-b", A, IPS[1])
    Pins().add("mac-c", B, "169.254.9.9")
    assert Trust.of(plan_of()).keys == {1: A}
    assert Trust.of(plan_of(), peers=["mac-b"]).keys == {1: A}
    assert Trust.of(plan_of(), peers=[f"1={KEY_A}"]).keys == {1: A}
    assert Trust.of(plan_of(0, 3), peers=["2=mac-c"]).keys == {1: A, 2: B}
    assert Trust.of(plan_of(2, 3), peers=[f"0={KEY_B}"]).keys == {0: B}
    assert Trust.of(plan_of(2, 3), peers=[f"0={KEY_B}", "1=mac-b"]).keys == {0: B, 1: A}
    keys = Trust.of(plan_of(0, 3), first_use=True).keys
    assert keys[1] == A
    assert isinstance(keys[2], TrustAnyKey)


@pytest.mark.parametrize("given", ["mac-c", KEY_B])
def test_a_pin_and_another_given_key_are_a_contradiction(given: str, home: Path) -> None:
    Pins().add("mac-b", A, IPS[1])
    Pins().add("mac-c", B)
    message = impossible(lambda: Trust.of(plan_of(), peers=[given]), "bad-trust")
    assert {fingerprint(A), fingerprint(B)} <= {*message.replace(",", "").replace(";", "").split()}
    assert message.endswith("jaccl-bootstrap pin --remove mac-b")
    assert not (home / "cluster-wireproto" / "identity.pem").exists()


@pytest.mark.parametrize(
    ("peers", "size", "code"),
    [
        (["AA=="], 2, "bad-key"),
        ([""], 2, "bad-key"),
        (["1="], 2, "bad-key"),
        (["1=AA=="], 2, "bad-key"),
        ([KEY_A[:-2]], 2, "bad-key"),
        (["mac b"], 2, "bad-key"),
        (["0=mac-b"], 2, "bad-trust"),
        (["2=mac-b"], 2, "bad-trust"),
        (["1=mac-b", "mac-b"], 2, "bad-trust"),
        (["mac-b"], 3, "bad-trust"),
        ([f"1={KEY_A}", f"2={KEY_A}"], 3, "key-repeated"),
    ],
)
def test_what_peer_cannot_be(peers: list[str], size: int, code: str, home: Path) -> None:
    Pins().add("mac-b", A)
    impossible(lambda: Trust.of(plan_of(0, size), peers=peers), code)


def test_a_peer_that_is_not_pinned(home: Path) -> None:
    assert "no peer is pinned as mac-b; " in refused(lambda: Trust.of(plan_of(), peers=["mac-b"]), "not-pinned")
    message = refused(lambda: Trust.of(plan_of()), "not-pinned")
    assert f"'jaccl-bootstrap pin {IPS[1]} KEY' here, or use --peer NAME" in message


def test_two_pins_with_one_key_are_no_two_ranks(home: Path) -> None:
    for number in (1, 2):
        Pins().add(f"mac-{number}", A, IPS[number])
    impossible(lambda: Trust.of(plan_of(0, 3)), "key-repeated")


def test_an_address_of_several_ranks_names_none(home: Path) -> None:
    """Like a demo."""
    Pins().add("127.0.0.1", A)
    plan = Plan(rank=0, ips=("127.0.0.1",) * 3, link_ports=(1, 2, 3))
    keys = [f"1={KEY_B}", f"2={KEY_A}"]
    assert Trust.of(plan, peers=keys).keys == {1: B, 2: A}
    for peers, first_use in ((keys[:1], False), ([], True), ([], False)):
        message = impossible(lambda p=peers, f=first_use: Trust.of(plan, peers=p, first_use=f), "bad-trust")  # type: ignore[misc]
        assert "127.0.0.1 is the address of several ranks" in message


def test_given_keys_need_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like a service configured only by options."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    assert Trust.of(plan_of(), tmp_path / "identity.pem", [KEY_A]).keys == {1: A}
    for peers in ([], ["mac-b"]):
        refused(lambda peers=peers: Trust.of(plan_of(), tmp_path / "identity.pem", peers), "no-home")  # type: ignore[misc]


def test_first_use_needs_a_proof(home: Path) -> None:
    plan = plan_of(revision=Revision.V1)
    assert "revision 1" in impossible(lambda: Trust.of(plan, first_use=True), "bad-trust")


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_a_changed_address_is_stored_once(home: Path) -> None:
    Pins().add("mac-b", A, IPS[5])
    trust = Trust.of(plan_of(), peers=["mac-b"])
    assert trust.on_confirmed(1, IPS[6], A) is None  # not the address given by the user
    assert Pins().list() == [("mac-b", A, IPS[5])]
    assert trust.on_confirmed(1, IPS[1], A) == "mac-b"
    assert trust.on_confirmed(1, IPS[1], A) is None
    assert Pins().list() == [("mac-b", A, IPS[1])]
    assert Trust.of(plan_of()).keys == {1: A}


def test_an_address_goes_to_no_pin_that_has_changed_meanwhile(home: Path) -> None:
    Pins().add("mac-b", A, IPS[5])
    trust = Trust.of(plan_of(), peers=["mac-b"])
    Pins().remove("mac-b")
    assert trust.on_confirmed(1, IPS[1], A) is None
    Pins().add("mac-b", B)
    assert trust.on_confirmed(1, IPS[1], A) is None
    assert Pins().list() == [("mac-b", B, None)]


def test_a_key_of_first_use_is_pinned_to_its_address(home: Path) -> None:
    """[HANDSHAKE-FIRST-USE]"""
    trust = Trust.of(plan_of(), first_use=True)
    assert trust.on_confirmed(1, IPS[1], A) is None
    assert Pins().list() == [(IPS[1], A, IPS[1])]


# -- over real links ---------------------------------------------------------------------------------------------------


def test_two_ranks_swapped(group: Group) -> None:
    """Each is known, but expected as the other. [HANDSHAKE-PIN]"""

    def swapped(rank: Rank, ranks: list[Rank]) -> Trust:
        held = ranks[(0, 2, 1)[rank.number]]
        return Trust(
            load_identity(held.identity), {each.number: each.key for each in ranks if each not in (rank, held)}
        )

    async def main() -> None:
        await group.start([forever] * 3, trust=swapped)
        with pytest.raises(BootstrapError) as caught:
            await group.tasks[0]
        assert caught.value.code == "handshake-wrong-pin"
        assert not group.ranks[0].begun.is_set()

    run(main)


def test_first_use_takes_no_key_twice(group: Group) -> None:
    """Ranks 1 and 2 have one identity. [HANDSHAKE-FIRST-USE]"""

    def trust(rank: Rank, ranks: list[Rank]) -> Trust:
        if rank.number == 0:
            return Trust(load_identity(rank.identity), {1: TrustAnyKey(), 2: TrustAnyKey()})
        return Trust(load_identity(ranks[1].identity), {0: ranks[0].key})

    async def main() -> None:
        await group.start([forever] * 3, trust=trust)
        with pytest.raises(BootstrapError, match=r"rank [12] has the key of rank [12], ") as caught:
            await group.tasks[0]
        assert caught.value.code == "handshake-wrong-pin"

    run(main)


def test_first_use_is_for_the_address_that_the_user_names(tmp_path: Path) -> None:
    """The key of another host that connects first is not accepted."""
    zero, one = make_ranks(tmp_path, 2)
    trust = Trust(load_identity(one.identity), {0: TrustAnyKey()})
    rank = Acting(Plan(rank=1, ips=(zero.ip, one.ip)), trust, forever)
    hello = Session(Config(role=Role.INITIATOR, signer=OWN, pin=one.key)).data_to_send()
    elsewhere, there = (rank.session(Role.RESPONDER, 0, ip) for ip in ("127.0.0.1", zero.ip))
    for session in (elsewhere, there):
        session.receive_data(b"".join(hello))
    assert isinstance(there.next_event(), Established)
    with pytest.raises(HandshakeError) as caught:
        elsewhere.next_event()
    assert caught.value.code == "handshake-no-pin"


def test_an_address_that_cannot_be_stored_is_a_warning(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is still the right one."""
    monkeypatch.setattr("bootstrap.private_file.LOCK_SECONDS", 0.0)
    with ExitStack() as held:

        def trust(rank: Rank, ranks: list[Rank]) -> Trust:
            if rank.number == 1:
                return rank.trust(ranks)
            monkeypatch.setenv("XDG_CONFIG_HOME", str(rank.home))
            rank.pins.remove(ranks[1].ip)
            rank.pins.add("mac-b", ranks[1].key)
            lock = held.enter_context(rank.pins.path.with_name("peers.json.lock").open("rb"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Trust.of(Plan(rank=0, ips=tuple(each.ip for each in ranks)), rank.identity, ["mac-b"])

        async def main() -> None:
            await group.start([forever] * 2, trust=trust)
            steps = group.ranks[0].calm.steps
            warned = await steps.until("warning")
            assert warned["message"].startswith("cannot store 127.")
            await group.until_begun()
            assert steps.of("peer-moved") == []

        run(main)


@pytest.mark.parametrize("number", [0, 1])
def test_a_short_run_waits_until_all_is_stored(number: int, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    go, over = threading.Event(), asyncio.Event()

    def store(rank: int, ip: str, key: bytes) -> str:
        go.wait()
        return "mac-b"

    def trust(rank: Rank, ranks: list[Rank]) -> Trust:
        plain = rank.trust(ranks)
        return Trust(plain.signer, plain.keys, store) if rank.number == number else plain

    async def at_once(acting: Acting) -> None:
        pass

    attempts = Acting._attempts

    async def then_over(acting: Acting, *arguments: Any) -> None:
        await attempts(acting, *arguments)
        if acting.plan.rank == number:
            over.set()

    async def main() -> None:
        try:
            await group.start([at_once] * 2, trust=trust)
            await over.wait()
            for _ in range(20):  # everything that runs without waiting
                await asyncio.sleep(0)
        finally:
            go.set()
        await asyncio.gather(*group.tasks)
        assert len(group.ranks[number].calm.steps.of("peer-moved")) == 1

    monkeypatch.setattr(Acting, "_attempts", then_over)
    run(main)


# -- as `up` meets it --------------------------------------------------------------------------------------------------


def test_a_peer_at_another_address_than_before(pair: tuple[Rank, Rank], up: Start) -> None:
    """For changing self-assigned addresses: NAME is enough, once. [HANDSHAKE-PIN]"""
    first, second = pair
    for own, peer in (pair, pair[::-1]):
        own.pins.remove(peer.ip)
        own.pins.add(f"mac-{peer.number}", peer.key, "169.254.1.1")
    one = up(second, first, "--json", "--dry-run", "--peer", "mac-0")
    zero = up(first, second, "--json", "--dry-run", "--peer", "mac-1")
    assert (zero.end(), one.end()) == (0, 0)
    for run_, own, peer in ((zero, first, second), (one, second, first)):
        (moved,) = of(run_, "peer-moved")
        assert (moved["peer"], moved["name"], moved["address"]) == (peer.number, f"mac-{peer.number}", peer.ip)
        assert own.pins.list() == [(f"mac-{peer.number}", peer.key, peer.ip)]
