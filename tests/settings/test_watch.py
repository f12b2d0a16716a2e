from __future__ import annotations

import os
from pathlib import Path

from cyber_inference_tui.settings.edit import set_value
from cyber_inference_tui.settings.watch import FileWatch


def test_every_change_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    watch = FileWatch(path)
    assert not watch.changed()
    set_value(path, "port", 1)
    assert watch.changed()
    assert not watch.changed()
    set_value(path, "port", 2)  # same size; another file in its place
    assert watch.changed()
    path.unlink()
    assert watch.changed()
    assert not watch.changed()


def test_a_write_in_place_of_the_same_size_is_seen_by_its_time(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = 1")
    watch = FileWatch(path)
    path.write_text("port = 2")
    os.utime(path, ns=(1, 1))
    assert watch.changed()


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    for file in (one, two):
        file.write_text("port = 1")
        os.utime(file, ns=(5, 5))
    link.symlink_to(one)
    watch = FileWatch(link)
    link.unlink()
    link.symlink_to(two)
    assert watch.changed()
