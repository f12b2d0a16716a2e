"""install.sh where the system's Python is too old, or missing: uv brings one."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.install.checkout import ROOT, Checkout, plain_environ

OLD_PYTHON = """#!/bin/sh
case "$*" in
*version_info*print* | *print*version_info*) echo 3.8.10 ;;
*) exit 1 ;;
esac
"""


def pinned(name: str) -> str:
    """A variable of the script that gets uv."""
    script = f'. "{ROOT}/scripts/environment.sh"; printf %s "${name}"'
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index with the page of uv: its address, and the folder of the page."""
    folder = tmp_path / "index/simple/uv"
    folder.mkdir(parents=True)
    wheel = pinned(f"uv_wheel_{platform.machine()}")
    (folder / "index.html").write_text(
        f'<a href="uv-0.0.1-py3-none-any.whl">x</a><br><a href="{wheel}#sha256=0">{wheel}</a>\n'
    )
    handler = partial(Quiet, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple", folder
        server.shutdown()
        thread.join(10)


@pytest.fixture
def old_machine(tmp_path: Path) -> Checkout:
    """One with Python 3.8 and without uv; nor is there an apt, which root could use."""
    folder = tmp_path / "old bin"
    folder.mkdir()
    for directory in ("/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            hidden = program.name.startswith(("python", "pip", "uv", "apt", "rustc"))
            if not hidden and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    (folder / "python3").write_text(OLD_PYTHON)
    (folder / "python3").chmod(0o755)
    return Checkout(tmp_path, plain_environ(None, str(folder)))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's real one, from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    tag = {"x86_64": "musllinux_1_1_x86_64", "aarch64": "manylinux_2_17_aarch64"}.get(
        platform.machine(), "none"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder),
            *("--only-binary", ":all:", "--platform", tag, f"uv=={pinned('uv_version')}"),
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("uv cannot be had from a package index here")
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with one Python build, which is this Python: uv's list of downloads."""
    pytest.importorskip("ensurepip", reason="this Python has no ensurepip")
    folder = tmp_path_factory.mktemp("mirror")
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    left_out = {"test", "tests", "__pycache__", "site-packages", "dist-packages", "idlelib"}

    def lean(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(entry.name).name
        return None if name in left_out or name.startswith("config-") else entry

    with tarfile.open(folder / "python.tar.gz", "w:gz", compresslevel=1) as build:
        program = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
        build.add(program, f"python/bin/python{version}")
        for name in ("python", "python3"):
            link = tarfile.TarInfo(f"python/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"python{version}"
            build.addfile(link)
        build.add(library, f"python/lib/python{version}", filter=lean)
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
def test_uv_brings_a_python_without_pip_and_without_root(
    old_machine: Checkout, index: tuple[str, Path], wheel: Path, downloads: Path
) -> None:
    address, folder = index
    (folder / wheel.name).symlink_to(wheel)
    mirrors = {"UV_DEFAULT_INDEX": address, "UV_PYTHON_DOWNLOADS_JSON_URL": downloads.as_uri()}
    done = old_machine.run("--no-llama", **mirrors)
    assert done.returncode == 0, done.stderr
    assert "The python3 here is 3.8.10, older than 3.11." in done.stderr
    assert old_machine.version() == "1"
    assert {path.name for path in old_machine.home.iterdir()} == {".local"}
    brought = (old_machine.app / "python").resolve()
    assert (old_machine.app / "current/bin/python").resolve().is_relative_to(brought)
    # From then on it is there: an update needs neither uv nor the mirror.
    old_machine.set_version("2")
    old_machine.install()
    assert old_machine.version() == "2"
    old_machine.run("--uninstall")
    assert not old_machine.app.exists()


def test_what_is_not_the_known_uv_is_not_run(
    old_machine: Checkout, index: tuple[str, Path]
) -> None:
    address, folder = index
    (folder / pinned(f"uv_wheel_{platform.machine()}")).write_bytes(b"another program")
    done = old_machine.run("--no-llama", PIP_INDEX_URL=address)
    assert done.returncode == 1
    assert "is not the uv" in done.stderr
    assert not (old_machine.app / "uv").exists()


def test_where_nothing_can_be_had_it_says_what_is_missing(old_machine: Checkout) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple"}
    last = old_machine.run("--no-llama", **nowhere).stderr.splitlines()[-1]
    assert last.startswith("The python3 here is 3.8.10, older than 3.11. uv,")
    assert "PIP_INDEX_URL" in last
    assert "curl" in last
    (Path(old_machine.environ["PATH"]) / "python3").unlink()
    last = old_machine.run("--no-llama", **nowhere).stderr.splitlines()[-1]
    assert last.startswith("There is no python3 here. uv,")


def test_a_wanted_python_that_will_not_do_is_said(
    old_machine: Checkout, index: tuple[str, Path]
) -> None:
    old = Path(old_machine.environ["PATH"]) / "python3"
    done = old_machine.run("--no-llama", PYTHON=str(old), PIP_INDEX_URL=index[0])
    assert "is not a Python 3.11 or newer" in done.stderr
