"""Pairing: the code, the proofs, and what closes the window."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from cyber_inference_tui.errors import (
    ConflictError,
    CyberError,
    ForbiddenPairingError,
    PeerError,
)
from cyber_inference_tui.peers.acceptance import Acceptance, Paired
from cyber_inference_tui.peers.caller import _decoded
from cyber_inference_tui.peers.pairing import Exchange, Keys, PairingError
from cyber_inference_tui.records.peers import (
    Box,
    PairingHello,
    PairingProof,
    PairingReply,
    PairingRequest,
    Role,
)

CALLER = Box(name="jetson", url="https://*:8337", certificate="C")
ACCEPTOR = Box(name="workstation")
SEEN = "AA:BB"
CODE = "482913"


def exchanged(one: str, other: str) -> tuple[Exchange, Exchange]:
    """Both sides after their messages."""
    caller, acceptor = Exchange(one, calls=True), Exchange(other, calls=False)
    caller.finish(acceptor.message)
    acceptor.finish(caller.message)
    return caller, acceptor


def test_both_sides_of_one_code_have_the_same_keys() -> None:
    caller, acceptor = exchanged(CODE, CODE)
    acceptor.check(caller.prove(CALLER, SEEN), CALLER, SEEN)
    caller.check(acceptor.prove(ACCEPTOR, SEEN), ACCEPTOR, SEEN)
    assert caller.keys() == acceptor.keys()
    assert len(set(caller.keys())) == 2
    # Each exchange makes new ones.
    assert exchanged(CODE, CODE)[0].keys() != caller.keys()


@pytest.mark.parametrize(
    ("code", "box", "seen"),
    [
        ("482914", CALLER, SEEN),
        (CODE, Box(name="jetson", url="https://*:1", certificate="C"), SEEN),
        (CODE, Box(name="jetson", url="https://*:8337", certificate="D"), SEEN),
        (CODE, CALLER, "AA:BC"),
        (CODE, CALLER, ""),
    ],
    ids=["another code", "another address", "another certificate", "a man between", "no TLS"],
)
def test_a_proof_is_of_the_code_and_of_what_each_side_sees(code: str, box: Box, seen: str) -> None:
    caller, acceptor = exchanged(code, CODE)
    with pytest.raises(PairingError):
        acceptor.check(caller.prove(box, seen), CALLER, SEEN)


def test_a_proof_cannot_be_sent_back() -> None:
    caller, acceptor = exchanged(CODE, CODE)
    with pytest.raises(PairingError):
        caller.check(caller.prove(CALLER, SEEN), CALLER, SEEN)
    with pytest.raises(PairingError):
        Exchange(CODE, calls=True).finish(caller.message)
    assert acceptor.keys() == caller.keys()


@pytest.mark.parametrize(
    "message", [b"", b"B", b"X" + bytes(32), b"B" + bytes(32), b"B" + b"\xff" * 32, b"B" + bytes(9)]
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(PairingError):
        Exchange(CODE, calls=True).finish(message)


class Window(NamedTuple):
    acceptance: Acceptance
    kept: list[Paired]


def window() -> Window:
    kept: list[Paired] = []

    async def keep(paired: Paired) -> str:
        kept.append(paired)
        return paired.box.name

    return Window(Acceptance(keep=keep, now=lambda: datetime.now(UTC)), kept)


async def call(acceptance: Acceptance, code: str, *, box: Box = CALLER) -> Keys:
    """The whole of a caller's side; return its keys."""
    exchange = Exchange(code, calls=True)
    reply = await acceptance.hello(PairingHello(message=exchange.message.hex()))
    exchange.finish(bytes.fromhex(reply.message))
    proof = PairingProof(session=reply.session, box=box, proof=exchange.prove(box, SEEN))
    answer = await acceptance.proof(proof, ACCEPTOR, SEEN, came_from="https://10.0.0.2:8337")
    exchange.check(answer.proof, answer.box, SEEN)
    return exchange.keys()


async def test_the_right_code_pairs_once() -> None:
    acceptance, kept = window()
    opened = acceptance.open(PairingRequest(role=Role.ADMIN))
    assert opened.code is not None
    assert len(opened.code) == 6
    ended = asyncio.ensure_future(acceptance.ended())
    keys = await call(acceptance, opened.code)
    assert [(one.keys, one.role, one.box.url) for one in kept] == [
        (keys, Role.ADMIN, "https://10.0.0.2:8337")
    ]
    assert (await ended).paired == "jetson"
    with pytest.raises(ForbiddenPairingError, match="is not waiting"):
        await call(acceptance, opened.code)


async def test_three_wrong_codes_close_the_window() -> None:
    acceptance, kept = window()
    acceptance.open(PairingRequest(code=CODE))
    for tries_left in (2, 1, 0):
        with pytest.raises(ForbiddenPairingError, match="The code is wrong"):
            await call(acceptance, "000000")
        assert acceptance.record().tries_left == tries_left
    with pytest.raises(ForbiddenPairingError, match="is not waiting"):
        await call(acceptance, CODE)
    assert acceptance.record().problem == "Three wrong codes were tried."
    assert kept == []


async def test_a_proof_that_is_sent_again_is_refused() -> None:
    acceptance, kept = window()
    acceptance.open(PairingRequest(code=CODE))
    exchange = Exchange(CODE, calls=True)
    reply = await acceptance.hello(PairingHello(message=exchange.message.hex()))
    exchange.finish(bytes.fromhex(reply.message))
    proof = PairingProof(session=reply.session, box=CALLER, proof=exchange.prove(CALLER, SEEN))
    await acceptance.proof(proof, ACCEPTOR, SEEN, came_from="")
    acceptance.open(PairingRequest(code=CODE))
    with pytest.raises(ForbiddenPairingError, match="no such exchange"):
        await acceptance.proof(proof, ACCEPTOR, SEEN, came_from="")
    assert len(kept) == 1
    acceptance.close()


async def test_only_the_newest_exchanges_are_kept() -> None:
    acceptance, _ = window()
    acceptance.open(PairingRequest(code=CODE))
    exchange = Exchange(CODE, calls=True)
    hello = PairingHello(message=exchange.message.hex())
    first = await acceptance.hello(hello)
    for _ in range(8):
        await acceptance.hello(hello)
    proof = PairingProof(session=first.session, box=CALLER, proof="0" * 64)
    with pytest.raises(ForbiddenPairingError, match="no such exchange"):
        await acceptance.proof(proof, ACCEPTOR, SEEN, came_from="")
    acceptance.close()


async def test_one_window_at_a_time() -> None:
    acceptance, _ = window()
    acceptance.open(PairingRequest())
    with pytest.raises(ConflictError):
        acceptance.open(PairingRequest())
    acceptance.close()
    acceptance.open(PairingRequest())
    acceptance.close()


async def test_a_box_that_cannot_be_kept_is_not_told_that_it_is_paired() -> None:
    async def fail(_: Paired) -> str:
        raise CyberError("The disk is full.")

    acceptance = Acceptance(keep=fail, now=lambda: datetime.now(UTC))
    acceptance.open(PairingRequest(code=CODE))
    with pytest.raises(CyberError, match="The disk is full"):
        await call(acceptance, CODE)
    assert acceptance.record().problem == "The disk is full."


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (403, b'{"error": {"message": "No.\\u001b[2J"}}', ForbiddenPairingError),
        (500, b'{"error": {"message": "No.\\u001b[2J"}}', PeerError),
        (200, b"<html>\x1b[2J", PeerError),
        (404, b"", PeerError),
    ],
)
def test_what_another_program_answers_is_a_harmless_sentence(
    status: int, body: bytes, error: type[CyberError]
) -> None:
    with pytest.raises(error) as raised:
        _decoded(status, body, PairingReply)
    assert "\x1b" not in str(raised.value)
