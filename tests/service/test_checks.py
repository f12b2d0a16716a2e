"""The judgements on recorded answers, good and bad, and what is kept of them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cyber_inference_tui.errors import UpstreamError
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records.checks import Ability, ModelCheck, Outcome, Trial
from cyber_inference_tui.service.capabilities import capabilities_of
from cyber_inference_tui.service.checks import checker, judge, questions
from cyber_inference_tui.service.checks.answers import (
    Chat,
    Choice,
    Function,
    Message,
    Rank,
    Ranks,
    Refusal,
    ToolCall,
    Vector,
    Vectors,
    read_answer,
    read_events,
)
from cyber_inference_tui.service.checks.kept_checks import CHECKS_FILE, KeptChecks
from cyber_inference_tui.settings.schema import Settings

SEES = ProjectorFacts(kind="clip", vision=True, audio=False, width=None)
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def said(
    content: str | None = None,
    *,
    thoughts: str | None = None,
    calls: list[ToolCall] | None = None,
    finish: str = "stop",
) -> Chat:
    message = Message(content=content, reasoning_content=thoughts, tool_calls=calls)
    return Chat(choices=[Choice(message=message, finish_reason=finish)])


def called(name: str, arguments: str) -> Chat:
    return said(calls=[ToolCall(function=Function(name=name, arguments=arguments))])


def events(*texts: str, usage: bool = True) -> bytes:
    lines = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    if usage:
        lines.append({"choices": [], "usage": {"completion_tokens": len(texts)}})  # type: ignore[dict-item]
    data = [msgspec.json.encode(line) for line in lines]
    return b"".join(b"data: %b\n\n" % line for line in [*data, b"[DONE]"])


@pytest.mark.parametrize(
    ("body", "outcome", "evidence"),
    [
        (events("one", " two"), Outcome.YES, "2 parts, 2 tokens counted"),
        (events("one two"), Outcome.NO, "the text came in 1 parts"),
        (events("one", " two", usage=False), Outcome.NO, "2 parts, but no count of tokens"),
    ],
)
def test_a_stream_comes_in_parts_and_is_counted(
    body: bytes, outcome: Outcome, evidence: str
) -> None:
    found = read_events(200, body)
    assert not isinstance(found, Refusal)
    trial = judge.stream(found)
    assert (trial.outcome, trial.evidence.startswith(evidence)) == (outcome, True)


def test_a_stream_that_breaks_off_or_fails_is_refused() -> None:
    assert read_events(200, events("one", "two")[:-14]) == Refusal("the stream has no end")
    error = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    assert read_events(200, error) == Refusal("out of memory")
    assert read_events(503, b"") == Refusal("status 503")


def test_an_error_is_refused_with_its_message_and_another_shape_with_the_reason() -> None:
    assert read_answer(400, b'{"error":{"message":"no tools"}}', Chat) == Refusal("no tools")
    found = read_answer(200, b'{"choices":7}', Chat)
    assert isinstance(found, Refusal)
    assert "another shape" in found.reason
    trial = judge.refused(Ability.TOOLS, Refusal("no tools"))
    assert (trial.outcome, trial.evidence) == (Outcome.NO, "no tools")


@pytest.mark.parametrize(
    ("answer", "outcome", "evidence"),
    [
        (
            called("get_weather", '{"city": "Lisbon"}'),
            Outcome.YES,
            'called get_weather({"city": "Lisbon"})',
        ),
        (called("get_weather", '{"city": "Paris"}'), Outcome.NO, "called get_weather("),
        (called("get_weather", '{"city": "Lisbon'), Outcome.NO, "called get_weather("),
        (called("get_weather", '["Lisbon"]'), Outcome.NO, "called get_weather("),
        (called("weather", '{"city": "Lisbon"}'), Outcome.NO, "called weather("),
        (said("It is sunny."), Outcome.NO, "no call, but “It is sunny.”"),
        (Chat(), Outcome.NO, "no call, but an empty answer"),
    ],
)
def test_a_tool_is_called_by_its_name_with_the_right_argument(
    answer: Chat, outcome: Outcome, evidence: str
) -> None:
    trial = judge.tools(answer)
    assert (trial.outcome, trial.evidence.startswith(evidence)) == (outcome, True)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said('{"name": "Anna", "age": 31}'), Outcome.YES),
        (said('{"name": "Anna", "age": "31"}'), Outcome.NO),
        (said('{"name": "Anna", "age": true}'), Outcome.NO),
        (said('{"name": "Anna"}'), Outcome.NO),
        (said('{"name": "Anna", "age": 31, "city": "Oslo"}'), Outcome.NO),
        (said('```json\n{"name": "Anna", "age": 31}\n```'), Outcome.NO),
        (said('{"name": "Anna', finish="length"), Outcome.NO),
    ],
)
def test_a_schema_is_obeyed_to_the_letter(answer: Chat, outcome: Outcome) -> None:
    trial = judge.schema(answer)
    assert trial.outcome is outcome
    if not answer.is_complete:
        assert trial.evidence.endswith("cut at the limit of tokens")


def test_an_image_is_seen_only_if_each_colour_is_named_and_no_other() -> None:
    right = [("red", said("Red.")), ("blue", said("The image is blue"))]
    assert judge.vision(right).outcome is Outcome.YES
    assert judge.vision(right).evidence == "red: “Red.”; blue: “The image is blue”"
    guessed = [("red", said("red")), ("blue", said("red"))]
    assert judge.vision(guessed).outcome is Outcome.NO
    both = [("red", said("red or blue")), ("blue", said("red or blue"))]
    assert judge.vision(both).outcome is Outcome.NO


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said("At 16:10.", thoughts="14:35 plus 95 minutes"), Outcome.YES),
        (said("At 16:10."), Outcome.NO),
        (said("<think>14:35</think>At 16:10.", thoughts="and more"), Outcome.NO),
        (said("", thoughts="14:35 plus", finish="length"), Outcome.NO),
        (said("At", thoughts="14:35 plus", finish="length"), Outcome.NO),
    ],
)
def test_thoughts_come_first_and_apart(answer: Chat, outcome: Outcome) -> None:
    assert judge.thinking(answer).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (said("At 16:10."), Outcome.YES),
        (said("At 16:10.", thoughts="\n\n"), Outcome.YES),
        (said("At 16:10.", thoughts="14:35 plus"), Outcome.NO),
        (said("<think>\n14:35"), Outcome.NO),
        (said(""), Outcome.NO),
    ],
)
def test_thinking_can_be_switched_off(answer: Chat, outcome: Outcome) -> None:
    assert judge.no_thinking(answer).outcome is outcome


def vectors(*rows: list[float]) -> Vectors:
    return Vectors(data=[Vector(embedding=row) for row in rows])


def embedded(found: Vectors, *, width: int | None = 2, used: str | None = "mean") -> Trial:
    return judge.embeddings(found, width=width, pooling="mean", used=used)


def test_vectors_have_the_width_and_pooling_of_the_file_and_show_likeness() -> None:
    good = vectors([1, 0], [0.8, 0.6], [0, 1])
    assert embedded(good).evidence == (
        "2 numbers, pooling mean; likeness of near texts 0.80, of others 0.00"
    )
    assert embedded(good).outcome is Outcome.YES
    assert embedded(good, width=3).outcome is Outcome.NO
    assert embedded(good, used="cls").evidence.endswith("but the file asks for pooling mean")
    assert embedded(vectors([1, 0], [0, 1], [0.8, 0.6])).outcome is Outcome.NO
    assert embedded(vectors([0, 0], [0, 0], [0, 0])).outcome is Outcome.NO
    assert embedded(vectors([1, 0], [1, 0])).outcome is Outcome.NO
    assert embedded(vectors([1, 0], [1, 0], [1])).outcome is Outcome.NO


def test_ranks_put_the_answer_first() -> None:
    def ranked(*scores: float) -> Outcome:
        results = [Rank(index=at, relevance_score=one) for at, one in enumerate(scores)]
        return judge.ranks(Ranks(results=results)).outcome

    assert ranked(-3.0, 2.0) is Outcome.YES
    assert ranked(2.0, -3.0) is Outcome.NO
    assert ranked(2.0) is Outcome.NO


def test_evidence_is_a_clean_line_of_bounded_length() -> None:
    trial = judge.tools(said("one\ntwo\x1b[31m" + "x" * 10_000))
    assert "\n" not in trial.evidence
    assert "\x1b" not in trial.evidence
    assert len(trial.evidence) < 250


def test_the_image_is_a_valid_png_of_its_colour() -> None:
    data = questions._png((255, 0, 0))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + length
    width, height, depth, colours, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (width, height, depth, colours) == (64, 64, 8, 2)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert rows == (b"\0" + b"\xff\0\0" * 64) * 64


# What follows from a check


def model(**more: object) -> LocalModel:
    facts = ModelMetadata(architecture="llama", template=TemplateFacts(tools=True))
    made = LocalModel(id="m", path=Path("/m.gguf"), size_bytes=1, modified=5, metadata=facts)
    return msgspec.structs.replace(made, **more)


def check_of(*trials: tuple[Ability, Outcome], build: str | None = "b1") -> ModelCheck:
    found = [Trial(ability=one, outcome=outcome, evidence="") for one, outcome in trials]
    return ModelCheck(at=NOW, build=build, trials=tuple(found))


def test_what_was_tried_wins_over_what_the_file_claims() -> None:
    seeing = model(mmproj=Path("/p.gguf"), projector_facts=SEES)
    spec = resolve(seeing, Settings())
    assert capabilities_of(seeing, spec) == ("completion", "chat", "tools", "vision")
    check = check_of(
        (Ability.TOOLS, Outcome.NO),
        (Ability.VISION, Outcome.NOT_TRIED),
        (Ability.THINKING, Outcome.YES),
        (Ability.SCHEMA, Outcome.NO),
    )
    assert capabilities_of(seeing, spec, None, check) == (
        "completion",
        "chat",
        "thinking",
        "vision",
    )


async def test_results_are_kept_until_anything_changes(tmp_path: Path) -> None:
    one, settings = model(), Settings()
    spec, check = resolve(one, settings), check_of((Ability.TOOLS, Outcome.YES))
    kept = KeptChecks(tmp_path)
    await kept.read()
    assert kept.of(one, spec, "b1") is None
    await kept.keep(one, spec, check)

    kept = KeptChecks(tmp_path)
    await kept.read()
    assert kept.of(one, spec, "b1") == check
    assert kept.of(one, spec, "b2") is None
    assert kept.of(model(modified=6), spec, "b1") is None
    other = resolve(one, Settings(llama_args=("--chat-template", "chatml")))
    assert kept.of(one, other, "b1") is None
    assert (tmp_path / CHECKS_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"{", b'{"m": {"signature": 1}}', b"\xff\xfe"])
async def test_a_damaged_file_loses_only_the_results(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CHECKS_FILE).write_bytes(data)
    kept = KeptChecks(tmp_path)
    await kept.read()
    assert "the results of checks are lost" in caplog.text
    one = model()
    spec = resolve(one, Settings())
    await kept.keep(one, spec, check_of((Ability.TOOLS, Outcome.YES)))
    assert kept.of(one, spec, "b1") is not None


# The questions, asked of a server


async def answers_of(
    answer: Callable[[dict[str, Any]], web.Response], *can: str
) -> dict[Ability, Trial]:
    """Try a server that answers chats so."""

    async def handle(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer key"
        return answer(await request.json())

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with TestServer(app) as stub:
        assert stub.port is not None
        address = ServerAddress(stub.host, stub.port, "key")
        async with checker._Server(address, "m") as server:
            return {trial.ability: trial for trial in await checker._try_texts(server, can)}


def sent(message: dict[str, Any]) -> web.Response:
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


def able(question: dict[str, Any]) -> web.Response:
    """Answer as a model that can do everything."""
    content = question["messages"][0]["content"]
    if question.get("stream"):
        return web.Response(body=events("one", "two"))
    if "tools" in question:
        call = {"name": "get_weather", "arguments": '{"city":"Lisbon"}'}
        return sent({"tool_calls": [{"function": call}]})
    if "response_format" in question:
        return sent({"content": '{"name":"Anna","age":31}'})
    if isinstance(content, list):
        url = content[1]["image_url"]["url"]
        seen = base64.b64decode(url.removeprefix("data:image/png;base64,"))
        red = seen == questions._png((255, 0, 0))
        return sent({"content": "red" if red else "blue"})
    if question["chat_template_kwargs"]["enable_thinking"]:
        return sent({"reasoning_content": "95 minutes …", "content": "16:10"})
    return sent({"content": "16:10"})


async def test_a_model_that_can_do_everything_passes_all_trials() -> None:
    found = await answers_of(able, "vision", "thinking")
    assert list(found) == list(Ability)
    last = found.pop(Ability.EMBEDDINGS)
    assert last.outcome is Outcome.NOT_TRIED
    assert {trial.outcome for trial in found.values()} == {Outcome.YES}


async def test_only_what_the_file_is_made_for_is_tried() -> None:
    found = await answers_of(able)
    not_tried = {ability for ability, one in found.items() if one.outcome is Outcome.NOT_TRIED}
    assert not_tried == {
        Ability.VISION,
        Ability.THINKING,
        Ability.NO_THINKING,
        Ability.EMBEDDINGS,
    }


async def test_a_server_that_refuses_fails_each_trial_with_its_reason() -> None:
    def refuse(question: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"message": "not supported"}}, status=400)

    found = await answers_of(refuse, "vision", "thinking")
    del found[Ability.EMBEDDINGS]
    assert {(one.outcome, one.evidence) for one in found.values()} == {
        (Outcome.NO, "not supported")
    }


async def test_an_answer_without_end_is_cut() -> None:
    def flood(question: dict[str, Any]) -> web.Response:
        return web.Response(body=b"x" * (5 << 20))

    found = await answers_of(flood)
    assert found[Ability.TOOLS].evidence == "an answer of more than 4.00 MiB"


async def test_a_server_that_is_lost_is_an_error_of_the_check() -> None:
    with pytest.raises(UpstreamError, match="m failed to answer"):
        async with checker._Server(ServerAddress("127.0.0.1", 1, "key"), "m") as server:
            await server.chat(questions.TOOLS)
