"""Keep admin passwords of services elsewhere, on request, in one file with mode 0600."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import read_file, replace_file

_FILE = "passwords.json"
_MAX_BYTES = 1024 * 1024


class Passwords:
    """The passwords kept in ``data_dir``, by the URL of the service."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE

    def take(self, url: str) -> tuple[str, ...]:
        """Return the password for ``url`` if one is kept."""
        password = self._read().get(url)
        return () if password is None else (password,)

    def keep(self, url: str, password: str) -> None:
        """Keep the password for ``url``; raises ``CyberError``."""
        known = {**self._read(), url: password}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, msgspec.json.encode(known), mode=0o600)
        except OSError as error:
            raise CyberError(
                f"The password cannot be kept in {self._path}: {error.strerror}."
            ) from error

    def _read(self) -> dict[str, str]:
        try:
            data = read_file(self._path, _MAX_BYTES)
            return msgspec.json.decode(data, type=thread_safe(dict[str, str]))
        except (OSError, msgspec.MsgspecError):
            return {}  # no file, or an invalid one
