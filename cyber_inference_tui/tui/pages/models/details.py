"""The text of the details pane: all about a model, in sections."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from textual.content import Content

from cyber_inference_tui.records import (
    KeptPromptsRecord,
    MemoryAtContext,
    ModelDetails,
    ModelRecord,
)
from cyber_inference_tui.records.checks import ModelCheck
from cyber_inference_tui.terminal.charset import Charset
from cyber_inference_tui.terminal.text_width import cells, cut, fit, fold, plain
from cyber_inference_tui.terminal.tone import OUTCOME_TONES, Tone
from cyber_inference_tui.text import clean_line, clean_text
from cyber_inference_tui.tui.pages.models.companions import SMALL_MODEL, adapter_parts, draft_parts
from cyber_inference_tui.tui.pages.models.form_values import SOURCES, setting_text
from cyber_inference_tui.tui.pages.models.parts import HEADING, MUTED, Parts, file_parts, heading
from cyber_inference_tui.tui.pages.models.sentences import STYLES, description_text, model_sentence
from cyber_inference_tui.tui.pages.models.table import FIT_TONES, fit_cell
from cyber_inference_tui.tui.setting_text import with_unit
from cyber_inference_tui.tui.ways_out import with_keys
from cyber_inference_tui.units import context_text, counted, size_text

_SHORT_TITLES = {"compute buffers": "COMPUTE", "KV cache": "KV CACHE", "projector": "PROJECTOR"}
_VALUE_CHARACTERS = 2000
_LINES = 12
"""Maximum lines of one value; the file has all of it."""


def details_content(
    record: ModelRecord,
    details: ModelDetails | None,
    *,
    problem: str,
    now: datetime,
    charset: Charset,
    width: int,
    keys: bool = True,
) -> Content:
    """Return the text of the pane in ``width`` cells.

    ``problem`` says why there are no details. ``keys`` adds the key that edits the settings.
    """
    parts = _head(record, now, charset, width)
    if record.error:
        error = clean_text(with_keys(record.error), limit=8000).strip()
        parts += [*heading("ERROR"), (f"{error}\n", STYLES["bad"])]
    if details is None:
        if problem:
            parts += [("\n", ""), (f"{clean_line(problem)}\n", STYLES["bad"])]
        else:
            parts += [("\n", ""), (f"reading its files{charset.ellipsis}\n", MUTED)]
        return Content.assemble(*parts)
    parts += _memory(details.memory, charset, width)
    parts += draft_parts(details, charset, width)
    parts += adapter_parts(details, charset, width, "a changes their strength" if keys else "")
    parts += _kept_prompts(details.kept_prompts)
    parts += _command(details, record, width)
    parts += _check(details.check, width)
    parts += _settings(details, charset, width, keys)
    parts += _facts(details.facts, width)
    parts += _files(details, charset, width)
    return Content.assemble(*parts)


def command_line(details: ModelDetails) -> str:
    """Return its server's command for a shell; empty if there is none."""
    return shlex.join(details.command)


def _head(record: ModelRecord, now: datetime, charset: Charset, width: int) -> Parts:
    text, tone = model_sentence(record, now, charset)
    name = plain(record.id, limit=400)
    return [
        *((f"{piece}\n", "bold") for piece in fold(name, width)),
        (f"{description_text(record, charset)}\n", MUTED),
        # The whole error follows below.
        *([] if record.error else [(f"{text}\n", STYLES[tone])]),
    ]


# Memory


def _memory(rows: Sequence[MemoryAtContext], charset: Charset, width: int) -> Parts:
    if not rows:
        return []
    return [
        *heading("MEMORY", "by context size"),
        *_memory_table(rows, charset, width),
    ]


def _memory_table(rows: Sequence[MemoryAtContext], charset: Charset, width: int) -> Parts:
    """Return the table with its parts if it fits, else with the first two, else with the totals."""
    names = list(dict.fromkeys(part.name for row in rows for part in row.parts))
    for shown in (names, names[:2], []):
        lines = _memory_cells(rows, shown, charset)
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        for gap in (2, 1):
            if sum(widths) + gap * len(widths) + 1 <= width:
                return _aligned(rows, lines, widths, gap, charset)
    return _aligned(rows, lines, widths, 1, charset)


def _memory_cells(
    rows: Sequence[MemoryAtContext], names: Sequence[str], charset: Charset
) -> list[list[str]]:
    titles = [_SHORT_TITLES.get(name, clean_line(name, limit=12).upper()) for name in names]
    lines = [["CONTEXT", *titles, "TOTAL", "FITS"]]
    for row in rows:
        sizes = {part.name: part.size_bytes for part in row.parts}
        lines.append(
            [
                context_text(row.context_size),
                *(charset.known(sizes.get(name), size_text) for name in names),
                charset.known(row.total_bytes, size_text),
                fit_cell(row.fits, charset).text,
            ]
        )
    return lines


def _aligned(
    rows: Sequence[MemoryAtContext],
    lines: Sequence[Sequence[str]],
    widths: Sequence[int],
    gap: int,
    charset: Charset,
) -> Parts:
    parts: Parts = []
    for row, line in zip([None, *rows], lines, strict=True):
        current = row is not None and row.current
        space = " " * gap
        numbers = space.join(
            text.rjust(room) for text, room in zip(line[:-1], widths[:-1], strict=True)
        )
        style = HEADING if row is None else "bold" if current else ""
        tone: Tone = FIT_TONES[row.fits] if row is not None and row.fits is not None else "dim"
        parts += [
            (f"{charset.cursor if current else ' '} {numbers}{space}", style),
            (f"{line[-1]}\n", style if row is None else STYLES[tone]),
        ]
    return parts


# The prompts on the disk


def _kept_prompts(kept: KeptPromptsRecord | None) -> Parts:
    if kept is None:
        return []
    return [
        *heading("KEPT PROMPTS"),
        (f"{_kept_sentence(kept)}\n", "" if kept.prompts else MUTED),
    ]


def _kept_sentence(kept: KeptPromptsRecord) -> str:
    reason = clean_line(kept.reason)
    if kept.works is False:
        return f"None: {reason}."
    if kept.prompts:
        size = size_text(kept.size_bytes)
        return f"{counted(kept.prompts, 'prompt')}, {kept.tokens:,} tokens, {size} on the disk."
    if kept.works:
        return "None now. The next unload keeps long ones on the disk."
    if reason:
        return f"None: {reason}. The next unload tries it again."
    return "None yet. The first unload with a long prompt tries it."


# The command


def _command(details: ModelDetails, record: ModelRecord, width: int) -> Parts:
    if not details.command:
        # An unreadable file has the same problem as its error, which is shown above.
        if not details.command_problem or details.command_problem == record.error:
            return []
        problem = clean_line(with_keys(details.command_problem))
        return [*heading("COMMAND"), (f"{problem}\n", STYLES["bad"])]
    pid = f", pid {record.pid}" if record.pid else ""
    parts = heading("COMMAND", f"y copies it{pid}")
    for line in command_lines(details.command, width):
        parts.append((f"{line}\n", ""))
    return parts


def command_lines(command: Sequence[str], width: int) -> list[str]:
    """Return the command with each option and its values on its own line."""
    lines: list[str] = []
    for place, argument in enumerate(command):
        word = plain(shlex.quote(argument))
        option = argument.startswith("-") and not _is_number(argument)
        if place == 0 or option:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}"
    folded = []
    for place, line in enumerate(lines):
        for number, piece in enumerate(fold(line, max(8, width - 4), after="/")):
            indent = 2 * (place > 0) + 2 * (number > 0)
            folded.append(" " * indent + piece)
    return folded


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdigit()


# The check


def _check(check: ModelCheck | None, width: int) -> Parts:
    if check is None or not check.trials:
        return []
    parts = heading("CHECK", "what it can do")
    left = max(len(trial.ability.value) for trial in check.trials) + 2
    for trial in check.trials:
        outcome = trial.outcome
        parts += [
            (trial.ability.value.ljust(left), ""),
            (f"{outcome.value}\n", STYLES[OUTCOME_TONES[outcome]]),
        ]
        for piece in fold(plain(trial.evidence), max(8, width - 2)):
            parts.append((f"  {piece}\n", MUTED))
    return parts


# Settings, facts and files


def _settings(details: ModelDetails, charset: Charset, width: int, keys: bool) -> Parts:
    if not details.settings:
        return []
    parts = heading("SETTINGS", "e edits them" if keys else "")
    names = [plain(setting.key, limit=24) for setting in details.settings]
    left = max(len(name) for name in names) + 2
    right = max(len(word) for word in SOURCES.values())
    values = [
        with_unit(setting_text(one.key, one.effective), one.effective, one.help) or charset.missing
        for one in details.settings
    ]
    room = max(8, min(width - left - right - 2, max(cells(value) for value in values)))
    for name, value, setting in zip(names, values, details.settings, strict=True):
        own = setting.source == "model"
        source = SOURCES.get(setting.source, plain(setting.source, limit=right))
        first, *more = _folded(value, room, charset)
        parts += [
            (name.ljust(left), ""),
            (fit(first, room, "left", charset.ellipsis), "" if own else MUTED),
            (f"  {source}\n", STYLES["accent"] if own else MUTED),
        ]
        parts += [(f"{' ' * left}{piece}\n", "" if own else MUTED) for piece in more]
    return parts


def _folded(text: str, room: int, charset: Charset) -> list[str]:
    lines = fold(plain(text, limit=_VALUE_CHARACTERS), room)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], charset.ellipsis]
    return lines


def _facts(facts: dict[str, Any], width: int) -> Parts:
    known = [(plain(name, limit=40), _fact_text(value)) for name, value in facts.items()]
    known = [(name, text) for name, text in known if text]
    if not known:
        return []
    left = min(max(len(name) for name, _ in known), width // 2) + 2
    parts = heading("HEADER")
    for name, text in known:
        label = fit(cut(name, left - 2, "."), left, "left", ".")
        parts += [(label, MUTED), (f"{cut(text, max(4, width - left), '.')}\n", "")]
    return parts


def _fact_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return plain(", ".join(_fact_text(one) for one in value[:40]), limit=300)
    return plain(str(value), limit=300)


def _files(details: ModelDetails, charset: Charset, width: int) -> Parts:
    if not details.files and details.projector is None:
        return []
    parts = heading("FILES")
    for file in details.files:
        parts += file_parts(file, "", charset, width)
    if details.projector is not None:
        parts += file_parts(details.projector, "  projector", charset, width)
    return parts


def files_to_delete_text(details: ModelDetails, *, most: int = 6) -> str:
    """Return the files that deleting the model removes, one path per line, at most ``most``."""
    paths = [clean_line(file.path, limit=300) for file in details.files]
    if len(paths) > most:
        paths = [*paths[: most - 1], f"and {len(paths) - most + 1} more"]
    if details.projector is not None:
        path = clean_line(details.projector.path, limit=300)
        paths.append(f"{path} (unless another model uses it)")
    if details.draft is not None and details.draft.kind != SMALL_MODEL:
        for file in details.draft.files:
            path = clean_line(file.path, limit=300)
            paths.append(f"{path} (unless another model uses it)")
    return "\n".join(paths)
