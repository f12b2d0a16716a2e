"""The admin login: a password for a token that expires, and who may use the admin endpoints.

A token is a JWT (RFC 7519), signed by HS256 with a key made of a secret of the data directory and
the password: another password makes all tokens worthless. Besides, there is one token that is
good as long as the process lives; it is written down for commands of the same user.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
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
from cyber_inference_tui.http.json_io import json_answer, read_json
from cyber_inference_tui.records import LoginRecord
from cyber_inference_tui.records.queries import Credentials

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

LOGIN_FILE = "login.secret"
"""Its name in the data directory."""
TOKEN_LIFETIME = 12 * 3600
"""Seconds until one has to log in anew."""

FREE_FAILURES = 5
"""Wrong passwords that an address may send without a pause."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
FORGET_AFTER = 900.0
"""Seconds after which an address that sent wrong passwords is an address like any other."""
MAX_CLIENTS = 1024

_SECRET_BYTES = 32
_MAX_BODY = 4096
_CLOCK_LEEWAY = 300
"""Seconds by which a token of an earlier process may be from the future: clocks are adjusted."""
_PURPOSE = b"cyber-inference admin login\0"

_logger = logging.getLogger(__name__)


def _uptime() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LoginAttempts:
    """How long an address has to wait after wrong passwords: nothing, then 1, 2, 4 … 60 s.

    An IPv6 address counts for its network of 64 bits, which is what one customer has. At most
    ``MAX_CLIENTS`` are remembered, the newest ones.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Number of failures and the time of the last one, by address; the oldest first."""

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str | None) -> float:
        """Seconds until the address may try again; 0 = now."""
        count, last = self._failures.get(_network(address), (0, 0.0))
        since = self._clock() - last
        if count < FREE_FAILURES or since > FORGET_AFTER:
            return 0.0
        pause = backoff(FIRST_PAUSE, LONGEST_PAUSE, count - FREE_FAILURES + 1)
        return max(0.0, pause - since)

    def failed(self, address: str | None) -> None:
        """The address sent a wrong password."""
        now = self._clock()
        count, last = self._failures.pop(_network(address), (0, now))
        self._failures[_network(address)] = (1 if now - last > FORGET_AFTER else count + 1, now)
        if len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)

    def succeeded(self, address: str | None) -> None:
        """The address knows the password."""
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
    """Gives tokens for the password, and knows its own.

    ``secret_file`` is made when the first token is. ``now`` is the wall clock, ``clock`` one that
    never jumps, both in seconds. The age of this process's own tokens is taken from ``clock``: the
    wall clock of a machine without a battery may jump by decades once it is set.
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
        """Good until the process ends, whatever the password."""
        self._process_digest = _digest(self.process_token)
        self._process_id = secrets.token_hex(8)

    async def check(self, headers: Mapping[str, str]) -> None:
        """Let a request to an admin endpoint pass, or raise ``AdminLoginError``."""
        if not self._service.settings.admin_password:
            return
        token = _bearer(headers)
        if token and not self._is_own(token):
            await self._prepare()
        if not self.admits(headers):
            raise AdminLoginError(
                "The login is not valid, or no longer."
                if token
                else "This needs a login: admin_password is set.",
                hint="POST the password to /admin/login, and send the access_token that comes "
                "back as 'Authorization: Bearer TOKEN'.",
            )

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that passed ``check`` would pass it again now."""
        password = self._service.settings.admin_password
        token = _bearer(headers)
        return not password or self._is_own(token) or self._is_valid(token, password)

    async def login(self, request: web.Request) -> web.Response:
        """``POST /admin/login``."""
        given = await read_json(request, Credentials, limit=_MAX_BODY)
        if not self._service.settings.admin_password:
            raise ConflictError("No admin_password is set, so nothing here needs a login.")
        signer = await self._prepare()
        # From here on nothing is awaited: many attempts at once count as many.
        password = self._service.settings.admin_password
        pause = self._attempts.wait(request.remote)
        if pause > 0:
            error = TooManyLoginsError(
                "Too many logins from this address had a wrong password.",
                hint="Try again later; a command of the service's own user needs no login.",
            )
            error.retry_after = pause
            raise error
        if not hmac.compare_digest(_digest(given.password), _digest(password)):
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
        return hmac.compare_digest(_digest(token), self._process_digest)

    def _is_valid(self, token: str, password: str) -> bool:
        if self._signer is None or not token:
            return False
        claims = self._signer.claims(token, password)
        if claims is None:
            return False
        if claims.process == self._process_id:
            return 0 <= self._clock() - claims.clock < TOKEN_LIFETIME
        # One from the future was given by a clock that was wrong, and would be good for years.
        return claims.iat - _CLOCK_LEEWAY <= self._now() < claims.exp

    async def _prepare(self) -> _Signer:
        """Have the secret and the library; a service without a password needs neither."""
        async with self._preparing:
            if self._signer is None:
                self._signer = await asyncio.to_thread(self._make_signer)
            return self._signer

    def _make_signer(self) -> _Signer:
        try:
            return _Signer(kept_secret(self._secret_file))
        except OSError as error:
            _logger.warning(
                "%s cannot be used (%s): logins last until the service ends",
                self._secret_file,
                error.strerror,
            )
            return _Signer(secrets.token_bytes(_SECRET_BYTES))


class _Claims(msgspec.Struct, frozen=True):
    """What a token says."""

    iat: int
    exp: int
    process: str = ""
    clock: int = 0


class _Signer:
    """Signs tokens and reads them back; making one imports the library for it (blocking)."""

    def __init__(self, secret: bytes) -> None:
        import jwt  # noqa: PLC0415 - takes memory, more still where it finds 'cryptography'

        self._jwt = jwt
        self._secret = secret

    def token(self, password: str, now: int, *, process: str, clock: int) -> str:
        """A token that is good from ``now`` (seconds since 1970) on, for ``TOKEN_LIFETIME``.

        ``process`` names the process that gives it, ``clock`` is its monotonic clock in seconds.
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
        """What the token says, expired or not; ``None`` if it is none of ours."""
        try:
            # Whoever asks compares the time, by a clock that may be passed in.
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
        return hmac.digest(self._secret, _PURPOSE + _bytes(password), "sha256")


def kept_secret(path: Path) -> bytes:
    """The secret in a file; a new one where there is none that only its owner could read.

    Blocks. Raises ``OSError``.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        private = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077 == 0
        secret = file.read(_SECRET_BYTES + 1)
        if private and len(secret) == _SECRET_BYTES:
            return secret
    secret = secrets.token_bytes(_SECRET_BYTES)
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return secret


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _bytes(text: str) -> bytes:
    # Header values carry bytes that are not UTF-8 as surrogates.
    return text.encode("utf-8", "surrogatepass")


def _digest(text: str) -> bytes:
    return hashlib.sha256(_bytes(text)).digest()
