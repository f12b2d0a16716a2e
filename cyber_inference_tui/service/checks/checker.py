"""Tries the abilities of a model on its server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Self, TypeVar

import aiohttp

from cyber_inference_tui.errors import UpstreamError
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records import Priority
from cyber_inference_tui.records.checks import Ability, ModelCheck, Trial
from cyber_inference_tui.scheduler.scheduler import Scheduler
from cyber_inference_tui.service.capabilities import capabilities_of, makes_vectors
from cyber_inference_tui.service.checks import judge, questions
from cyber_inference_tui.service.checks.answers import (
    Chat,
    Ranks,
    Refusal,
    Vectors,
    read_answer,
    read_events,
)
from cyber_inference_tui.service.checks.kept_checks import KeptChecks
from cyber_inference_tui.units import size_text

T = TypeVar("T")

_ANSWER_SECONDS = 300.0
"""A server that needs longer for one of these short answers does not do it."""
_CONNECT_SECONDS = 10.0
_MOST_BYTES = 4 << 20
_CHAT = "/v1/chat/completions"


class Checker:
    """Tries models, and keeps the results.

    A check takes one place at the model, with the lowest priority, and asks its server directly:
    rules for requests do not change the questions, and no client has sent them.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        kept: KeptChecks,
        *,
        resolve: Callable[[str], LocalModel],
        build: Callable[[], str | None],
        changed: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._scheduler = scheduler
        self._kept = kept
        self._resolve = resolve
        self._build = build
        self._changed = changed
        self._now = now

    async def check(self, name: str) -> ModelCheck:
        """Load a model, try all its abilities, and keep the results.

        Raises ``CyberError`` if it cannot be loaded, or its server is lost.
        """
        model = self._resolve(name)
        with await self._scheduler.acquire(model, priority=Priority.LOW) as lease:
            state = self._scheduler.state(model.id)
            spec = state.spec if state is not None else self._scheduler.spec(model)
            can = capabilities_of(model, spec, lease.server.template)
            async with _Server(lease.address, model.id) as server:
                if makes_vectors(model, spec):
                    trials = await _try_vectors(server, model, spec)
                else:
                    trials = await _try_texts(server, can)
            if lease.server_exited:
                raise UpstreamError(f"{model.id} failed to answer: {lease.exit_reason()}.")
        found = ModelCheck(at=self._now(), build=self._build(), trials=trials)
        # A load may choose another context, which changes no result.
        await self._kept.keep(model, self._scheduler.spec(model), found)
        self._changed(model.id)
        return found


class _Server:
    """The server of a model. Use it as ``async with``."""

    def __init__(self, address: ServerAddress, model_id: str) -> None:
        self._model_id = model_id
        self._session = aiohttp.ClientSession(
            f"http://{address.host}:{address.port}",
            # llama-server may close an idle connection just when it is used again.
            connector=aiohttp.TCPConnector(force_close=True),
            headers={"Authorization": f"Bearer {address.key}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=_CONNECT_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def ask(self, path: str, question: dict[str, Any]) -> tuple[int, bytes] | Refusal:
        """Return the status and the body of the answer.

        Raises ``UpstreamError`` if the server is lost.
        """
        body = {"model": self._model_id, **question}
        try:
            async with self._session.post(path, json=body) as answer:
                found = bytearray()
                async for part in answer.content.iter_any():
                    found += part
                    if len(found) > _MOST_BYTES:
                        return Refusal(f"an answer of more than {size_text(_MOST_BYTES)}")
                return answer.status, bytes(found)
        except TimeoutError:
            return Refusal(f"no answer within {_ANSWER_SECONDS:g} s")
        except aiohttp.ClientError as error:
            raise UpstreamError(f"{self._model_id} failed to answer: {error}.") from error

    async def read(self, path: str, question: dict[str, Any], kind: type[T]) -> T | Refusal:
        """Return the answer, if it is one of this kind."""
        found = await self.ask(path, question)
        return found if isinstance(found, Refusal) else read_answer(*found, kind)

    async def chat(self, question: dict[str, Any]) -> Chat | Refusal:
        """Return the answer of a chat."""
        return await self.read(_CHAT, question, Chat)


def _judged(ability: Ability, answer: T | Refusal, judgement: Callable[[T], Trial]) -> Trial:
    if isinstance(answer, Refusal):
        return judge.refused(ability, answer)
    return judgement(answer)


async def _try_texts(server: _Server, can: Collection[str]) -> tuple[Trial, ...]:
    events = await server.ask(_CHAT, questions.STREAM)
    parts = events if isinstance(events, Refusal) else read_events(*events)
    return (
        _judged(Ability.STREAM, parts, judge.stream),
        _judged(Ability.TOOLS, await server.chat(questions.TOOLS), judge.tools),
        _judged(Ability.SCHEMA, await server.chat(questions.SCHEMA), judge.schema),
        await _try_vision(server, can),
        *await _try_thinking(server, can),
        judge.not_tried(Ability.EMBEDDINGS, "it writes text"),
    )


async def _try_vision(server: _Server, can: Collection[str]) -> Trial:
    if "vision" not in can:
        return judge.not_tried(Ability.VISION, "it has no projector for images")
    answers = []
    for colour in questions.COLOURS:
        answer = await server.chat(questions.vision(colour))
        if isinstance(answer, Refusal):
            return judge.refused(Ability.VISION, answer)
        answers.append((colour, answer))
    return judge.vision(answers)


async def _try_thinking(server: _Server, can: Collection[str]) -> tuple[Trial, Trial]:
    if "thinking" not in can:
        reason = "its chat template knows no thoughts"
        return (
            judge.not_tried(Ability.THINKING, reason),
            judge.not_tried(Ability.NO_THINKING, reason),
        )
    return (
        _judged(Ability.THINKING, await server.chat(questions.THINKING), judge.thinking),
        _judged(Ability.NO_THINKING, await server.chat(questions.NO_THINKING), judge.no_thinking),
    )


async def _try_vectors(server: _Server, model: LocalModel, spec: ServerSpec) -> tuple[Trial, ...]:
    texts = (one for one in Ability if one is not Ability.EMBEDDINGS)
    facts = model.metadata
    pooling = facts.pooling if facts else None
    used = spec.options.pooling or pooling
    if used == "rank":
        ranks = await server.read("/v1/rerank", questions.RANKS, Ranks)
        trial = _judged(Ability.EMBEDDINGS, ranks, judge.ranks)
    else:
        vectors = await server.read("/v1/embeddings", questions.EMBEDDINGS, Vectors)
        trial = _judged(
            Ability.EMBEDDINGS,
            vectors,
            lambda found: judge.embeddings(
                found,
                width=facts.embedding_length if facts else None,
                pooling=pooling,
                used=used,
            ),
        )
    return (*(judge.not_tried(one, "it makes vectors, no text") for one in texts), trial)
