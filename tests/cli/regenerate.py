"""``python -m tests.cli.regenerate`` writes the manual pages."""

from __future__ import annotations

from tests.cli.man_page import PAGES


def main() -> None:
    for path, text in PAGES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(), "utf-8")


if __name__ == "__main__":
    main()
