"""The beginning of a curl command, for all that copy one."""

from __future__ import annotations

import shlex

KEY_VARIABLE = "OPENAI_API_KEY"
"""The variable of the shell in which clients look for the key."""


def curl_lines(url: str, key: str = "", *, variable: bool = False) -> list[str]:
    """Return the lines of a curl command that posts JSON to ``url``, all but the body.

    With ``variable`` the shell takes the key from ``KEY_VARIABLE``. The lines are to be joined with
    a backslash.
    """
    header = shlex.quote(f"Authorization: Bearer {key}") if key else ""
    if variable:
        header = f'"Authorization: Bearer ${KEY_VARIABLE}"'
    return [
        f"curl {shlex.quote(url)}",
        *([f"  -H {header}"] if header else []),
        "  -H 'Content-Type: application/json'",
    ]
