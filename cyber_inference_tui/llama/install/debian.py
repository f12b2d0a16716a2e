"""Installs a prebuilt llama-server from Debian's archive into a private prefix.

Debian's package llama.cpp-tools needs a newer C library than older systems have. So its libraries
are copied, too, including the C library and its loader, into one folder beside the program.
``patchelf`` (also from the archive) writes that folder into the program as the place of its loader
and libraries. ggml looks for its CPU backends, one for each instruction set, beside the program's
real file and chooses the best one.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.llama.binary import PROGRAM, WORKERS
from cyber_inference_tui.llama.install.apt import PrivateApt
from cyber_inference_tui.llama.install.apt_sources import (
    Mirror,
    default_keyrings,
    find_mirrors,
    is_web_address,
)
from cyber_inference_tui.llama.install.build_source import Offer, Progress
from cyber_inference_tui.llama.install.layout import link_program
from cyber_inference_tui.text import clean_line

SUITE = "unstable"
"""Older suites do not have the package."""

PACKAGE = "llama.cpp-tools"
_EXTRA = "llama.cpp-tools-extra"
_RPC = "libggml0-backend-rpc"
_VULKAN = "libggml0-backend-vulkan"
_TOOL = "patchelf"

# Dependencies of the packages that the program itself does not need. apt can regard only
# dependencies without an exact version as installed.
_NOT_NEEDED = ("debconf", "wget")

# The C library finds its own parts, and its loader must not be changed.
_UNTOUCHED = re.compile(r"^(ld-linux|ld64|libc\.so|libm\.so|libmvec|libdl\.|libpthread|librt\.)")
_ELF = b"\x7fELF"
_TOOL_TIME = 60.0
_MIRRORS_TRIED = 3


class DebianSource:
    """The suite ``unstable`` of the mirror that this machine's apt uses, or of ``mirror``.

    ``work`` is a folder for apt alone; ``vulkan`` adds the backend for GPUs.
    """

    name = "debian"

    def __init__(
        self,
        *,
        work: Path,
        root: Path,
        environ: Mapping[str, str],
        mirror: str | None = None,
        vulkan: bool = False,
    ) -> None:
        self._work = work
        self._root = root
        self._environ = environ
        self._mirror = mirror
        self._vulkan = vulkan
        self._apt: PrivateApt | None = None
        self._full_version = ""

    def close(self) -> None:
        """Delete apt's folder."""
        shutil.rmtree(self._work, ignore_errors=True)

    def finished(self) -> None:
        """Do nothing: no file was kept."""

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """Return the version in the archive, which holds only one; other versions are refused."""
        if platform.system() != "Linux":
            raise InstallError(
                "Debian's packages run on Linux only.",
                hint="`cyber-inference-tui install-llama --from github` gets a build for macOS.",
            )
        reasons = []
        for mirror in self._mirrors()[:_MIRRORS_TRIED]:
            progress.step(f"reading the package lists of {mirror.uri}", upto=0.3)
            try:
                full = self._look(mirror)
            except InstallError as error:
                reasons.append(str(error))
                continue
            short = re.sub(r"^\d+:", "", full)
            if version not in {None, full, short, re.split(r"[+-]", short)[0]}:
                raise InstallError(
                    f"Debian's archive has {PACKAGE} {short}, not "
                    f"{clean_line(version or '', limit=80)}."
                )
            self._full_version = full
            return Offer(source=self.name, version=short)
        raise InstallError(" ".join(reasons))

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Download and unpack the packages, and collect the program for ``final``."""
        if self._apt is None:
            raise InstallError(f"No build of {offer.version} has been chosen.")
        packages = [f"{name}={self._full_version}" for name in (PACKAGE, _EXTRA)]
        packages += [_RPC, _TOOL]
        if self._vulkan:
            packages.append(_VULKAN)
        progress.step("downloading packages", upto=0.8)
        files = self._apt.download(packages, progress)
        progress.step(f"unpacking {len(files)} packages", upto=0.9)
        unpacked = staging / "unpacked"
        for count, file in enumerate(files, start=1):
            self._apt.unpack(file, unpacked)
            progress.advance(count, len(files))
        progress.step("putting the program together", upto=0.95)
        _Prefix(unpacked, staging / "lib", final / "lib").gather()
        shutil.rmtree(unpacked, ignore_errors=True)
        link_program(staging)

    def _mirrors(self) -> list[Mirror]:
        if self._mirror is not None:
            uri = self._mirror.rstrip("/")
            if not is_web_address(uri):
                raise InstallError(f"--mirror {clean_line(uri, limit=200)} is not a web address.")
            return [Mirror(uri=uri, keyrings=default_keyrings(self._root))]
        mirrors = find_mirrors(self._root)
        if not mirrors:
            raise InstallError(
                "This machine's apt uses no Debian mirror.",
                hint="Name one with --mirror URL to take the packages from there.",
            )
        return mirrors

    def _look(self, mirror: Mirror) -> str:
        """Return the version on ``mirror``. Raises ``InstallError``."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        apt = PrivateApt(
            self._work,
            mirror=mirror,
            suite=SUITE,
            environ=self._environ,
            installed=_NOT_NEEDED,
        )
        apt.update()
        version = apt.candidate(PACKAGE)
        if version is None:
            raise InstallError(f"{mirror.uri} has no {PACKAGE} for this machine.")
        self._apt = apt
        return version


class _Prefix:
    """Collects the programs and their libraries from unpacked packages in one folder.

    ``folder`` is the present place of the files, ``final`` their place at run time.
    """

    def __init__(self, unpacked: Path, folder: Path, final: Path) -> None:
        self._folder = folder
        self._final = final
        self._libraries: dict[str, Path] = {}
        self._backends: list[Path] = []
        inside = unpacked.resolve()
        for path in sorted(unpacked.rglob("*.so*")):
            # An absolute link in a package leads to a file of this machine.
            if path.is_file() and path.resolve().is_relative_to(inside):
                self._libraries.setdefault(path.name, path)
                if path.parent.name.startswith("backends") and path.suffix == ".so":
                    self._backends.append(path)
        self._program = self._in(unpacked, f"usr/bin/{PROGRAM}")
        # Older builds may lack it: models then run on one box only.
        workers = unpacked.glob(f"usr/libexec/*/llama/bin/{WORKERS[0]}")
        self._programs = [self._program, *(path for path in workers if path.is_file())]
        self._patchelf_program = self._in(unpacked, "usr/bin/patchelf")
        folder.mkdir()

    def gather(self) -> None:
        """Copy the programs, their backends and libraries, and write their places into them."""
        loader = self._loader()
        queue = [*self._programs, *self._backends, loader]
        if not self._backends:
            raise InstallError("Debian's packages hold no ggml backend.")
        copied: dict[str, Path] = {}
        names = {self._program: PROGRAM}
        programs = {names.get(path, path.name) for path in self._programs}
        while queue:
            path = queue.pop()
            name = names.get(path, path.name)
            if name in copied:
                continue
            copied[name] = self._folder / name
            shutil.copyfile(path, copied[name])  # the target of a link, with the link's name
            needed = self._patchelf("--print-needed", str(path)).split()
            queue += [self._libraries[name] for name in needed if name in self._libraries]
        for name, path in copied.items():
            path.chmod(0o755 if name in {*programs, loader.name} else 0o644)
            if not _UNTOUCHED.match(name):
                # RPATH, not RUNPATH: an LD_LIBRARY_PATH must not mix in the system's libraries.
                self._patchelf("--force-rpath", "--set-rpath", "$ORIGIN", str(path))
        interpreter = str(self._final / loader.name)
        for name in sorted(programs):
            self._patchelf("--set-interpreter", interpreter, str(self._folder / name))

    def _loader(self) -> Path:
        """Return the dynamic loader that the program names (``ld-linux-x86-64.so.2``)."""
        with self._program.open("rb") as file:
            head = file.read(4096)
        # Its path is near the start of the program. patchelf itself needs it to run.
        found = re.search(rb"/(ld-linux[\w.-]*\.so\.\d+)\x00", head)
        loader = self._libraries.get(found[1].decode()) if found else None
        if head[:4] != _ELF or loader is None:
            raise InstallError("Debian's packages hold no loader for the program.")
        self._loader_path = loader
        self._search = ":".join(sorted({str(p.parent) for p in self._libraries.values()}))
        return loader

    def _patchelf(self, *arguments: str) -> str:
        command = [
            *(str(self._loader_path), "--library-path", self._search),
            *(str(self._patchelf_program), *arguments),
        ]
        try:
            result = subprocess.run(
                command, capture_output=True, timeout=_TOOL_TIME, check=False, env={"LC_ALL": "C"}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"patchelf cannot be run: {clean_line(str(error))}.") from error
        if result.returncode != 0:
            last = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise InstallError(f"patchelf failed: {clean_line(last, limit=300)}.")
        return result.stdout.decode("utf-8", "replace")

    @staticmethod
    def _in(unpacked: Path, name: str) -> Path:
        path = (unpacked / name).resolve()
        if not path.is_file() or not path.is_relative_to(unpacked.resolve()):
            raise InstallError(f"Debian's packages hold no {name}.")
        return path
