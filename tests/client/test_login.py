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
    TooManyLoginsError,
)
from cyber_inference_tui.records import endpoints
from tests.client.stand_in import StandIn


def sent_with(stand_in: StandIn) -> list[tuple[str, str | None]]:
    """Paths and credentials of all requests."""
    return [
        (path, headers.get("Authorization", "").removeprefix("Bearer ") or None)
        for _, path, headers, _ in stand_in.requests
    ]


async def test_a_login_counts_for_all_later_calls(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    stand_in.publish("log", {"n": 1})
    async with ServiceClient(stand_in.url) as client:
        with pytest.raises(AdminLoginError) as refused:
            await client.call(endpoints.STATUS)
        assert not isinstance(refused.value, InvalidAdminPasswordError)
        with pytest.raises(AdminLoginError):
            async with aclosing(client.events()) as events:
                await anext(events)
        assert (await client.login("sesame")).expires_in == 60
        await client.call(endpoints.STATUS)
        async with aclosing(client.events({"log"}, after=0)) as events:
            assert (await anext(events)).data == b'{"n":1}'


async def test_a_wrong_password_is_an_error_of_its_own(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    async with ServiceClient(stand_in.url) as client:
        with pytest.raises(InvalidAdminPasswordError):
            await client.login("wrong")
        stand_in.login_error = (429, "too_many_logins", "Too many.")
        with pytest.raises(TooManyLoginsError) as error:
            await client.login("wrong")
        assert error.value.retry_after == 7
        stand_in.login_error = (409, "conflict", "No admin_password is set.")
        with pytest.raises(ConflictError):
            await client.login("wrong")


async def test_each_path_gets_what_belongs_to_it() -> None:
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


async def test_an_expired_login_asks_for_another(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    async with ServiceClient(stand_in.url) as client:
        await client.login("sesame")
        await client.call(endpoints.STATUS)
        stand_in.tokens = ["of another time"]
        with pytest.raises(AdminLoginError):
            await client.call(endpoints.STATUS)
        await client.login("sesame")
        await client.call(endpoints.STATUS)


async def test_a_stream_whose_login_expired_asks_for_another(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    stand_in.drop_after = 1
    stand_in.publish("log", {"n": 1})
    async with ServiceClient(stand_in.url) as client:
        await client.login("sesame")
        async with aclosing(client.events({"log"}, after=0)) as events:
            await anext(events)
            stand_in.tokens = []
            with pytest.raises(AdminLoginError):
                await anext(events)


async def test_renew_is_asked_once_and_the_call_made_again(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    asked: list[str] = []

    async def renew(client: ServiceClient) -> bool:
        asked.append(client.token)
        await client.login("sesame")
        return True

    async with ServiceClient(stand_in.url, renew=renew) as client:
        await asyncio.gather(
            client.call(endpoints.STATUS),
            client.call(endpoints.MODELS),
            client.call(endpoints.MODELS),
        )
        assert asked == [""]
        stand_in.tokens = []
        await client.call(endpoints.MODELS)
        assert asked == ["", "token-0"]


async def test_renewing_that_does_not_help_is_no_endless_loop(stand_in: StandIn) -> None:
    stand_in.password = "sesame"
    calls = 0

    async def renew(client: ServiceClient) -> bool:
        nonlocal calls
        calls += 1
        client.token = f"useless-{calls}"
        return True

    async with ServiceClient(stand_in.url, renew=renew) as client:
        with pytest.raises(AdminLoginError):
            await client.call(endpoints.STATUS)
    assert calls == 1
    assert sent_with(stand_in) == [("/admin/status", None), ("/admin/status", "useless-1")]


async def test_a_wrong_password_of_renew_comes_through(stand_in: StandIn) -> None:
    stand_in.password = "sesame"

    async def renew(client: ServiceClient) -> bool:
        await client.login("wrong")
        return True

    async with ServiceClient(stand_in.url, renew=renew) as client:
        with pytest.raises(InvalidAdminPasswordError):
            await client.call(endpoints.STATUS)
