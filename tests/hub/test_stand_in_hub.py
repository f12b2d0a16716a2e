"""The stand-in answers the hub's own library as the hub does."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from .stand_in_hub import StandInHub

FILES = {"README.md": b"hello", "sub/Tiny-Q4_K_M.gguf": b"GGUF" * 100}


def test_the_library_finds_lists_and_describes(hub: StandInHub) -> None:
    repo = hub.add("owner/tiny", FILES)
    hub.add("other/large", {"a.gguf": b"x"}).downloads = 5
    api = HfApi(endpoint=hub.url, token=False)
    models = list(api.list_models(search="tiny", filter="gguf", sort="downloads", limit=5))
    assert [(m.id, m.downloads, m.likes) for m in models] == [("owner/tiny", 1000, 10)]
    expanded = next(iter(api.list_models(expand=["gguf", "downloads"], limit=1)))
    assert expanded.gguf is not None
    assert expanded.gguf["architecture"] == "llama"
    hub.page_size = 1
    assert [m.id for m in api.list_models()] == ["owner/tiny", "other/large"]
    info = api.model_info("owner/tiny", files_metadata=True)
    assert info.sha == repo.sha
    assert info.siblings is not None
    sizes = {s.rfilename: (s.size, s.lfs and s.lfs.sha256, s.blob_id) for s in info.siblings}
    path = "sub/Tiny-Q4_K_M.gguf"
    assert sizes[path] == (400, repo.sha256(path), repo.git_sha1(path))
    assert sizes["README.md"] == (5, None, repo.git_sha1("README.md"))
    tree = list(api.list_repo_tree("owner/tiny", recursive=True))
    assert sorted(entry.path for entry in tree) == ["README.md", "sub", path]


def test_the_library_understands_its_refusals(hub: StandInHub) -> None:
    hub.add("owner/tiny", FILES)
    hub.add("owner/gated", FILES, gated=True)
    api = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/nothing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("owner/tiny", revision="gone")
    with pytest.raises(GatedRepoError):
        api.get_hf_file_metadata(url=f"{hub.url}/owner/gated/resolve/main/README.md")
