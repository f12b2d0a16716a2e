"""Parses the app's style sheets once for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet


@pytest.fixture(scope="session", autouse=True)
def style_sheets_parsed_once() -> Iterator[None]:
    """Cache parsed rules: Textual parses the same text for each app, a quarter of a test's time."""
    known: dict[object, list[RuleSet]] = {}
    parse_rules = Stylesheet._parse_rules

    def remembered(sheet: Stylesheet, css: str, *args: object, **options: object) -> list[RuleSet]:
        key = (css, args, tuple(options.items()), tuple(sheet._variables.items()))
        if key not in known:
            known[key] = parse_rules(sheet, css, *args, **options)  # type: ignore[arg-type]
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stylesheet, "_parse_rules", remembered)
        yield
