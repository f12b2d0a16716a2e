"""Read variables of the environment, the home directory and the platform's directories."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

from cyber_inference_tui.errors import ConfigError

APP_NAME = "cyber-inference-tui"
ENV_PREFIX = "CYBER_INFERENCE_"

_USUAL_FOLDERS = {"CONFIG": ".config", "DATA": ".local/share"}

# Variables of other programs that this program reads, too.
_OTHERS = frozenset(
    {"HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"}
    | {"HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "OLLAMA_MODELS"}
    | {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
)


def variable(environ: Mapping[str, str], name: str) -> str:
    """Return the value of a variable; empty if it is not set, or blank.

    Quotes around the whole value are removed: ``docker --env-file`` keeps those of the file.
    """
    return unquoted(environ.get(name, ""))


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables of settings, to read the file alone."""
    return {name: text for name, text in environ.items() if not name.startswith(ENV_PREFIX)}


def unquoted(text: str) -> str:
    """Return ``text`` without the pair of quotes around it; empty if only blanks are left.

    A carriage return at the end, from a file with Windows line ends, is removed, too.
    """
    text = text.rstrip("\r")
    stripped = text.strip()
    inner = stripped[1:-1]
    # "a","b" is a list of two without a pair around it; "["a"]" is an array in quotes.
    if (
        len(stripped) > 1
        and stripped[0] in "\"'"
        and stripped[0] == stripped[-1]
        and (stripped[0] not in inner or inner.lstrip().startswith("["))
    ):
        text = inner
    return text if text.strip() else ""


def quoted_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names of variables whose values have quotes around them."""
    return [
        name
        for name, value in sorted(environ.items())
        if (name.startswith(ENV_PREFIX) or name in _OTHERS)
        and value.strip()
        and unquoted(value) != value.rstrip("\r")
    ]


def home_of(environ: Mapping[str, str]) -> str:
    """Return the home directory for ``~``; empty if there is none.

    If ``HOME`` is not absolute, the system's user database is asked.
    """
    home = environ.get("HOME", "")
    if not Path(home).is_absolute():
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            return ""
    return home if Path(home).is_absolute() else ""


def needed_home(
    environ: Mapping[str, str], *, hint: str = "Give --config and --data-dir, or set HOME."
) -> Path:
    """Return the home directory. Raises ``ConfigError`` with ``hint`` if there is none."""
    home = home_of(environ)
    if not home:
        raise ConfigError("There is no home directory.", hint=hint)
    return Path(home)


def platform_folder(kind: str, environ: Mapping[str, str]) -> Path:
    """Return the user's folder of this kind. Raises ``ConfigError`` without a home.

    https://specifications.freedesktop.org/basedir-spec/latest/: a relative path is ignored.
    """
    named = Path(variable(environ, f"XDG_{kind}_HOME"))
    if named.is_absolute():
        return named / APP_NAME
    home = needed_home(environ)
    usual = home / _USUAL_FOLDERS[kind] / APP_NAME
    if sys.platform == "darwin":
        import platformdirs  # noqa: PLC0415 - Linux does not need it

        folders = {"CONFIG": platformdirs.user_config_path, "DATA": platformdirs.user_data_path}
        # This process may have no home, or its own variables may name other folders.
        with contextlib.suppress(RuntimeError, ValueError):
            # The platform's folder, below the home of ``environ``.
            return home / folders[kind](APP_NAME).relative_to(Path.home())
    return usual
