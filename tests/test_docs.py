"""The documentation tells the truth where a machine can check it: links, commands, settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyber_inference_tui import __version__
from cyber_inference_tui.cli.main import COMMANDS, run
from cyber_inference_tui.settings.load import load
from cyber_inference_tui.tui.suggested_models import SUGGESTIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_CODE = ("cyber_inference_tui", "tests")

_FENCE = re.compile(r"^(`{3,}|~{3,})\s*([\w-]*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`+[^`]*`+")
_LINK = re.compile(r"\[[^\]\[]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_COMMAND = re.compile(
    r"cyber-inference-tui((?: +--?[a-z][\w-]*(?:[ =](?:[A-Z][A-Z_]*\b|[/~.\d][^\s`]*))?)*)"
    r" +([a-z][a-z-]*)(?![\w:-])"  # an option's value, such as a URL, is no command
)


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, content and line number of every fenced block."""
    for match in _FENCE.finditer(text):
        yield match[2], match[3], text.count("\n", 0, match.start()) + 1


def _empty(match: re.Match[str]) -> str:
    """As many lines as were matched, with nothing in them."""
    return "\n" * match[0].count("\n")


def prose(text: str) -> str:
    """The text without its code."""
    return _INLINE_CODE.sub("", _FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be reached by, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text("utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def toml_blocks() -> list[tuple[str, str]]:
    """Every TOML example with its place."""
    return [
        (f"{page.relative_to(ROOT)}:{line}", content)
        for page in PAGES
        for language, content, line in blocks(page.read_text("utf-8"))
        if language == "toml"
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(prose(page.read_text("utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, fragment = target.partition("#")
        goal = (page.parent / name) if name else page
        if not goal.exists() or not goal.resolve().is_relative_to(ROOT.resolve()):
            wrong.append(f"{target}: there is no such file")
        elif fragment and goal.suffix == ".md" and fragment not in anchors(goal):
            wrong.append(f"{target}: there is no such heading")
    assert not wrong


def test_readme_begins_with_the_two_commands() -> None:
    language, content, _ = next(blocks(README.read_text("utf-8")))
    rows = [row.split("#")[0].strip() for row in content.splitlines()]
    clone, *commands = [row for row in rows if row]
    assert language == "sh"
    assert clone.startswith("git clone ")
    assert commands == ["./install.sh --run --demo", "scripts/test"]
    for command in commands:
        program = ROOT / command.split()[0]
        assert program.is_file(), program
        assert program.stat().st_mode & 0o111, f"{program} cannot be run"


def test_readme_is_short_and_names_the_version() -> None:
    text = README.read_text("utf-8")
    assert len(text.split()) <= 1200
    assert f"Version {__version__}," in text


def test_prose_is_wrapped() -> None:
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in PAGES
        for number, line in enumerate(_FENCE.sub(_empty, page.read_text("utf-8")).split("\n"), 1)
        if len(line) > 100 and not re.match(r"\||#|<|!|\s*\S+$", line)
    ]
    assert not long


def test_there_are_examples_of_settings() -> None:
    assert any(place.startswith("README.md:") for place, _ in toml_blocks())


@pytest.mark.parametrize(("place", "content"), toml_blocks(), ids=lambda value: value[:40])
def test_toml_examples_are_valid_settings(tmp_path: Path, place: str, content: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(content, "utf-8")
    loaded = load(config=config, environ={"HOME": str(tmp_path)}, flags={})
    assert loaded.warnings == ()


def test_models_for_a_memory_size_fit() -> None:
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    known = {suggestion.repo: suggestion for suggestion in SUGGESTIONS}
    rows = re.findall(r"^\| (\d+) GB \|(.*)$", text, re.MULTILINE)
    assert [int(size) for size, _ in rows] == [8, 16, 24, 64]
    for size, row in rows:
        repos = re.findall(r"`([^`/]+/[^`]+)`", row)
        assert len(repos) >= 2
        for repo in repos:
            assert known[repo].need_bytes <= int(size) * 1e9 * 0.8, f"{repo} in {size} GB"


def test_commands_named_in_the_readme_exist() -> None:
    text = README.read_text("utf-8")
    code = [content for language, content, _ in blocks(text) if language in {"", "sh", "console"}]
    code += _INLINE_CODE.findall(_FENCE.sub("", text))
    named = {name for part in code for _, name in _COMMAND.findall(part)}
    assert named, "the README names no command"
    assert named <= set(COMMANDS)


def test_every_command_has_a_section() -> None:
    headings = anchors(ROOT / "docs" / "cli.md")
    assert headings.issuperset(COMMANDS)


def command_lines() -> list[tuple[str, str]]:
    """Every line of an example that runs the program, with its place; without what follows it."""
    return [
        (f"{page.relative_to(ROOT)}:{line}", match[1])
        for page in PAGES
        for language, content, line in blocks(page.read_text("utf-8"))
        if language in {"sh", "console"}
        for match in re.finditer(
            r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:cyber-inference-tui|citui)( [^|;&#\n]*)?",
            content,
            re.MULTILINE,
        )
    ]


def test_command_lines_of_examples_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = command_lines()
    assert len(lines) > 20
    for place, line in lines:
        # --help is answered once the command and all its options are known to exist.
        code = run([*shlex.split(line or ""), "--help"], {})
        assert code == 0, f"{place}: {line}: {capsys.readouterr().err}"


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 50
    files = [path.as_posix() for part in _CODE for path in (ROOT / part).rglob("*.py")]
    assert {name for name in named if not any(one.endswith(f"/{name}") for one in files)} == set()


def test_each_promise_of_security_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if row[0] != "| promise"]
    assert len(promises) > 20
    for promise, tests in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert named, promise
        assert all((ROOT / name).is_file() for name in named), promise


def test_no_page_has_an_unclosed_block() -> None:
    for page in PAGES:
        fences = re.findall(r"^(?:`{3,}|~{3,})", page.read_text("utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, page
