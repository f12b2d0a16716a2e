"""The vulnerabilities that servers of local models had, tried on this one's door.

Those behind the door have their tests elsewhere: archives in ``tests/install``, headers of models
in ``tests/gguf``, redirects of the hub in ``tests/hub``, secrets of children in ``tests/llama``.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from cyber_inference_tui.settings.schema import Settings
from tests.real.conftest import Starter, StartFake
from tests.real.service_process import ServiceProcess, chat_body

EVIL = "http://evil.example"
TOKEN = "hf_owners_token"
PATHS = ("/", "/health", "/v1/models", "/slots", "/api/tags", "/ui/", "/admin/status", "/ws/logs")


@pytest.fixture(scope="module")
def service(module_starter: Starter) -> ServiceProcess:
    """A service with the defaults: without keys and password."""
    # Nothing listens at the hub's address.
    return module_starter.fake(
        {"a": {}}, config={"hf_endpoint": "http://127.0.0.1:9", "hf_token": TOKEN}
    )


def code_of(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error["code"]) if isinstance(error, dict) else str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_name_of_the_attackers_is_no_name_of_the_service(
    start_fake: StartFake, host: str
) -> None:
    """Ollama, CVE-2024-28224: DNS rebinding makes a page's own name mean this machine."""
    service = start_fake(start=False)
    service.arguments = ("--host", host)
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    for name in ("evil.example", f"localhost.evil.example:{service.port}", "127.0.0.1.nip.io"):
        for path in PATHS:
            answer = service.get(path, headers={"Host": name})
            assert answer.status_code == 403, (name, path)


def test_a_page_of_another_site_sends_nothing_that_counts(service: ServiceProcess) -> None:
    """LocalAI: forms and plain text need no preflight, so any page could use models and admin."""
    body = json.dumps(chat_body("a"))
    simple = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    pages = (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    )
    with service.client() as client:
        for page in pages:
            for kind in simple:
                headers = {**page, "Content-Type": kind}
                for path in (
                    "/v1/chat/completions",
                    "/slots/0?action=erase&model=a",
                    "/models/load",
                    "/api/generate",
                    "/api/pull",
                    "/admin/models/a/load",
                ):
                    answer = client.post(path, content=body, headers=headers)
                    assert answer.status_code == 403, (path, headers)
                    assert "access-control-allow-origin" not in answer.headers
            # What an image, a style sheet or a frame asks for.
            for path in ("/slots?model=a", "/v1/models", "/ui/?model=a", "/metrics?model=a"):
                assert client.get(path, headers=page).status_code == 403, (path, page)
        for kind in simple:
            # Also where a browser says nothing of the page.
            answer = client.post(
                "/admin/models/a/load", content="{}", headers={"Content-Type": kind}
            )
            assert (answer.status_code, code_of(answer)) == (415, "unsupported_media_type")
    assert service.model("a")["status"] == "unloaded"


def test_no_site_may_read_with_the_users_credentials(service: ServiceProcess) -> None:
    """The web original: it echoed any Origin, and allowed credentials."""
    asked = {"Access-Control-Request-Method": "POST"}
    for origin in (EVIL, "null", f"http://evil.example:{service.port}"):
        for path in PATHS:
            with service.client(headers={"Origin": origin}) as client:
                for answer in (client.get(path), client.options(path, headers=asked)):
                    names = [name for name in answer.headers if name.startswith("access-control")]
                    assert names == [], (origin, path)


ODD = ("../precious", "..%2fprecious", "%2e%2e%2fprecious", "..\\precious", "a/../../precious")


def test_no_name_becomes_a_path(service: ServiceProcess) -> None:
    """Ollama, CVE-2024-37032 (a digest), and Jan (a model's name): files outside were written."""
    precious = service.data_dir / "precious.gguf"
    precious.write_bytes((service.data_dir / "models" / "a.gguf").read_bytes())
    before = files_below(service.folder)
    with service.client() as client:
        for odd in (*ODD, "/etc/passwd", f"../..{precious}", "sha256:../../precious"):
            name = odd.removesuffix(".gguf")
            in_path = quote(name, safe="%")
            for method, path, body in (
                ("DELETE", f"/admin/models/{in_path}", None),
                ("POST", f"/admin/models/{in_path}/load", {}),
                ("GET", f"/admin/logs/{in_path}", None),
                ("GET", f"/admin/log-lines/{in_path}", None),
                ("GET", f"/v1/models/{in_path}", None),
                ("GET", f"/ui/{in_path}", None),
                ("POST", f"/api/blobs/{in_path}", {}),
                ("HEAD", f"/api/blobs/{in_path}", None),
                ("DELETE", "/api/delete", {"model": name}),
                ("POST", "/api/show", {"model": name}),
                ("POST", "/api/copy", {"source": "a", "destination": f"{name}\0"}),
                ("POST", "/v1/chat/completions", chat_body(name)),
                ("POST", "/admin/downloads", {"repo": name}),
                ("POST", "/admin/downloads", {"repo": "own/er", "filename": f"{name}.gguf"}),
            ):
                answer = client.request(method, path, json=body)
                refused = 400 <= answer.status_code < 600
                # A download may be queued, and then fails at the hub.
                assert refused or path == "/admin/downloads", (method, path, answer.status_code)
        for record in client.get("/admin/downloads").json():
            client.delete(f"/admin/downloads/{record['id']}")
    assert precious.exists()
    assert new_models(before, files_below(service.folder)) == []


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def new_models(before: set[Path], after: set[Path]) -> list[Path]:
    """Files that appeared, but for logs and the history."""
    return [path for path in after - before if path.suffix in {".gguf", ".part"}]


def test_a_pull_asks_no_host_but_the_hub(service: ServiceProcess) -> None:
    """Ollama, CVE-2025-51471: a name with a host sent the token there, or reached any service."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with service.client() as client:
            for name in (
                f"http://{place}/owner/model",
                f"{place}/owner/model:Q4_K_M",
                f"hf.co@{place}/owner/model",
                "169.254.169.254/latest/meta-data",
            ):
                answer = client.post("/api/pull", json={"model": name, "stream": False})
                assert answer.status_code >= 400 or "error" in answer.json(), answer.text
                answer = client.post("/admin/downloads", json={"repo": name})
                assert answer.status_code >= 400, answer.text
                answer = client.get("/admin/hub/files", params={"repo": name})
                assert answer.status_code >= 400, answer.text
                assert TOKEN not in answer.text
        with contextlib.suppress(BlockingIOError):
            raise AssertionError(f"{other.accept()[1]} connected")


def test_it_is_not_open_to_the_network(start_fake: StartFake) -> None:
    """175,000 instances of Ollama answer anybody: bound to all addresses, and without keys."""
    assert Settings().host == "127.0.0.1"
    service = start_fake(start=False)
    service.arguments = ("--host", "0.0.0.0")
    service.start()
    service.url = f"http://127.0.0.1:{service.port}"
    for path in ("/v1/models", "/slots", "/metrics", "/api/tags", "/admin/status", "/ws/logs"):
        assert service.get(path).status_code == 401, path
    for path in ("/v1/chat/completions", "/api/pull", "/models/load", "/admin/models/a/load"):
        assert service.post(path, json={"model": "a"}).status_code == 401, path


def test_no_token_is_made_with_a_known_secret(start_fake: StartFake) -> None:
    """The web original signed its tokens with a secret from its source."""
    service = start_fake(config={"admin_password": "sesame"})

    def part(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = part({"sub": "admin", "iat": 1, "exp": 2**40, "process": "", "clock": 0})
    forged = [f"{part({'alg': 'none', 'typ': 'JWT'})}.{claims}."]
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{claims}"
    for secret in ("", "secret", "change-me", "your-secret-key", "sesame"):
        digest = hmac.digest(secret.encode(), text.encode(), sha256)
        forged.append(f"{text}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}")
    for token in forged:
        answer = service.get("/admin/status", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert code_of(answer) == "admin_login_required"


def test_no_name_in_a_request_controls_a_terminal(service: ServiceProcess) -> None:
    """Escapes in names reached terminals by logs, errors and lists."""
    odd = "\x1b]0;owned\x07\x9b31m\u202e"
    with service.client() as client:
        answer = client.post("/v1/chat/completions", json=chat_body(odd))
        assert answer.status_code == 404
        texts = [answer.json()["error"]["message"]]
        texts.append(client.get(f"/v1/models/{quote(odd)}").json()["error"]["message"])
        client.get(f"/nothing/{quote(odd)}", headers={"User-Agent": "x\x1b[2J"})
        texts.append(client.get("/admin/logs/service").text)
        texts += [json.dumps(client.get("/admin/requests").json(), ensure_ascii=False)]
    for text in texts:
        assert not [sign for sign in text if sign in odd[:1] + "\x07\x9b\u202e"], text
