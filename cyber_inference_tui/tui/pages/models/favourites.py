"""The models and presets that come first in the lists of this app, kept with its view."""

from __future__ import annotations

from cyber_inference_tui.tui.pages.page import Page

MOST = 100
"""Favourites that are kept; the oldest go."""

_PAGE, _NAME = "models", "favourites"


def favourites(page: Page) -> list[str]:
    """Return the ids of the favourites, the newest last."""
    none: list[str] = []
    return page.cyber.kept.get(_PAGE, _NAME, none)


def toggle_favourite(page: Page, model_id: str) -> None:
    """Make a model a favourite, or none if it is one."""
    others = [one for one in favourites(page) if one != model_id]
    if len(others) == len(favourites(page)):
        others = [*others[1 - MOST :], model_id]
    page.cyber.keep(_PAGE, favourites=others)
