"""The readable text of a model card, whatever its writer put into it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cyber_inference_tui.errors import HubNotFoundError, HubUnreachableError
from cyber_inference_tui.hub.browse import Browse
from cyber_inference_tui.hub.card import MOST, card_text
from tests.waiting import LIMIT

from .browsing import browsing
from .stand_in_hub import Fault, StandInHub

CARD = """\
---
license: apache-2.0
tags: [gguf]
---
<!-- header -->
<div align="center">
  <a href="https://evil.example"><img src="https://evil.example/logo.png" width="200"/></a>
  <p><em>See <a href="https://example.com/docs">our docs</a> &amp; say <b>hi</b>.</em></p>
</div>
<style>p { color: red }</style>

# Tiny **1B** Instruct

[![badge](https://img.example/b.svg)](https://example.com) Tiny is a [small](https://x.example/a_(b))
model of *many* `words`
and __2__ lines, with snake_case_names and 2 * 3 * 4.

Settings
--------

- temperature: 0.6
  * top_p: \\*0.95\\*
1. first

```python
print("**as it is**", 1 < 2)
```

| Quant | Size |
|-------|-----:|
| Q4_K_M | [2.5 GB](q4.gguf) |

> [!NOTE]
> Read [the paper][1].

[1]: https://example.com/paper
"""

TEXT = """\
See our docs & say hi.

# Tiny 1B Instruct

Tiny is a small model of many words and 2 lines, with snake_case_names and 2 * 3 * 4.

# Settings

- temperature: 0.6
  - top_p: *0.95*
1. first

    print("**as it is**", 1 < 2)

Quant | Size
Q4_K_M | 2.5 GB

Note: Read the paper."""


def test_a_card_becomes_readable_text() -> None:
    assert card_text(CARD) == TEXT
    assert card_text(CARD.replace("\n", "\r\n")) == TEXT


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ("", ""),
        ("---\nlicense: mit\n---", ""),
        ("---\nno end of it", "no end of it"),
        ("<!-- no end", ""),
        ("words <script>alert(1)", "words"),
        ("a < b and c > d", "a < b and c > d"),
        ("![only](x.png)", ""),
        ("- ![only](x.png)", ""),
        ("<h2>Title</h2>text<br>more", "# Title\n\ntext more"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("see <https://example.com/x>", "see https://example.com/x"),
    ],
)
def test_odd_cards(card: str, text: str) -> None:
    assert card_text(card) == text


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    hostile = (
        "a\x1b]0;x\x07b &#27;[2J&#x9b;31m \u202eevil\u2066 \x00end\n\n```\n\x1b[31m&#27;c\n```"
    )
    text = card_text(hostile)
    assert "ab" in text
    assert "end" in text
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\x00")


def test_a_long_card_ends_after_its_first_paragraphs() -> None:
    text = card_text("\n\n".join(f"Paragraph {number}." for number in range(5000)))
    assert text.startswith("Paragraph 0.\n\nParagraph 1.")
    assert text.endswith(".\n…")
    assert len(text) < MOST + 100
    assert len(card_text("word " * 20_000)) < MOST


@pytest.mark.parametrize(
    "piece",
    [
        "<!--",
        "<a ",
        "<style>",
        "![",
        "[a](",
        "[a](x(y)",
        "[a][",
        "*a ",
        "_a ",
        "&#",
        "> ",
        "| ",
        "- ",
        "\\",
        "```\n",
        "<svg><",
        "[](a[](b)",
        "# #",
        "=\n",
        "<h1>",
        "[!x",
        "((((",
        "][](",
        "\n\n",
    ],
)
def test_hostile_cards_take_no_time(piece: str) -> None:
    card = piece * (64 * 1024 // len(piece))
    begin = time.process_time()
    assert len(card_text(card)) <= 2 * MOST
    # Quadratic work on 64 KiB would take many seconds.
    assert time.process_time() - begin < 1.0


async def _cards(hub: StandInHub, repo: str, times: int = 1) -> list[Any]:
    async with asyncio.timeout(LIMIT), browsing(hub, timeout=2.0) as browse:
        return [await _card(browse, repo) for _ in range(times)]


async def _card(browse: Browse, repo: str) -> Any:
    try:
        return await browse.card(repo)
    except HubUnreachableError as error:
        return error


async def test_a_card_comes_with_the_facts(hub: StandInHub) -> None:
    repo = hub.add("owner/tiny", {"README.md": CARD.encode(), "tiny-Q8_0.gguf": b"x"})
    repo.licence = "gemma"
    first, again = await _cards(hub, "owner/tiny", 2)
    assert first is again
    assert first.text == TEXT
    assert (first.model.repo, first.model.likes, first.model.licence) == ("owner/tiny", 10, "gemma")
    assert [path for _, path, _ in hub.asked] == ["README.md"]


async def test_only_the_beginning_of_a_card_is_read(hub: StandInHub) -> None:
    hub.add("owner/long", {"README.md": b"a word " * 200_000})
    (card,) = await _cards(hub, "owner/long")
    assert card.text.startswith("a word a word")
    assert hub.asked[0][2]["Range"] == "bytes=0-65535"
    assert hub.sent["README.md"] <= 65536


async def test_a_card_may_be_missing_hidden_or_no_text(hub: StandInHub) -> None:
    hub.add("owner/bare", {"a-Q8_0.gguf": b"x"})
    hub.add("owner/gated", {"README.md": b"secret"}, gated=True)
    hub.add("owner/bytes", {"README.md": b"caf\xe9 \xff\x1b[2J ok"})
    for repo, text in (("bare", ""), ("gated", ""), ("bytes", "caf\ufffd \ufffd ok")):
        (card,) = await _cards(hub, f"owner/{repo}")
        assert (card.text, card.model.gated) == (text, repo == "gated")
    with pytest.raises(HubNotFoundError):
        await _cards(hub, "owner/gone")


async def test_a_hub_that_stalls_in_a_card_is_left(hub: StandInHub) -> None:
    hub.add("owner/tiny", {"README.md": b"word " * 1000})
    hub.faults["README.md"].append(Fault("stall", 100))
    error, card = await _cards(hub, "owner/tiny", 2)
    assert isinstance(error, HubUnreachableError)
    # A failure is not kept.
    assert card.text.startswith("word word")
