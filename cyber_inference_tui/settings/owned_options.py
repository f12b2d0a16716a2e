"""The options of llama-server that only the service sets, each with the reason. Pure.

The names are those of llama-server's ``--help``. Its parser (``common/arg.cpp`` of llama.cpp) takes
``_`` for ``-`` in a long option, and reads an option's variable ``LLAMA_ARG_NAME`` as the option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PORT = (
    "the service gives each model's server its own port; port sets the service's, and "
    "llama_server_base_port the first of the servers'"
)
_HOST = "a model's server listens on 127.0.0.1, for the service alone; host sets the service's"
_KEY = "only the service talks to a model's server; api_keys sets the keys of the service's clients"
_PREFIX = "the service would not find its server's paths; a reverse proxy can add a prefix"
_TLS = "the service speaks plain HTTP with its servers on this machine; tls_cert is for its clients"
_ROUTER = "the service starts one server for each model; see models_dir and max_loaded_models"
_ENDS = "llama-server would print something and end; run llama-server by hand for that"

_OPTIONS: Mapping[str, str] = {
    "--port": _PORT,
    "--reuse-port": _PORT,
    "--host": _HOST,
    "--api-key": _KEY,
    "--api-key-file": _KEY,
    "--api-prefix": _PREFIX,
    **dict.fromkeys(("-h", "--help", "--usage", "--version"), _ENDS),
    **dict.fromkeys(("-cl", "--cache-list", "--list-devices", "--completion-bash"), _ENDS),
}
_FAMILIES: Mapping[str, str] = {
    "--ssl-": _TLS,
    "--models-": _ROUTER,
    "--no-models-": _ROUTER,
}
"""By the beginning of the name: builds differ in the options of a family."""

# ``--port=1`` and ``--port 1`` in one word: llama-server refuses both, with less explanation.
_WORD = re.compile(r"(--?[A-Za-z][\w-]*)(?:[=\s].*)?", re.DOTALL)
_VARIABLE_PREFIX = "LLAMA_ARG_"
_KEY_VARIABLE = "LLAMA_API_KEY"


def owned_option_problem(word: str) -> str | None:
    """Return why a word of llama-server's command line is refused, ``None`` if it is not."""
    match = _WORD.fullmatch(word)
    if match is None:
        return None
    option = match[1]
    why = _reason(option.replace("_", "-") if option.startswith("--") else option)
    return why and f"{option} is refused: {why}"


def owned_variable_problem(name: str) -> str | None:
    """Return why a variable for llama-server is refused, ``None`` if it is not."""
    if not is_option_variable(name):
        return None
    option = name.removeprefix(_VARIABLE_PREFIX).lower().replace("_", "-")
    why = _KEY if name == _KEY_VARIABLE else _reason(f"--{option}")
    return why and f"{name} is refused: {why}"


def is_option_variable(name: str) -> bool:
    """Return whether llama-server reads an option from a variable of this name."""
    return name.startswith(_VARIABLE_PREFIX) or name == _KEY_VARIABLE


def _reason(option: str) -> str | None:
    known = _OPTIONS.get(option)
    if known is not None:
        return known
    return next((why for start, why in _FAMILIES.items() if option.startswith(start)), None)
