"""The handshake: the peer's part of it, and its detection of our faults."""

from collections.abc import Callable

from wireproto.conformance import byhand
from wireproto.conformance.byhand import Identity
from wireproto.conformance.case import BOTH, RANK_0, RANK_1, case
from wireproto.conformance.frames import ACK, BOOTSTRAP, HELLO, PING, PONG, strictly
from wireproto.conformance.peer import Link, Peer
from wireproto.conformance.verdicts import Missed, Undecided, Verdict
from wireproto.messages import HandshakeAck, HandshakeHello, Revision
from wireproto.session import Role

# -- the peer's hello or ack -------------------------------------------------------------------------------------------


async def _introduced(peer: Peer) -> Link:
    """Return a connection on which the peer's hello or ack has arrived."""
    link = await peer.connect()
    if peer.role is Role.RESPONDER:
        await link.send_body("the hello", link.introduction())
        await link.take_introduction()
    return link


@case("handshake", "fields", "PAYLOAD-HELLO", "JSON-TEXT", "JSON-BASE64")
async def fields(peer: Peer) -> None:
    """The peer's hello or ack is strictly valid JSON, with keys and nonce of the right lengths."""
    link = await _introduced(peer)
    message = strictly(link.their_frame, Revision.V1)
    assert isinstance(message, HandshakeHello | HandshakeAck)  # noqa: S101 - its type byte was looked at


@case("handshake", "signature", "HANDSHAKE-SIGNATURE", "HANDSHAKE-HELLO", "HANDSHAKE-ACK")
async def signature(peer: Peer) -> None:
    """The peer's signature is over the commitment, and correctly made."""
    link = await _introduced(peer)
    theirs = link.theirs
    assert theirs is not None  # noqa: S101 - it has come
    link.step("check the signature")
    if peer.role is Role.INITIATOR:
        rule = "HANDSHAKE-HELLO"
        commitments = {
            "SHA256(x25519_0 ‖ nonce_0)": byhand.hello_commitment(theirs.ephemeral, theirs.nonce),
            "SHA256(nonce_0 ‖ x25519_0)": byhand.hello_commitment(theirs.nonce, theirs.ephemeral),
            "SHA256(x25519_0) alone": byhand.hello_commitment(theirs.ephemeral, b""),
        }
    else:
        rule = "HANDSHAKE-ACK"
        commitments = {
            "SHA256(nonce_0 ‖ nonce_1 ‖ x25519_1)": byhand.ack_commitment(link.nonce, theirs.nonce, theirs.ephemeral),
            "SHA256(nonce_1 ‖ nonce_0 ‖ x25519_1)": byhand.ack_commitment(theirs.nonce, link.nonce, theirs.ephemeral),
            "SHA256(x25519_1 ‖ nonce_0 ‖ nonce_1)": byhand.ack_commitment(theirs.ephemeral, link.nonce, theirs.nonce),
            "SHA256(x25519_1 ‖ nonce_1), the hello's": byhand.hello_commitment(theirs.ephemeral, theirs.nonce),
        }
    expected = next(iter(commitments))
    if not byhand.verifies(theirs.identity, theirs.signature, commitments[expected]):
        why = byhand.diagnose_signature(theirs.identity, theirs.signature, commitments)
        raise Missed(f"a signature over {expected}", why, rule if "over SHA256" in why else None)


@case("handshake", "identity", "HANDSHAKE-PIN")
async def identity(peer: Peer) -> None:
    """The peer sends the identity key that is pinned for it."""
    pinned = peer.settings.peer_key
    if pinned is None:
        raise Undecided(Verdict.SKIPPED, "the key is unknown without --peer-key")
    link = await _introduced(peer)
    assert link.theirs is not None  # noqa: S101 - it has come
    link.step("compare the identity key")
    if link.theirs.identity != pinned:
        raise Missed(f"the key {pinned.hex()}", link.theirs.identity.hex())


@case("handshake", "identity-lasts", "HANDSHAKE-PIN", roles=RANK_1)
async def identity_lasts(peer: Peer) -> None:
    """The identity key is the same in the next handshake."""
    first = await _introduced(peer)
    await first.wire.close()
    second = await _introduced(peer)
    assert first.theirs is not None and second.theirs is not None  # noqa: S101, PT018 - they have come
    if first.theirs.identity != second.theirs.identity:
        raise Missed(f"the key {first.theirs.identity.hex()}", second.theirs.identity.hex())


@case("handshake", "fresh", "HANDSHAKE-FRESH")
async def fresh(peer: Peer) -> None:
    """The X25519 key and nonce are new in the next handshake."""
    first = await _introduced(peer)
    await first.wire.close()
    if peer.role is Role.INITIATOR:
        await peer.restart()
    second = await _introduced(peer)
    assert first.theirs is not None and second.theirs is not None  # noqa: S101, PT018 - they have come
    first.step("compare the two")
    if first.theirs.ephemeral == second.theirs.ephemeral:
        raise Missed("an X25519 key that differs from the last one", "the same")
    if first.theirs.nonce == second.theirs.nonce:
        raise Missed("a nonce that differs from the last one", "the same")


@case("handshake", "silent-at-first", "HANDSHAKE-FIRST", roles=RANK_1)
async def silent_at_first(peer: Peer) -> None:
    """Rank 1 sends nothing before the hello."""
    link = await peer.connect()
    await link.expect_silence()
    await link.shake_hands()


@case("handshake", "one-hello", "HANDSHAKE-FIRST", "SESSION-STATE", roles=RANK_0)
async def one_hello(peer: Peer) -> None:
    """Rank 0 sends nothing between its hello and the ack."""
    link = await peer.connect()
    await link.expect_silence()


# -- faults of ours ----------------------------------------------------------------------------------------------------


async def _refuse(link: Link, what: str, frame: bytes) -> None:
    await link.send_body(what, frame)
    await link.expect_closed()


def _signed(name: str, what: str, sign: Callable[[Identity, bytes], bytes], *rules: str) -> None:
    @case("handshake", name, *rules, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.connect()
        await _refuse(link, what, link.introduction(sign=sign))


_SIGNATURE = ("HANDSHAKE-SIGNATURE", "HANDSHAKE-ORDER")
_signed("signature-none", "An empty signature", lambda *_: b"", *_SIGNATURE)
_signed("signature-of-another", "A signature by another key", lambda _, text: Identity().sign(text), *_SIGNATURE)
_signed(
    "signature-single-hash", "A signature whose commitment is not hashed once more", Identity.sign_once, *_SIGNATURE
)
_signed("signature-raw", "A raw signature r ‖ s", lambda own, text: byhand.raw_signature(own.sign(text)), *_SIGNATURE)
_signed("signature-trailing", "A byte after the signature", lambda own, text: own.sign(text) + b"\0", *_SIGNATURE)
_signed(
    "signature-not-der", "A signature in BER, not DER", lambda own, text: byhand.long_r(own.sign(text)), *_SIGNATURE
)
_signed("signature-zero", "A signature with r and s of 0", lambda *_: bytes.fromhex("3006020100020100"), *_SIGNATURE)


@case("handshake", "signature-other-s", "HANDSHAKE-SIGNATURE")
async def signature_other_s(peer: Peer) -> None:
    """A signature with the higher of s and n − s is accepted; all other cases have the lower."""
    link = await peer.connect()
    await link.shake_hands(link.introduction(sign=lambda own, text: byhand.other_s(own.sign(text))))


@case("handshake", "wrong-commitment-order", "HANDSHAKE-HELLO", "HANDSHAKE-ORDER", roles=RANK_1)
async def wrong_hello_order(peer: Peer) -> None:
    """A hello signed over nonce and key in the wrong order ends the connection."""
    link = await peer.connect()
    commit = lambda public, nonce: byhand.hello_commitment(nonce, public)  # noqa: E731
    await _refuse(link, "a hello signed over nonce_0 ‖ x25519_0", link.introduction(commit=commit))


@case("handshake", "wrong-commitment-order", "HANDSHAKE-ACK", "HANDSHAKE-ORDER", roles=RANK_0)
async def wrong_ack_order(peer: Peer) -> None:
    """An ack signed over the nonces in the wrong order ends the connection."""
    link = await peer.connect()
    theirs = link.theirs
    assert theirs is not None  # noqa: S101 - it has come
    commit = lambda public, nonce: byhand.ack_commitment(nonce, theirs.nonce, public)  # noqa: E731
    await _refuse(link, "an ack signed over nonce_1 ‖ nonce_0 ‖ x25519_1", link.introduction(commit=commit))


@case("handshake", "signed-for-another-hello", "HANDSHAKE-ACK", "HANDSHAKE-ORDER", roles=RANK_0)
async def signed_for_another_hello(peer: Peer) -> None:
    """A recorded ack for another hello ends the connection."""
    link = await peer.connect()
    commit = lambda public, nonce: byhand.ack_commitment(bytes(32), nonce, public)  # noqa: E731
    await _refuse(link, "an ack to a hello with another nonce", link.introduction(commit=commit))


@case("handshake", "key-not-signed", "HANDSHAKE-HELLO", "HANDSHAKE-ORDER", roles=RANK_1)
async def hello_key_not_signed(peer: Peer) -> None:
    """A hello whose X25519 key was replaced in transit ends the connection."""
    link = await peer.connect()
    commit = lambda _, nonce: byhand.hello_commitment(bytes(32), nonce)  # noqa: E731
    await _refuse(link, "a hello signed over another X25519 key", link.introduction(commit=commit))


@case("handshake", "key-not-signed", "HANDSHAKE-ACK", "HANDSHAKE-ORDER", roles=RANK_0)
async def ack_key_not_signed(peer: Peer) -> None:
    """An ack whose X25519 key was replaced in transit ends the connection."""
    link = await peer.connect()
    commit = lambda _, nonce: link.commitment(bytes(32), nonce)  # noqa: E731
    await _refuse(link, "an ack signed over another X25519 key", link.introduction(commit=commit))


@case("handshake", "wrong-identity", "HANDSHAKE-PIN", "HANDSHAKE-ORDER")
async def wrong_identity(peer: Peer) -> None:
    """An identity that is not pinned ends the connection, even if its signature is valid."""
    link = await peer.connect()
    await _refuse(link, "hello or ack with an unpinned key", link.introduction(identity=Identity()))


@case("handshake", "own-identity", "HANDSHAKE-PIN", "HANDSHAKE-ORDER")
async def own_identity(peer: Peer) -> None:
    """The peer's own identity key, sent by another, ends the connection."""
    link = await peer.connect()
    if link.theirs is None:
        await link.send_body("a hello, to see the peer's key", link.introduction())
        await link.take_introduction()
        shown = link.theirs
        await link.wire.close()
        link = await peer.connect()
    else:
        shown = link.theirs
    assert shown is not None  # noqa: S101 - it has come
    await _refuse(link, "hello or ack with the peer's own identity key", link.introduction(shown=shown.identity))


@case("handshake", "point-prefix", "PAYLOAD-HELLO", "HANDSHAKE-ORDER")
async def point_prefix(peer: Peer) -> None:
    """An identity key of 65 bytes, with the 0x04 of the uncompressed form, ends the connection."""
    link = await peer.connect()
    prefixed = b"\x04" + peer.settings.identity.public
    await _refuse(link, "an identity key of 65 bytes", link.introduction(shown=prefixed))


def _nonce(name: str, size: int, roles: tuple[Role, ...] = BOTH) -> None:
    about = f"A nonce of {size} bytes ends the connection."

    @case("handshake", name, "PAYLOAD-HELLO", "HANDSHAKE-ORDER", roles=roles, about=about)
    async def script(peer: Peer) -> None:
        link = await peer.connect()
        await _refuse(link, f"a nonce of {size} bytes", link.introduction(nonce=bytes(size)))


_nonce("nonce-short", 31)
_nonce("nonce-long", 33)
_nonce("nonce-empty", 0, RANK_1)


@case("handshake", "lengths-shifted", "PAYLOAD-HELLO", "HANDSHAKE-ORDER", roles=RANK_1)
async def lengths_shifted(peer: Peer) -> None:
    """A key of 33 bytes and a nonce of 31 end the connection, even if their commitment is right."""
    link = await peer.connect()
    joined = link.public + link.nonce
    frame = link.introduction(public=joined[:33], nonce=joined[33:])
    await _refuse(link, "a hello with a byte moved from the nonce to the key", frame)


def _low_order(name: str, public: str, roles: tuple[Role, ...] = BOTH) -> None:
    about = "An X25519 key that gives the all-zero secret ends the connection."

    @case("handshake", name, "HANDSHAKE-ORDER", roles=roles, about=about)
    async def script(peer: Peer) -> None:
        link = await peer.connect()
        await _refuse(link, f"the X25519 key {public}", link.introduction(public=bytes.fromhex(public)))


_low_order("x25519-zero", "00" * 32)
_low_order("x25519-one", "01" + "00" * 31, RANK_1)
_low_order("x25519-order-8", "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


@case("handshake", "x25519-top-bit", "HANDSHAKE-KEY")
async def x25519_top_bit(peer: Peer) -> None:
    """An X25519 key is accepted with its top bit set, and the bit is ignored."""
    link = await peer.connect()
    public = link.public[:31] + bytes([link.public[31] | 0x80])
    await link.shake_hands(link.introduction(public=public))
    if peer.role is Role.RESPONDER:
        await link.ping()


def _spelt(name: str, what: str, change: Callable[[bytes], bytes], *rules: str) -> None:
    @case("handshake", name, *rules, about=f"{what} ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.connect()
        frame = link.introduction()
        await _refuse(link, what, frame[:1] + change(frame[1:]))


def _url_safe(payload: bytes) -> bytes:
    return payload.replace(b"+", b"-").replace(b"/", b"_")


_spelt("base64-no-padding", "Base64 without padding", lambda text: text.replace(b"=", b""), "JSON-BASE64")
_spelt(
    "base64-line-feed", "Base64 with an escaped line feed", lambda text: text.replace(b'="', b'=\\n"', 1), "JSON-BASE64"
)
_spelt(
    "missing-field", "A hello or an ack without nonce", lambda text: text.replace(b'"nonce"', b'"Nonce"'), "JSON-KEYS"
)
_spelt(
    "duplicate-field",
    "A repeated nonce",
    lambda text: text[:-1] + b',"nonce":"' + b"A" * 43 + b'="}',
    "JSON-DUPLICATE-KEY",
)
_spelt("no-json", "A hello or an ack that is not JSON", lambda _: b"hello", "HANDSHAKE-ORDER", "JSON-TEXT")


@case("handshake", "nesting-513-last", "JSON-NESTING", "HANDSHAKE-ORDER")
async def nesting_513_last(peer: Peer) -> None:
    """A hello or an ack that ends at its 513th opening bracket ends the connection, without a crash."""
    link = await peer.connect()
    first = HELLO if peer.role is Role.RESPONDER else ACK
    await _refuse(link, "513 opening brackets", first + b'{"x":' + b"[" * 512)
    if peer.role is Role.RESPONDER:
        await (await peer.session()).ping()


@case("handshake", "base64-url-safe", "JSON-BASE64")
async def base64_url_safe(peer: Peer) -> None:
    """Base64 in the URL-safe alphabet ends the connection."""
    link = await peer.connect()
    while _url_safe(frame := link.introduction()) == frame:
        link.nonce = link.nonce[1:] + b"\xff"
    await _refuse(link, "hello or ack in URL-safe base64", frame[:1] + _url_safe(frame[1:]))


@case("handshake", "as-swift-writes", "JSON-BASE64", "JSON-UNKNOWN-KEY", "JSON-SPELLING")
async def as_swift_writes(peer: Peer) -> None:
    """A hello or an ack with \\/ in its base64, and an unknown key, is accepted."""
    link = await peer.connect()
    link.nonce = b"\xff" * 3 + link.nonce[3:]  # "////" in base64
    frame = link.introduction()
    await link.shake_hands(frame[:1] + b'{"x":[1.5],' + frame[2:].replace(b"/", b"\\/"))


@case("handshake", "keys-reordered", "JSON-KEYS")
async def keys_reordered(peer: Peer) -> None:
    """A hello or an ack with its keys in another order is accepted."""
    link = await peer.connect()
    frame = link.introduction()
    members = frame[2:-1].split(b",")
    await link.shake_hands(frame[:1] + b"{" + b",".join(reversed(members)) + b"}")


# -- another frame first -----------------------------------------------------------------------------------------------


def _instead(name: str, what: str, frame: bytes, roles: tuple[Role, ...]) -> None:
    @case("handshake", name, "HANDSHAKE-ONLY", roles=roles, about=f"{what} before the handshake ends the connection.")
    async def script(peer: Peer) -> None:
        link = await peer.connect()
        await _refuse(link, what, frame)


_instead("ping-first", "A ping", PING, RANK_1)
_instead("bootstrap-first", "A jacclBootstrap", BOOTSTRAP, RANK_1)
_instead("pong-first", "A pong", PONG, RANK_0)


@case("handshake", "other-part-first", "HANDSHAKE-ONLY")
async def other_part_first(peer: Peer) -> None:
    """An ack to rank 1 instead of a hello, or a hello to rank 0 instead of an ack, ends the connection."""
    link = await peer.connect()
    theirs = ACK if peer.role is Role.RESPONDER else HELLO
    await _refuse(link, "the peer's own part of the handshake", theirs + link.introduction()[1:])


@case("handshake", "reflected-hello", "HANDSHAKE-PIN", "HANDSHAKE-ACK", roles=RANK_0)
async def reflected_hello(peer: Peer) -> None:
    """Rank 0's own hello, sent back to it as an ack, ends the connection."""
    link = await peer.connect()
    await _refuse(link, "the peer's hello as an ack", ACK + link.their_frame[1:])
