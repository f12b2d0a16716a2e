"""``/admin/hub`` and ``/admin/downloads`` over HTTP, and the client's calls of them."""

from __future__ import annotations

import msgspec
import pytest

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    HubCardRecord,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
    endpoints,
    queries,
)
from tests.fakes.service import FakeService, serving


async def test_a_download_is_queued_and_controlled() -> None:
    service = FakeService()
    async with serving(service) as front:
        wanted = {"repo": "o/n", "filename": "a/b.gguf", "revision": "main"}
        async with front.client.post("/admin/downloads", json=wanted) as answer:
            assert answer.status == 202
            record = msgspec.json.decode(await answer.read(), type=DownloadRecord)
            assert record == service.world.downloads["d1"]
        async with front.client.get("/admin/downloads") as answer:
            assert (answer.status, len(await answer.json())) == (200, 1)
        for action in ("pause", "resume", "retry"):
            async with front.client.post(f"/admin/downloads/d1/{action}") as answer:
                assert answer.status == 200
        for query in ("", "?keep=1", "?keep=0"):
            async with front.client.delete(f"/admin/downloads/d1{query}") as answer:
                assert (await answer.json())["status"] == "cancelled"
    assert service.calls == [
        ("download", "o/n", "a/b.gguf", "main"),
        ("pause_download", "d1"),
        ("resume_download", "d1"),
        ("retry_download", "d1"),
        ("cancel_download", "d1", False),
        ("cancel_download", "d1", True),
        ("cancel_download", "d1", False),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/admin/downloads", b"{}", 400),
        ("POST", "/admin/downloads", b'{"repo": ""}', 400),
        ("POST", "/admin/downloads", b'{"repo": 5}', 400),
        ("POST", "/admin/downloads", b'{"repo": "a/b", "file": "x"}', 400),
        ("POST", "/admin/downloads", b"[", 400),
        ("PUT", "/admin/downloads", b"{}", 405),
        ("GET", "/admin/downloads/abc", b"", 405),
        ("GET", "/admin/downloads/abc/pause", b"", 405),
        ("POST", "/admin/downloads/abc", b"{}", 405),
        ("POST", "/admin/downloads/abc/stop", b"{}", 404),
        ("POST", "/admin/downloads/abc/pause/now", b"{}", 404),
        ("POST", "/admin/downloads/xyz/pause", b"{}", 404),
        ("POST", "/admin/downloads/..%2Fabc/pause", b"{}", 404),
        ("POST", "/admin/downloads/abc/pause", b'{"x": 1}', 400),
        ("DELETE", "/admin/downloads/abc?keep=maybe", b"", 400),
        ("DELETE", "/admin/downloads/xyz", b"", 404),
    ],
)
async def test_invalid_requests_are_refused(
    method: str, path: str, body: bytes, status: int
) -> None:
    service = FakeService()
    headers = {"Content-Type": "application/json"} if body else {}
    async with (
        serving(service) as front,
        front.client.request(method, path, data=body or None, headers=headers) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"]["message"]
    assert service.calls == []


async def test_pages_of_other_sites_cannot_start_downloads() -> None:
    service = FakeService()
    async with serving(service) as front:
        origin = {"Origin": "https://evil.example"}
        async with front.client.post("/admin/downloads", json={}, headers=origin) as answer:
            assert answer.status == 403
        async with front.client.post("/admin/downloads", data=b'{"repo": "a/b"}') as answer:
            assert answer.status == 415
    assert service.calls == []


async def test_the_client_has_a_call_for_each() -> None:
    service = FakeService()
    async with serving(service) as front, ServiceClient(front.url) as client:
        assert (
            await client.call(
                endpoints.DOWNLOAD, body=queries.DownloadRequest("o/n", revision="main")
            )
        ).id == "d1"
        assert (await client.call(endpoints.PAUSE_DOWNLOAD, "d1")).status is DownloadStatus.PAUSED
        assert (await client.call(endpoints.RESUME_DOWNLOAD, "d1")).status is DownloadStatus.QUEUED
        assert (
            await client.call(endpoints.CANCEL_DOWNLOAD, "d1", query=queries.CancelQuery(keep=True))
        ).status is DownloadStatus.CANCELLED
        assert (await client.call(endpoints.RETRY_DOWNLOAD, "d1")).status is DownloadStatus.QUEUED
        await client.call(endpoints.CANCEL_DOWNLOAD, "d1")
        (record,) = await client.call(endpoints.DOWNLOADS)
        assert record.status is DownloadStatus.CANCELLED
        with pytest.raises(NotFoundError, match="no download a/b"):
            await client.call(endpoints.PAUSE_DOWNLOAD, "a/b")
    assert service.calls == [
        ("download", "o/n", None, "main"),
        ("pause_download", "d1"),
        ("resume_download", "d1"),
        ("cancel_download", "d1", True),
        ("retry_download", "d1"),
        ("cancel_download", "d1", False),
    ]


async def test_a_search_is_an_array_and_a_cursor() -> None:
    service = FakeService()
    service.world.found = [HubModelRecord(repo="o/a b"), HubModelRecord(repo="o/a b c")]
    async with serving(service) as front:
        path = "/admin/hub/search?q=a%20b&sort=new&limit=1&author=me"
        async with front.client.get(path) as answer:
            assert answer.headers["X-Next-Cursor"] == "1"
            assert [record["repo"] for record in await answer.json()] == ["o/a b"]
        async with front.client.get("/admin/hub/search?cursor=1") as answer:
            assert "X-Next-Cursor" not in answer.headers
    assert service.reads == [
        ("hub_search", "a b", "new", 1, None, "me"),
        ("hub_search", "", "downloads", 30, "1", None),
    ]


@pytest.mark.parametrize(
    "path", ["/admin/hub/search?limit=x", "/admin/hub/files", "/admin/hub/card"]
)
async def test_wrong_questions_are_refused(path: str) -> None:
    service = FakeService()
    async with serving(service) as front, front.client.get(path) as answer:
        assert answer.status == 400
    assert service.reads == []


async def test_the_client_asks_the_hub() -> None:
    service = FakeService()
    service.world.found = [HubModelRecord(repo="o/x"), HubModelRecord(repo="o/xy")]
    file = HubFileRecord(path="n-Q8_0.gguf")
    service.world.hub_files["o/n"] = [HubFilesRecord(name="n-Q8_0.gguf", files=(file,))]
    card = HubCardRecord(model=service.world.found[0], text="# x")
    service.world.hub_cards["o/x"] = card
    async with serving(service) as front, ServiceClient(front.url) as client:
        found, cursor = await client.search(queries.SearchQuery(q="x", sort="likes", limit=1))
        assert (found[0].repo, cursor) == ("o/x", "1")
        found, cursor = await client.search(queries.SearchQuery(q="x", cursor="1"))
        assert (found[0].repo, cursor) == ("o/xy", None)
        (files,) = await client.call(endpoints.HUB_FILES, query=queries.RepositoryQuery(repo="o/n"))
        assert files.files[0].path == "n-Q8_0.gguf"
        await client.call(
            endpoints.HUB_FILES, query=queries.RepositoryQuery(repo="o/n", revision="main")
        )
        query = queries.RepositoryQuery(repo="o/x")
        assert await client.call(endpoints.HUB_CARD, query=query) == card
    assert service.reads == [
        ("hub_search", "x", "likes", 1, None, None),
        ("hub_search", "x", "downloads", 30, "1", None),
        ("hub_files", "o/n", None),
        ("hub_files", "o/n", "main"),
        ("hub_card", "o/x", None),
    ]
