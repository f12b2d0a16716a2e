"""The manual pages: up to date, well-formed, and complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from cyber_inference_tui.cli.main import COMMANDS, cli
from tests.cli.man_page import PAGES, ROOT

PAGE, _ = PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_it_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == PAGES[path](), "python -m tests.cli.regenerate"


def test_man_shows_it_under_both_names_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man and groff are not installed")
    shutil.copytree(PAGE.parent, tmp_path / "man1")
    for page in PAGES:
        done = subprocess.run(
            ["man", "--warnings=w", "-M", str(tmp_path), page.stem],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert done.stderr == ""
        first_words = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
        assert set(COMMANDS) <= first_words


def test_it_has_every_command_and_option() -> None:
    text = PAGE.read_text("utf-8").replace("\\-", "-")
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in COMMANDS]
    options = {
        option
        for command in [cli, *commands]
        for param in (command.params if command else ())
        if isinstance(param, click.Option) and not param.hidden
        for option in param.opts
    }
    assert "--rollback" in options
    assert [option for option in sorted(options) if option not in text] == []
    assert "| head)" in text
    assert "\\|" not in text, "a table's escape"
    for heading in ("EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f".SH {heading}" in text
    assert text.count("\n.TP\n\\fB3\\fR\nNo service answers.\n") == 1


def test_a_wheel_brings_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    for page in PAGES:
        assert shared[str(page.relative_to(ROOT))] == f"share/man/man1/{page.name}"
