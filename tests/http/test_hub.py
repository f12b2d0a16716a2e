"""``/admin/hub`` and ``/admin/downloads`` over the wire, and the client's calls for them."""

from __future__ import annotations

import msgspec
import pytest

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import NotFoundError
from cyber_inference_tui.records import DownloadRecord, DownloadStatus, endpoints, queries

from .stand_in import StandInService, serving


async def test_a_download_is_asked_for_and_acted_on() -> None:
    service = StandInService()
    async with serving(service) as front:
        wanted = {"repo": "o/n", "filename": "a/b.gguf", "revision": "main"}
        async with front.client.post("/admin/downloads", json=wanted) as answer:
            assert answer.status == 202
            record = msgspec.json.decode(await answer.read(), type=DownloadRecord)
            assert record == service.downloads.record
        async with front.client.get("/admin/downloads") as answer:
            assert (answer.status, len(await answer.json())) == (200, 1)
        for action in ("pause", "resume", "retry"):
            async with front.client.post(f"/admin/downloads/abc/{action}") as answer:
                assert answer.status == 200
        for query in ("", "?keep=1", "?keep=0"):
            async with front.client.delete(f"/admin/downloads/abc{query}") as answer:
                assert (await answer.json())["status"] == "cancelled"
    assert service.downloads.calls == [
        ("add", "o/n", "a/b.gguf", "main"),
        ("pause",),
        ("resume",),
        ("retry",),
        ("cancel False",),
        ("cancel True",),
        ("cancel False",),
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
async def test_what_is_not_understood_is_refused(
    method: str, path: str, body: bytes, status: int
) -> None:
    service = StandInService()
    headers = {"Content-Type": "application/json"} if body else {}
    async with (
        serving(service) as front,
        front.client.request(method, path, data=body or None, headers=headers) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"]["message"]
    assert service.downloads.calls == []


async def test_pages_of_other_sites_cannot_start_downloads() -> None:
    service = StandInService()
    async with serving(service) as front:
        origin = {"Origin": "https://evil.example"}
        async with front.client.post("/admin/downloads", json={}, headers=origin) as answer:
            assert answer.status == 403
        async with front.client.post("/admin/downloads", data=b'{"repo": "a/b"}') as answer:
            assert answer.status == 415
    assert service.downloads.calls == []


async def test_the_client_has_a_call_for_each() -> None:
    service = StandInService()
    async with serving(service) as front, ServiceClient(front.url) as client:
        assert (
            await client.call(
                endpoints.DOWNLOAD, body=queries.DownloadRequest("o/n", revision="main")
            )
        ).id == "abc"
        assert (await client.call(endpoints.PAUSE_DOWNLOAD, "abc")).status is DownloadStatus.PAUSED
        assert (await client.call(endpoints.RESUME_DOWNLOAD, "abc")).status is DownloadStatus.QUEUED
        assert (
            await client.call(
                endpoints.CANCEL_DOWNLOAD, "abc", query=queries.CancelQuery(keep=True)
            )
        ).status is DownloadStatus.CANCELLED
        assert (await client.call(endpoints.RETRY_DOWNLOAD, "abc")).status is DownloadStatus.QUEUED
        await client.call(endpoints.CANCEL_DOWNLOAD, "abc")
        (record,) = await client.call(endpoints.DOWNLOADS)
        assert record.status is DownloadStatus.CANCELLED
        with pytest.raises(NotFoundError, match="no download a/b"):
            await client.call(endpoints.PAUSE_DOWNLOAD, "a/b")
    assert service.downloads.calls == [
        ("add", "o/n", None, "main"),
        ("pause",),
        ("resume",),
        ("cancel True",),
        ("retry",),
        ("cancel False",),
    ]


async def test_a_search_is_an_array_and_a_cursor() -> None:
    service = StandInService()
    async with serving(service) as front:
        path = "/admin/hub/search?q=a%20b&sort=new&limit=7&author=me"
        async with front.client.get(path) as answer:
            assert answer.headers["X-Next-Cursor"] == "next"
            assert [record["repo"] for record in await answer.json()] == ["o/n"]
        async with front.client.get("/admin/hub/search?cursor=next") as answer:
            assert "X-Next-Cursor" not in answer.headers
    assert service.hub_asked == [
        ("a b", "new", 7, None, "me"),
        ("", "downloads", 30, "next", None),
    ]


@pytest.mark.parametrize("path", ["/admin/hub/search?limit=x", "/admin/hub/files"])
async def test_wrong_questions_are_refused(path: str) -> None:
    service = StandInService()
    async with serving(service) as front, front.client.get(path) as answer:
        assert answer.status == 400
    assert service.hub_asked == []


async def test_the_client_asks_the_hub() -> None:
    service = StandInService()
    async with serving(service) as front, ServiceClient(front.url) as client:
        found, cursor = await client.search(queries.SearchQuery(q="x", sort="likes", limit=5))
        assert (found[0].repo, cursor) == ("o/n", "next")
        assert await client.search(queries.SearchQuery(q="x", cursor="next")) == (found, None)
        (files,) = await client.call(endpoints.HUB_FILES, query=queries.RepositoryQuery(repo="o/n"))
        assert files.files[0].path == "n-Q8_0.gguf"
        await client.call(
            endpoints.HUB_FILES, query=queries.RepositoryQuery(repo="o/n", revision="main")
        )
    assert service.hub_asked == [
        ("x", "likes", 5, None, None),
        ("x", "downloads", 30, "next", None),
        ("o/n", None),
        ("o/n", "main"),
    ]
