"""A partial file without a transfer."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import pytest

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.hub.partial import HubFile, is_whole, open_partial

from .transfers import noise

DATA = noise(4096)
ORIGIN = HubFile(
    repo="o/n",
    revision="0" * 40,
    path="a.gguf",
    size=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
)


@pytest.mark.parametrize("git", [False, True])
def test_after_half_a_write_the_digest_is_of_that_half(tmp_path: Path, *, git: bool) -> None:
    sha1 = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    small = HubFile(repo="o/n", revision="1", path="a", size=len(DATA), git_sha1=sha1)
    partial = open_partial(tmp_path / "a.gguf", small if git else ORIGIN, boot="this")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(CyberError):
            partial.write([DATA[:100], memoryview(DATA)[100:]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert partial.checkpoint() == (1000, hashlib.sha256(DATA[:1000]).hexdigest())
    partial.write([DATA[1000:]])
    assert partial.problem() is None
    partial.complete()
    partial.close()
    assert (tmp_path / "a.gguf").read_bytes() == DATA


def test_whole_means_verified_and_the_same_file(tmp_path: Path) -> None:
    """A new quantization of a model may have the same size."""
    target = tmp_path / "a.gguf"
    other = hashlib.sha256(noise(4096, 2)).hexdigest()
    another = HubFile(repo="o/n", revision="2" * 40, path="a.gguf", size=len(DATA), sha256=other)
    partial = open_partial(target, ORIGIN, boot="this")
    partial.write([DATA])
    assert not is_whole(target, ORIGIN)
    partial.complete()
    partial.close()
    assert is_whole(target, ORIGIN)
    assert not is_whole(target, another)
    # Once another file is begun, it is neither.
    open_partial(target, another, boot="this").close()
    assert not is_whole(target, another)
    assert not is_whole(target, ORIGIN)
