"""The admin login: passwords, tokens, and the endpoints that need them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import stat
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from cyber_inference_tui.http import login_tokens
from cyber_inference_tui.http.login import MAX_WAITING, AdminLogin
from cyber_inference_tui.http.login_attempts import (
    FORGET_AFTER,
    FREE_FAILURES,
    LONGEST_PAUSE,
    MAX_CLIENTS,
    LoginAttempts,
)
from cyber_inference_tui.http.login_tokens import (
    AUDIENCE,
    ENDED_FILE,
    MAX_ENDED,
    TOKEN_LIFETIME,
    LoginTokens,
    kept_secret,
)
from cyber_inference_tui.records.endpoints import ENDPOINTS, Area
from cyber_inference_tui.service.audit_log import Caller
from cyber_inference_tui.settings.password_hash import hashed
from tests.fakes.service import FakeService, Front, make_settings, serving
from tests.waiting import LIMIT

PASSWORD = "öpen sesame"
HASH = "$scrypt$ln=10,r=8,p=1$wh+kmna0KJq/LwpWhbiJDA$KW8QZYhjvHKUbKniZMH3xtRs/o2L+EKZo3jLmQWODYA"
"""A hash that is quick to compare."""


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A service with a password, and its login with clocks that the test sets."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        given = {"admin_password": PASSWORD, **settings}
        self.service = FakeService("m", settings=make_settings(**given))
        self.now = Clock()
        self.clock = Clock()
        self.secret_file = folder / "login.secret"
        self.login = self.new_login()

    def new_login(self) -> AdminLogin:
        return AdminLogin(self.service, self.secret_file, now=self.now, clock=self.clock)

    def change(self, **settings: Any) -> None:
        """Change the settings, like a changed file."""
        self.service.settings = make_settings(**settings)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def log_in(front: Front, password: Any = PASSWORD) -> tuple[int, Any, Mapping[str, str]]:
    async with front.client.post("/admin/login", json={"password": password}) as answer:
        return answer.status, await answer.json(), answer.headers


async def token_of(front: Front) -> dict[str, str]:
    """Log in, and return headers with the new token."""
    status, body, _ = await log_in(front)
    assert status == 200
    return {"Authorization": f"Bearer {body['access_token']}"}


async def log_out(front: Front, headers: Mapping[str, str]) -> tuple[int, Any]:
    async with front.client.post("/admin/logout", json={}, headers=headers) as answer:
        return answer.status, await answer.json()


async def status_with(front: Front, headers: Mapping[str, str]) -> tuple[int, str | None]:
    async with front.client.get("/admin/status", headers=headers) as answer:
        body = await answer.json()
        return answer.status, body["error"]["code"] if answer.status != 200 else None


async def test_the_password_is_given_for_a_token_that_opens_the_admin_endpoints(
    world: World,
) -> None:
    async with serving(world.service, login=world.login) as front:
        assert await status_with(front, {}) == (401, "admin_login_required")
        status, body, headers = await log_in(front)
        assert status == 200
        assert body.keys() == {"access_token", "token_type", "expires_in"}
        assert (body["token_type"], body["expires_in"]) == ("bearer", TOKEN_LIFETIME)
        assert headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in headers
        token = body["access_token"]
        assert jwt.get_unverified_header(token)["alg"] == "HS256"
        for header in (f"Bearer {token}", f"bearer  {token}"):
            assert await status_with(front, {"Authorization": header}) == (200, None)
        for header in (
            token,
            f"Basic {token}",
            "Bearer ",
            f"Bearer {PASSWORD}",
            f"Bearer {token}x",
        ):
            assert (await status_with(front, {"Authorization": header}))[0] == 401
        assert (await status_with(front, {"x-api-key": token}))[0] == 401
        assert (await status_with(front, {"Cookie": f"access_token={token}"}))[0] == 401
        async with front.client.get(f"/admin/status?access_token={token}") as answer:
            assert answer.status == 401


GUARDED = [
    *(
        (endpoint.method, re.sub(r"\{\w+\}", "m", endpoint.path))
        for endpoint in ENDPOINTS.values()
        if endpoint.area is Area.ADMIN
    ),
    ("HEAD", "/admin/status"),
    ("GET", "/%61dmin/status"),
    ("GET", "/admin/nothing"),
    ("GET", "/ws/nothing"),
    ("POST", "/admin/login/more"),
    ("PATCH", "/admin/status"),
    ("OPTIONS", "/admin/status"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_all_admin_endpoints_need_a_login(world: World, method: str, path: str) -> None:
    async with serving(world.service, login=world.login) as front:
        body = {"value": 1} if method in {"POST", "PUT", "DELETE"} else None
        async with front.client.request(method, path, json=body) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            if method != "HEAD":
                assert (await answer.json())["error"]["code"] == "admin_login_required"
    assert world.service.calls == []
    assert world.service.world.config["max_queue"].value == 128


def test_all_admin_paths_are_in_the_admin_area() -> None:
    for endpoint in ENDPOINTS.values():
        owned = endpoint.path.startswith(("/admin/", "/ws/"))
        assert (endpoint.area in {Area.ADMIN, Area.LOGIN}) == owned
    logins = [one.route for one in ENDPOINTS.values() if one.area is Area.LOGIN]
    assert logins == ["POST /admin/login"]


async def test_model_endpoints_have_nothing_to_do_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, api_keys=("key",))
    async with serving(world.service, login=world.login) as front:
        admin = await token_of(front)
        key = {"Authorization": "Bearer key"}
        for path in ("/health", "/"):
            async with front.client.get(path) as answer:
                assert answer.status == 200
        for path in ("/v1/models", "/v1/chat/completions", "/metrics"):
            for headers, expected in ((key, 200), (admin, 401), ({}, 401)):
                async with front.client.get(path, headers=headers) as answer:
                    assert answer.status == expected, (path, headers)
        assert await status_with(front, key) == (401, "admin_login_required")


@pytest.mark.parametrize("password", ["", "guess", PASSWORD + " ", PASSWORD.upper(), "ö" * 300])
async def test_another_password_gets_nothing(
    world: World, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(world.service, login=world.login) as front:
        with caplog.at_level(logging.DEBUG):
            status, body, headers = await log_in(front, password)
        assert (status, body["error"]["code"]) == (401, "invalid_admin_password")
        assert headers["WWW-Authenticate"].startswith("Bearer")
        async with front.client.post("/admin/login") as answer:
            assert answer.status == 401
    assert "had a wrong password" in caplog.text
    assert PASSWORD not in caplog.text
    assert not password or password not in caplog.text


async def test_a_login_that_makes_no_sense_is_refused_as_such(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        assert (await log_in(front, 12))[0] == 400
        assert (await log_in(front, "x" * 5000))[0] == 413
        async with front.client.post("/admin/login", json={"user": "me"}) as answer:
            assert answer.status == 400
        async with front.client.post("/admin/login", data={"password": PASSWORD}) as answer:
            assert answer.status == 415
        headers = {"Origin": "http://evil.example"}
        async with front.client.post("/admin/login", json={}, headers=headers) as answer:
            assert answer.status == 403
        async with front.client.get("/admin/login") as answer:
            assert answer.status == 405


async def test_without_a_password_everything_is_open_and_a_login_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, admin_password="")
    async with serving(world.service, login=world.login) as front:
        assert await status_with(front, {}) == (200, None)
        assert await status_with(front, {"Authorization": "Bearer anything"}) == (200, None)
        status, body, _ = await log_in(front, "")
        assert (status, body["error"]["code"]) == (409, "conflict")
    assert not world.secret_file.exists()


async def test_a_token_expires(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        world.clock.now += TOKEN_LIFETIME - 1
        assert await status_with(front, headers) == (200, None)
        world.clock.now += 1
        assert await status_with(front, headers) == (401, "admin_login_required")


@pytest.mark.parametrize("jump", [-1_700_000_000.0, 1_000_000_000.0])
async def test_a_clock_that_is_set_ends_no_login_and_prolongs_none(
    world: World, jump: float
) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        world.now.now += jump
        assert await status_with(front, headers) == (200, None)
        world.clock.now += TOKEN_LIFETIME
        assert await status_with(front, headers) == (401, "admin_login_required")


async def test_a_token_of_a_clock_that_was_ahead_ends_with_its_process(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
    world.now.now -= 100
    async with serving(world.service, login=world.new_login()) as front:
        assert await status_with(front, headers) == (200, None)
    world.now.now -= 1_000_000
    async with serving(world.service, login=world.new_login()) as front:
        assert await status_with(front, headers) == (401, "admin_login_required")


async def test_a_changed_password_counts_at_once_and_ends_all_logins(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        world.change(admin_password="another")
        assert await status_with(front, headers) == (401, "admin_login_required")
        assert (await log_in(front))[0] == 401
        assert (await log_in(front, "another"))[0] == 200
        world.change(admin_password="")
        assert await status_with(front, {}) == (200, None)
        world.change(admin_password=PASSWORD)
        assert await status_with(front, {}) == (401, "admin_login_required")


async def test_a_token_outlives_the_process_but_not_its_secret(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
    assert stat.S_IMODE(world.secret_file.stat().st_mode) == 0o600
    assert len(world.secret_file.read_bytes()) == 32
    async with serving(world.service, login=world.new_login()) as front:
        assert await status_with(front, headers) == (200, None)
        world.now.now += TOKEN_LIFETIME
        assert await status_with(front, headers) == (401, "admin_login_required")
        world.now.now -= TOKEN_LIFETIME
    world.secret_file.unlink()
    async with serving(world.service, login=world.new_login()) as front:
        assert await status_with(front, headers) == (401, "admin_login_required")


async def test_the_token_of_the_process_is_valid_until_it_ends(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = {"Authorization": f"Bearer {world.login.process_token}"}
        world.now.now += 10 * TOKEN_LIFETIME
        assert await status_with(front, headers) == (200, None)
        world.change(admin_password="another")
        assert await status_with(front, headers) == (200, None)
    assert not world.secret_file.exists()
    async with serving(world.service, login=world.new_login()) as front:
        assert (await status_with(front, headers))[0] == 401


async def test_a_logout_ends_one_login_for_good(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        first, second = await token_of(front), await token_of(front)
        assert await log_out(front, first) == (200, {"ended": True})
        for _ in range(2):
            assert await status_with(front, first) == (401, "admin_login_required")
            assert await status_with(front, second) == (200, None)
        assert (await log_out(front, first))[0] == 401
    assert stat.S_IMODE(world.secret_file.with_name(ENDED_FILE).stat().st_mode) == 0o600
    async with serving(world.service, login=world.new_login()) as front:
        assert await status_with(front, first) == (401, "admin_login_required")
        assert await status_with(front, second) == (200, None)


async def test_a_request_without_a_login_has_none_to_end(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        own = {"Authorization": f"Bearer {world.login.process_token}"}
        assert (await log_out(front, {}))[0] == 401
        assert (await log_out(front, own))[0] == 409
        assert await status_with(front, own) == (200, None)
        world.change(admin_password="")
        assert (await log_out(front, {}))[0] == 409


async def test_a_logout_that_cannot_be_kept_still_ends_the_login_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    world = World(tmp_path / "file")
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        assert (await log_out(front, headers))[0] == 200
        assert await status_with(front, headers) == (401, "admin_login_required")
    assert "would be valid again after a restart" in caplog.text


async def test_a_disk_that_hangs_holds_up_a_logout_and_no_other_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: Any, **__: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(LIMIT)

    async with serving(world.service, login=world.login) as front:
        first, second = await token_of(front), await token_of(front)
        monkeypatch.setattr(login_tokens, "replace_file", hang)
        logout = asyncio.create_task(log_out(front, first))
        await begun.wait()
        assert await status_with(front, first) == (401, "admin_login_required")
        assert await status_with(front, second) == (200, None)
        go.set()
        assert (await logout)[0] == 200


def issued(tokens: LoginTokens) -> tuple[str, str]:
    return tokens.issue(PASSWORD, 1, process="p", clock=1)


def test_more_ended_logins_than_are_kept_end_all(tmp_path: Path) -> None:
    secret_file = tmp_path / "login.secret"
    tokens = LoginTokens(secret_file)
    (ended, ended_id), (other, _) = issued(tokens), issued(tokens)
    tokens.end(ended_id)
    for number in range(MAX_ENDED - 1):
        tokens.end(str(number))
    tokens.save()
    for reader in (tokens, LoginTokens(secret_file)):
        assert reader.claims(ended, PASSWORD) is None
        assert reader.claims(other, PASSWORD) is not None
    tokens.end("one more")
    tokens.save()
    new, _ = issued(tokens)
    for reader in (tokens, LoginTokens(secret_file)):
        assert reader.claims(ended, PASSWORD) is reader.claims(other, PASSWORD) is None
        assert reader.claims(new, PASSWORD) is not None


def test_a_damaged_list_of_ended_logins_ends_all(tmp_path: Path) -> None:
    secret_file = tmp_path / "login.secret"
    token, _ = issued(LoginTokens(secret_file))
    assert LoginTokens(secret_file).claims(token, PASSWORD) is not None
    secret_file.with_name(ENDED_FILE).write_text('["0123')
    assert LoginTokens(secret_file).claims(token, PASSWORD) is None


@pytest.mark.parametrize("claim", ["aud", "jti", "iat", "exp"])
def test_a_token_of_ours_for_another_purpose_is_none(tmp_path: Path, claim: str) -> None:
    tokens = LoginTokens(tmp_path / "login.secret")
    token, _ = issued(tokens)
    key = tokens._key(PASSWORD)
    claims = jwt.decode(token, key, ["HS256"], {"verify_exp": False}, audience=AUDIENCE)
    again = jwt.encode(claims, key, algorithm="HS256")
    assert tokens.claims(again, PASSWORD) is not None
    del claims[claim]
    without = jwt.encode(claims, key, algorithm="HS256")
    assert tokens.claims(without, PASSWORD) is None
    if claim == "aud":
        other = jwt.encode({**claims, "aud": "another program"}, key, algorithm="HS256")
        assert tokens.claims(other, PASSWORD) is None


@pytest.mark.parametrize("algorithm", ["none", "HS512", "HS256"])
async def test_tokens_that_others_signed_are_none(world: World, algorithm: str) -> None:
    async with serving(world.service, login=world.login) as front:
        await token_of(front)
        key = "" if algorithm == "none" else "k" * 64
        claims = {"sub": "admin", "exp": int(world.now.now) + 999}
        forged = jwt.encode(claims, key, algorithm=algorithm)
        headers = {"Authorization": f"Bearer {forged}"}
        assert await status_with(front, headers) == (401, "admin_login_required")


async def test_a_secret_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "login.secret"
    first = kept_secret(path)
    assert kept_secret(path) == first
    path.chmod(0o640)
    second = kept_secret(path)
    assert second != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    assert len(kept_secret(path)) == 32


async def test_where_no_secret_can_be_kept_logins_last_as_long_as_the_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    world = World(tmp_path / "file")
    async with serving(world.service, login=world.login) as front:
        assert await status_with(front, await token_of(front)) == (200, None)


async def test_wrong_passwords_make_an_address_wait(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        for _ in range(FREE_FAILURES):
            assert (await log_in(front, "wrong"))[0] == 401
        status, body, headers = await log_in(front)
        assert (status, body["error"]["code"]) == (429, "too_many_logins")
        assert headers["Retry-After"] == "1"
        # A client with a token does not have to wait.
        token = {"Authorization": f"Bearer {world.login.process_token}"}
        assert await status_with(front, token) == (200, None)
        world.clock.now += 1
        assert (await log_in(front))[0] == 200
        assert (await log_in(front, "wrong"))[0] == 401


async def test_clients_behind_a_trusted_proxy_wait_each_for_itself(tmp_path: Path) -> None:
    world = World(tmp_path, api_keys=("k",), trusted_proxies=("127.0.0.1",))

    async def status_of(client: str) -> int:
        headers = {"X-Forwarded-For": client}
        body = {"password": "wrong"}
        async with front.client.post("/admin/login", json=body, headers=headers) as answer:
            return answer.status

    async with serving(world.service, login=world.login) as front:
        for _ in range(FREE_FAILURES):
            # What it says of itself, before the proxy's own word, changes nothing.
            assert await status_of("198.51.100.1, 203.0.113.9") == 401
        assert await status_of("198.51.100.2, 203.0.113.9") == 429
        assert await status_of("203.0.113.10") == 401


async def test_many_attempts_at_once_count_as_many(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        answers = await asyncio.gather(*(log_in(front, "wrong") for _ in range(40)))
    statuses = [status for status, _, _ in answers]
    assert statuses.count(401) == FREE_FAILURES
    assert statuses.count(429) == 40 - FREE_FAILURES


class SlowHash:
    """Holds each comparison with a hash until ``go`` lets it pass."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.go = threading.Semaphore(0)
        self.at_once = self.most_at_once = 0
        self._loop = asyncio.get_running_loop()
        self._real = hashlib.scrypt

    def __call__(self, *args: Any, **options: Any) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self._loop.call_soon_threadsafe(self.begun.put_nowait, None)
        # On the event loop this would wait for itself.
        assert self.go.acquire(timeout=LIMIT)
        self.at_once -= 1
        return self._real(*args, **options)


@pytest.fixture
async def slow_hash(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowHash]:
    slow = SlowHash()
    monkeypatch.setattr(hashlib, "scrypt", slow)
    yield slow
    slow.go.release(100)


async def test_the_stored_hash_of_the_password_is_enough(world: World) -> None:
    world.change(admin_password=HASH)
    async with serving(world.service, login=world.login) as front:
        assert (await log_in(front, HASH))[0] == 401
        assert (await log_in(front, "wrong"))[0] == 401
        headers = await token_of(front)
        assert await status_with(front, headers) == (200, None)
        # The same password with another salt is a change, too.
        world.change(admin_password=hashed(PASSWORD))
        assert await status_with(front, headers) == (401, "admin_login_required")


async def test_the_service_answers_while_a_password_is_compared(
    world: World, slow_hash: SlowHash
) -> None:
    world.change(admin_password=HASH)
    async with serving(world.service, login=world.login) as front:
        login = asyncio.create_task(log_in(front))
        await slow_hash.begun.get()
        own = {"Authorization": f"Bearer {world.login.process_token}"}
        assert await status_with(front, own) == (200, None)
        slow_hash.go.release()
        assert (await login)[0] == 200


async def test_passwords_are_compared_one_after_another_and_few_may_wait(
    world: World, slow_hash: SlowHash
) -> None:
    world.change(admin_password=HASH)
    async with serving(world.service, login=world.login) as front:
        logins = [asyncio.create_task(log_in(front)) for _ in range(MAX_WAITING + 4)]
        left = set(logins)
        while len(left) > MAX_WAITING:
            refused, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for status, body, _ in [task.result() for task in refused]:
                assert (status, body["error"]["code"]) == (429, "too_many_logins")
        slow_hash.go.release(MAX_WAITING)
        statuses = [status for status, _, _ in await asyncio.gather(*logins)]
    assert statuses.count(200) == MAX_WAITING
    assert slow_hash.most_at_once == 1


async def test_a_client_that_leaves_early_has_tried_all_the_same(
    world: World, slow_hash: SlowHash
) -> None:
    world.change(admin_password=HASH)
    async with serving(world.service, login=world.login) as front:
        for _ in range(FREE_FAILURES):
            login = asyncio.create_task(log_in(front, "wrong"))
            await slow_hash.begun.get()
            login.cancel()
            await asyncio.wait({login})
            slow_hash.go.release()
        assert (await log_in(front))[0] == 429
    assert slow_hash.most_at_once == 1


async def test_logins_failures_and_logouts_are_on_record(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        await log_in(front, "wrong")
        headers = await token_of(front)
        (failed, by_nobody), (entered, by_login) = world.service.audited
        assert (failed, entered) == ("login_failed", "login")
        assert by_nobody == Caller("no login", "127.0.0.1")
        claims = jwt.decode(
            headers["Authorization"].removeprefix("Bearer "), options={"verify_signature": False}
        )
        assert by_login == Caller(f"login {claims['jti']}", "127.0.0.1")
        await log_out(front, headers)
        assert [event for event, _ in world.service.audited[2:]] == ["logout"]


def test_the_pause_grows_and_is_forgotten() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    pauses = []
    for _ in range(FREE_FAILURES + 9):
        attempts.failed("192.0.2.1")
        pauses.append(attempts.wait("192.0.2.1"))
    assert pauses[: FREE_FAILURES + 3] == [0, 0, 0, 0, 1, 2, 4, 8]
    assert pauses[-1] == LONGEST_PAUSE
    clock.now += 20
    assert attempts.wait("192.0.2.1") == LONGEST_PAUSE - 20
    assert attempts.wait("192.0.2.2") == 0
    clock.now += FORGET_AFTER
    assert attempts.wait("192.0.2.1") == 0
    attempts.failed("192.0.2.1")
    assert attempts.wait("192.0.2.1") == 0


def test_an_address_counts_in_all_its_spellings() -> None:
    attempts = LoginAttempts(Clock())
    for number in range(FREE_FAILURES):
        attempts.failed(f"2001:db8::{number}")
        attempts.failed("::ffff:192.0.2.1")
    assert attempts.wait("2001:db8::ffff:1") > 0
    assert attempts.wait("2001:db8:0:1::1") == 0
    assert attempts.wait("192.0.2.1") > 0
    attempts.succeeded("192.0.2.1")
    assert attempts.wait("192.0.2.1") == 0


def test_the_number_of_remembered_addresses_is_bounded() -> None:
    attempts = LoginAttempts(Clock())
    for number in range(MAX_CLIENTS + 500):
        attempts.failed(f"10.0.{number // 256}.{number % 256}")
    attempts.failed(None)
    attempts.failed("no address")
    assert len(attempts) == MAX_CLIENTS


async def test_an_event_stream_ends_with_its_login(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        async with front.client.get("/admin/events?topics=service", headers=headers) as answer:
            assert await answer.content.readline() == b": connected\n"
            world.service.events.publish("service", {"state": "first"})
            while b"first" not in await answer.content.readline():
                pass
            world.change(admin_password="another")
            world.service.events.publish("service", {"state": "second"})
            assert b"second" not in await answer.content.read()


async def test_a_websocket_ends_with_its_login(world: World) -> None:
    async with serving(world.service, login=world.login) as front:
        headers = await token_of(front)
        async with front.client.ws_connect("/ws/status", headers=headers) as socket:
            world.service.events.publish("service", {"state": "first"})
            assert (await socket.receive_json())["data"] == {"state": "first"}
            world.clock.now += TOKEN_LIFETIME
            world.service.events.publish("service", {"state": "second"})
            message = await socket.receive()
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await front.client.ws_connect("/ws/status", headers=headers)
