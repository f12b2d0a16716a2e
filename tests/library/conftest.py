"""A models directory to fill, and its library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cyber_inference_tui.library.catalog import Catalog
from cyber_inference_tui.library.library import Library
from tests.gguf.headers import write_gguf

PROJECTOR = {"general.architecture": "clip", "clip.has_vision_encoder": True}


class Home:
    """A ``models_dir`` with files, and its catalogs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models_dir = root / "models"
        self.models_dir.mkdir()

    def model(self, name: str, metadata: Mapping[str, object] | None = None) -> Path:
        return write_gguf(self.models_dir / name, metadata)

    def projector(self, name: str, metadata: Mapping[str, object] | None = None) -> Path:
        return self.model(name, {**PROJECTOR, **(metadata or {})})

    def shards(self, name: str, count: int) -> list[Path]:
        return [
            self.model(
                f"{name}-{number + 1:05}-of-{count:05}.gguf",
                {"split.no": number, "split.count": count},
            )
            for number in range(count)
        ]

    def library(self, **more: Any) -> Library:
        return Library(models_dir=self.models_dir, **more)

    def scan(self, **more: Any) -> Catalog:
        return self.library(**more).scan()

    def ids(self, **more: Any) -> list[str]:
        return list(self.scan(**more).models)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)
