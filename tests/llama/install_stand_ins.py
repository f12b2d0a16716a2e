"""Stand-ins that the tests of installations share: a recording progress, and an installer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cyber_inference_tui.llama.install.github import GithubSource
from cyber_inference_tui.llama.install.hardware import Platform
from cyber_inference_tui.llama.install.installer import Installer, MakeSource
from tests.llama.release_server import ReleaseServer

X64 = Platform("Linux", "x86_64")
NOW = datetime(2025, 1, 2, tzinfo=UTC)


class Steps:
    """A progress that records all calls."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.last: tuple[int, int | None] = (0, None)
        self.sources: list[str] = []
        self.lines: list[str] = []

    def begin(self, source: str) -> None:
        self.sources.append(source)

    def step(self, text: str, *, upto: float | None = None) -> None:
        self.steps.append(text)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, done: int, total: int | None) -> None:
        self.last = (done, total)


def github(server: ReleaseServer, *, gpu: bool = False, target: Platform = X64) -> GithubSource:
    return GithubSource(gpu=gpu, target=target, api=server.url, download=server.url)


def installer(
    tmp_path: Path,
    *sources: MakeSource,
    setting: str = "",
    root: Path | None = None,
    progress: Steps | None = None,
    environ: Mapping[str, str] | None = None,
) -> Installer:
    return Installer(
        data_dir=tmp_path / "data",
        setting=setting,
        environ=environ or {"PATH": "/usr/bin:/bin"},
        root=root or tmp_path / "no-machine",
        sources=sources,
        progress=progress or Steps(),
        now=lambda: NOW,
    )
