"""``tls``: make a certificate for https, and show its fingerprint."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines, print_note
from cyber_inference_tui.cli.usage import Group
from cyber_inference_tui.errors import ConfigError, CyberError, InvalidRequestError
from cyber_inference_tui.terminal.stream import stderr_terminal

if TYPE_CHECKING:
    from cryptography import x509

    from cyber_inference_tui.settings.schema import Settings

_DAYS = 3650
_DEFAULTS = ("tls/cert.pem", "tls/key.pem")
"""The files in the data directory."""


@click.group(cls=Group)
def tls() -> None:
    """Have the service speak https."""


@tls.command(short_help="Make a self-signed certificate, and show its fingerprint.")
@click.option(
    "--name",
    "names",
    metavar="NAME",
    multiple=True,
    type=FilledText(),
    help="A further name or address of this machine in the certificate; may be repeated.",
)
@click.option("--force", is_flag=True, help="Replace the certificate and key that are there.")
@json_option
@click.pass_obj
def make(options: GlobalOptions, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Make a self-signed certificate and its key, set tls_cert and tls_key, show the fingerprint.

    A pair that is there stays, and its fingerprint is shown. A running service uses a replaced
    pair within seconds; to change from http to https, restart it.
    """
    from cyber_inference_tui.certificates import fingerprint, read_certificate
    from cyber_inference_tui.settings.edit import set_value

    loaded = options.load()
    settings = loaded.settings
    certificate, key = _files(settings)
    made = force or not certificate.exists()
    if made:
        if not force and key.exists():
            raise ConfigError(
                f"{key} is there, but not its certificate {certificate}.",
                hint="Put the certificate back, or make a new pair with --force.",
            )
        _write(certificate, key, [*_own_names(settings), *names])
    elif names:
        raise click.UsageError(f"{certificate} is there already: --name goes with --force then.")
    pem = read_certificate(certificate)
    if not pem:
        raise ConfigError(f"{certificate} has no certificate in PEM form that can be read.")
    if not settings.tls_cert:
        for name, path in (("tls_cert", certificate), ("tls_key", key)):
            set_value(loaded.config_path, name, str(path))
    names_in, valid_until = _facts_in(pem)
    facts = {
        "certificate": str(certificate),
        "key": str(key),
        "made": made,
        "names": names_in,
        "valid_until": valid_until,
        "fingerprint": fingerprint(pem),
    }
    if as_json:
        print_json(facts)
        return
    print_lines(
        [
            f"certificate  {certificate}",
            f"key          {key}",
            f"names        {', '.join(names_in) or 'none'}",
            f"valid until  {valid_until:%Y-%m-%d}",
            f"SHA-256      {facts['fingerprint']}",
        ]
    )
    if not settings.tls_cert:
        print_note(
            f"{loaded.config_path}: tls_cert and tls_key are set. Restart the service if it runs: "
            "cyber-inference-tui service restart",
            stderr_terminal(options.environ),
        )


def _files(settings: Settings) -> tuple[Path, Path]:
    if settings.tls_cert:
        return Path(settings.tls_cert), Path(settings.tls_key or settings.tls_cert)
    certificate, key = (settings.data_dir / name for name in _DEFAULTS)
    return certificate, key


def _own_names(settings: Settings) -> list[str]:
    """Return the names and addresses by which clients may call this machine."""
    import psutil

    machine = socket.gethostname().lower()
    names = [machine, f"{machine.partition('.')[0]}.local", "localhost"]
    names += [host for host in settings.allowed_hosts if ":" not in host]
    addresses = [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    ]
    usual = [address for address in addresses if not ipaddress.ip_address(address).is_link_local]
    host = settings.host.strip("[]")
    wildcard = _address(host)
    own = [] if wildcard is not None and wildcard.is_unspecified else [host]
    return [*names, *own, *usual]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _general_names(names: Iterable[str]) -> Sequence[x509.GeneralName]:
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        address = _address(name)
        try:
            found.append(x509.DNSName(name) if address is None else x509.IPAddress(address))
        except ValueError:
            raise InvalidRequestError(
                f"{name!r} cannot be a name in a certificate.", hint="Write it in ASCII (punycode)."
            ) from None
    return found


def _write(certificate: Path, key: Path, names: Sequence[str]) -> None:
    """Write a new pair; its files may be one."""
    from cyber_inference_tui.files import replace_file

    certificate_pem, key_pem = new_pair(names)
    contents = {key: key_pem, certificate: certificate_pem}
    if certificate == key:
        contents = {key: certificate_pem + key_pem}
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, content, mode=0o600 if path == key else 0o644)
        except OSError as error:
            raise CyberError(f"{path} cannot be written: {error.strerror}.") from error


def new_pair(names: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for the names, and its key, in PEM form.

    It is no authority's certificate (RFC 5280, 4.2.1.9): whoever trusts it trusts this machine
    only. The key is of a kind that a small board signs with in less than a millisecond.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # Clocks of other machines may be a little behind.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _facts_in(pem: str) -> tuple[list[str], datetime]:
    """Return the names and the last day of a certificate."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(name.value) for name in extension.value]
    except x509.ExtensionNotFound:
        names = []
    return names, certificate.not_valid_after_utc
