"""Every kind of fault once, in a fixed order, with one seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.outside import FAULTS
from tests.chaos.soak import Soak
from tests.chaos.world import World

SEED = 19


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc, and sets limits of others")
@pytest.mark.timeout(900)
def test_each_fault_leaves_a_right_service(llama_server: Path, tmp_path: Path) -> None:
    world = World(tmp_path, llama_server)
    soak = Soak(world, SEED)
    world.start()
    try:
        for number in range(len(FAULTS)):
            soak.step(number)
            if number == 0:
                soak.rest()
        soak.rest()
    finally:
        world.end()
    assert soak.faults.keys() == FAULTS.keys()
    assert {"answer", "error", "cancelled"} <= soak.outcomes.keys()
