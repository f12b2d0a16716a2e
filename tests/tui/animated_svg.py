"""Makes a small picture of exported screens: an SVG, animated if there are several.

The parts that frames share are in it once. It has no script and no font of its own, so any page
may show it, and it stands still where a reader prefers that or a program knows no animation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import unescape
from itertools import groupby

CELL = 12.2
"""Width of a character in the exports, and below the height of a line."""
_LINE = 24.4
_RULE = re.compile(r"\.\S+-(r\d+) \{ ?(.*?) ?\}")
_BOX = re.compile(r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="24.65"')
_TEXT = re.compile(
    r'<text class="\S+-(r\d+)" x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+"[^>]*>(.*?)</text>',
    re.DOTALL,
)
_SHOWN = re.compile(r'<text class="\w+" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>')
_MOST_COLUMNS = 240
_FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_WINDOW = """\
<rect width="{width:g}" height="{height:g}" rx="8" fill="#292929"/>
<g transform="translate(26 20)"><circle r="7" fill="#ff5f57"/><circle cx="22" r="7" \
fill="#febc2e"/><circle cx="44" r="7" fill="#28c840"/></g>
<g transform="translate(9 40)">
<rect width="{inner:g}" height="{lines:g}" fill="{ground}"/>
"""


def picture(frames: Sequence[tuple[str, float]], size: tuple[int, int]) -> str:
    """Return one SVG of ``frames``: exports of screens of ``size``, each with its seconds."""
    styles: dict[str, str] = {}
    parts: dict[str, set[int]] = {}
    boxes = [_boxes(export) for export, _ in frames]
    fills = [fill for found in boxes for fill, *_ in found]
    ground = max(set(fills), key=fills.count)
    for number, found in enumerate(boxes):
        for fill, x, y, width in found:
            if fill != ground:
                box = f'<rect fill="{fill}" x="{x:g}" y="{y:g}" width="{width:g}" height="24.65"/>'
                parts.setdefault(box, set()).add(number)
    for number, (export, _) in enumerate(frames):
        for text in _texts(export, styles):
            parts.setdefault(text, set()).add(number)
    shown: dict[frozenset[int], list[str]] = {}
    for part, numbers in parts.items():
        shown.setdefault(frozenset(numbers), []).append(part)
    # All boxes are below all texts.
    layers = [_groups(shown, "<rect"), _groups(shown, "<text")]
    times = [seconds for _, seconds in frames]
    inner, lines = size[0] * CELL, size[1] * _LINE
    width, height = inner + 18, lines + 49
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">\n'
        f"<style>\ntext {{ font: 20px {_FONTS}; white-space: pre }}\n"
        "rect { shape-rendering: crispEdges }\n"
        + "".join(f".{name} {{ {rule} }}\n" for rule, name in styles.items())
        + _animation(sorted(shown, key=sorted), times)
        + "</style>\n"
        + _WINDOW.format(width=width, height=height, inner=inner, lines=lines, ground=ground)
        + "".join(layers)
        + "</g>\n</svg>\n"
    )


def rows(svg: str) -> list[list[str]]:
    """Return the lines of text of each frame of a picture, from the top."""
    shown: dict[int, dict[float, str]] = {}
    for numbers, group in re.findall(r'<g class="f([\d-]+)">(.*?)</g>', svg, re.DOTALL):
        for number in map(int, numbers.split("-")):
            lines = shown.setdefault(number, {})
            for x, y, text in _SHOWN.findall(group):
                begin, line = round(float(x) / CELL), lines.get(float(y), "").ljust(_MOST_COLUMNS)
                words = unescape(text).replace("\xa0", " ")
                lines[float(y)] = line[:begin] + words + line[begin + len(words) :]
    return [
        [line.rstrip() for _, line in sorted(lines.items())] for _, lines in sorted(shown.items())
    ]


def _boxes(export: str) -> list[tuple[str, float, float, float]]:
    """Return the backgrounds: colour, place and width; neighbours of one colour are one."""
    found = [(fill, *map(float, place)) for fill, *place in _BOX.findall(export)]
    joined = []
    for (fill, y), row in groupby(found, key=lambda box: (box[0], box[2])):
        pieces = list(row)
        joined.append((fill, pieces[0][1], y, round(sum(one[3] for one in pieces), 1)))
    return joined


def _texts(export: str, styles: dict[str, str]) -> Iterable[str]:
    """Return the texts; adds their styles to ``styles``, which maps rules to class names."""
    rules = dict(_RULE.findall(export))
    for name, x, y, escaped in _TEXT.findall(export):
        text = escaped.replace("&#160;", "\xa0")
        stripped = text.strip("\xa0\n")
        if not stripped:
            continue
        begin = float(x) + CELL * (len(text) - len(text.lstrip("\xa0")))
        style = styles.setdefault(rules[name], f"s{len(styles)}")
        width = CELL * len(unescape(stripped))
        yield (
            f'<text class="{style}" x="{begin:g}" y="{y}" textLength="{width:g}">{stripped}</text>'
        )


def _groups(shown: dict[frozenset[int], list[str]], kind: str) -> str:
    """Return the parts of a kind, in a group for each set of frames."""
    return "".join(
        f'<g class="{_name(numbers)}">\n' + "\n".join(chosen) + "\n</g>\n"
        for numbers, parts in shown.items()
        if (chosen := [part for part in parts if part.startswith(kind)])
    )


def _name(numbers: Iterable[int]) -> str:
    return "f" + "-".join(map(str, sorted(numbers)))


def _animation(sets: Iterable[frozenset[int]], times: Sequence[float]) -> str:
    """Return the rules that show each set of frames at its times, in a loop."""
    whole = sum(times)
    still, moving = "", ""
    for numbers in sets:
        if len(numbers) == len(times):
            continue
        name = _name(numbers)
        steps = ""
        for number in range(len(times)):
            if number == 0 or (number in numbers) != (number - 1 in numbers):
                state = "visible" if number in numbers else "hidden"
                steps += f" {100 * sum(times[:number]) / whole:.5g}% {{ visibility: {state} }}"
        if 0 not in numbers:
            still += f".{name} {{ visibility: hidden }}\n"
        moving += f"@keyframes {name} {{{steps} }}\n"
        moving += f".{name} {{ animation: {name} {whole:g}s step-end infinite }}\n"
    return still + (
        f"@media (prefers-reduced-motion: no-preference) {{\n{moving}}}\n" if moving else ""
    )
