"""TOML is changed without touching the rest."""

from __future__ import annotations

from cyber_inference_tui.connect.toml_text import read, with_changes

CODEX = """\
# Codex
approval_policy = "never"   # careful
model = "gpt-5"

[mcp_servers.files]
command = "files"

[model_providers.other]
name = "Other"
"""
CHANGES = {
    "model": "demo",
    "model_provider": "ours",
    "model_providers": {"ours": {"name": "Ours", "timeout": 5}},
}


def test_comments_and_order_stay() -> None:
    text = with_changes(CODEX, CHANGES)
    assert text == (
        """\
# Codex
approval_policy = "never"   # careful
model = "demo"
model_provider = "ours"

[mcp_servers.files]
command = "files"

[model_providers.other]
name = "Other"

[model_providers.ours]
name = "Ours"
timeout = 5
"""
    )
    assert with_changes(text, CHANGES) == text


def test_an_empty_file_becomes_one() -> None:
    text = with_changes("", CHANGES)
    assert text.startswith('model = "demo"\n')
    assert read(text) == CHANGES


def test_tables_of_any_notation_are_changed() -> None:
    for text in (
        'model_providers = { ours = { name = "old" } }\n',
        'model_providers.ours.name = "old"\n',
        '[model_providers.ours]\nname = "old"\r\nextra = 1\r\n',
    ):
        data = read(with_changes(text, CHANGES))
        assert data["model"] == "demo"
        assert data["model_providers"]["ours"].items() >= CHANGES["model_providers"]["ours"].items()  # type: ignore[index]
