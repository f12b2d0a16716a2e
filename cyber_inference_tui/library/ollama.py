"""Finds Ollama's models: manifests, and the blobs that they name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.library.scan import ModelFile, Unread, path_text, stat_file
from cyber_inference_tui.library.unusable_files import Problem
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
"""The parts of a manifest's path: host, namespace, model, tag."""


class OllamaModel(NamedTuple):
    """A model, from its manifest."""

    name: str
    """Its name in ``ollama``: ``llama3.2:3b``; without the tag ``latest``."""
    host: str
    """The registry it came from."""
    file: ModelFile
    projector: ModelFile | None
    manifest: Path


class _Layer(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str = ""
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []
    config: _Layer = _Layer()


class OllamaFound(NamedTuple):
    """The contents of a directory; manifests without a usable model are problems."""

    models: list[OllamaModel]
    problems: list[Problem]
    unread: list[Unread]
    """Manifests and folders that could not be read."""


def ollama_models(
    root: Path,
    *,
    on_directory: Callable[[Path], None] = lambda _: None,
    disk: Disk = Disk(),  # noqa: B008 - it has no state
) -> OllamaFound:
    """Return the models of a directory.

    ``on_directory`` is called with every directory and manifest that the result depends on.
    """
    found = OllamaFound([], [], [])
    manifests = root / "manifests"
    on_directory(root / "blobs")
    for path in _manifests(manifests, on_directory, disk, found.unread):
        on_directory(path)
        host, *names, tag = path.relative_to(manifests).parts
        name = "/".join(names[1:] if names[0] == _LIBRARY else names)
        name = clean_line(name if tag == _LATEST else f"{name}:{tag}").strip()
        try:
            model = _model(root, path, name, clean_line(host).strip(), disk)
        except OSError as error:
            found.unread.append(Unread.because(path, error))
            continue
        if isinstance(model, str):
            found.problems.append(Problem(where=path_text(path), reason=model, name=name))
        elif model is not None:
            found.models.append(model)
    return found


def blobs_of_manifests(root: Path) -> dict[Path, tuple[Path, ...]]:
    """Return every manifest of a directory, with all blobs that it names.

    Raises ``OSError`` or ``ValueError`` if one cannot be read: then any blob may be needed.
    """
    unread: list[Unread] = []
    disk = Disk()
    found: dict[Path, tuple[Path, ...]] = {}
    for path in _manifests(root / "manifests", lambda _: None, disk, unread):
        manifest = msgspec.json.decode(
            disk.beginning(path, _MAX_MANIFEST + 1), type=thread_safe(_Manifest)
        )
        digests = (layer.digest for layer in (*manifest.layers, manifest.config))
        found[path] = tuple(
            _blob_path(root, digest) for digest in digests if _DIGEST.fullmatch(digest)
        )
    if unread:
        raise OSError(f"{path_text(unread[0].path)} cannot be read")
    return found


def _model(root: Path, path: Path, name: str, host: str, disk: Disk) -> OllamaModel | str | None:
    """Return the model of a manifest, or the reason why it is unusable; ``None`` = it has no model.

    Raises ``OSError`` if a file cannot be read now.
    """
    try:
        content = disk.beginning(path, _MAX_MANIFEST + 1)
        name.encode()
    except OSError as error:
        if disk.is_gone(path, error):
            return None
        raise
    except UnicodeEncodeError:
        return "it cannot be read"
    try:
        layers = msgspec.json.decode(content, type=thread_safe(_Manifest)).layers
    except (msgspec.DecodeError, RecursionError):
        return "it is not a manifest"
    weights = [layer.digest for layer in layers if layer.media_type == _MODEL]
    if not weights:
        # Its weights have another format, or are kept by a service.
        return None
    if len(weights) > 1:
        return "its model is in several files, which no server here can read"
    model = _blob(root, weights[0], disk)
    if model is None:
        return "the file with its weights is gone"
    projectors = [
        _blob(root, layer.digest, disk) for layer in layers if layer.media_type == _PROJECTOR
    ]
    return OllamaModel(name, host, model, next((one for one in projectors if one), None), path)


def _blob(root: Path, digest: str, disk: Disk) -> ModelFile | None:
    """Return the file of a digest; ``None`` = it is gone. Raises ``OSError``."""
    if not _DIGEST.fullmatch(digest):
        return None
    return stat_file(_blob_path(root, digest), root / "blobs", disk=disk)


def _blob_path(root: Path, digest: str) -> Path:
    return root / "blobs" / digest.replace(":", "-")


def _manifests(
    top: Path, on_directory: Callable[[Path], None], disk: Disk, unread: list[Unread]
) -> list[Path]:
    """Return the files four or more levels down, in order; add unreadable places to ``unread``."""
    found: list[Path] = []
    left = _MAX_ENTRIES
    waiting = [(top, 1)]
    while waiting:
        directory, depth = waiting.pop()
        on_directory(directory)
        try:
            entries = disk.entries(directory, left)
            folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError as error:
            if not disk.is_gone(directory, error):
                unread.append(Unread.because(directory, error))
            continue
        except ValueError:
            continue
        left -= len(entries)
        for entry in entries:
            path = directory / entry.name
            if entry.name.startswith("."):
                continue
            if entry.name in folders:
                if depth < _MAX_DEPTH:
                    waiting.append((path, depth + 1))
            elif depth >= _PARTS:
                found.append(path)
        if left <= 0 or len(found) >= _MAX_MANIFESTS:
            # The rest is not looked at.
            rest = [directory, *(path for path, _ in waiting)]
            unread += [Unread(path, "", lasting=True) for path in rest]
            break
    return sorted(found)[:_MAX_MANIFESTS]
