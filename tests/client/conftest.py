from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.stand_in import StandIn


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn().running() as service:
        yield service
