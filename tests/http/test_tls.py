"""TLS on the port: the certificate and its renewal, and clients that do not speak it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cyber_inference_tui.certificates import fingerprint, trusting
from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.http import tls
from cyber_inference_tui.http.access import AccessRules
from cyber_inference_tui.http.tls import ServerCertificate
from cyber_inference_tui.records.endpoints import Area
from tests.certificates import Pair
from tests.fakes.service import FakeService, Front, make_settings, serving
from tests.tools import tool
from tests.waiting import LIMIT, until

from .raw import converse, head, read_answer

HEALTH = head("GET /health HTTP/1.1", "Host: localhost")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
async def front(pair: Pair) -> AsyncIterator[Front]:
    certificate = ServerCertificate(pair.certificate, pair.key)
    following = asyncio.ensure_future(certificate.follow())
    service = FakeService(settings=make_settings(**pair.settings))
    async with serving(service, certificate=certificate) as front:
        yield front
    following.cancel()


async def shown(front: Front) -> str:
    """The fingerprint of the certificate that a new connection gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return fingerprint(ssl.DER_cert_to_PEM_cert(der))


async def test_requests_on_a_connection_with_tls(front: Front, pair: Pair) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.port, ssl=trusting(pair.pem), server_hostname="anything"
    )
    async with asyncio.timeout(LIMIT):
        for _ in range(2):
            writer.write(HEALTH)
            assert (await read_answer(reader)).status == 200
        assert front.requests[0].scheme == "https"
        # The answer to a request that cannot be read arrives, though more is being sent.
        writer.write(b"nonsense\r\n\r\n" + bytes(1000))
        assert (await read_answer(reader)).status == 400
    writer.close()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/models", ("error", "message")),
        ("/v1/messages", ("error", "message")),
        ("/api/tags?x=1", ("error",)),
    ],
)
async def test_plain_http_gets_one_sentence(
    front: Front, path: str, message: tuple[str, ...]
) -> None:
    data = head(f"POST {path} HTTP/1.1", "Host: localhost") + bytes(100_000)
    (answer,) = await converse(front.port, data, count=1)
    assert answer.status == 400
    assert answer.headers["x-request-id"]
    found = json.loads(answer.body)
    for name in message:
        found = found[name]
    assert found == (
        "This port speaks TLS, and the request is plain HTTP. Begin the address with https://. "
        "Behind ssh://, add ?tls=yes."
    )
    assert front.requests == []


async def test_a_client_that_says_nothing_is_not_kept(
    front: Front, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_MOST_HANDSHAKES", 2)
    async with asyncio.timeout(LIMIT):
        silent = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(2)]
        silent[1][1].write(b"\x16\x03")
        assert await shown(front) == pair.fingerprint
        assert await silent[0][0].read() == b""
        monkeypatch.setattr(tls, "_HANDSHAKE_SECONDS", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        assert await reader.read() == b""
    for _, other in (*silent, (reader, writer)):
        other.close()


async def test_the_certificate_is_renewed_without_a_restart(front: Front, pair: Pair) -> None:
    before = pair.fingerprint
    assert await shown(front) == before
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.port, ssl=trusting(pair.pem), server_hostname="localhost"
    )
    pair.renew()

    async def renewed() -> None:
        while await shown(front) == before:
            await asyncio.sleep(0.01)

    async with asyncio.timeout(LIMIT):
        await renewed()
        assert await shown(front) == pair.fingerprint
        # An old connection goes on.
        writer.write(HEALTH)
        assert (await read_answer(reader)).status == 200
    writer.close()


async def test_a_broken_pair_changes_nothing(
    front: Front, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    before = pair.fingerprint
    pair.key.write_text("nonsense")
    await until(lambda: "the certificate stays as it was" in caplog.text)
    assert await shown(front) == before


def test_files_that_are_no_pair(tmp_path: Path, pair: Pair) -> None:
    other = tmp_path / "other"
    other.mkdir()
    encrypted = tmp_path / "encrypted.pem"
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    ServerCertificate(both, None)
    cases = [
        (tmp_path / "none.pem", pair.key, "tls_cert: .* cannot be read: No such file"),
        (pair.certificate, tmp_path, "tls_key: .* cannot be read: Is a directory"),
        (pair.key, pair.key, "tls_cert: .* has no certificate in PEM form"),
        (pair.certificate, None, "tls_key: .* has no key in PEM form"),
        (pair.certificate, Pair(other).key, "tls_key: .* is not the key of"),
    ]
    for certificate, key, message in cases:
        with pytest.raises(ConfigError, match=message):
            ServerCertificate(certificate, key)
    command = [tool("openssl"), "pkey", "-in", str(pair.key), "-out", str(encrypted)]
    subprocess.run([*command, "-aes256", "-passout", "pass:x"], check=True)
    with pytest.raises(ConfigError, match="without a password"):
        ServerCertificate(pair.certificate, encrypted)


def test_the_own_origin_has_the_scheme_of_the_port(pair: Pair) -> None:
    plain = AccessRules(make_settings(), "127.0.0.1")
    secure = AccessRules(make_settings(**pair.settings), "127.0.0.1")
    for rules, own, other in ((plain, "http", "https"), (secure, "https", "http")):
        assert rules.allows_origin(f"{own}://box", "box", Area.ADMIN)
        assert not rules.allows_origin(f"{other}://box", "box", Area.ADMIN)
