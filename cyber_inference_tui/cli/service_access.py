"""Find the service of the settings, and log in to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cyber_inference_tui.client.service_url import (
    base_url,
    is_loopback_url,
    is_same_service,
    reachable_url,
    service_address,
)
from cyber_inference_tui.errors import AdminLoginError, NoServiceError
from cyber_inference_tui.service.runtime import (
    RUNTIME_FILE,
    data_directory_holder,
    read_runtime_file,
)
from cyber_inference_tui.settings.password_hash import is_hash

if TYPE_CHECKING:
    from cyber_inference_tui.cli.options import GlobalOptions
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


def client_of(url: str, settings: Settings, *, logs_in: bool = True) -> ServiceClient:
    """Return a client of the service at ``url``, with the first of ``api_keys``.

    If the service asks for a login, the client uses the token that the service of this data
    directory has left for its user's programs, else ``admin_password`` if it is no hash. It sends a
    password or a token only when asked, and the token only to its own service. Unless it
    ``logs_in``, it sends neither.
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
    return ServiceClient(
        url,
        api_key=key,
        certificate=certificate_of(url, settings),
        renew=renew if logs_in else None,
    )


def attached_client(
    options: GlobalOptions,
    *,
    trusts: Callable[[str, str], bool] | None = None,
    logs_in: bool = True,
) -> ServiceClient:
    """Return a client of the service at the address of ``--attach``; its tunnel is not open yet.

    If the service asks for a login, the client uses the password in the environment, then the one
    that was kept for it; neither, unless it ``logs_in``. ``trusts`` gets the address and the
    fingerprint of an unknown certificate; without it such a service is refused, and one behind
    ssh until ``check_tunnel``. Raises ``CyberError``.
    """
    from cyber_inference_tui.cli.passwords import Passwords
    from cyber_inference_tui.client.known_services import KnownServices
    from cyber_inference_tui.client.service_client import ServiceClient
    from cyber_inference_tui.client.tunnel import SshAddress, Tunnel
    from cyber_inference_tui.settings.load import SettingSource

    loaded = options.load()
    settings = loaded.settings
    ssh = SshAddress.parse(options.attach)
    url = service_address(options.attach) if ssh is None else ""
    certificate = ""
    if url.startswith("https:") or (ssh is not None and ssh.tls):
        known = KnownServices(settings.data_dir)
        certificate = (
            known.certificate(url or str(ssh))
            if trusts is None or ssh is not None
            else known.checked(url, partial(trusts, url))
        )
    kept = Passwords(settings.data_dir).take(url or str(ssh))
    given = settings.admin_password
    # The one in the file is that of this machine's service.
    if loaded.sources["admin_password"] is not SettingSource.ENV or is_hash(given):
        given = ""
    passwords = iter([*([given] if given else []), *kept])

    async def renew(client: ServiceClient) -> bool:
        # Each is tried once; if all are wrong, the app asks for one.
        for password in passwords:
            await client.login(password)
            return True
        return False

    return ServiceClient(
        url,
        tunnel=Tunnel(ssh, options.environ) if ssh is not None else None,
        api_key=settings.api_keys[0] if settings.api_keys else "",
        certificate=certificate,
        renew=renew if logs_in else None,
    )


def check_tunnel(
    client: ServiceClient, settings: Settings, trusts: Callable[[str, str], bool]
) -> None:
    """Check the certificate of a service with TLS behind the client's open tunnel.

    See ``attached_client`` for ``trusts``. Raises ``CyberError``.
    """
    from cyber_inference_tui.client.known_services import KnownServices

    if client.tunnel is not None and client.tunnel.address.tls:
        known, place = KnownServices(settings.data_dir), client.place
        client.certificate = known.checked(place, partial(trusts, place), tunnel=client.url)


def _token_for(url: str, settings: Settings) -> str:
    record = read_runtime_file(settings.data_dir)
    return record.token if record is not None and is_same_service(record.url, url) else ""


def explain_login(
    error: AdminLoginError, settings: Settings, *, attached: str = ""
) -> AdminLoginError:
    """Return the error with a way out for the command line; ``attached`` is an address of
    ``--attach``."""
    url, file = attached or service_url(settings), settings.data_dir / RUNTIME_FILE
    holder = None if attached or file.exists() else data_directory_holder(settings.data_dir)
    return type(error)(
        f"The service at {url} needs its admin password."
        if type(error) is AdminLoginError
        else f"The service at {url} has a different admin password.",
        hint="Give it as CYBER_INFERENCE_ADMIN_PASSWORD."
        + (
            f" (Without {file} commands have no token: is its disk full?)"
            if holder is not None
            else ""
        ),
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
