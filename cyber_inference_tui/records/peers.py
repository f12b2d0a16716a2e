"""Other boxes: what they tell each other, and what the owner sees of them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from cyber_inference_tui.records.machine import ResourceSample
from cyber_inference_tui.records.models import ModelRecord

MOST_PEERS = 8
"""Boxes that one service talks to."""
NAME_PATTERN = "^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"
"""The name of a box: a label of a host name (RFC 1123), so that ``NAME/ID`` is unambiguous."""

PeerName = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
_Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Message = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{2,256}$")]
_Code = Annotated[str, msgspec.Meta(pattern="^[0-9]{6}$")]


class Role(StrEnum):
    """The rights of a box at this one."""

    SERVE = "serve"
    """It may list and ask the models, and copy their files."""
    ADMIN = "serve+admin"
    """It may also load, unload and change everything, as the owner."""


class PeerState(StrEnum):
    """The state of a box as this one sees it."""

    CONNECTED = "connected"
    STALE = "stale"
    """It has not been heard of for some seconds."""
    RESTING = "resting"
    """It failed, and is left alone for a while."""
    REFUSED = "refused"
    """It does not know this box any more, or has another certificate."""
    CLIENT = "client"
    """It asks this box, and cannot be asked."""


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Another box (``GET /admin/peers``)."""

    name: PeerName
    url: str = ""
    """Its address; empty if it cannot be asked."""
    role: Role = Role.SERVE
    """Its rights here."""
    state: PeerState
    problem: str | None = None
    """Why it is not connected, in one sentence."""
    version: str | None = None
    models: tuple[ModelRecord, ...] = ()
    sample: ResourceSample | None = None
    """The last sample of its machine."""
    heard_at: datetime | None = None
    requests: int = 0
    """The requests that it is answering for this box now."""
    lends: int = 0
    """The bytes that it would lend to a model of this box."""


class PeerChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data of a ``peers`` event: what has changed of another box."""

    name: PeerName
    box: PeerRecord | None = None
    """Its record without ``models`` and ``heard_at``; ``None`` = it was removed."""
    models: tuple[ModelRecord, ...] = ()
    """Its models that are new or have changed."""
    gone: tuple[str, ...] = ()
    """The ids of its models that are gone."""


class PeerSuggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A box that says of itself that it is in the local network (``GET /admin/peers/suggestions``).

    Nobody has checked any of it.
    """

    name: str
    url: str
    version: str | None = None
    fingerprint: str | None = None
    """The SHA-256 fingerprint of its certificate."""


class NewPeer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A box to pair with (``POST /admin/peers``)."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    code: _Code
    """The code that the other box shows."""
    role: Role = Role.SERVE
    """Its rights here."""
    insecure: bool = False
    """Accept an address without TLS that is not on this machine."""


class PairingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait for another box to pair (``POST /admin/peers/pairing``)."""

    code: _Code | None = None
    """The code; ``None`` = a random one."""
    role: Role = Role.SERVE
    """The rights that the other box gets here."""


class PairingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The state of waiting for another box (``GET /admin/peers/pairing``)."""

    open: bool
    code: str | None = None
    """The code to enter there, while it is open."""
    until: datetime | None = None
    tries_left: int = 0
    paired: PeerName | None = None
    """The name of the box that has paired last."""
    problem: str | None = None
    """Why it closed without a box."""


class PairingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Query of ``GET /admin/peers/pairing``."""

    wait: bool = False
    """Answer when it has closed."""


class Box(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a box says of itself while pairing."""

    name: PeerName
    url: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    """Its address, in which ``*`` stands for the address that its call came from; empty if it
    listens only on its own machine."""
    certificate: Annotated[str, msgspec.Meta(max_length=65_536)] = ""
    """Its certificate (PEM); empty without TLS."""


class PairingHello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first message of a pairing (``POST /peers/pair``)."""

    message: _Message
    """SPAKE2's message, in hexadecimal digits."""


class PairingReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    session: _Hex32
    message: _Message


class PairingProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The second message of a pairing (``POST /peers/pair/proof``)."""

    session: _Hex32
    box: Box
    proof: _Hex32
    """Shows that the sender knows the code, and which certificate it sees."""


class PairingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    box: Box
    proof: _Hex32


class PeerUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has changed on a box, in its stream for others (``GET /peers/events``).

    There is one every two seconds, even if nothing has changed.
    """

    version: str | None = None
    """Only in the first update."""
    models: tuple[ModelRecord, ...] = ()
    """The models that are new or have changed; files, ports and process ids are left out."""
    gone: tuple[str, ...] = ()
    """The ids of models that are gone."""
    sample: ResourceSample | None = None
    """The machine, if there is a new sample."""
    lends: int = 0
    """The bytes that it would lend to a model of the box that reads this."""
