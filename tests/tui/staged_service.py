"""A busy service for the pictures of the documentation.

The service, its wire and the app are the real ones. Staged are: the machine, whose sensors are
files below a folder (``system_root``); the models, whose files have a real header and no weights;
the stand-in for llama-server that answers in their place; the hub; and the clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from cyber_inference_tui.client.service_client import ServiceClient
from cyber_inference_tui.records import ModelStatus, endpoints
from cyber_inference_tui.records.queries import LoadQuery
from tests.fakes.launcher import write_fake_llama
from tests.hub.stand_in_hub import StandInHub
from tests.monitor import trees
from tests.real.service_process import ServiceProcess
from tests.tui.staged_models import MODELS, fill

_TOTAL = 16_000_000
_SYSTEM = 1_900_000
"""Memory of the machine, and that of its other programs, in kB."""
_CORES = 8
LOADING = "qwen2.5-coder-3b-q4_k_m"
FAILED = "phi-4-mini-q4_k_m"
_FILES = "Read these files before you answer. " * 120


class Machine:
    """A Jetson Orin NX: files below ``root`` whose numbers follow its load."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chance = random.Random(4)
        self.busy = [0] * _CORES
        self.all = [0] * _CORES
        self.heat = 46.0
        policies = {
            f"sys/devices/system/cpu/cpufreq/policy{core}/scaling_{kind}_freq": "1984000\n"
            for core in (0, 4)
            for kind in ("cur", "max")
        }
        trees.write(
            root,
            trees.HOST,
            policies,
            {
                "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, "
                "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
                "etc/os-release": "PRETTY_NAME='Ubuntu 22.04.5 LTS'\n",
                "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
                "proc/device-tree/model": "NVIDIA Jetson Orin NX Developer Kit\0",
                "proc/device-tree/compatible": trees.ORIN_COMPATIBLE,
                "proc/uptime": "967823.10 6400000.00\n",
                "var/lib/nvpmodel/status": "pmode:0000\n",
                "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n"
                "< POWER_MODEL ID=1 NAME=10W >\n< POWER_MODEL ID=2 NAME=15W >\n"
                "< POWER_MODEL ID=3 NAME=25W >\n",
            },
            trees.fan(89, 2100),
        )
        trees.gpu_node(
            root, "sys/devices/platform/bus@0/17000000.gpu", "gpu", load=0, hertz=918_000_000
        )
        self.follow(0, 0)

    def follow(self, streams: int, models: int) -> None:
        """Set all sensors for ``streams`` answers under way and ``models`` bytes of models."""
        near = self.chance.uniform
        load = min(0.97, (0.0, 0.62, 0.84, 0.93)[min(streams, 3)] * near(0.94, 1.05))
        self.heat += (44 + 20 * load - self.heat) * 0.03
        ticks = []
        for core in range(_CORES):
            used = near(2, 9) + (38 * load if core < 2 else 9 * load)
            self.busy[core] += round(used)
            self.all[core] += 50
            ticks.append((self.busy[core], self.all[core] - self.busy[core]))
        sums = tuple(map(sum, zip(*ticks, strict=True)))
        rows = zip(("", *map(str, range(_CORES))), (sums, *ticks), strict=True)
        free = _TOTAL - _SYSTEM - models // 1024 + round(near(-9000, 9000))
        watts = {"VDD_IN": 7.4 + 13 * load, "VDD_CPU_GPU_CV": 1.6 + 9 * load, "VDD_SOC": 2.3}
        rails = [
            trees.rail(number, name, 5040, round(power * near(0.98, 1.02) / 5.04 * 1000))
            for number, (name, power) in enumerate(watts.items(), 1)
        ]
        zones = {"cpu-thermal": 1.5, "gpu-thermal": 2.5, "soc0-thermal": 0.0, "tj-thermal": 2.5}
        self._put(
            {
                "proc/stat": "".join(
                    f"cpu{name} {busy:012d} 0 0 {idle:012d} 0 0 0 0 0 0\n"
                    for name, (busy, idle) in rows
                ),
                "proc/loadavg": f"{1 + 3 * load:.2f} 2.10 1.74 3/412 6789\n",
                "proc/meminfo": f"MemTotal: {_TOTAL:12} kB\nMemFree: {free // 3:12} kB\n"
                f"MemAvailable: {free:12} kB\nSwapTotal: {_TOTAL // 2:12} kB\n"
                f"SwapFree: {_TOTAL // 2 - 3000:12} kB\n",
                "sys/devices/platform/bus@0/17000000.gpu/load": f"{load * 1000:04.0f}\n",
                **trees.ina3221("1-0040", "hwmon3", *rails),
                **trees.zones(
                    {name: round((self.heat + more) * 1000) for name, more in zones.items()}
                ),
            }
        )

    def _put(self, files: trees.Files) -> None:
        """Write the files in place: the service may read at any moment."""
        for name, content in files.items():
            path = self.root / name
            if not path.exists():
                trees.write(self.root, {name: content})
                continue
            with path.open("r+b", buffering=0) as file:
                if file.read().strip() != content.encode().strip():
                    file.seek(0)
                    file.write(content.encode())


class Stage:
    """The running service: its address, its folder, and requests to it."""

    def __init__(self, folder: Path, hub: StandInHub, session: aiohttp.ClientSession) -> None:
        root = folder / "machine"
        self.machine = Machine(root)
        models = folder / "data" / "models"
        models.mkdir(parents=True)
        for name, model in MODELS.items():
            model.write(models / f"{name}.gguf")
        program = write_fake_llama(
            folder / "llama.cpp" / "llama-server",
            switches={name: model.switches() for name, model in MODELS.items()},
        )
        self.service = ServiceProcess(
            folder,
            {
                "system_root": str(root),
                "llama_server_path": str(program),
                "llama_server_base_port": 0,
                "hf_endpoint": hub.url,
                "hf_allowed_hosts": [hub.cdn],
                "model_idle_timeout": 0,
                "models": {"qwen3-4b-q4_k_m": {"pinned": True, "aliases": ["gpt-4o-mini"]}},
            },
        )
        self.session = session
        self.streams = 0

    async def ask(self, client: str, model: str, prompt: str, words: int, **more: Any) -> None:
        """Send a chat request of ``client``, and read its answer of ``words``."""
        body: dict[str, Any] = {
            "model": model,
            "stream": True,
            "messages": [
                {"role": "system", "content": prompt},
                {"role": "user", "content": "What is wrong in the last file?"},
            ],
            "fake": {"text": "word " * words, **more},
        }
        await self._post("/v1/chat/completions", client, body)

    async def embed(self, client: str) -> None:
        """Send a request for an embedding."""
        body = {"model": "nomic-embed-text-v2", "input": "The sky is blue."}
        await self._post("/v1/embeddings", client, body)

    async def _post(self, path: str, client: str, body: Mapping[str, Any]) -> None:
        url = self.service.url + path
        self.streams += 1
        try:
            async with self.session.post(url, json=body, headers={"User-Agent": client}) as answer:
                await answer.read()
        finally:
            self.streams -= 1

    async def load(self, client: ServiceClient) -> None:
        """Load the models that are loaded in the pictures, and let one fail."""
        for name in (FAILED, "qwen3-4b-q4_k_m", "gemma-3-4b-it-q4_k_m", "nomic-embed-text-v2"):
            await client.call(endpoints.LOAD, name, query=LoadQuery(wait=False))

        async def settled() -> bool:
            states = {one.id: one.status for one in await client.call(endpoints.MODELS)}
            return (
                list(states.values()).count(ModelStatus.LOADED) == 3
                and states[FAILED] is ModelStatus.FAILED
            )

        while not await settled():
            await asyncio.sleep(0.1)

    async def follow(self, client: ServiceClient) -> None:
        """Let the machine follow the service, twice a second."""
        while True:
            models = await client.call(endpoints.MODELS)
            held = sum(one.memory_bytes or 0 for one in models)
            self.machine.follow(self.streams, held)
            await asyncio.sleep(0.5)

    async def talk(self, client: str, model: str, *, cached: int, words: int) -> None:
        """Send requests, one after the other, with the pauses of a person or a program."""
        chance = random.Random(client)
        while True:
            times = {"cached": cached, "new": chance.randint(40, 260)}
            speed = {"timings": times, "prefill": times["new"] / 1300}
            await self.ask(client, model, _FILES, chance.randint(words // 2, words), **speed)
            await asyncio.sleep(chance.uniform(0.3, 3.0))

    async def search(self, client: str) -> None:
        """Ask for embeddings in bursts."""
        chance = random.Random(client)
        while True:
            for _ in range(chance.randint(2, 9)):
                await self.embed(client)
            await asyncio.sleep(chance.uniform(2.0, 6.0))

    async def slow_request(self) -> None:
        """Send a request whose prompt differs early from the former ones."""
        system = "You are a careful programmer. The time is {}. " + _FILES
        usual = {"timings": {"cached": 7540, "new": 60}, "prefill": 0.1}
        cold = {"timings": {"cached": 0, "new": 7600}, "prefill": 5.8}

        async def ask(time: str, **more: Any) -> None:
            model = "gemma-3-4b-it-q4_k_m"
            await self.ask("aider/0.86", model, system.format(time), 45, **more)

        for _ in range(4):
            await ask("09:14", **usual)
        await ask("09:15", **cold)


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[tuple[Stage, ServiceClient]]:
    """Run the service in ``folder`` with its clients, and a client of it for the app."""
    async with AsyncExitStack() as stack:
        hub = stack.enter_context(StandInHub())
        fill(hub)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stage = Stage(folder, hub, session)
        await asyncio.to_thread(stage.service.start)
        stack.callback(stage.service.stop)
        client = await stack.enter_async_context(ServiceClient(stage.service.url))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = [tasks.create_task(stage.follow(client))]
        await stage.load(client)
        running += [
            tasks.create_task(work)
            for work in (
                stage.talk("opencode/1.0.68", "qwen3-4b-q4_k_m", cached=6100, words=240),
                stage.talk("Zed/0.214.7", "qwen3-4b-q4_k_m", cached=2300, words=90),
                stage.talk("OpenAI/Python 1.109.1", "gemma-3-4b-it-q4_k_m", cached=480, words=60),
                stage.search("llm/0.27"),
            )
        ]
        yield stage, client
        for task in running:
            task.cancel()
