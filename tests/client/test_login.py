"""Logins of the client: it keeps its token, and renews it if it can."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import httpx
import pytest

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import (
    AdminLoginError,
    ConflictError,
    InvalidAdminPasswordError,
    InvalidApiKeyError,
    TooManyLoginsError,
)
from cyber_inference_tui.http.login_attempts import FREE_FAILURES
from cyber_inference_tui.http.login_tokens import TOKEN_LIFETIME
from cyber_inference_tui.records import NewKey, endpoints
from tests.fakes.service import Front, make_settings

PASSWORD = "sesame"


@pytest.fixture
def front(front: Front) -> Front:
    """A service that requires a login."""
    set_password(front)
    return front


def set_password(front: Front, password: str = PASSWORD) -> None:
    """Change the password, which invalidates all tokens."""
    front.service.settings = make_settings(admin_password=password)


def sent_with(front: Front) -> list[tuple[str, str | None]]:
    """Paths and credentials of all requests."""
    return [
        (request.path, request.headers.get("Authorization", "").removeprefix("Bearer ") or None)
        for request in front.requests
    ]


async def test_a_login_counts_for_all_later_calls(front: Front) -> None:
    front.service.publish("config", {"n": 1})
    async with ServiceClient(front.url) as client:
        with pytest.raises(AdminLoginError) as refused:
            await client.call(endpoints.STATUS)
        assert not isinstance(refused.value, InvalidAdminPasswordError)
        with pytest.raises(AdminLoginError):
            async with aclosing(client.events()) as events:
                await anext(events)
        assert (await client.login(PASSWORD)).expires_in == TOKEN_LIFETIME
        await client.call(endpoints.STATUS)
        async with aclosing(client.events({"config"}, after=0)) as events:
            assert (await anext(events)).data == b'{"n":1}'


async def test_a_wrong_password_is_an_error_of_its_own(front: Front) -> None:
    async with ServiceClient(front.url) as client:
        for _ in range(FREE_FAILURES):
            with pytest.raises(InvalidAdminPasswordError):
                await client.login("wrong")
        with pytest.raises(TooManyLoginsError) as error:
            await client.login("wrong")
        assert error.value.retry_after == 1
        set_password(front, "")
        with pytest.raises(ConflictError):
            await client.login("wrong")


async def test_each_path_gets_its_credentials() -> None:
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.headers.get("authorization")
        answers = {"/v1/models": {}, "/admin/login": {"access_token": "", "expires_in": 1}}
        return httpx.Response(200, json=answers.get(request.url.path, []))

    client = ServiceClient(
        "http://127.0.0.1:1",
        api_key="key",
        token="token",
        transport=httpx.MockTransport(answer),
    )
    async with client:
        await client.call(endpoints.MODELS)
        await client.call(endpoints.LIST_V1)
        await client.login("sesame")
    assert seen == {
        "/admin/models": "Bearer token",
        "/v1/models": "Bearer key",
        "/admin/login": None,
    }


async def test_an_expired_login_asks_for_another(front: Front) -> None:
    async with ServiceClient(front.url) as client:
        await client.login(PASSWORD)
        await client.call(endpoints.STATUS)
        set_password(front, "new")
        with pytest.raises(AdminLoginError):
            await client.call(endpoints.STATUS)
        await client.login("new")
        await client.call(endpoints.STATUS)


async def test_a_stream_whose_login_expired_asks_for_another(front: Front) -> None:
    front.service.publish("config", {"n": 1})
    async with ServiceClient(front.url) as client:
        await client.login(PASSWORD)
        async with aclosing(client.events({"config"}, after=0)) as events:
            await anext(events)
            set_password(front, "new")
            front.service.publish("config", {"n": 2})
            with pytest.raises(AdminLoginError):
                await anext(events)


async def test_renew_is_called_once_and_the_call_repeated(front: Front) -> None:
    asked: list[str] = []

    async def renew(client: ServiceClient) -> bool:
        asked.append(client.token)
        await client.login(front.service.settings.admin_password)
        return True

    async with ServiceClient(front.url, renew=renew) as client:
        await asyncio.gather(
            client.call(endpoints.STATUS),
            client.call(endpoints.MODELS),
            client.call(endpoints.MODELS),
        )
        assert asked == [""]
        token = client.token
        set_password(front, "new")
        await client.call(endpoints.MODELS)
        assert asked == ["", token]


async def test_renewing_that_does_not_help_is_no_endless_loop(front: Front) -> None:
    calls = 0

    async def renew(client: ServiceClient) -> bool:
        nonlocal calls
        calls += 1
        client.token = f"useless-{calls}"
        return True

    async with ServiceClient(front.url, renew=renew) as client:
        with pytest.raises(AdminLoginError):
            await client.call(endpoints.STATUS)
    assert calls == 1
    assert sent_with(front) == [("/admin/status", None), ("/admin/status", "useless-1")]


async def test_a_wrong_password_of_renew_is_raised(front: Front) -> None:
    async def renew(client: ServiceClient) -> bool:
        await client.login("wrong")
        return True

    async with ServiceClient(front.url, renew=renew) as client:
        with pytest.raises(InvalidAdminPasswordError):
            await client.call(endpoints.STATUS)


async def test_the_token_is_a_key_where_the_service_wants_one(front: Front) -> None:
    set_password(front, "")

    async def renew(client: ServiceClient) -> bool:
        client.token = front.login.process_token
        return True

    async with ServiceClient(front.url, token="of a login", renew=renew) as client:
        await client.call(endpoints.LIST_V1)
        # A service without keys may pass it on to a model's server.
        assert sent_with(front) == [("/v1/models", None)]
        await front.service.keys.add(NewKey(name="a"))
        client.token = ""
        await client.call(endpoints.LIST_V1)
        await client.call(endpoints.LIST_V1)
        own = front.login.process_token
        assert sent_with(front)[1:] == [("/v1/models", sent) for sent in (None, own, own)]
    async with ServiceClient(front.url, api_key="wrong", renew=renew) as client:
        with pytest.raises(InvalidApiKeyError):
            await client.call(endpoints.LIST_V1)
    assert sent_with(front)[4:] == [("/v1/models", "wrong")]
