"""Decides which servers can keep their prompts, and which of them may use the same files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.spec import ServerSpec

SAVE_OPTION: Final = "--slot-save-path"
_SAVE_VARIABLE: Final = "LLAMA_ARG_SLOT_SAVE_PATH"
_TEXTLESS: Final = frozenset({"--embedding", "--embeddings", "--rerank", "--reranking"})


def keeping_options(folder: Path) -> list[str]:
    """Return the arguments for a server that saves its slots in ``folder`` and counts tokens."""
    return [SAVE_OPTION, str(folder), "--metrics"]


def has_own_folder(spec: ServerSpec) -> bool:
    """Return whether the user's arguments or variables give clients a folder for slots."""
    return SAVE_OPTION in spec.arguments or _SAVE_VARIABLE in spec.environment


def obstacle(spec: ServerSpec, binary: LlamaBinary) -> str:
    """Return why prompts of this server cannot be kept, as a part of a sentence; empty = they can.

    With LoRA adapters a request may change what a prompt means to the model, and a file does not
    say for which adapters it was saved.
    """
    if SAVE_OPTION not in binary.flags:
        return "this llama-server cannot save them"
    if spec.embedding_options or not _TEXTLESS.isdisjoint(spec.arguments):
        return "it writes no text"
    if has_own_folder(spec):
        return f"its arguments have a {SAVE_OPTION} of their own"
    if (
        spec.adapters
        or any("--lora" in word for word in spec.arguments)
        or any("LLAMA_ARG_LORA" in name for name in spec.environment)
    ):
        return "it has LoRA adapters, which requests may change"
    if spec.split:
        return "a part of it is on another box"
    return ""


def identity(spec: ServerSpec, binary: LlamaBinary, files: Iterable[Path]) -> str:
    """Return a text that is equal only for a server with the same files, build and settings.

    It blocks. Raises ``OSError`` if a file cannot be examined.
    """
    facts = []
    for path in (binary.path, *files):
        if path.is_file():
            status = path.stat()
            facts.append((str(path), status.st_size, status.st_mtime_ns))
    encoded = msgspec.json.encode((spec.signature, binary.version, binary.build, facts))
    return hashlib.sha256(encoded).hexdigest()
