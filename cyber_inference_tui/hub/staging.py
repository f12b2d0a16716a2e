"""Where a download's files lie until all are here: ``MODELS_DIR/.downloads/ID``, which is hidden.

On the same file system as the models, so that in the end they are only renamed. Everything here
blocks.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.hub.partial import bytes_of, sync_directory, write_error
from cyber_inference_tui.hub.plan import DownloadPlan, PlannedFile, local_path

STAGING = ".downloads"
_READ = 4 << 20


class Staging:
    """The directory of the download ``id``."""

    def __init__(self, models_dir: Path, download_id: str, plan: DownloadPlan) -> None:
        self._models_dir = models_dir
        self._plan = plan
        self.root = models_dir / STAGING / download_id

    def staged(self, file: PlannedFile) -> Path:
        """Where a file lies until all are here."""
        return self.root / local_path(self._plan, file)

    def place_of(self, file: PlannedFile) -> Path:
        """Where it belongs."""
        return self._models_dir / local_path(self._plan, file)

    def begin(self) -> None:
        """Make the directory. Raises ``CyberError``."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.root, error) from error

    def exists(self) -> bool:
        """Whether it is there; a card that was taken out has none."""
        return self.root.is_dir()

    def bytes_here(self) -> dict[str, int]:
        """How many bytes of each file are here."""
        return {file.path: bytes_of(self.staged(file)) for file in self._plan.files}

    def is_whole(self, file: PlannedFile) -> bool:
        """Whether it has arrived: it got its name when it was verified."""
        path = self.staged(file)
        return path.is_file() and file.size_bytes in {None, path.stat().st_size}

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
        path.parent.mkdir(parents=True, exist_ok=True)
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
