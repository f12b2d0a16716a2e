"""A request of Ollama's API, translated."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import BROKEN, Body, without_bom
from cyber_inference_tui.http.error_responses import HttpError
from cyber_inference_tui.http.ollama.answers import Answer
from cyber_inference_tui.http.ollama.values import AT_ONCE
from cyber_inference_tui.library.catalog import LocalModel

T = TypeVar("T")

MODEL_REQUIRED = "model is required"


class Need(NamedTuple):
    """A capability that a request needs of its model."""

    capability: str
    word: str
    """Ollama's name for it."""
    way_out: str
    status: int = 400


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is read, and translated as far as that needs no model."""

    model: str
    """The name in the request."""
    path: str
    """The path of llama-server."""
    fields: dict[str, Any]
    """The request for llama-server, without the model."""
    answer: Answer
    stream: bool = False
    needs: tuple[Need, ...] = ()
    asks_nothing: bool = False
    """It only has the model loaded, or unloaded."""

    @property
    def unloads(self) -> bool:
        """Whether it only has the model unloaded."""
        return self.asks_nothing and self.answer.idle_timeout == AT_ONCE

    def check(self, capabilities: Collection[str]) -> None:
        """Raise ``InvalidRequestError`` or ``HttpError`` if the model lacks a capability.

        A model without any is one about which nothing is known.
        """
        for need in self.needs:
            if capabilities and need.capability not in capabilities:
                text = f'"{self.model}" does not support {need.word}.'
                if need.status == InvalidRequestError.status:
                    raise InvalidRequestError(text, hint=need.way_out)
                raise HttpError(text, need.status, hint=need.way_out)


class OnlyLoadError(InvalidRequestError):
    """The request asks the model for nothing, so there is nothing to forward.

    The model is loaded or unloaded instead.
    """

    def __init__(self, model: LocalModel, call: Call) -> None:
        super().__init__("The request asks the model for nothing.")
        self.model = model
        self.call = call


def reader(kind: type[T]) -> Callable[[Body], T]:
    """Return a function that reads the bodies of one kind of request.

    It raises ``InvalidRequestError``.
    """
    decode = msgspec.json.Decoder(thread_safe(kind)).decode

    def read(body: Body) -> T:
        if not body:
            raise InvalidRequestError("missing request body")
        try:
            return decode(without_bom(body))
        except msgspec.ValidationError as error:
            raise InvalidRequestError(
                f"The request has a value of a wrong type: {error}."
            ) from None
        except BROKEN as error:
            raise InvalidRequestError(f"The request's body is not valid JSON: {error}.") from None

    return read
