"""The setting ``split`` of a model."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.load import LoadedSettings, load_text

PEERS = '[peers."jetson"]\nurl = "https://192.168.1.20:8337"\n'


def read(split: str, peers: str = PEERS) -> LoadedSettings:
    text = f'{peers}[models."big"]\nsplit = {split}\n'
    return load_text(text, Path("/config.toml"), environ={}, flags={})


def test_a_paired_box_is_accepted() -> None:
    loaded = read('["jetson"]')
    assert loaded.settings.models["big"].split == ("jetson",)
    assert not loaded.warnings


def test_a_box_that_is_not_paired_is_a_warning() -> None:
    """Otherwise removing a box would break the file."""
    (warning,) = read('["jetsn"]').warnings
    assert warning.startswith('models."big".split: no box "jetsn" is paired')
    assert "jetson" in warning


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ('["jetson", "shelf"]', "over 1 other box, not 2"),
        ('["The Box"]', "expected the name of a box"),
    ],
)
def test_mistakes(split: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read(split)
    assert ":4: " in str(caught.value)


def test_this_box_itself_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Shelf.local")
    with pytest.raises(ConfigError, match='"shelf" is this box'):
        read('["shelf"]')
    # Unless another box has its name here.
    assert read('["shelf"]', '[peers."shelf"]\n').settings.models["big"].split == ("shelf",)
