"""``web``: a real app behind the page, as a browser uses it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from tests.cli.conftest import CommandLine, Spawn
from tests.cli.stand_in import StandIn
from tests.fakes.service import FakeService, make_settings, serving
from tests.waiting import LIMIT, is_alive, until

PASSWORD = "correct horse"
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Page:
    """The running command, and the address that it printed."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self.address = address
        self.root = f"http://{urlsplit(address).netloc}/"

    def apps(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def page(spawn: Spawn, *argv: str, **environ: str) -> AsyncIterator[Page]:
    process = spawn(
        "web", "--web-port", "0", *argv, stdout=subprocess.PIPE, environ=environ, bufsize=0
    )
    assert process.stdout is not None
    line = (await asyncio.to_thread(process.stdout.readline)).decode()
    found = re.fullmatch(r"The app is at (http://127\.0\.0\.1:\d+/[\w-]{22}/)\n", line)
    assert found is not None, line
    yield Page(process, found[1])


class Tab:
    """A tab of a browser: what the app has drawn there, without its sequences."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self.text = ""

    async def read_until(self, *wanted: str) -> None:
        async with asyncio.timeout(LIMIT):
            while not all(part in self.text for part in wanted):
                message = await self._websocket.receive()
                assert message.type is aiohttp.WSMsgType.BINARY, (message, self.text)
                self.text += _SEQUENCE.sub("", message.data.decode())

    async def offered_file(self) -> str:
        """The key of the file that the page is to download."""
        async with asyncio.timeout(LIMIT):
            while (message := await self._websocket.receive()).type is aiohttp.WSMsgType.BINARY:
                self.text += _SEQUENCE.sub("", message.data.decode())
        kind, key = json.loads(message.data)
        assert kind == "deliver_file_start"
        return str(key)

    async def read_to_the_end(self) -> None:
        async with asyncio.timeout(LIMIT):
            async for message in self._websocket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.text += _SEQUENCE.sub("", message.data.decode())

    async def type(self, text: str) -> None:
        await self._websocket.send_str(json.dumps(["stdin", text]))


@asynccontextmanager
async def tab(browser: aiohttp.ClientSession, of: Page) -> AsyncIterator[Tab]:
    size = {"width": "120", "height": "40"}
    async with browser.ws_connect(f"{of.address}ws", params=size, origin=of.root[:-1]) as websocket:
        yield Tab(websocket)


async def test_each_tab_is_an_app_that_asks_for_the_password_and_ends_with_the_tab(
    spawn: Spawn,
) -> None:
    service = FakeService("tiny", settings=make_settings(admin_password=PASSWORD))
    async with serving(service) as front, aiohttp.ClientSession() as browser:
        # The password of the environment is for commands, not for whoever opens the page.
        given = {"CYBER_INFERENCE_ADMIN_PASSWORD": PASSWORD}
        async with page(spawn, "--attach", front.url, **given) as web:
            async with browser.get(web.address) as answer:
                shown = await answer.text()
                assert (answer.status, answer.content_type) == (200, "text/html")
            assert f'"ws://{urlsplit(web.address).netloc}{urlsplit(web.address).path}ws"' in shown
            for part in re.findall(r'(?:href|src)="(static/[^"]+)"', shown):
                async with browser.get(web.address + part) as answer:
                    assert answer.status == 200, part
            async with tab(browser, web) as first, tab(browser, web) as second:
                await first.read_until("Admin password")
                assert "tiny" not in first.text
                await first.type(PASSWORD + "\r")
                await first.read_until("Dashboard", "tiny", "Quit")
                # A login is that of its tab.
                await second.read_until("Admin password")
                assert "tiny" not in second.text
                assert len(web.apps()) == 2
                await first.type(":screenshot")
                await first.read_until("save the screen")
                await first.type("\r")
                key = await first.offered_file()
                async with browser.get(f"{web.root}download/{key}") as answer:
                    assert "<svg" in await answer.text()
                await first.type("q")
                await first.read_to_the_end()
                await until(lambda: len(web.apps()) == 1, what="the end of the app")
            await until(lambda: not web.apps(), what="the end of the closed tab's app")
            web.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(web.process.wait, LIMIT) == 0


async def test_on_the_services_own_machine_the_app_does_not_use_its_users_token(
    spawn: Spawn, config: Path
) -> None:
    config.write_text(f'admin_password = "{PASSWORD}"\n')
    service = spawn("serve", "--port", "0", stdout=subprocess.PIPE)
    assert service.stdout is not None
    assert (await asyncio.to_thread(service.stdout.readline)).startswith(b"listening on")
    async with (
        aiohttp.ClientSession() as browser,
        page(spawn, "--port", "0") as web,
        tab(browser, web) as opened,
    ):
        await opened.read_until("local", "Admin password")
        # A command does.
        done = await asyncio.to_thread(spawn("status", "--port", "0").wait, LIMIT)
        assert done == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_app_outlives_the_command(spawn: Spawn, number: signal.Signals) -> None:
    async with (
        serving(FakeService("tiny")) as front,
        aiohttp.ClientSession() as browser,
        page(spawn, "--readonly", "--attach", front.url) as web,
        tab(browser, web) as open_tab,
        tab(browser, web) as stopped_tab,
    ):
        await open_tab.read_until("Dashboard", "tiny")
        await stopped_tab.read_until("Dashboard", "tiny")
        assert "Load" not in open_tab.text  # it is read-only
        apps = web.apps()
        assert len(apps) == 2
        if number is signal.SIGTERM:
            apps[0].suspend()  # it cannot quit
        web.process.send_signal(number)
        code = await asyncio.to_thread(web.process.wait, LIMIT)
        assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        await until(lambda: not any(map(is_alive, apps)), what="the end of the apps")


async def test_requests_of_other_sites_and_without_the_secret_are_refused(spawn: Spawn) -> None:
    async with (
        serving(FakeService()) as front,
        aiohttp.ClientSession() as browser,
        page(spawn, "--attach", front.url) as web,
    ):
        refused = [
            {"Host": "evil.example"},
            {"Host": f"evil.example:{urlsplit(web.address).port}"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            # Another server of this machine.
            {"Origin": "http://127.0.0.1:1"},
        ]
        for headers in refused:
            async with browser.get(web.address, headers=headers) as answer:
                assert answer.status == 403, headers
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await browser.ws_connect(f"{web.address}ws", headers=headers)
            assert caught.value.status == 403, headers
        async with browser.get(web.address, headers={"Host": "localhost:9000"}) as answer:
            # The near end of a tunnel.
            assert 'data-session-websocket-url="ws://localhost:9000/' in await answer.text()
            assert answer.headers["Server"] == "cyber-inference-tui"
        for path in ("", "ws", "x/", "static/js/textual.js", "download/x"):
            async with browser.get(web.root + path) as answer:
                assert answer.status == 404, path
        assert web.apps() == []


async def test_an_app_that_cannot_start_says_why_in_its_tab(spawn: Spawn, tmp_path: Path) -> None:
    async with (
        serving(FakeService()) as front,
        aiohttp.ClientSession() as browser,
        page(spawn, "--attach", front.url) as web,
    ):
        (tmp_path / "config.toml").write_text("port = 'many'\n")
        async with tab(browser, web) as failed:
            await failed.read_to_the_end()
            assert "config.toml" in failed.text and "port" in failed.text


def test_a_port_in_use_is_refused_in_a_sentence(call: CommandLine, stand_in: StandIn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = call("web", "--web-port", str(port), "--attach", stand_in.url)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"The page cannot listen on 127.0.0.1:{port}: ")
    assert "--web-port" in outcome.err
