"""Find the service of the settings, and log in to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyber_inference_tui.client.service_url import (
    base_url,
    is_loopback_url,
    is_same_service,
    reachable_url,
)
from cyber_inference_tui.errors import AdminLoginError, NoServiceError
from cyber_inference_tui.service.runtime import (
    RUNTIME_FILE,
    data_directory_holder,
    read_runtime_file,
)
from cyber_inference_tui.settings.password_hash import is_hash

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.settings.schema import Settings


def service_url(settings: Settings) -> str:
    """Return the address of the service.

    With port 0 the kernel has chosen the port, and the service has written it to its data
    directory. Raises ``NoServiceError`` if there is no such file. A running service has the scheme
    that it started with, whatever ``tls_cert`` is by now, and one whose certificate is known
    speaks TLS.
    """
    record = read_runtime_file(settings.data_dir)
    if settings.port:
        plain, secure = (base_url(settings.host, settings.port, tls=tls) for tls in (False, True))
        if record is not None:
            for url in (plain, secure):
                if is_same_service(record.url, url):
                    return url
        is_secure = settings.tls_cert or _known_certificate(secure, settings)
        return secure if is_secure else plain
    if record is None:
        raise NoServiceError(
            f"No service runs in {settings.data_dir}.",
            hint="Start one with 'cyber-inference-tui serve'.",
        )
    return reachable_url(record.url)


def certificate_of(url: str, settings: Settings) -> str:
    """Return the certificate (PEM) that the service at ``url`` must have, if it is known.

    It is that of ``tls_cert`` for an address of this service, else the one that the user has
    trusted at ``--attach``.
    """
    if not url.startswith("https:"):
        return ""
    from cyber_inference_tui.certificates import read_certificate

    own = read_certificate(Path(settings.tls_cert)) if settings.tls_cert else ""
    record = read_runtime_file(settings.data_dir)
    if record is not None and is_same_service(record.url, url):
        return own
    known = _known_certificate(url, settings)
    return known or (own if settings.port and url == service_url(settings) else "")


def _known_certificate(url: str, settings: Settings) -> str:
    if is_loopback_url(url):
        return ""  # a service here, or the end of a tunnel that may lead to another one each day
    from cyber_inference_tui.client.known_services import KnownServices

    return KnownServices(settings.data_dir).certificate(url)


def client_of(url: str, settings: Settings) -> ServiceClient:
    """Return a client of the service at ``url``, with the first of ``api_keys``.

    If the service asks for a login, the client uses the token that the service of this data
    directory has left for its user's programs, else ``admin_password`` if it is no hash. It sends a
    password or a token only when asked, and the token only to its own service.
    """
    from cyber_inference_tui.client.service_client import (
        ServiceClient,
    )

    async def renew(client: ServiceClient) -> bool:
        token = _token_for(url, settings)
        if token and token != client.token:
            client.token = token
            return True
        if settings.admin_password and not is_hash(settings.admin_password):
            await client.login(settings.admin_password)
            return True
        return False

    key = settings.api_keys[0] if settings.api_keys else ""
    return ServiceClient(url, api_key=key, certificate=certificate_of(url, settings), renew=renew)


def _token_for(url: str, settings: Settings) -> str:
    record = read_runtime_file(settings.data_dir)
    return record.token if record is not None and is_same_service(record.url, url) else ""


def explain_login(error: AdminLoginError, settings: Settings) -> AdminLoginError:
    """Return the error with a way out for the command line."""
    url, file = service_url(settings), settings.data_dir / RUNTIME_FILE
    lost = not file.exists() and data_directory_holder(settings.data_dir) is not None
    return type(error)(
        f"The service at {url} needs its admin password."
        if type(error) is AdminLoginError
        else f"The service at {url} has a different admin password.",
        hint="Give it as CYBER_INFERENCE_ADMIN_PASSWORD."
        + (f" (Without {file} commands have no token: is its disk full?)" if lost else ""),
    )


def explain_absence(error: NoServiceError, settings: Settings) -> NoServiceError:
    """Return the error; if the service of this data directory is elsewhere, the hint names it."""
    record = read_runtime_file(settings.data_dir)
    if record is None or not settings.port or is_same_service(record.url, service_url(settings)):
        return error
    return NoServiceError(
        error.message,
        hint=f"The last service of {settings.data_dir} listened at {record.url}; if it "
        "still runs, give its --host and --port.",
    )
