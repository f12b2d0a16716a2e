"""The examples of docs/cli.md are what the program prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.examples import PAGE, structure, world

pytestmark = pytest.mark.real


def test_the_examples_are_current(tmp_path: Path, llama_server: Path) -> None:
    page = PAGE.read_text("utf-8")
    assert page.count("<!-- example") >= 10
    with world(tmp_path, llama_server) as examples:
        made = examples.made(page)
    assert structure(made) == structure(page), "python -m tests.cli.examples LLAMA_SERVER"
