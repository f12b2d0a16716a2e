"""Render the commented configuration file and the table of settings, and values as TOML."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS, PEER_KEYS, Key

_HEAD = """\
# Settings of cyber-inference-tui. Every line that matters is commented out and shows the default.
# A setting is also an environment variable (CYBER_INFERENCE_PORT) and, for some, a flag (--port);
# environment beats file, flag beats both. A running service takes changes by itself.
# `cyber-inference-tui config check` names the line of every mistake.
"""
_MODELS = """\

# ── One model ────────────────────────────────────────────────────────────────
# The id is the file's name without ".gguf" (see `cyber-inference-tui list-models`).
#[models."my-model-Q4_K_M"]
"""
_PRESET = """
# Another set of settings for the same model, which requests name as "my-model-Q4_K_M:long": any of
# these keys but path, aliases and mmproj.
#[models."my-model-Q4_K_M".presets.long]
#context_size = 65536
"""
_PEERS = """
# ── Another box ──────────────────────────────────────────────────────────────
# `cyber-inference-tui peers add` writes this table, and keeps the keys elsewhere.
#[peers."workstation"]
"""


def render() -> str:
    """Render the commented configuration file: every key with its help and default."""
    lines = [_HEAD]
    group = ""
    for key in KEYS.values():
        if key.group != group:
            group = key.group
            title = f"# ── {group} "
            lines.append(f"\n{title}{'─' * (79 - len(title))}")
        lines += _comment(key)
        lines.append(f"#{key.name} = {toml_value(_shown_default(key))}\n")
    for head, keys in ((_MODELS, MODEL_KEYS), (_PRESET, {}), (_PEERS, PEER_KEYS)):
        lines.append(head.rstrip("\n"))
        for key in keys.values():
            lines += _comment(key)
            lines.append(f"#{key.name} = {toml_value(key.example)}")
    return "\n".join(lines) + "\n"


def render_table(keys: dict[str, Key]) -> str:
    """Render a Markdown table of settings."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in keys.values():
        default = _shown_default(key)
        shown = "" if default is None else f"`{toml_value(default)}`"
        # The file needs a path; the table may say what it depends on.
        shown = "`<data_dir>/models`" if key.name == "models_dir" else shown
        marks = " Secret." if key.secret else ""
        marks += " Guarded." if key.guarded else ""
        if keys is KEYS and not key.live:
            marks += " Takes a restart of the service."
        rows.append(f"| `{key.name}` | {shown} | {_markdown(key.help)}{marks} |")
    return "\n".join(rows) + "\n"


def _markdown(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")


def _shown_default(key: Key) -> Any:
    # Those of this machine would make the output differ from machine to machine.
    shown = {
        "data_dir": "~/.local/share/cyber-inference-tui",
        "models_dir": "~/.local/share/cyber-inference-tui/models",
    }
    return shown.get(key.name, key.default)


def _comment(key: Key) -> list[str]:
    return textwrap.wrap(key.help, 96, initial_indent="# ", subsequent_indent="# ")


def toml_value(value: Any) -> str:
    """Return a value of a setting or of JSON in TOML's notation, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{toml_key(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    # JSON's escapes are also TOML's, but TOML escapes DEL, too.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """Return a key in TOML's notation: bare if possible, else in quotes."""
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else toml_value(name)
