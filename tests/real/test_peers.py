"""Several boxes as one: real services that are paired, killed, stopped and parted."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import openai
from zeroconf import ServiceInfo, Zeroconf

from cyber_inference_tui.peers.discovery import SERVICE
from tests.certificates import Pair
from tests.real.conftest import Starter
from tests.real.service_process import ServiceProcess, plain_environ
from tests.waiting import eventually

CODE = "482913"


def pair(here: ServiceProcess, there: ServiceProcess, *, role: str = "serve", url: str = "") -> str:
    """Pair two boxes; return the name of ``there`` at ``here``, where it is connected.

    ``url`` is its address for ``here``.
    """
    with there.owner() as owner:
        owner.post("/admin/pairing", json={"code": CODE, "role": role}).raise_for_status()
    with here.owner() as owner:
        answer = owner.post("/admin/peers", json={"url": url or there.url, "code": CODE})
        assert answer.status_code == 201, answer.text
    name = str(answer.json()["name"])
    eventually(lambda: peer(here, name)["state"] == "connected", what=f"{name} connected")
    return name


def peer(service: ServiceProcess, name: str) -> dict[str, Any]:
    with service.client() as client:
        return next(one for one in client.get("/admin/peers").json() if one["name"] == name)


def is_known(service: ServiceProcess, name: str) -> bool:
    return str(peer(service, name)["state"]) != "stale"


def box(starter: Starter, host: str, *models: str, **config: Any) -> ServiceProcess:
    switches: dict[str, dict[str, Any]] = {model: {} for model in models}
    return starter.fake(switches, config={"host": host, **config})


def answering(service: ServiceProcess, model: str, **more: Any) -> str | None:
    """Ask a model; return the box that has answered, ``None`` = the service itself."""
    answer = service.chat(model, **more)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["X-Request-Id"]
    with service.client() as client:
        found = client.get("/admin/requests").json()
    record = next(one for one in found if one["request_id"] == request_id)
    return None if record["box"] is None else str(record["box"])


def in_flight(service: ServiceProcess, model: str) -> int:
    return int(service.get(f"/admin/models/{model}").json()["in_flight"])


def command(service: ServiceProcess, *words: str) -> subprocess.Popen[str]:
    host = httpx.URL(service.url).host
    arguments = ["--config", str(service.config_path), "--data-dir", str(service.data_dir)]
    arguments += ["--host", host, "--port", str(service.port)]
    return subprocess.Popen(
        [sys.executable, "-m", "cyber_inference_tui", *arguments, *words],
        env={**plain_environ(), "HOME": str(service.folder / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_boxes_pair_by_the_command_and_share_their_models(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one", "both"), box(starter, "127.0.0.2", "two", "both")

    accept = command(there, "peers", "accept", "--code", CODE)
    with there.client() as client:
        eventually(lambda: client.get("/admin/pairing").json()["open"], what="the open pairing")
    add = command(here, "peers", "add", there.url, "--code", CODE)
    added, accepted = add.communicate(timeout=60)[0], accept.communicate(timeout=60)[0]
    assert (add.returncode, accept.returncode) == (0, 0), added + accepted
    assert "is paired" in added
    assert "is paired" in accepted

    name = json.loads(here.get("/admin/peers").text)[0]["name"]
    eventually(lambda: peer(here, name)["state"] == "connected", what="the connection")
    listed = {one["id"]: one.get("boxes") for one in here.get("/v1/models").json()["data"]}
    assert listed == {"one": None, "both": [name], "two": [name]}
    assert here.get("/v1/models/two").json()["id"] == "two"
    assert "two" in {one["name"] for one in here.get("/api/tags").json()["models"]}

    assert answering(here, "one") is None
    assert answering(here, "both") is None
    assert answering(here, "two") == name
    assert answering(here, f"{name}/both") == name
    assert here.chat("three").status_code == 404

    remove = command(here, "peers", "remove", name)
    assert "is removed" in remove.communicate(timeout=60)[0]
    assert here.chat("two").status_code == 404
    assert "peers" not in here.config_path.read_text()


def test_official_clients_get_whole_streams_from_another_box(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there)
    client = openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0)
    with client:
        texts = [
            "".join(
                part.choices[0].delta.content or ""
                for part in client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "hi"}], stream=True
                )
                if part.choices
            )
            for model in ("one", "two", f"{name}/two")
        ]
    assert texts[0]
    assert texts == [texts[0]] * 3
    translated = here.post(
        "/api/chat", json={"model": "two", "messages": [{"role": "user", "content": "hi"}]}
    )
    parts = [json.loads(line) for line in translated.text.splitlines()]
    assert "".join(part["message"]["content"] for part in parts) == texts[0]


def test_the_wait_at_another_box_is_told_in_comments(starter: Starter) -> None:
    here = box(starter, "127.0.0.1", "one")
    there = starter.fake({"slow": {"load_seconds": 4.0}}, config={"host": "127.0.0.2"})
    pair(here, there)
    with here.stream("slow") as answer:
        lines = [line for line in answer.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    assert comments
    assert "slow" in comments[0]
    assert lines[-1] == "data: [DONE]"


def test_a_client_that_leaves_cancels_its_request_there(starter: Starter) -> None:
    here, there = box(starter, "127.0.0.1", "one"), box(starter, "127.0.0.2", "two")
    name = pair(here, there)
    there.chat("two")
    with here.stream("two", fake={"tokens": 100_000, "interval": 0.02}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert in_flight(there, "two") == 1
        assert peer(here, name)["requests"] == 1
    eventually(lambda: in_flight(there, "two") == 0, what="the end of the request there")
    eventually(lambda: peer(here, name)["requests"] == 0, what="the end of the request here")


def test_a_box_that_is_gone_before_the_first_byte_leaves_its_request_to_the_next(
    starter: Starter,
) -> None:
    here = box(starter, "127.0.0.1", "both")
    there = starter.fake({"both": {"load_seconds": 30.0}}, config={"host": "127.0.0.2"})
    name = pair(here, there)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(here.chat, f"{name}/both")
        both = pool.submit(here.chat, "both")
        assert both.result().status_code == 200
        eventually(lambda: peer(here, name)["requests"] == 1, what="the request there")
        there.kill()
        refused = asked.result()
    # Its id names that box alone.
    assert refused.status_code == 502, refused.text
    assert name in refused.json()["error"]["message"]
    there.assert_none_left()


def test_trust(starter: Starter, tmp_path: Path) -> None:
    certificate = Pair(tmp_path)
    here = box(starter, "127.0.0.1", "one")
    there = box(starter, "127.0.0.2", "two", admin_password="secret", **certificate.settings)
    verify = ssl.create_default_context(cafile=str(certificate.certificate))
    verify.check_hostname = False
    with httpx.Client(base_url=there.url, verify=verify, timeout=60) as owner:
        token = json.loads((there.data_dir / "service.json").read_text())["token"]
        owner.headers["Authorization"] = f"Bearer {token}"

        def offer(code: str) -> httpx.Response:
            owner.delete("/admin/pairing")
            owner.post("/admin/pairing", json={"code": CODE}).raise_for_status()
            with here.owner() as client:
                return client.post("/admin/peers", json={"url": there.url, "code": code})

        assert offer("000000").status_code == 403
        assert offer(CODE).status_code == 201
        name = here.get("/admin/peers").json()[0]["name"]
        eventually(lambda: peer(here, name)["state"] == "connected", what="the connection")
        assert answering(here, "two") == name

        # A box with the role ``serve`` asks models, and nothing else.
        secrets = json.loads((here.data_dir / "peers.json").read_text())["peers"][name]
        as_box = {"Authorization": f"Bearer {secrets['key']}"}
        for path in ("/admin/status", "/admin/config", "/admin/peers"):
            assert owner.get(path, headers=as_box).status_code == 403, path
        assert owner.get("/v1/models", headers=as_box).status_code == 200
        assert httpx.get(f"{there.url}/peers/events", verify=verify).status_code == 401

        # A key of a box that is removed is invalid at once.
        (known,) = owner.get("/admin/peers").json()
        owner.delete(f"/admin/peers/{known['name']}").raise_for_status()
        assert owner.get("/admin/status", headers=as_box).status_code == 401
        eventually(lambda: peer(here, name)["state"] == "refused", what="the refusal")

        assert offer(CODE).status_code == 201
        eventually(lambda: peer(here, name)["state"] == "connected", what="the new pairing")
    # Another certificate is not the one that was paired.
    there.stop()
    certificate.renew()
    there.arguments = ("--port", str(there.port))
    there.start()
    eventually(
        lambda: "certificate" in (peer(here, name)["problem"] or ""), what="the other certificate"
    )
    assert here.chat("two").status_code in {404, 502}


def test_boxes_in_the_network_are_suggested_until_they_are_paired(
    starter: Starter, tmp_path: Path
) -> None:
    certificate = Pair(tmp_path)
    here = box(starter, "127.0.0.1", "one")
    there = box(starter, "127.0.0.2", "two", **certificate.settings)

    def announce(name: str, scheme: str, fingerprint: str) -> None:
        info = ServiceInfo(
            SERVICE,
            f"{name}-{token_hex(4)}.{SERVICE}",
            port=there.port,
            parsed_addresses=["192.168.77.7"],
            properties={"name": name, "scheme": scheme, "fingerprint": fingerprint},
        )
        network.register_service(info)

    def found() -> str:
        find = command(here, "peers", "find")
        return str(find.communicate(timeout=60)[0])

    with contextlib.closing(Zeroconf(interfaces=["127.0.0.1"])) as network:
        announce("known", "https", certificate.fingerprint)
        announce("foreign", "http", "")
        assert "mdns = true" in found()
        command(here, "config", "set", "mdns", "true").communicate(timeout=60)
        address = f"192.168.77.7:{there.port}"
        eventually(lambda: f"peers add https://{address}\n" in found(), what="the suggestion")
        assert f"peers add http://{address} --insecure\n" in found()
        # A box with this certificate is known, whatever its address.
        token = json.loads((there.data_dir / "service.json").read_text())["token"]
        as_owner = {"Authorization": f"Bearer {token}"}
        httpx.post(
            f"{there.url}/admin/pairing", json={"code": CODE}, headers=as_owner, verify=False
        ).raise_for_status()
        with here.owner() as owner:
            box_there = {"url": there.url, "code": CODE}
            owner.post("/admin/peers", json=box_there).raise_for_status()
        assert "known" not in found()
        assert "foreign" in found()


def test_three_boxes_under_load_lose_no_request_that_has_no_byte(starter: Starter) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    services = [box(starter, host, "both", llama_parallel=2) for host in hosts]
    here, second, third = services
    names = [pair(here, second), pair(here, third)]
    stop = threading.Event()
    statuses: list[tuple[int, str]] = []

    def ask() -> None:
        with here.client() as client:
            while not stop.is_set():
                body = {
                    "model": "both",
                    "stream": True,
                    "fake": {"tokens": 20, "interval": 0.01},
                    "messages": [{"role": "user", "content": "hi"}],
                }
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    text = answer.read().decode()
                    statuses.append((answer.status_code, text))

    def more_answers(count: int) -> None:
        wanted = len(statuses) + count
        eventually(lambda: len(statuses) >= wanted, what="more answers")

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(6)]
        try:
            for service, name in ((second, names[0]), (third, names[1])) * 2:
                more_answers(20)
                port = service.port
                service.kill()
                service.assert_none_left()
                more_answers(20)
                service.arguments = ("--port", str(port))
                service.start()
                eventually(partial(is_known, here, name), what="its return")
            assert second.process is not None
            second.process.send_signal(signal.SIGSTOP)
            more_answers(40)
            second.process.send_signal(signal.SIGCONT)
        finally:
            stop.set()
            with contextlib.suppress(ProcessLookupError):
                assert second.process is not None
                second.process.send_signal(signal.SIGCONT)
        for one in asking:
            one.result(60)
    whole = [text for status, text in statuses if status == 200 and text.endswith("[DONE]\n\n")]
    cut = [text for status, text in statuses if status == 200 and '"error"' in text]
    lost = [one for one in statuses if one[1] not in whole and one[1] not in cut]
    assert len(statuses) == len(whole) + len(cut), lost[:3]
    # Each whole answer is one answer: never two begun one after the other.
    assert len({text.count('"role":"assistant"') for text in whole}) == 1
    # Only answers that had begun may be cut, and then they say so.
    assert all('"content"' in text for text in cut), cut[:1]
    with here.client() as client:
        boxes = {one["box"] for one in client.get("/admin/requests?limit=1000").json()}
    assert boxes == {None, *names}
