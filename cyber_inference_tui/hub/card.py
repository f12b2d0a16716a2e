"""Turn a model card, Markdown and HTML from strangers, into short readable text. Pure.

The text keeps headings (``# Title``), list items (``- one``) and code (four spaces); every other
paragraph is one line. Images, addresses of links, tags and the front matter are left out. Each
step takes time in proportion to the card's length, whatever it contains.
"""

from __future__ import annotations

import html
import re
from typing import Final

from cyber_inference_tui.text import clean_line

MOST: Final = 6000
"""Characters of the text."""
_LONGEST_LINE: Final = 2000
_CODE: Final = "    "
_TAG: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]{0,30})(?:[\s/][^<>]{0,4000})?>")
_AUTOLINK: Final = re.compile(r"<(https?://[^<>\s]{1,2000})>")
_HIDDEN: Final = {
    name: re.compile(f"</{name}", re.IGNORECASE) for name in ("style", "script", "svg")
}
_BLOCK: Final = re.compile(
    "p|div|center|section|article|table|thead|tbody|tr|ul|ol|details|summary|hr|blockquote|pre"
    "|figure|header|footer"
)
_ADDRESS: Final = r"(?:[^()\s]|\([^()\s]{0,200}\)){0,2000}"
_TITLE: Final = r"(?:\s+[\"'][^()\n]{0,300})?"
_IMAGE: Final = re.compile(rf"!\[[^\[\]\n]{{0,500}}\]\(\s?{_ADDRESS}{_TITLE}\s?\)")
_LINK: Final = re.compile(rf"\[([^\[\]\n]{{0,500}})\]\(\s?{_ADDRESS}{_TITLE}\s?\)")
_REFERENCE: Final = re.compile(r"!?\[([^\[\]\n]{1,300})\]\[[^\[\]\n]{0,300}\]")
_DEFINITION: Final = re.compile(r" {0,3}\[[^\[\]]{1,300}\]:\s*\S")
_ALERT: Final = re.compile(r"\[!(\w{1,20})\]")
_STAR: Final = re.compile(r"(?<![\w*\\])\*(?!\s)([^*\n]{1,300})(?<![\s\\])\*(?![\w*])")
_UNDERLINE: Final = re.compile(r"(?<!\w)_([^_\n]{1,300})_(?!\w)")
_ESCAPE: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_FENCE: Final = re.compile(r" {0,3}(?:```|~~~)")
_HEADING: Final = re.compile(r" {0,3}#{1,6}\s+(.*)")
_ITEM: Final = re.compile(r"(\s{0,20})(?:[-*+]|(\d{1,4}[.)]))\s+(.*)")
_RULE: Final = re.compile(r" {0,3}(?:-[-\s]*|=+|_[_\s]*|\*[*\s]*)")
_TABLE_RULE: Final = re.compile(r"[\s|:-]+")
_SPACES: Final = re.compile(r"\s+")


def card_text(card: str) -> str:
    """Return the first paragraphs of ``card``, without anything that a terminal obeys."""
    lines: list[str] = []
    length = 0
    for line in _paragraphs(_without_tags(_without_front_matter(card))):
        if not line and (not lines or not lines[-1]):
            continue
        if length + len(line) > MOST:
            lines.append("…")
            break
        lines.append(line)
        length += len(line) + 1
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def _without_front_matter(card: str) -> str:
    card = card.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if card.startswith("---\n"):
        end = card.find("\n---", 3)
        if end >= 0:
            return card[card.find("\n", end + 1) + 1 :] if "\n" in card[end + 1 :] else ""
    return card


def _without_tags(text: str) -> str:
    """Return ``text`` with line ends in place of the tags of blocks, and without other tags."""
    parts: list[str] = []
    at = 0
    while (begin := text.find("<", at)) >= 0:
        parts.append(text[at:begin])
        if text.startswith("<!--", begin):
            end = text.find("-->", begin)
            at = len(text) if end < 0 else end + 3
            continue
        if link := _AUTOLINK.match(text, begin):
            parts.append(link[1])
            at = link.end()
            continue
        tag = _TAG.match(text, begin)
        if tag is None:
            parts.append("<")
            at = begin + 1
            continue
        name, at = tag[2].lower(), tag.end()
        if name in _HIDDEN and not tag[1]:
            end_tag = _HIDDEN[name].search(text, at)
            at = len(text) if end_tag is None else end_tag.start()
        parts.append(_in_place_of(name, closing=bool(tag[1])))
    parts.append(text[at:])
    return "".join(parts)


def _in_place_of(name: str, *, closing: bool) -> str:
    if name == "br":
        return "\n"
    if _BLOCK.fullmatch(name):
        return "\n\n"
    if len(name) == 2 and name[0] == "h" and name[1] in "123456":
        return "\n\n" if closing else "\n\n# "
    if name == "li":
        return "" if closing else "\n- "
    return " " if name in {"td", "th"} else ""


class _Paragraphs:
    """The lines of a text without tags, as they are added; an empty one ends a paragraph."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._words: list[str] = []
        self._in_code = False

    def add(self, line: str) -> None:
        """Take the next line of the card."""
        if _FENCE.match(line):
            self._in_code = not self._in_code
            self.end("")
        elif self._in_code:
            self.lines.append(_cleaned(f"{_CODE}{html.unescape(line)}").rstrip())
        else:
            self._add_text(line.lstrip("> ") if line.lstrip().startswith(">") else line)

    def end(self, *more: str) -> None:
        """End the paragraph, and add ``more`` lines."""
        if self._words and (line := _plain(" ".join(self._words))):
            self.lines.append(line)
        self._words.clear()
        self.lines += more

    def _add_text(self, line: str) -> None:
        if not line.strip() or _DEFINITION.match(line):
            self.end("")
        elif _RULE.fullmatch(line):
            # Below a single line it makes that a heading.
            underlines = line.strip()[0] in "-=" and len(self._words) == 1
            self._add_heading(self._words.pop() if underlines else "")
        elif heading := _HEADING.match(line):
            self._add_heading(heading[1].rstrip("# "))
        elif item := _ITEM.match(line):
            self.end()
            indent = "  " * min(3, len(item[1].expandtabs(4)) // 2)
            self._words.append(f"{indent}{item[2] or '-'} {item[3]}")
        elif line.lstrip().startswith("|"):
            self.end()
            if not _TABLE_RULE.fullmatch(line):
                self._words.append(line.strip().strip("|").strip())
                self.end()
        else:
            self._words.append(line.strip())

    def _add_heading(self, text: str) -> None:
        title = _plain(text)
        self.end("", f"# {title}" if title else "", "")


def _paragraphs(text: str) -> list[str]:
    collected = _Paragraphs()
    for line in text.split("\n"):
        collected.add(line)
    collected.end()
    return collected.lines


def _plain(text: str) -> str:
    """Return the text of one paragraph without the marks of Markdown."""
    text = text[: 4 * _LONGEST_LINE]
    indent = text[: len(text) - len(text.lstrip(" "))]
    text = _ALERT.sub(lambda found: f"{found[1].capitalize()}:", text)
    text = _REFERENCE.sub(r"\1", _LINK.sub(r"\1", _IMAGE.sub("", text)))
    text = text.replace("**", "").replace("__", "").replace("~~", "").replace("`", "")
    text = _UNDERLINE.sub(r"\1", _STAR.sub(r"\1", text))
    text = html.unescape(_ESCAPE.sub(r"\1", text))
    text = _cleaned(indent + _SPACES.sub(" ", text.strip()))
    # A list item or a heading of nothing but images.
    return "" if text.strip() in {"", "-", "#"} else text


def _cleaned(text: str) -> str:
    return clean_line(text, limit=_LONGEST_LINE)
