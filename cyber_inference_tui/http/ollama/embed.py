"""``/api/embed`` and the older ``/api/embeddings``, by way of llama-server's ``/v1/embeddings``."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.framing import BadResponseError
from cyber_inference_tui.http.ollama.answers import Answer
from cyber_inference_tui.http.ollama.call import MODEL_REQUIRED, Call, Need, reader
from cyber_inference_tui.http.ollama.server_answer import read_embeddings
from cyber_inference_tui.http.ollama.values import idle_timeout

_PATH = "/v1/embeddings"
_EMBEDDINGS = Need("embeddings", "embeddings", "Ask a model for embeddings.", 501)


class _Embed(msgspec.Struct):
    model: str | None = None
    input: Any = None
    prompt: str | None = None
    dimensions: int | None = None
    keep_alive: Any = None


_read = reader(_Embed)
_decode_vector = msgspec.json.Decoder(thread_safe(list[float])).decode


def read_embed(body: Body) -> Call:
    """Translate a request to ``/api/embed``. Raises ``InvalidRequestError``."""
    asked = _read(body)
    texts = [asked.input] if isinstance(asked.input, str) else asked.input or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(
            "invalid input type.", hint="The input is a text, or a list of texts.", param="input"
        )
    return _call(asked, texts if any(texts) else [], _EmbedAnswer)


def read_embeddings_of_prompt(body: Body) -> Call:
    """Translate a request to ``/api/embeddings``. Raises ``InvalidRequestError``."""
    asked = _read(body)
    return _call(asked, [asked.prompt] if asked.prompt else [], _PromptAnswer)


def _call(asked: _Embed, texts: list[str], kind: type[_EmbedAnswer]) -> Call:
    if not asked.model:
        raise InvalidRequestError(MODEL_REQUIRED, param="model")
    return Call(
        model=asked.model,
        path=_PATH,
        fields={"input": texts},
        answer=kind(asked.model, idle_timeout(asked.keep_alive), asked.dimensions or 0),
        needs=(_EMBEDDINGS,),
        asks_nothing=not texts,
    )


class _EmbedAnswer(Answer):
    """The vectors of all texts, whose length is 1; ``dimensions`` cuts them, 0 does not."""

    def __init__(self, model: str, idle_timeout: float | None, dimensions: int) -> None:
        super().__init__(model, idle_timeout)
        self._dimensions = dimensions

    def nothing(self, reason: str) -> bytes:
        return self._head + b',"embeddings":[]}'

    def whole(self, body: bytes) -> bytes:
        vectors, tokens = self._read(body)
        figures: dict[str, Any] = {"embeddings": vectors, **self._durations()}
        if tokens:
            figures["prompt_eval_count"] = tokens
        return b"%b,%b" % (self._head, msgspec.json.encode(figures)[1:])

    def _read(self, body: bytes) -> tuple[list[Any], int]:
        """Return the vectors, in the order of the texts, and the number of tokens."""
        found = read_embeddings(body)
        ordered = sorted(found.data, key=lambda one: one.index)
        vectors: list[Any] = [one.embedding for one in ordered]
        if self._dimensions > 0:
            vectors = [_cut(vector, self._dimensions) for vector in vectors]
        return vectors, found.usage.prompt_tokens if found.usage is not None else 0


class _PromptAnswer(_EmbedAnswer):
    """The vector of one text."""

    def nothing(self, reason: str) -> bytes:
        return b'{"embedding":[]}'

    def whole(self, body: bytes) -> bytes:
        vectors, _ = self._read(body)
        if not vectors:
            raise BadResponseError("it sent no embedding")
        return b'{"embedding":%b}' % msgspec.json.encode(vectors[0])


def _cut(vector: msgspec.Raw, dimensions: int) -> Any:
    """Return the first numbers of a vector, with the length 1 again."""
    try:
        numbers = _decode_vector(vector)
    except msgspec.MsgspecError:
        raise BadResponseError("it sent an embedding of another kind") from None
    if len(numbers) <= dimensions:
        return vector
    numbers = numbers[:dimensions]
    length = math.hypot(*numbers)
    return [number / length for number in numbers] if length else numbers
