"""Unpacks archives from other people: no file leaves the folder or exceeds the limits.

Python's own ``tarfile`` filters came with 3.11.4, which Debian 12 does not have. This module does
their checks, and limits sizes and counts as well.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

import msgspec

from cyber_inference_tui.errors import InstallError
from cyber_inference_tui.text import clean_line

_CHUNK = 1 << 20
_LINK_LIMIT = 4096


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an archive: ``size`` in bytes when unpacked, ``count`` in entries."""

    size: int = 2 << 30
    count: int = 5000


class _ArchiveEntry(NamedTuple):
    """An entry to write: a file (``content``) or a link (``target``)."""

    name: str
    executable: bool
    content: IO[bytes] | None
    target: str


def unpack_archive(
    archive: Path, folder: Path, *, limits: ArchiveLimits | None = None, sources: bool = False
) -> None:
    """Unpack a tar (compressed or not) or zip file into the empty ``folder``.

    Only files, folders and links that stay inside are accepted. Raises ``InstallError`` for
    everything else and for an archive that is damaged or exceeds ``limits``; ``folder`` may then
    hold a part of it. In an archive of ``sources`` a link may lead to a folder, and a link to a
    missing file is left out: such links are common there, and nothing depends on them.
    """
    limits = limits or ArchiveLimits()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _write(_zip_entries(opened), folder, limits, sources)
        else:
            with (
                _decompressed(archive) as content,
                tarfile.open(fileobj=_Bounded(content, limits.size), mode="r|") as tar,
            ):
                _write(_tar_entries(tar), folder, limits, sources)
    except (
        lzma.LZMAError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
    ) as error:
        raise InstallError(
            f"The archive is damaged: {clean_line(str(error) or type(error).__name__)}."
        ) from error
    except (NotImplementedError, RuntimeError) as error:
        # zipfile's words for compression methods it lacks and for encryption.
        raise InstallError(f"The archive cannot be read: {clean_line(str(error))}.") from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report damaged data so
            raise InstallError(f"The archive is damaged: {clean_line(str(error))}.") from error
        raise InstallError(f"The archive cannot be unpacked: {error.strerror}.") from error


class _Bounded(io.RawIOBase):
    """A stream that ends with an error after ``limit`` bytes: headers may be endless, too."""

    def __init__(self, content: IO[bytes], limit: int) -> None:
        self._content = content
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        chunk = self._content.read(min(size, _CHUNK) if size >= 0 else _CHUNK)
        self._left -= len(chunk)
        if self._left < 0:
            raise InstallError("The archive is larger than a llama-server can be.")
        return chunk


def _decompressed(path: Path) -> IO[bytes]:
    """Open the tar in a file; the magic number at its start gives the compression."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if magic.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(path, "rb")
    return path.open("rb")


def _tar_entries(tar: tarfile.TarFile) -> Iterator[_ArchiveEntry]:
    for member in tar:
        if member.isdir():
            yield _ArchiveEntry(member.name + "/", False, None, "")
        elif member.issym():
            yield _ArchiveEntry(member.name, False, None, member.linkname)
        elif member.isreg():
            yield _ArchiveEntry(member.name, bool(member.mode & 0o111), tar.extractfile(member), "")
        else:
            raise InstallError(
                f"The archive holds {clean_line(member.name, limit=200)}, which is neither a "
                "file, a folder nor a symbolic link."
            )


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_ArchiveEntry]:
    for info in archive.infolist():
        if not info.filename:
            raise InstallError("The archive is damaged: an entry has no name.")
        mode = info.external_attr >> 16
        kind = stat.S_IFMT(mode)
        if info.is_dir():
            yield _ArchiveEntry(info.filename, False, None, "")
        elif kind == stat.S_IFLNK:
            with archive.open(info) as content:
                yield _ArchiveEntry(info.filename, False, None, content.read(_LINK_LIMIT).decode())
        elif kind in {0, stat.S_IFREG}:
            with archive.open(info) as content:
                yield _ArchiveEntry(info.filename, bool(mode & 0o111), content, "")
        else:
            raise InstallError(
                f"The archive holds {clean_line(info.filename, limit=200)}, which is neither a "
                "file, a folder nor a symbolic link."
            )


def _write(
    entries: Iterator[_ArchiveEntry], folder: Path, limits: ArchiveLimits, sources: bool
) -> None:
    left = limits.size
    links: dict[str, str] = {}
    files: set[str] = set()
    for count, entry in enumerate(entries, start=1):
        if count > limits.count:
            raise InstallError(f"The archive holds more than {limits.count} entries.")
        name = _inside(entry.name)
        if entry.name.endswith("/") or name == ".":
            (folder / name).mkdir(parents=True, exist_ok=True)
        elif entry.content is None:
            links[name] = _inside(posixpath.join(posixpath.dirname(name), entry.target), entry.name)
            if entry.target.startswith("/"):
                raise _outside(entry.name)
        else:
            files.add(name)
            left -= _write_file(entry, folder / name, left)
    # Links are made last, so no file is written through a link. Each leads to a file or another
    # link of this archive.
    for name, target in links.items():
        if target not in files and target not in links and not sources:
            raise InstallError(f"The archive's link {clean_line(name, limit=200)} leads nowhere.")
        if target not in links and not (folder / target).exists():
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(posixpath.relpath(target, posixpath.dirname(name) or "."))


def _write_file(entry: _ArchiveEntry, path: Path, limit: int) -> int:
    """Write a new file of at most ``limit`` bytes; return its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    size = 0
    with os.fdopen(os.open(path, flags, 0o755 if entry.executable else 0o644), "wb") as file:
        assert entry.content is not None  # noqa: S101 - the caller looked
        while chunk := entry.content.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise InstallError("The archive is larger than a llama-server can be.")
            file.write(chunk)
    return size


def _inside(name: str, said: str | None = None) -> str:
    """Return the normal form of a relative name. Raises ``InstallError`` if it leads outside."""
    normal = posixpath.normpath(name)
    parts = name.split("/")
    bad = "\x00" in name or "\\" in name or posixpath.isabs(name)
    if bad or normal == ".." or normal.startswith("../") or (said is None and ".." in parts):
        raise _outside(said or name)
    return normal


def _outside(name: str) -> InstallError:
    return InstallError(
        f"The archive holds {clean_line(name, limit=200)!r}, which leads outside of it."
    )
