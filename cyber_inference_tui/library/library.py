"""The models on this machine, read from folders and settings. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import ConflictError, CyberError, GGUFError
from cyber_inference_tui.gguf.metadata import ModelMetadata, read_metadata
from cyber_inference_tui.library.catalog import Catalog, LocalModel, Problem
from cyber_inference_tui.library.scan import (
    FoundFile,
    ModelFiles,
    find_files,
    group,
    only_projector,
    projector_for,
)
from cyber_inference_tui.settings.schema import ModelSettings
from cyber_inference_tui.text import clean_line

_CACHE_FORMAT = 1


class _Header(msgspec.Struct, frozen=True):
    """What a file's header told, and how the file was then."""

    size: int
    mtime_ns: int
    metadata: ModelMetadata | None
    problem: str | None


class _CacheFile(msgspec.Struct):
    format: int
    headers: dict[str, _Header]


class Library:
    """Scans ``models_dir`` and ``model_dirs``; headers are read once per file and change.

    ``extra`` adds files under given ids (the built-in demo). ``cache_file`` keeps headers over a
    restart. One thread at a time may call ``scan``.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        model_dirs: Sequence[Path],
        model_settings: Mapping[str, ModelSettings],
        extra: Mapping[str, Path] | None = None,
        cache_file: Path | None = None,
    ) -> None:
        self._models_dir = models_dir
        self._roots = list(dict.fromkeys([models_dir, *model_dirs]))
        self._settings = model_settings
        self._extra = dict(extra or {})
        self._cache_file = cache_file
        self._headers: dict[str, _Header] | None = None
        self._cache_changed = False

    def scan(self) -> Catalog:
        """The models there are now."""
        headers = self._headers if self._headers is not None else self._load_cache()
        self._headers = {}
        self._cache_changed = False
        problems: list[Problem] = []
        files = self._find(problems)
        groups = group(files)
        projectors = [file for file in files if file.is_projector]
        models: dict[str, LocalModel] = {}
        for model_id, member in _named(groups):
            mmproj = projector_for(member, projectors) or only_projector(member, groups, projectors)
            models[model_id] = self._model(model_id, member, mmproj, headers)
        for model_id, path in self._extra.items():
            found = _found(path)
            if found is not None:
                member = ModelFiles(stem=model_id, root=path.parent, shards=(found,))
                models[model_id] = self._model(model_id, member, None, headers)
        self._add_from_settings(models, problems, headers)
        if self._cache_changed or len(headers) != len(self._headers):
            self._save_cache()
        return Catalog(dict(sorted(models.items())), tuple(problems))

    def delete(self, catalog: Catalog, model_id: str) -> tuple[Path, ...]:
        """Remove a model's shards, and its projector if no other model uses it.

        Only under ``models_dir``: raises ``ConflictError`` for any other model, and ``CyberError``
        when the disk refuses.
        """
        model = catalog.resolve(model_id)
        if not model.removable:
            raise ConflictError(
                f"{model.id} does not lie under models_dir, so it is not deleted.",
                hint=f"Its file is {model.path}." if model.path else "",
            )
        doomed = list(model.shards)
        shared = any(
            other.mmproj == model.mmproj for other in catalog.models.values() if other is not model
        )
        if model.mmproj and not shared and self._is_removable(model.mmproj):
            doomed.append(model.mmproj)
        for path in doomed:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CyberError(f"Cannot delete {path}: {error.strerror}.") from error
        return tuple(doomed)

    def _find(self, problems: list[Problem]) -> list[FoundFile]:
        files: dict[Path, FoundFile] = {}
        for root in self._roots:
            for file in find_files(root):
                try:
                    str(file.path).encode()
                except UnicodeEncodeError:
                    shown = clean_line(os.fsencode(file.path).decode("utf-8", "replace"))
                    problems.append(Problem(shown, "its name is not UTF-8"))
                    continue
                files.setdefault(file.path, file)
        return list(files.values())

    def _model(
        self,
        model_id: str,
        member: ModelFiles,
        mmproj: FoundFile | None,
        headers: Mapping[str, _Header],
    ) -> LocalModel:
        own = self._settings.get(model_id, ModelSettings())
        header = self._header(member.shards[0], headers)
        problem = header.problem
        if member.missing:
            numbers = ", ".join(str(number) for number in member.missing[:8])
            more = ", …" if len(member.missing) > 8 else ""
            problem = f"shards are missing: {numbers}{more}"
        chosen = _found(own.mmproj) if own.mmproj else mmproj
        if own.mmproj and chosen is None:
            problem = problem or f"its projector {own.mmproj} is missing"
        sizes = [file.size for file in member.shards] + ([chosen.size] if chosen else [])
        return LocalModel(
            id=model_id,
            aliases=own.aliases,
            path=member.shards[0].path,
            shards=tuple(file.path for file in member.shards),
            mmproj=chosen.path if chosen else None,
            size_bytes=sum(sizes),
            metadata=header.metadata,
            problem=problem,
            settings=own,
            removable=all(self._is_removable(file.path) for file in member.shards),
        )

    def _is_removable(self, path: Path) -> bool:
        # The folder's real place counts: a link out of models_dir leads to somebody else's files.
        with contextlib.suppress(OSError):
            return path.parent.resolve().is_relative_to(self._models_dir.resolve())
        return False

    def _add_from_settings(
        self,
        models: dict[str, LocalModel],
        problems: list[Problem],
        headers: Mapping[str, _Header],
    ) -> None:
        """Models that only the settings name, by ``path`` or by ``command``."""
        for model_id, own in self._settings.items():
            found = _found(own.path) if own.path else None
            if found is not None:
                member = self._shards_beside(found)
                models[model_id] = self._model(model_id, member, None, headers)
            elif own.path is not None:
                models[model_id] = LocalModel(
                    id=model_id,
                    aliases=own.aliases,
                    path=own.path,
                    settings=own,
                    problem=f"its file {own.path} is missing",
                )
            elif own.command and model_id not in models:
                models[model_id] = LocalModel(id=model_id, aliases=own.aliases, settings=own)
            elif model_id not in models:
                problems.append(
                    Problem(model_id, "the settings name it, but there is no such model")
                )
        taken = set(models)
        for model_id, model in models.items():
            clash = taken.intersection(model.aliases) - {model_id}
            if clash:
                problems.append(
                    Problem(model_id, f"its alias {min(clash)} is another model's id: not used")
                )

    def _shards_beside(self, first: FoundFile) -> ModelFiles:
        folder = first.path.parent
        beside = [one for one in find_files(folder) if one.path.parent == folder]
        for member in group(beside):
            if any(file.path == first.path for file in member.shards):
                return member
        return ModelFiles(stem=first.stem, root=folder, shards=(first,))

    def _header(self, file: FoundFile, known: Mapping[str, _Header]) -> _Header:
        name = str(file.path)
        header = known.get(name)
        if header is None or (header.size, header.mtime_ns) != (file.size, file.mtime_ns):
            self._cache_changed = True
            try:
                header = _Header(file.size, file.mtime_ns, read_metadata(file.path), None)
            except GGUFError as error:
                header = _Header(file.size, file.mtime_ns, None, error.message)
            except OSError as error:
                header = _Header(0, 0, None, f"cannot be read: {error.strerror}")
        if self._headers is not None:
            self._headers[name] = header
        return header

    def _load_cache(self) -> dict[str, _Header]:
        if self._cache_file is None:
            return {}
        try:
            cache = msgspec.json.decode(self._cache_file.read_bytes(), type=_CacheFile)
        except (OSError, msgspec.MsgspecError):
            return {}
        return cache.headers if cache.format == _CACHE_FORMAT else {}

    def _save_cache(self) -> None:
        if self._cache_file is None or self._headers is None:
            return
        temporary = self._cache_file.with_name(f"{self._cache_file.name}.new")
        # Only a saving of time: without it the next start reads the headers again.
        with contextlib.suppress(OSError):
            temporary.write_bytes(msgspec.json.encode(_CacheFile(_CACHE_FORMAT, self._headers)))
            temporary.replace(self._cache_file)


def _found(path: Path) -> FoundFile | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return FoundFile(path, path.parent, status.st_size, status.st_mtime_ns)


def _named(groups: list[ModelFiles]) -> list[tuple[str, ModelFiles]]:
    """Each model with its id: the name, or with its folders where the name alone is not enough."""
    counts = Counter(clean_line(member.stem) for member in groups)
    named: dict[str, ModelFiles] = {}
    for member in sorted(groups, key=lambda one: (str(one.root), str(one.shards[0].path))):
        model_id = clean_line(member.stem)
        if counts[model_id] > 1:
            model_id = _relative(member.folder, member.root, model_id)
        if model_id in named:
            # The same place below two roots: the root's own name tells them apart.
            model_id = f"{clean_line(member.root.name)}/{model_id}"
        named.setdefault(model_id, member)
    return list(named.items())


def _relative(folder: Path, root: Path, name: str) -> str:
    parts = folder.relative_to(root).parts
    return clean_line("/".join((*parts, name)))
