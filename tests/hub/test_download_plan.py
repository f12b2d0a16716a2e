"""Names and sizes from the hub are checked."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.errors import HubError
from cyber_inference_tui.hub.download_plan import (
    DownloadPlan,
    PlannedFile,
    check_plan,
    local_path,
    safe_path,
)
from cyber_inference_tui.text import clean_line

BAD = [
    "",
    "/etc/passwd",
    "../a.gguf",
    "a/../../b.gguf",
    "a//b.gguf",
    "./a.gguf",
    "a/",
    "a\\b.gguf",
    "..\\b.gguf",
    "C:/a.gguf",
    "a:b.gguf",
    "a\x00.gguf",
    "a\nb.gguf",
    "a\u202egguf",
    ".ssh/authorized_keys",
    "a/.hidden.gguf",
    "NUL.gguf",
    "com1",
    "a.gguf.part",
    "a.gguf.part.json",
    "A.GGUF.PART",
    "dot./a.gguf",
    "blank /a.gguf",
    "a" * 250,
    "a/" * 20 + "b",
    "\ud800.gguf",
]


def plan(*paths: str, repo: str = "owner/name", revision: str = "0" * 40) -> DownloadPlan:
    files = tuple(PlannedFile(path, 5) for path in paths)
    return DownloadPlan(repo=repo, revision=revision, files=files, filename=paths[0])


@pytest.mark.parametrize("path", BAD)
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(HubError, match="is refused"):
        safe_path(path)
    with pytest.raises(HubError):
        check_plan(plan(path))


@given(st.text(max_size=40))
def test_accepted_paths_stay_below_the_directory(path: str) -> None:
    try:
        safe = safe_path(path)
    except HubError:
        return
    assert not safe.is_absolute()
    assert ".." not in safe.parts
    assert str(safe) == path
    assert clean_line(path) == path


def test_files_keep_their_places_and_projectors_go_to_their_model() -> None:
    model = plan("Q4/M-00001-of-00002.gguf", "Q4/M-00002-of-00002.gguf", "mmproj-F16.gguf")
    check_plan(model)
    assert [local_path(model, file) for file in model.files] == [
        PurePosixPath("owner/name/Q4/M-00001-of-00002.gguf"),
        PurePosixPath("owner/name/Q4/M-00002-of-00002.gguf"),
        PurePosixPath("owner/name/Q4/mmproj-F16.gguf"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        plan("a.gguf", repo="../../etc"),
        plan("a.gguf", repo="owner/.."),
        plan("a.gguf", repo="a/b/c"),
        plan("a.gguf", repo="/a"),
        plan("a.gguf", revision="../x"),
        plan("a.gguf", revision=""),
        plan("a.gguf", "A.gguf"),
        plan("x/a.gguf", "X/a.gguf"),
        plan("e\u0301.gguf", "\u00e9.gguf"),
        plan("a.gguf", "a.gguf"),
        DownloadPlan(repo="a/b", revision="c", files=(), filename="a"),
        DownloadPlan(repo="a/b", revision="c", files=(PlannedFile("a"),), filename="b"),
        DownloadPlan(repo="a/b", revision="c", files=(PlannedFile("a", -1),), filename="a"),
        DownloadPlan(
            repo="a/b", revision="c", files=(PlannedFile("a", 1, "AB" * 32),), filename="a"
        ),
        plan(*(f"{number}.gguf" for number in range(1001))),
    ],
)
def test_bad_plans_are_refused(bad: DownloadPlan) -> None:
    with pytest.raises(HubError):
        check_plan(bad)
