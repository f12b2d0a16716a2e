from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from cyber_inference_tui.settings.edit import set_value
from cyber_inference_tui.settings.watch import FileWatch
from cyber_inference_tui.storage import begin
from tests.waiting import until


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


async def test_it_waits_for_a_change(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    watch = FileWatch(path)
    waiting = asyncio.ensure_future(watch.wait(0.01))
    path.write_text("port = 1")
    async with asyncio.timeout(60):
        await waiting
    assert not watch.changed()


async def test_a_cancelled_wait_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    waiting = asyncio.ensure_future(FileWatch(tmp_path / "config.toml").wait(0.01))
    await until(lambda: threading.active_count() > before)
    waiting.cancel()
    await until(lambda: threading.active_count() == before)


async def test_it_waits_for_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def begin_later(work: Callable[[], None]) -> Future[None]:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("can't start new thread")
        return begin(work)

    monkeypatch.setattr("cyber_inference_tui.settings.watch.begin", begin_later)
    path = tmp_path / "config.toml"
    watch = FileWatch(path)
    path.write_text("port = 1")
    async with asyncio.timeout(60):
        await watch.wait(0.01)
    assert len(tries) == 3
