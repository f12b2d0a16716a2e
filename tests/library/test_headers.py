"""The cache of headers: kept and forgotten entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyber_inference_tui.errors import GGUFError
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.disk import Disk
from cyber_inference_tui.library.headers import HeaderCache
from cyber_inference_tui.library.scan import ModelFile, stat_file

from .conftest import Home

LATER = 1 << 62


def read(cache: HeaderCache, file: ModelFile) -> ModelMetadata:
    cache.take(cache.fetch([file], Disk()))
    return cache.read(file)


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_that_could_not_be_read_is_tried_again(home: Home, *, restart: bool) -> None:
    """Permissions and disks change without a change of the file's time."""
    path = home.model("Tiny.gguf")
    file = stat_file(path, home.models_dir)
    assert file is not None
    kept = home.models_dir.parent / "headers.json"
    cache = HeaderCache(kept, lambda: LATER)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(GGUFError, match="cannot be read"):
        read(cache, file)
    assert not cache.settle()
    path.with_suffix(".away").rename(path)
    if restart:
        cache = HeaderCache(kept, lambda: LATER)
    assert read(cache, file).tensor_count > 0
    assert cache.settle()


def test_a_file_that_is_damaged_is_not_read_again_and_again(home: Home) -> None:
    path: Path = home.models_dir / "Tiny.gguf"
    path.write_bytes(b"no header")
    file = stat_file(path, home.models_dir)
    assert file is not None
    cache = HeaderCache(None, lambda: LATER)
    for _ in range(2):
        with pytest.raises(GGUFError):
            read(cache, file)
        path.unlink(missing_ok=True)
    assert cache.settle()
