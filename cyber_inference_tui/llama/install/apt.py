"""Runs a private apt: its own lists, cache and package status, so the system does not change.

An ordinary user can run it. Signatures are always verified, whatever the system's settings allow.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.install.apt_sources import Mirror
from cyber_inference_tui.llama.install.build_source import Progress
from cyber_inference_tui.llama.install.tools import run_tool

_TIME_LIMIT = 900.0
NEEDED_PROGRAMS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb")

# The system's apt settings that are copied: proxies, timeouts, date checks. Settings that weaken
# signatures or add downloads are not.
_CARRIED = re.compile(
    r"^Acquire::(?!IndexTargets|Changelogs|CompressionTypes|Languages|Allow|\w+::Allow)"
    r'[\w:./+-]+ "[^"\\]*";$'
)
_STATUS_LINE = re.compile(r"^dlstatus:[^:]*:([\d.]+):")


class PrivateApt:
    """apt in ``folder`` (empty, absolute), with a single suite of a single mirror.

    ``installed`` are packages that it regards as installed, so that they are not downloaded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mirror: Mirror,
        suite: str,
        environ: Mapping[str, str],
        installed: tuple[str, ...] = (),
    ) -> None:
        self._folder = folder
        self._environ = {
            name: value
            for name, value in environ.items()
            if name in {"HOME", "PATH", "TMPDIR"} or name.lower().endswith("_proxy")
        }
        # Hooks and dpkg-deb also need sbin.
        self._environ["PATH"] = f"{environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
        self._environ |= {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        for program in NEEDED_PROGRAMS:
            if shutil.which(program, path=self._environ["PATH"]) is None:
                raise InstallError(f"This machine has no {program}, so it has no apt.")
        if re.search(r'["\\\n]', str(folder)):
            raise InstallError(f"apt cannot work in a folder with this name: {folder}")
        if not mirror.keyrings:
            raise InstallError(
                "Debian's archive keys are not on this machine, so its packages cannot be "
                "verified.",
                hint="Install the package debian-archive-keyring and try again.",
            )
        carried = self._system_settings(environ)
        self._write(mirror, suite, installed, carried)

    @property
    def archives(self) -> Path:
        """The folder of downloaded packages."""
        return self._folder / "cache/archives"

    def update(self) -> None:
        """Download the package lists. Raises ``InstallError`` with apt's own message."""
        self._run("apt-get", "update", "-q=1")

    def candidate(self, package: str) -> str | None:
        """Return the newest version of a package; ``None`` = the suite does not have it."""
        for line in self._run("apt-cache", "policy", package):
            found = re.match(r"^\s+Candidate: (\S+)", line)
            if found and found[1] != "(none)":
                return found[1]
        return None

    def download(self, packages: list[str], progress: Progress) -> list[Path]:
        """Download packages with their dependencies; return the files, verified by apt."""
        self._run("apt-get", "install", "-q=1", "-y", "--download-only", *packages, watch=progress)
        return sorted(self.archives.glob("*.deb"))

    def unpack(self, package: Path, folder: Path) -> None:
        """Unpack a package's files into ``folder``; its scripts are not run."""
        self._run("dpkg-deb", "-x", str(package), str(folder))

    def _system_settings(self, environ: Mapping[str, str]) -> list[str]:
        # The user's own APT_CONFIG applies here; everywhere else it is ours.
        own = {"APT_CONFIG": environ["APT_CONFIG"]} if "APT_CONFIG" in environ else {}
        lines = self._execute(["apt-config", "dump"], self._environ | own, None)
        return [line for line in lines if _CARRIED.match(line)]

    def _write(
        self, mirror: Mirror, suite: str, installed: tuple[str, ...], carried: list[str]
    ) -> None:
        folder = self._folder
        for name in ("state/lists/partial", "cache/archives/partial", "sources"):
            (folder / name).mkdir(parents=True)
        (folder / "status").write_text(
            "".join(
                f"Package: {name}\nStatus: install ok installed\nArchitecture: all\n"
                f"Multi-Arch: foreign\nVersion: 999\nMaintainer: nobody\nDescription: stub\n\n"
                for name in installed
            )
        )
        keyrings = " ".join(str(path) for path in mirror.keyrings)
        (folder / "sources/mirror.sources").write_text(
            f"Types: deb\nURIs: {mirror.uri}\nSuites: {suite}\nComponents: main\n"
            f"Signed-By: {keyrings}\n"
        )
        settings = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(folder / "sources"),
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": str(folder / "state"),
            "Dir::State::status": str(folder / "status"),
            "Dir::Cache": str(folder / "cache"),
            # 70 MB each, read only once.
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            # As root, apt would download as a user who cannot write here.
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Update::Error-Mode": "any",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowDowngradeToInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "15",
            "Acquire::https::Timeout": "15",
        }
        lines = [*carried, *(f'{name} "{value}";' for name, value in settings.items())]
        (folder / "apt.conf").write_text("\n".join(lines) + "\n")

    def _run(self, *command: str, watch: Progress | None = None) -> list[str]:
        environ = self._environ | {"APT_CONFIG": str(self._folder / "apt.conf")}
        if watch is not None:
            command = (*command, "-o", "APT::Status-Fd=1")
        return self._execute(list(command), environ, watch)

    def _execute(
        self, command: list[str], environ: Mapping[str, str], watch: Progress | None
    ) -> list[str]:
        """Run a program; return its first and last lines. Raises ``InstallError`` if it fails."""

        def keep(line: str) -> bool:
            found = _STATUS_LINE.match(line)
            if found and watch is not None:
                watch.advance(min(1000, int(float(found[1]) * 10)), 1000)
            return found is None

        ended = run_tool(command, environ=environ, time_limit=_TIME_LIMIT, on_line=keep)
        if ended.code != 0:
            raise InstallError(f"{command[0]} failed: {_reason(ended.lines, ended.code)}.")
        return list(ended.lines)


def _reason(lines: Sequence[str], code: int) -> str:
    errors = [line for line in lines if line.startswith("E:")] or lines[-1:]
    text = "; ".join(re.sub(r"^E:\s*", "", line).rstrip(". ") for line in errors[:3])
    return text or (f"exit code {code}" if code >= 0 else f"ended by signal {-code}")
