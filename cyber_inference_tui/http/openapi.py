"""Creates the OpenAPI document from the endpoints (https://spec.openapis.org/oas/v3.1.1)."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from cyber_inference_tui import __version__
from cyber_inference_tui.records.endpoints import ENDPOINTS, Area, Endpoint, Stream
from cyber_inference_tui.records.queries import Nothing

_REFERENCE = "#/components/schemas/{name}"
_ERROR = {
    "description": "an error: a status of 400 or more",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": "string"},
                        },
                    }
                },
            }
        }
    },
}
# The empty alternative: without api_keys and admin_password no credentials are needed.
_SECURITY: dict[Area, list[dict[str, list[str]]]] = {
    Area.OPEN: [],
    Area.PAGE: [],
    Area.LOGIN: [],
    Area.MODEL: [{"key": []}, {}],
    Area.ADMIN: [{"token": []}, {}],
    Area.OWNER: [{"token": []}, {"key": []}, {}],
    Area.PEER: [{"box": []}],
}


@cache
def document() -> bytes:
    """Return the document for all endpoints, as JSON."""
    kinds: set[Any] = {
        kind
        for endpoint in ENDPOINTS.values()
        for kind in (endpoint.query, endpoint.body, endpoint.answer)
    }
    ordered = sorted(kinds, key=str)
    made, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    schemas = dict(zip(ordered, made, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for name, endpoint in ENDPOINTS.items():
        operation = _operation(name, endpoint, schemas, components)
        methods = paths.setdefault(endpoint.path, {})
        before = methods.setdefault(endpoint.method.lower(), operation)
        if before is not operation:
            _merge(before, operation)
    used = {"Nothing", "Stream"} | {endpoint.query.__name__ for endpoint in ENDPOINTS.values()}
    return msgspec.json.encode(
        {
            "openapi": "3.1.1",
            "info": {"title": "cyber-inference-tui", "version": __version__},
            "paths": paths,
            "components": {
                "schemas": {key: one for key, one in components.items() if key not in used},
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer", "description": "an API key"},
                    "token": {"type": "http", "scheme": "bearer", "description": "of a login"},
                    "box": {"type": "http", "scheme": "bearer", "description": "of a pairing"},
                },
            },
        }
    )


def _operation(
    name: str,
    endpoint: Endpoint[Any, Any, Any],
    schemas: dict[Any, dict[str, Any]],
    components: dict[str, Any],
) -> dict[str, Any]:
    query = components[endpoint.query.__name__]
    required = query.get("required", [])
    parameters = [
        {"name": key, "in": "query", "required": key in required, "schema": schema}
        for key, schema in query["properties"].items()
    ]
    if "{" in endpoint.path:
        key = endpoint.path.partition("{")[2].partition("}")[0]
        schema = {"type": "string"}
        parameters.append({"name": key, "in": "path", "required": True, "schema": schema})
    operation: dict[str, Any] = {
        "operationId": name.lower(),
        "summary": endpoint.summary,
        "parameters": parameters,
        "security": _SECURITY[endpoint.area],
        "responses": {**_answer(endpoint, schemas), "default": _ERROR},
    }
    if endpoint.body is not Nothing:
        content = {"application/json": {"schema": schemas[endpoint.body]}}
        operation["requestBody"] = {"content": content}
    return operation


def _answer(
    endpoint: Endpoint[Any, Any, Any], schemas: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    if endpoint.answer is Stream:
        if endpoint.path.startswith("/ws/"):
            return {"101": {"description": "a WebSocket"}}
        return {"200": {"description": "events", "content": {"text/event-stream": {}}}}
    if endpoint.answer is bytes:
        return {"200": {"description": "the file", "content": {"application/octet-stream": {}}}}
    media = "text/plain" if endpoint.answer is str else "application/json"
    content = {media: {"schema": schemas[endpoint.answer]}}
    return {str(endpoint.status): {"description": endpoint.summary, "content": content}}


def _merge(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Extend ``first`` by ``second``, which answers if the parameters of ``first`` are missing."""
    for parameter in first["parameters"]:
        parameter["required"] = parameter["in"] == "path"
    first["operationId"] = second["operationId"]
    first["summary"] = f"{second['summary']}; {first['summary']}"
    for status, answer in second["responses"].items():
        if status != "default":
            content = first["responses"][status]["content"]["application/json"]
            other = answer["content"]["application/json"]["schema"]
            content["schema"] = {"anyOf": [other, content["schema"]]}
