"""Puts the stand-in for llama-server on the disk as a program."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SCRIPT = Path(__file__).with_name("fake_llama_server.py")


def write_fake_llama(
    path: Path,
    *,
    router_child: bool = True,
    switches: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Path:
    """An executable at ``path`` that behaves as a llama-server named by its path.

    ``router_child`` decides whether it looks like a build with the router protocol; whether it
    really speaks it is the switch ``protocol``. ``switches`` are those of models, by the names of
    their files without ``.gguf``; other models take them from the environment.
    """
    mark = "# cmd_child_to_router: cmd_router_to_child:exit\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        + (mark if router_child else "")
        + "".join(
            f'case "$*" in */{name}.gguf*)\n'
            f"export FAKE_LLAMA={shlex.quote(json.dumps(one))};; esac\n"
            for name, one in switches.items()
        )
        + f'exec "{sys.executable}" -I -S "{SCRIPT}" "$@"\n'
    )
    path.chmod(0o755)
    return path
