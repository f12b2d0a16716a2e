"""The notice that replaces the pages until the service has answered."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cyber_inference_tui.terminal.charset import UNICODE
from cyber_inference_tui.tui.pages.no_service import no_service_content
from cyber_inference_tui.tui.snapshot import Link, Snapshot
from tests.tui.world import NOW

REMOTE = "http://jetson:8337"


def shown(url: str, seconds: float = 0.0, *, attached: bool = True) -> str:
    snapshot = Snapshot(link=Link.LOST, problem="It failed.", retry_at=NOW)
    now = NOW - timedelta(seconds=seconds)
    return no_service_content(snapshot, url, now, UNICODE, attached=attached).plain


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.2, "again in 5 s."), (0.5, "again in 1 s."), (0.0, "again now."), (-3.0, "again now.")],
)
def test_the_time_of_the_next_attempt_counts_down(seconds: float, text: str) -> None:
    assert text in shown(REMOTE, seconds)


def test_a_service_elsewhere_needs_a_tunnel() -> None:
    end = "\n  cyber-inference-tui --attach ssh://jetson\n  c copies it"
    assert shown(REMOTE).endswith(end)


def test_a_tunnel_that_leads_to_no_service_needs_a_look_there() -> None:
    end = "\n  ssh -p 22 ann@jetson cyber-inference-tui service status\n  c copies it"
    assert shown("ssh://ann@jetson:22?port=9000").endswith(end)


def test_an_address_of_this_machine_may_be_the_end_of_a_tunnel() -> None:
    text = shown("http://localhost:18337")
    assert "\n  cyber-inference-tui --attach ssh://user@host\n  c copies it\n" in text
    assert text.endswith("\n  cyber-inference-tui serve --port 18337")


def test_without_attach_the_service_is_started_here() -> None:
    text = shown("http://127.0.0.1:8337", attached=False)
    assert text.endswith("\n  cyber-inference-tui serve\n  c copies it")
    assert "ssh" not in text


def test_before_the_first_failure_it_is_connecting() -> None:
    text = no_service_content(Snapshot(), REMOTE, NOW, UNICODE, attached=True)
    assert text.plain == "Connecting to http://jetson:8337 …"
