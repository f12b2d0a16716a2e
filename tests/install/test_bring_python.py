"""install.sh on a system whose Python is too old, or missing: uv installs one."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.install.checkout import QUICK_PIP, ROOT, Checkout, plain_environ

OLD_PYTHON = """#!/bin/sh
case "$*" in
*version_info*print* | *print*version_info*) echo 3.8.10 ;;
-m\\ pip*) {pip} ;;
*) exit 1 ;;
esac
"""
QUICK_ENSUREPIP = f"""
import pathlib, shutil, sysconfig
pip = pathlib.Path(sysconfig.get_path("purelib"), "pip")
pip.mkdir()
(pip / "__init__.py").touch()
shutil.copy({str(QUICK_PIP)!r}, pip / "__main__.py")
"""
NOWHERE = {
    "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
    "UV_INSTALLER_GITHUB_BASE_URL": "http://127.0.0.1:1",
}


def pinned() -> str:
    """Return the version of uv that the installer uses."""
    script = f'. "{ROOT}/scripts/environment.sh"; printf %s "$uv_version"'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


def write_python(path: Path, *, pip: str) -> None:
    """Write a Python 3.8 without ``venv`` that runs ``pip`` for ``python3 -m pip``."""
    path.write_text(OLD_PYTHON.replace("{pip}", pip))
    path.chmod(0o755)


@pytest.fixture
def old_machine(tmp_path: Path) -> Checkout:
    """A machine with Python 3.8, without uv, and without an apt that root could use."""
    folder = tmp_path / "old bin"
    folder.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            hidden = program.name.startswith(("python", "pip", "uv", "apt", "rustc"))
            if not hidden and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    write_python(folder / "python3", pip="exit 1")
    return Checkout(tmp_path, plain_environ(None, str(folder)))


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with one Python build, and uv's list of downloads.

    It is this Python, but its ensurepip installs quick_pip.py.
    """
    pytest.importorskip("ensurepip", reason="this Python has no ensurepip")
    folder = tmp_path_factory.mktemp("mirror")
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    left_out = {"test", "tests", "__pycache__", "site-packages", "dist-packages", "ensurepip"}
    left_out |= {"idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo"}

    def lean(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(entry.name).name
        # uv unpacks no link that leads out of the archive, as Debian's sitecustomize.py does.
        leads_out = entry.issym() and entry.linkname.startswith("/")
        return None if name in left_out or name.startswith("config-") or leads_out else entry

    with tarfile.open(folder / "python.tar.gz", "w:gz", compresslevel=0) as build:
        program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
        build.add(program, f"python/bin/python{version}")
        for name in ("python", "python3"):
            link = tarfile.TarInfo(f"python/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"python{version}"
            build.addfile(link)
        build.add(library, f"python/lib/python{version}", filter=lean)
        for name, text in (("__init__", ""), ("__main__", QUICK_ENSUREPIP)):
            file = tarfile.TarInfo(f"python/lib/python{version}/ensurepip/{name}.py")
            file.size = len(text)
            build.addfile(file, io.BytesIO(text.encode()))
        shared = sysconfig.get_config_var("LDLIBRARY")
        if (
            ".so" in shared
            and (there := Path(sysconfig.get_config_var("LIBDIR")) / shared).exists()
        ):
            build.add(there.resolve(), f"python/lib/{Path(there).resolve().name}")
    major, minor, patch = sys.version_info[:3]
    listed = {
        f"cpython-{major}.{minor}.{patch}-linux-{platform.machine()}-gnu": {
            "name": "cpython",
            "arch": {"family": platform.machine(), "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": minor,
            "patch": patch,
            "prerelease": "",
            "url": (folder / "python.tar.gz").as_uri(),
            "sha256": None,
            "variant": None,
        }
    }
    (folder / "downloads.json").write_text(json.dumps(listed))
    return folder / "downloads.json"


# Seconds of work: 20 MB of Python are packed, and unpacked by the real uv.
@pytest.mark.timeout(300)
def test_uv_brings_a_python_without_root(old_machine: Checkout, downloads: Path) -> None:
    python = Path(old_machine.environ["PATH"]) / "python3"
    write_python(python, pip=f"exec '{sys.executable}' \"$@\"")
    wheels = old_machine.root / "wheels"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    reachable = subprocess.run(
        [*download, "--dest", wheels, f"uv=={pinned()}"], capture_output=True, check=False
    )
    if reachable.returncode != 0:
        pytest.skip("uv cannot be had from a package index here")
    mirrors = {
        "PIP_FIND_LINKS": wheels.as_uri(),
        "UV_PYTHON_DOWNLOADS_JSON_URL": downloads.as_uri(),
    }
    done = old_machine.run("--no-llama", **mirrors)
    assert done.returncode == 0, done.stderr
    assert "The python3 here is 3.8.10, older than 3.11." in done.stderr
    assert old_machine.version() == "1"
    assert {path.name for path in old_machine.home.iterdir()} == {".local"}
    brought = (old_machine.app / "python").resolve()
    assert (old_machine.app / "current/bin/python").resolve().is_relative_to(brought)
    # Now it is installed: an update needs neither uv nor the mirror.
    write_python(python, pip="exit 1")
    old_machine.set_version("2")
    old_machine.install()
    assert old_machine.version() == "2"
    old_machine.run("--uninstall")
    assert not old_machine.app.exists()


def test_an_unknown_uv_is_not_run(old_machine: Checkout, tmp_path: Path) -> None:
    release = tmp_path / "mirror/astral-sh/uv/releases/download" / pinned()
    release.mkdir(parents=True)
    for library in ("musl", "gnu"):
        name = f"uv-{platform.machine()}-unknown-linux-{library}.tar.gz"
        (release / name).write_bytes(b"another program")
    mirror = {"UV_INSTALLER_GITHUB_BASE_URL": (tmp_path / "mirror").as_uri()}
    done = old_machine.run("--no-llama", **mirror)
    assert done.returncode == 1
    assert "is not the uv" in done.stderr
    assert not (old_machine.app / "uv").exists()


def test_the_error_names_the_missing_programs(old_machine: Checkout) -> None:
    last = old_machine.run("--no-llama", **NOWHERE).stderr.splitlines()[-1]
    assert last.startswith("The python3 here is 3.8.10, older than 3.11. uv,")
    assert "PIP_INDEX_URL" in last
    assert "curl" in last
    (Path(old_machine.environ["PATH"]) / "python3").unlink()
    last = old_machine.run("--no-llama", **NOWHERE).stderr.splitlines()[-1]
    assert last.startswith("There is no python3 here. uv,")


def test_an_unsuitable_python_is_reported(old_machine: Checkout) -> None:
    old = Path(old_machine.environ["PATH"]) / "python3"
    done = old_machine.run("--no-llama", PYTHON=str(old), **NOWHERE)
    assert "is not a Python 3.11 or newer" in done.stderr
