"""Bare Debian roots made by debootstrap, and commands that run in a throw-away copy of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cyber_inference_tui.llama.install.apt_sources import find_mirrors

ROOTS = Path(__file__).parents[1] / ".dev" / "roots"
MAKING_LIMIT = 900
"""Seconds that a slow mirror may take; pytest's own limit has to be above it."""

_APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_SHELL = ("sh", "-euc")

# In memory, for dpkg waits for the disk after every file.
_MAKE = """
mount -t tmpfs tmpfs "$1"
work=$1 copy=$2 suite=$3 mirror=$4
shift 4
debootstrap --variant=minbase "$@" "$suite" "$work/root" "$mirror"
cp -a "$work/root" "$copy"
"""

# Everything is mounted in a namespace that ends with the command, and all processes with it.
_ENTER = """
"$4" -c "$5"
mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mkdir -p mnt/here && mount --bind "$3" mnt/here
shift 5
exec chroot . "$@"
"""

# ip(8) may be missing: SIOCSIFFLAGS and IFF_UP of netdevice(7).
_LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as some:
    fcntl.ioctl(some, 0x8914, struct.pack("16sh22x", b"lo", 1))
"""


def debian_root(suite: str, packages: Sequence[str] = ()) -> Path:
    """A root of ``suite`` with ``packages``, made once in ``.dev`` and only to be read.

    The calling test is skipped where no such root can be made.
    """
    if os.geteuid() != 0:
        pytest.skip("a Debian root needs root")
    if shutil.which("debootstrap") is None:
        pytest.skip("a Debian root needs debootstrap: apt-get install debootstrap")
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("a Debian root needs the right to mount")
    mirrors = find_mirrors(Path("/"))
    if not mirrors:
        pytest.skip("this machine's apt has no Debian mirror")
    root = ROOTS / "-".join([suite, *sorted(packages)])
    with _lock(suite):
        if not root.is_dir():
            _make(root, suite, packages, mirrors[0].uri)
    return root


def run_in(
    root: Path, *command: str, here: Path, limit: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` as root in a copy of ``root``, with the folder ``here`` as ``/mnt/here``.

    Everything else that it writes is gone when it ends, and so are its processes. Its network is
    a loopback interface of its own, with all ports free. ``limit`` is in seconds.
    """
    copy = here.with_name(f"{here.name}-root")
    copy.mkdir(exist_ok=True)
    places = [str(path) for path in (copy, root, here)]
    return subprocess.run(
        [*_APART, "--net", *_SHELL, _ENTER, "sh", *places, sys.executable, _LOOPBACK_UP, *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )


def _make(root: Path, suite: str, packages: Sequence[str], mirror: str) -> None:
    work, copy = (root.with_name(f".{root.name}.{part}") for part in ("work", "copy"))
    work.mkdir(exist_ok=True)
    shutil.rmtree(copy, ignore_errors=True)
    options = [f"--include={','.join(packages)}"] if packages else []
    done = subprocess.run(
        [*_APART, *_SHELL, _MAKE, "sh", str(work), str(copy), suite, mirror, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAKING_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    copy.rename(root)
    work.rmdir()


@contextmanager
def _lock(suite: str) -> Iterator[None]:
    """One debootstrap at a time for each suite, whatever process of the tests it is in."""
    ROOTS.mkdir(parents=True, exist_ok=True)
    with (ROOTS / f"{suite}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
