"""Compiles llama-server on this machine from the sources of a release.

The sources and the objects stay in one folder until the build is in use, so an interrupted build
continues there.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.errors import BuildError, InstallError
from cyber_inference_tui.llama.binary import PROGRAM, WORKERS
from cyber_inference_tui.llama.fit_params import PROGRAM as FIT_PARAMS
from cyber_inference_tui.llama.install.archive import ArchiveLimits, unpack_archive
from cyber_inference_tui.llama.install.build_plan import BuildPlan
from cyber_inference_tui.llama.install.build_source import Offer, Progress
from cyber_inference_tui.llama.install.layout import Layout, link_program
from cyber_inference_tui.llama.install.releases import FileDownload, Releases
from cyber_inference_tui.llama.install.tools import ToolResult, run_tool

_ARCHIVE_LIMIT = 512 << 20
_LIMITS = ArchiveLimits(size=2 << 30, count=50_000)
_CONFIGURE_TIME = 1800.0
_COMPILE_TIME = 5 * 3600.0
_WORTH = 7 * 86_400.0
"""Seconds during which an interrupted build is continued; after that the newest release is
better."""

_TAIL = 15
_ERROR = re.compile(
    r"(?:^|[\s:])(?:fatal )?error\s*:|^CMake Error|^nvcc fatal|undefined reference|\bKilled\b"
)
_CMAKE_ERROR = "CMake Error"
_HALF_WRITTEN = 60.0
"""Seconds before the end of a killed build in which an object may be incomplete, or not on the
disk after a power cut: Linux writes data that is half a minute old."""
_NO_MEMORY = re.compile(r"Killed signal terminated program|\bKilled$|cannot allocate memory", re.I)
# make's "[ 42%] Building …" and ninja's "[12/345] Building …".
_PERCENT = re.compile(r"^\[ *(\d{1,3})%\]")
_COUNT = re.compile(r"^\[(\d{1,7})/(\d{1,7})\]")

# The part of our environment that a build may need, without tokens and passwords.
_ENVIRONMENT = frozenset(
    {"HOME", "PATH", "TMPDIR", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CPATH"}
    | {"LIBRARY_PATH", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "MACOSX_DEPLOYMENT_TARGET"}
    | {"DEVELOPER_DIR", "SDKROOT"}
)
_ENVIRONMENT_PREFIXES = ("CMAKE_", "CUDA", "CCACHE_", "NVCC_")


class SourceBuild:
    """Builds a release of llama.cpp by ``plan``, which is called when it is needed.

    ``resume``: finish a build that was started before, instead of a newer release.
    """

    name = "source"

    def __init__(
        self,
        *,
        layout: Layout,
        releases: Releases,
        plan: Callable[[], BuildPlan],
        environ: Mapping[str, str],
        resume: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._layout = layout
        self._releases = releases
        self._make_plan = plan
        self._plan: BuildPlan | None = None
        self._environ = {
            name: value
            for name, value in environ.items()
            if name in _ENVIRONMENT
            or name.startswith(_ENVIRONMENT_PREFIXES)
            or name.lower().endswith("_proxy")
        } | {"LC_ALL": "C"}
        self._resume = resume
        self._now = now
        self._folder: Path | None = None

    def close(self) -> None:
        """Close the connections; the objects so far stay."""
        self._releases.close()

    def finished(self) -> None:
        """Delete the sources and the objects."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def offer(self, version: str | None, progress: Progress) -> Offer:
        """Return the unfinished build, else the newest release, or the release with that tag."""
        self._plan = self._make_plan()
        tag = self._begun() if version is None and self._resume else None
        if tag is not None:
            progress.step(f"continuing the build of {tag}")
        else:
            releases = self._releases.find(version, progress)
            if not releases:
                raise InstallError(f"{self._releases.repository} has no release.")
            tag = releases[0].tag_name
        return Offer(source=self.name, version=tag, backend=self._plan.backend)

    def unpack(self, offer: Offer, staging: Path, final: Path, progress: Progress) -> None:
        """Download the sources, compile, and collect the program with its libraries."""
        plan = self._plan
        if plan is None:
            raise InstallError(f"No build of {offer.version} has been chosen.")
        if plan.path:
            self._environ["PATH"] = f"{self._environ.get('PATH', os.defpath)}:{plan.path}"
        if plan.note:
            progress.line(plan.note)
        self._folder = folder = self._layout.build_folder(offer.version)
        (folder / "failed").unlink(missing_ok=True)
        if not (folder / "source").is_dir():
            self._get_sources(offer.version, folder, progress)
        number = re.fullmatch(r"b(\d+)", offer.version)
        options = [*plan.options, *([f"-DLLAMA_BUILD_NUMBER={number[1]}"] if number else [])]
        self._configure(folder, options, progress)
        device = plan.backend or "the CPU"
        jobs = f"{plan.jobs} job{'s' if plan.jobs > 1 else ''}"
        progress.step(f"compiling {offer.version} for {device} ({jobs})", upto=0.97)
        build = folder / "build"
        targets = [PROGRAM, *self._present_targets(build, (FIT_PARAMS, *WORKERS))]
        command = ["cmake", "--build", str(build), "--target", *targets, "-j", str(plan.jobs)]
        self._compile(command, folder, progress)
        progress.step("putting the program together", upto=0.98)
        _gather(build / "bin", staging / "lib")
        link_program(staging)

    def _begun(self) -> str | None:
        """Return the release of an interrupted build; a failed build is not continued."""
        found = self._layout.begun_build()
        if found is None:
            return None
        folder, tag = found
        if (folder / "failed").exists() or not (folder / "source").is_dir():
            return None
        return tag if abs(self._now() - (folder / "source").stat().st_mtime) < _WORTH else None

    def _get_sources(self, tag: str, folder: Path, progress: Progress) -> None:
        progress.step(f"downloading the sources of {tag}", upto=0.05)
        progress.line(
            f"{self._releases.base} is trusted over TLS: it publishes no digest of the sources."
        )
        archive = folder / "source.tar.gz"
        wanted = FileDownload(
            name=f"{tag}.tar.gz",
            url=f"{self._releases.base}/archive/refs/tags/{tag}.tar.gz",
            limit=_ARCHIVE_LIMIT,
        )
        self._releases.fetch(wanted, archive, progress)
        progress.step("unpacking the sources", upto=0.07)
        unpacked = folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir()
        unpack_archive(archive, unpacked, limits=_LIMITS, sources=True)
        tops = [path for path in unpacked.iterdir() if (path / "CMakeLists.txt").is_file()]
        if len(tops) != 1:
            raise InstallError(f"The archive of {tag} holds no sources to build.")
        # Renamed in one step: from here on they are complete, even after a power cut.
        os.sync()
        tops[0].rename(folder / "source")
        (folder / "source").touch()
        shutil.rmtree(unpacked, ignore_errors=True)
        archive.unlink()

    def _configure(self, folder: Path, options: Sequence[str], progress: Progress) -> None:
        build, noted = folder / "build", folder / "options"
        text = "\n".join(options)
        if not noted.is_file() or noted.read_text() != text:
            # Objects of other options must not be used.
            shutil.rmtree(build, ignore_errors=True)
            noted.write_text(text)
        progress.step("configuring", upto=0.09)
        self._run(
            ["cmake", "-S", str(folder / "source"), "-B", str(build), *options],
            folder,
            _CONFIGURE_TIME,
            progress,
        )

    def _compile(self, command: Sequence[str], folder: Path, progress: Progress) -> None:
        running = folder / "compiling"
        if running.exists():
            _drop_newest(folder / "build")
        running.touch()
        try:
            self._run(command, folder, _COMPILE_TIME, progress)
        except BuildError:
            # It exited on its own, so all its files are complete.
            running.unlink()
            raise
        running.unlink()

    def _present_targets(self, build: Path, wanted: Sequence[str]) -> list[str]:
        """Return those of the ``wanted`` programs that this release can build."""
        ended = run_tool(
            ["cmake", "--build", str(build), "--target", "help"],
            environ=self._environ,
            time_limit=_CONFIGURE_TIME,
        )
        # make: "... NAME", ninja: "NAME: phony".
        return [
            target
            for target in wanted
            if any(re.search(rf"(?:^|\s){target}(?::|$)", line) for line in ended.lines)
        ]

    def _run(
        self, command: Sequence[str], folder: Path, time_limit: float, progress: Progress
    ) -> None:
        # The first line with an error; later ones are often only consequences.
        first: list[str] = []

        def take(line: str) -> bool:
            progress.line(line)
            if found := _PERCENT.match(line):
                progress.advance(int(found[1]), 100)
            elif found := _COUNT.match(line):
                progress.advance(int(found[1]), int(found[2]))
            elif not first and _ERROR.search(line):
                first.append(line)
            elif len(first) == 1 and first[0].startswith(_CMAKE_ERROR) and line.strip():
                # The line itself only contains the place of the error.
                first.append(line)
            return True

        ended = run_tool(
            command, environ=self._environ, time_limit=time_limit, folder=folder, on_line=take
        )
        if ended.code != 0:
            (folder / "failed").touch()
            raise _failure(ended, first)


def _failure(ended: ToolResult, first: Sequence[str]) -> BuildError:
    lines = [line for line in ended.lines if line.strip()]
    said = first or lines[-1:] or [f"exit code {ended.code}"]
    reason = " ".join(line.strip() for line in said)
    hint = "Correct that and run the same command: it continues the build."
    if any(_NO_MEMORY.search(line) for line in lines):
        hint = "Memory ran out: unload models or close programs, and run the same command again."
    return BuildError(
        f"Building llama-server failed: {reason.rstrip('.')[:300]}.",
        hint=hint,
        log_tail=tuple(lines[-_TAIL:]),
    )


def _drop_newest(build: Path) -> None:
    """Delete objects that a killed build may have left incomplete: make would use them."""
    found = [
        (path.stat().st_mtime, path)
        for path in build.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    last = max((at for at, _ in found), default=0.0)
    for at, path in found:
        if at > last - _HALF_WRITTEN and re.search(r"\.(?:o|a|so|dylib)\b", path.name):
            path.unlink()


def _gather(built: Path, lib: Path) -> None:
    """Copy the program and its libraries, links as links, into the new folder ``lib``."""
    lib.mkdir()
    for path in sorted(built.iterdir()) if built.is_dir() else ():
        wanted = path.name in {PROGRAM, FIT_PARAMS, *WORKERS} or re.search(
            r"\.(?:so|dylib)\b", path.name
        )
        if wanted and path.is_file():
            # Links between the files stay links; any other link is replaced by its target.
            keep = path.is_symlink() and path.readlink().parent == Path()
            shutil.copy2(path, lib / path.name, follow_symlinks=not keep)
