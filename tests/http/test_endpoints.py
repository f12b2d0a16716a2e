"""The service, the docs and the OpenAPI document have exactly the endpoints of the table."""

from __future__ import annotations

import json
import re

import pytest

from cyber_inference_tui.http.openapi import document
from cyber_inference_tui.records.endpoints import ENDPOINTS
from tests.fakes.service import FakeService, make_settings, serving
from tests.http.regenerate import PAGE, with_tables


async def test_the_service_serves_the_table_and_nothing_else() -> None:
    async with serving(FakeService()) as front:
        served = {resource.canonical for resource in front.app.router.resources()}
    paths = {
        # The handler distinguishes the actions after a name.
        re.sub(r"(\{\w+\}).*", r"\1", endpoint.path)
        for endpoint in ENDPOINTS.values()
    }
    rest = {"/admin/boxes/{rest}", "/admin/{rest}", "/ws/{rest}", "/ui", "/ui/{file}", "/{path}"}
    rest |= {"/api/push", "/api/blobs/{digest}"}
    assert served == paths | rest


def test_the_docs_have_its_tables() -> None:
    page = PAGE.read_text("utf-8")
    assert with_tables(page) == page


def test_the_document_is_valid() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.OpenAPIV31SpecValidator(json.loads(document())).validate()


def test_the_document_has_each_endpoint_once() -> None:
    paths = json.loads(document())["paths"]
    described = {f"{method.upper()} {path}" for path in paths for method in paths[path]}
    assert described == {endpoint.route for endpoint in ENDPOINTS.values()}
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(set(names)) == len(names)
    check = paths["/admin/config/{key}"]["put"]
    assert {one["name"]: one["required"] for one in check["parameters"]} == {
        "check": False,
        "key": True,
    }
    assert len(check["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]) == 2


async def test_the_document_is_for_clients_of_models() -> None:
    async with serving(FakeService(settings=make_settings(api_keys=("k",)))) as front:
        for headers, status in (({}, 401), ({"Authorization": "Bearer k"}, 200)):
            async with front.client.get("/openapi.json", headers=headers) as got:
                assert got.status == status
                if status == 200:
                    assert got.content_type == "application/json"
                    assert await got.read() == document()


async def test_a_named_model_may_have_a_document_of_its_own() -> None:
    async with serving(FakeService("m")) as front:  # its forwarder echoes
        for method, path, forwarded in (
            ("GET", "/openapi.json", False),
            ("GET", "/openapi.json?model=m", True),
            ("POST", "/openapi.json", True),
        ):
            async with front.client.request(method, path) as got:
                assert ((await got.json()).get("method") == method) is forwarded
