"""The tokens in a file that llama-server has saved."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.slot_files import SlotFileError, saved_tokens
from tests.fakes.slot_server import HEAD, slot_file

TOKENS = [3, 10, 17, 2**31 - 1]


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_of_both_forms(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(slot_file(TOKENS, packed=packed) + b"the cache")
    assert saved_tokens(path) == TOKENS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"qsgg",
        b"x" * 100,
        slot_file([]),
        slot_file([5, -1, 6]),
        HEAD.pack(b"qsgg", 4, 2**32 - 1),
    ],
)
def test_anything_else_has_no_tokens(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(SlotFileError, match="cannot be read"):
        saved_tokens(path)


@given(data=st.binary(max_size=200))
def test_no_content_does_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(HEAD.pack(b"qsgg", 4, len(data)) + data)
    with contextlib.suppress(SlotFileError):
        assert min(saved_tokens(path)) >= 0
