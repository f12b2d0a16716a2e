"""Builds models from files, headers and tables: the rules of what counts as a model."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.library.catalog import Catalog, LocalModel, Origin
from cyber_inference_tui.library.companion_files import CompanionFiles
from cyber_inference_tui.library.ids import AUTO, RESERVED, NamedModel, assign_ids
from cyber_inference_tui.library.ollama import OllamaModel
from cyber_inference_tui.library.presets import with_presets
from cyber_inference_tui.library.projectors import (
    Candidate,
    Projector,
    is_projector_name,
    placed,
)
from cyber_inference_tui.library.scan import Found, ModelFile, NamedPath, Unread, path_text
from cyber_inference_tui.library.shards import (
    FileSet,
    combined,
    group_shards,
    missing_sentence,
    shard_names,
)
from cyber_inference_tui.library.stores import Elsewhere, StoreRoot
from cyber_inference_tui.library.unusable_files import Problem
from cyber_inference_tui.settings.schema import ModelSettings

_NO_MODELS = {
    "controlvector": "it is a control vector, not a model: name it in a model's args, with"
    " --control-vector",
    "imatrix": "it is an importance matrix, not a model",
    "vocab": "it holds a vocabulary and no weights",
}
_USED_PROJECTOR = (
    "it is a projector, which lets models beside or below it read images: ask for them"
)
_UNUSED_PROJECTOR = (
    "it is a projector without a certain model here: to use it, name it as mmproj in the table of"
    " its model"
)
_UNKNOWN = ModelMetadata()

NOTHING = Elsewhere()


class Configured(NamedTuple):
    """A model given by path: its existing files, none if it is missing."""

    id: str
    path: Path
    files: tuple[ModelFile, ...]
    settings: ModelSettings
    origin: Origin = Origin.SETTINGS
    is_directory: bool = False
    unread: str = ""
    """The reason why its files cannot be read now: ``files`` are the earlier ones."""


class _Read(NamedTuple):
    """A model's files and the content of their headers."""

    files: FileSet
    metadata: ModelMetadata | None
    problem: str | None


class Assembly:
    """Builds a catalog. ``read`` returns a file's header or raises ``GGUFError``.

    ``companions`` are the projectors and adapters that tables name.
    """

    def __init__(
        self,
        *,
        models_dir: Path,
        model_settings: Mapping[str, ModelSettings],
        companions: Mapping[Path, NamedPath],
        read: Callable[[ModelFile], ModelMetadata],
    ) -> None:
        self._models_dir = models_dir
        self._settings = model_settings
        self._companions = companions
        self._read_header = read
        self._problems: list[Problem] = []
        self._parts: list[Problem] = []
        self._auto_aliases: tuple[str, ...] = ()
        self._companion_files = self._no_companion_files()

    def _no_companion_files(self) -> CompanionFiles:
        return CompanionFiles(
            models_dir=self._models_dir, named=self._companions, read=self._read_header
        )

    def catalog(
        self, found: Found, configured: Sequence[Configured], elsewhere: Elsewhere = NOTHING
    ) -> Catalog:
        """Return all present models and problems."""
        self._problems = [*found.problems, *elsewhere.problems]
        self._parts = []
        self._auto_aliases = ()
        self._companion_files = self._no_companion_files()
        listed = self._listed(found.files)
        models = [self._configured(given) for given in configured]
        ids = {model.id for model in models}
        same = {(model.id, model.path) for model in models}
        # A table with the path of the file that has its id describes one model, not two.
        listed = [
            (read, projector)
            for read, projector in listed
            if (read.files.name, read.files.files[0].path) not in same
        ]
        models += self._named(listed, frozenset(ids))
        known = {file.inode for file in found.files}
        known |= {file.inode for given in configured for file in given.files}
        models += self._elsewhere(elsewhere, known, frozenset(model.id for model in models))
        models += self._without_file(model.id for model in models)
        for given in configured:
            self._report_unread(given.path, given.unread, kept=bool(given.files))
        for path, named in self._companions.items():
            self._report_unread(path, named.unread, kept=named.file is not None)
        models, unnamed = with_presets(models, taken=(AUTO, *RESERVED, *self._auto_aliases))
        self._problems += unnamed
        models = self._companion_files.given_to(models)
        unused, used = self._companion_files.reports(models)
        self._problems += unused
        self._parts += used
        by_id = {model.id: model for model in models}
        return Catalog(by_id, self._problems, parts=self._parts, auto_aliases=self._auto_aliases)

    def _report_unread(self, path: Path, reason: str, *, kept: bool) -> None:
        if reason:
            self._problems.append(Unread(path, reason).problem(kept=kept))

    def _listed(
        self, files: Iterable[ModelFile], repositories: Container[Path] = ()
    ) -> list[tuple[_Read, Projector | None]]:
        """Return the models among ``files``, each with its projector, root by root.

        ``repositories`` are the roots that contain one repository each.
        """
        by_root: dict[Path, list[_Read]] = {}
        for one in group_shards(files):
            by_root.setdefault(one.files[0].root, []).append(self._read(one))
        listed: list[tuple[_Read, Projector | None]] = []
        for root, sets in by_root.items():
            listed += self._below(root, sets, is_repository=root in repositories)
        return listed

    def _elsewhere(
        self, elsewhere: Elsewhere, known: set[tuple[int, int]], taken: frozenset[str]
    ) -> list[LocalModel]:
        """Return other programs' models that can be used and are not ours as well.

        They never change the id of one of our models.
        """
        new = [file for file in elsewhere.files if file.inode not in known]
        repositories = {
            root for root, place in elsewhere.places.items() if place.origin is Origin.HUB_CACHE
        }
        listed = [
            (read, projector, elsewhere.places[read.files.files[0].root])
            for read, projector in self._listed(new, repositories)
        ]
        known = known | {file.inode for file in new}
        for one in elsewhere.ollama:
            if one.file.inode in known:
                continue
            read = self._read(FileSet(one.name, one.file.path.parent, (one.file,), 0))
            projector = self._ollama_projector(one)
            listed.append((read, projector, StoreRoot(Origin.OLLAMA, one.host)))
        usable = []
        for read, projector, place in listed:
            if read.problem is None:
                usable.append((read, projector, place))
            else:
                where = path_text(read.files.files[0].path)
                self._problems.append(Problem(where=where, reason=read.problem))
        names = [
            NamedModel(read.files.name, read.files.directory, read.files.files[0].root, place.owner)
            for read, _, place in usable
        ]
        ids = assign_ids(names, taken=taken)
        settings = self._settings_by_id([model_id for model_id in ids if model_id is not None])
        # A model without a unique id is the same as another one, in another store.
        return [
            self._model(
                model_id, read, projector, settings.get(model_id, ModelSettings()), place.origin
            )
            for (read, projector, place), model_id in zip(usable, ids, strict=True)
            if model_id is not None
        ]

    def _ollama_projector(self, model: OllamaModel) -> Projector | None:
        if model.projector is None:
            return None
        try:
            return Projector(model.projector, self._read_header(model.projector))
        except GGUFError as error:
            where = path_text(model.projector.path)
            self._problems.append(Problem(where=where, reason=error.message))
            return None

    def _read(self, files: FileSet) -> _Read:
        headers: list[ModelMetadata] = []
        problem = missing_sentence(files)
        for file in files.files:
            try:
                headers.append(self._read_header(file))
            except GGUFError as error:
                named = f"{file.path.name}: " if len(files.files) > 1 else ""
                problem = problem or f"{named}{error.message}"
        if headers and problem is None:
            problem = _split_problem(files, headers)
        whole = files.files[0].path == shard_names(files.files[0].path)[0]
        complete = len(headers) == len(files.files)
        return _Read(files, combined(headers) if whole and complete else None, problem)

    def _below(
        self, root: Path, sets: Sequence[_Read], *, is_repository: bool
    ) -> list[tuple[_Read, Projector | None]]:
        """Return the models below one root, each with its projector."""
        models: list[_Read] = []
        projectors: list[Projector] = []
        for read in sets:
            file, facts = read.files.files[0], read.metadata
            if facts is not None and facts.is_projector:
                projectors.append(Projector(file, facts))
            elif facts is not None and self._companion_files.takes(file, facts):
                continue
            elif (reason := _no_model(read)) is not None:
                self._problems.append(Problem(where=path_text(file.path), reason=reason))
            else:
                models.append(read)
        chosen = placed(
            [
                (read.files.directory, Candidate(read.files.name, read.metadata or _UNKNOWN))
                for read in models
            ],
            projectors,
            root=root,
            is_repository=is_repository,
        )
        # Other precisions of a used projector may be beside it.
        used = {one.file.path.parent for one in chosen if one is not None}
        for projector in projectors:
            path = projector.file.path
            in_use = path.parent in used or path in self._companions
            where, reason = path_text(path), _USED_PROJECTOR if in_use else _UNUSED_PROJECTOR
            (self._parts if in_use else self._problems).append(Problem(where=where, reason=reason))
        return list(zip(models, chosen, strict=True))

    def _named(
        self, listed: Sequence[tuple[_Read, Projector | None]], taken: frozenset[str]
    ) -> list[LocalModel]:
        names = [
            NamedModel(read.files.name, read.files.directory, read.files.files[0].root)
            for read, _ in listed
        ]
        ids = assign_ids(names, taken=taken)
        settings = self._settings_by_id([model_id for model_id in ids if model_id is not None])
        models: list[LocalModel] = []
        for (read, projector), model_id in zip(listed, ids, strict=True):
            if model_id is None:
                self._problems.append(
                    Problem(
                        where=path_text(read.files.files[0].path),
                        reason="another model has its name, and its path gives no unique id",
                    )
                )
                continue
            inside = self._under_models_dir(read.files.files[0])
            origin = Origin.MODELS_DIR if inside else Origin.MODEL_DIRS
            table = settings.get(model_id, ModelSettings())
            models.append(self._model(model_id, read, projector, table, origin))
        return models

    def _settings_by_id(self, ids: Sequence[str]) -> dict[str, ModelSettings]:
        """Return the table of each model: with exactly its id, else its id in another case."""
        folded: dict[str, list[str]] = {}
        for model_id in ids:
            folded.setdefault(model_id.casefold(), []).append(model_id)
        exact = {
            model_id: self._settings[model_id] for model_id in ids if model_id in self._settings
        }
        for key, settings in self._settings.items():
            owners = folded.get(key.casefold(), [])
            if key not in exact and key != AUTO and len(owners) == 1 and settings.path is None:
                exact.setdefault(owners[0], settings)
        return exact

    def _configured(self, given: Configured) -> LocalModel:
        settings = given.settings
        if not given.files and settings.command and (given.is_directory or given.unread):
            # Another program's model, such as a directory of safetensors.
            return self._bare(given.id, settings, path=given.path, origin=given.origin)
        if not given.files:
            state = f"cannot be read: {given.unread}" if given.unread else "is missing"
            state = "is a directory" if given.is_directory else state
            return self._bare(
                given.id,
                settings,
                path=given.path,
                problem=f"its file {path_text(given.path)} {state}",
                origin=given.origin,
            )
        files = group_shards(given.files)[0]
        read = self._read(files)
        if settings.command:
            read = read._replace(problem=None)
        inside = given.origin is Origin.SETTINGS and self._under_models_dir(files.files[0])
        origin = Origin.MODELS_DIR if inside else given.origin
        return self._model(given.id, read, None, settings, origin)

    def _without_file(self, ids: Iterable[str]) -> list[LocalModel]:
        """Return models whose table has a command and no file; report tables that match nothing."""
        known = {model_id.casefold() for model_id in ids}
        models: list[LocalModel] = []
        for key, settings in self._settings.items():
            if key == AUTO and settings.path is None and not settings.command:
                self._name_auto(settings)
                continue
            if key.casefold() in known or settings.path is not None:
                continue
            if settings.command:
                models.append(self._bare(key, settings))
            else:
                self._problems.append(
                    Problem(
                        where=f'[models."{key}"]',
                        reason="no file here has this id, and the table names no path or command",
                        name=key,
                    )
                )
        return models

    def _name_auto(self, settings: ModelSettings) -> None:
        """Take the aliases of ``auto`` from its table, in which nothing else has an effect."""
        self._auto_aliases = tuple(settings.aliases)
        if settings != ModelSettings(aliases=self._auto_aliases):
            reason = (
                "auto is no model of its own: its table has a list of aliases, and nothing else"
            )
            self._problems.append(Problem(where=f'[models."{AUTO}"]', reason=reason, name=AUTO))

    def _bare(
        self,
        model_id: str,
        settings: ModelSettings,
        *,
        path: Path | None = None,
        problem: str | None = None,
        origin: Origin = Origin.SETTINGS,
    ) -> LocalModel:
        problem = problem or _id_problem(model_id)
        return LocalModel(
            id=model_id,
            aliases=tuple(settings.aliases),
            path=path,
            settings=settings,
            problem=problem,
            origin=origin,
        )

    def _model(
        self,
        model_id: str,
        read: _Read,
        projector: Projector | None,
        settings: ModelSettings,
        origin: Origin,
    ) -> LocalModel:
        files = read.files.files
        problem = read.problem or _id_problem(model_id)
        mmproj = projector.file.path if projector else None
        projector_bytes = projector.file.size if projector else 0
        projector_facts = projector.metadata.projector if projector else None
        written = [file.modified for file in files]
        written += [projector.file.modified] if projector else []
        if settings.mmproj is not None:
            mmproj = self._models_dir / settings.mmproj
            given = self._companions[mmproj]
            if given.file is not None:
                projector_bytes = given.file.size
                projector_facts = self._projector_facts(given.file)
                written.append(given.file.modified)
            else:
                state = f"cannot be read: {given.unread}" if given.unread else "is missing"
                problem = problem or f"its projector {path_text(mmproj)} {state}"
        return LocalModel(
            id=model_id,
            aliases=tuple(settings.aliases),
            path=files[0].path,
            shards=tuple(file.path for file in files),
            mmproj=mmproj,
            size_bytes=sum(file.size for file in files) + projector_bytes,
            projector_bytes=projector_bytes,
            projector_facts=projector_facts,
            modified=max(written),
            metadata=read.metadata,
            problem=problem,
            settings=settings,
            removable=all(file.inside for file in files) and self._under_models_dir(files[0]),
            origin=origin,
        )

    def _projector_facts(self, file: ModelFile) -> ProjectorFacts | None:
        try:
            return self._read_header(file).projector
        except GGUFError:
            return None  # the load reports it

    def _under_models_dir(self, file: ModelFile) -> bool:
        return file.path.is_relative_to(self._models_dir)


def _no_model(read: _Read) -> str | None:
    """Return the reason why a file can never be a model; ``None`` = it may be one."""
    name = read.files.name.lower()
    facts = read.metadata
    if facts is None:
        if is_projector_name(name):
            return f"it is a projector that cannot be used: {read.problem}"
        return _NO_MODELS["imatrix"] if "imatrix" in name else None
    if name.startswith("mmproj"):
        return "it is named as a projector, but its header is a model's: rename it if it is one"
    for kind in (facts.kind, facts.architecture):
        if kind in _NO_MODELS:
            return _NO_MODELS[kind]
    return _NO_MODELS["vocab"] if facts.tensor_count == 0 else None


def _id_problem(model_id: str) -> str | None:
    """Return the problem of a reserved id. Only a table can use one; files get another id."""
    if model_id == AUTO:
        return "auto is the id of the model in use: give its table another name"
    if model_id in RESERVED:
        return f"{model_id} is the id of a log of the service's own: give its table another name"
    return None


def _split_problem(files: FileSet, headers: Sequence[ModelMetadata]) -> str | None:
    """Compare the names of shards with their headers; return the problem, if any."""
    count = headers[0].split_count
    if files.shard_count == 0 and count > 1:
        return (
            f"it is file {headers[0].split_number + 1} of {count} of a split model,"
            f" and must be named so: NAME-{headers[0].split_number + 1:05}-of-{count:05}.gguf"
        )
    if files.shard_count > 1 and any(
        (header.split_count, header.split_number) != (files.shard_count, number)
        for number, header in enumerate(headers)
    ):
        return "its files are not the parts of one model that their names say"
    return None
