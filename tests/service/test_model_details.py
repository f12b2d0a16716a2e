"""A model's page: the context sizes to show, and the sources of its settings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.spec import resolve
from cyber_inference_tui.records import ModelSettingRecord
from cyber_inference_tui.scheduler.state import ModelState
from cyber_inference_tui.service.model_details import context_sizes, settings_of
from cyber_inference_tui.settings.load import LoadedSettings, load_text
from cyber_inference_tui.settings.schema import MODEL_KEYS, PRESET_KEYS, ModelSettings
from tests.scheduler.virtual import model


@pytest.mark.parametrize(
    ("current", "trained", "sizes"),
    [
        (8192, 32768, [2048, 4096, 8192, 16384, 32768]),
        (3000, 8000, [2048, 3000, 4096, 8000]),
        (512, 512, [512]),
        (65536, 4096, [2048, 4096, 65536]),
        (8192, None, [2048, 4096, 8192, 16384, 32768, 65536, 131072]),
        (2048, 262144, [2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144]),
    ],
)
def test_context_sizes(current: int, trained: int | None, sizes: list[int]) -> None:
    assert context_sizes(current, trained) == sizes


def loaded(text: str = "", **environ: str) -> LoadedSettings:
    return load_text(text, Path("/c.toml"), environ=environ, flags={})


def rows(
    one: LocalModel, general: LoadedSettings, state: ModelState | None = None
) -> tuple[ModelSettingRecord, ...]:
    return settings_of(one, state, resolve(one, general.settings), general)


def test_settings_have_their_value_and_its_source() -> None:
    general = loaded(
        'llama_args = ["--x"]\nllama_threads = 3\n', CYBER_INFERENCE_MODEL_IDLE_TIMEOUT="7"
    )
    one = model("m", context_size=512, args=("--y",), env={"TOKEN": "secret"}, pinned=True)
    found = {setting.key: setting for setting in rows(one, general)}
    assert set(found) == set(MODEL_KEYS)
    shown = {
        key: (setting.value, setting.effective, setting.source) for key, setting in found.items()
    }
    assert shown["context_size"] == (512, 512, "model")
    assert shown["threads"] == (None, 3, "file")
    assert shown["idle_timeout"] == (None, 7.0, "env")
    assert shown["parallel"] == (None, 0, "default")
    assert shown["args"] == (["--y"], ["--x", "--y"], "model")
    assert shown["env"] == ({"TOKEN": "********"}, {"TOKEN": "********"}, "model")
    assert shown["pinned"] == (True, True, "model")
    assert shown["preload"] == (None, False, "default")
    assert all(setting.help for setting in found.values())


def test_secrets_among_arguments_are_masked() -> None:
    one = model("m", args=("--api-key=k",))
    general = loaded('llama_args = ["--hf-token", "t"]\n')
    (row,) = [row for row in rows(one, general) if row.key == "args"]
    assert row.value == ["--api-key=********"]
    assert row.effective == ["--hf-token", "********", "--api-key=********"]


def test_an_argument_for_the_context_size_wins() -> None:
    for text, args, size, source in (
        ("", ("-c", "1024"), 1024, "model"),
        ('llama_args = ["-c", "2048"]\n', (), 2048, "file"),
    ):
        one = model("m", context_size=512, args=args)
        (setting,) = [row for row in rows(one, loaded(text)) if row.key == "context_size"]
        assert (setting.value, setting.effective, setting.source) == (512, size, source)


def test_a_preset_has_its_own_keys_and_those_of_its_model() -> None:
    table = ModelSettings(
        threads=3, parallel=2, presets={"long": {"context_size": 65536, "parallel": 1}}
    )
    one = msgspec.structs.replace(
        model("m:long"),
        preset_of="m",
        preset_keys=table.presets["long"],
        settings=table.with_preset("long"),
    )
    shown = {
        row.key: (row.value, row.effective, row.source)
        for row in rows(one, loaded("llama_threads = 9\n"))
    }
    assert set(shown) == set(PRESET_KEYS)
    assert shown["context_size"] == (65536, 65536, "model")
    assert shown["parallel"] == (1, 1, "model")
    assert shown["threads"] == (None, 3, "base")
    assert shown["gpu_layers"] == (None, -1, "default")


def test_a_pin_of_this_run_wins() -> None:
    one = model("m")
    state = ModelState(one, resolve(one, loaded().settings))
    state.pinned = True
    (setting,) = [row for row in rows(one, loaded(), state) if row.key == "pinned"]
    assert (setting.value, setting.effective) == (None, True)
