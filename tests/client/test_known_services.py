"""Certificates of services elsewhere: asked about once, kept, and compared."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cyber_inference_tui.client.known_services import KnownServices
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.client.service_url import is_same_service
from cyber_inference_tui.errors import ChangedCertificateError, CyberError, NoServiceError
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.records import endpoints
from tests.certificates import Pair
from tests.fakes.service import FakeService, serving


@asynccontextmanager
async def secure(pair: Pair) -> AsyncIterator[str]:
    """The address of a service with the certificate."""
    certificate = ServerCertificate(pair.certificate, pair.key)
    async with serving(FakeService(), certificate=certificate) as front:
        yield f"https://127.0.0.1:{front.port}"


class Asked:
    """Answers the question, and counts."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.fingerprints: list[str] = []

    def __call__(self, fingerprint: str) -> bool:
        self.fingerprints.append(fingerprint)
        return self.answer


async def checked(known: KnownServices, url: str, trusts: Callable[[str], bool]) -> str:
    return await asyncio.to_thread(known.checked, url, trusts)


async def test_a_new_fingerprint_is_asked_about_once(tmp_path: Path) -> None:
    pair, known = Pair(tmp_path), KnownServices(tmp_path)
    no, yes = Asked(False), Asked(True)
    async with secure(pair) as url:
        with pytest.raises(CyberError, match="is not trusted"):
            await checked(known, url, no)
        assert known.certificate(url) == ""
        for _ in range(2):
            assert await checked(known, url, yes) == pair.pem
        assert no.fingerprints == yes.fingerprints == [pair.fingerprint]
        async with ServiceClient(url, certificate=known.certificate(url)) as client:
            assert (await client.call(endpoints.STATUS)).version
        kept = next((tmp_path / "known_services").iterdir())
        assert kept.stat().st_mode & 0o077 == 0
    assert await checked(known, url, no) == pair.pem, "it need not run"


async def test_a_changed_certificate_is_reported(tmp_path: Path) -> None:
    pair, known, asked = Pair(tmp_path), KnownServices(tmp_path), Asked(True)
    async with secure(pair) as url:
        before = await checked(known, url, asked)
    old = pair.fingerprint
    pair.renew()
    certificate = ServerCertificate(pair.certificate, pair.key)
    async with serving(FakeService(), certificate=certificate) as front:
        there = f"https://127.0.0.1:{front.port}"
        known._keep(there, before)
        change = f"{pair.fingerprint}, and was {old}"
        with pytest.raises(ChangedCertificateError, match=change) as told:
            await checked(known, there, asked)
        assert asked.fingerprints == [old]
        async with ServiceClient(there, certificate=before) as client:
            with pytest.raises(NoServiceError, match="not the known one") as refused:
                await client.call(endpoints.STATUS)
        assert "Start one with" not in refused.value.hint
        # The way out.
        Path(told.value.hint.split()[6]).unlink()
        assert await checked(known, there, asked) == pair.pem


async def test_a_known_certificate_needs_no_date_and_no_name(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "board")])
    # A board without a battery believes that it is 1970.
    began = datetime.datetime(1970, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1)  # type: ignore[arg-type]
    made = made.not_valid_before(began).not_valid_after(began + datetime.timedelta(days=1))
    signed = made.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    pair.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    known = KnownServices(tmp_path)
    async with secure(pair) as url:
        assert await checked(known, url, Asked(True)) == pair.pem
        assert await checked(known, url, Asked(False)) == pair.pem


async def test_addresses_with_the_wrong_scheme(tmp_path: Path) -> None:
    pair, known = Pair(tmp_path), KnownServices(tmp_path)
    async with serving(FakeService()) as front:
        url = f"https://127.0.0.1:{front.port}"
        with pytest.raises(NoServiceError, match="does not speak TLS"):
            await checked(known, url, Asked(True))
        async with ServiceClient(url) as client:
            with pytest.raises(NoServiceError, match="it speaks plain HTTP") as told:
                await client.call(endpoints.STATUS)
        assert "Begin the address with http://" in told.value.hint
    async with secure(pair) as url, ServiceClient(url.replace("https", "http")) as client:
        with pytest.raises(CyberError, match="Begin the address with https://"):
            await client.call(endpoints.STATUS)


async def test_only_the_known_certificate_is_accepted(tmp_path: Path) -> None:
    """One that the known one could have signed is not."""
    pair, other = Pair(tmp_path), tmp_path / "other"
    other.mkdir()
    async with secure(pair) as url:
        for certificate in ("", Pair(other).pem):
            async with ServiceClient(url, certificate=certificate) as client:
                with pytest.raises(NoServiceError) as told:
                    await client.call(endpoints.STATUS)
            assert isinstance(told.value.__cause__, Exception)
            assert "CERTIFICATE_VERIFY_FAILED" in repr(told.value.__cause__)


def test_a_service_with_tls_is_known_as_the_same() -> None:
    assert is_same_service("https://0.0.0.0:8337", "https://localhost:8337")
    assert not is_same_service("https://127.0.0.1:8337", "https://127.0.0.1:8338")
