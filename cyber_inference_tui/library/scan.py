"""Walking model folders: which files there are, and what belongs together, by name alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

SUFFIX = ".gguf"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.IGNORECASE)
_NO_MODEL = re.compile(r"imatrix|(?:^|[-_.])(?:mtp|eagle3)-", re.IGNORECASE)
_PROJECTOR = re.compile(r"mmproj", re.IGNORECASE)
MAX_FILES = 100_000
"""Files looked at in one folder tree; a mistake such as ``model_dirs = ["/"]`` ends there."""

_MAX_DEPTH = 12


class FoundFile(msgspec.Struct, frozen=True):
    """A GGUF file: where, below which folder, and how it was."""

    path: Path
    root: Path
    size: int
    mtime_ns: int

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.path.name[: -len(SUFFIX)]

    @property
    def is_projector(self) -> bool:
        """It belongs to a model beside it."""
        return bool(_PROJECTOR.search(self.path.name))


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """One model's files: whole, or with the numbers of the shards that are missing."""

    stem: str
    root: Path
    shards: tuple[FoundFile, ...]
    missing: tuple[int, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder they lie in."""
        return self.shards[0].path.parent


def find_files(root: Path) -> Iterator[FoundFile]:
    """Every GGUF file below ``root``; folders that cannot be read are passed over.

    Linked folders are followed, each real folder once, so that circles end.
    """
    seen: set[tuple[int, int]] = set()
    pending = [(root, 0)]
    count = 0
    while pending:
        folder, depth = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen or depth > _MAX_DEPTH:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            count += 1
            if count > MAX_FILES:
                return
            try:
                if entry.is_dir():
                    if not entry.name.startswith("."):
                        pending.append((Path(entry.path), depth + 1))
                elif entry.name.lower().endswith(SUFFIX) and not entry.name.startswith("."):
                    status = entry.stat()
                    if not _NO_MODEL.search(entry.name):
                        yield FoundFile(Path(entry.path), root, status.st_size, status.st_mtime_ns)
            except OSError:
                # A dangling link, or a file removed while we look.
                continue


def group(files: list[FoundFile]) -> list[ModelFiles]:
    """Models out of files (projectors left out): shards of one name in one folder are one."""
    shards: dict[tuple[Path, str, int], dict[int, FoundFile]] = {}
    models = []
    for file in files:
        if file.is_projector:
            continue
        match = _SHARD.fullmatch(file.stem)
        if match is None:
            models.append(ModelFiles(stem=file.stem, root=file.root, shards=(file,)))
            continue
        key = (file.path.parent, match["stem"], int(match["count"]))
        shards.setdefault(key, {})[int(match["number"])] = file
    for (_, stem, count), numbered in shards.items():
        there = tuple(numbered[number] for number in sorted(numbered))
        # Only as many as can be named: the count is a stranger's five digits.
        missing = tuple(n for n in range(1, min(count, 1000) + 1) if n not in numbered)
        models.append(ModelFiles(stem=stem, root=there[0].root, shards=there, missing=missing))
    return models


def projector_for(model: ModelFiles, projectors: list[FoundFile]) -> FoundFile | None:
    """The projector in the model's folder: the one whose name is most like the model's.

    A folder with one model has its projector whatever it is called; among several models only
    one that carries the model's name belongs to it.
    """
    beside = [one for one in projectors if one.path.parent == model.folder]
    named = [one for one in beside if _share(model.stem, one.stem)]
    if named:
        # F16 before others: what the makers of models recommend.
        return min(named, key=lambda one: ("f16" not in one.stem.lower(), one.stem))
    return None


def _share(stem: str, projector: str) -> bool:
    """Whether a projector's name, without its marks, is the beginning of the model's name."""
    rest = _PROJECTOR.sub("", projector)
    rest = re.sub(r"(?i)[-_.](?:bf16|f16|f32|fp16|q8_0)$|[-_.]model", "", rest)
    rest = re.sub(r"^(?i:bf16|f16|f32|fp16|q8_0)$", "", rest.strip("-_."))
    rest = rest.strip("-_.").lower()
    return bool(rest) and stem.lower().startswith(rest)


def only_projector(
    model: ModelFiles, models: list[ModelFiles], projectors: list[FoundFile]
) -> FoundFile | None:
    """The projector of a folder that holds this one model (in several quantizations, too)."""
    beside = [one for one in projectors if one.path.parent == model.folder]
    names = {_family(other.stem) for other in models if other.folder == model.folder}
    if len(names) == 1 and beside:
        return min(beside, key=lambda one: ("f16" not in one.stem.lower(), one.stem))
    return None


def _family(stem: str) -> str:
    """A model's name without its quantization."""
    return re.sub(r"(?i)[-_.](?:ud-)?(?:iq\d|q\d|bf16|f16|f32|mxfp4)\w*$", "", stem).lower()
