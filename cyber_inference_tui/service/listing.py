"""The library that the settings describe, and its models as records."""

from __future__ import annotations

from pathlib import Path

from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.gguf.demo import DEMO_ID, write_demo
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.llama.needs import Need, Source
from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.settings.schema import Settings


def demo_path(settings: Settings) -> Path:
    """Where the built-in model is written."""
    return settings.data_dir / "demo" / f"{DEMO_ID}.gguf"


def write_demo_for(settings: Settings) -> None:
    """Write the built-in model to its place; raises ``CyberError`` when that fails."""
    path = demo_path(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_demo(path)
    except OSError as error:
        raise CyberError(f"{path} cannot be written: {error.strerror}.") from error


def library_for(settings: Settings, *, demo: bool) -> Library:
    """The library of these settings; with ``demo`` the built-in model is in it, once written."""
    return Library(
        models_dir=settings.models_dir,
        model_dirs=settings.model_dirs,
        model_settings=settings.models,
        extra={DEMO_ID: demo_path(settings)} if demo else {},
        cache_file=settings.data_dir / "headers.json",
    )


def disk_paths(settings: Settings) -> tuple[Path, ...]:
    """The directories whose disks matter: those of models and data, each once."""
    return tuple(dict.fromkeys((settings.models_dir, *settings.model_dirs, settings.data_dir)))


def unloaded_record(model: LocalModel, need: Need | None = None) -> ModelRecord:
    """What is known of a model that nobody ever asked for; ``need`` = what it would take."""
    reckoned = need is not None and need.source is not Source.UNKNOWN
    facts = model.metadata
    return ModelRecord(
        id=model.id,
        aliases=model.aliases,
        path=str(model.path) if model.path else None,
        size_bytes=model.size_bytes,
        architecture=facts.architecture if facts else None,
        parameters=facts.parameters if facts else None,
        quantization=facts.quantization if facts else None,
        context_length=facts.context_length if facts else None,
        context_size=need.context_size if need else None,
        memory_estimate_bytes=need.footprint.total if need and reckoned else None,
        memory_estimate_source=need.source.value if need and reckoned else None,
        pinned=model.settings.pinned,
        error=model.problem,
    )
