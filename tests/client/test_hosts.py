"""The addresses that the app remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.client.hosts import HOSTS_KEPT, Hosts, proper_address
from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.errors import CyberError


def hosts_in(folder: Path) -> Hosts:
    return Hosts(folder, "", ServiceClient)


def test_the_last_used_address_comes_first(tmp_path: Path) -> None:
    hosts = hosts_in(tmp_path / "data")
    assert hosts.known() == ()
    for address in ("http://a:8337", "ssh://b", "http://a:8337"):
        hosts.keep(address)
    assert hosts_in(tmp_path / "data").known() == ("http://a:8337", "ssh://b")
    assert (tmp_path / "data/hosts.json").stat().st_mode & 0o777 == 0o600
    hosts.forget("http://a:8337")
    assert hosts.known() == ("ssh://b",)
    for number in range(HOSTS_KEPT + 3):
        hosts.keep(f"ssh://box{number}")
    assert len(hosts.known()) == HOSTS_KEPT
    assert hosts.known()[0] == f"ssh://box{HOSTS_KEPT + 2}"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '["ssh://-oProxyCommand=x"]'])
def test_a_bad_file_has_no_addresses(tmp_path: Path, content: str) -> None:
    (tmp_path / "hosts.json").write_text(content)
    assert hosts_in(tmp_path).known() == ()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CyberError, match="cannot be kept"):
        hosts_in(tmp_path / "file").keep("ssh://box")


def test_addresses_have_one_spelling() -> None:
    spellings = {" jetson ": "http://jetson:8337", "SSH://Ann@Box?port=8337": "ssh://Ann@Box"}
    assert {text: proper_address(text) for text in spellings} == spellings
