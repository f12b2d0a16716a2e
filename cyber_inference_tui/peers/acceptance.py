"""The acceptor's side of a pairing: a code that is valid for minutes and for three wrong tries."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from cyber_inference_tui.errors import ConflictError, CyberError, ForbiddenPairingError
from cyber_inference_tui.peers.pairing import Exchange, Keys, PairingError
from cyber_inference_tui.records.peers import (
    Box,
    PairingAnswer,
    PairingHello,
    PairingProof,
    PairingRecord,
    PairingReply,
    PairingRequest,
    Role,
)

OPEN_SECONDS = 300.0
"""Seconds for which a code is valid."""
_TRIES = 3
_MOST_EXCHANGES = 8
"""Exchanges that wait for their proof; the oldest is forgotten."""


class Paired(NamedTuple):
    """A box that has proved that it knows the code."""

    box: Box
    keys: Keys
    role: Role


class Acceptance:
    """Waits for one box at a time. ``keep`` stores a box and returns its name here.

    Only a failed proof is a guess: without it, nothing that was sent tells anything of the code.
    """

    def __init__(
        self, *, keep: Callable[[Paired], Awaitable[str]], now: Callable[[], datetime]
    ) -> None:
        self._keep = keep
        self._now = now
        self._code = ""
        self._role = Role.SERVE
        self._tries = 0
        self._until: datetime | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._exchanges: dict[str, Exchange] = {}
        self._closed = asyncio.Event()
        self._closed.set()
        self._paired: str | None = None
        self._problem: str | None = None

    def open(self, asked: PairingRequest) -> PairingRecord:
        """Accept a box that knows the code. Raises ``ConflictError`` while one is awaited."""
        if self._code:
            raise ConflictError(
                "This service is waiting for a box already.",
                hint="End that with DELETE /admin/peers/pairing, or wait for its end.",
            )
        self._code = asked.code or f"{secrets.randbelow(1_000_000):06}"
        self._role, self._tries = asked.role, _TRIES
        self._until = self._now() + timedelta(seconds=OPEN_SECONDS)
        self._paired = self._problem = None
        self._closed.clear()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(OPEN_SECONDS, self.close, "No box came in time.")
        return self.record()

    def close(self, problem: str | None = None) -> None:
        """Accept no box any more; ``problem`` says why none has come."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._code, self._until = None, "", None
        self._exchanges.clear()
        self._problem = problem
        self._closed.set()

    def record(self) -> PairingRecord:
        """Return the state of the waiting."""
        return PairingRecord(
            open=bool(self._code),
            code=self._code or None,
            until=self._until,
            tries_left=self._tries if self._code else 0,
            paired=self._paired,
            problem=self._problem,
        )

    async def ended(self) -> PairingRecord:
        """Wait until no box is awaited any more."""
        await self._closed.wait()
        return self.record()

    # The exchange

    async def hello(self, hello: PairingHello) -> PairingReply:
        """Answer the first message. Raises ``ForbiddenPairingError``."""
        code = self._checked_code()
        exchange = await asyncio.to_thread(_begun, code, bytes.fromhex(hello.message))
        if code != self._code:
            raise _not_open()
        while len(self._exchanges) >= _MOST_EXCHANGES:
            del self._exchanges[next(iter(self._exchanges))]
        session = secrets.token_hex(32)
        self._exchanges[session] = exchange
        return PairingReply(session=session, message=exchange.message.hex())

    async def proof(
        self, proof: PairingProof, own: Box, seen: str, *, came_from: str
    ) -> PairingAnswer:
        """Answer the second message; ``seen`` is the fingerprint of the own certificate.

        ``came_from`` is the box's address with that of its call in place of ``*``. Raises
        ``ForbiddenPairingError``; the third wrong proof closes the pairing.
        """
        self._checked_code()
        # Each exchange has one try: a proof that is sent again finds none.
        exchange = self._exchanges.pop(proof.session, None)
        if exchange is None:
            raise ForbiddenPairingError("There is no such exchange. Begin again.")
        try:
            exchange.check(proof.proof, proof.box, seen)
        except PairingError as error:
            self._tries -= 1
            if not self._tries:
                self.close("Three wrong codes were tried.")
            raise ForbiddenPairingError(str(error)) from None
        role, self._code = self._role, ""
        try:
            box = msgspec.structs.replace(proof.box, url=came_from)
            self._paired = await self._keep(Paired(box, exchange.keys(), role))
        except CyberError as error:
            self.close(str(error))
            raise
        self.close()
        return PairingAnswer(box=own, proof=exchange.prove(own, seen))

    def _checked_code(self) -> str:
        if not self._code:
            raise _not_open()
        return self._code


def _begun(code: str, message: bytes) -> Exchange:
    """Return an exchange that has the caller's message. Takes milliseconds of CPU."""
    exchange = Exchange(code, calls=False)
    try:
        exchange.finish(message)
    except PairingError as error:
        raise ForbiddenPairingError(str(error)) from None
    return exchange


def _not_open() -> ForbiddenPairingError:
    return ForbiddenPairingError(
        "This service is not waiting for a box.",
        hint="Run 'cyber-inference-tui peers accept' there first.",
    )
