"""The files made from the schema. ``python -m tests.settings.regenerate`` rewrites them."""

from __future__ import annotations

import re
from pathlib import Path

from cyber_inference_tui.settings.example import render, render_table
from cyber_inference_tui.settings.schema import KEYS, MODEL_KEYS, PEER_KEYS

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config.example.toml"
PAGE = ROOT / "docs" / "configuration.md"


def with_tables(page: str) -> str:
    """The page with the tables of settings as the schema has them now."""
    tables = iter([render_table(KEYS), render_table(MODEL_KEYS), render_table(PEER_KEYS)])
    return re.sub(r"(?:^\|.*\n)+", lambda _: next(tables), page, flags=re.MULTILINE)


def main() -> None:
    EXAMPLE.write_text(render(), "utf-8")
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
