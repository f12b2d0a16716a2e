"""Models across two boxes: what the boxes tell each other, and what the owner sees of it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cyber_inference_tui.records.peers import PeerName

MOST_DEVICES = 16
"""GPUs of one worker, at most."""


class WorkerQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a box asks for (``GET /peers/worker``)."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    memory: Annotated[int, msgspec.Meta(ge=1)]
    """Bytes."""


class WorkerState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the box that runs a worker, over the channel that keeps it running."""

    ready: str = ""
    """The name under which connections to the worker are opened: it runs now."""
    ended: str = ""
    """Why there is none, or none any more."""


class LendingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a box could lend to models of another one (first message of ``GET /peers/link``)."""

    problem: str = ""
    """Why it runs no worker for that box."""
    build: str = ""
    """Its build of llama.cpp."""
    protocol: str = ""
    """The version of its worker's RPC protocol."""
    memory: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Bytes that a worker may use, perhaps after unloading idle models."""
    devices: Annotated[int, msgspec.Meta(ge=1, le=MOST_DEVICES)] = 1
    """GPUs of its worker; 1 also for a processor."""
    has_gpu: bool = False


class SplitQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to check (``POST /admin/peers/NAME/check``)."""

    model: str = ""
    """A model of this box, for the tokens per second to expect; empty = none."""


class SplitCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model can be split over this box and another one."""

    name: PeerName
    build_here: str
    build_there: str
    protocol_here: str
    protocol_there: str
    round_trip_ms: float
    gbit_per_second: float
    memory_there_bytes: int
    tokens_per_second: float | None = None
    """The speed to expect of the model for one request; ``None`` = unknown."""
    problems: tuple[str, ...] = ()
    """Why it cannot; empty = it can."""
