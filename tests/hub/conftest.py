"""A hub on this machine, and what a transfer from it needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .stand_in_hub import StandInHub


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub() as running:
        yield running
