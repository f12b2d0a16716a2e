"""Keep what pairing made in ``peers.json`` in the data directory: keys and certificates of boxes.

The file is readable by its owner only. Everything here blocks.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import ConfigError, CyberError
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.records.peers import PeerName

PEERS_FILE = "peers.json"
_MAX_BYTES = 1 << 20


class PeerSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """The trust between this box and another."""

    key: str
    """The key with which this box calls it."""
    digest: str
    """The SHA-256, in hexadecimal digits, of the key with which it calls this one."""
    certificate: str = ""
    """Its certificate (PEM), the only one that is accepted; empty without TLS."""


class _File(msgspec.Struct):
    peers: dict[PeerName, PeerSecrets]
    version: int = 1


def read_secrets(data_dir: Path) -> dict[str, PeerSecrets]:
    """Return the secrets by the box's name; none if there is no file. Raises ``ConfigError``."""
    path = data_dir / PEERS_FILE
    try:
        return msgspec.json.decode(read_file(path, _MAX_BYTES), type=thread_safe(_File)).peers
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"The keys of other boxes in {path} cannot be read: {reason}.",
            hint="Take the file from a backup, or remove it and pair the boxes again.",
        ) from error


def write_secrets(data_dir: Path, secrets: dict[str, PeerSecrets]) -> None:
    """Write the secrets, whole or not at all. Raises ``CyberError``."""
    path = data_dir / PEERS_FILE
    content = msgspec.json.format(msgspec.json.encode(_File(secrets)), indent=2)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, content, mode=0o600, flush=True)
    except OSError as error:
        raise CyberError(write_problem(path, error)) from error
