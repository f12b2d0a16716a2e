"""Every dialog shows its texts whole, at every size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.dialogs.api_keys import ApiKeysDialog
from cyber_inference_tui.tui.dialogs.bench import BenchDialog
from cyber_inference_tui.tui.dialogs.choice import choose_theme
from cyber_inference_tui.tui.dialogs.connect import ConnectDialog
from cyber_inference_tui.tui.dialogs.keys import Keys
from cyber_inference_tui.tui.dialogs.new_key import NewKeyForm
from cyber_inference_tui.tui.dialogs.password import Password
from cyber_inference_tui.tui.dialogs.prompt import Prompt
from cyber_inference_tui.tui.dialogs.question import Answer, Question
from cyber_inference_tui.tui.dialogs.sort_menu import SortMenu, letters
from cyber_inference_tui.tui.pages.chat.sampling import Sampling
from cyber_inference_tui.tui.pages.chat.sampling_form import SamplingForm
from cyber_inference_tui.tui.pages.models.form import ModelForm, SettingLine
from tests.tui.driving import running, screen_text, until
from tests.tui.world import busy_world

NAME = "Some-Organization_A-Very-Long-Model-Name-Instruct-2507-UD-Q4_K_XL"
DOWNLOAD = (
    Answer("on", "c", "Continue"),
    Answer("keep", "k", "Cancel, keep the part"),
    Answer("remove", "r", "Cancel and remove", destructive=True),
)
SHORT = (Answer("wait", "w", "Wait"), Answer("no", "c", "Cancel"))


def themes(app: CyberApp) -> ModalScreen[Any]:
    """The longest list to choose from, with the last row chosen."""
    names = sorted(app.available_themes)
    return choose_theme(names, names[-1], app.options.render_context(), lambda _: None)


async def login(_: str) -> None:
    """Accept it."""


DIALOGS: dict[str, Callable[[CyberApp], ModalScreen[Any]]] = {
    "unload": lambda _: Question(f"Unload {NAME}?", "2 requests are running.", SHORT),
    "wide name": lambda _: Question(f"Unload {'模型' * 30}?", "模型" * 60, SHORT),
    "download": lambda _: Question(f"Cancel the download of {NAME}?", "Half.", DOWNLOAD),
    "no text": lambda _: Question(f"Reset {NAME} to its default?", "", SHORT),
    "files": lambda _: Question("Delete it?", "\n".join([f"/models/{NAME}.gguf"] * 20), SHORT),
    "prompt": lambda _: Prompt(f"Save the log of {NAME}", f"It is in {NAME} {NAME}.", login),
    "password": lambda _: Password(f"http://{NAME.lower()}.example:8337", login, can_keep=True),
    "sampling": lambda _: SamplingForm(Sampling()),
    "keys": lambda app: Keys(app.screen),
    "API keys": lambda _: ApiKeysDialog(),
    "bench": lambda _: BenchDialog((NAME,)),
    "sort": lambda _: SortMenu({f"{n}": f"column {n}" for n in range(16)}, "3", descending=True),
    "new key": lambda _: NewKeyForm(),
    "theme": themes,
    "connect": lambda app: ConnectDialog(app.snapshot.models[0]),
}


def shown_text(app: CyberApp, widget: Static | Button) -> str:
    """The characters of a widget that are on the screen, without spaces."""
    place = app.screen.find_widget(widget)
    seen = place.region.intersection(place.clip)
    strips = app.screen._compositor.render_strips(app.size)
    rows = [strips[y].crop(seen.x, seen.right).text for y in seen.line_range]
    return "".join("".join(rows).split())


def cut_texts(app: CyberApp) -> Iterator[str]:
    """The texts of the dialog that are not whole, and not marked as cut."""
    for widget in app.screen.query("Static, Button"):
        assert isinstance(widget, Static | Button)
        if not widget.is_on_screen or not widget.display:
            continue
        if any(isinstance(node, VerticalScroll) for node in widget.ancestors):
            continue  # its rest can be reached
        text = f"{widget.label if isinstance(widget, Button) else widget.visual}"
        shown = shown_text(app, widget)
        if "".join(text.split()) not in shown and "…" not in shown:
            yield f"{text!r} is shown as {shown!r}"


@pytest.mark.parametrize("size", [(60, 18), (60, 20), (80, 24), (200, 60)])
async def test_no_text_of_a_dialog_is_cut(size: tuple[int, int]) -> None:
    async with running(busy_world(), size=size) as (app, _, pilot):
        for name, dialog in DIALOGS.items():
            await app.push_screen(dialog(app))
            await pilot.pause()
            await pilot.pause()
            assert list(cut_texts(app)) == [], name
            for button in app.screen.query(Button):
                whole = button.outer_size.area
                assert app.screen.find_widget(button).visible_region.area == whole, name
            await app.pop_screen()


@pytest.mark.parametrize("size", [(60, 18), (60, 20), (80, 24), (200, 60)])
async def test_no_help_of_the_form_is_cut(size: tuple[int, int]) -> None:
    async with running(busy_world(), size=size, first_page="models") as (app, _, pilot):
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, ModelForm))
        form = app.screen
        assert isinstance(form, ModelForm)
        for line in form.query(SettingLine):
            line.input.focus()
            await pilot.pause()
            await pilot.pause()
            assert list(cut_texts(app)) == []
            assert app.screen.find_widget(line.input).visible_region.height == 1
        assert "removesitskey" in shown_text(app, form.query_one("#keys", Static))


async def test_a_long_question_scrolls_below_its_title() -> None:
    async with running(busy_world(), size=(60, 20)) as (app, _, pilot):
        app.push_screen(DIALOGS["files"](app))
        await pilot.pause()
        body = app.screen.query_one("#body")
        await pilot.press("pagedown")
        await pilot.pause()
        assert body.scroll_offset.y == body.size.height
        assert app.focused is app.screen.query(Button).first()


async def test_the_last_row_of_a_list_can_be_seen() -> None:
    async with running(busy_world(), size=(60, 20)) as (app, _, pilot):
        app.push_screen(themes(app))
        await until(pilot, lambda: sorted(app.available_themes)[-1] in screen_text(app))
        assert "esc cancels" in screen_text(app)


async def test_the_empty_list_of_keys_is_explained_in_full() -> None:
    async with running(busy_world(), size=(60, 20)) as (app, _, pilot):
        app.push_screen(ApiKeysDialog())
        await until(pilot, lambda: "needs one." in screen_text(app))


def test_each_column_of_the_sort_menu_has_its_own_key() -> None:
    assert letters(["TIME", "MODEL", "KIND", "1ST TOKEN", "TOKENS/S", "TOOK"]) == [
        "t", "m", "i", "1", "o", "a",
    ]  # fmt: skip
    many = letters(["AAA"] * 40)
    assert len(set(filter(None, many))) == sum(map(bool, many)) == 23
    assert not set(many) & set("jkg")
