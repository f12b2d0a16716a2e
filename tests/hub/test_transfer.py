"""Transfer one file, with every kind of interruption."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyber_inference_tui.errors import (
    ConflictError,
    CyberError,
    DamagedDownloadError,
    HubError,
    HubGatedError,
    HubNotFoundError,
    HubRateLimitError,
    HubTokenError,
    HubUnreachableError,
)
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.partial import HubFile
from cyber_inference_tui.hub.transfer import Transfer, TransferLimits
from tests.waiting import LIMIT

from .stand_in_hub import Fault, Repo, StandInHub
from .transfers import MIB, QUICK, endpoint_of, noise, origin_of, transport

PATH = "sub/Tiny-Q4_K_M.gguf"
SIZE = 2 * MIB + 12345
_TURNS = 20
"""Of the event loop, in which the transfer reads what has arrived."""


@pytest.fixture
def repo(hub: StandInHub) -> Repo:
    return hub.add("owner/tiny", {PATH: noise(SIZE), "README.md": b"some text\n"})


async def bring(
    hub: StandInHub,
    origin: HubFile,
    target: Path,
    *,
    token: str = "",
    endpoint: HubEndpoint | None = None,
    boot: str = "this",
    wait_reason: list[HubError | None] | None = None,
    environ: dict[str, str] | None = None,
    pace: TransferLimits = QUICK,
) -> Transfer:
    async with transport(
        endpoint or endpoint_of(hub, token=token), boot=boot, environ=environ, pace=pace
    ) as shared:
        note = wait_reason.append if wait_reason is not None else lambda _: None
        transfer = Transfer(shared, origin, target, on_wait=note)
        await transfer.run()
        return transfer


async def interrupted(hub: StandInHub, repo: Repo, target: Path, after: int) -> None:
    """Download ``after`` bytes and stop there."""
    fault = Fault("stall", after)
    hub.faults[PATH].append(fault)
    async with transport(endpoint_of(hub)) as shared:
        transfer = Transfer(shared, origin_of(repo, PATH), target)
        running = asyncio.create_task(transfer.run())
        assert await asyncio.to_thread(fault.reached.wait, LIMIT)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


def names(directory: Path) -> list[str]:
    """Return all file names but the notes of complete files."""
    found = {path.name for path in directory.iterdir()}
    return sorted(found - {f"{name}.part.json" for name in found})


async def test_a_file_arrives_whole_and_alone(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    target = tmp_path / "new" / "Tiny.gguf"
    transfer = await bring(hub, origin_of(repo, PATH), target, token="hf_good")
    assert target.read_bytes() == repo.files[PATH]
    assert names(target.parent) == ["Tiny.gguf"]
    assert (transfer.received, transfer.done, transfer.size) == (SIZE, SIZE, SIZE)
    # Only the hub gets the token, and no other encoding is accepted.
    asked = {host: headers for host, _, headers in hub.asked}
    assert asked["hub"]["Authorization"] == "Bearer hf_good"
    assert "Authorization" not in asked["cdn"]
    assert {headers["Accept-Encoding"] for headers in asked.values()} == {"identity"}


@pytest.mark.parametrize("path", ["a b/ü+&=-Q8_0.gguf", "100%/c%2fd%20.gguf", "a;c@d~'#.gguf"])
async def test_a_name_with_any_characters(hub: StandInHub, tmp_path: Path, path: str) -> None:
    repo = hub.add("owner/odd", {path: noise(1000)})
    await bring(hub, origin_of(repo, path), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[path]
    assert hub.asked[0][:2] == ("hub", path)


async def test_a_redirect_that_is_not_encoded(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    hub.refusals.append((302, {"Location": f"{hub.url}/{repo.name}/resolve/main/{PATH}?a b=ü"}))
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]


async def test_facts_that_the_plan_lacks_come_from_the_hub(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    for path in repo.files:
        origin = HubFile(repo=repo.name, revision=repo.sha, path=path)
        transfer = await bring(hub, origin, tmp_path / Path(path).name)
        assert (tmp_path / Path(path).name).read_bytes() == repo.files[path]
        assert transfer.size == len(repo.files[path])
    # Its digest, too: a wrong byte is noticed.
    for path in repo.files:
        hub.faults[path].extend([Fault("corrupt", 3), Fault("corrupt", 3)])
        origin = HubFile(repo=repo.name, revision=repo.sha, path=path)
        with pytest.raises(DamagedDownloadError):
            await bring(hub, origin, tmp_path / "again")
        assert not list(tmp_path.glob("again*"))


async def test_an_empty_file(hub: StandInHub, tmp_path: Path) -> None:
    repo = hub.add("owner/empty", {"a.gguf": b"", "b": b""})
    for path in repo.files:
        await bring(hub, origin_of(repo, path), tmp_path / path)
        assert (tmp_path / path).read_bytes() == b""


@pytest.mark.parametrize("kind", ["cut", "reset", "stall", "whole", "shift", "longer"])
async def test_a_broken_connection_costs_only_the_bytes_in_flight(
    hub: StandInHub, repo: Repo, tmp_path: Path, kind: str
) -> None:
    hub.faults[PATH].append(Fault("cut", MIB + 7))
    hub.faults[PATH].append(Fault(kind, 300_000))
    pace = msgspec.structs.replace(QUICK, stall_timeout=0.3) if kind == "stall" else QUICK
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf", pace=pace)
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    extra = hub.sent[PATH] - SIZE
    if kind in {"whole", "shift"}:
        assert extra <= MIB + 7 + MIB  # the hub sent it from the beginning
    elif kind == "longer":
        assert extra <= SIZE  # bytes of the too long answer are not trusted
    else:
        assert extra <= MIB


async def test_every_try_asks_the_hub_for_a_new_link(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    hub.faults[PATH].extend([Fault("expired"), Fault("cut", MIB), Fault("status", status=503)])
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    assert [host for host, _, _ in hub.asked] == ["hub", "cdn"] * 4
    assert [h.get("Range") for host, _, h in hub.asked if host == "cdn"][:2] == [None, None]
    assert all("Range" in headers for _, _, headers in hub.asked[4:])


async def test_it_waits_as_long_as_the_rate_limit_says(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    hub.refusals.append((429, {"RateLimit": '"resolvers";r=0;t=0'}))
    hub.refusals.append((429, {"Retry-After": "0"}))
    hub.refusals.append((503, {}))
    wait_reason: list[HubError | None] = []
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf", wait_reason=wait_reason)
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    kinds = [type(wait) for wait in wait_reason]
    none = type(None)
    assert kinds == [HubRateLimitError, HubRateLimitError, HubUnreachableError, none]
    assert wait_reason[0] is not None
    assert wait_reason[0].retry_after == 0


async def test_it_gives_up_after_some_failures_in_a_row(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    hub.faults[PATH].extend([Fault("cut", MIB), *(Fault("cut") for _ in range(QUICK.tries))])
    with pytest.raises(HubUnreachableError, match="broke off"):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf.part").stat().st_size > MIB // 2
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    assert hub.sent[PATH] - SIZE <= MIB


async def test_a_damaged_file_is_fetched_once_more_and_then_refused(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    hub.faults[PATH].append(Fault("corrupt", 1_000_000))
    await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == repo.files[PATH]
    hub.faults[PATH].extend([Fault("corrupt", 5), Fault("corrupt", SIZE - 1)])
    with pytest.raises(DamagedDownloadError, match="damaged twice: its SHA-256"):
        await bring(hub, origin_of(repo, PATH), tmp_path / "b.gguf")
    assert names(tmp_path) == ["a.gguf"]


@pytest.mark.parametrize(
    ("token", "gated", "kind", "words"),
    [
        ("", True, HubGatedError, "Accept its licence at"),
        ("hf_good", True, HubGatedError, "no access to owner/tiny yet"),
        ("hf_bad", False, HubTokenError, "not valid"),
    ],
)
async def test_a_refusal_has_a_hint_and_is_not_repeated(
    hub: StandInHub, tmp_path: Path, *, token: str, gated: bool, kind: type[HubError], words: str
) -> None:
    repo = hub.add("owner/tiny", {PATH: b"GGUF"}, gated=gated)
    with pytest.raises(kind, match=words):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf", token=token)
    assert len(hub.asked) <= 1


async def test_missing_files_and_repositories(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    origin = HubFile(repo=repo.name, revision=repo.sha, path="gone.gguf", size=5)
    with pytest.raises(HubNotFoundError, match=r"no file gone\.gguf"):
        await bring(hub, origin, tmp_path / "a.gguf")
    origin = msgspec.structs.replace(origin, revision="0" * 40)
    with pytest.raises(HubNotFoundError, match=r"owner/tiny has no revision 0{40}"):
        await bring(hub, origin, tmp_path / "a.gguf")
    origin = msgspec.structs.replace(origin, repo="owner/none")
    with pytest.raises(HubNotFoundError, match=r"owner/none was not found at .*, or it is private"):
        await bring(hub, origin, tmp_path / "a.gguf")
    with pytest.raises(HubNotFoundError, match=r"owner/none was not found at .*, or it is private"):
        await bring(hub, origin, tmp_path / "a.gguf", token="hf_good")


async def test_it_continues_from_where_it_was_cancelled(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    target = tmp_path / "a.gguf"
    await interrupted(hub, repo, target, MIB)
    assert names(tmp_path) == ["a.gguf.part", "a.gguf.part.json"]
    transfer = await bring(hub, origin_of(repo, PATH), target)
    assert target.read_bytes() == repo.files[PATH]
    assert hub.sent[PATH] == SIZE
    assert transfer.received == SIZE - MIB


async def test_an_unverified_file_survives_a_power_cut(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    """It ends after the last byte, and before the file has its final name."""
    target = tmp_path / "a.gguf"
    waiting, go = threading.Event(), threading.Event()

    class Late(ThreadPoolExecutor):
        def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Any:
            def held() -> Any:
                if getattr(work, "__name__", "") == "problem":
                    waiting.set()
                    go.wait(LIMIT)
                return work(*args, **kwargs)

            return super().submit(held)

    pace = msgspec.structs.replace(QUICK, sync_interval=1e9, sync_bytes=1 << 40)
    with Late(4) as executor:
        async with transport(endpoint_of(hub), pace=pace) as shared:
            slow = msgspec.structs.replace(shared, executor=executor)
            running = asyncio.create_task(Transfer(slow, origin_of(repo, PATH), target).run())
            assert await asyncio.to_thread(waiting.wait, LIMIT)
            running.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert not target.exists()
    sent = hub.sent[PATH]
    await bring(hub, origin_of(repo, PATH), target, boot="another")
    assert target.read_bytes() == repo.files[PATH]
    assert hub.sent[PATH] == sent


@pytest.mark.parametrize("loss", ["zeros", "shorter", "changed", "gone", "no note", "longer"])
async def test_a_power_cut_is_noticed(
    hub: StandInHub, repo: Repo, tmp_path: Path, loss: str
) -> None:
    target = tmp_path / "a.gguf"
    await interrupted(hub, repo, target, MIB)
    part = target.with_name("a.gguf.part")
    forced = part.stat().st_size
    with part.open("r+b") as file:
        if loss == "zeros":
            # The bytes written after the last sync.
            file.seek(0, os.SEEK_END)
            file.write(bytes(50_000))
        elif loss == "shorter":
            file.truncate(forced - 100_000)
        elif loss == "changed":
            file.seek(1000)
            file.write(b"something else")
        elif loss == "longer":
            file.seek(SIZE + 1)
            file.write(b"x")
    if loss == "gone":
        part.unlink()
    elif loss == "no note":
        target.with_name("a.gguf.part.json").write_bytes(b"{\x00")
    transfer = await bring(hub, origin_of(repo, PATH), target, boot="another")
    assert target.read_bytes() == repo.files[PATH]
    assert names(tmp_path) == ["a.gguf"]
    kept = {"zeros": forced, "longer": forced, "shorter": forced - 100_000}.get(loss, 0)
    assert transfer.received == SIZE - kept


async def test_parts_of_another_file_are_not_reused(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    target = tmp_path / "a.gguf"
    await interrupted(hub, repo, target, MIB)
    other = hub.add("owner/other", {PATH: noise(SIZE, seed=2)})
    transfer = await bring(hub, origin_of(other, PATH), target)
    assert target.read_bytes() == other.files[PATH]
    assert transfer.received == SIZE
    # The same content in another version is the same file.
    await interrupted(hub, repo, tmp_path / "b.gguf", MIB)
    newer = hub.add("owner/newer", {PATH: repo.files[PATH]})
    transfer = await bring(hub, origin_of(newer, PATH), tmp_path / "b.gguf")
    assert transfer.received == SIZE - MIB


async def test_one_process_at_a_time(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    target = tmp_path / "a.gguf"
    with target.with_name("a.gguf.part").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="Another process"):
            await bring(hub, origin_of(repo, PATH), target)
    assert hub.asked == []


async def test_a_part_that_is_a_link_is_not_followed(
    hub: StandInHub, repo: Repo, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a.gguf.part").symlink_to(tmp_path / "precious")
    with pytest.raises(CyberError, match="cannot be written"):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("http://127.0.0.1:1/x", "not one of the hub's hosts"),
        ("http://evil.example/x", "not one of the hub's hosts"),
        ("ftp://127.0.0.1/x", "not a web address"),
        ("file:///etc/passwd", "not a web address"),
        ("https://hf.co.evil.example/x", "not one of the hub's hosts"),
    ],
)
async def test_it_is_not_led_astray(
    hub: StandInHub, repo: Repo, tmp_path: Path, to: str, words: str
) -> None:
    hub.redirect_to = to
    with pytest.raises(HubError, match=words):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf", token="hf_good")
    assert [host for host, _, _ in hub.asked] == ["hub"]


async def test_a_circle_of_redirects_ends(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    hub.redirect_to = f"/owner/tiny/resolve/{repo.sha}/{PATH}"
    with pytest.raises(HubError, match="redirects more than"):
        await bring(hub, origin_of(repo, PATH), tmp_path / "a.gguf")
    assert len(hub.asked) < 10


async def test_a_dead_address_and_a_dead_proxy(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        origin = origin_of(repo, PATH)
        with pytest.raises(
            HubUnreachableError, match=r"127\.0\.0\.1:\d+ cannot be reached: .*refused"
        ):
            await bring(hub, origin, tmp_path / "a", endpoint=HubEndpoint(url=nobody))
        with pytest.raises(HubUnreachableError, match="over the proxy of the environment"):
            await bring(hub, origin, tmp_path / "a", environ={"HTTP_PROXY": nobody})
        assert hub.asked == []
        around = {"http_proxy": nobody, "NO_PROXY": "example.org, 127.0.0.1"}
        await bring(hub, origin, tmp_path / "a", environ=around)
        assert (tmp_path / "a").read_bytes() == repo.files[PATH]


async def test_a_proxy_resolves_the_names(hub: StandInHub, repo: Repo, tmp_path: Path) -> None:
    # A name that does not exist: only the proxy, here the hub itself, resolves it.
    endpoint = HubEndpoint(url="http://hub.invalid", token="hf_good", allowed_hosts=(hub.cdn,))
    environ = {"http_proxy": hub.url, "no_proxy": "127.0.0.1"}
    target = tmp_path / "a.gguf"
    await bring(hub, origin_of(repo, PATH), target, endpoint=endpoint, environ=environ)
    assert target.read_bytes() == repo.files[PATH]
    assert hub.asked[0][2]["Host"] == "hub.invalid"


async def test_a_certificate_without_a_trusted_authority(
    hub: StandInHub, repo: Repo, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        endpoint = HubEndpoint(url=f"https://127.0.0.1:{port}")
        with pytest.raises(HubUnreachableError, match=r"certificate of 127.* is not valid here"):
            await bring(hub, origin_of(repo, PATH), tmp_path / "a", endpoint=endpoint)
