"""From the settings to a client of the running service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyber_inference_tui.client.address import base_url, is_same_service, reachable_url
from cyber_inference_tui.errors import AdminLoginError, NoServiceError
from cyber_inference_tui.service.runtime import (
    RUNTIME_FILE,
    data_directory_holder,
    read_runtime_file,
)

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.settings.schema import Settings


def service_url(settings: Settings) -> str:
    """Where the service of these settings answers.

    With port 0 the kernel chose the port, and the service wrote it into its data directory.
    Raises ``NoServiceError`` when that says nothing.
    """
    if settings.port:
        return base_url(settings.host, settings.port)
    record = read_runtime_file(settings.data_dir)
    if record is None:
        raise NoServiceError(
            f"No service runs in {settings.data_dir}.",
            hint="Start one with 'cyber-inference-tui serve'.",
        )
    return reachable_url(record.url)


def client_of(url: str, settings: Settings) -> ServiceClient:
    """A client of the service at ``url``, with the first of ``api_keys``.

    Where that service wants a login: the service of this data directory has left a token for its
    user's programs, and another one is given ``admin_password``, if there is one. A password or a
    token is never sent unasked, and the token to nobody but its service.
    """
    from cyber_inference_tui.client.service_client import (
        ServiceClient,
    )

    async def renew(client: ServiceClient) -> bool:
        token = _token_for(url, settings)
        if token and token != client.token:
            client.token = token
            return True
        if settings.admin_password:
            await client.login(settings.admin_password)
            return True
        return False

    key = settings.api_keys[0] if settings.api_keys else ""
    return ServiceClient(url, api_key=key, renew=renew)


def _token_for(url: str, settings: Settings) -> str:
    record = read_runtime_file(settings.data_dir)
    return record.token if record is not None and is_same_service(record.url, url) else ""


def explain_login(error: AdminLoginError, settings: Settings) -> AdminLoginError:
    """The error, with the way out for a person at the command line."""
    url, file = service_url(settings), settings.data_dir / RUNTIME_FILE
    lost = not file.exists() and data_directory_holder(settings.data_dir) is not None
    return type(error)(
        f"The service at {url} wants its admin password."
        if type(error) is AdminLoginError
        else f"The service at {url} has another admin password.",
        hint="Give it as CYBER_INFERENCE_ADMIN_PASSWORD, or set admin_password here."
        + (f" (Without {file} no command gets in by itself: is its disk full?)" if lost else ""),
    )


def explain_absence(error: NoServiceError, settings: Settings) -> NoServiceError:
    """The error, with a better way out when a service of this data directory is elsewhere."""
    record = read_runtime_file(settings.data_dir)
    if record is None or not settings.port or is_same_service(record.url, service_url(settings)):
        return error
    return NoServiceError(
        error.message,
        hint=f"The last service of {settings.data_dir} listened at {record.url}; if that one "
        "still runs, give its --host and --port.",
    )
