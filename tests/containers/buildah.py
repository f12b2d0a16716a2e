"""Builds the images without a daemon: buildah in a folder of its own, on a base by debootstrap."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyber_inference_tui.llama.install.apt_sources import find_mirrors

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TOOLS = ("buildah", "debootstrap", "chroot", "nsenter", "unshare")
_BASE = "localhost/debian:"
_BUILD_LIMIT = 900
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIP_KEYS = re.compile(
    r"[^.]*\.(cert|extra-index-url|find-links|index-url|no-index|proxy|timeout|trusted-host)='(.*)'"
)
_APT_SETTING = re.compile(r'Acquire::(?!IndexTargets|Changelogs|Languages)[\w:./+-]+ "[^"]*";')


def why_not() -> str | None:
    """What keeps this machine from building images; ``None`` = nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "building an image without a daemon needs Linux and root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not find_mirrors(Path("/")):
        return "apt uses no Debian mirror, which the base image is made from"
    namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "this machine does not allow namespaces"
    return None


class Buildah:
    """Images in ``folder``, which is kept: the base is made once for a machine.

    One process at a time has it. ``close`` removes all but the base.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = (folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._driver = "overlay"
        try:
            self("images")
        except AssertionError:
            # It works everywhere, and copies every file for every layer.
            self._driver = "vfs"
        self("rm", "--all")

    def close(self) -> None:
        """Remove the working containers and the images that were built."""
        with self._lock:
            self("rm", "--all")
            for name in self("images", "--format={{.Name}}:{{.Tag}}").split():
                if name.startswith("localhost/") and not name.startswith(_BASE):
                    self("rmi", "--force", name)
            self("rmi", "--prune", "--force")

    def __call__(self, *arguments: str, limit: float = 300) -> str:
        """Run one command and return what it prints, without the last line's end."""
        store = self._folder / self._driver
        command = ["buildah", f"--root={store}", f"--runroot={store}.run"]
        command += [f"--storage-driver={self._driver}", *arguments]
        environ = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._folder)}
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit, env=environ
        )
        assert ended.returncode == 0, (
            f"{' '.join(command)}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
        )
        return ended.stdout.strip()

    def base(self) -> str:
        """The image of a bare Debian of the suite that the Dockerfile names."""
        found = re.search(r"^ARG BASE=debian:(\w+)-slim$", DOCKERFILE.read_text(), re.MULTILINE)
        assert found, "the Dockerfile's BASE is no slim Debian"
        name = f"{_BASE}{found[1]}"
        if self("images", "--quiet", "--filter", f"reference={name}"):
            return name
        container = self("from", "scratch")
        try:
            root = self("mount", container)
            command = ["debootstrap", "--variant=minbase", found[1], root]
            ended = subprocess.run(
                [*command, find_mirrors(Path("/"))[0].uri],
                capture_output=True,
                text=True,
                check=False,
                timeout=_BUILD_LIMIT,
            )
            assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
            shutil.rmtree(Path(root, "var/cache/apt/archives"))
            self("config", f"--env=PATH={_PATH}", container)
            self("commit", "--quiet", container, name)
        finally:
            self("rm", container)
        return name

    def build(self, target: str, arguments: Mapping[str, str]) -> str:
        """Build a target of the Dockerfile with this machine's settings for pip and apt.

        They are mounted and secrets, so that nothing of them is in the image. Steps that targets
        have in common, on the same base, are taken once.
        """
        name = f"localhost/cyber-inference-tui:{target}"
        command = ["bud", "--layers", "--format=docker", f"--target={target}", f"--tag={name}"]
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += self._machine_settings()
        self(*command, f"--file={DOCKERFILE}", str(ROOT), limit=_BUILD_LIMIT)
        return name

    def _machine_settings(self) -> list[str]:
        pip, apt = self._folder / "pip.conf", self._folder / "apt.conf"
        options = [f"--secret=id=pip.conf,src={pip}"]
        lines = ["[global]"]
        for line in _printed([sys.executable, "-m", "pip", "config", "list"]):
            if found := _PIP_KEYS.fullmatch(line):
                key, value = found[1], found[2]
                if value.startswith("/"):
                    if not Path(value).exists():
                        continue
                    options.append(f"--volume={value}:/mnt/pip-{key}:ro")
                    value = f"/mnt/pip-{key}"
                lines.append(f"{key} = {value}")
        pip.write_text("\n".join(dict.fromkeys(lines)) + "\n")
        settings = filter(_APT_SETTING.fullmatch, _printed(["apt-config", "dump"]))
        apt.write_text("\n".join(settings) + "\n")
        return [*options, f"--volume={apt}:/etc/apt/apt.conf.d/99this-machine:ro"]

    def image_of(self, name: str, file: Path, place: str) -> str:
        """Make an image that holds one file of this machine at ``place`` and nothing else."""
        container = self("from", "scratch")
        self("copy", container, str(file), place)
        self("commit", "--rm", "--quiet", container, name)
        return name

    def image(self, name: str) -> Image:
        """An image with its files unpacked."""
        container = self("from", "--pull-never", name)
        config = json.loads(self("inspect", container))["Docker"]["config"]
        return Image(config, Path(self("mount", container)))


class Image:
    """An image as it would be run: what its configuration says, and its files in ``root``."""

    def __init__(self, config: Mapping[str, Any], root: Path) -> None:
        self.root = root
        self.entrypoint: list[str] = config.get("Entrypoint") or []
        self.command: list[str] = config.get("Cmd") or []
        self.environ: dict[str, str] = dict(one.split("=", 1) for one in config["Env"])
        self.user: str = config.get("User") or ""
        self.volumes: Sequence[str] = sorted(config.get("Volumes") or ())
        self.ports: Sequence[str] = sorted(config.get("ExposedPorts") or ())
        self.labels: Mapping[str, str] = config.get("Labels") or {}
        self.stop_signal: str = config.get("StopSignal") or ""
        self.health: Mapping[str, Any] = config.get("Healthcheck") or {}


def _printed(command: Sequence[str]) -> list[str]:
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout.splitlines()
