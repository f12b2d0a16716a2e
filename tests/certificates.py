"""Certificates of tests: a pair of files, made as ``tls make`` makes them."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.certificates import fingerprint, first_certificate
from cyber_inference_tui.cli.tls_command import new_pair


class Pair:
    """A certificate and its key in a folder; ``renew`` replaces both."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.renew()

    def renew(self) -> None:
        certificate, key = new_pair(["localhost", "127.0.0.1"])
        self.key.write_bytes(key)
        self.certificate.write_bytes(certificate)

    @property
    def pem(self) -> str:
        return first_certificate(self.certificate.read_text())

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.pem)

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.certificate), "tls_key": str(self.key)}
