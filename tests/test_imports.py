"""What each of the two processes loads when it starts: memory and time are paid for all of it."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest


def printed(code: str) -> str:
    """What a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@functools.cache
def modules_with(module: str) -> frozenset[str]:
    """All that a Python has loaded once it has imported ``module``."""
    return frozenset(printed(f"import {module}, sys; print(*sys.modules, sep='\\n')").split())


def loaded(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of ``names`` come along with ``module``."""
    return [name for name in names if name in modules_with(module)]


def test_the_service_loads_no_terminal_and_nothing_that_is_used_seldom() -> None:
    heavy = (
        "textual",
        "rich",
        "numpy",
        "huggingface_hub",
        "httpx",
        "httpx2",
        "jwt",
        "tomlkit",
        "zeroconf",
        "ifaddr",
    )
    assert loaded("cyber_inference_tui.http.serve", heavy) == []


@pytest.mark.parametrize("way", ["importing", "contextlib.nullcontext"])
def test_the_service_reads_no_certificates_before_it_asks_the_hub(way: str) -> None:
    code = f"""
import certifi, contextlib, gc, os, ssl
from cyber_inference_tui.cli.serve_command import importing
os.environ["SSL_CERT_FILE"] = certifi.where()
os.environ.pop("SSL_CERT_DIR", None)
with {way}():
    import cyber_inference_tui.http.serve
assert os.environ["SSL_CERT_FILE"] == certifi.where() and "SSL_CERT_DIR" not in os.environ
gc.unfreeze()
contexts = [one for one in gc.get_objects() if isinstance(one, ssl.SSLContext)]
print(sum(one.cert_store_stats()["x509"] for one in contexts) > 0)
"""
    # Without it the library does read them: the check can fail.
    assert printed(code).split() == [str(way != "importing")]


@pytest.mark.parametrize("module", ["tui.app", "cli.app_command"])
def test_the_app_loads_no_server(module: str) -> None:
    heavy = (
        "aiohttp",
        "textual_serve",
        "uvloop",
        "huggingface_hub",
        "tomlkit",
        "markdown_it",
        "pygments",
    )
    assert loaded(f"cyber_inference_tui.{module}", heavy) == []


def test_the_first_frame_waits_for_nothing_that_it_does_not_show() -> None:
    later = ("board", "graphs", "measures", "table", "timeline")
    heavy = tuple(f"cyber_inference_tui.tui.pages.dashboard.{name}" for name in later)
    assert loaded("cyber_inference_tui.tui.pages.dashboard.page", (*heavy, "httpx._client")) == []


def test_the_checks_can_fail() -> None:
    assert loaded("cyber_inference_tui.http.serve", ("aiohttp", "msgspec")) == [
        "aiohttp",
        "msgspec",
    ]
    assert loaded("cyber_inference_tui.tui.app", ("textual",)) == ["textual"]


def test_the_service_reads_no_list_of_file_types() -> None:
    code = """
import mimetypes, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
from cyber_inference_tui.cli.serve_command import importing
with importing():
    import cyber_inference_tui.http.serve
print(set(opened) & set(mimetypes.knownfiles))
"""
    assert printed(code) == "set()\n"
