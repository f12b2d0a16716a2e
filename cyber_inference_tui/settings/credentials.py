"""Make the API key and the password of a service that other machines can reach.

``make_credentials`` blocks: it reads and writes files.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.edit import set_value, write_default
from cyber_inference_tui.settings.environment import ENV_PREFIX, without_settings
from cyber_inference_tui.settings.load import LoadedSettings, SettingSource, load_if_there
from cyber_inference_tui.settings.password_hash import is_hash
from cyber_inference_tui.settings.schema import Settings
from cyber_inference_tui.sockets import is_loopback

CREDENTIALS = ("api_keys", "admin_password")
"""The settings that protect the model endpoints and the admin endpoints."""

_ALTERNATIVES = (
    "Set api_keys and admin_password yourself, bind to 127.0.0.1 (and use an SSH tunnel), or let "
    "everybody in with insecure_no_auth = true."
)
_PLACES = {
    "api_keys": "has the key.",
    "admin_password": "has a hash of the password; to set another: `cyber-inference-tui config "
    "set admin_password -`.",
}
# Without letters and digits that look alike: people also type it from paper.
_PASSWORD_SIGNS = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 - an alphabet
_PASSWORD_GROUPS = 5
"""Groups of four signs: 31 ** 20 is about 2 ** 99."""


def missing_credentials(settings: Settings, host: str) -> tuple[str, ...]:
    """Return those of ``CREDENTIALS`` that a service bound to ``host`` lacks."""
    if is_loopback(host) or settings.insecure_no_auth:
        return ()
    return tuple(name for name in CREDENTIALS if not getattr(settings, name))


def check_credentials_possible(loaded: LoadedSettings, host: str) -> None:
    """Raise ``ConfigError`` if an empty variable would override a credential in the file."""
    for name in missing_credentials(loaded.settings, host):
        if loaded.sources[name] is SettingSource.ENV:
            raise ConfigError(
                f"{ENV_PREFIX}{name.upper()} is empty, but other machines can reach {host}, so "
                f"{name} has to be set.",
                hint=f"Give the variable a value, or unset it. Else: {_ALTERNATIVES}",
            )


def check_credentials_kept(old: Settings, new: Settings, host: str) -> None:
    """Raise ``ConfigError`` if new settings lack a credential that a running service needs."""
    lost = [name for name in missing_credentials(new, host) if getattr(old, name)]
    if lost:
        raise ConfigError(
            f"{' and '.join(lost)} cannot be empty while other machines can reach {host}.",
            hint="Set insecure_no_auth = true as well to let everybody in, or change host and "
            "restart the service.",
        )


def make_credentials(
    loaded: LoadedSettings,
    host: str,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    announce: Callable[[str], None],
    reveal: bool = True,
) -> LoadedSettings:
    """Make the credentials that a service bound to ``host`` lacks, and write them to the file.

    ``announce`` is called once with a text that shows them; with ``reveal`` false, for an output
    that is kept, it only names the file. Returns the new settings. Raises ``ConfigError`` if the
    file cannot be written.
    """
    lacking = missing_credentials(loaded.settings, host)
    if not lacking:
        return loaded
    check_credentials_possible(loaded, host)
    path = loaded.config_path
    lines = []
    try:
        _make_private(path)
        for name in lacking:
            word, value = _new_credential(name)
            set_value(path, name, [value] if name == "api_keys" else value)
            lines.append(f"  {word:<16}{value}" if reveal else f"  {word}")
    except ConfigError as error:
        raise ConfigError(
            f"Other machines can reach {host}, so it needs {' and '.join(lacking)}, but: "
            f"{error.message}",
            hint=_ALTERNATIVES,
        ) from error
    finally:
        # Also if only the first was stored.
        if lines:
            announce(
                "\n".join(
                    (
                        f"Other machines can reach {host}. These were made, and are needed from "
                        "now on:",
                        *lines,
                        f"They are not shown {'again' if reveal else 'here'}.",
                        *(f"{path} {_PLACES[name]}" for name in lacking),
                    )
                )
            )
    return load_if_there(path, environ=environ, flags=flags)


def new_api_key() -> str:
    """Return a new API key, with 192 random bits."""
    return f"sk-{secrets.token_hex(24)}"


def digest_of(secret: str) -> bytes:
    """Return a digest to compare secrets in constant time."""
    # Header values contain bytes that are not UTF-8 as surrogates.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def hash_password(
    loaded: LoadedSettings, *, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> LoadedSettings:
    """Replace a password that is in the file as plain text by its hash, and return the settings.

    Raises ``ConfigError`` if the file cannot be written, and ``ConflictError`` if another program
    keeps changing it.
    """
    path = loaded.config_path
    in_file = load_if_there(path, environ=without_settings(environ), flags={})
    password = in_file.settings.admin_password
    if not password or is_hash(password):
        return loaded
    set_value(path, "admin_password", password)
    return load_if_there(path, environ=environ, flags=flags)


def _new_credential(name: str) -> tuple[str, str]:
    """Return the name of a credential, and a new value."""
    if name == "api_keys":
        return "API key", new_api_key()
    groups = (
        "".join(secrets.choice(_PASSWORD_SIGNS) for _ in range(4)) for _ in range(_PASSWORD_GROUPS)
    )
    return "admin password", "-".join(groups)


def _make_private(path: Path) -> None:
    """Make the file readable by its owner only. Raises ``ConfigError``."""
    try:
        if not write_default(path):
            path.chmod(path.stat().st_mode & 0o7700)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from error
