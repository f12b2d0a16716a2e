"""The memory of a server, from its log (lines as real servers print them)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyber_inference_tui.llama.footprint import FootprintReader, read_footprint
from cyber_inference_tui.llama.needs import Footprint


def mib(number: float) -> int:
    return round(number * (1 << 20))


# A trial first, then the load (a laptop's GPU, part of the layers).
GPU_WITH_TRIAL = """\
0.00.488.277 I load_tensors:        CUDA0 model buffer size =     0.00 MiB
0.00.488.278 I load_tensors:    CUDA_Host model buffer size =     0.00 MiB
0.00.490.001 I llama_context: constructing llama_context
0.00.492.675 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB
0.00.492.865 I llama_kv_cache:        CPU KV buffer size =     0.00 MiB
0.00.492.867 I llama_kv_cache:      CUDA0 KV buffer size =     0.00 MiB
0.00.492.900 I llama_memory_recurrent:      CUDA0 RS buffer size =    90.40 MiB
0.00.497.968 I sched_reserve:      CUDA0 compute buffer size =   183.44 MiB
0.00.497.989 I sched_reserve:  CUDA_Host compute buffer size =    18.01 MiB
0.00.498.100 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self
0.00.498.101 I common_memory_breakdown_print: |   - Host               |          32 =     5 +  10
0.00.498.200 I common_params_fit_impl: projected to use 4000 MiB of device memory vs. 5700 MiB
0.00.795.071 I load_tensors:   CPU_Mapped model buffer size =   844.04 MiB
0.00.795.071 I load_tensors:        CUDA0 model buffer size =  3616.41 MiB
0.04.350.000 I llama_context: constructing llama_context
0.04.355.258 I llama_context:  CUDA_Host  output buffer size =     0.58 MiB
0.04.355.400 I llama_kv_cache:        CPU KV buffer size =    32.00 MiB
0.04.369.084 I llama_kv_cache:      CUDA0 KV buffer size =   192.00 MiB
0.04.369.085 I llama_kv_cache: size =  224.00 MiB (  4096 cells,   1 layers,  4/1 seqs)
0.04.395.075 I sched_reserve:      CUDA0 compute buffer size =   183.44 MiB
0.04.395.097 I sched_reserve:  CUDA_Host compute buffer size =    18.01 MiB
0.04.500.000 I srv    load_model: prompt cache is enabled, size limit: 8192 MiB
""".splitlines()
GPU = Footprint(
    mapped=mib(844.04),
    host=mib(0.58) + mib(32) + mib(18.01),
    device=mib(3616.41) + mib(192) + mib(183.44),
)


def test_the_load_counts_and_the_trial_before_it_does_not() -> None:
    assert read_footprint(GPU_WITH_TRIAL) == GPU
    assert read_footprint(GPU_WITH_TRIAL[:12]) is None


def test_several_trials_do_not_count_either() -> None:
    assert read_footprint(GPU_WITH_TRIAL[:12] * 3 + GPU_WITH_TRIAL[12:]) == GPU


def test_without_a_trial_and_without_prefixes_as_older_builds_print_them() -> None:
    lines = [line.split(" I ", 1)[1] for line in GPU_WITH_TRIAL[12:]]
    assert read_footprint(lines) == GPU


def test_a_context_that_reserves_again_holds_only_the_last() -> None:
    again = "0.04.600.000 I sched_reserve:      CUDA0 compute buffer size =   200.00 MiB"
    found = read_footprint([*GPU_WITH_TRIAL, again])
    assert found is not None
    assert found.device == GPU.device - mib(183.44) + mib(200)


def test_a_draft_model_and_a_second_context_add_up() -> None:
    draft = [
        "0.05.000.000 I load_tensors:        CUDA0 model buffer size =   100.00 MiB",
        "0.05.000.000 I llama_context: constructing llama_context",
        "0.05.000.000 I llama_kv_cache:      CUDA0 KV buffer size =    10.00 MiB",
        "0.05.000.000 I llama_kv_cache:      CUDA0 KV buffer size =     4.00 MiB",
        "0.05.000.000 I sched_reserve:      CUDA0 compute buffer size =     5.00 MiB",
        "0.05.000.000 I llama_context: constructing llama_context",
        "0.05.000.000 I sched_reserve:      CUDA0 compute buffer size =     6.00 MiB",
    ]
    found = read_footprint([*GPU_WITH_TRIAL, *draft])
    assert found is not None
    assert found.device == GPU.device + mib(100 + 10 + 4 + 5 + 6)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("CPU_Mapped", "mapped"),
        ("MTL0_Mapped", "mapped"),
        ("Metal_Mapped", "mapped"),
        ("CPU", "host"),
        ("CPU_REPACK", "host"),
        ("CPU_AARCH64", "host"),
        ("AMX", "host"),
        ("Host", "host"),
        ("CUDA_Host", "host"),
        ("Vulkan_Host", "host"),
        ("ROCm_Host", "host"),
        ("CUDA0", "device"),
        ("CUDA1_Split", "device"),
        ("Vulkan0", "device"),
        ("ROCm0", "device"),
        ("SYCL0", "device"),
        ("MTL0", "device"),
        ("Metal", "device"),
    ],
)
def test_a_buffers_name_gives_its_place(name: str, place: str) -> None:
    line = f"load_tensors: {name:>12} model buffer size =  1234.50 MiB"
    assert read_footprint([line]) == Footprint(**{place: mib(1234.5)})


def test_the_memory_of_another_box_does_not_count() -> None:
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =     1.00 MiB",
        "load_tensors: RPC0[127.0.0.1:27001] model buffer size =     4.00 MiB",
        "sched_reserve: RPC0[127.0.0.1:27001] compute buffer size =    13.00 MiB",
    ]
    assert read_footprint(lines) == Footprint(mapped=mib(1))


def test_several_devices_are_summed() -> None:
    lines = [f"load_tensors:  CUDA{n} model buffer size =  {n + 1}00.00 MiB" for n in range(3)]
    assert read_footprint(lines) == Footprint(device=mib(600))


def test_other_kinds_of_buffers_count_too() -> None:
    kinds = ("LoRA buffer", "DSV4 key state buffer", "MoE cache", "RS buffer")
    lines = [f"x:      CUDA0 {kind} size =    10.00 MiB for 1.00 MiB of" for kind in kinds]
    assert read_footprint(lines) == Footprint(device=mib(40))


# A model in Q8_0 with tied embeddings on a processor with AMX. Mapped weights are between copied
# ones, so each piece has its own buffer.
AMX = """\
0.00.180.283 I load_tensors:          AMX model buffer size =    43.34 MiB
0.00.180.357 I load_tensors:   CPU_Mapped model buffer size =     2.13 MiB
0.00.180.384 I load_tensors:   CPU_Mapped model buffer size =     0.01 MiB
0.00.180.409 I load_tensors:   CPU_Mapped model buffer size =     0.01 MiB
0.00.261.200 I llama_context: constructing llama_context
0.00.261.289 I llama_context:        CPU  output buffer size =     0.06 MiB
0.00.261.728 I llama_kv_cache:        CPU KV buffer size =    16.50 MiB
0.00.281.425 I sched_reserve:        CPU compute buffer size =    20.53 MiB
0.07.866.302 I common_memory_breakdown_print: |   - AMX    |      43 =    43 +       0 +       0 |
""".splitlines()


def test_copies_for_the_processor_are_in_main_memory_beside_mapped_weights() -> None:
    others = sum(map(mib, (0.06, 16.5, 20.53)))
    mapped = mib(2.13) + 2 * mib(0.01)
    assert read_footprint(AMX) == Footprint(mapped=mapped, host=mib(43.34) + others)
    for name in ("CPU_REPACK", "CPU_AARCH64", "CPU_KLEIDIAI"):
        lines = [line.replace(" AMX ", f" {name} ") for line in AMX]
        assert read_footprint(lines) == read_footprint(AMX)


PROJECTOR = """\
I clip_model_loader: has vision encoder
I clip_ctx: CLIP using CUDA0 backend
I load_hparams: model size:         887.99 MiB
I load_hparams: metadata size:      0.12 MiB
I warmup: warmup with image size = 1472 x 1472
I alloc_compute_meta:      CUDA0 compute buffer size =   248.10 MiB
I alloc_compute_meta:        CPU compute buffer size =    24.93 MiB
""".splitlines()


def test_a_projector_adds_its_weights_and_buffers() -> None:
    with_projector = Footprint(
        mapped=GPU.mapped,
        host=GPU.host + mib(24.93),
        device=GPU.device + mib(887.99) + mib(248.1),
    )
    assert read_footprint([*GPU_WITH_TRIAL, *PROJECTOR]) == with_projector
    tried = "I srv  load_model: [mtmd] estimated worst-case memory usage of mmproj is 1136.09 MiB"
    assert read_footprint([*PROJECTOR, tried, *GPU_WITH_TRIAL, *PROJECTOR]) == with_projector


def test_a_projector_on_the_cpu_lies_in_main_memory() -> None:
    lines = ["clip_ctx: CLIP using CPU backend", "clip_model_loader: model size:   10.00 MiB"]
    assert read_footprint(lines) == Footprint(host=mib(10))
    assert read_footprint(reversed(lines)) == Footprint(host=mib(10))


def test_an_eye_and_an_ear_from_one_file_are_loaded_once() -> None:
    ear = [PROJECTOR[1], PROJECTOR[2], "alloc_compute_meta: CUDA0 compute buffer size = 1.00 MiB"]
    found = read_footprint([*PROJECTOR, *ear])
    assert found is not None
    assert found.device == mib(887.99) + mib(248.1) + mib(1)


def test_a_log_without_such_lines_gives_no_footprint() -> None:
    lines = [
        "0.00.035.033 I srv    load_model: prompt cache is enabled, size limit: 8192 MiB",
        "0.02.9 D ~llama_context:        CPU compute buffer size is  17.4551 MiB, matches",
        "0.00.041.417 I srv  llama_server: listening on http://127.0.0.1:18998",
    ]
    assert read_footprint(lines) is None


def test_a_reader_keeps_only_relevant_lines() -> None:
    reader = FootprintReader()
    assert reader.read() is None
    for line in GPU_WITH_TRIAL:
        reader.add([line, "a line about the size of a context"])
    assert reader.read() == GPU
    reader.add(["x: CUDA0 KV buffer size = 0.01 MiB"] * 100_000)
    assert len(reader._lines) == 2000


@given(st.lists(st.text(max_size=60)))
def test_any_lines_are_read(lines: list[str]) -> None:
    read_footprint(lines)
