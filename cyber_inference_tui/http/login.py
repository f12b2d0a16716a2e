"""The admin login: exchanges the password for a token, and checks the tokens of requests.

In addition to the tokens of logins (``login_tokens``), the token of the process is valid until the
process ends. It is written to the runtime file, for commands of the same user.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from cyber_inference_tui.cancellation import to_its_end
from cyber_inference_tui.errors import (
    AdminLoginError,
    ConflictError,
    InvalidAdminPasswordError,
    StorageError,
    TooManyLoginsError,
)
from cyber_inference_tui.http.access import bearer_token, client_address
from cyber_inference_tui.http.json_io import json_answer, read_json
from cyber_inference_tui.http.login_attempts import LoginAttempts
from cyber_inference_tui.http.login_tokens import TOKEN_LIFETIME, Claims, LoginTokens
from cyber_inference_tui.records import LoginRecord, LogoutRecord
from cyber_inference_tui.records.queries import Credentials, Nothing
from cyber_inference_tui.service.audit_log import Caller
from cyber_inference_tui.settings.credentials import digest_of
from cyber_inference_tui.settings.password_hash import matches
from cyber_inference_tui.storage import Storages

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

LOGIN_FILE = "login.secret"
"""The file of the secret, in the data directory."""
MAX_WAITING = 32
"""Logins that may wait while the password of another is compared."""

_MAX_BODY = 4096
_CLOCK_LEEWAY = 300
"""Seconds by which an earlier process's token may be from the future, for adjusted clocks."""

_logger = logging.getLogger(__name__)


def _uptime() -> float:
    """Return the seconds of a clock that is never set and runs while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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
        self._waiting = 0
        self._comparing = asyncio.Lock()
        self._tokens: LoginTokens | None = None
        self._loading = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._storages = Storages()
        self.process_token = secrets.token_urlsafe(32)
        """Valid until the process ends, with any password."""
        self._process_digest = digest_of(self.process_token)
        self._process_id = secrets.token_hex(8)

    async def check(self, headers: Mapping[str, str]) -> str:
        """Return who sends a request to the admin endpoints, for the audit log.

        Raises ``AdminLoginError`` if the request may not use them.
        """
        token = bearer_token(headers)
        if token and not self._is_own(token) and self._service.settings.admin_password:
            await self._prepare()
        if (who := self._sender(token)) is None:
            raise AdminLoginError(
                "The login is invalid or has ended."
                if token
                else "This needs a login: admin_password is set.",
                hint="POST the password to /admin/login, and send the access_token that comes "
                "back as 'Authorization: Bearer TOKEN'.",
            )
        return who

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Check again whether a request may use the admin endpoints, after ``check``."""
        return self._sender(bearer_token(headers)) is not None

    def _sender(self, token: str) -> str | None:
        """Return who has the token, if that opens the admin endpoints."""
        if self._is_own(token):
            return "service token"
        if not self._service.settings.admin_password:
            return "no login"
        login = self._login_of(token)
        return None if login is None else _named(login.jti)

    def is_owner(self, headers: Mapping[str, str]) -> bool:
        """Check whether a request comes from the owner, also where no login is needed.

        After ``check``. The owner has logged in, or has the token of the process.
        """
        if self._service.settings.admin_password:
            return self.admits(headers)
        return self._is_own(bearer_token(headers))

    async def login(self, request: web.Request) -> web.Response:
        """Answer ``POST /admin/login``."""
        given = await read_json(request, Credentials, limit=_MAX_BODY)
        self._stored_password()
        client = client_address(request)
        self._check_pause(client)
        tokens = await self._prepare()
        if self._waiting >= MAX_WAITING:
            raise _too_many("Too many clients log in at the same time.", 1.0)
        self._waiting += 1
        try:
            # One after another: so all attempts are counted, and they cannot use up the memory.
            async with self._comparing:
                # To its end: a client that leaves early has tried, too.
                password = await to_its_end(self._compared(given.password, client))
        finally:
            self._waiting -= 1
        token, token_id = tokens.issue(
            password, int(self._now()), process=self._process_id, clock=int(self._clock())
        )
        await self._service.audit.note("login", Caller(_named(token_id), client))
        answer = LoginRecord(access_token=token, expires_in=TOKEN_LIFETIME)
        return json_answer(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def logout(self, request: web.Request) -> web.Response:
        """Answer ``POST /admin/logout``: end the login whose token the request has."""
        await read_json(request, Nothing, limit=_MAX_BODY)
        login = self._login_of(bearer_token(request.headers))
        if login is None:
            raise ConflictError(
                "This request has no login that could end.",
                hint="Send the access_token of a login; the token in service.json ends with the "
                "service.",
            )
        await to_its_end(self._end(login.jti))
        return json_answer(LogoutRecord())

    async def _end(self, token_id: str) -> None:
        tokens = await self._prepare()
        tokens.end(token_id)
        async with self._saving:
            try:
                await self._storages.ask_async(self._secret_file.parent, tokens.save)
            except (OSError, StorageError) as error:
                _logger.warning(
                    "%s cannot be written (%s): the login that was ended would be valid again "
                    "after a restart of the service",
                    self._secret_file.parent,
                    error,
                )
        await self._service.audit.note("logout")

    def _stored_password(self) -> str:
        """Return the password, or a hash of it, that is in force."""
        if not (password := self._service.settings.admin_password):
            raise ConflictError("No admin_password is set, so nothing here needs a login.")
        return password

    def _check_pause(self, address: str | None) -> None:
        if (pause := self._attempts.wait(address)) > 0:
            raise _too_many("Too many logins from this address had a wrong password.", pause)

    async def _compared(self, given: str, address: str | None) -> str:
        """Return the stored password if it is the given one, and else count a wrong password."""
        password = self._stored_password()
        # Again, after the wait for others from this address.
        self._check_pause(address)
        if not await asyncio.to_thread(matches, given, password):
            self._attempts.failed(address)
            _logger.warning("a login from %s had a wrong password", address)
            await self._service.audit.note("login_failed", Caller("no login", address))
            raise InvalidAdminPasswordError("The admin password is wrong.")
        self._attempts.succeeded(address)
        return password

    def _is_own(self, token: str) -> bool:
        return hmac.compare_digest(digest_of(token), self._process_digest)

    def _login_of(self, token: str) -> Claims | None:
        """Return the claims of a login's token that is valid now."""
        password = self._service.settings.admin_password
        if self._tokens is None or not token or not password:
            return None
        claims = self._tokens.claims(token, password)
        if claims is None:
            return None
        if claims.process == self._process_id:
            is_valid = 0 <= self._clock() - claims.clock < TOKEN_LIFETIME
        else:
            # A token from the future comes from a wrong clock, and would be valid for years.
            is_valid = claims.iat - _CLOCK_LEEWAY <= self._now() < claims.exp
        return claims if is_valid else None

    async def _prepare(self) -> LoginTokens:
        """Load the secret and the library, which a service without a password never needs."""
        if self._tokens is None:
            async with self._loading:
                if self._tokens is None:
                    self._tokens = await asyncio.to_thread(LoginTokens, self._secret_file)
        return self._tokens


def _named(token_id: str) -> str:
    return f"login {token_id}"


def _too_many(message: str, pause: float) -> TooManyLoginsError:
    error = TooManyLoginsError(
        message, hint="Try again later; a command of the service's own user needs no login."
    )
    error.retry_after = pause
    return error
