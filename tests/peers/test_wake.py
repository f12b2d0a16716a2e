"""Waking another box: the packet, and what is remembered of a box that sleeps."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.peers.wake import asleep, read_known, send_packet, write_known
from cyber_inference_tui.records.models import Fit, ModelRecord, ModelStatus
from cyber_inference_tui.settings.schema import PeerSettings

MAC = bytes.fromhex("9c6b00123456")


@pytest.mark.parametrize("mac", ["9c:6b:00:12:34:56", "9C-6B-00-12-34-56"])
def test_the_packet_is_that_of_wake_on_lan(mac: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        send_packet(f"{mac}@127.0.0.1:{listener.getsockname()[1]}")
        assert listener.recv(1000) == b"\xff" * 6 + MAC * 16


def test_a_packet_that_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        send_packet("9c:6b:00:12:34:56@127.0.0.1:99999")
    assert "no packet could be sent" in caplog.text


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("", True),
        ("9c:6b:00:12:34:56", True),
        ("9c:6b:00:12:34:56@192.168.1.255", True),
        ("9c:6b:00:12:34:56@192.168.1.255:7", True),
        ("9c:6b:00:12:34", False),
        ("9c:6b:00:12:34:5g", False),
        ("9c:6b:00:12:34:56@box", False),
    ],
)
def test_the_setting_is_checked(text: str, is_valid: bool) -> None:
    try:
        msgspec.convert({"wake": text}, PeerSettings)
    except msgspec.ValidationError:
        assert not is_valid
    else:
        assert is_valid


def test_the_models_of_a_box_are_remembered_as_not_loaded(tmp_path: Path) -> None:
    loaded = ModelRecord(
        id="a:p",
        size_bytes=5,
        aliases=("b",),
        preset_of="a",
        status=ModelStatus.LOADED,
        in_flight=3,
        pid=7,
    )
    large = ModelRecord(id="c", fits=Fit.NEVER)
    write_known(tmp_path, {"box": asleep({"a:p": loaded, "c": large})})
    known = ModelRecord(id="a:p", size_bytes=5, aliases=("b",), preset_of="a")
    assert read_known(tmp_path) == {"box": (known, large)}


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[" * 100_000, b'{"box": 1}'])
def test_an_unreadable_memory_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sleepers.json").write_bytes(content)
    assert read_known(tmp_path) == {}


def test_the_memory_is_bounded() -> None:
    many = {str(number): ModelRecord(id=str(number)) for number in range(2000)}
    assert len(asleep(many)) == 1000
