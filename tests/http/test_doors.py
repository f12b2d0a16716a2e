"""Every route of the service, with every credential, host and origin.

``RULES`` says who may ask, apart from the code's own table: a route without a rule fails, and so
does a route whose area is not that of its rule.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from cyber_inference_tui.http.access import Handler
from cyber_inference_tui.http.application import assemble
from cyber_inference_tui.http.client_connection import Runner
from cyber_inference_tui.http.json_io import json_answer
from cyber_inference_tui.http.login import AdminLogin
from cyber_inference_tui.peers.peers import PeerKey
from cyber_inference_tui.records.peers import Role
from cyber_inference_tui.settings.credentials import digest_of
from tests.fakes.service import FakeService, echo, make_settings

from .raw import Answer, ask, converse, head


class Rule(Enum):
    """Who may ask."""

    HEALTH = auto()
    PAGE = auto()
    MODEL = auto()
    OLLAMA = auto()
    """What changes this machine, by Ollama's API: a login if there is a password, else a key."""
    ADMIN = auto()
    LOGIN = auto()
    PEER = auto()
    """Paired boxes."""


RULES = {
    "/health": Rule.HEALTH,
    "/v1/health": Rule.HEALTH,
    "/": Rule.PAGE,
    "/ui": Rule.PAGE,
    "/ui/": Rule.PAGE,
    "/ui/{file}": Rule.PAGE,
    "/v1/models": Rule.MODEL,
    "/v1/models/{id}": Rule.MODEL,
    "/models": Rule.MODEL,
    "/models/{id}": Rule.MODEL,
    "/models/load": Rule.MODEL,
    "/models/unload": Rule.MODEL,
    "/models/sse": Rule.MODEL,
    "/props": Rule.MODEL,
    "/metrics": Rule.MODEL,
    "/openapi.json": Rule.MODEL,
    "/api/version": Rule.MODEL,
    "/api/status": Rule.MODEL,
    "/api/tags": Rule.MODEL,
    "/api/ps": Rule.MODEL,
    "/api/show": Rule.MODEL,
    "/api/push": Rule.MODEL,
    "/api/blobs/{digest}": Rule.MODEL,
    "/api/pull": Rule.OLLAMA,
    "/api/create": Rule.OLLAMA,
    "/api/copy": Rule.OLLAMA,
    "/api/delete": Rule.OLLAMA,
    "/{path}": Rule.MODEL,
    "/admin/login": Rule.LOGIN,
    "/admin/logout": Rule.ADMIN,
    "/admin/keys": Rule.ADMIN,
    "/admin/keys/{name}": Rule.ADMIN,
    "/admin/status": Rule.ADMIN,
    "/admin/resources": Rule.ADMIN,
    "/admin/trend": Rule.ADMIN,
    "/admin/memory": Rule.ADMIN,
    "/admin/queue": Rule.ADMIN,
    "/admin/problems": Rule.ADMIN,
    "/admin/models": Rule.ADMIN,
    "/admin/models/{id}": Rule.ADMIN,
    "/admin/demo": Rule.ADMIN,
    "/admin/gc": Rule.ADMIN,
    "/admin/bench": Rule.ADMIN,
    "/admin/bench/results": Rule.ADMIN,
    "/admin/tune": Rule.ADMIN,
    "/admin/tune/{name}": Rule.ADMIN,
    "/admin/hub/search": Rule.ADMIN,
    "/admin/hub/files": Rule.ADMIN,
    "/admin/hub/card": Rule.ADMIN,
    "/admin/downloads": Rule.ADMIN,
    "/admin/downloads/{id}": Rule.ADMIN,
    "/admin/logs": Rule.ADMIN,
    "/admin/logs/{id}": Rule.ADMIN,
    "/admin/log-lines/{id}": Rule.ADMIN,
    "/admin/log-matches/{id}": Rule.ADMIN,
    "/admin/recent-events": Rule.ADMIN,
    "/admin/events": Rule.ADMIN,
    "/admin/requests": Rule.ADMIN,
    "/admin/requests/active": Rule.ADMIN,
    "/admin/requests/{id}": Rule.ADMIN,
    "/admin/sessions": Rule.ADMIN,
    "/admin/clients": Rule.ADMIN,
    "/admin/totals": Rule.ADMIN,
    "/admin/totals/keys": Rule.ADMIN,
    "/admin/totals/speed": Rule.ADMIN,
    "/admin/config": Rule.ADMIN,
    "/admin/config/{key}": Rule.ADMIN,
    "/admin/install": Rule.ADMIN,
    "/admin/peers": Rule.ADMIN,
    "/admin/peers/{name}": Rule.ADMIN,
    "/admin/peers/suggestions": Rule.ADMIN,
    "/admin/pairing": Rule.ADMIN,
    "/admin/boxes/{rest}": Rule.ADMIN,
    "/admin/{rest}": Rule.ADMIN,
    "/peers/pair": Rule.PAGE,
    "/peers/pair/proof": Rule.PAGE,
    "/peers/events": Rule.PEER,
    "/peers/files/{sha256}": Rule.PEER,
    "/peers/link": Rule.PEER,
    "/peers/worker": Rule.PEER,
    "/peers/worker/{token}": Rule.PEER,
    "/ws/logs": Rule.ADMIN,
    "/ws/status": Rule.ADMIN,
    "/ws/{rest}": Rule.ADMIN,
}
KEY, PASSWORD, SITE = "right-key", "sesame", "https://ui.example"
OWNERS = {Rule.OLLAMA, Rule.ADMIN, Rule.LOGIN}
ADMITTED = "admitted"
CREDENTIALS = (
    *("nothing", "key", "wrong key", "token", "login", "wrong token"),
    *("serving box", "admin box"),
)
BOXES = {
    digest_of("serving box's key"): PeerKey("jetson", Role.SERVE),
    digest_of("admin box's key"): PeerKey("workstation", Role.ADMIN),
}
ORIGINS = ("nothing", "own", "listed", "local", "foreign", "null", "cross-site")


class Case(msgspec.Struct, frozen=True):
    """What comes with a request."""

    credential: str = "nothing"
    origin: str = "nothing"
    proxied: bool = False
    host: bool = True


CASES = [
    *itertools.starmap(Case, itertools.product(CREDENTIALS, ORIGINS, (False, True))),
    *itertools.starmap(
        Case, itertools.product(CREDENTIALS, ("own", "nothing"), (False,), (False,))
    ),
]


def expected(rule: Rule, case: Case, *, keys: bool, password: bool) -> str:
    """The code of the refusal by the contract, or ``ADMITTED``."""
    if not case.host:
        return "forbidden_host"
    if rule is Rule.HEALTH:
        return ADMITTED
    if case.proxied and not (keys and (password or rule not in {Rule.ADMIN, Rule.LOGIN})):
        return "forbidden_proxy"
    fine = {"nothing", "own", "listed"} | ({"local"} if rule not in OWNERS else set())
    if case.origin not in fine:
        return "forbidden_origin"
    if rule in OWNERS and case.credential == "serving box":
        return "peer_not_allowed"
    is_box = case.credential in {"serving box", "admin box"}
    if rule is Rule.PEER and not is_box:
        return "invalid_api_key"
    needs_key = rule is Rule.MODEL or (rule is Rule.OLLAMA and not password)
    if needs_key and keys and not is_box and case.credential not in {"key", "token"}:
        return "invalid_api_key"
    needs_login = rule in {Rule.ADMIN, Rule.OLLAMA} and password
    if needs_login and case.credential not in {"token", "login", "admin box"}:
        return "admin_login_required"
    return ADMITTED


class Doors(msgspec.Struct):
    """A service whose handlers only say that they were reached."""

    port: int
    paths: list[str]
    login: AdminLogin


@asynccontextmanager
async def doors(folder: Path, *, keys: bool, password: bool) -> AsyncIterator[Doors]:
    settings = make_settings(
        api_keys=(KEY,) if keys else (),
        admin_password=PASSWORD if password else "",
        cors_origins=(SITE,),
    )
    service = FakeService("m", settings=settings)
    service.peers.keys = BOXES
    login = AdminLogin(service, folder / "login.secret")
    app = assemble(service, echo, login)

    @web.middleware
    async def reached(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/admin/login" and request.can_read_body:
            return await handler(request)
        return json_answer({"error": {"code": ADMITTED}})

    app.middlewares.append(reached)
    runner = Runner(app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    service.address = ("127.0.0.1", port)
    paths = sorted({resource.canonical for resource in app.router.resources()})
    try:
        yield Doors(port, paths, login)
    finally:
        await runner.cleanup()
    assert service.calls == []


async def logged_in(port: int) -> str:
    body = msgspec.json.encode({"password": PASSWORD})
    lines = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}")
    answer = await ask(port, "POST /admin/login HTTP/1.1", *lines, body=body)
    assert answer.status == 200
    return str(msgspec.json.decode(answer.body)["access_token"])


def lines_of(case: Case, port: int, tokens: dict[str, str]) -> list[str]:
    own = f"127.0.0.1:{port}"
    origin = {
        "nothing": [],
        "own": [f"Origin: http://{own}"],
        "listed": [f"Origin: {SITE}", "Sec-Fetch-Site: cross-site"],
        "local": ["Origin: http://localhost:3000", "Sec-Fetch-Site: same-site"],
        "foreign": ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"],
        "null": ["Origin: null"],
        "cross-site": ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"],
    }[case.origin]
    credential = {
        "nothing": [],
        "key": [f"x-api-key: {KEY}"],
        "wrong key": ["x-api-key: wrong"],
    }.get(
        case.credential, [f"Authorization: Bearer {tokens.get(case.credential, 'e30.e30.wrong')}"]
    )
    proxy = ["X-Forwarded-For: 203.0.113.9"] if case.proxied else []
    host = own if case.host else f"evil.example:{port}"
    return [f"Host: {host}", *origin, *credential, *proxy]


def path_of(route: str) -> str:
    return route.replace("{id}", "m").replace("{", "x-").replace("}", "")


def code_of(answer: Answer) -> str:
    error = msgspec.json.decode(answer.body)["error"]
    # Ollama's errors are a text, and llama-server's router has the status for a code.
    return str(error["code"]) if isinstance(error, dict) else str(answer.status)


STATUSES = {
    "forbidden_host": 403,
    "forbidden_proxy": 403,
    "forbidden_origin": 403,
    "invalid_api_key": 401,
    "admin_login_required": 401,
    "peer_not_allowed": 403,
    ADMITTED: 200,
}


@pytest.mark.parametrize("password", [False, True], ids=["no password", "password"])
@pytest.mark.parametrize("keys", [False, True], ids=["no keys", "keys"])
async def test_every_route_admits_whom_its_rule_admits(
    tmp_path: Path, keys: bool, password: bool
) -> None:
    wrong: list[str] = []
    async with doors(tmp_path, keys=keys, password=password) as there:
        missing = set(there.paths) ^ RULES.keys()
        assert not missing, f"routes without a rule, or rules without a route: {missing}"
        tokens = {"token": there.login.process_token}
        tokens |= {box: f"{box}'s key" for box in ("serving box", "admin box")}
        if password:
            tokens["login"] = await logged_in(there.port)
        for route in there.paths:
            first = f"GET {path_of(route)} HTTP/1.1"
            requests = [head(first, *lines_of(case, there.port, tokens)) for case in CASES]
            answers = await converse(there.port, b"".join(requests), count=len(CASES))
            for case, answer in zip(CASES, answers, strict=True):
                code = expected(RULES[route], case, keys=keys, password=password)
                same = code_of(answer) in {code, str(STATUSES[code])}
                if not same or answer.status != STATUSES[code]:
                    wrong.append(f"{route} {case}: {answer.status} {code_of(answer)}, not {code}")
    assert wrong == []


async def test_every_route_answers_the_preflights_of_whom_its_rule_admits(tmp_path: Path) -> None:
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-api-key")
    origins = {"http://evil.example": "foreign", "null": "null", "http://localhost:3": "local"}
    async with doors(tmp_path, keys=True, password=True) as there:
        for route in there.paths:
            rule = RULES[route]
            first = f"OPTIONS {path_of(route)} HTTP/1.1"
            for origin, kind in {**origins, SITE: "listed"}.items():
                lines = ("Host: localhost", f"Origin: {origin}", *asked)
                answer = await ask(there.port, first, *lines)
                shared = kind == "listed" or (kind == "local" and rule is Rule.MODEL)
                allowed = answer.headers.get("access-control-allow-origin")
                assert allowed == (origin if shared else None), (route, origin)
                assert (answer.status == 204) is shared, (route, origin)
                assert "access-control-allow-credentials" not in answer.headers
