"""The caller's side of a pairing: two messages to the box that shows the code."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import NamedTuple, TypeVar
from urllib.parse import SplitResult

import aiohttp
import msgspec

from cyber_inference_tui.certificates import fingerprint, trusting
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ForbiddenPairingError, PeerError
from cyber_inference_tui.peers.pairing import Exchange, Keys, PairingError
from cyber_inference_tui.peers.peer import refusal_in
from cyber_inference_tui.records.peers import (
    Box,
    PairingAnswer,
    PairingHello,
    PairingProof,
    PairingReply,
)

_SECONDS = 10.0
_MOST_BYTES = 1 << 20

A = TypeVar("A")


class Accepted(NamedTuple):
    """The box that has accepted this one."""

    box: Box
    keys: Keys
    certificate: str
    """The certificate that it has shown (PEM); empty without TLS."""


async def pair(address: SplitResult, code: str, own: Box) -> Accepted:
    """Pair with the box at ``address``, which shows ``code``.

    Raises ``ForbiddenPairingError`` if it refuses or the code is wrong, and ``PeerError`` if it
    does not answer as a box.
    """
    try:
        async with asyncio.timeout(3 * _SECONDS):
            return await _pair(address, code, own)
    except TimeoutError:
        raise PeerError(f"{address.geturl()} does not answer.") from None
    except (aiohttp.ClientError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise PeerError(
            f"{address.geturl()} does not answer: {reason}.",
            hint="Is the address right, and does the service there listen beyond its own machine?",
        ) from None


async def _pair(address: SplitResult, code: str, own: Box) -> Accepted:
    certificate = ""
    if address.scheme == "https":
        certificate = await _shown_certificate(address)
    exchange = await asyncio.to_thread(Exchange, code, calls=True)
    seen = fingerprint(certificate) if certificate else ""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_SECONDS), trust_env=False
    ) as session:

        async def call(path: str, body: msgspec.Struct, kind: type[A]) -> A:
            async with session.post(
                address.geturl() + path,
                data=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
                ssl=trusting(certificate) if certificate else True,
                allow_redirects=False,
            ) as answer:
                return _decoded(answer.status, await answer.content.read(_MOST_BYTES), kind)

        reply = await call(
            "/peers/pair", PairingHello(message=exchange.message.hex()), PairingReply
        )
        try:
            await asyncio.to_thread(exchange.finish, bytes.fromhex(reply.message))
            proof = PairingProof(session=reply.session, box=own, proof=exchange.prove(own, seen))
            answer = await call("/peers/pair/proof", proof, PairingAnswer)
            exchange.check(answer.proof, answer.box, seen)
        except PairingError as error:
            raise ForbiddenPairingError(str(error)) from None
    return Accepted(answer.box, exchange.keys(), certificate)


def _decoded(status: int, body: bytes, kind: type[A]) -> A:
    if status == 200:
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(body, type=thread_safe(kind))
    said = refusal_in(body)
    if not said:
        raise PeerError(
            f"It answered with status {status}, and not as a box of this program.",
            hint="Both boxes need a version that can pair.",
        )
    if status == 403:
        raise ForbiddenPairingError(said)
    raise PeerError(f"The other box refused: {said}")


async def _shown_certificate(address: SplitResult) -> str:
    """Return the certificate that a box shows (PEM), which nobody has checked yet."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(_SECONDS):
        _, writer = await asyncio.open_connection(address.hostname, address.port, ssl=context)
    try:
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    finally:
        writer.close()
