"""The programs from outside that tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped here, and fails where CI runs."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is needed in CI: .ci/run installs it")
        pytest.skip(f"{name} is not installed")
    return path
