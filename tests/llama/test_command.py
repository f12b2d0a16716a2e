"""The command line and the environment of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.gguf.arguments import read_options
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import (
    MIB,
    cache_ram_mib,
    child_environment,
    custom_argv,
    llama_argv,
    server_alias,
)
from cyber_inference_tui.llama.spec import SPARE_THREADS, STREAMS, ServerSpec, resolve
from cyber_inference_tui.settings.schema import ModelSettings, Settings

FLAGS = frozenset({"--cache-ram", "--threads-http", "--log-colors", "--offline"})
VERBOSITY = frozenset({"-v", "-lv", "--verbosity"})


def local(length: int | None = None, mmproj: Path | None = None, **own: Any) -> LocalModel:
    return LocalModel(
        id="m",
        path=Path("/models/m.gguf"),
        mmproj=mmproj,
        metadata=ModelMetadata(context_length=length),
        settings=ModelSettings(**own),
    )


def argv(
    model: LocalModel,
    flags: frozenset[str] = FLAGS,
    available: int = 100 << 30,
    limit: int | None = None,
    verbosity: int | None = None,
    **general: Any,
) -> list[str]:
    return llama_argv(
        limited(model, limit, **general),
        program="/opt/llama-server",
        flags=flags,
        host="127.0.0.1",
        port=8338,
        available_bytes=available,
        verbosity=verbosity,
    )


def limited(model: LocalModel, limit: int | None = None, **general: Any) -> ServerSpec:
    spec = resolve(model, Settings(**general))
    return spec if limit is None else spec.with_context(limit)


def context_size(model: LocalModel, settings: Settings) -> int | None:
    return resolve(model, settings).context_size


def signature(model: LocalModel, settings: Settings) -> str:
    return resolve(model, settings).signature


def value(words: list[str], option: str) -> str:
    assert words.count(option) == 1
    return words[words.index(option) + 1]


def test_the_command_line_of_a_plain_model() -> None:
    assert argv(local(4096)) == [
        "/opt/llama-server",
        *("--host", "127.0.0.1", "--port", "8338", "--alias", "m"),
        *("--model", "/models/m.gguf", "--ctx-size", "4096"),
        *("--cache-ram", "8192", "--threads-http", str(STREAMS + SPARE_THREADS)),
        *("--log-colors", "off", "--offline"),
    ]


@pytest.mark.parametrize("model_id", ["a,b", ",", "x, y,", "plain"])
def test_a_server_gets_a_single_name_for_any_id(model_id: str) -> None:
    """llama-server splits each ``--alias`` at commas, and takes the names of all."""
    own = local(args=("--alias", "mine", "-c", "1", "-a", "other"))
    words = argv(msgspec.structs.replace(own, id=model_id), llama_args=["-a", "general"])
    alias = value(words, "--alias")
    assert "," not in alias
    assert alias.replace("\x7f", ",") == model_id
    assert len(alias.encode()) == len(model_id.encode())
    assert not {"-a", "mine", "other", "general"} & set(words)
    assert words[-2:] == ["-c", "1"]
    assert server_alias('é/ "\\') == 'é/ "\\'


def test_options_that_a_build_does_not_know_are_not_given() -> None:
    words = argv(local(4096), flags=frozenset())
    assert not FLAGS & set(words)


def test_a_persons_own_arguments_come_last() -> None:
    words = argv(local(args=("--mine", "1")), llama_args=("--general", "2"))
    assert words[-4:] == ["--general", "2", "--mine", "1"]


def test_a_models_own_settings_win_over_the_general_ones() -> None:
    general: dict[str, Any] = {"llama_gpu_layers": 10, "llama_threads": 4, "llama_parallel": 2}
    words = argv(local(), **general)
    assert [value(words, option) for option in ("--gpu-layers", "--threads", "--parallel")] == [
        *("10", "4", "2")
    ]
    words = argv(local(gpu_layers=0, threads=1), **general)
    assert value(words, "--gpu-layers") == "0"
    assert value(words, "--threads") == "1"
    # Values for "llama-server decides" are not passed.
    words = argv(local(gpu_layers=-1, threads=0, parallel=0), **general)
    assert not {"--gpu-layers", "--threads", "--parallel"} & set(words)


def test_a_projector_is_named() -> None:
    assert value(argv(local(mmproj=Path("/models/p.gguf"))), "--mmproj") == "/models/p.gguf"


def test_the_context_is_the_models_own_unless_somebody_wants_another() -> None:
    settings = Settings(default_context_size=8192, max_context_size=16_384)
    assert context_size(local(4096), settings) == 4096
    assert context_size(local(131_072), settings) == 8192
    assert context_size(local(131_072, context_size=65_536), settings) == 65_536
    assert context_size(local(131_072, context_size=0), settings) == 131_072
    own_length = Settings(default_context_size=0, max_context_size=16_384)
    assert context_size(local(4096), own_length) == 4096
    assert context_size(local(131_072), own_length) == 16_384
    assert context_size(local(None), own_length) == 16_384


def test_another_context_wins_over_the_settings() -> None:
    spec = limited(local(131_072, context_size=65_536), 4096)
    assert (spec.context_size, spec.limited, spec.request_context) == (4096, True, 4096)
    assert spec.with_context(65_536).context_size == 65_536
    assert value(argv(local(131_072), limit=4096), "--ctx-size") == "4096"


@pytest.mark.parametrize("option", ["-c", "--ctx-size"])
def test_a_persons_own_context_argument_wins_over_all_but_a_limit(option: str) -> None:
    model = local(131_072, args=(option, "1024", option, "20000"))
    settings = Settings(llama_args=("-c", "512"))
    assert context_size(model, settings) == 20_000
    assert context_size(local(4096), settings) == 512
    assert context_size(local(4096, args=(option, "0")), settings) == 4096
    assert argv(model)[-1] == "20000"
    assert limited(model, 4096).options.context_size == 4096
    # llama-server takes the last value.
    assert argv(model, limit=4096)[-2:] == ["--ctx-size", "4096"]
    # llama-server itself reports values that are no numbers.
    assert context_size(local(4096, args=(option, "many")), Settings()) == 4096


def test_a_verbosity_is_asked_for_unless_the_person_asks_for_one() -> None:
    flags = FLAGS | VERBOSITY
    assert value(argv(local(), flags, verbosity=4), "--verbosity") == "4"
    assert not VERBOSITY & set(argv(local(), flags))
    assert not VERBOSITY & set(argv(local(), FLAGS, verbosity=4))
    for own in (("-lv", "2"), ("-v",), ("--verbosity", "3"), ("--log-verbosity", "1")):
        assert "4" not in argv(local(args=own), flags, verbosity=4)
        assert "4" not in argv(local(), flags, verbosity=4, llama_args=own)
    by_variable = local(env={"LLAMA_ARG_LOG_VERBOSITY": "1"})
    assert "--verbosity" not in argv(by_variable, flags, verbosity=4)


def test_a_signature_changes_with_everything_a_server_depends_on() -> None:
    settings = Settings()
    base = signature(local(131_072), settings)
    assert base == signature(local(131_072, pinned=True, idle_timeout=1), settings)
    assert base == signature(local(131_072), Settings(llama_server_base_port=1, max_queue=1))
    assert base == limited(local(131_072), 8192).signature
    different = [
        limited(local(131_072), 4096).signature,
        signature(local(131_072, context_size=4096, threads=2), settings),
        signature(local(131_072, args=("--no-mmap",)), settings),
        signature(local(131_072, env={"A": "1"}), settings),
        signature(local(131_072, command=("serve", "{port}")), settings),
        signature(local(131_072, Path("/p.gguf")), settings),
        signature(local(131_072), Settings(llama_threads=3)),
        signature(msgspec.structs.replace(local(131_072), size_bytes=1), settings),
    ]
    assert len({base, *different}) == len(different) + 1
    assert all(len(text) == 16 for text in different)


@given(st.integers(0, 1 << 50))
def test_the_prompt_cache_takes_at_most_a_tenth_of_the_free_memory(available: int) -> None:
    size = cache_ram_mib(available)
    assert 0 <= size <= 8192
    assert size * MIB <= available / 10


@pytest.mark.parametrize(
    ("general", "own", "threads", "requests"),
    [
        ({}, {}, 264, 256),
        ({"max_concurrent_requests": 8}, {}, 264, 256),
        ({"max_concurrent_requests": 500}, {}, 508, 500),
        ({"max_concurrent_requests": 500}, {"max_concurrent_requests": 0}, 264, 256),
        ({}, {"max_concurrent_requests": 300}, 308, 300),
        # The user's own threads count, and the last value of them.
        ({}, {"args": ("--threads-http", "16")}, 16, 8),
        ({"llama_args": ("--threads-http=40",)}, {}, 40, 32),
        ({"llama_args": ("--threads-http", "40")}, {"args": ("--threads-http=600",)}, 600, 592),
        ({}, {"args": ("--threads-http", "2")}, 2, 1),
        ({}, {"args": ("--threads-http", "1")}, 1, 1),
        ({}, {"env": {"LLAMA_ARG_THREADS_HTTP": "100"}}, None, 92),
        ({}, {"args": ("--threads-http", "50"), "env": {"LLAMA_ARG_THREADS_HTTP": "9"}}, 50, 42),
        # llama-server's default depends on its slots.
        ({}, {"args": ("--threads-http", "-1")}, 0, 3),
        ({"llama_parallel": 30}, {"args": ("--threads-http", "-1")}, 0, 24),
        (
            {},
            {
                "parallel": 30,
                "args": ("--threads-http", "-1"),
                "env": {"LLAMA_ARG_N_PARALLEL": "4"},
            },
            *(0, 24),
        ),
    ],
)
def test_a_llama_server_takes_as_many_requests_as_it_has_threads_without_the_spare_ones(
    general: dict[str, Any], own: dict[str, Any], threads: int | None, requests: int
) -> None:
    model = local(4096, **own)
    assert read_options(argv(model, **general)).http_threads == threads
    assert limited(model, **general).most_requests == requests


def test_a_command_of_ones_own_takes_any_number_of_requests() -> None:
    model = local(None, command=("serve", "{port}"), args=("--threads-http", "3"))
    assert limited(model).most_requests is None


def test_a_command_of_ones_own_has_its_placeholders_filled_once() -> None:
    model = LocalModel(
        id="my {port}",
        path=Path("/models/{id}.gguf"),
        settings=ModelSettings(
            command=(
                "serve",
                "--on={host}:{port}",
                "{path}",
                "{id}",
                '{"a": {}}',
                "{key}",
                "{other}",
            )
        ),
    )
    assert custom_argv(limited(model), host="127.0.0.1", port=9000, key="{id}") == [
        *("serve", "--on=127.0.0.1:9000", "/models/{id}.gguf", "my {port}"),
        *('{"a": {}}', "{id}", "{other}"),
    ]


def test_secrets_of_ours_do_not_reach_a_server() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "secret",
        "CYBER_INFERENCE_API_KEYS": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LLAMA_API_KEY": "secret",
        "LLAMA_ARG_PORT": "1",
        "LD_PRELOAD": "x.so",
    }
    assert child_environment(ours, {"A": "1", "B": "1"}, {"B": "2", "LC_ALL": "de"}) == {
        "PATH": "/bin",
        "LC_ALL": "de",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0",
        "A": "1",
        "B": "2",
    }


def test_cards_are_numbered_as_nvml_does_unless_somebody_chose_another_order() -> None:
    def order(ours: dict[str, str], own: dict[str, str]) -> str:
        return child_environment(ours, own)["CUDA_DEVICE_ORDER"]

    fastest = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert order({}, {}) == "PCI_BUS_ID"
    assert order(fastest, {}) == "FASTEST_FIRST"
    assert order({}, fastest) == "FASTEST_FIRST"


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=5)))
def test_no_variable_with_a_secrets_name_passes(ours: dict[str, str]) -> None:
    passed = child_environment({f"{name}_TOKEN_KEY": text for name, text in ours.items()})
    prefixes = ("LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "HSA_", "ROCR_", "ROCM_", "VK_", "ZE_")
    more = ("ONEAPI_", "SYCL_", "OMP_", "OPENBLAS_", "MTL_")
    assert all(name.startswith(prefixes + more) for name in passed)
