from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.service import FakeService, Front, serving


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A fake service behind the real HTTP layer."""
    async with serving(FakeService()) as front:
        yield front
