"""Groups the files of one model: shards by their names, and the sums of their headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.scan import ModelFile

# llama.cpp's own pattern, src/llama.cpp llama_split_path: "%s-%05d-of-%05d.gguf".
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_MAX_NAMED = 8


class FileSet(NamedTuple):
    """The files of one model, in order; ``missing`` are the numbers of absent shards, from 1."""

    name: str
    directory: Path
    files: tuple[ModelFile, ...]
    shard_count: int
    """The total number of shards; 0 = the model is a single file."""
    missing: tuple[int, ...] = ()


def group_shards(files: Iterable[ModelFile]) -> list[FileSet]:
    """Group files by directory, name and number of shards; other files are single models."""
    sets: list[FileSet] = []
    shards: dict[tuple[Path, str, int], dict[int, ModelFile]] = {}
    for file in files:
        shard = shard_of(file.stem)
        if shard is None:
            sets.append(FileSet(file.stem, file.path.parent, (file,), 0))
            continue
        key = (file.path.parent, shard.name, shard.total)
        shards.setdefault(key, {})[shard.number] = file
    for (directory, name, count), by_number in shards.items():
        present = tuple(by_number[number] for number in sorted(by_number))
        missing = tuple(number for number in range(1, count + 1) if number not in by_number)
        sets.append(FileSet(name, directory, present, count, missing))
    return sets


class Shard(NamedTuple):
    """The parts of the name of a shard."""

    name: str
    """The name of the model."""
    number: int
    """From 1."""
    total: int


def shard_of(stem: str) -> Shard | None:
    """Parse a file name without ``.gguf``; ``None`` = it is not a shard."""
    found = _SHARD.fullmatch(stem)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return None
    return Shard(found["name"], int(found["number"]), int(found["count"]))


def shard_names(path: Path) -> list[Path]:
    """Return the paths of all shards of a model; only ``path`` itself if it is not a shard."""
    found = _SHARD.fullmatch(path.name.removesuffix(".gguf"))
    if found is None:
        return [path]
    count = int(found["count"])
    return [
        path.with_name(f"{found['name']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    ]


def missing_sentence(files: FileSet) -> str | None:
    """Return a clause on the missing shards; ``None`` = all are present."""
    if not files.missing:
        return None
    named = ", ".join(str(number) for number in files.missing[:_MAX_NAMED])
    more = len(files.missing) - _MAX_NAMED
    return (
        f"{len(files.missing)} of its {files.shard_count} files are missing: number {named}"
        f"{f' and {more} more' if more > 0 else ''}"
    )


def combined(headers: Sequence[ModelMetadata]) -> ModelMetadata:
    """Return the first shard's facts with the parameters and tensors of all shards."""
    first = headers[0]
    if len(headers) == 1:
        return first
    return msgspec.structs.replace(
        first,
        parameters=sum(header.parameters or 0 for header in headers) or None,
        tensor_count=sum(header.tensor_count for header in headers),
        tensor_bytes=sum(header.tensor_bytes for header in headers),
        matrices=tuple(one for header in headers for one in header.matrices),
        predicts=any(header.predicts for header in headers),
    )
