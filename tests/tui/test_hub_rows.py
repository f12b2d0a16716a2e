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
from cyber_inference_tui.tui.chrome import download_text
from cyber_inference_tui.tui.pages.hub.catalog import Offer, offer_of
from cyber_inference_tui.tui.pages.hub.downloads_pane import (
    download_name,
    download_rows,
    download_sentence,
)
from cyber_inference_tui.tui.pages.hub.sentences import file_sentence, result_sentence
from cyber_inference_tui.tui.pages.hub.table import (
    ResultLine,
    active_download,
    active_downloads,
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


def test_a_repository_is_shown_with_its_best_model() -> None:
    full = HubModelRecord(
        repo="org/full",
        downloads=0,
        likes=3,
        updated_at=ago(86400),
        parameters=3_000_000_000,
        architecture="llama",
        context_length=131_072,
        licence="mit",
    )
    rest = ["llama", "128K"]
    best = entry("a-Q4", "Q4", 2, fits=Fit.NEVER)
    gated = HubModelRecord(repo="org/gated", gated=True, licence="llama3.2")
    rows = result_rows(
        [
            ResultLine(HubModelRecord(repo="org/bare")),
            ResultLine(full, Offer(best)),
            ResultLine(gated, Offer(best, "a-q4")),
            ResultLine(gated, Offer(best), download(), suggested=True),
        ],
        CONTEXT,
    )
    assert [texts(row) for row in rows] == [
        ["org/bare", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"],
        ["org/full", "3.0B", "x too big", "Q4", "2.00 GiB", "mit", "0", "3", "1 d", *rest],
        ["org/gated", "-", "+ here", "Q4", "2.00 GiB", "gated", "-", "-", "-", "-", "-"],
        ["org/gated", "-", "~ 25 %", "Q4", "2.00 GiB", "gated", "-", "-", "-", "-", "-"],
    ]
    assert [row.cell(0)[1] for row in rows] == ["none", "none", "none", "accent"]


def test_the_best_model_is_the_suggested_else_the_smallest() -> None:
    small, big = entry("small", "Q4_K_M", 1), entry("big", "Q8_0", 2, local_id="here")
    assert offer_of([]) == Offer(None)
    assert offer_of([big, small]) == Offer(small, "here")
    suggested = entry("mid", "Q6_K", 1.5, suggested=True)
    assert offer_of([big, small, suggested]) == Offer(suggested, "here")


def test_a_repository_is_explained_in_a_sentence() -> None:
    one = HubModelRecord(repo="a/b")
    best = entry("b-Q4", "Q4", fits=Fit.NOW, suggested=True)
    assert result_sentence(None) == ""
    assert result_sentence(one) == "enter lists its files."
    assert result_sentence(one, Offer(best)) == (
        "The best here is Q4 (1.00 GiB): fits in the free memory. enter lists its files."
    )
    assert result_sentence(one, Offer(best, "b-q4"), keys="l loads it") == (
        "Downloaded already as b-q4; l loads it."
    )
    assert "being downloaded" in result_sentence(one, Offer(best), downloading=True)
    assert "licence" in result_sentence(HubModelRecord(repo="a/b", gated=True))


def test_the_header_sums_up_the_downloads() -> None:
    one = download()
    waits = download(status=DownloadStatus.QUEUED, bytes_done=0, bytes_total=None)
    more = download(bytes_done=0, bytes_total=16 * GIB)
    assert download_text([download(status=DownloadStatus.DONE)], ASCII) == ""
    assert download_text([one], UNICODE) == "  ▼ 25 %"
    assert download_text([one, waits], ASCII) == "  v 2: 25 %"
    assert download_text([one, more, download(status=DownloadStatus.PAUSED)], ASCII) == "  v 2: 5 %"
    assert download_text([waits], ASCII) == "  v 1"


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
    kept_back = entry("a", "Q4", fits=Fit.NOW, projector_kept_back=True)
    says = file_sentence(kept_back, gated=False)
    assert says == "a: fits in the free memory, with its projector in main memory."
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


def test_a_download_under_way_is_found_by_repository_and_file() -> None:
    one, over = download(), download(id="e", status=DownloadStatus.DONE, filename="other")
    assert active_download([over, one], "org/name", "sub/model-Q4_K_M.gguf") is one
    assert active_download([over, one], "org/name", "other") is None
    assert active_downloads([over]) == {}
    assert active_downloads([over, one]) == {"org/name": one}


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


def test_what_is_done_is_quiet() -> None:
    (row,) = download_rows([download(status=DownloadStatus.DONE)], CONTEXT)
    assert texts(row) == ["model-Q4_K_M", "+ done", "", "", "1.00 GiB", "", "", ""]
    assert {row.cell(index)[1] for index in range(8)} == {"dim"}


def test_what_goes_on_is_first_then_the_newest() -> None:
    downloads = [
        download(id="done", status=DownloadStatus.DONE, created_at=ago(0)),
        download(id="old", created_at=ago(100)),
        download(id="unknown"),
        download(id="new", created_at=ago(1)),
    ]
    assert [row.key for row in download_rows(downloads, CONTEXT)] == [
        "new",
        "old",
        "unknown",
        "done",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "1.00 GiB of 4.00 GiB, from org/name"),
        ({"source": "jetson"}, "of 4.00 GiB, org/name from the box jetson"),
        ({"error": "The hub\nis away; the next try is in 5 s."}, "The hub is away; the next"),
        ({"status": DownloadStatus.VERIFYING}, "verifying the checksum"),
        ({"status": DownloadStatus.DONE, "model_id": "m"}, "Downloaded as m; l loads it"),
        ({"status": DownloadStatus.DONE}, "Downloaded."),
    ],
)
def test_a_download_explains_itself(changes: dict[str, object], says: str) -> None:
    assert says in download_sentence(download(**changes), ASCII, keys="l loads it")


def test_a_download_without_a_file_is_named_by_its_repository() -> None:
    assert download_name(download(filename=None)) == "name"
