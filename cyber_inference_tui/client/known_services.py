"""The certificates of services elsewhere that the user trusts, as ssh knows its hosts.

Each is a PEM file, named after the service's address (``https://`` or ``ssh://``), in the folder
``known_services``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cyber_inference_tui.certificates import fingerprint, read_certificate, trusting
from cyber_inference_tui.errors import ChangedCertificateError, CyberError, NoServiceError
from cyber_inference_tui.files import replace_file

_FOLDER = "known_services"
_CONNECT_SECONDS = 5.0


class KnownServices:
    """The known services of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / _FOLDER

    def certificate(self, url: str) -> str:
        """Return the known certificate (PEM) of the service at ``url``; empty if there is none."""
        return read_certificate(self._file(url))

    def checked(self, url: str, trusts: Callable[[str], bool], *, tunnel: str = "") -> str:
        """Connect to ``url``, or to the near end of a ``tunnel`` to it, and return the certificate
        that its service must have from now on.

        It is empty for one that an authority signed, and for a service that does not answer.
        ``trusts`` gets the fingerprint of one that is not known yet, which is kept if it returns
        true. Raises ``CyberError`` if it does not, and ``ChangedCertificateError`` if the service
        has another one than before.
        """
        known = self.certificate(url)
        try:
            shown = _shown_certificate(tunnel or url, known)
        except ssl.SSLCertVerificationError:
            shown = _shown_certificate(tunnel or url, None)
        except ssl.SSLError as error:
            raise NoServiceError(
                f"The service at {url} does not speak TLS.",
                hint="Begin the address with http:// (behind ssh, leave out tls=yes), or set "
                "tls_cert there.",
            ) from error
        except OSError:
            return known
        else:
            return known
        if known:
            raise ChangedCertificateError(
                f"The certificate of {url} is not the known one: somebody may be in between. Its "
                f"SHA-256 fingerprint is {fingerprint(shown)}, and was {fingerprint(known)}.",
                hint=f"If it was renewed there, remove {self._file(url)} and attach again.",
            )
        if not trusts(fingerprint(shown)):
            raise CyberError(f"The certificate of {url} is not trusted.")
        self._keep(url, shown)
        return shown

    def _keep(self, url: str, certificate: str) -> None:
        file = self._file(url)
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(file, certificate.encode(), mode=0o600)
        except OSError as error:
            raise CyberError(
                f"The certificate cannot be kept in {file}: {error.strerror}."
            ) from error

    def _file(self, url: str) -> Path:
        # With the query of an ssh:// address: it names the port.
        return self._folder / f"{url.partition('://')[2].lower()}.pem"


def _shown_certificate(url: str, accepted: str | None) -> str:
    """Return the certificate that a service shows.

    Raises ``ssl.SSLCertVerificationError`` if it is not the ``accepted`` one (empty = one that an
    authority signed; ``None`` = any), and other ``OSError``.
    """
    context = trusting(accepted or "")
    if accepted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 443)
    with (
        socket.create_connection(address, _CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
    ):
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
