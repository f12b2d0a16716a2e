"""A release, made once for all processes of the tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(directory: Path) -> None:
    """Make an sdist in ``directory``, and a wheel from that sdist."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The paths of an sdist and a wheel."""
    base = tmp_path_factory.getbasetemp()
    # Workers have folders of their own in one that belongs to all of them.
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "dist"
    with shared.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not shared.is_dir():
            made = shared.with_suffix(".new")
            build(made)
            made.rename(shared)
    (sdist,), (wheel,) = shared.glob("*.tar.gz"), shared.glob("*.whl")
    return sdist, wheel
