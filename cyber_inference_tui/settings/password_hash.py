"""Hash the admin password with scrypt (RFC 7914), so that the file does not reveal it.

A hash is written in the PHC string format: ``$scrypt$ln=14,r=8,p=5$SALT$DIGEST``, where ``ln`` is
the binary logarithm of N, and salt and digest are in Base64 without padding. Making a hash and
comparing a password with it block for some tenths of a second.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

HASH_FORM = (
    r"\$scrypt\$ln=(1[0-7]),r=([1-9]|1[0-6]),p=([1-9]|1[0-6])"
    r"\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)
"""The pattern of a hash. Its bounds keep a comparison within 256 MiB."""

_HASH = re.compile(HASH_FORM)
_LN, _R, _P = 14, 8, 5
"""One of the five equivalent choices of OWASP's Password Storage Cheat Sheet: it takes 16 MiB, so
that a small machine can spare it."""
_SALT_BYTES = 16
_DIGEST_BYTES = 32


def hashed(password: str) -> str:
    """Return a hash of the password with a new salt; a hash is returned as it is. Blocks."""
    if is_hash(password):
        return password
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(password, salt, _LN, _R, _P)
    return f"$scrypt$ln={_LN},r={_R},p={_P}${_in_base64(salt)}${_in_base64(digest)}"


def is_hash(text: str) -> bool:
    """Return whether a stored password is a hash."""
    return _HASH.fullmatch(text) is not None


def matches(password: str, stored: str) -> bool:
    """Return whether ``stored`` is this password, or a hash of it. Blocks."""
    found = _HASH.fullmatch(stored)
    if found is None:
        return hmac.compare_digest(_bytes_of(password), _bytes_of(stored))
    ln, r, p = map(int, found.groups()[:3])
    salt, digest = map(_from_base64, found.groups()[3:])
    return hmac.compare_digest(_scrypt(password, salt, ln, r, p), digest)


def _scrypt(password: str, salt: bytes, ln: int, r: int, p: int) -> bytes:
    # The memory that OpenSSL counts: that of the algorithm, and one more block of 128 * r bytes.
    most = 128 * r * ((1 << ln) + p + 2)
    return hashlib.scrypt(
        _bytes_of(password), salt=salt, n=1 << ln, r=r, p=p, maxmem=most, dklen=_DIGEST_BYTES
    )


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
