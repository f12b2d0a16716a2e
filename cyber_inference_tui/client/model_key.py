"""The names of settings in a model's own table."""

from __future__ import annotations

import json


def model_key(model_id: str, key: str) -> str:
    """The name of one setting in a model's table, as TOML writes it: ``models."a/b.c".key``."""
    # JSON's strings are TOML's basic strings, but for DEL, which TOML wants escaped.
    quoted = json.dumps(model_id, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"models.{quoted}.{key}"
