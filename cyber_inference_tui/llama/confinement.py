"""The files that a llama-server may use when it is confined: pure functions.

A model's file comes from strangers, and a defect in the code that reads it must not open the user's
other files to them. ``llama-fit-params`` reads it before the server, and has the same confinement.
Servers that use a GPU are not confined: their drivers need more files, and some need a helper with
more rights (``nvidia-modprobe``). Nor are a user's own programs, scripts included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.spec import ServerSpec

_SYSTEM = tuple(
    Path(path)
    for path in (
        *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"),
        *("/proc", "/sys", "/dev/zero", "/dev/random", "/dev/urandom"),
        *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
        # An image in a request may be an address.
        *("/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/nsswitch.conf"),
        *("/etc/resolv.conf", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/passwd"),
    )
)
_WRITTEN = frozenset({"--slot-save-path", "LLAMA_ARG_SLOT_SAVE_PATH"})
_LOGS = frozenset({"--log-file", "LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE"})
# A list of files, each perhaps with a number: ``--lora-scaled a.gguf:0.5,b.gguf:1``.
_PARTS = re.compile("[,:=]")
_NOT_OPENED = re.compile(
    "permission denied|(?:failed to|cannot|could not|unable to) open", re.IGNORECASE
)


class Confinement(NamedTuple):
    """Files, and folders with all in them. Some may not exist."""

    read: tuple[Path, ...]
    write: tuple[Path, ...]


def confinement(
    spec: ServerSpec,
    binary: LlamaBinary,
    environment: Mapping[str, str],
    folder: Path,
    *,
    prompts: Path | None = None,
) -> Confinement | None:
    """Return the files for a server in this working ``folder``; ``None`` = it is not confined.

    Besides the model's, they are those that the user's arguments and variables name, and the
    folder for its ``prompts``.
    """
    if not spec.confined or binary.libraries is None or binary.devices != ():
        return None
    if "--list-devices" not in binary.flags:
        return None
    own = {**binary.env, **spec.environment}
    named = named_files(spec, binary, folder)
    # A draft model in shards is named by its first file.
    named += [path.parent for path in named if "-of-" in path.name]
    files = [*spec.files, *(one for one in (spec.path, spec.projector) if one is not None)]
    return Confinement(
        (*_SYSTEM, *binary.libraries, *files, *named),
        (
            Path("/dev/null"),
            *_cache(environment),
            *_written(spec.arguments, own, folder),
            *(() if prompts is None else (prompts,)),
        ),
    )


def named_files(spec: ServerSpec, binary: LlamaBinary, folder: Path) -> list[Path]:
    """Return the files that arguments and variables may name, most of which do not exist."""
    own = {**binary.env, **spec.environment}
    return [folder / part for text in (*spec.arguments, *own.values()) for part in _parts(text)]


def way_out(lines: Iterable[str]) -> str:
    """Return a hint if the confinement may have caused the end of a server with this log."""
    if not any(_NOT_OPENED.search(line) for line in lines):
        return ""
    return (
        "The server may only use files that its arguments name; confine_servers = false changes"
        " that."
    )


def _parts(text: str) -> Iterator[str]:
    return (part for part in (text, *_PARTS.split(text)) if part)


def _cache(environment: Mapping[str, str]) -> Iterator[Path]:
    """Return llama.cpp's cache (``fs_get_cache_directory`` in its common/common.cpp)."""
    for name, below in (
        ("LLAMA_CACHE", ""),
        ("XDG_CACHE_HOME", "llama.cpp"),
        ("HOME", ".cache/llama.cpp"),
    ):
        if place := environment.get(name):
            yield Path(place) / below
            return


def _written(
    arguments: Sequence[str], variables: Mapping[str, str], folder: Path
) -> Iterator[Path]:
    for name, value in (*pairwise(arguments), *variables.items()):
        if name in _WRITTEN:
            yield folder / value
        elif name in _LOGS:
            yield (folder / value).parent
