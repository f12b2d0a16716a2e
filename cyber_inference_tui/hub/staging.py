"""Where a download's files lie until all are here: ``MODELS_DIR/.downloads/NAME``, which is hidden.

The name follows from the model alone: whoever downloads it, a service or a command, now or after
its journal was lost, goes on with what is here, and one process at a time does (``flock``). On the
same file system as the models, so that in the end they are only renamed. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.hub.partial import (
    NOTE,
    PART,
    Origin,
    bytes_of,
    is_whole,
    sync_directory,
    write_error,
)
from cyber_inference_tui.hub.plan import DownloadPlan, PlannedFile, local_path

STAGING = ".downloads"
_READ = 4 << 20


class Staging:
    """The directory of the model that ``plan`` is about."""

    def __init__(self, models_dir: Path, plan: DownloadPlan) -> None:
        self._models_dir = models_dir
        self._plan = plan
        model = f"{plan.repo.lower()}\n{plan.filename}".encode()
        self.root = models_dir / STAGING / hashlib.sha256(model).hexdigest()[:16]

    def staged(self, file: PlannedFile) -> Path:
        """Where a file lies until all are here."""
        return self.root / local_path(self._plan, file)

    def place_of(self, file: PlannedFile) -> Path:
        """Where it belongs."""
        return self._models_dir / local_path(self._plan, file)

    def exists(self) -> bool:
        """Whether something of it is there; a card that was taken out has nothing.

        Where another process was done with it, the model itself is.
        """
        return self.root.is_dir() or any(self.place_of(file).exists() for file in self._plan.files)

    def tidy(self) -> None:
        """Remove what an earlier version of the model has left and this one has no use for."""
        wanted = {self.staged(file) for file in self._plan.files}
        wanted |= {path.with_name(path.name + end) for path in wanted for end in (PART, NOTE)}
        for folder, _, names in os.walk(self.root):
            for path in {Path(folder, name) for name in names} - wanted:
                with contextlib.suppress(OSError):
                    path.unlink()

    def bytes_here(self) -> dict[str, int]:
        """How many bytes of each file are here."""
        return {file.path: bytes_of(self.staged(file)) for file in self._plan.files}

    def origin(self, file: PlannedFile) -> Origin:
        """Which file of the hub it is."""
        return Origin(
            repo=self._plan.repo,
            revision=self._plan.revision,
            path=file.path,
            size=file.size_bytes,
            sha256=file.sha256,
            git_sha1=file.git_sha1,
        )

    def is_whole(self, file: PlannedFile) -> bool:
        """Whether it has arrived: it got its name when it was verified."""
        return is_whole(self.staged(file), self.origin(file))

    def may_be_in_place(self, file: PlannedFile) -> bool:
        """Whether a file lies where it belongs that could be the very one."""
        if file.sha256 is None and file.git_sha1 is None:
            return False
        with contextlib.suppress(OSError):
            path = self.place_of(file)
            return path.is_file() and path.stat().st_size == file.size_bytes
        return False

    def comparison(self, file: PlannedFile) -> Iterator[bool]:
        """Whether it is; ``False`` after every few MiB until that is known to be so."""
        digest, wanted = hashlib.sha256(), file.sha256
        if wanted is None:
            digest = hashlib.sha1(b"blob %d\0" % (file.size_bytes or 0), usedforsecurity=False)
            wanted = file.git_sha1
        with contextlib.suppress(OSError), self.place_of(file).open("rb") as stream:
            while data := stream.read(_READ):
                digest.update(data)
                yield False
            yield digest.hexdigest() == wanted

    def place(self) -> tuple[Path, ...]:
        """Move everything to where it belongs; after a crash, the rest of it.

        Returns the paths, in the plan's order. The model's first file comes last: until then it
        is seen to be incomplete. Raises ``CyberError``.
        """
        files = sorted(self._plan.files, key=lambda file: file.path == self._plan.filename)
        for file in files:
            path = self.place_of(file)
            try:
                self._move(self.staged(file), path)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise CyberError(
                        f"{path.parent} lies on another disk than {self._models_dir}.",
                        hint="Set models_dir to that disk, or remove the link.",
                    ) from error
                raise write_error(path, error) from error
        self.remove()
        return tuple(self.place_of(file) for file in self._plan.files)

    def _move(self, staged: Path, path: Path) -> None:
        if not staged.exists():
            if path.is_file():
                return
            raise CyberError(
                f"{path.name} was removed before it could be put in place.", hint="Try again."
            )
        make_directories(path.parent)
        if not path.parent.resolve().is_relative_to(self._models_dir.resolve()):
            raise CyberError(f"{path.parent} leads out of {self._models_dir}.")
        staged.replace(path)
        directory = path.parent
        while directory != self._models_dir:
            sync_directory(directory)
            directory = directory.parent
        sync_directory(self._models_dir)

    def remove(self) -> None:
        """Remove the directory with all that is in it; what cannot be removed stays."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            # Unless other downloads are in it.
            self.root.parent.rmdir()


class Claim:
    """That one process at a time has a directory. ``take`` it, and ``release`` it in the end."""

    def __init__(self) -> None:
        self._file = -1

    def take(self, root: Path) -> bool:
        """Make the directory and have it alone, where the file system can; ``False`` while another
        process has it. Raises ``CyberError``."""
        self.release()
        try:
            make_directories(root)
            # Noted here: whoever waits for it may be cancelled meanwhile.
            self._file = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if _locked(self._file) and os.path.samestat(os.fstat(self._file), root.stat()):
                return True
        except FileNotFoundError:
            # The other process was just done with it.
            pass
        except OSError as error:
            self.release()
            raise write_error(root, error) from error
        self.release()
        return False

    def release(self) -> None:
        """Let go of it."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def make_directories(directory: Path) -> None:
    """Make a directory and those above it, such that a power cut does not undo it. ``OSError``."""
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks, or one such as NFS that has them only for files that are
        # open for writing: each file has a lock of its own.
        return True
    return True
