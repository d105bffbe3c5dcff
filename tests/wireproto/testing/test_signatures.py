"""Wrong signatures and keys: this package's handshake refuses each, on either side, with the right code."""

import base64
import json
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from wireproto.session.handshake import HandshakeError, Initiator, Responder
from wireproto.testing.fixed_keys import KNOWN
from wireproto.testing.signatures import LOW_ORDER, read_laxly, wrong_points, wrong_signatures

HELLO, ACK = json.loads(KNOWN.hello[1:]), json.loads(KNOWN.ack[1:])


def refused(change: Callable[[dict[str, str]], None], is_hello: bool) -> str:
    """Return the code with which the known handshake fails after a change to the hello or the ack."""
    fields = dict(HELLO if is_hello else ACK)
    change(fields)
    frame = (KNOWN.hello if is_hello else KNOWN.ack)[:1] + json.dumps(fields).encode()
    if is_hello:
        take: Callable[[bytes], object] = Responder(
            KNOWN.rank_1, KNOWN.rank_0.public_key, KNOWN.rank_1.random()
        ).respond
    else:
        take = Initiator(KNOWN.rank_0, KNOWN.rank_1.public_key, KNOWN.rank_0.random()).finish
    with pytest.raises(HandshakeError) as caught:
        take(frame)
    return caught.value.code


def put(key: str, data: bytes) -> Callable[[dict[str, str]], None]:
    return lambda fields: fields.update({key: base64.b64encode(data).decode()})


@pytest.mark.parametrize("is_hello", [True, False])
def test_a_signature_that_is_not_der_is_refused(is_hello: bool) -> None:
    """[HANDSHAKE-SIGNATURE]"""
    der = base64.b64decode((HELLO if is_hello else ACK)["seSignature"])
    found = list(wrong_signatures(*decode_dss_signature(der)))
    assert len({each.data for each in found}) == len(found) > 80
    codes = {each.about: refused(put("seSignature", each.data), is_hello) for each in found}
    assert {about: code for about, code in codes.items() if code != "handshake-signature"} == {}


def test_a_lax_reader_takes_the_same_numbers_from_some() -> None:
    """Only rules show that these are wrong: a tag, a length, a zero byte too many or too few."""
    r, s = decode_dss_signature(base64.b64decode(HELLO["seSignature"]))
    lax = [each.about for each in wrong_signatures(r, s) if read_laxly(each.data) == (r, s)]
    assert {"1 more zero bytes before s", "the tag 0x03 of r", "a length in nine bytes of the sequence"} <= {*lax}
    assert not {"s and r", "n in place of r", "nothing", "r ‖ s without DER", "a length of 2^64 of r"} & {*lax}
    assert len(lax) > 30


@pytest.mark.parametrize("is_hello", [True, False])
def test_another_point_is_refused(is_hello: bool) -> None:
    """[HANDSHAKE-ORDER] The pin is checked first, so all of them are wrong pins."""
    public = base64.b64decode((HELLO if is_hello else ACK)["sePubKeyRaw"])
    found = list(wrong_points(public))
    assert {refused(put("sePubKeyRaw", each.data), is_hello) for each in found} == {"handshake-wrong-pin"}
    assert all(len(each.data) == 64 and each.data != public for each in found)


def test_low_order_keys_give_no_secret() -> None:
    assert len(set(LOW_ORDER)) == 14
    for public in LOW_ORDER:
        with pytest.raises(ValueError, match=re.escape("Error computing shared key")):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
