"""Announces this box to the local network, and finds boxes to suggest: DNS-SD over multicast DNS.

RFC 6762 and 6763. Anybody on the network can send such records, so nothing here is trusted: they
become suggestions, and a pairing takes its code as ever.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from cyber_inference_tui import __version__
from cyber_inference_tui.errors import ConflictError
from cyber_inference_tui.peers.peers import own_name
from cyber_inference_tui.records.peers import PeerSuggestion
from cyber_inference_tui.sockets import is_loopback
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE = "_cyber-inference._tcp.local."
MOST_SUGGESTIONS = 32
_MOST_ADDRESSES = 16
"""Addresses of a record that are looked at."""
_LONGEST = 63
"""Characters of a text of a record."""
_ANSWER_MS = 1000
"""Milliseconds that a box has to tell its address."""
_LOOK_AGAIN = 60.0
"""Seconds between two looks at this machine's addresses, which may come and go."""
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}")
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})

_logger = logging.getLogger(__name__)

_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Announced(NamedTuple):
    """The facts that a box announces."""

    host: str
    """The address that it listens on."""
    port: int
    scheme: str
    fingerprint: str
    """Of its certificate; empty without TLS."""


class Discovery:
    """Announces this box and looks for others between ``configure`` and ``close``.

    ``interfaces`` are the addresses whose networks are used; ``None`` = the one that the service
    listens on, or all of them if it listens on all, or only on its own machine.
    """

    def __init__(self, *, interfaces: list[str] | None = None) -> None:
        self._given = interfaces
        self._own: Announced | None = None
        self._task: asyncio.Task[None] | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._registered: AsyncServiceInfo | None = None
        self._problem: str | None = None
        self._names: dict[str, None] = {}

    async def configure(self, own: Announced | None) -> None:
        """Begin, change what is announced, or end (``None``)."""
        if own == self._own:
            return
        await self.close()
        if own is not None:
            self._own = own
            self._task = asyncio.create_task(self._run(own), name="discover boxes")

    async def close(self) -> None:
        """Take the announcement back, and look no more."""
        self._own = self._problem = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def suggestions(self) -> list[PeerSuggestion]:
        """Return the boxes found, by name. Raises ``ConflictError`` if nobody looks for them."""
        if self._own is None:
            raise ConflictError(
                "This service does not look for other boxes.", hint="Set mdns = true on each."
            )
        if self._problem is not None:
            raise ConflictError(f"Looking for other boxes failed: {self._problem}.")
        if (zeroconf := self._zeroconf) is None:
            return []
        here = await asyncio.to_thread(own_interfaces)
        ours = self._registered.name if self._registered else None
        answers = await asyncio.gather(
            *(_asked(zeroconf, name) for name in self._names if name != ours),
            return_exceptions=True,
        )
        found = (suggestion(one, here) for one in answers if not isinstance(one, BaseException))
        boxes = sorted((one for one in found if one), key=lambda one: (one.name, one.url))
        return boxes[:MOST_SUGGESTIONS]

    # In the background

    async def _run(self, own: Announced) -> None:
        while True:
            try:
                # It takes 16 MB and 0.1 s, for those who ask for it.
                await asyncio.to_thread(import_module, "zeroconf.asyncio")
                await self._present(own, await asyncio.to_thread(own_interfaces))
            except Exception as error:  # noqa: BLE001 - the service goes on without it
                problem = clean_line(str(error)) or type(error).__name__
                if problem != self._problem:
                    _logger.warning("cannot look for other boxes: %s", problem)
                self._problem = problem
                await asyncio.sleep(_LOOK_AGAIN)

    async def _present(self, own: Announced, here: list[_Interface]) -> None:
        """Announce this box and look for others until this machine's addresses change."""
        from zeroconf import InterfaceChoice, IPVersion  # noqa: PLC0415 - only if it is wanted
        from zeroconf.asyncio import (  # noqa: PLC0415
            AsyncServiceBrowser,
            AsyncServiceInfo,
            AsyncZeroconf,
        )

        alone = own.host not in _EVERYWHERE and not is_loopback(own.host)
        given = self._given or ([own.host] if alone else None)
        zeroconf = AsyncZeroconf(
            interfaces=given or InterfaceChoice.All,
            ip_version=IPVersion.All if own.host == "::" else None,
        )
        browser = None
        try:
            await zeroconf.zeroconf.async_wait_for_start()
            if given and self._given is None:
                _keep_to(zeroconf, own.host)
            browser = AsyncServiceBrowser(
                zeroconf.zeroconf, SERVICE, handlers=[partial(_note, self._names)]
            )
            self._zeroconf, self._problem = zeroconf, None
            addresses = announced_addresses(own.host, here)
            if addresses:
                self._registered = AsyncServiceInfo(
                    SERVICE,
                    # The machines of a shelf often have one name, and start in one moment.
                    f"{own_name()}-{secrets.token_hex(4)}.{SERVICE}",
                    port=own.port,
                    parsed_addresses=addresses,
                    properties={
                        "name": own_name(),
                        "scheme": own.scheme,
                        "version": __version__,
                        "fingerprint": own.fingerprint,
                    },
                )
                sent = await zeroconf.async_register_service(
                    self._registered, allow_name_change=True
                )
                # Else an announcement could follow the goodbye.
                await sent
            while True:
                await asyncio.sleep(_LOOK_AGAIN)
                if await asyncio.to_thread(own_interfaces) != here:
                    return
        finally:
            self._zeroconf = self._registered = None
            if browser is not None:
                await browser.async_cancel()
            await zeroconf.async_close()
            self._names.clear()


def _note(
    names: dict[str, None], *, zeroconf: Any, service_type: str, name: str, state_change: Any
) -> None:
    """Note the name of a box that has come or gone."""
    if state_change.name == "Removed":
        names.pop(name, None)
    # This box is among them, too.
    elif len(names) <= MOST_SUGGESTIONS:
        names[name] = None


async def _asked(zeroconf: AsyncZeroconf, name: str) -> AsyncServiceInfo | None:
    return await zeroconf.async_get_service_info(SERVICE, name, timeout=_ANSWER_MS)


def _keep_to(zeroconf: AsyncZeroconf, host: str) -> None:
    """Hear and answer on the interface with this address alone, where the kernel can do that.

    Linux gives a socket for all addresses what any program asked for on any interface.
    """
    import ifaddr  # noqa: PLC0415 - comes with zeroconf

    device = getattr(socket, "SO_BINDTODEVICE", None)
    for adapter in ifaddr.get_adapters():
        if device is not None and any(host in (one.ip, one.ip[0]) for one in adapter.ips):
            for reader in zeroconf.zeroconf.engine.readers:
                with suppress(OSError):
                    reader.sock.setsockopt(socket.SOL_SOCKET, device, adapter.nice_name.encode())


def own_interfaces() -> list[_Interface]:
    """Return the addresses of this machine that others may reach, with their networks."""
    import ifaddr  # noqa: PLC0415 - comes with zeroconf

    found = []
    for adapter in ifaddr.get_adapters():
        for one in adapter.ips:
            text = one.ip if isinstance(one.ip, str) else one.ip[0]
            if _reachable(text):
                found.append(ipaddress.ip_interface(f"{text}/{one.network_prefix}"))
    return sorted(found, key=str)


def announced_addresses(host: str, here: Iterable[_Interface]) -> list[str]:
    """Return the addresses to announce for a service that listens on ``host``."""
    if is_loopback(host):
        return []
    if host not in _EVERYWHERE:
        return [host.partition("%")[0]]
    return [str(one.ip) for one in here if host != "0.0.0.0" or one.version == 4][:_MOST_ADDRESSES]


def suggestion(info: AsyncServiceInfo | None, here: Iterable[_Interface]) -> PeerSuggestion | None:
    """Return what a record suggests; ``None`` if it is none that a box would send.

    ``here`` are this machine's addresses: of those in the record, one in a network of this machine
    is taken.
    """
    if info is None or not info.port:
        return None
    properties = info.decoded_properties
    scheme = properties.get("scheme")
    here = list(here)

    def distance(address: str) -> tuple[bool, bool]:
        ip = ipaddress.ip_address(address)
        return any(ip == one.ip for one in here), not any(ip in one.network for one in here)

    addresses = [one for one in info.parsed_addresses()[:_MOST_ADDRESSES] if _reachable(one)]
    name = clean_line(properties.get("name") or "", limit=_LONGEST)
    if scheme not in {"http", "https"} or not addresses or not name:
        return None
    best = min(addresses, key=distance)
    fingerprint = properties.get("fingerprint") or ""
    return PeerSuggestion(
        name=name,
        url=f"{scheme}://{f'[{best}]' if ':' in best else best}:{info.port}",
        version=clean_line(properties.get("version") or "", limit=_LONGEST) or None,
        fingerprint=fingerprint if _FINGERPRINT.fullmatch(fingerprint) else None,
    )


def _reachable(address: str) -> bool:
    """Return whether another machine can have this address, and an URL can name it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.version == 6 and ip.is_link_local:
        # It means nothing without the interface.
        return False
    return not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_reserved)
