"""The exchange by which two boxes come to trust each other: a code of six digits, seen on one and
typed on the other, becomes two random keys.

SPAKE2 (RFC 9382, the library ``spake2``) makes a strong shared secret of the code. Whoever listens
learns nothing of it, and whoever does not know the code can try one guess for each exchange. Each
side then proves that it has the same secret, and binds its certificate and address to the proof: a
man in the middle has another certificate. Nothing here does I/O; a side takes about 20 ms of CPU.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

import msgspec

from cyber_inference_tui.records.peers import Box

_CALLER, _ACCEPTOR = b"cyber-inference-tui caller", b"cyber-inference-tui acceptor"
_KEY_PREFIX = "cit-peer-"


class PairingError(Exception):
    """The other side does not know the code, or somebody is in between."""


class Keys(NamedTuple):
    """What both sides have after the exchange."""

    of_caller: str
    """The key with which the caller calls the acceptor."""
    of_acceptor: str
    """The key with which the acceptor calls the caller."""


class Exchange:
    """One side of one exchange: ``message``, then ``finish``, then ``prove`` and ``check``.

    ``calls`` is true for the side on which the code is typed.
    """

    def __init__(self, code: str, *, calls: bool) -> None:
        # Pure Python and slow to import: only a pairing needs it.
        from spake2 import SPAKE2_A, SPAKE2_B  # noqa: PLC0415

        side = SPAKE2_A if calls else SPAKE2_B
        self._calls = calls
        self._spake = side(code.encode(), idA=_CALLER, idB=_ACCEPTOR)
        self.message: bytes = self._spake.start()
        """The message for the other side."""
        self._secret = b""

    def finish(self, message: bytes) -> None:
        """Take the other side's message. Raises ``PairingError`` if it is none."""
        from spake2 import SPAKEError  # noqa: PLC0415

        try:
            self._secret = self._spake.finish(message)
        # The library checks points of the curve with asserts and ValueErrors.
        except (SPAKEError, ValueError, AssertionError) as error:
            raise PairingError("The other box sent no message of a pairing.") from error

    def prove(self, box: Box, seen: str) -> str:
        """Return the proof of this side; see ``_proof`` for the arguments."""
        return self._proof(box, seen, by_caller=self._calls)

    def check(self, proof: str, box: Box, seen: str) -> None:
        """Raise ``PairingError`` unless ``proof`` is that of the other side."""
        if not hmac.compare_digest(proof, self._proof(box, seen, by_caller=not self._calls)):
            raise PairingError(
                "The code is wrong, or somebody is between the boxes: the pairing has failed."
            )

    def keys(self) -> Keys:
        """Return the keys of both directions."""
        return Keys(*(_KEY_PREFIX + self._derived(b"key of " + side) for side in _SIDES))

    def _proof(self, box: Box, seen: str, *, by_caller: bool) -> str:
        """Return the proof of a side that is ``box``.

        ``seen`` is the fingerprint of the acceptor's certificate, as the side knows it; empty
        without TLS.
        """
        said = msgspec.json.encode([box, seen], order="sorted")
        key = self._derived(b"proof of " + (_CALLER if by_caller else _ACCEPTOR))
        return hmac.new(key.encode(), said, hashlib.sha256).hexdigest()

    def _derived(self, what: bytes) -> str:
        if not self._secret:
            raise RuntimeError("an exchange without the other side's message")
        # The secret is a SHA-256, so one HMAC (HKDF-Expand of RFC 5869, one block) is enough.
        return hmac.new(self._secret, what + b"\x01", hashlib.sha256).hexdigest()


_SIDES = (_CALLER, _ACCEPTOR)
