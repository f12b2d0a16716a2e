from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.install.checkout import Checkout, plain_environ, quick_python


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose environments have a quick stand-in for pip."""
    return quick_python(tmp_path_factory.mktemp("python") / "quick pip", real_pip=False)


@pytest.fixture(scope="session")
def python_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose environments have the real pip, for install.sh's checks of it."""
    return quick_python(tmp_path_factory.mktemp("python") / "real pip", real_pip=True)


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """The first folder on PATH, for stand-ins of programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # pip runs it for its version, and rustup's writes into the home.
    (folder / "rustc").symlink_to("/bin/false")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, python: Path, bin_dir: Path) -> Checkout:
    return Checkout(tmp_path, plain_environ(python, f"{bin_dir}:{os.environ['PATH']}"))
