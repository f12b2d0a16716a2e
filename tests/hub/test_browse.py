"""Search the hub and read repositories, with the hub's own library and a stand-in hub."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from cyber_inference_tui.errors import (
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
    InvalidRequestError,
)
from cyber_inference_tui.gguf.demo import demo_bytes
from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.records import HubModelRecord
from tests.waiting import LIMIT

from .browsing import Clock, browsing
from .stand_in_hub import Repo, StandInHub
from .transfers import noise

# Answers of huggingface.co to a search with ``expand`` and to a repository request with
# ``blobs``, in the shapes that huggingface_hub 2.4.0 reads; names and numbers are made up.
SEARCHED = {
    "_id": "6789abcdef0123456789abcd",
    "id": "some-lab/Tiny-1B-GGUF",
    "modelId": "some-lab/Tiny-1B-GGUF",
    "downloads": 120345,
    "likes": 77,
    "tags": ["gguf", "license:llama3.2", "region:us"],
    "gated": "manual",
    "lastModified": "2026-02-03T04:05:06.000Z",
    "gguf": {
        "total": 1235814432,
        "architecture": "llama",
        "context_length": 131072,
        "chat_template": "{{ messages }}",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "quantize_imatrix_file": "imatrix.dat",
    },
}
LOOKED_AT = {
    "_id": "6789abcdef0123456789abcd",
    "id": "some-lab/Tiny-1B-GGUF",
    "private": False,
    "pipeline_tag": "text-generation",
    "library_name": "transformers",
    "tags": ["gguf", "region:us"],
    "downloads": 120345,
    "likes": 77,
    "modelId": "some-lab/Tiny-1B-GGUF",
    "author": "some-lab",
    "sha": "0123456789abcdef0123456789abcdef01234567",
    "lastModified": "2026-02-03T04:05:06.000Z",
    "gated": False,
    "disabled": False,
    "model-index": None,
    "config": {},
    "cardData": {"base_model": ["some-lab/Tiny-1B"], "language": ["en"]},
    "gguf": SEARCHED["gguf"],
    "siblings": [
        {
            "rfilename": ".gitattributes",
            "size": 2000,
            "blobId": "a" * 40,
        },
        {
            "rfilename": "Tiny-1B-Q4_K_M.gguf",
            "size": 807694464,
            "blobId": "b" * 40,
            "lfs": {"sha256": "c" * 64, "size": 807694464, "pointerSize": 134},
        },
    ],
    "spaces": [],
    "createdAt": "2026-01-03T04:05:06.000Z",
    "usedStorage": 807696464,
}


demo = functools.cache(demo_bytes)


@pytest.fixture
def tiny(hub: StandInHub) -> Repo:
    return hub.add(
        "owner/tiny",
        {
            "Tiny-Q8_0.gguf": demo(),
            "Tiny-Q4_K_M-00001-of-00002.gguf": noise(1000),
            "Tiny-Q4_K_M-00002-of-00002.gguf": noise(500),
            "mmproj-F16.gguf": noise(100),
            "README.md": b"words",
        },
    )


def run(
    hub: StandInHub | str,
    call: Callable[[Browse], Any],
    **more: Any,
) -> Any:
    """Return the result of ``call`` with a ``Browse`` of the hub."""

    async def work() -> Any:
        async with asyncio.timeout(LIMIT), browsing(hub, **more) as browse:
            return await call(browse)

    return asyncio.run(work())


def test_a_search_has_the_fields_of_the_list(hub: StandInHub, tiny: Repo) -> None:
    tiny.gated = True
    records, cursor = run(hub, lambda browse: browse.search("TINY"))
    assert cursor is None
    assert records == [
        HubModelRecord(
            repo="owner/tiny",
            downloads=1000,
            likes=10,
            updated_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
            gated=True,
            parameters=1000,
            architecture="llama",
            context_length=4096,
            licence="apache-2.0",
        )
    ]
    path, _ = hub.api[-1]
    assert "filter=gguf" in path
    assert "sort=downloads" in path


def test_the_answers_of_the_real_hub_are_understood(hub: StandInHub) -> None:
    hub.api_refusals += [web.json_response([SEARCHED]), web.json_response(LOOKED_AT)]

    async def both(browse: Browse) -> Any:
        return await browse.search("tiny"), await browse.repository("some-lab/Tiny-1B-GGUF")

    (records, _), repository = run(hub, both)
    assert records[0] == HubModelRecord(
        repo="some-lab/Tiny-1B-GGUF",
        downloads=120345,
        likes=77,
        updated_at=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
        gated=True,
        parameters=1235814432,
        architecture="llama",
        context_length=131072,
        licence="llama3.2",
    )
    assert repository.revision == "0123456789abcdef0123456789abcdef01234567"
    (file,) = repository.models[0].files
    assert (file.size_bytes, file.sha256) == (807694464, "c" * 64)


def test_pages_follow_each_other(hub: StandInHub) -> None:
    for number in range(5):
        hub.add(f"owner/m{number}", {}).downloads = 100 - number

    async def pages(browse: Browse) -> list[list[str]]:
        found, cursor = await browse.search("m", limit=2)
        every = [[one.repo for one in found]]
        while cursor is not None:
            found, cursor = await browse.search("m", limit=2, cursor=cursor)
            every.append([one.repo for one in found])
        return every

    assert run(hub, pages) == [
        ["owner/m0", "owner/m1"],
        ["owner/m2", "owner/m3"],
        ["owner/m4"],
    ]


@pytest.mark.parametrize(
    ("sort", "first"), [("downloads", "a/x"), ("likes", "b/x"), ("new", "c/x")]
)
def test_orders(hub: StandInHub, sort: str, first: str) -> None:
    for name in ("a/x", "b/x", "c/x"):
        hub.add(name, {})
    hub.repos["a/x"].downloads = 5000
    hub.repos["b/x"].likes = 5000
    hub.repos["c/x"].last_modified = "2026-06-01T00:00:00.000Z"
    records, _ = run(hub, lambda browse: browse.search("", sort=sort))
    assert records[0].repo == first


def test_an_author_alone_may_be_searched_for(hub: StandInHub) -> None:
    hub.add("a/x", {})
    hub.add("b/x", {})
    records, _ = run(hub, lambda browse: browse.search("", author="b"))
    assert [record.repo for record in records] == ["b/x"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sort": "size"},
        {"limit": 0},
        {"limit": 101},
        {"cursor": "x\n"},
        {"author": "x" * 1000},
    ],
)
def test_wrong_questions_are_refused_before_they_are_asked(
    hub: StandInHub, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        run(hub, lambda browse: browse.search("x", **wrong))
    assert caught.value.param == next(iter(wrong))
    assert hub.api == []


def test_texts_of_the_hub_are_cleaned(hub: StandInHub) -> None:
    bad = {
        **SEARCHED,
        "gguf": {"architecture": "ll\x1b[31mama\u202e", "total": -5, "context_length": "many"},
        "downloads": 1.5,
    }
    hub.api_refusals.append(web.json_response([bad, {**SEARCHED, "id": "a/b\n"}]))
    records, _ = run(hub, lambda browse: browse.search("x"))
    assert len(records) == 1
    assert records[0].architecture == "llama"
    assert (records[0].parameters, records[0].context_length) == (None, None)
    assert records[0].downloads is None


def test_answers_are_kept_for_minutes(hub: StandInHub, tiny: Repo) -> None:
    clock = Clock()

    async def often(browse: Browse) -> list[int]:
        asked = []
        for _ in range(2):
            for _ in range(2):
                await browse.search("tiny")
                await browse.repository("owner/tiny")
                await browse.headers(await browse.repository("owner/tiny"))
                asked.append(len(hub.api))
            clock.now += 1000
        return asked

    assert run(hub, often, clock=clock) == [2, 2, 4, 4]


def test_a_repository_is_read_at_its_commit(hub: StandInHub, tiny: Repo) -> None:
    repository = run(hub, lambda browse: browse.repository("owner/tiny"))
    assert (repository.repo, repository.revision) == ("owner/tiny", tiny.sha)
    sharded, whole = repository.models
    assert [file.sha256 for file in sharded.files] == [
        tiny.sha256("Tiny-Q4_K_M-00001-of-00002.gguf"),
        tiny.sha256("Tiny-Q4_K_M-00002-of-00002.gguf"),
    ]
    assert (sharded.size_bytes, whole.quantization) == (1600, "Q8_0")


def test_a_plan_for_a_quantization(hub: StandInHub, tiny: Repo) -> None:
    plan = run(hub, lambda browse: browse.resolve("owner/tiny", "q8_0", None))
    assert plan.revision == tiny.sha
    assert [file.path for file in plan.files] == ["Tiny-Q8_0.gguf", "mmproj-F16.gguf"]


def test_a_header_is_64_kib_and_no_more(hub: StandInHub) -> None:
    hub.add("owner/demo", {"demo-Q8_0.gguf": demo(), "demo-Q4_0.gguf": b"x"})

    async def look(browse: Browse) -> Any:
        repository = await browse.repository("owner/demo")
        return await browse.headers(repository)

    headers = run(hub, look, token="hf_good")
    assert headers == {} or headers["demo-Q8_0.gguf"].layers == 1
    hub.repos["owner/demo"].files["demo-Q4_0.gguf"] = demo()
    headers = run(hub, look, token="hf_good")
    assert {name: header.layers for name, header in headers.items()} == {
        "demo-Q8_0.gguf": 1,
        "demo-Q4_0.gguf": 1,
    }
    ranges = [headers["Range"] for where, _, headers in hub.asked if where == "cdn"]
    assert set(ranges) == {"bytes=0-65535"}
    for where, _, sent in hub.asked:
        # The other host gets no token (the stand-in would refuse one, too).
        assert ("Authorization" in sent) == (where == "hub")


def test_without_a_readable_header_there_is_none(hub: StandInHub) -> None:
    hub.add("owner/noise", {"n-Q4_0.gguf": noise(100_000)}, gated=False)
    hub.add("owner/shut", {"n-Q4_0.gguf": demo()}, gated=True)

    async def look(browse: Browse) -> Any:
        return [
            await browse.headers(await browse.repository(name))
            for name in ("owner/noise", "owner/shut")
        ]

    assert run(hub, look) == [{}, {}]


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (lambda hub: None, HubNotFoundError, "private"),
        (
            lambda hub: hub.api_refusals.append(
                web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
            ),
            HubGatedError,
            "licence",
        ),
        (
            lambda hub: hub.api_refusals.append(
                web.Response(status=429, headers={"RateLimit": '"api";r=0;t=55'})
            ),
            HubRateLimitError,
            "again in 55",
        ),
        (
            lambda hub: hub.api_refusals.append(web.Response(status=503)),
            HubUnreachableError,
            "has failed",
        ),
        (
            lambda hub: hub.api_refusals.append(web.Response(text="<html>no hub</html>")),
            HubError,
            "like a model hub",
        ),
        (
            lambda hub: hub.api_refusals.append(web.json_response({"id": "x/y"})),
            HubError,
            "the commit",
        ),
    ],
)
def test_each_refusal_of_the_hub_is_one_sentence(
    hub: StandInHub, prepare: Callable[[StandInHub], None], error: type[HubError], words: str
) -> None:
    prepare(hub)
    with pytest.raises(error) as caught:
        run(hub, lambda browse: browse.repository("no/such"))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        [],
        [[]],
        {"id": 5, "sha": 6},
        {"id": "a/b", "sha": None},
        {"id": "a/../b", "sha": "c"},
        {"id": "a/b", "sha": "c", "lastModified": "yesterday"},
        {"id": "a/b", "sha": "c", "siblings": [{}]},
        {"id": "a/b", "sha": "c", "siblings": [{"rfilename": "x", "lfs": 5}]},
    ],
)
def test_strange_answers_are_one_plain_error(hub: StandInHub, answer: Any) -> None:
    hub.api_refusals.append(web.json_response(answer))
    with pytest.raises(HubError):
        run(hub, lambda browse: browse.repository("a/b"))


def test_strange_files_are_no_models(hub: StandInHub) -> None:
    siblings = [
        {"rfilename": 5},
        {"rfilename": "a.gguf", "size": "x", "blobId": 7},
        {"rfilename": "../b.gguf", "size": -1},
    ]
    hub.api_refusals.append(web.json_response({"id": "a/b", "sha": "c", "siblings": siblings}))
    (model,) = run(hub, lambda browse: browse.repository("a/b")).models
    assert (model.filename, model.size_bytes) == ("a.gguf", None)


def test_a_revision_that_is_gone(hub: StandInHub, tiny: Repo) -> None:
    with pytest.raises(HubNotFoundError, match="owner/tiny has no revision old/branch"):
        run(hub, lambda browse: browse.repository("owner/tiny", "old/branch"))
    assert hub.api[-1][0].startswith("/api/models/owner/tiny/revision/old%2Fbranch")


def test_a_token_that_is_not_valid(hub: StandInHub, tiny: Repo) -> None:
    with pytest.raises(HubTokenError):
        run(hub, lambda browse: browse.search("tiny"), token="hf_bad")


def test_a_misspelt_name_is_not_blamed_on_a_token(hub: StandInHub, tiny: Repo) -> None:
    for token, words in (("", "a private one needs hf_token"), ("hf_good", "token from hf_token")):
        with pytest.raises(
            HubNotFoundError, match=r"owner/tyni was not found at .*, or it is private"
        ) as error:
            run(hub, lambda browse: browse.repository("owner/tyni"), token=token)
        assert words in error.value.hint
    with pytest.raises(HubTokenError, match="token from hf_token is not valid"):
        run(hub, lambda browse: browse.repository("owner/tyni"), token="hf_bad")


def test_a_renamed_repository_is_followed_to(hub: StandInHub, tiny: Repo) -> None:
    moved = web.Response(status=307, headers={"Location": "/api/models/owner/tiny?blobs=true"})
    hub.api_refusals.append(moved)
    found = run(hub, lambda browse: browse.repository("old/name"), token="hf_good")
    assert (found.repo, len(found.models)) == ("owner/tiny", 2)
    assert [headers["Authorization"] for _, headers in hub.api] == ["Bearer hf_good"] * 2


@pytest.mark.parametrize("call", ["search", "repository"])
def test_it_is_not_led_astray(hub: StandInHub, tiny: Repo, call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        to = f"http://127.0.0.1:{other.getsockname()[1]}/internal"
        hub.api_refusals.append(web.Response(status=302, headers={"Location": to}))
        with pytest.raises(HubError, match="not one of the hub's hosts"):
            run(hub, lambda browse: getattr(browse, call)("owner/tiny"), token="hf_good")
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_circle_of_redirects_ends(hub: StandInHub) -> None:
    for _ in range(20):
        moved = web.Response(status=302, headers={"Location": "/api/models"})
        hub.api_refusals.append(moved)
    with pytest.raises(HubError, match="redirects more than"):
        run(hub, lambda browse: browse.search("x"))


def test_proxies_are_those_of_downloads(hub: StandInHub, tiny: Repo) -> None:
    search: Callable[[Browse], Any] = lambda browse: browse.search("tiny")  # noqa: E731
    with pytest.raises(HubError, match="ALL_PROXY names a SOCKS proxy"):
        run(hub, search, environ={"ALL_PROXY": "socks5://127.0.0.1:1"})
    around = {"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "127.0.0.0/8"}
    assert run(hub, search, environ=around)[0]
    # The stand-in is also the proxy: only the proxy can resolve the name.
    assert run("http://hub.invalid", search, environ={"http_proxy": hub.url})[0]
    assert hub.api[-1][1]["Host"] == "hub.invalid"


def test_a_token_opens_private_repositories(hub: StandInHub, tiny: Repo) -> None:
    tiny.private = True
    assert run(hub, lambda browse: browse.repository("owner/tiny"), token="hf_good").models
    assert hub.api[-1][1]["Authorization"] == "Bearer hf_good"


@pytest.mark.parametrize("repo", ["", "../x", "a/b/c", "a b", "a/..", "http://x"])
def test_invalid_names_are_not_requested(hub: StandInHub, repo: str) -> None:
    # A mistake of the caller, not of the hub.
    with pytest.raises(InvalidRequestError, match="not the name"):
        run(hub, lambda browse: browse.repository(repo))
    assert hub.api == []


def test_offline_means_offline(hub: StandInHub) -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        run(hub, lambda browse: browse.search("x"), environ={"HF_HUB_OFFLINE": "1"})
    assert hub.api == []


def test_nothing_listens_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(HubUnreachableError) as caught:
        run(f"http://127.0.0.1:{port}", lambda browse: browse.search("x"))
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "refused" in str(caught.value)


def test_a_silent_hub_times_out_and_delays_no_other_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        async def many(browse: Browse) -> list[Any]:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    beats += 1
                    await asyncio.sleep(0.01)

            heart = asyncio.create_task(beat())
            try:
                await browse.search("0")
            except HubUnreachableError as error:
                first = error
            many = await asyncio.gather(
                *(browse.search(str(number)) for number in range(12)), return_exceptions=True
            )
            heart.cancel()
            assert beats > 5
            return [first, *many]

        for error in run(url, many, timeout=0.5):
            assert isinstance(error, HubUnreachableError)


def test_starting_imports_no_hub_library() -> None:
    code = (
        "import sys\n"
        "import cyber_inference_tui.http.serve, cyber_inference_tui.hub.browse\n"
        "print([m for m in sys.modules if m.startswith(('huggingface_hub', 'httpx2'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []


def test_the_library_is_imported_whatever_is_set_to_nothing() -> None:
    code = (
        "from cyber_inference_tui.hub.api import import_library; import_library();"
        "from huggingface_hub import constants;"
        "print(constants.HF_HUB_ETAG_TIMEOUT > 0, constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    names = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_DISABLE_TELEMETRY")
    environ = {**os.environ, **dict.fromkeys(names, "")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
