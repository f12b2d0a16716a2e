"""Sends calls to the service: one HTTP client, its logins, and typed answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

import msgspec

from cyber_inference_tui.certificates import trusting
from cyber_inference_tui.client.answer_errors import error_from_answer
from cyber_inference_tui.client.service_url import is_loopback_url, tunnel
from cyber_inference_tui.client.tunnel import SshAddress, Tunnel
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import (
    AdminLoginError,
    CyberError,
    InvalidAdminPasswordError,
    InvalidApiKeyError,
    InvalidRequestError,
    NoServiceError,
)
from cyber_inference_tui.records import LoginRecord, endpoints, queries, to_json
from cyber_inference_tui.records.endpoints import Endpoint

if TYPE_CHECKING:
    import httpx
else:
    from cyber_inference_tui.client.lazy_httpx import httpx

T = TypeVar("T")
Q = TypeVar("Q")
B = TypeVar("B")
A = TypeVar("A")
Parameters = dict[str, str | list[str]]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_ADMIN_PATHS = ("/admin/", "/ws/")
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""The reasons of OpenSSL 1.1 to 3 when the answer is plain HTTP (``HTTP/1.1 400``)."""
_UNTRUSTED = "its certificate is not the known one, nor signed by an authority"
_PLAIN = "it speaks plain HTTP"
_TLS_HINTS = {
    _UNTRUSTED: "Start this program again: --attach asks about a certificate that is not known.",
    _PLAIN: "Begin the address with http:// (behind ssh, leave out tls=yes), or restart that "
    "service after setting tls_cert.",
}

Renew = Callable[[Any], Awaitable[bool]]
"""Gives the client that it is called with another token; ``False`` if it has none."""


class Transport:
    """Sends calls to the service at ``url``, or at the near end of ``tunnel``. Use it with
    ``async with``.

    A call that fails raises a ``CyberError``: the class for the code in the answer, or
    ``NoServiceError`` if nothing or another program answers. ``timeout`` is in seconds and limits
    each wait for bytes. Calls that wait for a model have a ``timeout`` of their own.

    With TLS, the service must have this ``certificate`` (PEM), or without it one that an authority
    signed. Calls of the admin API carry ``token``, all others carry ``api_key``. If the service
    wants a key and there is none, they carry ``token``: the service takes its own. If it requires
    a login, ``renew`` is called. It sets ``token`` or calls ``login``, and returns whether there
    is a new token; then the call is repeated. Otherwise ``AdminLoginError`` is raised, and the
    caller can ask for the password and call ``login``.
    """

    def __init__(
        self,
        url: str = "",
        *,
        tunnel: Tunnel | None = None,
        api_key: str = "",
        token: str = "",
        certificate: str = "",
        renew: Renew | None = None,
        timeout: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.tunnel = tunnel
        """The tunnel to the service; it is opened again if it broke, and closed with the client."""
        self.url = (tunnel.url if tunnel is not None else url).rstrip("/")
        self.place = str(tunnel.address) if tunnel is not None else self.url
        """The service's address as a person gives it."""
        self.token = token
        self.api_key = api_key
        self._renew = renew
        self._renewing = asyncio.Lock()
        # Model endpoints get the token only from a client whose service has asked for a key.
        self._token_is_key = False
        self.certificate = certificate
        self._seconds = timeout
        self._given_transport = transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if "_http" in self.__dict__:
                await self._http.aclose()
        finally:
            if self.tunnel is not None:
                await self.tunnel.aclose()

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        # Loading the certificates of all authorities is slow, and useless without TLS.
        secure = self.url.startswith("https:")
        return httpx.AsyncClient(
            base_url=self.url,
            timeout=self._limits(self._seconds),
            transport=self._given_transport,
            # Proxies in the environment are for the internet, not for the user's own service.
            trust_env=False,
            verify=trusting(self.certificate)
            if secure
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    async def reach(self, limit: float) -> None:
        """Raise ``NoServiceError`` if a program listens there but does not answer in time.

        Use it before a call that may take long. ``limit`` is in seconds. Any answer is enough. A
        refused connection passes too, because the call itself reports it.
        """
        await self._open_tunnel()
        try:
            async with asyncio.timeout(limit):
                with contextlib.suppress(httpx.TransportError, httpx.InvalidURL):
                    async with self._http.stream("GET", "/health"):
                        pass
        except TimeoutError:
            raise NoServiceError(
                f"What listens at {self.place} does not answer.",
                hint="Stop that program, or choose another address with --host and --port.",
            ) from None

    async def login(self, password: str) -> LoginRecord:
        """Log in, and keep the token for all later calls.

        Raises ``InvalidAdminPasswordError``, ``TooManyLoginsError`` (with ``retry_after``), or
        ``ConflictError`` if the service has no password.
        """
        answer = await self.call(endpoints.LOGIN, body=queries.Credentials(password))
        self.token = answer.access_token
        return answer

    async def call(
        self,
        endpoint: Endpoint[Q, B, A],
        name: str = "",
        *,
        query: Q | None = None,
        body: B | None = None,
        timeout: float | None = None,
    ) -> A:
        """Call an endpoint and return its answer. ``name`` is the parameter in the path.

        ``timeout`` (seconds) limits each wait for bytes of the answer.
        """
        answer, _ = await self.call_with_headers(
            endpoint, name, query=query, body=body, timeout=timeout
        )
        return answer

    async def call_with_headers(
        self,
        endpoint: Endpoint[Q, B, A],
        name: str = "",
        *,
        query: Q | None = None,
        body: B | None = None,
        timeout: float | None = None,
    ) -> tuple[A, Mapping[str, str]]:
        """Call an endpoint and return its answer and headers; see ``call``."""
        prefix, brace, rest = endpoint.path.partition("{")
        path = prefix + quote(name, safe="") + rest.partition("}")[2] if brace else prefix
        # The service accepts a write only as JSON, even one without content.
        empty: dict[str, Any] | None = None if endpoint.method in {"GET", "DELETE"} else {}
        content = empty if body is None else msgspec.to_builtins(body)
        options: dict[str, Any] = {} if content is None else {"json": content}
        async with self.stream(
            endpoint.method, path, timeout=timeout, params=parameters(query), **options
        ) as response:
            data = await self._read(response)
        if endpoint.answer is str:
            data = to_json(data.decode("utf-8", "replace"))
        try:
            answer = msgspec.json.decode(data, type=thread_safe(endpoint.answer))
        except msgspec.MsgspecError as error:
            raise self.not_our_service(
                f"its answer to {endpoint.method} {path} cannot be decoded: {error}"
            ) from error
        return answer, response.headers

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, timeout: float | None = None, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield its answer, whose body is not read yet.

        Logs in again at most once. Raises the ``CyberError`` of an answer with a status of 400 or
        more, and ``NoServiceError`` for a connection that fails, while the body is read as well.
        """
        options["timeout"] = self._limits(self._seconds if timeout is None else timeout)
        token = self.token
        try:
            try:
                response = await self._send(method, path, options)
            except InvalidAdminPasswordError:
                raise
            except (AdminLoginError, InvalidApiKeyError) as error:
                wants_key = isinstance(error, InvalidApiKeyError)
                if wants_key and (self.api_key or self._token_is_key):
                    raise
                self._token_is_key = self._token_is_key or wants_key
                has_token = bool(wants_key and token)
                if not has_token and (
                    self._renew is None or not await self._renewed(self._renew, token)
                ):
                    raise
                response = await self._send(method, path, options)
            try:
                yield response
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise NoServiceError(
                f"The service at {self.place} broke off its answer ({failure_reason(error)}).",
                hint="See the end of its log.",
            ) from error

    async def _renewed(self, renew: Renew, old: str) -> bool:
        async with self._renewing:
            # If several calls were refused at once, the first one gets the token for all.
            return self.token != old or await renew(self)

    async def _send(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        await self._open_tunnel()
        headers = {**self._authorization(path), **options.get("headers", {})}
        try:
            http = self._http
            try:
                request = http.build_request(method, path, **{**options, "headers": headers})
            except (httpx.InvalidURL, ValueError) as error:
                # Of a text in the path, the query or the body, not of the service's address.
                raise InvalidRequestError(
                    "This text cannot be sent to the service.", hint="Shorten or simplify it."
                ) from error
            response = await http.send(request, stream=True)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise NoServiceError(f"{self.url!r} is not the address of a service.") from error
        except httpx.ReadTimeout as error:
            raise NoServiceError(
                f"The service at {self.place} did not answer {method} {path} in time.",
                hint="Try again; if it hangs, the end of its log may say why.",
            ) from error
        except httpx.TransportError as error:
            reason = failure_reason(error)
            hint = _TLS_HINTS.get(reason) or self._way_out()
            raise NoServiceError(
                f"No service answers at {self.place} ({reason}).", hint=hint
            ) from error
        if response.status_code < 400:
            return response
        try:
            body = await self._read(response)
        finally:
            await response.aclose()
        raise error_from_answer(self.place, response.status_code, response.headers, body)

    async def _open_tunnel(self) -> None:
        if self.tunnel is not None:
            await self.tunnel.ready()

    def _way_out(self) -> str:
        if self.tunnel is not None:
            return f"The tunnel is open. Does it run there, on port {self.tunnel.address.port}?"
        if is_loopback_url(self.url):
            return "Start one with 'cyber-inference-tui serve'."
        if self.url.startswith("http:"):
            address = SshAddress.of_url(self.url).quoted
            return f"If it runs there, --attach {address} reaches it by ssh."
        command, near = tunnel(self.url)
        return f"If it runs there, open a tunnel with '{command}', and use {near}."

    def _authorization(self, path: str) -> dict[str, str]:
        if path == endpoints.LOGIN.path:
            return {}
        secret = self.token
        if not path.startswith(_ADMIN_PATHS) and not self._token_is_key:
            secret = self.api_key
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    def _limits(self, read: float) -> httpx.Timeout:
        return httpx.Timeout(self._seconds, connect=min(self._seconds, 5.0), read=read)

    async def _read(self, response: httpx.Response) -> bytes:
        parts = bytearray()
        async for chunk in response.aiter_bytes():
            parts += chunk
            if len(parts) > MAX_ANSWER_BYTES:
                raise CyberError(f"The answer of {self.place} exceeds {MAX_ANSWER_BYTES} bytes.")
        return bytes(parts)

    def not_our_service(self, why: str) -> NoServiceError:
        """Return the error for an answer that no service of this version gives."""
        return NoServiceError(
            f"The program at {self.place} is not a service of this version: {why}.",
            hint="Check --host and --port, and that both have the same version.",
        )


def parameters(query: Any) -> Parameters:
    """Return the fields of a struct as query parameters, without those that have their default."""
    if query is None:
        return {}
    chosen: Parameters = {}
    for field in msgspec.structs.fields(query):
        value = getattr(query, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            value = "1" if value else "0"
        elif isinstance(value, datetime):
            value = value.isoformat()
        chosen[field.encode_name] = list(value) if isinstance(value, tuple) else str(value)
    return chosen


def failure_reason(error: httpx.TransportError) -> str:
    """Return why a connection failed, in a few words. httpx's own messages name its internals."""
    if isinstance(error, httpx.TimeoutException):
        return "timed out"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _UNTRUSTED
        if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            return _PLAIN
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror.lower()
            # asyncio's message has an address and no reason.
            if cause.errno and text.startswith("connect call"):
                return os.strerror(cause.errno).lower()
            return text
        if isinstance(cause, BaseExceptionGroup) and cause.exceptions:
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    text = str(error).lower().rstrip(".")
    return "connection refused" if "all connection attempts failed" in text else text or "closed"
