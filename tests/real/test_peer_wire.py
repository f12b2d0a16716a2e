"""What can be read on the wire between two boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.certificates import Pair
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess
from tests.real.tcp_proxy import TcpProxy
from tests.real.test_peers import CODE, box, peer
from tests.waiting import eventually

PROMPT, ANSWER = "a prompt that nobody else reads", "an-answer-that-nobody-else-reads"


@contextmanager
def owner_of(service: ServiceProcess) -> Iterator[httpx.Client]:
    token = json.loads((service.data_dir / "service.json").read_text())["token"]
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=service.url, headers=headers, verify=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_only_without_tls_is_a_prompt_an_answer_or_a_key_readable(
    starter: Starter, tmp_path: Path, scheme: str
) -> None:
    settings = Pair(tmp_path).settings if scheme == "https" else {}
    here = box(starter, "127.0.0.1", "one")
    there = box(starter, "127.0.0.2", "two", **settings)
    with TcpProxy("127.0.0.4", ("127.0.0.2", there.port)) as proxy:
        url = proxy.url.replace("http", scheme)
        with owner_of(there) as owner:
            owner.post("/admin/pairing", json={"code": CODE}).raise_for_status()
        with here.owner() as owner:
            added = owner.post("/admin/peers", json={"url": url, "code": CODE})
            assert added.status_code == 201, added.text
        name = added.json()["name"]
        eventually(lambda: peer(here, name)["state"] == "connected", what="the connection")
        for stream in (False, True):
            answer = here.chat("two", PROMPT, stream=stream, fake={"text": ANSWER})
            assert ANSWER in answer.text
        wire = bytes(proxy.passed)
    secrets = json.loads((here.data_dir / "peers.json").read_text())["peers"]
    keys = [one["key"] for one in secrets.values()]
    assert keys
    readable = [one in wire for one in (*map(str.encode, (PROMPT, ANSWER, *keys)), b"HTTP/1.1")]
    assert readable == [scheme == "http"] * len(readable)
    assert CODE.encode() not in wire
