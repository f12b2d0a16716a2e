"""Access checks: hosts, origins, content types, keys, CORS."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from cyber_inference_tui.http.access import AccessRules
from cyber_inference_tui.http.hosts import parse_host, parse_origin
from cyber_inference_tui.records.endpoints import Area
from tests.fakes.service import FakeService, make_settings, serving

from .raw import ask, converse, head

EVIL = "http://evil.example"
SITE = "https://ui.example"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8337",
        "localhost.:8337",
        "api.localhost:1",
        "127.0.0.1",
        "127.99.3.2:80",
        "[::1]:8337",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]:5",
        "board.local:8337",
        "BOARD.LOCAL",
        "proxy.example:443",
        "[fd00::5]:9",
        "192.168.7.7:8337",
        "203.0.113.9:8337",
        "10.1.2.3:8337",
        "172.17.0.1",
        "100.64.0.7:8337",
        "169.254.7.7",
        "[fd12:3456::7]:8337",
        "[fe80::1]",
        "host.docker.internal:8337",
        "another.LOCAL.",
        socket.gethostname(),
        socket.gethostname().upper() + ":8337",
    ],
)
def test_own_names_are_allowed(host: str) -> None:
    settings = make_settings(allowed_hosts=("Board.local", "proxy.example:443", "fd00::5"))
    assert AccessRules(settings, "203.0.113.9").allows_host(host, "")


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8337",
        "evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8337",
        "127.1",
        "0x7f000001",
        "2130706433",
        "128.0.0.1",
        "[::2]:8337",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost:8337:80",
        "localhost:123456",
        "localhost, evil.example",
        "localhost/evil",
        "proxy.example",
        "proxy.example:444",
        "0.0.0.0",
        "[::]:8337",
        "224.0.0.1",
        "8.8.8.8",
        "local",
        "internal",
        "evillocal",
        "board.local.evil.example",
        "ⓛocalhost",
    ],
)
def test_other_names_are_not(host: str) -> None:
    settings = make_settings(allowed_hosts=("board.local", "proxy.example:443"))
    assert not AccessRules(settings, "127.0.0.1").allows_host(host, "8.8.8.8")


def test_on_a_wildcard_bind_the_address_of_the_connection_is_allowed() -> None:
    for bound in ("0.0.0.0", "::"):
        rules = AccessRules(make_settings(host=bound), bound)
        assert rules.wildcard
        assert rules.allows_host("9.9.9.8:8337", "9.9.9.8")
        assert rules.allows_host("9.9.9.8:8337", "::ffff:9.9.9.8")
        assert rules.allows_host("[2600::1]:8337", "2600::1%eth0")
        assert not rules.allows_host("9.9.9.9", "9.9.9.8")
        assert not rules.allows_host("evil.example", "9.9.9.8")


@given(st.text(max_size=40))
def test_no_text_upsets_the_parsers(text: str) -> None:
    parse_host(text)
    parse_origin(text)
    AccessRules(make_settings(allowed_hosts=(text,)), "127.0.0.1").allows_host(text, text)


def test_the_cache_of_hosts_is_bounded() -> None:
    rules = AccessRules(make_settings(), "127.0.0.1")
    for number in range(2000):
        assert not rules.allows_host(f"evil{number}.example", "")
    assert len(rules._hosts) <= 256


def test_only_the_same_origin_and_the_listed_ones_may_administrate() -> None:
    rules = AccessRules(make_settings(cors_origins=("https://ui.example", "*")), "127.0.0.1")
    host = "localhost:8337"
    for origin in ("http://localhost:8337", "HTTP://LocalHost:8337", "https://ui.example:443"):
        assert rules.allows_origin(origin, host, Area.ADMIN), origin
    for origin in (
        "null",
        "",
        "https://localhost:8337",
        "http://localhost",
        "http://localhost:8338",
        "http://127.0.0.1:8337",
        "http://ui.example",
        "https://ui.example.evil.example",
        "https://ui.example@evil.example",
        "file://",
        "*",
    ):
        assert not rules.allows_origin(origin, host, Area.ADMIN), origin
    assert rules.allows_origin("http://localhost", "localhost", Area.ADMIN)
    assert rules.allows_origin("http://localhost:80", "localhost", Area.ADMIN)


def test_a_star_shares_model_endpoints_only() -> None:
    rules = AccessRules(make_settings(cors_origins=("*", "https://ui.example")), "127.0.0.1")
    assert rules.shares_with("https://ui.example", Area.MODEL) == "https://ui.example"
    assert rules.shares_with("https://ui.example", Area.ADMIN) == "https://ui.example"
    assert rules.shares_with(EVIL, Area.MODEL) == "*"
    assert rules.shares_with(EVIL, Area.ADMIN) is None
    assert rules.shares_with("null", Area.ADMIN) is None


@pytest.mark.parametrize(
    "path",
    ["/", "/health", "/v1/models", "/v1/chat/completions", "/admin/status", "/ws/logs", "/nothing"],
)
async def test_a_rebound_name_is_refused_everywhere(path: str) -> None:
    async with serving(FakeService()) as front:
        answer = await ask(front.port, f"GET {path} HTTP/1.1", f"Host: evil.example:{front.port}")
        assert answer.status == 403
        assert answer.error()["code"] == "forbidden_host"
        assert answer.headers["content-type"].startswith("application/json")


async def test_a_host_must_be_there_and_only_once() -> None:
    async with serving(FakeService()) as front:
        # RFC 9112 requires 400 here, from aiohttp's parser.
        assert (await ask(front.port, "GET /health HTTP/1.1")).status == 400
        assert (await ask(front.port, "GET /health HTTP/1.0")).status == 200
        twice = await ask(front.port, "GET /health HTTP/1.1", "Host: localhost", "Host: evil")
        assert twice.status in {400, 403}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost/admin/status", 200),
        ("HTTPS://LocalHost:8337/admin/status?x=1", 200),
        ("http://localhost/admin/models/m", 200),
        ("http://localhost/v1/models/m#part", 200),
        ("http://localhost", 200),
        ("http://localhost?x=1", 200),
        ("http://evil.example/admin/status", 403),
        ("http://evil/v1/models", 403),
        ("http://evil", 403),
        ("http://localhost@evil/v1/models", 403),
        ("http://evil@localhost/v1/models", 403),
        ("http:///v1/models", 400),
        ("ftp://localhost/v1/models", 400),
    ],
)
async def test_a_target_with_a_name_goes_by_that_name(target: str, status: int) -> None:
    async with serving(FakeService("m")) as front:
        answer = await ask(front.port, f"GET {target} HTTP/1.1", "Host: localhost")
        assert answer.status in ({status, 403} if status == 400 else {status}), answer.body
        # The value of Host does not count beside it, but the header is required.
        answer = await ask(front.port, f"GET {target} HTTP/1.1", "Host: evil.example")
        assert answer.status in ({status, 403} if status == 400 else {status}), answer.body
        answer = await ask(front.port, f"GET {target} HTTP/1.1")
        assert answer.status in {400, 403}


async def test_a_password_in_the_target_is_not_repeated() -> None:
    async with serving(FakeService("m")) as front:
        target = "http://me:secret@localhost/v1/models"
        answer = await ask(front.port, f"GET {target} HTTP/1.1", "Host: localhost")
    assert answer.status == 403
    assert b"secret" not in answer.body


async def test_only_the_name_in_the_target_may_be_the_pages() -> None:
    async with serving(FakeService("m")) as front:
        for host, origin, status in (
            ("localhost:8337", "http://localhost:8337", 200),
            ("localhost:8337", f"http://127.0.0.1:{front.port}", 403),
        ):
            answer = await ask(
                front.port,
                f"GET http://{host}/admin/status HTTP/1.1",
                f"Host: 127.0.0.1:{front.port}",
                f"Origin: {origin}",
            )
            assert answer.status == status


def test_pages_of_this_machine_and_of_its_programs_may_use_models() -> None:
    rules = AccessRules(make_settings(), "127.0.0.1")
    for origin in (
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:5173",
        "http://[::1]:8080",
        "http://tauri.localhost",
        "tauri://localhost",
        "app://obsidian.md",
        "file://",
        "vscode-webview://1a2b3c",
        "vscode-file://vscode-app",
        "http://box.local:8337",
        "https://box.local",
    ):
        host = "box.local:8337" if ":8337" in origin else "box.local"
        assert rules.allows_origin(origin, host, Area.MODEL), origin
        is_own = origin == "http://box.local:8337"
        assert rules.allows_origin(origin, host, Area.ADMIN) is is_own, origin
    for origin in (
        EVIL,
        "null",
        "",
        "http://localhost.evil.example",
        "http://evil.example:8337",
        "http://box.local:8338",
        "http://0.0.0.0:8337",
        "http://192.168.1.9",
        "application://x",
        "chrome-extension://abc",
        "file",
        "app://x y",
    ):
        assert not rules.allows_origin(origin, "box.local:8337", Area.MODEL), origin


def test_patterns_of_origins_and_hosts() -> None:
    settings = make_settings(
        allowed_hosts=("*.example.org", "*.example.net:8337"),
        cors_origins=(
            "https://*.example.org",
            "http://*.lan:*",
            "chrome-extension://*",
            "http://*.*:5000",
            "app-x://one",
            "https://[::2]:9",
        ),
    )
    rules = AccessRules(settings, "127.0.0.1")
    for origin, models, admin in (
        ("https://chat.example.org", True, True),
        ("https://a.b.example.org:443", True, True),
        ("https://example.org", False, False),
        ("https://chat.example.org:8443", False, False),
        ("http://chat.example.org", False, False),
        ("https://chat.example.org.evil.example", False, False),
        ("https://evil.example#.example.org", False, False),
        ("https://evil.example:1@x.example.org", False, False),
        ("http://box.lan:3000", True, True),
        ("http://box.lan", True, True),
        ("https://box.lan:3000", False, False),
        # A pattern for every name, as * alone, is for models only.
        ("chrome-extension://abcdefgh", True, False),
        ("http://evil.example:5000", True, False),
        ("App-X://one/", True, True),
        ("app-x://two", False, False),
        ("https://[::2]:9", True, True),
    ):
        for area, allowed in ((Area.MODEL, models), (Area.ADMIN, admin)):
            assert rules.allows_origin(origin, "localhost", area) is allowed, (origin, area)
            shared = rules.shares_with(origin, area)
            assert shared == (origin if allowed else None), (origin, area)
    for host, allowed in (
        ("chat.example.org", True),
        ("A.B.Example.Org.:9", True),
        ("example.org", False),
        ("chat.example.org.evil.example", False),
        ("x.example.net:8337", True),
        ("x.example.net", False),
        ("*.example.org", True),
    ):
        assert rules.allows_host(host, "") is allowed, host


@given(st.lists(st.text(max_size=20), max_size=3), st.text(max_size=30))
def test_no_listed_text_upsets_the_rules(entries: list[str], origin: str) -> None:
    settings = make_settings(cors_origins=tuple(entries), trusted_proxies=tuple(entries))
    rules = AccessRules(settings, "127.0.0.1")
    for area in Area:
        rules.allows_origin(origin, origin, area)
        rules.shares_with(origin, area)
    headers = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": origin, "Forwarded": origin}))
    assert rules.client_address("8.8.8.8", headers) == "8.8.8.8"


@pytest.mark.parametrize(
    ("remote", "headers", "client"),
    [
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        ("::ffff:127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        # What the client itself has written comes first, and does not count.
        ("127.0.0.1", {"X-Forwarded-For": "1.2.3.4, 203.0.113.9"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "1.2.3.4, 203.0.113.9, 10.7.0.1"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9:4711"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "unknown"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": ""}, "127.0.0.1"),
        ("127.0.0.1", {}, "127.0.0.1"),
        ("10.7.0.1", {"Forwarded": 'for="[2001:db8::7]:4711";proto=https'}, "2001:db8::7"),
        ("10.7.0.1", {"Forwarded": "For=1.2.3.4, for=203.0.113.9;by=x"}, "203.0.113.9"),
        ("10.7.0.1", {"Forwarded": "for=_hidden"}, "10.7.0.1"),
        # A proxy has set one of the headers, and the client perhaps the other.
        ("10.7.0.1", {"Forwarded": "for=1.2.3.4", "X-Forwarded-For": "203.0.113.9"}, "10.7.0.1"),
        ("192.0.2.1", {"X-Forwarded-For": "203.0.113.9"}, "192.0.2.1"),
        ("192.0.2.1", {"Forwarded": "for=203.0.113.9"}, "192.0.2.1"),
    ],
)
def test_the_client_behind_a_trusted_proxy(
    remote: str, headers: dict[str, str], client: str
) -> None:
    settings = make_settings(trusted_proxies=("127.0.0.1", "10.7.0.0/16"))
    given = CIMultiDictProxy(CIMultiDict(headers))
    assert AccessRules(settings, "127.0.0.1").client_address(remote, given) == client
    assert AccessRules(make_settings(), "127.0.0.1").client_address(remote, given) == remote


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_a_proxy_needs_keys_and_a_password(header: str) -> None:
    """Behind a proxy everybody looks like a program on this machine."""
    service = FakeService("m")
    sent = {header: "203.0.113.9"}
    everywhere = ("/", "/ui/", "/v1/models", "/v1/chat/completions", "/admin/status", "/ws/logs")
    async with serving(service) as front:

        async def refused(path: str, **more: str) -> bool:
            async with front.client.get(path, headers={**sent, **more}) as answer:
                if answer.status != 403:
                    return False
                problem = await answer.json()
                assert problem["error"]["code"] == "forbidden_proxy"
                assert header in problem["error"]["message"]
                return True

        for path in everywhere:
            assert await refused(path), path
        async with front.client.get("/health", headers=sent) as answer:
            assert answer.status == 200
        service.settings = make_settings(trusted_proxies=("127.0.0.1",))
        assert await refused("/v1/models")
        service.settings = make_settings(api_keys=("k",))
        assert not await refused("/v1/models", Authorization="Bearer k")
        assert await refused("/admin/status")
        service.settings = make_settings(admin_password="p")
        assert await refused("/v1/models")
        service.settings = make_settings(api_keys=("k",), admin_password="p")
        async with front.client.get("/admin/status", headers=sent) as answer:
            assert answer.status == 401
        service.settings = make_settings(insecure_no_auth=True)
        for path in everywhere[2:]:
            assert not await refused(path), path
    assert service.calls == []


async def test_a_page_of_another_site_is_refused_everywhere_but_at_health() -> None:
    """Also without Origin, as images, forms and links are sent; and with a right key."""
    service = FakeService("m", settings=make_settings(api_keys=("k",), cors_origins=(SITE,)))
    forged = {"Sec-Fetch-Site": "cross-site", "Authorization": "Bearer k"}
    asked = {"Access-Control-Request-Method": "GET"}
    async with serving(service) as front:
        for path in ("/", "/ui/", "/v1/models", "/slots?model=m", "/upstream/m/x", "/admin/status"):
            for headers in (forged, {**forged, "Origin": EVIL}, {"Origin": "null"}):
                async with front.client.get(path, headers=headers) as answer:
                    assert answer.status == 403, (path, headers)
                    assert (await answer.json())["error"]["code"] == "forbidden_origin"
            async with front.client.get(path, headers={**forged, "Origin": SITE}) as answer:
                assert answer.status != 403, path
            for site in ("same-origin", "same-site", "none"):
                headers = {**forged, "Sec-Fetch-Site": site}
                async with front.client.get(path, headers=headers) as answer:
                    assert answer.status != 403, (path, site)
        for headers in (forged, {"Origin": EVIL}, {"Origin": EVIL, **asked}):
            async with front.client.get("/health", headers=headers) as answer:
                assert answer.status == 200
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_page_of_this_machine_may_read_the_answers_of_models() -> None:
    origin = {"Origin": "http://localhost:3000"}
    async with serving(FakeService("m")) as front:
        async with front.client.get("/v1/models", headers=origin) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        headers = {**origin, "Access-Control-Request-Method": "POST"}
        async with front.client.options("/v1/chat/completions", headers=headers) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        async with front.client.options("/admin/models/m/load", headers=headers) as answer:
            assert answer.status == 403


async def test_foreign_pages_get_nothing_from_admin_and_websockets() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        for origin in (EVIL, "null", f"http://evil.example:{front.port}"):
            headers = {"Origin": origin}
            for method, path in (
                ("GET", "/admin/status"),
                ("GET", "/admin/events"),
                ("GET", "/%61dmin/status"),
                ("POST", "/admin/models/m/load"),
                ("DELETE", "/admin/models/m"),
                ("PUT", "/admin/config/max_queue"),
                ("GET", "/ws/logs"),
                ("GET", "/admin/none"),
            ):
                async with front.client.request(method, path, headers=headers) as answer:
                    assert answer.status == 403, (origin, method, path)
                    assert (await answer.json())["error"]["code"] == "forbidden_origin"
                    assert "Access-Control-Allow-Origin" not in answer.headers
        own = {"Origin": front.url}
        async with front.client.get("/admin/status", headers=own) as answer:
            assert answer.status == 200
    assert service.calls == []


async def test_an_encoded_admin_path_is_no_way_around_the_key() -> None:
    service = FakeService(settings=make_settings(api_keys=("k",)))
    async with serving(service) as front:
        for path in (
            "/admin%2Fstatus",
            "/admin%2f..%2fv1/chat/completions",
            "//admin/status",
            "/x",
        ):
            answer = await ask(front.port, f"POST {path} HTTP/1.1", "Host: localhost")
            assert answer.status == 401, path


async def test_admin_writes_are_json_or_nothing() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        path = "/admin/models/m/pin"
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain; application/json",
            "",
        ):
            head_lines = (f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}")
            answer = await ask(front.port, *head_lines, "Content-Length: 2", body=b"{}")
            assert answer.status == 415, kind
            assert answer.error()["code"] == "unsupported_media_type"
        untyped = ("POST /admin/models/m/pin HTTP/1.1", "Host: localhost")
        assert (await ask(front.port, *untyped, "Content-Length: 2", body=b"{}")).status == 415
        chunked = await ask(
            front.port, *untyped, "Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"
        )
        assert chunked.status == 415
        assert service.calls == []
        assert (await ask(front.port, *untyped)).status == 200
        assert (await ask(front.port, *untyped, "Content-Length: 0")).status == 200
        async with front.client.post(path, json={}) as answer2:
            assert answer2.status == 200
        typed = {"Content-Type": "application/json; charset=utf-8"}
        async with front.client.post(path, data=b"{}", headers=typed) as answer2:
            assert answer2.status == 200


async def test_keys_guard_model_endpoints_and_nothing_else() -> None:
    service = FakeService("m", settings=make_settings(api_keys=("first", "zweiter-ü")))
    async with serving(service) as front:
        guarded = ["/v1/models", "/v1/models/m", "/models", "/v1/chat/completions", "/upstream/m/x"]
        for path in guarded:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic first"},
                {"Authorization": "first"},
                {"Authorization": "Bearer "},
                {"x-api-key": "firs"},
                {"x-api-key": ""},
            ):
                async with front.client.get(path, headers=headers) as answer:
                    assert answer.status == 401, (path, headers)
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                    assert (await answer.json())["error"]["code"] == "invalid_api_key"
            for headers in (
                {"Authorization": "Bearer first"},
                {"Authorization": "bearer  zweiter-ü"},
                {"x-api-key": "zweiter-ü"},
                {"Authorization": "Bearer wrong", "x-api-key": "first"},
            ):
                async with front.client.get(path, headers=headers) as answer:
                    assert answer.status == 200, (path, headers)
        for path in ("/health", "/v1/health", "/", "/admin/status"):
            async with front.client.get(path) as answer:
                assert answer.status == 200, path
        async with front.client.post("/v1/messages") as answer:
            assert await answer.json() == {
                "type": "error",
                "error": {
                    "type": "authentication_error",
                    "message": (
                        "A valid API key is needed. Send it as"
                        " 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
                    ),
                    "code": "invalid_api_key",
                },
            }


async def test_changed_settings_count_from_the_next_request() -> None:
    service = FakeService()
    async with serving(service) as front:
        async with front.client.get("/v1/models") as answer:
            assert answer.status == 200
        service.settings = make_settings(api_keys=("k",), allowed_hosts=("new.example",))
        async with front.client.get("/v1/models") as answer:
            assert answer.status == 401
        assert (await ask(front.port, "GET /health HTTP/1.1", "Host: new.example")).status == 200
        service.settings = make_settings()
        assert (await ask(front.port, "GET /health HTTP/1.1", "Host: new.example")).status == 403


async def test_cors_for_listed_sites_only() -> None:
    site = "https://ui.example"
    service = FakeService(settings=make_settings(cors_origins=(site,), api_keys=("k",)))
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
        "Access-Control-Request-Private-Network": "true",
    }
    async with serving(service) as front:
        for path in ("/v1/chat/completions", "/admin/models/m/load", "/v1/models"):
            headers = {"Origin": site, **asked}
            async with front.client.options(path, headers=headers) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == site
                assert "POST" in answer.headers["Access-Control-Allow-Methods"]
                assert "x-stainless-os" in answer.headers["Access-Control-Allow-Headers"]
                assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
                assert answer.headers["Vary"] == "Origin"
                assert "Access-Control-Allow-Credentials" not in answer.headers
            headers["Origin"] = EVIL
            async with front.client.options(path, headers=headers) as answer:
                assert answer.status == 403
                assert not [name for name in answer.headers if name.startswith("Access-Control")]
        async with front.client.get("/admin/status", headers={"Origin": site}) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == site
        # The page may read the reason of a refusal, too.
        async with front.client.get("/v1/models", headers={"Origin": site}) as answer:
            assert answer.status == 401
            assert answer.headers["Access-Control-Allow-Origin"] == site
        async with front.client.get("/admin/events", headers={"Origin": site}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == site


async def test_a_star_in_cors_origins_leaves_admin_closed() -> None:
    service = FakeService(settings=make_settings(cors_origins=("*",)))
    async with serving(service) as front:
        headers = {"Origin": EVIL, "Access-Control-Request-Method": "GET"}
        async with front.client.options("/v1/models", headers=headers) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*")
            assert "Access-Control-Allow-Private-Network" not in answer.headers
        async with front.client.options("/admin/models", headers=headers) as answer:
            assert answer.status == 403
        async with front.client.get("/admin/models", headers={"Origin": EVIL}) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_every_pipelined_request_is_checked() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        requests = [
            head("GET /health HTTP/1.1", "Host: localhost"),
            head("POST /admin/models/m/load HTTP/1.1", "Host: localhost", "Origin: null"),
            head("GET /health HTTP/1.1", "Host: evil.example"),
            head("GET /admin/models/m HTTP/1.1", "Host: localhost"),
        ]
        answers = await converse(front.port, b"".join(requests), count=4)
        assert [answer.status for answer in answers] == [200, 403, 403, 200]
    assert service.calls == []


async def test_expect_continue_is_answered_after_the_checks() -> None:
    async with serving(FakeService()) as front:
        lines = ("POST /v1/x HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
        answer = await ask(front.port, *lines, "Host: evil.example")
        assert answer.status == 403
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(head(*lines, "Host: localhost"))
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"12345")
        assert b" 200 OK" in await reader.readuntil(b"OK\r\n")
        writer.close()


async def test_the_ip_of_the_connection_counts_on_a_wildcard_bind() -> None:
    service = FakeService()
    async with serving(service, host="0.0.0.0") as front:
        assert (await ask(front.port, "GET /health HTTP/1.1", "Host: localhost")).status == 200
        assert (await ask(front.port, "GET /health HTTP/1.1", "Host: 9.9.9.9")).status == 403
