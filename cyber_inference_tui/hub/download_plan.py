"""Describe and check a download: the files of a model and their paths below ``models_dir``.

No name of the hub is used as a path before it is checked. A repository's files keep their paths
below ``OWNER/NAME``, so that two models with one name get the ids ``Name`` and ``owner/name/Name``.
Only a projector moves: the library expects it beside its model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath

import msgspec

from cyber_inference_tui.errors import HubError
from cyber_inference_tui.library.projectors import is_projector_name
from cyber_inference_tui.text import clean_line

MAX_FILES = 1000
_MAX_PATH = 1024
# With our own endings a name still fits the 255 bytes of most file systems.
_MAX_NAME = 240
_MAX_DEPTH = 8
# Characters that FAT, exFAT and NTFS refuse in a name, and their device names.
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_FORBIDDEN = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_OURS = (".part", ".part.json")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class PlannedFile(msgspec.Struct, frozen=True):
    """One file of a repository; ``None`` = the hub does not say."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None
    """Of large files (LFS)."""
    git_sha1: str | None = None
    """Git's id of the content, if there is no SHA-256: SHA-1 of ``blob SIZE NUL CONTENT``."""


class DownloadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A model with all its files: shards, projector and draft head."""

    repo: str
    revision: str
    """The commit that every file comes from, however long the download takes."""
    files: tuple[PlannedFile, ...]
    quantization: str | None = None
    filename: str
    """The model's first file, one of ``files``."""


Resolve = Callable[[str, str | None, str | None], Awaitable[DownloadPlan]]
"""Turns a requested repository, file and revision into a plan; raises ``CyberError``."""


def check_repo(repo: str) -> None:
    """Raise ``HubError`` if ``repo`` cannot be the name of a repository."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        shown = clean_line(repo, limit=200)
        raise HubError(f'"{shown}" is not the name of a repository.', param="repo")


def check_plan(plan: DownloadPlan) -> None:
    """Raise ``HubError`` if a name, size or digest of the plan is invalid."""
    check_repo(plan.repo)
    repo = plan.repo
    if not _COMMIT.fullmatch(plan.revision):
        raise HubError(f"{clean_line(plan.revision, limit=80)} is not a commit of {repo}.")
    if not 0 < len(plan.files) <= MAX_FILES:
        raise HubError(f"A model of {repo} has {len(plan.files)} files; 1 to {MAX_FILES} can be.")
    if plan.filename not in {file.path for file in plan.files}:
        raise HubError(f"{clean_line(plan.filename, limit=200)} is none of the model's files.")
    for file in plan.files:
        _check_file(file)
    places: dict[str, str] = {}
    for file in plan.files:
        # On a file system that ignores case one file would overwrite the other.
        place = unicodedata.normalize("NFC", str(local_path(plan, file))).casefold()
        if place in places:
            raise HubError(f"{places[place]} and {file.path} of {repo} would be one file here.")
        places[place] = file.path


def local_path(plan: DownloadPlan, file: PlannedFile) -> PurePosixPath:
    """Return a file's path below ``models_dir``; raises ``HubError``."""
    path = safe_path(file.path)
    if is_projector_name(path.stem):
        path = safe_path(plan.filename).parent / path.name
    return PurePosixPath(*plan.repo.split("/")) / path


def safe_path(path: str) -> PurePosixPath:
    """Return a hub's file path as a relative path that cannot leave the directory it is put into.

    Raises ``HubError`` if it is absolute or leads upwards, or if one of its names is hidden,
    reserved for our own files or impossible on some file system.
    """
    parts = path.split("/")
    if not path or len(path.encode("utf-8", "replace")) > _MAX_PATH or len(parts) > _MAX_DEPTH:
        raise _refused(path, "it is empty, too long or too deep")
    for part in parts:
        if part in {"", ".", ".."}:
            raise _refused(path, "it has an empty, . or .. part")
        if part.startswith("."):
            raise _refused(path, "it is hidden")
        if part != clean_line(part) or _FORBIDDEN.search(part) or part[-1] in ". ":
            raise _refused(path, "it has characters that file names cannot have")
        if len(part.encode("utf-8", "replace")) > _MAX_NAME:
            raise _refused(path, "it is too long")
        if _DEVICES.fullmatch(part) or part.lower().endswith(_OURS):
            raise _refused(path, f"{part} is a reserved name")
    return PurePosixPath(*parts)


def _check_file(file: PlannedFile) -> None:
    safe_path(file.path)
    if file.size_bytes is not None and file.size_bytes < 0:
        raise HubError(f"{file.path} has an invalid size: {file.size_bytes} bytes.")
    for digest, form in ((file.sha256, _SHA256), (file.git_sha1, _SHA1)):
        if digest is not None and not form.fullmatch(digest):
            raise HubError(f"{clean_line(digest, limit=80)} is no digest of {file.path}.")


def _refused(path: str, why: str) -> HubError:
    return HubError(f"The hub's file {clean_line(path, limit=200)!r} is refused: {why}.")
