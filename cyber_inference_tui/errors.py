"""The program's errors: each has a stable code, an HTTP status, an exit code and a sentence.

The command line prints ``message`` (and ``hint``), the HTTP layer renders it in the shape the
client expects, and logs show it. Nothing else is raised on purpose for a user to read.
"""

from __future__ import annotations

from typing import ClassVar

_PASSING = frozenset({408, 409, 429})
"""Statuses below 500 of what may be over by itself: silence, a conflict, too many requests."""


class CyberError(Exception):
    """Base of all errors a person may read.

    ``message`` is one plain sentence that names what is wrong; ``hint`` (may be empty) says the
    way out. ``code`` is the machine-readable name, ``status`` the HTTP status, ``type`` OpenAI's
    error family, ``exit_code`` what the command line ends with.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1

    retry_after: float | None = None
    """Seconds after which another try may succeed, where that is known."""
    needs_person: bool = False
    """Whether the same request fails until somebody changes something, though its status is one
    of a passing failure."""

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    @property
    def permanent(self) -> bool:
        """Whether sending the same request again cannot cure it."""
        return self.needs_person or (400 <= self.status < 500 and self.status not in _PASSING)


class InvalidRequestError(CyberError):
    """The request itself is wrong: broken JSON, a wrong type, no model named."""

    code = "invalid_request_error"
    status = 400
    type = "invalid_request_error"
    exit_code = 2


class ModelNotFoundError(CyberError):
    """No local model has this id or alias, ``name``."""

    code = "model_not_found"
    status = 404
    type = "invalid_request_error"
    exit_code = 4

    def __init__(
        self, message: str, *, hint: str = "", param: str | None = None, name: str = ""
    ) -> None:
        super().__init__(message, hint=hint, param=param)
        self.name = name


class NotFoundError(CyberError):
    """A path, key or other named thing does not exist."""

    code = "not_found"
    status = 404
    type = "invalid_request_error"
    exit_code = 4


class MethodNotAllowedError(CyberError):
    """The path exists, the HTTP method does not go with it."""

    code = "method_not_allowed"
    status = 405
    type = "invalid_request_error"

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
        """The methods that do go with it."""


class ConflictError(CyberError):
    """What was asked does not go with the present state (a second service, a loaded model)."""

    code = "conflict"
    status = 409
    type = "invalid_request_error"


class InvalidApiKeyError(CyberError):
    """``api_keys`` is set and the request carries none of them."""

    code = "invalid_api_key"
    status = 401
    type = "authentication_error"


class AdminLoginError(CyberError):
    """``admin_password`` is set, and the request carries no token (or an old one): log in."""

    code = "admin_login_required"
    status = 401
    type = "authentication_error"


class InvalidAdminPasswordError(AdminLoginError):
    """A login with another password than ``admin_password``."""

    code = "invalid_admin_password"


class TooManyLoginsError(CyberError):
    """Too many logins from one address had a wrong password; it has to wait."""

    code = "too_many_logins"
    status = 429
    type = "rate_limit_error"


class ForbiddenHostError(CyberError):
    """The ``Host`` (or the ``Origin``) is not one this service answers to."""

    code = "forbidden_host"
    status = 403
    type = "permission_error"


class ForbiddenOriginError(ForbiddenHostError):
    """A web page from another site asked for something only the owner's pages may have."""

    code = "forbidden_origin"


class UnsupportedMediaTypeError(CyberError):
    """An admin write that is not ``application/json``, or a content coding that is not known."""

    code = "unsupported_media_type"
    status = 415
    type = "invalid_request_error"


class RequestTimeoutError(CyberError):
    """The client began a request and stopped sending it."""

    code = "request_timeout"
    status = 408
    type = "invalid_request_error"


class RequestTooLargeError(CyberError):
    """The body is larger than ``max_body_size``."""

    code = "request_too_large"
    status = 413
    type = "invalid_request_error"


class TooManyConnectionsError(CyberError):
    """As many clients are being answered as the limit of open files allows."""

    code = "too_many_connections"
    status = 503
    type = "server_error"
    retry_after = 1.0


class QueueFullError(CyberError):
    """``max_queue`` requests wait for this model already."""

    code = "queue_full"
    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelLoadError(CyberError):
    """The model's server did not come up, or did not stay.

    ``log_tail`` holds its last lines (plain text); ``out_of_memory`` = it wanted more memory than
    there was, so that it may come up once there is more; ``needs_person`` = it will not come up
    before somebody changes its files, its settings or its program.
    """

    code = "model_load_failed"
    status = 503
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        log_tail: tuple[str, ...] = (),
        out_of_memory: bool = False,
        needs_person: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail
        self.out_of_memory = out_of_memory
        self.needs_person = needs_person


class InsufficientMemoryError(CyberError):
    """The model does not fit into memory, however many others are unloaded for it."""

    code = "insufficient_memory"
    status = 503
    type = "server_error"
    needs_person = True


class QueueTimeoutError(CyberError):
    """The request waited ``queue_timeout`` seconds in vain."""

    code = "queue_timeout"
    status = 503
    type = "server_error"


class ShuttingDownError(CyberError):
    """The service is stopping and takes no new work."""

    code = "shutting_down"
    status = 503
    type = "server_error"


class UpstreamError(CyberError):
    """The model's server died or hung while it had the request."""

    code = "upstream_failed"
    status = 502
    type = "server_error"


class NoServiceError(CyberError):
    """No service answers at the configured address."""

    code = "no_service"
    exit_code = 3


class ConfigError(CyberError):
    """The configuration is invalid; the message lists every mistake, one a line."""

    code = "config_invalid"
    status = 400
    type = "invalid_request_error"
    exit_code = 5


class ConfigWriteError(ConfigError):
    """The configuration file cannot be written; nothing is wrong with what was asked."""

    code = "config_not_written"
    status = 409
    exit_code = 1


class NoLlamaServerError(CyberError):
    """No usable ``llama-server`` was found."""

    code = "model_load_failed"
    status = 503
    exit_code = 6
    needs_person = True


class InstallError(CyberError):
    """A ``llama-server`` could not be fetched or installed; what was installed before stays."""

    code = "install_failed"


class UnusableBuildError(InstallError):
    """The fetched ``llama-server`` does not run on this machine."""

    code = "install_unusable"


class BuildError(InstallError):
    """llama-server could not be compiled; ``log_tail`` holds the last lines of the build."""

    code = "build_failed"

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


class GGUFError(CyberError):
    """A file is not a readable GGUF model: truncated, hostile or of an unknown version."""

    code = "unreadable_model"
    status = 400


class HubError(CyberError):
    """The model hub, or what it sends, is in the way."""

    code = "hub_failed"
    status = 502

    passing: ClassVar[bool] = False
    """Whether it may be over by itself after a while."""

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


class HubUnreachableError(HubError):
    """The hub cannot be reached, broke off, or has a failure of its own."""

    code = "hub_unreachable"
    passing = True


class HubAnswerError(HubError):
    """An answer that does not go with what was asked for, or with the hub's own list of files."""


class HubRateLimitError(HubError):
    """The hub wants fewer requests from this address or token."""

    code = "hub_rate_limited"
    status = 429
    type = "rate_limit_error"
    passing = True


class HubGatedError(HubError):
    """The licence of a model has to be accepted first, or access to it be granted."""

    code = "hub_gated"
    status = 403
    type = "permission_error"


class HubTokenError(HubError):
    """The hub does not know the token."""

    code = "hub_token_invalid"
    status = 403
    type = "permission_error"


class HubNotFoundError(HubError):
    """The hub has no such repository, version or file, or does not show it."""

    code = "hub_not_found"
    status = 404
    type = "invalid_request_error"
    exit_code = 4


class DamagedDownloadError(HubError):
    """What arrived is not the file that the hub has the digest of."""

    code = "download_damaged"


class StorageError(CyberError):
    """A folder's disk or network mount does not answer."""

    code = "storage_silent"
    status = 503


class DiskFullError(CyberError):
    """A disk has not enough room for what is to be written to it."""

    code = "disk_full"
    status = 507
    needs_person = True
