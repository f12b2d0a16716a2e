"""Certificates of TLS: their fingerprints, and the connections that trust only one of them."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

from cyber_inference_tui.files import read_file

_MAX_BYTES = 1 << 20
_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL's ``x509_vfy.h``; Python has no name for it."""


def first_certificate(text: str) -> str:
    """Return the first certificate of a PEM file's text: the one of the server itself.

    Raises ``ValueError`` if there is none.
    """
    found = _CERTIFICATE.search(text)
    if found is None:
        raise ValueError("has no certificate in PEM form")
    der = ssl.PEM_cert_to_DER_cert(found.group())
    return ssl.DER_cert_to_PEM_cert(der)


def read_certificate(path: Path) -> str:
    """Return the first certificate of a file; empty if there is none that can be read."""
    try:
        return first_certificate(read_file(path, _MAX_BYTES).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return ""


def fingerprint(pem: str) -> str:
    """Return the SHA-256 fingerprint of a certificate, as ``openssl x509`` writes it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()


def trusting(pem: str) -> ssl.SSLContext:
    """Return what a client needs to accept this certificate alone; empty = what authorities sign.

    Like a host's key of ssh, a certificate that is known needs no name and no date: a small board
    without a battery may have made it in 1970.
    """
    context = ssl.create_default_context(cadata=pem or None)
    if pem:
        context.check_hostname = False
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    return context
