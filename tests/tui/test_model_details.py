"""The text of the details pane."""

from __future__ import annotations

import shlex

import pytest
from rich.cells import cell_len

from cyber_inference_tui.records import (
    FileRecord,
    Fit,
    KeptPromptsRecord,
    MemoryAtContext,
    MemoryPart,
    ModelDetails,
    ModelRecord,
    ModelSettingRecord,
    ModelStatus,
)
from cyber_inference_tui.terminal.charset import ASCII, UNICODE, Charset
from cyber_inference_tui.tui.pages.models.details import (
    command_line,
    command_lines,
    details_content,
    files_to_delete_text,
)
from tests.tui.world import GIB, NOW, busy_world, model


def text(
    record: ModelRecord,
    details: ModelDetails | None,
    *,
    problem: str = "",
    width: int = 76,
    charset: Charset = UNICODE,
) -> str:
    return details_content(
        record, details, problem=problem, now=NOW, charset=charset, width=width
    ).plain


def at(size: int, fits: Fit | None = Fit.NOW, *, current: bool = False) -> MemoryAtContext:
    parts = (
        MemoryPart(name="weights", size_bytes=2 * GIB),
        MemoryPart(name="KV cache", size_bytes=size * 100_000),
        MemoryPart(name="compute buffers", size_bytes=GIB // 2),
        MemoryPart(name="projector", size_bytes=GIB),
    )
    total = sum(part.size_bytes for part in parts)
    return MemoryAtContext(
        context_size=size, total_bytes=total, parts=parts, fits=fits, current=current
    )


def test_the_memory_table_is_aligned_and_marks_the_current_size() -> None:
    rows = (at(2048), at(8192, Fit.AFTER_UNLOADING, current=True), at(131_072, Fit.NEVER))
    said = text(model("a"), ModelDetails(model=model("a"), memory=rows)).splitlines()
    start = next(place for place, line in enumerate(said) if line.startswith("MEMORY"))
    assert said[start + 1 : start + 5] == [
        "  CONTEXT   WEIGHTS  KV CACHE  COMPUTE  PROJECTOR     TOTAL  FITS",
        "       2K  2.00 GiB   195 MiB  512 MiB   1.00 GiB  3.69 GiB  ✔ fits",
        "▸      8K  2.00 GiB   781 MiB  512 MiB   1.00 GiB  4.26 GiB  ◍ evicts",
        "     128K  2.00 GiB  12.2 GiB  512 MiB   1.00 GiB  15.7 GiB  ✖ too big",
    ]


def test_a_part_that_a_row_lacks_is_a_dash() -> None:
    bare = MemoryAtContext(context_size=4096, total_bytes=GIB)
    said = text(model("a"), ModelDetails(model=model("a"), memory=(at(2048), bare)))
    row = next(line for line in said.splitlines() if "4K" in line)
    assert row.split() == ["4K", *[UNICODE.missing] * 4, "1.00", "GiB", UNICODE.missing]


@pytest.mark.parametrize("width", [30, 40, 57, 60, 76])
@pytest.mark.parametrize("charset", [UNICODE, ASCII])
def test_no_line_of_the_sections_is_wider_than_the_pane(width: int, charset: Charset) -> None:
    record = model("wide模型" * 12, status=ModelStatus.UNLOADED)
    details = ModelDetails(
        model=record,
        facts={"name": "x" * 200, "a very long name of a fact that goes on": 1},
        files=(FileRecord(path="/models/" + "模" * 80, size_bytes=GIB),),
        projector=FileRecord(path="/models/" + "p" * 90),
        memory=(at(2048), at(131_072, Fit.AFTER_UNLOADING, current=True)),
        command=("/opt/llama-server", "--model", "/models/" + "n" * 120, "-c", "2048"),
        settings=(
            ModelSettingRecord(
                key="args", value=["x" * 200], effective=["x" * 200], source="model", help=""
            ),
        ),
    )
    said = text(record, details, width=width, charset=charset)
    # The first lines are sentences, which the widget wraps itself.
    sections = said[said.index("MEMORY") :].splitlines()
    assert [line for line in sections[1:] if cell_len(line) > width] == []


def test_the_command_has_each_option_on_its_line() -> None:
    command = ("/opt/a b/llama-server", "--model", "/m.gguf", "--no-mmap", "--temp", "-0.5")
    assert command_lines(command, 40) == [
        "'/opt/a b/llama-server'",
        "  --model /m.gguf",
        "  --no-mmap",
        "  --temp -0.5",
    ]
    details = ModelDetails(model=model("a"), command=command)
    assert shlex.split(command_line(details)) == list(command)


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (
            KeptPromptsRecord(works=True, prompts=2, tokens=9120, size_bytes=GIB),
            "2 prompts, 9,120 tokens, 1.00 GiB on the disk.",
        ),
        (KeptPromptsRecord(works=True), "None now. The next unload keeps long ones on the disk."),
        (KeptPromptsRecord(), "None yet. The first unload with a long prompt tries it."),
        (
            KeptPromptsRecord(reason="it answered: no\x1b[1m"),
            "None: it answered: no. The next unload tries it again.",
        ),
        (KeptPromptsRecord(works=False, reason="it writes no text"), "None: it writes no text."),
    ],
)
def test_what_is_kept_of_its_prompts_is_said(kept: KeptPromptsRecord, sentence: str) -> None:
    details = ModelDetails(model=model("a"), kept_prompts=kept)
    assert f"KEPT PROMPTS\n{sentence}\n" in text(model("a"), details)
    assert "KEPT PROMPTS" not in text(model("a"), ModelDetails(model=model("a")))


def test_why_there_is_no_command_is_said() -> None:
    details = ModelDetails(model=model("a"), command_problem="There is no llama-server.")
    assert "COMMAND\nThere is no llama-server." in text(model("a"), details)
    # Not twice: an unreadable file has no command for the reason that is its error.
    details = ModelDetails(model=model("a"), command_problem="it is cut short")
    assert text(model("a", error="it is cut short"), details).count("it is cut short") == 1


def test_settings_stand_with_their_origin() -> None:
    details = ModelDetails(
        model=model("a"),
        settings=(
            ModelSettingRecord(
                key="context_size", value=4096, effective=4096, source="model", help=""
            ),
            ModelSettingRecord(key="threads", value=None, effective=8, source="env", help=""),
            ModelSettingRecord(key="args", value=None, effective=[], source="default", help=""),
        ),
    )
    rows = [line.split() for line in text(model("a"), details).splitlines()]
    assert ["context_size", "4096", "this", "model"] in rows
    assert ["threads", "8", "environment"] in rows
    assert ["args", UNICODE.missing, "default"] in rows


def test_an_error_is_shown_in_full() -> None:
    failed = model("a", status=ModelStatus.FAILED, error="It failed.\nlast line of the log")
    assert "ERROR\nIt failed.\nlast line of the log" in text(failed, None)


def test_what_is_known_is_shown_while_the_rest_is_read() -> None:
    said = text(model("a"), None)
    assert said.startswith("a\nqwen3 ·")
    assert "reading its files…" in said
    said = text(model("a"), None, problem="The service is busy.")
    assert "reading" not in said
    assert "The service is busy." in said


def test_facts_and_files() -> None:
    record = busy_world().models["qwen3-4b-q4_k_m"]
    details = ModelDetails(
        model=record,
        facts={"layers": 36, "vocabulary": 151_936, "tied": True, "none": None, "list": [1, 2]},
        files=(FileRecord(path="/m/a.gguf", size_bytes=2 * GIB), FileRecord(path="/m/b.gguf")),
        projector=FileRecord(path="/m/mmproj.gguf", size_bytes=GIB),
    )
    rows = [line.split() for line in text(record, details).splitlines()]
    assert ["vocabulary", "151,936"] in rows
    assert ["tied", "yes"] in rows
    assert ["list", "1,", "2"] in rows
    assert ["2.00", "GiB", "/m/a.gguf"] in rows
    assert [UNICODE.missing, "/m/b.gguf"] in rows
    assert ["projector"] in rows
    assert not any(row[:1] == ["none"] for row in rows)


def test_what_deleting_removes() -> None:
    files = tuple(FileRecord(path=f"/m/{number}.gguf") for number in range(9))
    details = ModelDetails(model=model("a"), files=files, projector=FileRecord(path="/m/p.gguf"))
    lines = files_to_delete_text(details).splitlines()
    assert lines[:2] == ["/m/0.gguf", "/m/1.gguf"]
    assert lines[-2:] == ["and 4 more", "/m/p.gguf (unless another model uses it)"]


def test_nothing_from_outside_reaches_the_terminal_raw() -> None:
    evil = "\x1b]52;c;aGk=\x07\x1b[2J\u202e[/oops"
    record = model(evil, architecture=evil, error=evil, status=ModelStatus.FAILED)
    details = ModelDetails(
        model=record,
        facts={evil: evil},
        files=(FileRecord(path=evil),),
        command=(evil, f"--x={evil}"),
        settings=(ModelSettingRecord(key=evil, value=evil, effective=evil, source=evil, help=""),),
        memory=(
            MemoryAtContext(
                context_size=1, total_bytes=1, parts=(MemoryPart(name=evil, size_bytes=1),)
            ),
        ),
    )
    said = text(record, details)
    assert all(line.isprintable() for line in said.splitlines())
    assert "\u202e" not in said
    assert "[/oops" in said
