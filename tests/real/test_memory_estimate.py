"""Estimates of memory beside what a real llama-server says it took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cyber_inference_tui.gguf.demo import write_demo
from tests.gguf import synthetic, synthetic_recurrent
from tests.gguf.synthetic import Synthetic
from tests.gguf.synthetic_projector import projector
from tests.real.reported_memory import MIB, estimated_memory, reported_memory


def check(llama_server: Path, model: Path, arguments: str) -> None:
    words = ["-fit", "off", *arguments.split()]
    real = reported_memory(llama_server, model, words)
    expected = estimated_memory(model, words)
    assert not expected.upper_bound
    # Each line of the log is rounded to a hundredth of a MiB.
    rounding = 0.05 * MIB
    assert expected.weights == pytest.approx(real.weights, rel=0.005, abs=rounding)
    assert expected.repacked == pytest.approx(real.repacked, rel=0.005, abs=rounding)
    assert expected.kv_cache == pytest.approx(real.kv_cache, rel=0.01, abs=rounding)
    assert expected.compute == pytest.approx(real.compute, rel=0.3)
    assert expected.total == pytest.approx(real.total, rel=0.1)


def test_the_demo_model(tmp_path: Path, llama_server: Path) -> None:
    write_demo(tmp_path / "demo.gguf")
    check(llama_server, tmp_path / "demo.gguf", "-c 8192")


@pytest.mark.parametrize(
    ("kind", "make", "arguments"),
    [
        ("quantized cache", synthetic.dense, "-c 8192 -ctk q8_0 -ctv q5_1 -np 3"),
        ("no flash attention", synthetic.dense, "-c 4096 -fa off -ub 256"),
        ("heads per layer", synthetic.uneven, "-c 4096 -np 8 -kvu"),
        ("sliding window", synthetic.windowed, "-c 16384"),
        ("shared cache", synthetic.gemma4, "-c 8192 --no-kv-unified -np 2"),
        ("experts", synthetic.experts, "-c 4096"),
        # With its weights repacked for AMX llama.cpp aborts: GGML_ASSERT(*cur_backend_id != -1).
        ("latent attention", synthetic.deepseek2, "-c 16384 --no-repack"),
        ("attention and state", synthetic_recurrent.falcon_h1, "-c 8192"),
        ("attention or state", synthetic_recurrent.qwen35, "-c 8192 -np 1"),
        ("state only", synthetic_recurrent.mamba, "-c 8192"),
        ("encoder", synthetic.bert, "-c 2048 --embedding"),
    ],
)
def test_each_kind_of_memory(
    tmp_path: Path,
    llama_server: Path,
    kind: str,
    make: Callable[[], Synthetic],
    arguments: str,
) -> None:
    check(llama_server, make().write(tmp_path / f"{kind}.gguf"), arguments)


@pytest.mark.parametrize(
    ("make", "kind", "arguments"),
    [
        (synthetic.dense, "Q4_0", ""),
        (synthetic.dense, "Q4_K", "-lm none"),
        (synthetic.dense, "Q8_0", ""),
        # Its embeddings are its output, too: copied, and mapped as well.
        (synthetic.windowed, "Q4_K", ""),
        (synthetic.windowed, "Q4_K", "--no-repack"),
        (synthetic.experts, "MXFP4", ""),
        (synthetic_recurrent.lfm2, "Q4_0", ""),
    ],
)
def test_weights_that_are_repacked_for_the_processor(
    tmp_path: Path, llama_server: Path, make: Callable[[], Synthetic], kind: str, arguments: str
) -> None:
    model = synthetic.quantized(make(), kind).write(tmp_path / f"{kind}.gguf")
    check(llama_server, model, f"-c 4096 {arguments}")


@pytest.mark.parametrize("kind", ["gemma3", "qwen2vl_merger"])
def test_a_projector(tmp_path: Path, llama_server: Path, kind: str) -> None:
    model = synthetic.windowed().write(tmp_path / "model.gguf")
    beside = projector(kind).write(tmp_path / "mmproj.gguf")
    arguments = ["-c", "2048"]
    real = reported_memory(llama_server, model, ["--mmproj", str(beside), *arguments])
    expected = estimated_memory(model, arguments, projector=beside)
    assert expected.projector == pytest.approx(real.projector, rel=0.2)
    assert expected.projector >= real.projector * 0.99
