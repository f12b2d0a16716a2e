"""Open a ``Browse`` on a stand-in hub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.hub.endpoint import HubEndpoint
from cyber_inference_tui.hub.transfer import open_session

from .stand_in_hub import StandInHub
from .transfers import QUICK, endpoint_of


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def browsing(
    hub: StandInHub | str,
    *,
    token: str = "",
    environ: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    clock: Clock | None = None,
) -> AsyncIterator[Browse]:
    endpoint = HubEndpoint(url=hub) if isinstance(hub, str) else endpoint_of(hub, token=token)
    async with open_session(QUICK) as session:
        yield Browse(
            endpoint=lambda: endpoint,
            session=lambda: session,
            environ=environ or {},
            timeout=timeout,
            clock=clock or Clock(),
        )
