"""The program's errors: each has a stable code, an HTTP status, an exit code and a sentence.

The command line prints ``message`` and ``hint``, the HTTP layer sends it in the shape that the
client expects, and logs show it. Nothing else is raised on purpose for a user to read::

    CyberError
    ├── InvalidRequestError            the request
    ├── ModelNotFoundError
    ├── NotFoundError
    ├── MethodNotAllowedError
    ├── ConflictError
    ├── UnsupportedMediaTypeError
    ├── RequestTimeoutError
    ├── RequestTooLargeError
    ├── BodyMemoryError
    ├── TooManyConnectionsError
    ├── InvalidApiKeyError             access
    ├── ModelNotAllowedError
    ├── RateLimitedError
    ├── AdminLoginError
    │   ├── InvalidAdminPasswordError
    │   └── GuardedSettingError
    ├── TooManyLoginsError
    ├── ForbiddenHostError
    │   ├── ForbiddenOriginError
    │   └── ForbiddenProxyError
    ├── QueueFullError                 models and their servers
    ├── QueueTimeoutError
    ├── ModelLoadError
    ├── InsufficientMemoryError
    ├── NoLlamaServerError
    ├── UpstreamError
    ├── GGUFError
    ├── ShuttingDownError              the service
    ├── NoServiceError
    ├── ConfigError
    │   └── ConfigWriteError
    ├── StorageError
    ├── DiskFullError
    ├── InstallError                   getting a llama-server
    │   ├── UnusableBuildError
    │   └── BuildError
    └── HubError                       the model hub
        ├── HubUnreachableError
        ├── HubAnswerError
        ├── HubRateLimitError
        ├── HubGatedError
        ├── HubTokenError
        ├── HubNotFoundError
        └── DamagedDownloadError
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

_PASSING = frozenset({408, 409, 429})
"""Statuses below 500 of failures that may pass: a timeout, a conflict, too many requests."""
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class CyberError(Exception):
    """Base of all errors a person may read.

    ``message`` is one plain sentence that names what is wrong; ``hint`` (may be empty) says the
    way out. ``code`` is the machine-readable name, ``status`` the HTTP status, ``type`` OpenAI's
    error family, which follows from the status, and ``exit_code`` that of the command line.
    A subclass names what differs from its base in its class statement.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1

    retry_after: float | None = None
    """Seconds after which another try may succeed, if known."""
    needs_person: bool = False
    """The same request fails until somebody changes something, whatever its status suggests."""

    def __init_subclass__(cls, *, status: int = 0, **differing: Any) -> None:
        super().__init_subclass__()
        if status:
            cls.status = status
            client = "invalid_request_error" if status < 500 else "server_error"
            cls.type = _TYPES.get(status, client)
        for name, value in differing.items():
            setattr(cls, name, value)

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    @property
    def permanent(self) -> bool:
        """True if sending the same request again cannot succeed."""
        return self.needs_person or (400 <= self.status < 500 and self.status not in _PASSING)


# The request


class InvalidRequestError(CyberError, code="invalid_request_error", status=400, exit_code=2):
    """The request itself is wrong: broken JSON, a wrong type, no model named."""


class ModelNotFoundError(CyberError, code="model_not_found", status=404, exit_code=4):
    """No local model has this id or alias, ``name``."""

    def __init__(
        self, message: str, *, hint: str = "", param: str | None = None, name: str = ""
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.name = name


class NotFoundError(CyberError, code="not_found", status=404, exit_code=4):
    """A path, key or other named thing does not exist."""


class MethodNotAllowedError(CyberError, code="method_not_allowed", status=405):
    """The path exists, but not for this HTTP method; ``allow`` lists those it exists for."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.allow = allow


class ConflictError(CyberError, code="conflict", status=409):
    """The request conflicts with the present state (a second service, a loaded model)."""


class UnsupportedMediaTypeError(CyberError, code="unsupported_media_type", status=415):
    """An admin write that is not ``application/json``, or an unknown content coding."""


class RequestTimeoutError(CyberError, code="request_timeout", status=408):
    """The client began a request and stopped sending it."""


class RequestTooLargeError(CyberError, code="request_too_large", status=413):
    """The body is larger than ``max_body_size``."""


class BodyMemoryError(CyberError, code="body_memory_full", status=503, retry_after=1.0):
    """The bodies of all requests take ``max_body_memory`` already."""


class TooManyConnectionsError(CyberError, code="too_many_connections", status=503, retry_after=1.0):
    """As many clients are connected as may be, in all or from one address."""


# Access


class InvalidApiKeyError(CyberError, code="invalid_api_key", status=401):
    """The service has API keys, and the request carries none of them, or one that has expired."""


class ModelNotAllowedError(CyberError, code="model_not_allowed", status=403):
    """The request's API key is for other models."""


class RateLimitedError(CyberError, code="rate_limited", status=429):
    """The request's API key has used up a limit; ``left`` has the headers that say what is left."""

    left: Mapping[str, str] = MappingProxyType({})


class AdminLoginError(CyberError, code="admin_login_required", status=401):
    """``admin_password`` is set and the request carries no valid token: log in."""


class InvalidAdminPasswordError(AdminLoginError, code="invalid_admin_password"):
    """A login with another password than ``admin_password``."""


class GuardedSettingError(AdminLoginError, code="guarded_setting"):
    """Only the service's owner may change this setting, even where the admin API needs no login."""


class TooManyLoginsError(CyberError, code="too_many_logins", status=429):
    """Too many logins from one address had a wrong password; it has to wait."""


class ForbiddenHostError(CyberError, code="forbidden_host", status=403):
    """This service does not answer to the request's ``Host`` or ``Origin``."""


class ForbiddenOriginError(ForbiddenHostError, code="forbidden_origin"):
    """A web page of another site made the browser send the request."""


class ForbiddenProxyError(ForbiddenHostError, code="forbidden_proxy"):
    """The request came through a proxy, and the service asks its clients for no key."""


class ForbiddenPairingError(CyberError, code="forbidden_pairing", status=403):
    """Another box may not pair: this one waits for none, or the code is wrong."""


class PeerRightsError(CyberError, code="peer_not_allowed", status=403):
    """Another box asks for more than its role allows."""


class PeerError(CyberError, code="peer_failed", status=502):
    """Another box does not answer, or not as one."""


class PeerBusyError(PeerError, code="peer_busy", status=503, retry_after=5.0):
    """Another box has too much to do, or could not load the model."""


class FileNotReadyError(CyberError, code="file_not_ready", status=503, retry_after=2.0):
    """Another box asks for a file that this one hashes, or while it sends others."""


# Models and their servers


class QueueFullError(CyberError, code="queue_full", status=429):
    """``max_queue`` requests wait for this model already."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueTimeoutError(CyberError, code="queue_timeout", status=503):
    """The request waited ``queue_timeout`` seconds in vain."""


class ModelLoadError(CyberError, code="model_load_failed", status=503):
    """The model's server did not start, or ended.

    ``log_tail`` holds its last lines (plain text). ``out_of_memory``: it wanted more memory than
    there was, and may start once there is more. ``needs_person``: it will not start before
    somebody changes its files, its settings or its program. ``server_exit``: the exit code of its
    server, if it ended (negative = the signal that ended it).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        log_tail: tuple[str, ...] = (),
        out_of_memory: bool = False,
        needs_person: bool = False,
        server_exit: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail
        self.server_exit = server_exit
        self.out_of_memory = out_of_memory
        self.needs_person = needs_person


class InsufficientMemoryError(
    CyberError, code="insufficient_memory", status=503, needs_person=True
):
    """The model does not fit into memory, however many others are unloaded for it."""


class NoLlamaServerError(
    CyberError, code="model_load_failed", status=503, exit_code=6, needs_person=True
):
    """No usable ``llama-server`` was found."""


class UpstreamError(CyberError, code="upstream_failed", status=502):
    """The model's server died or hung while it had the request."""


class GGUFError(CyberError, code="unreadable_model", status=400, type="server_error"):
    """A file is not a readable GGUF model: truncated, hostile or of an unknown version."""


# The service


class ShuttingDownError(CyberError, code="shutting_down", status=503):
    """The service is stopping and takes no new work."""


class NoServiceError(CyberError, code="no_service", exit_code=3):
    """No service answers at the configured address."""


class NoServiceThereError(CyberError, code="no_service", exit_code=3):
    """No service answers at the address of ``--attach``, and nothing here can stand in for it."""


class ConfigError(CyberError, code="config_invalid", status=400, exit_code=5):
    """The configuration is invalid; the message lists every mistake, one a line."""


class ConfigWriteError(ConfigError, code="config_not_written", status=409, exit_code=1):
    """The configuration file cannot be written; the change itself is valid."""


class ChangedCertificateError(CyberError, code="certificate_changed"):
    """A service elsewhere shows another certificate than before."""


class StorageError(CyberError, code="storage_silent", status=503):
    """A folder's disk or network mount does not answer."""


class DiskFullError(CyberError, code="disk_full", status=507, needs_person=True):
    """A disk has not enough free space."""


# Getting a llama-server


class InstallError(CyberError, code="install_failed"):
    """A ``llama-server`` could not be fetched or installed; the one installed before stays."""


class UnusableBuildError(InstallError, code="install_unusable"):
    """The fetched ``llama-server`` does not run on this machine."""


class BuildError(InstallError, code="build_failed"):
    """llama-server could not be compiled; ``log_tail`` holds the last lines of the build."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        log_tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.log_tail = log_tail


# The model hub


class HubError(CyberError, code="hub_failed", status=502):
    """The model hub failed, or what it sends is unusable."""

    passing: ClassVar[bool] = False
    """Another try after a while may succeed."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.retry_after = retry_after


class HubUnreachableError(HubError, code="hub_unreachable", passing=True):
    """The hub cannot be reached, closed the connection, or failed itself."""


class HubAnswerError(HubError):
    """An answer that does not match the question, or the hub's own list of files."""


class HubRateLimitError(HubError, code="hub_rate_limited", status=429, passing=True):
    """The hub wants fewer requests from this address or token."""


class HubGatedError(HubError, code="hub_gated", status=403):
    """The model's licence has to be accepted first, or access to be granted."""


class HubTokenError(HubError, code="hub_token_invalid", status=403):
    """The hub does not know the token."""


class HubNotFoundError(HubError, code="hub_not_found", status=404, exit_code=4):
    """The hub has no such repository, version or file, or does not show it."""


class DamagedDownloadError(HubError, code="download_damaged"):
    """The downloaded file does not have the digest that the hub lists."""
