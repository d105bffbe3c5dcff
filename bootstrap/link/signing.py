"""The identity key of a running rank. It may be in a keychain or a Secure Enclave, which can refuse to sign."""

from collections.abc import Callable

from bootstrap.errors import IdentityError
from wireproto.session import Signer


class RankSigner:
    """A `Signer` that passes its failure to `failed`: in a session it would look like a failure of the link."""

    def __init__(self, signer: Signer, failed: Callable[[IdentityError], None]) -> None:
        self._signer, self._failed = signer, failed

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    def sign(self, commitment: bytes) -> bytes:
        """Return the signature. Raise IdentityError (`sign-failed`) if there is none."""
        try:
            signature = self._signer.sign(commitment)
            if not isinstance(signature, bytes):
                raise TypeError(f"its signer returned {type(signature).__name__}, not bytes")
        except Exception as reason:
            text = f"the identity key of this rank did not sign: {type(reason).__name__}: {reason}; see its store"
            error = IdentityError(text, code="sign-failed")
            self._failed(error)
            raise error from reason
        return signature
