"""The pictures of the documentation: they can be taken, and the committed ones are not stale."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.tui import pictures
from tests.tui.animated_svg import picture, rows
from tests.tui.driving import SMALL, running, screen_text, until
from tests.tui.world import busy_world

_HEADING = re.compile(r"\b[A-Z][A-Z/]{2,}\b")
_MOST_BYTES = 600_000


def stable(name: str, svg: str) -> list[tuple[str, str, set[str]]]:
    """Return what each frame always shows: the pages, the keys, and the headings.

    The keys of the tour depend on the moment, because answers are on their way.
    """
    return [
        (
            frame[1],
            "" if name == pictures.TOUR else frame[-1],
            {word for line in frame[2:-1] for word in _HEADING.findall(line)},
        )
        for frame in rows(svg)
    ]


async def test_the_committed_pictures_are_like_new_ones(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    # Its length decides where commands with paths are wrapped, and so what fits below them.
    folder = Path(f"/tmp/{os.getpid() % 1_000_000:06}")
    assert len(str(folder)) == len(str(pictures.FOLDER))
    try:
        await pictures.take(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name in (*pictures.STILLS, pictures.TOUR):
        new, old = ((where / f"{name}.svg").read_text("utf-8") for where in (place, pictures.PLACE))
        is_stale = f"{name}.svg is stale: run python -m tests.tui.pictures"
        pairs = zip(stable(name, old), stable(name, new), strict=True)
        differences = [(then[:2], now[:2], then[2] ^ now[2]) for then, now in pairs if then != now]
        assert not differences, f"{is_stale}: {differences}"
        # A page that shows it runs no script of it and loads nothing for it.
        assert not re.search(r"<script|@font-face|@import|href=|url\(", new)
        assert len(new) < _MOST_BYTES


async def test_a_picture_shows_its_frames_and_has_common_parts_once() -> None:
    async with running(busy_world(), size=SMALL) as (app, _, pilot):
        screens, exports = [], []
        for key, page in (("1", "dashboard"), ("5", "requests")):
            await pilot.press(key)
            await until(pilot, lambda: app.current_mode == page)  # noqa: B023
            screens.append([line for line in screen_text(app).splitlines() if line])
            exports.append(app.export_screenshot())
    svg = picture([(exports[0], 1.0), (exports[1], 3.0)], SMALL)
    assert rows(svg) == screens
    assert svg.count(">\xa0Settings<") + svg.count(">Settings<") == 1
    # Without an animation it shows the first frame.
    always, _, moving = svg.partition("@media (prefers-reduced-motion: no-preference)")
    assert ".f1 { visibility: hidden }" in always
    assert ".f0 {" not in always
    assert "@keyframes f1 { 0% { visibility: hidden } 25% { visibility: visible } }" in moving
