"""The documentation has the tables of all keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cyber_inference_tui.tui.app import CyberApp
from cyber_inference_tui.tui.key_table import every_binding
from cyber_inference_tui.tui.keymap import example_text, read_keymap
from tests.tui.regenerate import PAGE, full_table, short_table, with_keys


def test_the_tables_are_those_of_the_bindings() -> None:
    page = PAGE.read_text("utf-8")
    assert short_table() in page
    assert full_table() in page
    assert with_keys(page) == page


def test_every_id_names_one_action() -> None:
    actions = {(one.id, one.action, title) for title, one in every_binding(CyberApp) if one.id}
    names = Counter(name for name, _, _ in actions)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_example_is_a_key_map(tmp_path: Path) -> None:
    bindings = every_binding(CyberApp)
    path = tmp_path / "keys.toml"
    path.write_text(example_text(bindings).replace('# "', '"'), "utf-8")
    keymap = read_keymap(path, (one.id for _, one in bindings if one.id))
    assert not keymap.problems
    assert keymap.keys["app.help"]
