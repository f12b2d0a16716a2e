"""Services as they could be, for the terminal app's tests: records with fixed times and numbers."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cyber_inference_tui.records import (
    ActiveRequestRecord,
    ConfigValueRecord,
    CpuRecord,
    DeviceKind,
    DeviceRecord,
    DiskRecord,
    DownloadRecord,
    DownloadStatus,
    EnergyRecord,
    FanRecord,
    Fit,
    GpuPoint,
    GpuRecord,
    HubCardRecord,
    HubFileRecord,
    HubFilesRecord,
    HubModelRecord,
    InstallRecord,
    InstallSource,
    LlamaServerRecord,
    LogLevel,
    LogRun,
    MemoryAtContext,
    MemoryPart,
    MemoryPool,
    MemoryRecord,
    ModelDetails,
    ModelRecord,
    ModelSettingRecord,
    ModelStatus,
    ModelUsage,
    NetworkRecord,
    NumberedLine,
    RequestPhase,
    RequestRecord,
    ResourceSample,
    SessionRecord,
    SpeedTotals,
    StatusRecord,
    SwapRecord,
    ThrottleReason,
    Trend,
    TrendMark,
    TrendPoint,
)
from cyber_inference_tui.records.bench import BenchFigure, BenchResult
from cyber_inference_tui.records.peers import PeerRecord, PeerState, Role
from cyber_inference_tui.settings.schema import KEYS
from tests.fakes.service import World

NOW = datetime(2026, 3, 5, 12, 4, 31, tzinfo=UTC)
"""The moment at which every one of these worlds stands."""
GIB = 1024**3
MIB = 1024**2


def ago(seconds: float) -> datetime:
    """So long before ``NOW``."""
    return NOW - timedelta(seconds=seconds)


def status(**changes: object) -> StatusRecord:
    """The status of a service that has been up for three days."""
    fields: dict[str, object] = {
        "version": "0.2.0",
        "pid": 4711,
        "uptime_seconds": 3 * 86400 + 4 * 3600 + 12 * 60.0,
        "host": "127.0.0.1",
        "port": 8337,
        "llama_server": LlamaServerRecord(path="/opt/llama.cpp/llama-server", version="b9310"),
        "models_loaded": 0,
        "requests_in_flight": 0,
        "requests_queued": 0,
        "config_path": "/home/user/.config/cyber-inference-tui/config.toml",
        "data_dir": "/home/user/.local/share/cyber-inference-tui",
        "models_dir": "/home/user/.local/share/cyber-inference-tui/models",
    }
    return StatusRecord(**{**fields, **changes})  # type: ignore[arg-type]


def jetson_sample(number: int = 0, *, busy: bool = True, **changes: object) -> ResourceSample:
    """A Jetson Orin Nano; ``number`` 0 is the newest sample, higher ones are older."""
    wave = (number * 37 % 50) if busy else number * 7 % 4
    fields: dict[str, object] = {
        "at": ago(number * 2),
        "device": DeviceRecord(
            kind=DeviceKind.JETSON,
            name="Jetson Orin Nano 8 GB",
            jetpack="6.2",
            l4t="36.4.3",
            chip="tegra234",
            power_mode="25W",
            power_modes={0: "15W", 1: "25W", 2: "MAXN_SUPER"},
            os="Ubuntu 22.04.5 LTS",
            kernel="5.15.148-tegra",
        ),
        "cpu": CpuRecord(
            percent=20.0 + wave / 2,
            per_core=(41.0,) * 6,
            count=6,
            load_average=(2.31, 1.94, 1.2),
            frequencies_hz=(1_510_400_000, 1_728_000_000),
            max_frequencies_hz=(1_728_000_000,) * 2,
            frequency_cores=((0, 1, 2, 3), (4, 5)),
        ),
        "memory": MemoryRecord(
            total=int(7.4 * GIB), available=int(2.3 * GIB), used=int(5.1 * GIB), percent=68.9
        ),
        "swap": SwapRecord(total=4 * GIB, used=0, percent=0.0),
        "gpus": (
            GpuRecord(
                name="Orin",
                utilization_percent=40.0 + wave if busy else 0.0,
                temperature_c=61.0,
                shared_memory=True,
                clock_hz=1_020_000_000,
                max_clock_hz=1_020_000_000,
            ),
        ),
        "temperatures": {"cpu": 58.5, "gpu": 61.0, "tj": 61.0},
        "power": {"total": 4.0 + wave / 20, "VDD_CPU_GPU_CV": 1.9, "VDD_SOC": 1.1},
        "power_limits": {"VDD_CPU_GPU_CV": 15.0},
        "fan": FanRecord(percent=42.0, rpm=2100),
        "disks": (
            DiskRecord(
                path="/home/user/.local/share/cyber-inference-tui",
                total=58 * GIB,
                available=int(16.5 * GIB),
                used=int(38.6 * GIB),
                percent=70.1,
                read_bytes_per_second=3.1 * MIB,
                write_bytes_per_second=0.2 * MIB,
                sd_card=True,
            ),
        ),
        "networks": (
            NetworkRecord(
                name="enP8p1s0",
                receive_bytes_per_second=31.2 * MIB,
                send_bytes_per_second=0.4 * MIB,
            ),
        ),
        "uptime_seconds": 400_000.0,
        "models": (
            ModelUsage(
                id="qwen3-4b-q4_k_m",
                pid=5000,
                cpu_percent=38.0,
                memory_private_bytes=int(0.8 * GIB),
                memory_mapped_bytes=int(2.3 * GIB),
                in_flight=2,
                tokens_per_second=21.4,
            ),
            ModelUsage(id="nomic-embed-text-v2", pid=5001, memory_private_bytes=int(0.4 * GIB)),
        ),
    }
    return ResourceSample(**{**fields, **changes})  # type: ignore[arg-type]


def with_disk(world: World, free: int) -> World:
    """Give the newest sample a disk of the models with ``free`` bytes."""
    world.samples[-1] = msgspec.structs.replace(
        world.samples[-1], disks=(DiskRecord(path="/models", total=100 * GIB, available=free),)
    )
    return world


def model(model_id: str, **changes: object) -> ModelRecord:
    """An unloaded model of 2.5 GB that fits."""
    fields: dict[str, object] = {
        "id": model_id,
        "path": f"/home/user/.local/share/cyber-inference-tui/models/{model_id}.gguf",
        "size_bytes": int(2.3 * GIB),
        "architecture": "qwen3",
        "parameters": 4_022_468_096,
        "quantization": "Q4_K_M",
        "context_length": 8192,
        "context_size": 8192,
        "trained_context_length": 40960,
        "memory_estimate_bytes": int(3.1 * GIB),
        "memory_estimate_source": "measured",
        "fits": Fit.NOW,
        "fits_reason": "needs 3.10 GiB, 4.00 GiB is free",
    }
    return ModelRecord(**{**fields, **changes})  # type: ignore[arg-type]


def request(number: int, **changes: object) -> RequestRecord:
    """A chat that was answered; higher numbers are later."""
    fields: dict[str, object] = {
        "id": number,
        "at": ago(600 - number * 10),
        "model": "qwen3-4b-q4_k_m",
        "path": "/v1/chat/completions",
        "status": 200,
        "stream": True,
        "tokens_in": 40 + number,
        "tokens_out": 100 + number * 7 % 90,
        "tokens_per_second": 21.0 + number % 3,
        "time_to_first_token_seconds": 0.21,
        "queue_seconds": 0.0,
        "duration_seconds": 5.2,
        "client": "127.0.0.1",
    }
    return RequestRecord(**{**fields, **changes})  # type: ignore[arg-type]


def line(number: int, text: str, level: LogLevel = LogLevel.INFO) -> NumberedLine:
    """One line of a log, a tenth of a second after the one before."""
    return NumberedLine(number=number, at=ago(300 - number / 10), text=text, level=level)


def setting(key: str, value: object, **changes: object) -> ConfigValueRecord:
    """One setting with its default."""
    fields: dict[str, object] = {
        "key": key,
        "value": value,
        "source": "default",
        "default": value,
        "help": f"What {key} is for.",
        "live": True,
        "group": KEYS[key].group if key in KEYS else "",
    }
    return ConfigValueRecord(**{**fields, **changes})  # type: ignore[arg-type]


def empty_world() -> World:
    """The first start on a small machine: no llama-server, no model."""
    idle = [jetson_sample(number, busy=False, models=()) for number in range(150, -1, -1)]
    return World(
        status=status(llama_server=LlamaServerRecord(), uptime_seconds=3.0),
        samples=idle,
        rooms=[
            MemoryPool(
                pool="memory",
                limit_bytes=int(5.9 * GIB),
                free_bytes=int(5.8 * GIB),
                free_after_unloading_bytes=int(5.8 * GIB),
            )
        ],
        config=_config(),
        install=InstallRecord(
            sources=(
                InstallSource(
                    name="source",
                    summary="CUDA build on this machine, about 25 min",
                    recommended=True,
                ),
                InstallSource(name="debian", summary="CPU build, 1 min"),
                InstallSource(
                    name="github",
                    summary="the project's own build",
                    possible=False,
                    problem="needs glibc 2.38, this system has 2.35",
                ),
            )
        ),
        found=_found(),
        hub_files=_hub_files(),
    )


def busy_world() -> World:
    """Two models loaded, one loading, one failed; requests in every phase; a download running."""
    models = [
        model(
            "gemma-3-4b-it-q4_k_m",
            status=ModelStatus.LOADING,
            progress=0.64,
            queued=3,
            expected_wait_seconds=6.0,
            memory_estimate_bytes=int(2.9 * GIB),
            memory_estimate_source="formula",
            architecture="gemma3",
            capabilities=("completion", "chat", "vision"),
            vision=True,
            fits=Fit.AFTER_UNLOADING,
            fits_reason="needs 2.90 GiB, 2.30 GiB is free, 5.40 GiB when idle models are unloaded",
            last_used_at=ago(86400),
        ),
        model(
            "nomic-embed-text-v2",
            status=ModelStatus.LOADED,
            size_bytes=int(0.4 * GIB),
            architecture="nomic-bert",
            parameters=475_000_000,
            quantization="Q8_0",
            context_length=2048,
            context_size=2048,
            trained_context_length=2048,
            slots=1,
            pid=5001,
            port=8339,
            pinned=True,
            capabilities=("embeddings",),
            embedding=True,
            memory_bytes=int(0.4 * GIB),
            memory_estimate_bytes=int(0.4 * GIB),
            fits=None,
            fits_reason=None,
            loaded_at=ago(7200),
            last_used_at=ago(11),
        ),
        model(
            "phi-4-mini-q4_k_m",
            status=ModelStatus.FAILED,
            architecture="phi3",
            error="The model needs more memory than the GPU has: cudaMalloc failed: out of memory.",
            fits=Fit.NOW,
        ),
        model(
            "qwen3-4b-q4_k_m",
            status=ModelStatus.LOADED,
            slots=4,
            pid=5000,
            port=8338,
            in_flight=2,
            memory_bytes=int(3.1 * GIB),
            fits=None,
            fits_reason=None,
            loaded_at=ago(3600),
            last_used_at=ago(0),
            aliases=("qwen",),
        ),
        model(
            "qwen3-32b-q4_k_m",
            size_bytes=int(18.5 * GIB),
            parameters=32_762_123_264,
            memory_estimate_bytes=int(21.7 * GIB),
            memory_estimate_source="formula",
            fits=Fit.NEVER,
            fits_reason="needs 21.7 GiB, this machine may use 5.90 GiB for models",
        ),
    ]
    return World(
        status=status(models_loaded=2, requests_in_flight=2, requests_queued=3),
        models={one.id: one for one in sorted(models, key=lambda one: one.id)},
        samples=[jetson_sample(number) for number in range(200, -1, -1)],
        rooms=[
            MemoryPool(
                pool="memory",
                limit_bytes=int(5.9 * GIB),
                free_bytes=int(0.8 * GIB),
                free_after_unloading_bytes=int(0.8 * GIB),
            )
        ],
        active=[
            ActiveRequestRecord(
                number=31,
                at=ago(14),
                model="qwen3-4b-q4_k_m",
                path="/v1/chat/completions",
                phase=RequestPhase.ANSWERING,
                stream=True,
                time_to_first_token_seconds=0.2,
                client="127.0.0.1",
            ),
            ActiveRequestRecord(
                number=32,
                at=ago(2),
                model="qwen3-4b-q4_k_m",
                path="/v1/chat/completions",
                phase=RequestPhase.PROCESSING,
                stream=True,
                client="192.168.1.20",
            ),
            *(
                ActiveRequestRecord(
                    number=32 + place,
                    at=ago(7 - place),
                    model="gemma-3-4b-it-q4_k_m",
                    path="/v1/chat/completions",
                    phase=RequestPhase.WAITING,
                    stream=True,
                    position=place,
                    queue_seconds=7.0 - place,
                    client="127.0.0.1",
                )
                for place in (1, 2, 3)
            ),
        ],
        requests=[
            request(
                58,
                model="phi-4-mini-q4_k_m",
                status=503,
                tokens_in=None,
                tokens_out=None,
                tokens_per_second=None,
                time_to_first_token_seconds=None,
                duration_seconds=3.1,
                error="The model needs more memory than the GPU has.",
            ),
            request(
                57,
                model="nomic-embed-text-v2",
                path="/v1/embeddings",
                stream=False,
                tokens_in=512,
                tokens_out=None,
                tokens_per_second=None,
                duration_seconds=0.09,
            ),
            *(request(number) for number in range(56, 20, -1)),
        ],
        sessions=[
            SessionRecord(
                id=7,
                model="phi-4-mini-q4_k_m",
                load_reason="request",
                unload_reason="idle for 5 min",
                loaded_at=ago(2000),
                unloaded_at=ago(900),
                load_seconds=4.2,
                requests=12,
            )
        ],
        speed_totals=_speed_totals(),
        details={one.id: _details(one) for one in models},
        logs=_logs(),
        runs={
            "qwen3-4b-q4_k_m": (
                LogRun(first=0, started_at=ago(9000), pid=4800),
                LogRun(first=40, started_at=ago(3604), pid=5000),
            )
        },
        config=_config(),
        found=_found(),
        hub_files=_hub_files(),
        hub_cards=_hub_cards(),
        downloads={
            "d1": DownloadRecord(
                id="d1",
                repo="unsloth/Qwen3-8B-GGUF",
                filename="Qwen3-8B-Q4_K_M.gguf",
                quantization="Q4_K_M",
                status=DownloadStatus.RUNNING,
                bytes_done=int(1.9 * GIB),
                bytes_total=int(4.7 * GIB),
                bytes_per_second=31.0 * MIB,
                seconds_left=93.0,
                created_at=ago(70),
            )
        },
    )


def hot_world() -> World:
    """A Jetson that gets hotter and hotter, until its GPU slows down."""
    world = busy_world()
    world.samples = [_hot_sample(number) for number in range(200, -1, -1)]
    return world


def _hot_sample(number: int) -> ResourceSample:
    sample = jetson_sample(number)
    heat = max(58.0, 87.4 - number / 5)
    loads = tuple(float((number * 17 + core * 31) % 80 + 15) for core in range(6))
    (gpu,) = sample.gpus
    return msgspec.structs.replace(
        sample,
        cpu=msgspec.structs.replace(sample.cpu, per_core=loads, percent=sum(loads) / 6),
        gpus=(
            msgspec.structs.replace(
                gpu,
                temperature_c=heat,
                temperature_limit_c=85.0,
                clock_hz=612_000_000 if heat > 85 else gpu.clock_hz,
                throttled_by=(ThrottleReason.TEMPERATURE,) if heat > 85 else (),
            ),
        ),
        temperatures={
            "cpu": heat - 3,
            "gpu": heat,
            **{f"soc{place}": heat - 4 - place for place in range(3)},
            "tj": heat,
        },
        power={**sample.power, "total": 12.0 + number % 9 / 2},
        zram=SwapRecord(total=int(3.7 * GIB), used=int(0.4 * GIB), memory=121 * MIB),
    )


def plain_world() -> World:
    """A virtual machine without a GPU and without sensors."""
    world = busy_world()
    world.samples = [
        msgspec.structs.replace(
            sample,
            device=DeviceRecord(
                name="QEMU Standard PC", processor="EPYC", os="Debian 13", kernel="6.12.41"
            ),
            cpu=CpuRecord(percent=sample.cpu.percent, per_core=(35.0, None, 71.0, 8.0), count=3),
            gpus=(),
            temperatures={},
            power={},
            power_limits={},
            fan=None,
        )
        for sample in world.samples
    ]
    return world


def slow_world() -> World:
    """A service with a request that waited for a load and had a cold prompt."""
    world = busy_world()
    world.active = []
    slow = request(
        90,
        at=ago(40),
        duration_seconds=31.4,
        queue_seconds=4.2,
        load_seconds=4.1,
        queue_ahead=0,
        prompt_seconds=24.9,
        answer_seconds=2.3,
        tokens_in=28_104,
        tokens_cached=12,
        tokens_out=96,
        tokens_per_second=40.1,
        time_to_first_token_seconds=29.1,
        prompt_differs_at=79,
        prompt_differs_in="the system prompt",
        request_id="8c3b1f1e",
    )
    world.requests.insert(0, slow)
    return world


def streaming_world() -> World:
    """A workstation with two GPUs, three models that answer eight streams, and a past of 7 days."""
    world = busy_world()
    sizes = {"qwen3-4b-q4_k_m": 3.1, "gemma-3-4b-it-q4_k_m": 2.9, "llama-3.2-3b-instruct-q8_0": 4.2}
    for number, (name, size) in enumerate(sizes.items()):
        world.models[name] = model(
            name,
            status=ModelStatus.LOADED,
            slots=4,
            pid=5000 + number,
            port=8338 + number,
            in_flight=(3, 3, 2)[number],
            memory_bytes=int(size * GIB),
            fits=None,
            fits_reason=None,
            loaded_at=ago((3600, 190, 7200)[number]),
            last_used_at=ago(0),
        )
    world.models = dict(sorted(world.models.items()))
    world.samples = [_workstation_sample(number, sizes) for number in range(200, -1, -1)]
    world.rooms = [
        MemoryPool(
            pool="gpu",
            limit_bytes=int(19.2 * GIB),
            free_bytes=int(6.4 * GIB),
            free_after_unloading_bytes=int(6.8 * GIB),
        ),
        MemoryPool(
            pool="memory",
            limit_bytes=51 * GIB,
            free_bytes=41 * GIB,
            free_after_unloading_bytes=41 * GIB,
        ),
    ]
    agents = ("claude-cli/2.0", "open-webui/0.6", "python-httpx/0.28", "curl/8.5")
    world.active = [
        ActiveRequestRecord(
            number=40 + number,
            at=ago(22 - number * 2.5),
            model=list(sizes)[number % 3],
            path="/v1/chat/completions",
            phase=RequestPhase.ANSWERING,
            stream=True,
            time_to_first_token_seconds=0.2 + number * 0.03,
            tokens_out=900 - number * 110,
            tokens_per_second=42.0 - number,
            client="127.0.0.1",
            user_agent=agents[number % 4],
        )
        for number in range(8)
    ]
    world.requests = [
        msgspec.structs.replace(
            one,
            id=one.id + 100,
            at=ago(30 + 7 * place),
            model=list(sizes)[place % 3] if one.status == 200 and one.stream else one.model,
            time_to_first_token_seconds=0.2 + place * 37 % 60 / 100 if one.stream else None,
            user_agent=agents[place % 4],
        )
        for place, one in enumerate(world.requests)
    ]
    world.status = status(models_loaded=4, requests_in_flight=8, requests_queued=0)
    world.trends = {
        span: _past(span, points, sizes)
        for span, points in ((3600, 180), (86400, 288), (604800, 336))
    }
    return world


def _speed_totals() -> dict[str, list[SpeedTotals]]:
    """The totals of three models, two programs and the last days."""
    qwen = SpeedTotals(
        name="qwen3-4b-q4_k_m",
        requests=1311,
        failures=2,
        tokens_in=402_112,
        tokens_out=688_010,
        tokens_per_second_p50=21.4,
        tokens_per_second_p95=14.2,
        first_token_seconds_p50=0.21,
        first_token_seconds_p95=4.37,
        last_used_at=ago(1),
    )
    nomic = SpeedTotals(
        name="nomic-embed-text-v2",
        requests=90,
        failures=0,
        tokens_in=46_080,
        tokens_out=0,
        last_used_at=ago(11),
    )
    phi = SpeedTotals(
        name="phi-4-mini-q4_k_m",
        requests=4,
        failures=4,
        tokens_in=0,
        tokens_out=0,
        last_used_at=ago(20),
    )
    clients = ("claude-cli", "open-webui")
    return {
        "model": [qwen, nomic, phi],
        "client": [msgspec.structs.replace(qwen, name=name) for name in clients],
        "day": [
            msgspec.structs.replace(
                qwen,
                name=f"2026-03-0{day}",
                requests=100 + day,
                tokens_per_second_p50=20.0 + day,
                last_used_at=ago(86400 * (5 - day)),
            )
            for day in range(1, 6)
        ],
    }


def several_boxes_world() -> World:
    """The busy world with two other boxes, one of which does not answer."""
    world = busy_world()
    sizes = {"qwen3-4b-q4_k_m": 3.1}
    there = [
        model("gpt-oss-20b-mxfp4", parameters=20_900_000_000, fits=Fit.AFTER_UNLOADING),
        model(
            "qwen3-4b-q4_k_m",
            status=ModelStatus.LOADED,
            slots=4,
            in_flight=1,
            memory_bytes=int(3.1 * GIB),
            loaded_at=ago(900),
            fits=None,
            fits_reason=None,
        ),
    ]
    world.boxes = [
        PeerRecord(
            name="cellar",
            url="https://192.168.1.30:8337",
            state=PeerState.STALE,
            problem="It does not answer: Connection timeout to host.",
            version="0.2.0",
            models=(model("phi-4-mini-q4_k_m"),),
            sample=jetson_sample(30, busy=False),
            heard_at=ago(340),
        ),
        PeerRecord(
            name="workstation",
            url="https://192.168.1.20:8337",
            role=Role.ADMIN,
            state=PeerState.CONNECTED,
            version="0.2.0",
            models=tuple(there),
            sample=_workstation_sample(0, sizes),
            heard_at=NOW,
            requests=1,
        ),
    ]
    world.requests.insert(
        0, request(900, at=ago(2), box="workstation", model="gpt-oss-20b-mxfp4", status=200)
    )
    return world


def _speeds(seconds: float, sizes: dict[str, float]) -> dict[str, float]:
    """Tokens per second by model so long ago: each model has its own rhythm."""
    found = {}
    for number, name in enumerate(sizes):
        wave = math.sin(seconds / (41 + 13 * number) + number) + math.sin(seconds / 17 + number) / 3
        if wave > -0.4 and (number != 1 or seconds < 190):
            found[name] = round(40 + 30 * wave + 12 * number, 1)
    return found


def _workstation_sample(number: int, sizes: dict[str, float]) -> ResourceSample:
    speeds = _speeds(number * 2.0, sizes)
    load = min(99.0, 12 + sum(speeds.values()) / 2.1)
    late = number * 2 < 190
    return jetson_sample(
        number,
        device=DeviceRecord(
            kind=DeviceKind.COMPUTER, name="Workstation", processor="Ryzen 9", os="Debian 13"
        ),
        cpu=CpuRecord(
            percent=14 + load / 5,
            per_core=tuple(float((number * 13 + core * 29) % 70) for core in range(12)),
            count=12,
            load_average=(3.02, 2.8, 2.11),
            frequencies_hz=tuple(3_600_000_000 + core * 40_000_000 for core in range(12)),
            max_frequencies_hz=(4_650_000_000,) * 12,
        ),
        memory=MemoryRecord(
            total=64 * GIB, available=44 * GIB, used=(20 + late) * GIB, percent=31.0
        ),
        swap=SwapRecord(total=0, used=0),
        gpus=tuple(
            GpuRecord(
                name="NVIDIA RTX A2000 12GB",
                utilization_percent=load if not place else load * 0.6,
                memory_total=12 * GIB,
                memory_used=int((7.5 - 2.9 * (not late) - place) * GIB),
                temperature_c=52.0 + load / 5,
                temperature_limit_c=96.0,
                power_w=20 + load / 2,
                power_limit_w=70.0,
                fan_percent=48.0,
                clock_hz=1_740_000_000,
                max_clock_hz=2_100_000_000,
                memory_clock_hz=6_001_000_000,
                throttled_by=() if place or load < 99 else (ThrottleReason.POWER,),
                shared_memory=False,
            )
            for place in range(2)
        ),
        temperatures={},
        power={},
        power_limits={},
        fan=FanRecord(percent=48.0),
        disks=(
            DiskRecord(
                path="/srv/models",
                total=931 * GIB,
                available=512 * GIB,
                used=371 * GIB,
                percent=42.0,
                read_bytes_per_second=812.0 * MIB,
                write_bytes_per_second=0.1 * MIB,
            ),
        ),
        models=tuple(
            ModelUsage(
                id=name,
                pid=5000 + place,
                memory_private_bytes=GIB,
                gpu_memory_bytes=int(size * GIB),
                tokens_per_second=speeds.get(name),
            )
            for place, (name, size) in enumerate(sizes.items())
        ),
    )


def _past(seconds: int, points: int, sizes: dict[str, float]) -> Trend:
    step = seconds / points
    found = []
    for place in range(points, 0, -1):
        age = place * step
        at = ago(age)
        night = at.hour < 6
        speeds = {} if night else _speeds(age / step * 6, dict.fromkeys(sizes, 0.0))
        load = sum(speeds.values()) / 2.1
        found.append(
            TrendPoint(
                at=at,
                cpu_percent=8 + load / 4,
                memory_used=20 * GIB,
                memory_total=64 * GIB,
                power_w=40 + load,
                temperature_c=48 + load / 4,
                gpus=tuple(
                    GpuPoint(utilization_percent=min(99.0, load), memory_used=6 * GIB)
                    for _ in range(2)
                ),
                tokens_per_second=speeds,
                first_token_seconds=0.3 + place % 7 / 10 if speeds else None,
            )
        )
    marks = (
        TrendMark(at=ago(seconds * 0.62), kind="loaded", subject="qwen3-4b-q4_k_m", text="loaded"),
        TrendMark(at=ago(seconds * 0.4), kind="throttled", subject="GPU", text="throttled: heat"),
        TrendMark(at=ago(seconds * 0.2), kind="failed", subject="phi-4-mini-q4_k_m", text="failed"),
    )
    return Trend(step_seconds=step, points=tuple(found), marks=marks)


def _bench_figure(median: float, spread: float) -> BenchFigure:
    values = (median, median - spread, median + spread, median)
    return BenchFigure(median=median, spread=spread, values=values)


def _bench_result(number: int, model: str, speed: float, **more: Any) -> BenchResult:
    at = NOW - timedelta(hours=30 - 9 * number)
    base: dict[str, Any] = {
        "id": number,
        "run": at,
        "at": at,
        "model": model,
        "build": "b11669",
        "power_mode": "25W",
        "context_size": 8192,
        "slots": 2,
        "prompt": 512,
        "tokens": 128,
        "tokens_per_second": _bench_figure(speed, speed / 100),
        "prompt_tokens_per_second": _bench_figure(30 * speed, speed / 4),
        "time_to_first_token_seconds": _bench_figure(17 / speed, 0.01),
        "peak_memory_bytes": 3 << 30,
        "peak_temperature_c": 61.4,
    }
    return BenchResult(**{**base, **more})


def bench_results() -> list[BenchResult]:
    """Two builds and two models, measured on three days."""
    return [
        _bench_result(3, "qwen3-4b-q4_k_m", 20.1),
        _bench_result(2, "gemma-3-4b-it-q4_k_m", 24.9, throttled=("cpu: temperature",)),
        _bench_result(
            1,
            "qwen3-4b-q4_k_m",
            21.4,
            build="b11500",
            joules_per_token=_bench_figure(0.52, 0.01),
        ),
    ]


def mode_results() -> list[BenchResult]:
    """A model in each power mode of a Jetson: more watts, more speed, more energy."""
    at = NOW - timedelta(days=1)
    figures = {"25W": (21.4, 0.52), "MAXN_SUPER": (24.9, 0.67), "15W": (17.8, 0.41)}
    return [
        _bench_result(
            6 - place,
            "qwen3-4b-q4_k_m",
            speed,
            run=at,
            at=at,
            power_mode=mode,
            joules_per_token=_bench_figure(joules, 0.01),
        )
        for place, (mode, (speed, joules)) in enumerate(figures.items())
    ]


def _details(record: ModelRecord) -> ModelDetails:
    trained = record.trained_context_length or 0
    sizes = [size for size in (2048, 8192, 16384, 32768) if size <= trained]
    weights = record.size_bytes or 0
    return ModelDetails(
        model=record,
        facts={
            "architecture": record.architecture,
            "layers": 36,
            "embedding length": 2560,
            "attention heads": 32,
            "KV heads": 8,
            "vocabulary": 151_936,
            "licence": "apache-2.0",
        },
        memory=tuple(
            MemoryAtContext(
                context_size=size,
                total_bytes=weights + size * 147_456 + 310 * MIB,
                parts=(
                    MemoryPart(name="weights", size_bytes=weights),
                    MemoryPart(name="KV cache", size_bytes=size * 147_456),
                    MemoryPart(name="compute", size_bytes=310 * MIB),
                ),
                fits=Fit.NOW if size < 16384 else Fit.NEVER,
                current=size == record.context_size,
            )
            for size in sizes
        ),
        command=(
            "/opt/llama.cpp/llama-server",
            "--model",
            record.path or "",
            "--ctx-size",
            str(record.context_size),
            "--port",
            str(record.port or "PORT"),
        ),
        settings=(
            ModelSettingRecord(
                key="context_size",
                value=8192 if record.id.startswith("qwen3-4b") else None,
                effective=record.context_size,
                source="model" if record.id.startswith("qwen3-4b") else "default",
                help="Tokens of context; 0 = the model's own.",
            ),
            ModelSettingRecord(
                key="aliases",
                value=list(record.aliases) or None,
                effective=list(record.aliases),
                source="model" if record.aliases else "default",
                help="Further names under which clients may ask for it.",
            ),
            ModelSettingRecord(
                key="idle_timeout",
                value=None,
                effective=300.0,
                source="default",
                help="Seconds without a request until it is unloaded.",
            ),
            ModelSettingRecord(
                key="pinned",
                value=True if record.pinned else None,
                effective=record.pinned,
                source="model" if record.pinned else "default",
                help="Never evict it and never let it idle out.",
            ),
        ),
    )


def _logs() -> dict[str, list[NumberedLine]]:
    server = [
        line(
            number,
            f"srv  log_server_r: done ({number}): POST /v1/chat/completions 200",
        )
        for number in range(120)
    ]
    server[90] = line(90, "W slot update_slots: id 0 | context is nearly full", LogLevel.WARNING)
    failed = [
        line(0, "load_tensors: loading model tensors, this can take a while"),
        line(
            1,
            "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",
            LogLevel.ERROR,
        ),
        line(2, "llama_model_load: error loading model", LogLevel.ERROR),
    ]
    return {
        "service": [
            line(0, "listening on http://127.0.0.1:8337"),
            line(1, "phi-4-mini-q4_k_m failed: out of memory", LogLevel.ERROR),
            line(2, "loading gemma-3-4b-it-q4_k_m"),
        ],
        "qwen3-4b-q4_k_m": server,
        "phi-4-mini-q4_k_m": failed,
        "nomic-embed-text-v2": [line(0, "main: server is listening on http://127.0.0.1:8339")],
    }


def _config() -> dict[str, ConfigValueRecord]:
    settings = [
        setting("default_context_size", 8192, help="Tokens of context; 0 = the model's own."),
        setting(
            "model_idle_timeout",
            900.0,
            source="env",
            default=300.0,
            help="Seconds without a request until a model is unloaded; 0 = never.",
        ),
        setting("max_memory_percent", 80.0, help="How full memory may be after a load."),
        setting("llama_args", [], help="Further arguments for every server."),
        setting("host", "127.0.0.1", live=False, help="Address to listen on."),
        setting(
            "port", 8337, source="file", live=False, help="Port to listen on; 0 = any free one."
        ),
        setting("api_keys", ["********"], source="file", default=[], secret=True),
        setting("theme", "", help="The terminal app's theme."),
    ]
    return {one.key: one for one in settings}


def _found() -> list[HubModelRecord]:
    return [
        HubModelRecord(
            repo="unsloth/Qwen3-8B-GGUF",
            downloads=210_331,
            likes=402,
            updated_at=ago(86400 * 40),
            parameters=8_190_735_360,
            architecture="qwen3",
            context_length=40960,
            licence="apache-2.0",
        ),
        HubModelRecord(
            repo="ggml-org/gemma-3-4b-it-GGUF",
            downloads=98_112,
            likes=77,
            updated_at=ago(86400 * 200),
            parameters=3_880_099_328,
            architecture="gemma3",
            context_length=131_072,
            licence="gemma",
        ),
        HubModelRecord(
            repo="meta-llama/Llama-3.2-3B-Instruct-GGUF",
            downloads=51_004,
            likes=310,
            updated_at=ago(86400 * 400),
            gated=True,
            architecture="llama",
            licence="llama3.2",
        ),
    ]


def _hub_files() -> dict[str, list[HubFilesRecord]]:
    def files(name: str, quantization: str, size: float, **changes: object) -> HubFilesRecord:
        path = f"{name}-{quantization}.gguf"
        return HubFilesRecord(
            name=path,
            quantization=quantization,
            size_bytes=int(size * GIB),
            files=(HubFileRecord(path=path, size_bytes=int(size * GIB), sha256="ab" * 32),),
            memory_estimate_bytes=int((size + 1.2) * GIB),
            **changes,  # type: ignore[arg-type]
        )

    return {
        "unsloth/Qwen3-8B-GGUF": [
            files("Qwen3-8B", "Q3_K_M", 3.8, fits=Fit.NOW),
            files(
                "Qwen3-8B",
                "Q4_K_M",
                4.7,
                fits=Fit.AFTER_UNLOADING,
                evicts=("qwen3-4b-q4_k_m",),
                suggested=True,
            ),
            files("Qwen3-8B", "Q8_0", 8.1, fits=Fit.NEVER),
        ],
        "ggml-org/gemma-3-4b-it-GGUF": [
            files("gemma-3-4b-it", "Q4_K_M", 2.3, fits=Fit.NOW, local_id="gemma-3-4b-it-q4_k_m")
        ],
    }


def _hub_cards() -> dict[str, HubCardRecord]:
    text = """\
# Qwen3 8B

Qwen3 is the latest generation of language models in the Qwen series, with dense models and \
mixtures of experts. It switches between thinking and plain answers in one model.

# Highlights

- Reasoning, code and common sense in more than 100 languages and dialects.
- Calls tools, with thoughts and without.

# Use

    llama-cli -m Qwen3-8B-Q4_K_M.gguf --jinja"""
    model = _found()[0]
    return {model.repo: HubCardRecord(model=model, text=text)}


def measured(world: World) -> World:
    """Give a world the energy of its board, its requests and its totals."""
    world.requests = [
        one if one.status >= 400 else msgspec.structs.replace(one, energy_j=one.id * 1.9 + 40)
        for one in world.requests
    ]
    world.speed_totals = {
        by: [
            msgspec.structs.replace(one, energy_j=one.requests * 640.0, cost=one.requests * 5e-5)
            for one in totals
        ]
        for by, totals in world.speed_totals.items()
    }
    energy = EnergyRecord(
        joules=1_284_000.0, seconds=273_000.0, covers=("board",), gaps=1, longest_gap_seconds=61.5
    )
    world.samples[-1] = msgspec.structs.replace(world.samples[-1], energy=energy)
    return world
