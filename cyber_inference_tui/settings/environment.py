"""The environment as the program reads it: what counts as set, and where the home is."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from cyber_inference_tui.errors import ConfigError

APP_NAME = "cyber-inference-tui"
ENV_PREFIX = "CYBER_INFERENCE_"

_USUAL_FOLDERS = {"CONFIG": ".config", "DATA": ".local/share"}
_PLATFORM_FOLDERS = {"CONFIG": platformdirs.user_config_path, "DATA": platformdirs.user_data_path}

# Variables of other programs whose values the program reads as they do.
_OTHERS = frozenset(
    {"HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"}
    | {"HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "OLLAMA_MODELS"}
    | {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"}
)


def variable(environ: Mapping[str, str], name: str) -> str:
    """The value of a variable; empty where it is not set, or set to nothing but blanks.

    Quotes around the whole value are removed: ``docker --env-file`` keeps those of the file.
    """
    return unquoted(environ.get(name, ""))


def unquoted(text: str) -> str:
    """``text`` without the pair of quotes around it; empty where only blanks are left.

    A carriage return at the end is no part of it either: a file with Windows line ends left it.
    """
    text = text.rstrip("\r")
    stripped = text.strip()
    inner = stripped[1:-1]
    # "a","b" is a list of two, and no pair goes around it; "["a"]" is one array.
    if (
        len(stripped) > 1
        and stripped[0] in "\"'"
        and stripped[0] == stripped[-1]
        and (stripped[0] not in inner or inner.lstrip().startswith("["))
    ):
        text = inner
    return text if text.strip() else ""


def quoted_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables the program reads whose values have quotes around them, by name."""
    return [
        name
        for name, value in sorted(environ.items())
        if (name.startswith(ENV_PREFIX) or name in _OTHERS)
        and value.strip()
        and unquoted(value) != value.rstrip("\r")
    ]


def home_of(environ: Mapping[str, str]) -> str:
    """The home directory, which ``~`` stands for; empty where there is none.

    A ``HOME`` that is relative leads nowhere; then the system's user database is asked.
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
    """The home directory, for a place that nothing else names.

    Raises ``ConfigError`` with ``hint`` where there is none.
    """
    home = home_of(environ)
    if not home:
        raise ConfigError("There is no home directory.", hint=hint)
    return Path(home)


def platform_folder(kind: str, environ: Mapping[str, str]) -> Path:
    """The user's folder for what is of this kind. Raises ``ConfigError`` without a home.

    https://specifications.freedesktop.org/basedir-spec/latest/: a relative path is ignored.
    """
    named = Path(variable(environ, f"XDG_{kind}_HOME"))
    if named.is_absolute():
        return named / APP_NAME
    home = needed_home(environ)
    try:
        # The platform's place, below the home that ``environ`` names.
        return home / _PLATFORM_FOLDERS[kind](APP_NAME).relative_to(Path.home())
    except (RuntimeError, ValueError):
        # This process has no home, or its own variables lead elsewhere.
        return home / _USUAL_FOLDERS[kind] / APP_NAME
