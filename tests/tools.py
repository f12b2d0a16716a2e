"""The programs from outside that tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def run_alone() -> None:
    """Skip a test that takes minutes, such as one that makes a whole system, beside other tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("it takes minutes: name it to pytest, without -n (.ci/run does)")


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped here, and fails where CI runs."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is needed in CI: .ci/run installs it")
        pytest.skip(f"{name} is not installed")
    return path


def client_python() -> str:
    """The Python of an environment with clients' libraries, which are too big for the tests' own.

    ``.ci/run`` makes it, and names its folder in ``CYBER_TEST_CLIENTS``.
    """
    folder = os.environ.get("CYBER_TEST_CLIENTS")
    if not folder:
        pytest.skip("CYBER_TEST_CLIENTS names no environment with clients' libraries")
    return f"{folder}/bin/python"
