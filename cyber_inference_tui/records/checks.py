"""Results of trying a model's abilities on its server."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Ability(StrEnum):
    """An ability that is tried."""

    STREAM = "stream"
    """It sends an answer part by part, and counts its tokens at the end."""
    TOOLS = "tools"
    """It calls a function that a request offers."""
    SCHEMA = "schema"
    """Its answer obeys a JSON schema."""
    VISION = "vision"
    """It sees what is in an image."""
    THINKING = "thinking"
    """It thinks first, and its thoughts come apart from the answer."""
    NO_THINKING = "no thinking"
    """It answers at once where a request switches thinking off."""
    EMBEDDINGS = "embeddings"
    """It makes vectors, or ranks, with the pooling of its file."""


class Outcome(StrEnum):
    """The result of a trial."""

    YES = "yes"
    NO = "no"
    NOT_TRIED = "not tried"
    """The model is not made for it."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one ability."""

    ability: Ability
    outcome: Outcome
    evidence: str
    """The server's answer, or the reason why nothing was asked, in a line."""


class ModelCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The results for all abilities of a model (``POST /admin/models/ID/check``).

    They are valid for its files, its settings and the build of llama-server.
    """

    at: datetime
    build: str | None = None
    """The build of llama-server, such as ``b11669``."""
    trials: tuple[Trial, ...] = ()
    """In the order of ``Ability``."""
