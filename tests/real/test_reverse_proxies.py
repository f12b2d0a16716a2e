"""The reverse proxies of ``docs/network.md``, with the configuration that the page shows."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.real.conftest import Starter, StartFake
from tests.real.service_process import ServiceProcess, chat_body, free_low_port, sse_data
from tests.test_docs import ROOT, blocks
from tests.tools import tool
from tests.waiting import eventually

pytestmark = pytest.mark.real

BLOCKS = list(blocks((ROOT / "docs" / "network.md").read_text("utf-8")))
NAME = "llm.example"
CLIENT = "127.0.0.9"
"""The address of the proxies' client."""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def block(language: str) -> str:
    (content,) = [content for name, content, _ in BLOCKS if name == language]
    return content


SETTINGS = tomllib.loads(block("toml"))


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text with each of ``changes``, all of which it must hold."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def service(
    llama_server: Path, demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service with the settings that the page asks for."""
    starter = Starter(tmp_path_factory.mktemp("service"), demo_gguf)
    yield starter.real(llama_server, SETTINGS, ())
    starter.end()


@contextlib.contextmanager
def running(command: list[str], folder: Path, url: str) -> Iterator[httpx.Client]:
    """A client of a proxy while it runs."""
    log = folder / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        transport = httpx.HTTPTransport(verify=tls, local_address=CLIENT, trust_env=False)
        with httpx.Client(
            base_url=url, headers={"Host": NAME}, transport=transport, timeout=60
        ) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text(errors="replace")
                with contextlib.suppress(httpx.TransportError, ssl.SSLError):
                    return client.get("/health").status_code == 200
                return False

            eventually(answers, what="the proxy's first answer")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def works(client: httpx.Client, service: ServiceProcess) -> None:
    """What a client may expect behind either proxy."""
    assert client.get("/v1/models").status_code == 401
    client.headers["Authorization"] = f"Bearer {SETTINGS['api_keys'][0]}"
    body = chat_body("demo", stream=True)
    # More than the megabyte that nginx takes by default.
    body["padding"] = "x" * 2_000_000
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    *chunks, last = sse_data(answer.text)
    assert last == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.strip()
    login = service.post("/admin/login", json={"password": SETTINGS["admin_password"]})
    token = {"Authorization": f"Bearer {login.json()['access_token']}"}
    newest = service.get("/admin/requests?limit=1", headers=token).json()
    assert [one["client"] for one in newest] == [CLIENT]


def test_nginx(service: ServiceProcess, tmp_path: Path) -> None:
    nginx, openssl = tool("nginx"), tool("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(
        [openssl, "req", *kind, "-days", "1", "-subj", f"/CN={NAME}", *files],
        check=True,
        capture_output=True,
        timeout=60,
    )
    port = free_low_port(1)
    server = replaced(
        block("nginx"),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            f"/etc/ssl/{NAME}.pem": str(certificate),
            f"/etc/ssl/{NAME}.key": str(key),
            "http://127.0.0.1:8337": service.url,
        },
    )
    folders = "\n".join(f"{name}_temp_path {tmp_path}/{name};" for name in TEMPORARY)
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}\n{server}\n}}\n"
    )
    command = [nginx, "-p", str(tmp_path), "-c", str(config), "-e", "stderr"]
    with running(command, tmp_path, f"https://127.0.0.1:{port}") as client:
        works(client, service)
        assert client.get("/admin/status").status_code == 404
        other = client.get("/v1/models", headers={"Host": "other.example"})
        assert other.json()["error"]["code"] == "forbidden_host"


@contextlib.contextmanager
def behind_caddy(service: ServiceProcess, tmp_path: Path) -> Iterator[httpx.Client]:
    caddy = tool("caddy")
    port = free_low_port(1)
    site = replaced(
        block("caddy"),
        {f"{NAME} {{": f"http://{NAME}:{port} {{\n\tbind 127.0.0.1", "127.0.0.1:8337": service.url},
    )
    config = tmp_path / "Caddyfile"
    config.write_text(f"{{\n\tadmin off\n}}\n{site}")
    command = [caddy, "run", "--config", str(config), "--adapter", "caddyfile"]
    with running(command, tmp_path, f"http://127.0.0.1:{port}") as client:
        yield client


def test_caddy(service: ServiceProcess, tmp_path: Path) -> None:
    with behind_caddy(service, tmp_path) as client:
        works(client, service)
        assert client.get("/admin/status").status_code == 401


def test_caddy_before_a_service_without_keys(start_fake: StartFake, tmp_path: Path) -> None:
    """It would open the service to the whole network."""
    service = start_fake(config={"allowed_hosts": [NAME]})
    with behind_caddy(service, tmp_path) as client:
        for path in ("/v1/models", "/admin/status", "/admin/models"):
            answer = client.get(path)
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "forbidden_proxy"
    assert service.get("/v1/models").status_code == 200
