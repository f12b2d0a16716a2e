"""Which of a release's files are made for which machine, by their names."""

from __future__ import annotations

import platform
import re
from typing import NamedTuple


class Platform(NamedTuple):
    """What a build has to be made for, in the words of ``platform``."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> Platform:
        """This machine."""
        return cls(platform.system(), platform.machine())


def asset_patterns(target: Platform, *, gpu: bool) -> tuple[re.Pattern[str], ...]:
    """Names of assets for ``target``, the best first; none where there are no builds.

    There is no CUDA build for Linux: with a GPU of any make the Vulkan one comes first.
    """
    cpu = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        target.machine.lower()
    )
    system = {"Linux": "ubuntu", "Darwin": "macos"}.get(target.system)
    if cpu is None or system is None:
        return ()
    kinds = [f"vulkan-{cpu}"] if gpu and system == "ubuntu" else []
    return tuple(
        # The system may carry its release: "ubuntu-22.04-x64".
        re.compile(rf"^llama-[\w.]+-bin-{system}(?:-\d\d\.\d\d)?-{kind}\.(?:tar\.gz|zip)$")
        for kind in [*kinds, cpu]
    )
