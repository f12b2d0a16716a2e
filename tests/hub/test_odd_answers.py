"""Odd but legal answers are used; after others there is one fresh start, then a failure."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from cyber_inference_tui.errors import DamagedDownloadError, HubAnswerError, HubError
from cyber_inference_tui.hub.partial import HubFile
from cyber_inference_tui.hub.transfer import Transfer

from .browsing import browsing
from .stand_in_hub import Fault, Repo, StandInHub
from .transfers import MIB, endpoint_of, noise, origin_of, transport

PATH = "Tiny-Q4_K_M.gguf"
SIZE = 2 * MIB + 12345
CUT = MIB

Respond = Callable[[web.Request, bytes], web.Response]


@pytest.fixture
def repo(hub: StandInHub) -> Repo:
    return hub.add("owner/tiny", {PATH: noise(SIZE)})


async def bring(hub: StandInHub, origin: HubFile, target: Path) -> list[HubError]:
    """Download a file, and return the reason for another try."""
    wait_reason: list[HubError] = []
    async with transport(endpoint_of(hub)) as shared:

        def note(reason: HubError | None) -> None:
            if reason is not None:
                wait_reason.append(reason)

        await Transfer(shared, origin, target, on_wait=note).run()
    return wait_reason


def begin_of(request: web.Request) -> int:
    return int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])


def part(content: bytes, begin: int, end: int, total: int | str | None = None) -> web.Response:
    spec = f"bytes {begin}-{end - 1}/{len(content) if total is None else total}"
    return web.Response(status=206, body=content[begin:end], headers={"Content-Range": spec})


def packed(request: web.Request, content: bytes) -> web.Response:
    body = gzip.compress(content[:1000], 1) + gzip.compress(content[1000:], 1)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


def in_chunks(request: web.Request, content: bytes) -> web.Response:
    response = web.Response(body=content)
    response.enable_chunked_encoding()
    return response


LEGAL: dict[str, Respond] = {
    "the whole file": lambda request, content: web.Response(body=content),
    "the whole file in chunks": in_chunks,
    "the whole file, transformed by a proxy": lambda request, content: web.Response(
        status=203, body=content
    ),
    "the whole file, packed": packed,
    "an earlier range": lambda request, content: part(content, 500, len(content)),
    "a shorter range": lambda request, content: part(
        content, begin_of(request), begin_of(request) + 1000
    ),
    "an unknown length": lambda request, content: part(
        content, begin_of(request), len(content), "*"
    ),
    "another ETag": lambda request, content: web.Response(
        status=206,
        body=content[begin_of(request) :],
        headers={
            "ETag": '"other"',
            "Content-Range": f"bytes {begin_of(request)}-{len(content) - 1}/{len(content)}",
        },
    ),
}


@pytest.mark.parametrize("name", LEGAL)
async def test_an_odd_answer_to_a_resume_is_used(
    hub: StandInHub, repo: Repo, tmp_path: Path, name: str
) -> None:
    hub.faults[PATH].extend([Fault("cut", CUT), Fault("respond", respond=LEGAL[name])])
    wait_reason = await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    assert not [reason for reason in wait_reason if isinstance(reason, HubAnswerError)]
    # The rest is requested after the shorter range.
    assert len(hub.asked) == (6 if name == "a shorter range" else 4)


ILLEGAL: dict[str, Respond] = {
    "no range": lambda request, content: web.Response(
        status=206, body=content[begin_of(request) :]
    ),
    "a later range": lambda request, content: part(content, begin_of(request) + 1, len(content)),
    "a range that has ended": lambda request, content: part(content, 0, 1000),
    "nonsense": lambda request, content: web.Response(
        status=206, body=content, headers={"Content-Range": "bytes all of it"}
    ),
    "several parts": lambda request, content: web.Response(
        status=206,
        body=b"--x\r\nContent-Range: bytes 0-1/9\r\n\r\n12\r\n--x--\r\n",
        headers={"Content-Type": "multipart/byteranges; boundary=x"},
    ),
    "a packed part": lambda request, content: web.Response(
        status=206,
        body=gzip.compress(content[begin_of(request) :], 1),
        headers={
            "Content-Encoding": "gzip",
            "Content-Range": f"bytes {begin_of(request)}-{len(content) - 1}/{len(content)}",
        },
    ),
    "an unknown packing": lambda request, content: web.Response(
        body=zlib.compress(content, 1), headers={"Content-Encoding": "br"}
    ),
    "out of range": lambda request, content: web.Response(
        status=416, headers={"Content-Range": f"bytes */{len(content)}"}
    ),
    "out of an unknown range": lambda request, content: web.Response(status=416),
    "nothing": lambda request, content: web.Response(status=204),
    "another length": lambda request, content: part(content, begin_of(request), len(content), 9999),
}


@pytest.mark.parametrize("name", ILLEGAL)
async def test_after_an_illegal_answer_the_whole_file_is_asked_for(
    hub: StandInHub, repo: Repo, tmp_path: Path, name: str
) -> None:
    hub.faults[PATH].extend([Fault("cut", CUT), Fault("respond", respond=ILLEGAL[name])])
    wait_reason = await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    assert isinstance(wait_reason[-1], HubAnswerError)
    ranges = [headers.get("Range") for host, _, headers in hub.asked if host == "cdn"]
    assert len(ranges) == 3
    assert [bool(asked) for asked in ranges] == [False, True, False]


@pytest.mark.parametrize("name", ILLEGAL)
async def test_two_illegal_answers_are_a_failure(
    hub: StandInHub, repo: Repo, tmp_path: Path, name: str
) -> None:
    odd = [Fault("respond", respond=ILLEGAL[name]) for _ in range(20)]
    hub.faults[PATH].extend([Fault("cut", CUT), *odd])
    if name == "a range that has ended":
        # Legal for a request for the whole file, and still of no use.
        odd[1].respond = ILLEGAL["no range"]
    with pytest.raises(HubAnswerError):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert len([host for host, _, _ in hub.asked if host == "cdn"]) == 3
    # The bytes on the disk are kept for the next try.
    hub.faults[PATH].clear()
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]


@pytest.mark.parametrize("answer", ["length", "chunks", "packed"])
@pytest.mark.parametrize("off", [-500_000, 500_000])
async def test_a_file_of_another_length_than_listed_is_a_clear_failure(
    hub: StandInHub, repo: Repo, tmp_path: Path, answer: str, off: int
) -> None:
    origin = origin_of(repo, PATH)
    repo.files[PATH] = noise(SIZE + off)
    respond = {"length": None, "chunks": in_chunks, "packed": packed}[answer]
    if respond is not None:
        hub.faults[PATH].extend(Fault("respond", respond=respond) for _ in range(20))
    with pytest.raises(HubError, match=r"another length|at the hub, and|longer than") as caught:
        await bring(hub, origin, tmp_path / "a.gguf")
    assert not caught.value.passing
    assert len([host for host, _, _ in hub.asked if host == "cdn"]) == 2


async def test_a_length_that_no_list_has_may_change(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    """The length came from an earlier answer only, and the file has changed since."""
    origin = HubFile(repo=repo.name, revision="main", path=PATH)
    hub.faults[PATH].extend([Fault("cut", CUT) for _ in range(2)])
    other = noise(SIZE + 1000, seed=2)
    target = tmp_path / "a.gguf"

    def change(request: web.Request, content: bytes) -> web.Response:
        repo.files[PATH] = other
        return part(other, begin_of(request), len(other))

    hub.faults[PATH][1] = Fault("respond", respond=change)
    await bring(hub, origin, target)
    assert target.read_bytes() == other


@pytest.mark.parametrize(
    "body", [b"\x1f\x8bnonsense", gzip.compress(noise(1000))[:-20]], ids=["nonsense", "cut"]
)
async def test_an_invalid_gzip_body_is_an_error(
    hub: StandInHub, repo: Repo, tmp_path: Path, body: bytes
) -> None:
    answer = web.Response(body=body, headers={"Content-Encoding": "gzip"})
    hub.faults[PATH].append(Fault("respond", respond=lambda request, content: answer))
    wait_reason = await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    assert len(wait_reason) == 1


async def test_a_gzip_body_that_is_too_long_is_not_decompressed_to_its_end(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    hub.faults[PATH].extend(
        Fault(
            "respond",
            respond=lambda request, content: web.Response(
                body=bomb, headers={"Content-Encoding": "gzip"}
            ),
        )
        for _ in range(4)
    )
    with pytest.raises((HubAnswerError, DamagedDownloadError)):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < SIZE + 64 * 1024


async def test_an_api_that_packs_whatever_is_asked_for(hub: StandInHub, repo: Repo) -> None:
    listing = gzip.compress(b'[{"id": "owner/tiny", "downloads": 5}]')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    hub.api_refusals.append(web.Response(body=listing, headers=headers))
    async with browsing(hub) as browse:
        found, _ = await browse.search("tiny")
        assert [record.repo for record in found] == ["owner/tiny"]
