"""The Debian package: made, installed, used, removed and purged in bare Debian roots."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.debian_root import MAKING_LIMIT, debian_root, run_in
from tests.tools import run_alone

# What the package is for; scripts/deb takes the root's own.
SUITE, PYTHON = "bookworm", "3.11"


@pytest.fixture(autouse=True)
def alone() -> None:
    """It makes a system and installs everything twice."""
    run_alone()


@pytest.mark.timeout(MAKING_LIMIT + 1500)
def test_a_package_from_its_making_to_its_purge(release: tuple[Path, Path], tmp_path: Path) -> None:
    root = debian_root(SUITE, ["python3-venv"])
    sdist, wheel = release
    here = tmp_path / "here"
    here.mkdir()
    # The roots have no network. pip has its own settings here, and a cache.
    options = ["--only-binary=:all:", "--python-version", PYTHON, "--dest", str(here / "wheels")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *options, str(wheel)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    with tarfile.open(sdist) as archive:
        # The parameter ``filter`` came with 3.11.4, and Debian 12 has 3.11.2.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(here)
    shutil.copy(Path(__file__).with_name("in_root.py"), here)

    source = f"/mnt/here/{sdist.name.removesuffix('.tar.gz')}"
    made = run_in(
        root,
        *("env", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/mnt/here/wheels"),
        # The default takes half a minute more.
        *("DPKG_DEB_COMPRESSOR_TYPE=gzip", "DPKG_DEB_COMPRESSOR_LEVEL=1"),
        *(f"{source}/scripts/deb", f"/mnt/here/wheels/{wheel.name}", "/mnt/here"),
        here=here,
    )
    assert made.returncode == 0, made.stdout
    (package,) = here.glob("*.deb")
    version = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    name = f"cyber-inference-tui_{version}_"
    assert package.name.startswith(name)

    used = run_in(root, "python3", "/mnt/here/in_root.py", f"/mnt/here/{package.name}", here=here)
    assert used.returncode == 0, used.stdout
    assert used.stdout.endswith("all steps passed\n")
