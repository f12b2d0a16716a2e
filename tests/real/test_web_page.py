"""llama-server's own web page at ``/ui/``, with a page of our own in its place (``--path``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.conftest import StartReal
from tests.real.service_process import ServiceProcess, chat_body

KEY = {"Authorization": "Bearer k"}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "_app").mkdir(parents=True)
    (folder / "index.html").write_text('<script src="./_app/bundle.js"></script>')
    (folder / "_app" / "bundle.js").write_text("1")
    return folder


def load(service: ServiceProcess, model_id: str) -> None:
    assert service.post(f"/admin/models/{model_id}/load", json={}).status_code == 200


def test_the_page_and_its_calls_are_below_one_address(start_real: StartReal, page: Path) -> None:
    service = start_real({"llama_args": ["--path", str(page)]}, copies=("other",))
    moved = service.get("/ui?model=demo")
    assert (moved.status_code, moved.headers["location"]) == (308, "ui/?model=demo")
    # Without a name it is the page of the model that "auto" means: of none now.
    asked = service.get("/ui/")
    assert (asked.status_code, asked.json()["error"]["code"]) == (404, "model_not_found")
    assert service.get("/ui/?model=none").status_code == 404
    assert service.get("/admin/status").json()["models_loaded"] == 0
    found = service.get("/ui/?model=demo")
    assert (found.status_code, found.text) == (200, (page / "index.html").read_text())
    assert found.headers["content-type"].startswith("text/html")
    assert service.model("demo")["status"] == "loaded"
    assert service.get("/ui/").text == found.text
    assert service.get("/ui/_app/bundle.js").text == "1"
    with service.client() as client:
        assert client.head("/ui/").status_code == 200
    for path, code in (
        ("/ui/_app/none.js", 404),
        ("/ui/none", 404),
        ("/ui/..%2fprops", 404),
        ("/ui/%70rops", 404),
        ("/ui/_app/%2e%2e/props", 404),
    ):
        assert service.get(path).status_code == code, path
    assert service.post("/ui/", json={}).status_code == 405
    # The page's calls are calls of the service.
    assert service.get("/ui/v1/models").json() == service.get("/v1/models").json()
    assert service.get("/ui/props?model=demo").json()["model_alias"] == "demo"
    answer = service.post("/ui/v1/chat/completions", json=chat_body("other"))
    assert (answer.status_code, answer.json()["model"]) == (200, "other")
    # What it tries and does without is no failed request.
    for path in ("/ui/tools", "/ui/v1/streams/lookup", "/ui/v1/stream?conv_id=1"):
        assert service.post(path, json={}).status_code == 404
    record = service.get("/admin/requests?limit=1").json()[0]
    assert (record["path"], record["model"]) == ("/v1/chat/completions", "other")


def test_files_need_no_key_and_everything_else_does(start_real: StartReal, page: Path) -> None:
    service = start_real({"llama_args": ["--path", str(page)], "api_keys": ["k"]})
    refused = service.get("/ui/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert service.model("demo")["status"] == "unloaded"
    load(service, "demo")
    assert service.get("/ui/").status_code == 200
    assert service.get("/ui/_app/bundle.js").text == "1"
    for path in ("/ui/v1/models", "/ui/props?model=demo", "/ui/slots"):
        assert service.get(path).status_code == 401
        assert service.get(path, headers=KEY).status_code == 200
    assert service.get("/ui/", headers={"Host": "evil.example"}).status_code == 403


def test_a_build_without_a_page_says_so(start_real: StartReal) -> None:
    service = start_real({"llama_args": ["--no-webui"]})
    answer = service.get("/ui/?model=demo")
    assert answer.status_code == 404
    assert "built without its web page" in answer.json()["error"]["message"]
