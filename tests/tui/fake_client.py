"""A client of a fake service in the same process, for the tests of the app."""

from __future__ import annotations

from typing import Any

import msgspec

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.records import LoginRecord
from cyber_inference_tui.service.recent_events import RecentEvents
from tests.fakes.in_process import InProcess
from tests.fakes.service import FakeService, World, make_settings
from tests.tui.world import NOW


class FakeClient(ServiceClient):
    """A ``ServiceClient`` with its service at hand; see ``FakeService`` for most attributes.

    Use ``stop`` and ``start`` to take the service away and bring it back.
    """

    def __init__(self, world: World) -> None:
        service = FakeService(world=world)
        service.events = RecentEvents(now=lambda: NOW, first_id=101)
        service.events.begin(world.models.values())
        self.connections = InProcess(service, service.answer)
        super().__init__("http://127.0.0.1:8337", transport=self.connections)
        self.service = service
        self.world = world
        self.calls = service.calls
        self.fail = service.fail
        self.searches = service.searches
        self.chat_pace = service.chat_pace
        self.first_piece = service.first_piece
        self.hub_pace = service.hub_pace
        self.publish = service.publish
        self.set_model = service.set_model
        self.boxes: dict[str, FakeClient] = {}
        """The other boxes by their names."""

    @property
    def up(self) -> bool:
        return self.connections.up

    @property
    def password(self) -> str:
        return self.service.settings.admin_password

    @password.setter
    def password(self, password: str) -> None:
        self.service.settings = make_settings(admin_password=password)

    @property
    def chats_open(self) -> int:
        return self.service.chats_open

    @property
    def streams(self) -> int:
        """The number of event streams that wait for events."""
        return len(self.service.events._waiting)

    def at(self, box: str) -> FakeClient:
        """Return the client of another box, which is a service of its own."""
        return self.boxes[box]

    async def login(self, password: str) -> LoginRecord:
        self.calls.append(("login", password))
        return await super().login(password)

    def stop(self) -> None:
        """Take the service away."""
        self.connections.stop()

    def start(self, **changes: Any) -> None:
        """Bring the service back, with changes of its status such as another pid."""
        self.connections.up = True
        self.world.status = msgspec.structs.replace(self.world.status, **changes)
        if "pid" in changes:
            self.service.events.begin(self.world.models.values())
