"""An address that other machines reach is guarded: the key and the password that are made for it.

Everything but ``is_loopback`` and ``missing_credentials`` blocks: it reads and writes files.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.edit import set_value, write_default
from cyber_inference_tui.settings.environment import ENV_PREFIX
from cyber_inference_tui.settings.load import LoadedSettings, SettingSource, load_if_there
from cyber_inference_tui.settings.schema import Settings

CREDENTIALS = ("api_keys", "admin_password")
"""The settings that guard the model endpoints and the admin endpoints."""

_WAYS_ROUND = (
    "Set api_keys and admin_password yourself, bind to 127.0.0.1 (and use an SSH tunnel), or let "
    "everybody in with insecure_no_auth = true."
)
# Without letters and digits that are taken for one another: it is typed from paper, too.
_PASSWORD_SIGNS = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105 - an alphabet
_PASSWORD_GROUPS = 5
"""Of four signs each: 31 ** 20 is about 2 ** 99."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback


def missing_credentials(settings: Settings, host: str) -> tuple[str, ...]:
    """Which of ``CREDENTIALS`` a service that is bound to ``host`` lacks."""
    if is_loopback(host) or settings.insecure_no_auth:
        return ()
    return tuple(name for name in CREDENTIALS if not getattr(settings, name))


def check_possible(loaded: LoadedSettings, host: str) -> None:
    """Raise ``ConfigError`` where what is missing cannot come from the file."""
    for name in missing_credentials(loaded.settings, host):
        if loaded.sources[name] is SettingSource.ENV:
            raise ConfigError(
                f"{ENV_PREFIX}{name.upper()} is empty, but other machines can reach {host}, so "
                f"{name} has to be set.",
                hint=f"Give the variable a value, or unset it. Else: {_WAYS_ROUND}",
            )


def check_kept(old: Settings, new: Settings, host: str) -> None:
    """Refuse settings that take a guard away from a service that runs. Raises ``ConfigError``."""
    lost = [name for name in missing_credentials(new, host) if getattr(old, name)]
    if lost:
        raise ConfigError(
            f"{' and '.join(lost)} cannot be empty while other machines can reach {host}.",
            hint="Set insecure_no_auth = true as well to let everybody in, or change host and "
            "start the service anew.",
        )


def make_credentials(
    loaded: LoadedSettings,
    host: str,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    tell: Callable[[str], None],
    reveal: bool = True,
) -> LoadedSettings:
    """Make what a service bound to ``host`` lacks, write it to the file, and tell it once.

    Returns the settings as they are then. With ``reveal`` false the text names the file alone (for
    a place where it would be kept). Raises ``ConfigError`` when the file cannot take it.
    """
    lacking = missing_credentials(loaded.settings, host)
    if not lacking:
        return loaded
    check_possible(loaded, host)
    path = loaded.config_path
    lines = []
    try:
        _make_private(path)
        for name in lacking:
            word, value = _made(name)
            set_value(path, name, [value] if name == "api_keys" else value)
            lines.append(f"  {word:<16}{value}" if reveal else f"  {word}")
    except ConfigError as error:
        raise ConfigError(
            f"Other machines can reach {host}, so it needs {' and '.join(lacking)}, but: "
            f"{error.message}",
            hint=_WAYS_ROUND,
        ) from error
    finally:
        # What has been stored is told, even if the second one failed.
        if lines:
            shown = "are not shown again" if reveal else "are not shown here"
            tell(
                "\n".join(
                    (
                        f"Other machines can reach {host}. These were made, and are needed from "
                        "now on:",
                        *lines,
                        f"They {shown}; they are in {path}.",
                    )
                )
            )
    return load_if_there(path, environ=environ, flags=flags)


def _made(name: str) -> tuple[str, str]:
    """What it is called, and a new one."""
    if name == "api_keys":
        return "API key", f"sk-{secrets.token_hex(24)}"
    groups = (
        "".join(secrets.choice(_PASSWORD_SIGNS) for _ in range(4)) for _ in range(_PASSWORD_GROUPS)
    )
    return "admin password", "-".join(groups)


def _make_private(path: Path) -> None:
    """Have a file that only its owner can read. Raises ``ConfigError``."""
    try:
        if not write_default(path):
            path.chmod(path.stat().st_mode & 0o7700)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from error
