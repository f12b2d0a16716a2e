"""Parts that every page has: the status line, the page tabs and the notice for small terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.widget import Widget

from cyber_inference_tui.records import (
    DeviceKind,
    DeviceRecord,
    DownloadRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.tui.app_options import AppOptions
from cyber_inference_tui.tui.snapshot import IN_PROGRESS, Link, Snapshot
from cyber_inference_tui.units import duration_text, percent_text

NAME = "cyber-inference"
STALE_SECONDS = 5.0
"""Seconds without an event after which the status line shows the age of the values."""


@dataclass(frozen=True, slots=True)
class PageName:
    """A page: the key that opens it, its Textual mode and its title."""

    key: str
    mode: str
    title: str
    short: str = ""
    """The title on a narrow terminal, if it is shorter there."""


PAGES = (
    PageName("1", "dashboard", "Dashboard", "Dash"),
    PageName("2", "models", "Models"),
    PageName("3", "hub", "Hub"),
    PageName("4", "logs", "Logs"),
    PageName("5", "requests", "Requests"),
    PageName("6", "chat", "Chat"),
    PageName("7", "settings", "Settings"),
    PageName("8", "machine", "Machine"),
)


class StatusBar(Widget):
    """The first line: the service, the state of the connection, the machine and the time."""

    DEFAULT_CSS = """
    StatusBar { height: 1; padding: 0 1; background: $surface; }
    """

    def __init__(self, options: AppOptions) -> None:
        super().__init__()
        self._options = options
        self._content = Content("")

    def show(self, snapshot: Snapshot, now: datetime, url: str) -> None:
        """Redraw the line from its first change on; ``url`` is the service's address."""
        content = status_line(snapshot, self._options, now, max(0, self.size.width), url)
        before, self._content = self._content, content
        if not content.is_same(before):
            start = 0
            if before.spans == content.spans:  # mostly only the time is another
                pairs = enumerate(zip(before.plain, content.plain, strict=False))
                same = next((at for at, (old, new) in pairs if old != new), 0)
                start = cell_len(content.plain[:same])
            self.refresh(Region(start, 0, self.size.width - start, 1))

    def render(self) -> Content:
        """Return the line."""
        return self._content


def status_line(
    snapshot: Snapshot, options: AppOptions, now: datetime, width: int, url: str = ""
) -> Content:
    """Return the status line in ``width`` cells; less important parts are left out first."""
    where = snapshot.status
    # The address that a remote service listens on does not say how it was reached.
    known = where is not None and not options.attached
    address = clean_line(urlsplit(url).netloc)
    if where is not None and known:
        extra = [str(one.port) for one in where.extra_ports if one.problem is None]
        address = ", ".join([f"{where.host}:{where.port}", *extra])
    charset = options.charset
    link, colour = _link(snapshot, charset, now)
    parts = {
        "name": (NAME, "bold $accent"),
        "address": (f"   {address}" if address else "", ""),
        "kind": ("  attached" if options.attached else "  local", "$text-muted"),
        "readonly": ("  read-only" if options.readonly else "", "$text-muted"),
        "link": (link, colour),
        "download": (download_text(snapshot.downloads, charset), "$text-accent"),
        "time": (now.strftime("  %H:%M:%S"), ""),
    }
    # A problem with the connection is always shown.
    calm = ["kind", "link", "readonly", "time", "download"]
    for name in (
        calm if colour == "$text-muted" else ["time", "kind", "download", "readonly", "name"]
    ):
        if sum(len(text) for text, _ in parts.values()) > width:
            del parts[name]
    time = parts.pop("time", ("", ""))
    room = width - len(time[0]) - sum(len(text) for text, _ in parts.values())
    machine = device_line(snapshot.sample.device, charset.dot) if snapshot.sample else ""
    while machine and len(machine) + 4 > room:
        # The name of the machine comes first.
        machine = machine.rpartition(f" {charset.dot} ")[0]
    gap = " " * max(0, room - len(machine) - bool(machine))
    (first, style), *rest = parts.values()
    return Content.assemble(
        (first.lstrip(), style), *rest, gap, (machine, "$text-muted"), " " if machine else "", time
    )


def download_text(downloads: Sequence[DownloadRecord], charset: Charset) -> str:
    """Return how far the running and waiting downloads are: ``▼ 40 %``, ``▼ 3: 12 %``."""
    moving = [one for one in downloads if one.status in IN_PROGRESS]
    if not moving:
        return ""
    total = sum(one.bytes_total or 0 for one in moving)
    # The share of all together; the size of one that waits may not be known yet.
    done = sum(one.bytes_done for one in moving if one.bytes_total)
    part = f" {percent_text(min(1.0, done / total))}" if total else ""
    count = f" {len(moving)}:" if len(moving) > 1 and part else ""
    return f"  {charset.descending}{count}{part or f' {len(moving)}'}"


def _link(snapshot: Snapshot, charset: Charset, now: datetime) -> tuple[str, str]:
    age = (now - snapshot.updated_at).total_seconds() if snapshot.updated_at else 0.0
    if snapshot.link is Link.CONNECTING:
        return f"  {charset.signs[ModelStatus.QUEUED]} connecting", "$warning"
    if snapshot.link is Link.LOST:
        since = f", values {_age(age)} old" if snapshot.updated_at else ""
        return f"  {charset.signs[ModelStatus.FAILED]} no connection{since}", "bold $error"
    sign = charset.signs[ModelStatus.QUEUED]
    if is_old(snapshot, now):
        return f"  {sign} no answer, values {_age(age)} old", "$warning"
    if snapshot.outdated:
        return f"  {sign} outdated: {', '.join(sorted(snapshot.outdated))}", "$warning"
    if snapshot.status is None or snapshot.status_at is None:
        return "", "$text-muted"
    up = snapshot.status.uptime_seconds + (now - snapshot.status_at).total_seconds()
    return f"  up {uptime_text(up)}", "$text-muted"


def is_old(snapshot: Snapshot, now: datetime) -> bool:
    """Return whether the values are old: the connection is lost, or no event came lately."""
    if snapshot.link is not Link.LIVE or snapshot.updated_at is None:
        return snapshot.link is Link.LOST
    return (now - snapshot.updated_at).total_seconds() > STALE_SECONDS


def _age(seconds: float) -> str:
    """Format an age in whole seconds, because tenths would flicker."""
    return f"{int(seconds)} s" if seconds < 60 else duration_text(seconds)


def uptime_text(seconds: float) -> str:
    """Format an uptime to the minute: ``3 d 04:12``, ``4:12 h``, ``12 min``."""
    minutes = int(seconds) // 60
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days} d {hours:02}:{minutes % 60:02}"
    return f"{hours}:{minutes % 60:02} h" if hours else f"{minutes} min"


def device_line(device: DeviceRecord, dot: str) -> str:
    """Describe the machine in a few words: its name, JetPack version and power mode."""
    name = device.name or device.processor
    parts = [name]
    if device.kind is DeviceKind.JETSON:
        parts.append(f"JetPack {device.jetpack}" if device.jetpack else None)
        parts.append(f"{device.power_mode} mode" if device.power_mode else None)
    elif name is None:
        parts.append(device.os)
    return clean_line(f" {dot} ".join(part for part in parts if part), limit=80)


class PageTabs(Widget):
    """The page tabs with their numbers; a click opens a page."""

    DEFAULT_CSS = """
    PageTabs { height: 1; background: $surface; }
    """

    class Chosen(Message):
        """Posted when a tab was clicked."""

        def __init__(self, mode: str) -> None:
            super().__init__()
            self.mode = mode

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def _tabs(self) -> tuple[str, list[tuple[PageName, str, str, str]]]:
        """Return the space before all tabs, and each page with its key, title and space after it.

        On a narrow terminal there is less space, and shorter titles.
        """
        room = self.size.width
        full = [page.title for page in PAGES]
        short = [page.short or page.title for page in PAGES]
        forms = ((full, " ", "   "), (short, " ", "  "), (short, " ", " "), (short, "", " "))
        for titles, inner, after in forms:
            taken = sum(len(title) + 1 + len(inner) + len(after) for title in titles)
            if taken - len(after) + 2 <= room:
                break
        before = " " if inner else ""
        tabs = zip(PAGES, titles, strict=True)
        return before, [(page, f"{page.key}{inner}", title, after) for page, title in tabs]

    def render(self) -> Content:
        """Return the numbers and titles."""
        before, tabs = self._tabs()
        parts = [(before, "")]
        for page, key, title, after in tabs:
            here = page.mode == self._mode
            parts += [
                (key, "bold $accent" if here else "$text-muted"),
                (title, "bold $accent underline" if here else "$foreground"),
                (after, ""),
            ]
        return Content.assemble(*parts)

    def on_click(self, event: events.Click) -> None:
        """Open the page under the pointer."""
        before, tabs = self._tabs()
        at = event.x - len(before)
        for page, *texts in tabs:
            length = sum(map(len, texts))
            if 0 <= at < length:
                self.post_message(self.Chosen(page.mode))
                return
            at -= length


class TooSmall(Widget):
    """Replaces the page in a terminal that is too small."""

    def render(self) -> Content:
        """Return the notice."""
        size = self.app.size
        return Content.assemble(
            ("This terminal is too small.\n", "bold"),
            f"It has {size.width} by {size.height} cells; the app needs 60 by 18.\n",
            ("q quits.", "$text-muted"),
        )
