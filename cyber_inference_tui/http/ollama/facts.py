"""The facts of a model in Ollama's notation. Pure.

The fields are those of ``ListModelResponse``, ``ProcessModelResponse`` and ``ShowResponse`` in
``api/types.go`` of Ollama.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from cyber_inference_tui.gguf.reader import Header
from cyber_inference_tui.http.ollama.options import OPTIONS
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.records import ModelRecord

FOR_EVER: Final = timedelta(days=106_751)
"""The time until a model expires that has no idle timeout: Ollama's longest duration."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = 253_402_300_799
"""The end of the year 9999."""
_UNITS: Final = ((1_000_000_000, "B", 1), (1_000_000, "M", 2), (1_000, "K", 0))
_CAPABILITIES: Final = {
    "completion": "completion",
    "tools": "tools",
    "thinking": "thinking",
    "vision": "vision",
    "audio": "audio",
    "infill": "insert",
    "embeddings": "embedding",
}
"""Ollama's words for the capabilities of a record. It has none for the others."""
_NOT_SHOWN: Final = frozenset({"general.name", "tokenizer.chat_template"})
_SHOWN_ITEMS: Final = 5
"""The longest list that is shown with its items, unless a client asks for all."""


def time_of(nanoseconds: int) -> str:
    """Return a time since 1970 with nine digits, because some clients read no other form."""
    seconds, rest = divmod(max(nanoseconds, 0), 1_000_000_000)
    moment = datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def time_text(moment: datetime) -> str:
    """Return a time with its zone, with nine digits in UTC."""
    return time_of((moment - _EPOCH) // timedelta(microseconds=1) * 1000)


def count_text(count: int) -> str:
    """Return a number of parameters: ``7.2B``, ``2.71M``, ``137M``."""
    for size, unit, digits in _UNITS:
        if count >= size:
            whole = count % size == 0
            return f"{count / size:.{0 if whole else digits}f}{unit}"
    return str(count)


def digest_of(model: LocalModel) -> str:
    """Return a digest that changes with the model's files.

    It is not that of their content: reading gigabytes for a list would take minutes.
    """
    return hashlib.sha256(
        f"{model.id}\0{model.size_bytes}\0{model.modified}".encode("utf-8", "surrogateescape")
    ).hexdigest()


def details_of(record: ModelRecord) -> dict[str, Any]:
    """Return the object ``details`` of a model. Unknown facts are empty texts."""
    family = record.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf" if family else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": count_text(record.parameters) if record.parameters else "",
        "quantization_level": record.quantization or "",
    }


def capabilities_of(record: ModelRecord) -> list[str]:
    """Return the model's capabilities in Ollama's words."""
    return [_CAPABILITIES[name] for name in record.capabilities if name in _CAPABILITIES]


def listed(name: str, model: LocalModel, record: ModelRecord) -> dict[str, Any]:
    """Return a model's entry in the list of models, under one of its names."""
    facts = model.metadata
    lengths = {
        "context_length": record.context_length,
        "embedding_length": facts.embedding_length if facts is not None else None,
    }
    return {
        "name": name,
        "model": name,
        "modified_at": time_of(model.modified or 0),
        "size": model.size_bytes or 0,
        "digest": digest_of(model),
        "details": details_of(record) | {key: one for key, one in lengths.items() if one},
        "capabilities": capabilities_of(record),
    }


def running(
    model: LocalModel, record: ModelRecord, *, expires: datetime, in_gpu: int
) -> dict[str, Any]:
    """Return a loaded model's entry. ``in_gpu`` are the bytes of it in the memory of GPUs."""
    return {
        "name": record.id,
        "model": record.id,
        "size": record.memory_bytes or record.memory_estimate_bytes or model.size_bytes or 0,
        "digest": digest_of(model),
        "details": details_of(record),
        "expires_at": time_text(expires),
        "size_vram": in_gpu,
        "context_length": record.context_length or 0,
    }


def header_values(header: Header, *, verbose: bool) -> dict[str, Any]:
    """Return the values of a header. Long lists are empty, unless ``verbose``.

    Texts in lists, as those of the vocabulary, and lists of more than 1,024 numbers are not read.
    """
    found: dict[str, Any] = {key: [] for key in header.array_lengths}
    for key, value in header.values.items():
        if key not in _NOT_SHOWN:
            shown = isinstance(value, tuple) and (verbose or len(value) <= _SHOWN_ITEMS)
            found[key] = list(value) if shown else [] if isinstance(value, tuple) else value  # type: ignore[arg-type]
    return dict(sorted(found.items()))


def parameters_of(defaults: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the options among the defaults of requests, each with one value.

    An option with several values, as ``stop``, occurs several times.
    """
    names = {known[0]: option for option, known in OPTIONS.items()} | {"n_predict": "num_predict"}
    return [
        (names[field], one)
        for field, value in sorted(defaults.items())
        if field in names
        for one in (value if isinstance(value, list) else [value])
    ]


def parameters_text(parameters: list[tuple[str, Any]]) -> str:
    """Return options as ``show`` lists them, one on a line."""
    return "\n".join(f"{name:<30} {_quoted(value)}" for name, value in parameters)


def model_file(name: str, system: str, parameters: list[tuple[str, Any]]) -> str:
    """Return a Modelfile from which ``create`` makes the same model."""
    lines = ['# Modelfile generated by "ollama show"', f"FROM {name}"]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    lines += [f"PARAMETER {name} {_quoted(value)}" for name, value in parameters]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode()
