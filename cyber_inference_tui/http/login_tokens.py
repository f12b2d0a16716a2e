"""The tokens of logins: signs and checks them, and keeps which of them have ended.

A token is a JWT (RFC 7519), signed with HS256. Its key is derived from a secret in the data
directory and the stored password, so a new password invalidates all tokens. Each token has an id,
by which one login can be ended.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.files import read_file, replace_file

TOKEN_LIFETIME = 12 * 3600
"""Seconds until a login expires."""
AUDIENCE = "cyber-inference-tui admin"
"""Who a token is for: a token of another purpose opens nothing here."""
ENDED_FILE = "ended-logins.json"
"""The ids of ended tokens, beside the file of the secret."""
MAX_ENDED = 1000
"""Ended tokens that are kept. With one more the secret changes, which ends all logins."""

_SECRET_BYTES = 32
_PURPOSE = b"cyber-inference admin login\0"
_MAX_FILE = 1 << 20

_logger = logging.getLogger(__name__)


class Claims(msgspec.Struct, frozen=True):
    """The claims of a token that are checked here."""

    jti: str
    """The id of the token."""
    iat: int
    exp: int
    process: str = ""
    clock: int = 0


class LoginTokens:
    """Issues tokens, and reads those that it has issued.

    The constructor blocks: it imports the library and reads ``secret_file``, or creates it. If that
    is impossible, tokens end with the process.
    """

    def __init__(self, secret_file: Path) -> None:
        import jwt  # noqa: PLC0415 - needs memory, and more with 'cryptography'

        self._jwt = jwt
        self._secret_file = secret_file
        self._ended_file = secret_file.with_name(ENDED_FILE)
        try:
            self._ended, self._secret = _kept(secret_file, self._ended_file)
        except OSError as error:
            _logger.warning(
                "cannot use %s (%s): logins end with the service", secret_file, error.strerror
            )
            self._ended, self._secret = frozenset[str](), secrets.token_bytes(_SECRET_BYTES)

    def issue(self, password: str, now: int, *, process: str, clock: int) -> tuple[str, str]:
        """Return a token and its id, valid from ``now`` (seconds since 1970) for its lifetime.

        ``process`` names the process that issues it, ``clock`` is its monotonic clock in seconds.
        """
        token_id = secrets.token_hex(8)
        claims = {
            "aud": AUDIENCE,
            "sub": "admin",
            "jti": token_id,
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
            "process": process,
            "clock": clock,
        }
        return self._jwt.encode(claims, self._key(password), algorithm="HS256"), token_id

    def claims(self, token: str, password: str) -> Claims | None:
        """Return the claims of a token, even if expired; ``None`` if not ours, or ended."""
        try:
            # The caller checks the times, with its own clocks.
            decoded = self._jwt.decode(
                token,
                self._key(password),
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"verify_exp": False, "verify_iat": False},
            )
            claims = msgspec.convert(decoded, thread_safe(Claims))
        except (self._jwt.InvalidTokenError, msgspec.ValidationError):
            return None
        return None if claims.jti in self._ended else claims

    def end(self, token_id: str) -> None:
        """End a token for this process; ``save`` does it for later ones."""
        self._ended |= {token_id}
        if len(self._ended) > MAX_ENDED:
            self._ended, self._secret = frozenset(), secrets.token_bytes(_SECRET_BYTES)

    def save(self) -> None:
        """Write the secret and the ids of ended tokens. Blocks; raises ``OSError``."""
        _write_secret(self._secret_file, self._secret)
        replace_file(
            self._ended_file, msgspec.json.encode(sorted(self._ended)), mode=0o600, flush=True
        )

    def _key(self, password: str) -> bytes:
        return hmac.digest(
            self._secret, _PURPOSE + password.encode("utf-8", "surrogatepass"), "sha256"
        )


def _kept(secret_file: Path, ended_file: Path) -> tuple[frozenset[str], bytes]:
    """Return the ids of ended tokens, and the secret. Raises ``OSError``."""
    try:
        ended = msgspec.json.decode(read_file(ended_file, _MAX_FILE), type=thread_safe(list[str]))
        return frozenset(ended), kept_secret(secret_file)
    except FileNotFoundError:
        return frozenset(), kept_secret(secret_file)
    except (OSError, msgspec.MsgspecError):
        # It is unknown which tokens have ended, so none may be valid.
        return frozenset(), _write_secret(secret_file, secrets.token_bytes(_SECRET_BYTES))


def kept_secret(path: Path) -> bytes:
    """Read the secret from a file. Create a new one if others could read it or there is none.

    Blocks. Raises ``OSError``.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        private = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077 == 0
        secret = file.read(_SECRET_BYTES + 1)
        if private and len(secret) == _SECRET_BYTES:
            return secret
    return _write_secret(path, secrets.token_bytes(_SECRET_BYTES))


def _write_secret(path: Path, secret: bytes) -> bytes:
    replace_file(path, secret, mode=0o600, flush=True)
    return secret
