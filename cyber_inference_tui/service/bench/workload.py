"""What a measurement asks of a llama-server: a new prompt and an answer, each of exact length."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import UpstreamError
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.service.bench.texts import BEGINNINGS
from cyber_inference_tui.text import clean_line

_CONNECT_SECONDS = 10.0
_MOST_ERROR = 500
_LETTERS = 4
"""Letters of a word in a prompt."""
_LIKELIEST = 20
"""Tokens whose probabilities are asked for."""

T = TypeVar("T")


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What each measurement asks, in tokens; ``parallel`` requests at once."""

    prompt: int
    tokens: int
    parallel: int = 1
    seed: int | None = None
    """Measurements with the same seed have the same prompts; ``None`` = new ones."""


class Answer(NamedTuple):
    """The times of an answer, by the loop's clock, and its speeds."""

    sent: float
    """Its request was sent …"""
    first: float
    """… the first token has arrived …"""
    last: float
    """… and the last one."""
    prompt_speed: float | None
    """Tokens of the prompt per second, as the server measured; ``None`` = it did not."""
    speed: float | None
    """Tokens of the answer per second, in the same way."""


class Speeds(NamedTuple):
    """The speeds of all requests of one measurement together."""

    prompt: float
    """Tokens per second until the last request has its first token."""
    generation: float
    """Tokens per second from the first token of all to the last."""
    first_token: float
    """Seconds from a request to its first token, in the mean."""


class _Timings(msgspec.Struct):
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class _Error(msgspec.Struct):
    message: str


class _Event(msgspec.Struct):
    """A part of a streamed answer (``tools/server/README.md`` of llama.cpp)."""

    tokens: list[int] = []
    timings: _Timings | None = None
    error: _Error | None = None


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Likely(msgspec.Struct):
    id: int
    logprob: float


class _Position(msgspec.Struct):
    top_logprobs: list[_Likely]


class _Probabilities(msgspec.Struct):
    """An answer with ``n_probs``, by token (``tools/server/README.md`` of llama.cpp)."""

    completion_probabilities: list[_Position]


def speeds_of(answers: Sequence[Answer], workload: Workload) -> Speeds:
    """Return the speeds of the answers, which ran at once.

    One request alone has the server's own times, which exclude the way to it.
    """
    first = sum(answer.first - answer.sent for answer in answers) / len(answers)
    if len(answers) == 1 and answers[0].prompt_speed and answers[0].speed:
        return Speeds(answers[0].prompt_speed, answers[0].speed, first)
    began = min(answer.sent for answer in answers)
    all_begun = max(answer.first for answer in answers)
    written = max(answer.last for answer in answers) - min(answer.first for answer in answers)
    return Speeds(
        prompt=len(answers) * workload.prompt / max(all_begun - began, 1e-9),
        # Each first token marks the beginning of the time, and is not part of it.
        generation=len(answers) * (workload.tokens - 1) / max(written, 1e-9),
        first_token=first,
    )


class LlamaClient:
    """Sends workloads to one model's llama-server. Use it as ``async with``.

    ``silence`` is the longest time in seconds without a byte; 0 = no limit. All errors are
    ``UpstreamError``.
    """

    def __init__(self, server: ServerAddress, model_id: str, silence: float) -> None:
        self._server = server
        self._model_id = model_id
        self._session = aiohttp.ClientSession(
            f"http://{server.host}:{server.port}",
            # llama-server may close an idle connection just when it is used again.
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            headers={"Authorization": f"Bearer {server.key}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence or None
            ),
        )

    async def __aenter__(self) -> LlamaClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def prompt(self, tokens: int, chance: random.Random) -> list[int]:
        """Return a new prompt of so many tokens.

        Words of random letters come first, so that no prompt begins like another one. The second
        half at most is the beginning of a text, which the model continues.
        """
        beginning = await self.tokens_of(f"\n\n{chance.choice(BEGINNINGS)}")
        beginning = beginning[max(0, len(beginning) - tokens // 2) :]
        # A word has one token at least.
        count = tokens - len(beginning)
        letters = chance.choices(string.ascii_lowercase, k=_LETTERS * count)
        words = ("".join(letters[at : at + _LETTERS]) for at in range(0, len(letters), _LETTERS))
        found = await self.tokens_of(" ".join(words))
        if len(found) < count:
            raise self._failure("its tokenizer makes less than a token of a word")
        return found[:count] + beginning

    async def tokens_of(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return (await self._post("/tokenize", {"content": text}, _Tokens)).tokens

    async def likely(self, prompt: Sequence[int]) -> dict[int, float]:
        """Return the likeliest tokens after a prompt, with the logarithms of their
        probabilities."""
        body = {
            "prompt": list(prompt),
            "n_predict": 1,
            "n_probs": _LIKELIEST,
            "temperature": 0,
            # A token without text has no probabilities in the answer.
            "ignore_eos": True,
        }
        found = (await self._post("/completion", body, _Probabilities)).completion_probabilities
        if not found or not found[0].top_logprobs:
            raise self._failure("it does not tell the probabilities of tokens")
        return {one.id: one.logprob for one in found[0].top_logprobs}

    async def _post(self, path: str, body: dict[str, Any], kind: type[T]) -> T:
        try:
            async with self._session.post(path, json=body) as answer:
                await self._check(answer)
                return msgspec.json.decode(await answer.read(), type=thread_safe(kind))
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise self._failure(str(error) or "it does not answer") from error

    async def ask(self, prompt: list[int], tokens: int) -> Answer:
        """Send a prompt, and return the times of its answer of so many tokens."""
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "ignore_eos": True,
            # What another prompt has left must not make this one look faster.
            "cache_prompt": False,
            "temperature": 0,
            "stream": True,
            # Otherwise the last event repeats the prompt.
            "response_fields": ["timings"],
        }
        sent = asyncio.get_running_loop().time()
        try:
            async with self._session.post("/completion", json=body) as answer:
                return await self._read(answer, sent, tokens)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # TimeoutError is an OSError; a line that is too long is a ValueError.
            raise self._failure(str(error) or "it does not answer") from error

    async def _read(self, answer: aiohttp.ClientResponse, sent: float, tokens: int) -> Answer:
        clock = asyncio.get_running_loop().time
        await self._check(answer)
        first = last = None
        timings: _Timings | None = None
        count = 0
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            event = msgspec.json.decode(line[6:], type=thread_safe(_Event))
            if event.error is not None:
                raise self._failure(event.error.message)
            if event.tokens:
                last = clock()
                first = first or last
                count += len(event.tokens)
            timings = event.timings or timings
        if timings is not None:
            # A token that ends in the middle of a character has no event of its own.
            count = timings.predicted_n
        if first is None or last is None or count < tokens:
            raise self._failure(f"it ended after {count} of {tokens} tokens")
        return Answer(
            sent,
            first,
            last,
            _speed(timings.prompt_n, timings.prompt_ms) if timings else None,
            _speed(timings.predicted_n, timings.predicted_ms) if timings else None,
        )

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status != HTTPStatus.OK:
            text = (await answer.content.read(_MOST_ERROR)).decode("utf-8", "replace")
            raise self._failure(text)

    def _failure(self, reason: str) -> UpstreamError:
        return UpstreamError(
            f"{self._model_id} cannot be measured: {clean_line(reason, limit=_MOST_ERROR)}."
        )


def _speed(tokens: int, milliseconds: float) -> float | None:
    return tokens / milliseconds * 1000 if milliseconds > 0 else None
