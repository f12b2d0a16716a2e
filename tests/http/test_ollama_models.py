"""Ollama's calls that list, show, get and name models, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.gguf.reader import Header, read_header
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.http.ollama.aliases import Aliases
from cyber_inference_tui.http.ollama.pull import Pulls
from cyber_inference_tui.http.ollama.routes import front_page
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import DownloadStatus, ModelRecord
from tests.fakes.service import FakeService, Front, make_settings, serving
from tests.gguf.headers import write_gguf
from tests.waiting import until

PULL = {"model": "hf.co/owner/name:Q8_0"}


async def post(front: Front, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
    async with front.client.post(f"/api/{path}", json=body, **options) as answer:
        return answer.status, await answer.json()


async def test_a_version_that_clients_accept() -> None:
    async with serving(FakeService()) as front:
        for method in ("GET", "HEAD"):
            async with front.client.request(method, "/api/version") as answer:
                assert answer.status == 200
                text = await answer.text()
        async with front.client.get("/api/version") as answer:
            text = (await answer.json())["version"]
    assert tuple(map(int, text.split("."))) >= (0, 17, 6)


@pytest.mark.parametrize(
    ("accept", "port", "is_client"),
    [("*/*", 11434, True), ("text/html,*/*", 11434, False), ("*/*", 8337, False)],
)
async def test_the_front_page_of_ollamas_port(accept: str, port: int, is_client: bool) -> None:
    request: Any = SimpleNamespace(
        headers={"Accept": accept, "User-Agent": "x"}, protocol=SimpleNamespace(local_port=port)
    )
    answer: Any = await front_page("ours")(request)
    assert answer.text == ("Ollama is running" if is_client else "ours")


@pytest.mark.parametrize(
    ("headers", "is_client"),
    [
        ({"User-Agent": "ollama-python/0.6.0 (x86_64 linux) Python/3.13.0"}, True),
        ({"User-Agent": "OllamaSharp"}, True),
        ({"User-Agent": "curl/8.0"}, False),
        ({"User-Agent": "Mozilla/5.0", "Accept": "text/html,*/*"}, False),
    ],
)
async def test_the_front_page_greets_clients_of_ollama(
    headers: dict[str, str], is_client: bool
) -> None:
    async with serving(FakeService()) as front:
        async with front.client.get("/", headers=headers) as answer:
            text = await answer.text()
            assert (answer.status, answer.content_type) == (200, "text/plain")
        async with front.client.head("/", headers=headers) as answer:
            assert answer.status == 200
    assert (text == "Ollama is running") is is_client
    assert ("/v1/models" in text) is not is_client


async def test_each_name_is_listed_the_newest_first() -> None:
    service = FakeService()
    service.written = {"old": 1_000_000, "new": 2_000_000}
    service.world.models = {
        "old": ModelRecord(
            id="old",
            aliases=("copy",),
            architecture="llama",
            parameters=2_710_000,
            quantization="F16",
            context_length=2048,
            capabilities=("completion", "tools"),
        ),
        "new": ModelRecord(id="new"),
    }
    async with serving(service) as front, front.client.get("/api/tags") as answer:
        models = (await answer.json())["models"]
    assert [one["name"] for one in models] == ["new", "old", "copy"]
    assert all(one["name"] == one["model"] for one in models)
    assert models[1] | {"name": "copy", "model": "copy"} == models[2]
    assert models[1]["modified_at"] == "1970-01-12T13:46:40.000000000Z"
    assert models[1]["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "2.71M",
        "quantization_level": "F16",
        "context_length": 2048,
    }
    assert models[1]["capabilities"] == ["completion", "tools"]


async def test_a_list_without_models() -> None:
    async with serving(FakeService()) as front, front.client.get("/api/tags") as answer:
        assert await answer.json() == {"models": []}


async def test_a_model_without_a_header_is_shown() -> None:
    async with serving(FakeService("m")) as front:
        for body in ({"model": "m"}, {"name": "m", "model": ""}, {"model": "m", "verbose": None}):
            status, shown = await post(front, "show", body)
            assert status == 200
            assert shown["model_info"] == {}
            assert shown.keys() == {
                "modelfile",
                "details",
                "model_info",
                "capabilities",
                "modified_at",
            }


async def test_a_header_is_read_once_for_each_file(tmp_path: Path) -> None:
    service = FakeService("m", "n")
    header = read_header(write_gguf(tmp_path / "m.gguf"))
    reads: list[str] = []

    async def headers(model: LocalModel) -> tuple[Header | None, Header | None]:
        reads.append(model.id)
        return header, None

    service.models.headers = headers  # type: ignore[method-assign]
    async with serving(service) as front:
        for name in ("m", "n", "m"):
            _, shown = await post(front, "show", {"model": name})
            assert shown["model_info"]["llama.context_length"] == 4096
        assert reads == ["m", "n"]
        service.written["m"] = 1
        await post(front, "show", {"model": "m"})
    assert reads == ["m", "n", "m"]


async def test_copilot_sees_the_name_that_it_asked_for() -> None:
    agent = {"User-Agent": "GitHubCopilotChat/0.31"}
    async with serving(FakeService("m")) as front:
        _, shown = await post(front, "show", {"model": "m"}, headers=agent)
    assert shown["model_info"] == {"general.basename": "m"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("show", {}, 400),
        ("show", {"model": "nope"}, 404),
        ("show", {"model": 5}, 400),
        ("show", [], 400),
        ("pull", {}, 400),
        ("pull", {"name": ""}, 400),
        ("pull", {"model": "nope", "stream": False}, 404),
        ("pull", {"model": "a/b/c", "stream": False}, 400),
        ("copy", {}, 400),
        ("copy", {"source": "m"}, 400),
        ("create", {}, 400),
        ("create", {"model": "x"}, 400),
        ("create", {"model": "x", "from": "m", "files": {"a": "b"}}, 501),
        ("create", {"model": "x", "from": "m", "quantize": "q4_K_M"}, 501),
        ("create", {"model": "x", "from": "m", "messages": [{"role": "user"}]}, 501),
        ("create", {"model": "x", "from": "m", "template": "{{ .Prompt }}", "stream": False}, 501),
        ("push", {"model": "m"}, 501),
        ("blobs/sha256:00", {}, 501),
    ],
)
async def test_refusals_are_in_ollamas_shape(path: str, body: Any, status: int) -> None:
    service = FakeService("m")
    async with serving(service) as front:
        got, said = await post(front, path, body)
    assert got == status
    assert said.keys() == {"error"}
    assert isinstance(said["error"], str)
    assert service.calls == []


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "show", 405, "405 method not allowed"),
        ("POST", "tags", 405, "405 method not allowed"),
        ("GET", "push", 405, "405 method not allowed"),
        ("GET", "blobs/sha256:00", 405, "405 method not allowed"),
        ("POST", "delete", 405, "405 method not allowed"),
    ],
)
async def test_other_methods_are_refused_in_text(
    method: str, path: str, status: int, text: str
) -> None:
    async with (
        serving(FakeService()) as front,
        front.client.request(method, f"/api/{path}") as answer,
    ):
        assert (answer.status, await answer.text()) == (status, text)
        assert answer.headers["Allow"]


async def test_no_file_is_here() -> None:
    async with (
        serving(FakeService()) as front,
        front.client.head("/api/blobs/sha256:00") as answer,
    ):
        assert answer.status == 404


WRITES = [
    ("POST", "/api/pull", PULL),
    ("POST", "/api/create", {"model": "x", "from": "m"}),
    ("POST", "/api/copy", {"source": "m", "destination": "x"}),
    ("DELETE", "/api/delete", {"model": "m"}),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_changes_are_the_owners(method: str, path: str, body: Any, tmp_path: Path) -> None:
    settings = make_settings(admin_password="open", api_keys=("key",))
    service = FakeService("m", settings=settings)
    login = AdminLogin(service, tmp_path / "secret")
    async with serving(service, login=login) as front:
        for headers in ({}, {"Authorization": "Bearer key"}):
            async with front.client.request(method, path, json=body, headers=headers) as answer:
                assert answer.status == 401
                assert "login" in (await answer.json())["error"]
        async with front.client.get("/api/tags") as answer:
            assert answer.status == 401
    assert service.calls == []


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_without_a_password_changes_need_a_key(method: str, path: str, body: Any) -> None:
    service = FakeService("m", settings=make_settings(api_keys=("key",)))
    async with serving(service) as front:
        async with front.client.request(method, path, json=body) as answer:
            assert answer.status == 401
            assert "API key" in (await answer.json())["error"]
        assert service.calls == []
        headers = {"Authorization": "Bearer key"}
        wrong = {**body, "model": "", "source": ""}
        async with front.client.request(method, path, json=wrong, headers=headers) as answer:
            assert answer.status == 400


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_no_page_of_another_site_changes_anything(method: str, path: str, body: Any) -> None:
    service = FakeService("m")
    async with serving(service) as front:
        for origin in ("https://evil.example", "null", "http://localhost:3000"):
            headers = {"Origin": origin}
            async with front.client.request(method, path, json=body, headers=headers) as answer:
                assert answer.status == 403
    assert service.calls == []


# Pulls


class Puller:
    """A client that pulls a model, and the download that its pull begins."""

    def __init__(self, service: FakeService, answer: aiohttp.ClientResponse) -> None:
        self.service = service
        self.answer = answer

    async def line(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.answer.content.readline(), 20)
        return dict(json.loads(line))

    async def rest(self) -> list[dict[str, Any]]:
        return [json.loads(line) async for line in self.answer.content]

    def change(self, **changes: Any) -> None:
        record = msgspec.structs.replace(self.service.world.downloads["d1"], **changes)
        self.service.world.downloads["d1"] = record
        self.service.publish("download", record)


@asynccontextmanager
async def pulling(front: Front, body: Any = PULL) -> AsyncIterator[Puller]:
    async with front.client.post("/api/pull", json=body) as answer:
        assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
        puller = Puller(front.service, answer)
        assert await puller.line() == {"status": "pulling manifest"}
        yield puller


async def test_a_pull_reports_its_progress() -> None:
    service = FakeService()
    async with serving(service) as front, pulling(front) as puller:
        layer = await puller.line()
        assert layer["digest"].startswith("sha256:")
        assert len(layer["digest"]) == 7 + 64
        assert layer["status"] == f"pulling {layer['digest'][7:19]}"
        puller.change(status=DownloadStatus.RUNNING, bytes_done=4, bytes_total=9)
        assert await puller.line() == {**layer, "total": 9, "completed": 4}
        puller.change(status=DownloadStatus.VERIFYING, bytes_done=9)
        assert await puller.line() == {"status": "verifying sha256 digest"}
        puller.change(status=DownloadStatus.DONE)
        rest = await puller.rest()
    assert rest[0] == {**layer, "total": 9, "completed": 9}
    assert [one["status"] for one in rest[1:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert service.calls == [("download", "owner/name", "Q8_0", None)]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("owner/name", ("owner/name", None)),
        ("hf.co/owner/name:latest", ("owner/name", None)),
        ("https://huggingface.co/owner/name:q4_k_m", ("owner/name", "q4_k_m")),
    ],
)
async def test_names_of_the_hub(name: str, wanted: tuple[str, str | None]) -> None:
    service = FakeService()
    async with serving(service) as front, pulling(front, {"name": name}) as puller:
        await puller.line()
    assert service.calls[0] == ("download", *wanted, None)


async def test_a_failed_download_ends_with_its_reason() -> None:
    service = FakeService()
    async with serving(service) as front:
        async with pulling(front) as puller:
            await puller.line()
            puller.change(status=DownloadStatus.FAILED, error="The disk is full.")
            *_, last = await puller.rest()
            assert last.keys() == {"error"}
            assert "The disk is full." in last["error"]
        service.fail["download"] = ConflictError("There are too many downloads.")
        async with pulling(front) as puller:
            assert await puller.rest() == [{"error": "There are too many downloads."}]
        status, said = await post(front, "pull", {**PULL, "stream": False})
        assert (status, said) == (409, {"error": "There are too many downloads."})


async def test_the_names_of_ollamas_library_are_not_guessed() -> None:
    service = FakeService()
    async with serving(service) as front, pulling(front, {"model": "llama3.2:3b"}) as puller:
        (line,) = await puller.rest()
    assert line["error"].startswith("model 'llama3.2:3b' not found")
    assert "hf.co/OWNER/NAME" in line["error"]
    assert service.calls == []


async def test_a_model_that_is_here_is_not_downloaded() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        async with pulling(front, {"model": "m"}) as puller:
            assert await puller.rest() == [{"status": "success"}]
        assert await post(front, "pull", {"model": "m", "stream": False}) == (
            200,
            {"status": "success"},
        )
    assert service.calls == []


def status(service: FakeService) -> DownloadStatus:
    return service.world.downloads["d1"].status


async def test_a_client_that_leaves_ends_its_download() -> None:
    service = FakeService()
    async with serving(service) as front:
        async with pulling(front) as puller:
            await puller.line()
        await until(lambda: status(service) is DownloadStatus.CANCELLED)
    assert ("cancel_download", "d1", True) in service.calls


async def test_the_last_client_ends_a_download() -> None:
    service = FakeService()
    async with serving(service) as front:
        async with pulling(front) as first:
            await first.line()
            async with pulling(front) as second:
                await second.line()
            first.change(bytes_done=1)
            assert (await first.line())["completed"] == 1
            assert status(service) is DownloadStatus.QUEUED
        await until(lambda: status(service) is DownloadStatus.CANCELLED)


async def test_a_download_of_another_client_goes_on() -> None:
    service = FakeService()
    record = await service.hub.downloads.add("owner/name", "Q8_0")
    await service.hub.downloads.pause(record.id)
    async with serving(service) as front:
        async with pulling(front) as puller:
            await puller.line()
        # The pull has continued it.
        assert status(service) is DownloadStatus.QUEUED
        await until(front.requests[0].task.done)
    assert status(service) is DownloadStatus.QUEUED


async def test_a_download_goes_on_after_the_service() -> None:
    service = FakeService()
    async with serving(service) as front, pulling(front) as puller:
        await puller.line()
        service.events.close()
        (line,) = await puller.rest()
        assert line == {"error": "The service is stopping."}
    assert status(service) is DownloadStatus.QUEUED
    assert not any(call[0] == "cancel_download" for call in service.calls)


async def test_a_removed_download_ends_its_pull() -> None:
    service = FakeService()
    async with serving(service) as front, pulling(front) as puller:
        await puller.line()
        del service.world.downloads["d1"]
        service.publish("download", {"id": "d1", "status": None})
        (line,) = await puller.rest()
    assert "removed" in line["error"]


async def test_a_quiet_download_is_repeated() -> None:
    service = FakeService()
    pulls = Pulls(service, Aliases(service), heartbeat=0.01)
    async with aclosing(pulls.lines("owner/name")) as lines:
        assert await anext(lines) == {"status": "pulling manifest"}
        assert await anext(lines) == await anext(lines)
    assert status(service) is DownloadStatus.CANCELLED
