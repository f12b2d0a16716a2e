"""Rows and sentences about repositories, files and downloads."""

from __future__ import annotations

import pytest

from cyber_inference_tui.records import (
    DownloadRecord,
    DownloadStatus,
    Fit,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE
from cyber_inference_tui.terminal.columns import RenderContext
from cyber_inference_tui.tui.pages.hub.downloads_pane import (
    download_name,
    download_rows,
    download_sentence,
)
from cyber_inference_tui.tui.pages.hub.sentences import file_sentence, result_sentence
from cyber_inference_tui.tui.pages.hub.table import (
    active_download,
    file_rows,
    result_rows,
    sorted_files,
)
from cyber_inference_tui.tui.widgets.live_table import Row
from cyber_inference_tui.units import percent_text
from tests.tui.world import GIB, NOW, ago

CONTEXT = RenderContext(ASCII, NOW)


def texts(row: Row) -> list[str]:
    return [row.cell(index)[0] for index in range(len(row.cells))]


def entry(name: str, quantization: str | None, size: float | None = 1, **changes: object):  # type: ignore[no-untyped-def]
    return HubFilesRecord(
        name=name,
        quantization=quantization,
        size_bytes=None if size is None else int(size * GIB),
        files=(HubFileRecord(path=name),),
        **changes,  # type: ignore[arg-type]
    )


def download(**changes: object) -> DownloadRecord:
    fields: dict[str, object] = {
        "id": "d",
        "repo": "org/name",
        "filename": "sub/model-Q4_K_M.gguf",
        "status": DownloadStatus.RUNNING,
        "bytes_done": GIB,
        "bytes_total": 4 * GIB,
        "bytes_per_second": 2.5 * 1024**2,
        "seconds_left": 75.0,
    }
    return DownloadRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_unknown_values_of_a_repository_are_dashes() -> None:
    bare, full = result_rows(
        [
            HubModelRecord(repo="org/bare"),
            HubModelRecord(
                repo="org/full",
                downloads=0,
                likes=3,
                updated_at=ago(86400),
                gated=True,
                parameters=3_000_000_000,
                architecture="llama",
                context_length=131_072,
            ),
        ],
        CONTEXT,
    )
    assert texts(bare) == ["org/bare", "", "-", "-", "-", "-", "-", "-"]
    assert texts(full) == ["org/full", "gated", "3.0B", "llama", "128K", "0", "3", "1 d"]


def test_files_stand_by_quantization_the_smallest_first() -> None:
    files = [
        entry("big-Q8_0", "Q8_0", 8),
        entry("big-Q4", "Q4_K_M", 4),
        entry("small-Q8_0", "Q8_0", 2),
        entry("small-Q4", "Q4_K_M", 1),
        entry("odd", None, None),
    ]
    assert [one.name for one in sorted_files(files)] == [
        "odd",
        "small-Q4",
        "big-Q4",
        "small-Q8_0",
        "big-Q8_0",
    ]


def test_a_file_says_whether_it_fits_and_what_is_special() -> None:
    files = [
        entry("a", "Q4", fits=Fit.NOW, suggested=True, memory_estimate_bytes=2 * GIB),
        entry("b", "Q5", fits=Fit.AFTER_UNLOADING, projector=HubFileRecord(path="p")),
        entry("c", "Q6", fits=Fit.NEVER, local_id="c-here"),
        entry("d", None, None),
    ]
    downloads = [download(repo="org/name", filename="b")]
    rows = [texts(row) for row in file_rows(files, "org/name", downloads, CONTEXT)]
    assert rows == [
        ["Q4", "1.00 GiB", "~2.00 GiB", "+ fits", "1", "", "P suggested", "a"],
        ["Q5", "1.00 GiB", "-", "- evicts", "1", "vision", "~ downloading", "b"],
        ["Q6", "1.00 GiB", "-", "x too big", "1", "", "+ downloaded", "c"],
        ["-", "-", "-", "-", "1", "", "", "d"],
    ]


def test_a_file_is_explained_in_sentences() -> None:
    says = file_sentence(
        entry("a", "Q4", fits=Fit.AFTER_UNLOADING, evicts=("x", "y"), suggested=True), gated=False
    )
    assert says == "a: fits once x and y are unloaded. Suggested for this machine."
    assert "hf_token" in file_sentence(entry("a", "Q4"), gated=True)
    assert "even with all models unloaded" in file_sentence(
        entry("a", "Q4", fits=Fit.NEVER), gated=False
    )
    assert "is unknown" in file_sentence(entry("a", "Q4"), gated=False)
    assert "as here" in file_sentence(entry("a", "Q4", local_id="here"), gated=False)
    assert "vision projector" in file_sentence(
        entry("a", "Q4", projector=HubFileRecord(path="p")), gated=False
    )
    assert file_sentence(None, gated=False) == ""
    assert "licence" in result_sentence(HubModelRecord(repo="a/b", gated=True))


def test_a_download_under_way_is_found_by_repository_and_file() -> None:
    one, over = download(), download(id="e", status=DownloadStatus.DONE, filename="other")
    assert active_download([over, one], "org/name", "sub/model-Q4_K_M.gguf") is one
    assert active_download([over, one], "org/name", "other") is None
    assert active_download([over], "org/name") is None


def test_bars_are_full_only_at_the_end() -> None:
    assert UNICODE.bar_text(0.999, 4) == "███░"
    assert ASCII.bar_text(1.0, 4) == "####"
    assert ASCII.bar_text(0.5, 4) == "##.."
    assert percent_text(0.999) == "99 %"


def test_a_download_shows_its_rate_only_while_it_runs() -> None:
    row = texts(download_rows([download()], CONTEXT)[0])
    assert row == [
        "model-Q4_K_M",
        "~ running",
        "##........",
        "25 %",
        "1.00 GiB",
        "4.00 GiB",
        "2.50 MiB/s",
        "1:15",
    ]
    paused = texts(download_rows([download(status=DownloadStatus.PAUSED)], CONTEXT)[0])
    assert paused[1] == "o paused"
    assert paused[-2:] == ["-", "-"]
    assert download(bytes_total=None).share is None
    assert download(status=DownloadStatus.DONE, bytes_total=None).share == 1.0


def test_the_newest_download_is_first() -> None:
    downloads = [
        download(id="old", created_at=ago(100)),
        download(id="unknown"),
        download(id="new", created_at=ago(1)),
    ]
    assert [row.key for row in download_rows(downloads, CONTEXT)] == ["new", "old", "unknown"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "1.00 GiB of 4.00 GiB, from org/name"),
        ({"error": "The hub\nis away; the next try is in 5 s."}, "The hub is away; the next"),
        ({"status": DownloadStatus.VERIFYING}, "verifying the checksum"),
        ({"status": DownloadStatus.DONE, "model_id": "m"}, "Downloaded as m; l loads it"),
        ({"status": DownloadStatus.DONE}, "Downloaded."),
    ],
)
def test_a_download_explains_itself(changes: dict[str, object], says: str) -> None:
    assert says in download_sentence(download(**changes), ASCII)


def test_a_download_without_a_file_is_named_by_its_repository() -> None:
    assert download_name(download(filename=None)) == "name"
