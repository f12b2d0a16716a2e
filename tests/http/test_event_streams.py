"""Event streams over the wire: SSE and WebSockets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec
import pytest

from cyber_inference_tui.records import LogEvent, LogLine, ServiceEvent
from tests.fakes.service import FakeService, serving
from tests.waiting import LIMIT

from .raw import head


class Reader:
    """Reads a stream by blocks, the texts between empty lines."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def block(self) -> list[str]:
        lines: list[str] = []
        async with asyncio.timeout(LIMIT):
            while line := (await self._answer.content.readline()).decode().rstrip("\n"):
                lines.append(line)
        return lines

    async def event(self) -> tuple[str, int, Any]:
        name, number, data = await self.block()
        assert name.startswith("event: ")
        assert number.startswith("id: ")
        assert data.startswith("data: ")
        return name[7:], int(number[4:]), msgspec.json.decode(data[6:])


def log(log_id: str, *texts: str) -> LogEvent:
    now = datetime.now(UTC)
    return LogEvent(id=log_id, lines=tuple(LogLine(at=now, text=text) for text in texts))


async def test_a_stream_begins_at_once_and_has_all_events() -> None:
    service = FakeService()
    async with serving(service) as front, front.client.get("/admin/events") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        reader = Reader(answer)
        assert await reader.block() == [": connected"]
        service.events.publish("service", ServiceEvent(state="started"))
        service.events.publish("log", log("m", "two\u2028lines", "x"))
        assert await reader.event() == ("service", 1, {"state": "started", "message": ""})
        name, number, data = await reader.event()
        assert (name, number) == ("log", 2)
        assert [line["text"] for line in data["lines"]] == ["two\u2028lines", "x"]


async def test_only_requested_topics_are_sent() -> None:
    service = FakeService()
    path = "/admin/events?topics=model,%20config,"
    async with serving(service) as front, front.client.get(path) as answer:
        reader = Reader(answer)
        await reader.block()
        for topic in ("log", "model", "service", "config"):
            service.events.publish(topic, {"topic": topic})
        assert [(await reader.event())[0] for _ in range(2)] == ["model", "config"]


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_resumed_stream_has_the_missed_events(by_header: bool) -> None:
    service = FakeService()
    for number in range(5):
        service.events.publish("model", {"n": number})
    headers = {"Last-Event-ID": "3"} if by_header else {}
    path = "/admin/events" + ("?last_event_id=1" if by_header else "?last_event_id=3")
    async with serving(service) as front, front.client.get(path, headers=headers) as answer:
        reader = Reader(answer)
        await reader.block()
        assert [(await reader.event())[1] for _ in range(2)] == [4, 5]


async def test_an_id_from_another_life_is_a_gap() -> None:
    service = FakeService()
    service.events.publish("model", {"n": 0})
    headers = {"Last-Event-ID": "9" * 19}
    async with serving(service) as front:
        async with front.client.get("/admin/events", headers=headers) as answer:
            reader = Reader(answer)
            await reader.block()
            assert await reader.event() == ("gap", 0, {"missed": None, "topic": None})
            assert (await reader.event())[1] == 1
        for bad in ("9" * 5000, "-1", "one"):
            headers = {"Last-Event-ID": bad}
            async with front.client.get("/admin/events", headers=headers) as answer:
                assert answer.status == 400, bad


async def test_silence_is_filled_with_comments() -> None:
    service = FakeService()
    async with (
        serving(service, heartbeat=0.01) as front,
        front.client.get("/admin/events") as answer,
    ):
        reader = Reader(answer)
        await reader.block()
        assert await reader.block() == [":"]
        assert await reader.block() == [":"]
        service.events.publish("model", {})
        while (block := await reader.block()) == [":"]:
            pass
        assert block[0] == "event: model"


async def test_a_reader_that_sleeps_gets_a_gap_and_holds_no_memory() -> None:
    service = FakeService()
    async with serving(service) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
        writer.write(head("GET /admin/events?topics=log HTTP/1.1", "Host: localhost"))
        await reader.readuntil(b": connected\n\n")
        # Far more than all socket buffers and the ring hold. The client does not read yet.
        for _ in range(200):
            for _ in range(50):
                service.events.publish("log", log("m", "x" * 4000))
            await asyncio.sleep(0)
        service.events.publish("log", log("m", "the last one"))
        async with asyncio.timeout(LIMIT):
            received = b""
            seen_gap = False
            while b"the last one" not in received:
                received = received[-1000:] + await reader.read(65536)
                seen_gap = seen_gap or b"event: gap" in received
        assert seen_gap
        writer.close()


async def test_a_reader_that_never_reads_is_dropped() -> None:
    service = FakeService()
    async with serving(service, send_timeout=0.05) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
        writer.write(head("GET /admin/events?topics=log HTTP/1.1", "Host: localhost"))
        await reader.readuntil(b": connected\n\n")
        before = asyncio.all_tasks()
        async with asyncio.timeout(LIMIT):
            while not writer.transport.is_closing() and len(asyncio.all_tasks()) >= len(before):
                for _ in range(20):
                    service.events.publish("log", log("m", "x" * 4000))
                await asyncio.sleep(0.001)
        writer.transport.abort()


async def test_the_stream_ends_complete_when_the_service_stops() -> None:
    service = FakeService()
    async with serving(service) as front, front.client.get("/admin/events") as answer:
        reader = Reader(answer)
        await reader.block()
        service.events.publish("service", ServiceEvent(state="stopping"))
        service.events.close()
        assert (await reader.event())[0] == "service"
        assert await answer.content.read() == b""


async def test_stopping_the_server_ends_streams_by_itself() -> None:
    service = FakeService()
    async with aiohttp.ClientSession() as client:
        async with serving(service) as front:
            events = await client.get(f"{front.url}/admin/events")
            socket = await client.ws_connect(f"{front.url}/ws/status")
            await Reader(events).block()
            receiving = asyncio.ensure_future(socket.receive())
            reading = asyncio.ensure_future(events.content.read())
        async with asyncio.timeout(LIMIT):
            assert (await receiving).type is aiohttp.WSMsgType.CLOSE
            assert await reading == b""
        events.close()
        await socket.close()


async def test_nothing_is_left_when_a_client_leaves(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService()
    async with serving(service) as front:
        before = len(asyncio.all_tasks())
        for path in ("/admin/events", "/ws/status"):
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            extra = (
                ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
                if path.startswith("/ws")
                else ()
            )
            key = ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",) if extra else ()
            writer.write(head(f"GET {path} HTTP/1.1", "Host: localhost", *extra, *key))
            async with asyncio.timeout(LIMIT):
                while not service.events._waiting:
                    await asyncio.sleep(0.001)
                writer.transport.abort()
                while service.events._waiting or len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.001)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_logs_over_a_websocket_all_or_one() -> None:
    service = FakeService("m", "n")
    async with (
        serving(service) as front,
        front.client.ws_connect("/ws/logs") as all_logs,
        front.client.ws_connect("/ws/logs?id=m") as one,
        front.client.ws_connect("/ws/logs?id=service") as own,
    ):
        async with asyncio.timeout(LIMIT):
            while len(service.events._waiting) < 3:
                await asyncio.sleep(0.001)
        service.events.publish("log", log("n", "of n"))
        service.events.publish("model", {})
        service.events.publish("log", log("m", "of m"))
        service.events.publish("log", log("service", "of the service"))
        for socket, ids in ((all_logs, [1, 3, 4]), (one, [3]), (own, [4])):
            for expected in ids:
                message = await socket.receive_json(timeout=10)
                assert set(message) == {"event", "id", "data"}
                assert (message["event"], message["id"]) == ("log", expected)


async def test_a_stream_of_chosen_logs_and_other_topics() -> None:
    service = FakeService("sub/m", "n")
    service.world.models["sub/m"] = msgspec.structs.replace(
        service.world.models["sub/m"], aliases=("short",)
    )
    path = "/admin/events?topics=log,model&log=short&log=service"
    async with serving(service) as front, front.client.get(path) as answer:
        reader = Reader(answer)
        assert await reader.block() == [": connected"]
        service.events.publish("log", log("n", "not this"))
        service.events.publish("log", log("sub/m", "this"))
        service.events.publish("config", {})
        service.events.publish("model", {"id": "n"})
        service.events.publish("log", log("service", "and this"))
        assert [(await reader.event())[:2] for _ in range(3)] == [
            ("log", 2),
            ("model", 4),
            ("log", 5),
        ]


async def test_status_over_a_websocket_with_resume() -> None:
    service = FakeService()
    for topic in ("model", "log", "service", "request", "resources", "config"):
        service.events.publish(topic, {"of": topic})
    path = "/ws/status?last_event_id=1"
    async with serving(service) as front, front.client.ws_connect(path) as socket:
        topics = [(await socket.receive_json(timeout=10))["event"] for _ in range(3)]
        assert topics == ["service", "request", "resources"]
        service.events.close()
        message = await socket.receive(timeout=10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_a_websocket_client_may_talk_but_not_flood() -> None:
    service = FakeService()
    async with serving(service) as front, front.client.ws_connect("/ws/status") as socket:
        for _ in range(100):
            await socket.send_str("hello")
        service.events.publish("model", {})
        assert (await socket.receive_json(timeout=10))["event"] == "model"
        await socket.send_str("x" * 10_000)
        message = await socket.receive(timeout=10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_a_websocket_is_refused_to_other_sites_and_for_unknown_logs() -> None:
    service = FakeService("m")
    async with serving(service) as front:
        for path, headers, status in (
            ("/ws/logs", {"Origin": "http://evil.example"}, 403),
            ("/ws/status", {"Origin": "null"}, 403),
            ("/ws/logs", {"Host": "evil.example"}, 403),
            ("/ws/logs?id=nothing", {}, 404),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await front.client.ws_connect(path, headers=headers)
            assert caught.value.status == status
        async with front.client.ws_connect("/ws/logs", headers={"Origin": front.url}):
            pass
