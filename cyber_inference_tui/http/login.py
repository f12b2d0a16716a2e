"""The admin login: exchanges the password for a token, and checks the tokens of requests.

A token is a JWT (RFC 7519), signed with HS256. Its key is derived from a secret in the data
directory and the password, so a new password invalidates all tokens. In addition, the token of the
process is valid until the process ends. It is written to the runtime file, for commands of the same
user.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import hdrs, web

from cyber_inference_tui.backoff import backoff
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    AdminLoginError,
    ConflictError,
    InvalidAdminPasswordError,
    TooManyLoginsError,
)
from cyber_inference_tui.files import replace_file
from cyber_inference_tui.http.access import bearer_token
from cyber_inference_tui.http.json_io import json_answer, read_json
from cyber_inference_tui.records import LoginRecord
from cyber_inference_tui.records.queries import Credentials
from cyber_inference_tui.settings.credentials import digest_of

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

LOGIN_FILE = "login.secret"
"""The file of the secret, in the data directory."""
TOKEN_LIFETIME = 12 * 3600
"""Seconds until a login expires."""

FREE_FAILURES = 5
"""Wrong passwords that an address may send before it has to wait."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
FORGET_AFTER = 900.0
"""Seconds after which the wrong passwords of an address are forgotten."""
MAX_CLIENTS = 1024

_SECRET_BYTES = 32
_MAX_BODY = 4096
_CLOCK_LEEWAY = 300
"""Seconds by which an earlier process's token may be from the future, for adjusted clocks."""
_PURPOSE = b"cyber-inference admin login\0"

_logger = logging.getLogger(__name__)


def _uptime() -> float:
    """Return the seconds of a clock that is never set and runs while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LoginAttempts:
    """Makes addresses wait after wrong passwords: 0 s at first, then 1, 2, 4 … 60 s.

    IPv6 addresses are counted by their 64-bit network, the size that a customer gets. Only the
    newest ``MAX_CLIENTS`` are remembered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """The number of failures and the time of the last failure, by address, oldest first."""

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str | None) -> float:
        """Return the seconds until the address may try again; 0 = now."""
        count, last = self._failures.get(_network(address), (0, 0.0))
        since = self._clock() - last
        if count < FREE_FAILURES or since > FORGET_AFTER:
            return 0.0
        pause = backoff(FIRST_PAUSE, LONGEST_PAUSE, count - FREE_FAILURES + 1)
        return max(0.0, pause - since)

    def failed(self, address: str | None) -> None:
        """Count a wrong password."""
        now = self._clock()
        count, last = self._failures.pop(_network(address), (0, now))
        self._failures[_network(address)] = (1 if now - last > FORGET_AFTER else count + 1, now)
        if len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)

    def succeeded(self, address: str | None) -> None:
        """Forget the address's failures."""
        self._failures.pop(_network(address), None)


def _network(address: str | None) -> str:
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.ip_network((ip, 64), strict=False))
        return str(ip.ipv4_mapped)
    return str(ip)


class AdminLogin:
    """Issues tokens for the password, and checks them.

    ``secret_file`` is created with the first token. ``now`` is the wall clock, ``clock`` a
    monotonic clock, both in seconds. The age of this process's own tokens is measured with
    ``clock``, because the wall clock of a machine without a battery may jump by decades.
    """

    def __init__(
        self,
        service: Service,
        secret_file: Path,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = _uptime,
    ) -> None:
        self._service = service
        self._secret_file = secret_file
        self._now = now
        self._clock = clock
        self._attempts = LoginAttempts(clock)
        self._signer: _Signer | None = None
        self._preparing = asyncio.Lock()
        self.process_token = secrets.token_urlsafe(32)
        """Valid until the process ends, with any password."""
        self._process_digest = digest_of(self.process_token)
        self._process_id = secrets.token_hex(8)

    async def check(self, headers: Mapping[str, str]) -> None:
        """Raise ``AdminLoginError`` unless a request may use the admin endpoints."""
        if not self._service.settings.admin_password:
            return
        token = bearer_token(headers)
        if token and not self._is_own(token):
            await self._prepare()
        if not self.admits(headers):
            raise AdminLoginError(
                "The login is invalid or has expired."
                if token
                else "This needs a login: admin_password is set.",
                hint="POST the password to /admin/login, and send the access_token that comes "
                "back as 'Authorization: Bearer TOKEN'.",
            )

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Check again whether a request may use the admin endpoints, after ``check``."""
        password = self._service.settings.admin_password
        token = bearer_token(headers)
        return not password or self._is_own(token) or self._is_valid(token, password)

    async def login(self, request: web.Request) -> web.Response:
        """Answer ``POST /admin/login``."""
        given = await read_json(request, Credentials, limit=_MAX_BODY)
        if not self._service.settings.admin_password:
            raise ConflictError("No admin_password is set, so nothing here needs a login.")
        signer = await self._prepare()
        # No await from here on, so that concurrent attempts are all counted.
        password = self._service.settings.admin_password
        pause = self._attempts.wait(request.remote)
        if pause > 0:
            error = TooManyLoginsError(
                "Too many logins from this address had a wrong password.",
                hint="Try again later; a command of the service's own user needs no login.",
            )
            error.retry_after = pause
            raise error
        if not hmac.compare_digest(digest_of(given.password), digest_of(password)):
            self._attempts.failed(request.remote)
            _logger.warning("a login from %s had a wrong password", request.remote)
            raise InvalidAdminPasswordError("The admin password is wrong.")
        self._attempts.succeeded(request.remote)
        answer = LoginRecord(
            access_token=signer.token(
                password, int(self._now()), process=self._process_id, clock=int(self._clock())
            ),
            expires_in=TOKEN_LIFETIME,
        )
        return json_answer(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    def _is_own(self, token: str) -> bool:
        return hmac.compare_digest(digest_of(token), self._process_digest)

    def _is_valid(self, token: str, password: str) -> bool:
        if self._signer is None or not token:
            return False
        claims = self._signer.claims(token, password)
        if claims is None:
            return False
        if claims.process == self._process_id:
            return 0 <= self._clock() - claims.clock < TOKEN_LIFETIME
        # A token from the future comes from a wrong clock, and would be valid for years.
        return claims.iat - _CLOCK_LEEWAY <= self._now() < claims.exp

    async def _prepare(self) -> _Signer:
        """Load the secret and the library, which a service without a password never needs."""
        async with self._preparing:
            if self._signer is None:
                self._signer = await asyncio.to_thread(self._make_signer)
            return self._signer

    def _make_signer(self) -> _Signer:
        try:
            return _Signer(kept_secret(self._secret_file))
        except OSError as error:
            _logger.warning(
                "cannot use %s (%s): logins end with the service",
                self._secret_file,
                error.strerror,
            )
            return _Signer(secrets.token_bytes(_SECRET_BYTES))


class _Claims(msgspec.Struct, frozen=True):
    """The claims of a token."""

    iat: int
    exp: int
    process: str = ""
    clock: int = 0


class _Signer:
    """Signs and verifies tokens. The constructor blocks, because it imports the library."""

    def __init__(self, secret: bytes) -> None:
        import jwt  # noqa: PLC0415 - needs memory, and more with 'cryptography'

        self._jwt = jwt
        self._secret = secret

    def token(self, password: str, now: int, *, process: str, clock: int) -> str:
        """Return a token valid from ``now`` (seconds since 1970) for ``TOKEN_LIFETIME``.

        ``process`` names the process that issues it, ``clock`` is its monotonic clock in seconds.
        """
        claims = {
            "sub": "admin",
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
            "process": process,
            "clock": clock,
        }
        return self._jwt.encode(claims, self._key(password), algorithm="HS256")

    def claims(self, token: str, password: str) -> _Claims | None:
        """Return the claims of a token, even if expired; ``None`` if the signature is not ours."""
        try:
            # The caller checks the times, with its own clocks.
            claims = self._jwt.decode(
                token,
                self._key(password),
                algorithms=["HS256"],
                options={"verify_exp": False, "verify_iat": False},
            )
            return msgspec.convert(claims, thread_safe(_Claims))
        except (self._jwt.InvalidTokenError, msgspec.ValidationError):
            return None

    def _key(self, password: str) -> bytes:
        return hmac.digest(
            self._secret, _PURPOSE + password.encode("utf-8", "surrogatepass"), "sha256"
        )


def kept_secret(path: Path) -> bytes:
    """Read the secret from a file. Create a new one if others could read it or there is none.

    Blocks. Raises ``OSError``.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        private = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077 == 0
        secret = file.read(_SECRET_BYTES + 1)
        if private and len(secret) == _SECRET_BYTES:
            return secret
    secret = secrets.token_bytes(_SECRET_BYTES)
    replace_file(path, secret, mode=0o600, flush=True)
    return secret
