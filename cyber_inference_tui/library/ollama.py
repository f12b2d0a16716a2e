"""Ollama's models: manifests, and the blobs they name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cyber_inference_tui.decoding import learned
from cyber_inference_tui.files import read_file
from cyber_inference_tui.library.catalog import Problem
from cyber_inference_tui.library.scan import ModelFile, shown, stat_file
from cyber_inference_tui.text import clean_line

_MODEL: Final = "application/vnd.ollama.image.model"
_PROJECTOR: Final = "application/vnd.ollama.image.projector"
_LIBRARY: Final = "library"
_LATEST: Final = "latest"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_MANIFEST: Final = 1 << 20
_MAX_MANIFESTS: Final = 5_000
_MAX_ENTRIES: Final = 50_000
_MAX_DEPTH: Final = 6
_PARTS: Final = 4
"""Of a manifest's path: host, namespace, model, tag."""


class OllamaModel(NamedTuple):
    """One model, by its manifest."""

    name: str
    """As ``ollama`` calls it: ``llama3.2:3b``; without its tag where that is ``latest``."""
    host: str
    """Where it came from."""
    file: ModelFile
    projector: ModelFile | None


class _Layer(msgspec.Struct, rename={"media_type": "mediaType"}):
    media_type: str = ""
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


def ollama_models(
    root: Path, *, on_directory: Callable[[Path], None] = lambda _: None
) -> tuple[list[OllamaModel], list[Problem]]:
    """The models of one directory; manifests without a usable model are problems.

    ``on_directory`` is told of every directory and manifest that the answer depends on.
    """
    models: list[OllamaModel] = []
    problems: list[Problem] = []
    manifests = root / "manifests"
    on_directory(root / "blobs")
    for path in _manifests(manifests, on_directory):
        on_directory(path)
        host, *names, tag = path.relative_to(manifests).parts
        name = "/".join(names[1:] if names[0] == _LIBRARY else names)
        name = clean_line(name if tag == _LATEST else f"{name}:{tag}").strip()
        found = _model(root, path, name, clean_line(host).strip())
        if isinstance(found, str):
            problems.append(Problem(where=shown(path), reason=found))
        elif found is not None:
            models.append(found)
    return models, problems


def _model(root: Path, path: Path, name: str, host: str) -> OllamaModel | str | None:
    """The model of a manifest; a reason why there is none; ``None`` = it is about none at all."""
    try:
        content = read_file(path, _MAX_MANIFEST + 1)
        name.encode()
    except (OSError, UnicodeEncodeError):
        return "it cannot be read"
    try:
        layers = msgspec.json.decode(content, type=learned(_Manifest)).layers
    except (msgspec.DecodeError, RecursionError):
        return "it is no manifest"
    weights = [layer.digest for layer in layers if layer.media_type == _MODEL]
    if not weights:
        # Its weights are of another kind, or stay with a service.
        return None
    if len(weights) > 1:
        return "its model is in several files, which no server here can read"
    model = _blob(root, weights[0])
    if model is None:
        return "the file with its weights is gone"
    projectors = [_blob(root, layer.digest) for layer in layers if layer.media_type == _PROJECTOR]
    return OllamaModel(name, host, model, next((one for one in projectors if one), None))


def _blob(root: Path, digest: str) -> ModelFile | None:
    if not _DIGEST.fullmatch(digest):
        return None
    return stat_file(root / "blobs" / digest.replace(":", "-"), root / "blobs")


def _manifests(top: Path, on_directory: Callable[[Path], None]) -> list[Path]:
    """The files four or more levels down, in order."""
    found: list[Path] = []
    entries = 0
    waiting = [(top, 1)]
    while waiting:
        directory, depth = waiting.pop()
        on_directory(directory)
        try:
            with os.scandir(directory) as listing:
                for entry in listing:
                    entries += 1
                    if entries > _MAX_ENTRIES or len(found) >= _MAX_MANIFESTS:
                        return sorted(found)
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if depth < _MAX_DEPTH:
                            waiting.append((directory / entry.name, depth + 1))
                    elif depth >= _PARTS:
                        found.append(directory / entry.name)
        except (OSError, ValueError):
            # Another user's, or gone: nothing there is ours to name.
            continue
    return sorted(found)
