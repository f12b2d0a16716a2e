"""Boxes that find each other on a network, here that of the loopback interface."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.peers import discovery
from cyber_inference_tui.peers.discovery import (
    MOST_SUGGESTIONS,
    Announced,
    Discovery,
    announced_addresses,
    suggestion,
)
from cyber_inference_tui.peers.peers import own_name
from cyber_inference_tui.records.peers import PeerSuggestion
from tests.waiting import LIMIT, until

LOOPBACK = ["127.0.0.1"]
FINGERPRINT = ":".join(["AB"] * 32)
HERE = [ipaddress.ip_interface("192.168.1.5/24"), ipaddress.ip_interface("172.17.0.1/16")]


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of service that nobody else on this machine announces."""
    name = f"_ci-{secrets.token_hex(4)}._tcp.local."
    monkeypatch.setattr(discovery, "SERVICE", name)
    return name


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def box(stack: AsyncExitStack, host: str, port: int, scheme: str = "https") -> Discovery:
    one = Discovery(interfaces=LOOPBACK)
    stack.push_async_callback(one.close)
    await one.configure(Announced(host, port, scheme, FINGERPRINT if scheme == "https" else ""))
    return one


async def seen(one: Discovery, *ports: int) -> list[PeerSuggestion]:
    """The suggestions, once they are those with these ports."""
    found: list[PeerSuggestion] = []
    async with asyncio.timeout(LIMIT):
        while [item.url.rpartition(":")[2] for item in found] != [str(port) for port in ports]:
            await asyncio.sleep(0.01)
            found = await one.suggestions()
    return found


def record(
    service: str, label: str = "box", *, port: int = 8337, **given: object
) -> AsyncServiceInfo:
    told = {"name": "jetson", "scheme": "https", "version": "1.2", "fingerprint": FINGERPRINT}
    addresses = given.pop("addresses", ["192.168.1.20"])
    assert isinstance(addresses, list)
    return AsyncServiceInfo(
        service,
        f"{label}.{service}",
        port=port,
        parsed_addresses=addresses,
        properties={**told, **given},
    )


async def test_two_boxes_suggest_each_other_until_they_leave(stack: AsyncExitStack) -> None:
    one = await box(stack, "192.168.77.1", 1111)
    other = await box(stack, "192.168.77.2", 2222, "http")
    [found] = await seen(one, 2222)
    # They have the name of the same machine.
    assert found == PeerSuggestion(
        name=own_name(), url="http://192.168.77.2:2222", version=__version__
    )
    [found] = await seen(other, 1111)
    assert (found.url, found.fingerprint) == ("https://192.168.77.1:1111", FINGERPRINT)
    await other.configure(Announced("192.168.77.2", 3333, "http", ""))
    await seen(one, 3333)
    await other.close()
    await until(lambda: len(one._names) == 1, what="the end of the other one")
    assert await one.suggestions() == []


async def test_a_box_that_listens_to_itself_only_looks(stack: AsyncExitStack) -> None:
    hidden = await box(stack, "127.0.0.1", 1111)
    await until(lambda: hidden._zeroconf)
    watching = await box(stack, "192.168.77.1", 2222)
    await seen(hidden, 2222)
    # One that begins later is seen, so the hidden one would be.
    await box(stack, "192.168.77.2", 3333)
    await seen(watching, 3333)


async def test_nothing_is_announced_and_looked_for_unless_it_is_wanted() -> None:
    one = Discovery(interfaces=LOOPBACK)
    await one.configure(None)
    with pytest.raises(ConflictError, match="does not look"):
        await one.suggestions()


async def test_why_nobody_looks_is_said(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "own_interfaces", fail)
    one = await box(stack, "192.168.77.1", 1111)
    await until(lambda: one._problem, what="the problem")
    with pytest.raises(ConflictError, match="No such device"):
        await one.suggestions()


async def test_new_addresses_are_announced(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_LOOK_AGAIN", 0.01)
    here = [ipaddress.ip_interface("192.168.77.1/24")]
    monkeypatch.setattr(discovery, "own_interfaces", lambda: here)
    one = await box(stack, "0.0.0.0", 1111)
    watching = await box(stack, "127.0.0.1", 2222)
    assert [item.url for item in await seen(watching, 1111)] == ["https://192.168.77.1:1111"]
    here = [ipaddress.ip_interface("192.168.78.1/24")]
    await until(
        lambda: one._registered and "192.168.78.1" in one._registered.parsed_addresses(),
        what="the new address",
    )


async def test_a_flood_of_odd_records_is_cut_and_cleaned(
    service: str, stack: AsyncExitStack
) -> None:
    flood = AsyncZeroconf(interfaces=LOOPBACK)
    stack.push_async_callback(flood.async_close)
    one = await box(stack, "127.0.0.1", 1111)
    for number in range(MOST_SUGGESTIONS + 8):
        odd = record(
            service,
            f"\u202e{number:02}😀" + "w" * 50,
            port=1 + number,
            name=f"\x1b[2J\u202ejet\tson{number:02}",
            version="\x1b]0;owned\x07\n9" + "x" * 200,
            fingerprint="\x1b[31m",
        )
        # Without the wait for whether the name is free.
        await flood.async_register_service(odd, cooperating_responders=True, strict=False)
    await until(lambda: len(one._names) > MOST_SUGGESTIONS, what="the flood")
    found = await one.suggestions()
    assert 1 < len(found) <= MOST_SUGGESTIONS
    for item in found:
        assert item.name.startswith("jet    son")
        assert item.version is not None
        assert item.version.startswith("9xxx")
        assert len(item.version) < 100
        assert item.fingerprint is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheme": "javascript"},
        {"scheme": None},
        {"name": "\x1b[2J"},
        {"port": 0},
        {"addresses": []},
        {"addresses": ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1"]},
    ],
)
def test_what_no_box_would_send_is_no_suggestion(service: str, wrong: dict[str, object]) -> None:
    assert suggestion(record(service), HERE) is not None
    assert suggestion(record(service, **wrong), HERE) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("addresses", "url"),
    [
        (["10.0.0.9", "192.168.1.20"], "https://192.168.1.20:8337"),
        (["172.17.0.1", "192.168.1.20"], "https://192.168.1.20:8337"),
        (["172.17.0.1", "10.0.0.9"], "https://10.0.0.9:8337"),
        # Another service on this machine.
        (["192.168.1.5"], "https://192.168.1.5:8337"),
        (["fd00::9"], "https://[fd00::9]:8337"),
    ],
)
def test_the_address_in_a_network_of_ours_is_suggested(
    service: str, addresses: list[str], url: str
) -> None:
    found = suggestion(record(service, addresses=addresses), HERE)
    assert found is not None
    assert found.url == url


@pytest.mark.parametrize(
    ("host", "announced"),
    [
        ("127.0.0.1", []),
        ("::1", []),
        ("192.168.1.5", ["192.168.1.5"]),
        ("0.0.0.0", ["192.168.1.5"]),
        ("::", ["192.168.1.5", "fd00::5"]),
    ],
)
def test_only_what_the_service_listens_on_is_announced(host: str, announced: list[str]) -> None:
    here = [ipaddress.ip_interface(one) for one in ("192.168.1.5/24", "fd00::5/64")]
    assert announced_addresses(host, here) == announced


async def test_a_question_on_another_interface_gets_no_answer(
    service: str, stack: AsyncExitStack
) -> None:
    host = next((str(one.ip) for one in discovery.own_interfaces() if one.version == 4), None)
    if host is None:
        pytest.skip("this machine has no network")
    one = Discovery()
    stack.push_async_callback(one.close)
    await one.configure(Announced(host, 1111, "https", ""))
    labels = service.rstrip(".").encode().split(b".")
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"

    def question() -> bytes:
        """One question, for PTR records of the class IN; a second one with its id is ignored."""
        head = struct.pack("!6H", secrets.randbelow(1 << 16), 0, 1, 0, 0, 0)
        return head + name + struct.pack("!2H", 12, 1)

    def asker(address: str) -> socket.socket:
        asking = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.bind((address, 0))
        asking.setblocking(False)
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        return asking

    there, elsewhere = asker(host), asker("127.0.0.1")

    def answered() -> bool:
        elsewhere.sendto(question(), ("127.0.0.1", 5353))
        there.sendto(question(), ("224.0.0.251", 5353))
        with suppress(BlockingIOError):
            return labels[0] in there.recv(9000)
        return False

    await until(answered, interval=0.2, what="the answer")
    with pytest.raises(BlockingIOError):
        elsewhere.recv(9000)
