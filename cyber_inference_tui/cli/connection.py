"""From the settings to a client of the running service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyber_inference_tui.client.service_client import ServiceClient, base_url
from cyber_inference_tui.errors import NoServiceError
from cyber_inference_tui.service.runtime import read_runtime_file

if TYPE_CHECKING:
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
    return record.url


def connect(settings: Settings) -> ServiceClient:
    """A client of the running service, with the first of ``api_keys``."""
    key = settings.api_keys[0] if settings.api_keys else ""
    return ServiceClient(service_url(settings), api_key=key)


def explain_absence(error: NoServiceError, settings: Settings) -> NoServiceError:
    """The error, with a better way out when a service of this data directory is elsewhere."""
    record = read_runtime_file(settings.data_dir)
    if record is None or not settings.port or record.url == service_url(settings):
        return error
    return NoServiceError(
        error.message,
        hint=f"The last service of {settings.data_dir} listened at {record.url}; if that one "
        "still runs, give its --host and --port.",
    )
