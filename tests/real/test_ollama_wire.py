"""Requests to Ollama, sent to the service: the same statuses, keys and types in the answers.

``ollama_wire.txt`` was recorded from Ollama 0.24 in August 2026. A block of it is a request, the
status and content type of the answer, and the answer, of which long values are left out. Beside
each deliberate difference is its reason.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from cyber_inference_tui.gguf.demo import CHAT_TEMPLATE
from tests.gguf.synthetic_projector import projector
from tests.real.conftest import Starter

pytestmark = pytest.mark.real

_DATE = re.compile(r"\d{4}-\d\d-\d\dT")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")

HI = '"messages":[{"role":"user","content":"hi"}]'
WIDTH = 1120
"""The length of the demo's embeddings."""
INFERENCE = frozenset({"/api/chat", "/api/generate", "/api/embed", "/api/embeddings"})

PLAIN = """\
{%- for message in messages %}{{ '<|' + message.role + '|>' + (message.content or '') + '<|end|>' }}
{%- endfor %}{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif -%}"""
TOOLISH = f"""\
{{%- if tools %}}{{{{ '<|system|>' + (tools | tojson) + '<|end|>' }}}}{{% endif %}}{PLAIN}
{{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false -%}}
<think></think>{{% elif add_generation_prompt %}}<think>{{% endif -%}}"""


class Exchange(NamedTuple):
    """A request to Ollama, and its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    kind: str
    """The content type; empty = not recorded, or there is no content."""
    answer: tuple[str, ...]

    @property
    def name(self) -> str:
        """The request on one line."""
        words = [self.method, self.path, self.body]
        words += [f"{name}: {value}" for name, value in self.headers.items()]
        return " ".join(filter(None, words))[:160]


def recorded() -> list[Exchange]:
    found = []
    for block in (Path(__file__).parent / "ollama_wire.txt").read_text("utf-8").split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        method, path, *body = lines.pop(0).split(" ", 2)
        headers = {}
        while lines[0].startswith("> "):
            name, _, value = lines.pop(0)[2:].partition(": ")
            headers[name] = value
        status, _, kind = lines.pop(0).partition(" ")
        found.append(
            Exchange(method, path, headers, "".join(body), int(status), kind, tuple(lines))
        )
    return found


class Difference(NamedTuple):
    """A deliberate difference: our status, and the reason."""

    status: int
    why: str


DIFFERENT = {
    'POST /api/pull {"model":"tiny"}': Difference(200, "a model that is here needs no registry"),
    'POST /api/pull {"model":"tiny","stream":false}': Difference(200, "the same"),
    'POST /api/push {"model":"tiny"}': Difference(501, "nothing is ever sent from this machine"),
    "GET /api/experimental/model-recommendations": Difference(404, "it advertises models"),
    "POST /api/me": Difference(404, "there are no accounts"),
    f'POST /v1/messages {{"model":"nope","max_tokens":3,{HI}}}': Difference(
        404, "the id of a request is in the header X-Request-Id of every answer"
    ),
}


@pytest.fixture(scope="module")
def client(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a service with models like those of the recording."""
    one = Starter(tmp_path_factory.mktemp("service"), demo_gguf)
    config = {
        "llama_server_path": str(llama_server),
        "llama_server_base_port": 0,
        "llama_threads": 1,
        "default_context_size": 2048,
        "models": {
            "tiny": {"request_defaults": {"system": "be brief", "temperature": 0.5}},
            "embed": {"args": ["--embedding", "--pooling", "mean"]},
        },
    }
    service = one.make(config, ())
    folder = service.data_dir / "models"
    demo = demo_gguf.read_bytes()
    for name, template in (("tiny", PLAIN), ("toolish", TOOLISH)):
        (folder / f"{name}.gguf").write_bytes(with_template(demo, template))
    shutil.copyfile(demo_gguf, folder / "embed.gguf")
    (folder / "gem").mkdir()
    shutil.copyfile(demo_gguf, folder / "gem" / "gem1.gguf")
    projector(image=224, width=WIDTH).write(folder / "gem" / "mmproj-F16.gguf")
    with service.start().client() as client:
        for name in ("tiny", "embed", "toolish"):
            assert client.post(f"/admin/models/{name}/load", json={}).status_code == 200
        yield client
    one.end()


def with_template(demo: bytes, template: str) -> bytes:
    """The demo's file with another chat template, filled up to the same length."""
    old = CHAT_TEMPLATE.encode()
    room = len(old) - len(template.encode()) - len("{##}")
    assert demo.count(old) == 1
    return demo.replace(old, f"{{#{' ' * room}#}}{template}".encode())


@pytest.fixture(scope="module")
def replayed(client: httpx.Client) -> dict[str, dict[str, list[str]]]:
    """The differences of each answer, by request, of inference and of all else; in order."""
    found: dict[str, dict[str, list[str]]] = {"inference": {}, "other": {}}
    for exchange in recorded():
        answer = client.request(
            exchange.method,
            exchange.path,
            content=exchange.body.encode(),
            # The recording was made with curl, which Ollama takes as it takes its own clients.
            headers={"User-Agent": "ollama/0.24.0", **exchange.headers},
        )
        differing = compared(exchange, answer)
        if differing:
            group = "inference" if exchange.path in INFERENCE else "other"
            found[group].setdefault(exchange.name, []).extend(differing)
    return found


def test_the_answers_have_ollamas_shape(replayed: dict[str, dict[str, list[str]]]) -> None:
    assert replayed["other"] == {}


def test_the_answers_of_models_have_ollamas_shape(
    replayed: dict[str, dict[str, list[str]]],
) -> None:
    assert replayed["inference"] == {}


def test_the_differences_are_of_recorded_requests() -> None:
    names = [exchange.name for exchange in recorded()]
    assert set(DIFFERENT) <= set(names)
    assert len(names) > 100


def compared(exchange: Exchange, answer: httpx.Response) -> list[str]:
    """Return the differences between Ollama's answer and ours."""
    differs = DIFFERENT.get(exchange.name)
    status = differs.status if differs else exchange.status
    if answer.status_code != status:
        return [f"status {answer.status_code} instead of {status}: {answer.text[:300]}"]
    if differs or exchange.method == "HEAD" or not exchange.answer:
        return []
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    if kind != exchange.kind:
        return [f"{kind} instead of {exchange.kind}"]
    ours = answer.text.splitlines()
    if kind == "text/plain":
        return [] if tuple(ours) == exchange.answer else [f"{ours}"]
    if kind == "text/event-stream":
        # The first event is llama-server's own, in which "content" is null.
        *_, last = (line for line in ours if line.startswith("data: {"))
        pairs = [(exchange.answer[-1][6:], last[6:])]
    else:
        pairs = [(exchange.answer[at], ours[at]) for at in (0, -1)]
    is_strict = exchange.path.startswith("/api/")
    return [
        one
        for theirs_text, ours_text in pairs
        for one in unlike(json.loads(theirs_text), json.loads(ours_text), is_strict=is_strict)
    ]


def unlike(theirs: Any, ours: Any, place: str = "", *, is_strict: bool) -> list[str]:
    """Return the places where keys or types differ. ``is_strict``: we have no other keys."""
    if theirs is None:
        return []
    if kind_of(theirs) != kind_of(ours):
        return [f"{place}: {kind_of(ours)} instead of {kind_of(theirs)}"]
    found = []
    if isinstance(theirs, dict) and place != ".model_info":
        found = [f"{place}.{name} is missing" for name in theirs.keys() - ours.keys()]
        if is_strict:
            found += [f"{place}.{name} is new" for name in ours.keys() - theirs.keys()]
        for name in theirs.keys() & ours.keys():
            found += unlike(theirs[name], ours[name], f"{place}.{name}", is_strict=is_strict)
    elif isinstance(theirs, list) and theirs and ours:
        found += unlike(theirs[0], ours[0], f"{place}[0]", is_strict=is_strict)
    elif isinstance(theirs, str) and _DATE.match(theirs) and not _TIME.fullmatch(ours):
        found = [f"{place}: {ours} is no time"]
    return found


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__
