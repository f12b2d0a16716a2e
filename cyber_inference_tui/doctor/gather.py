"""Gathers facts about the machine and the settings. Everything blocks; nothing is changed.

``root`` contains the machine's ``proc/``, ``sys/``, ``etc/``, ``dev/`` and ``var/``, ``container``
those of this process (see ``monitor.main_memory``).
"""

from __future__ import annotations

import os
import platform
import re
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import psutil

from cyber_inference_tui.doctor.facts import (
    ConfigurationFacts,
    DeviceFacts,
    DirectoryFacts,
    GpuFacts,
    LlamaFacts,
    ModelFact,
    ModelsFacts,
)
from cyber_inference_tui.errors import ConfigError, NoLlamaServerError, StorageError
from cyber_inference_tui.library.catalog import Origin
from cyber_inference_tui.library.library import Library
from cyber_inference_tui.library.stores import Stores, find_stores
from cyber_inference_tui.llama.binary import examine, locate_llama_server
from cyber_inference_tui.llama.install.hardware import gpus, has_vulkan_driver
from cyber_inference_tui.llama.install.layout import Layout, update_of
from cyber_inference_tui.monitor.device import read_device
from cyber_inference_tui.monitor.gpu_memory import amd_memory, nvidia_memory
from cyber_inference_tui.monitor.kernel_files import entries, read_bytes, read_integer, read_line
from cyber_inference_tui.monitor.nvml import Nvml, load_pynvml, visible_gpus
from cyber_inference_tui.monitor.sensors.amd import AmdSensor
from cyber_inference_tui.monitor.sensors.tegra import power_mode, power_modes
from cyber_inference_tui.records.bench import BenchResult
from cyber_inference_tui.service.history import HISTORY_FILE
from cyber_inference_tui.service.history_file import read_benches
from cyber_inference_tui.settings.credentials import (
    check_credentials_possible,
    missing_credentials,
)
from cyber_inference_tui.settings.load import LoadedSettings, SettingSource, config_path, key_name
from cyber_inference_tui.settings.masks import holds_secret
from cyber_inference_tui.settings.schema import KEYS, Settings, keys_of, tables_of
from cyber_inference_tui.sockets import is_loopback
from cyber_inference_tui.storage import Storages
from cyber_inference_tui.text import clean_line

_SCAN_LIMIT = 15.0
"""Seconds for storages that are slow but do answer."""
_PROGRAM_LIMIT = 5.0
"""Seconds for each run of llama-server; there are four at most."""
_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
"""The first byte of a PCI class: display controllers, including those that only compute."""
_MOST_POLICIES = 64
_OTHER_PROGRAMS = frozenset({Origin.HUB_CACHE, Origin.LM_STUDIO, Origin.OLLAMA})


def machine_facts(root: Path) -> DeviceFacts:
    """Describe the machine."""
    modes = read_bytes(root / "etc/nvpmodel.conf") or b""
    return DeviceFacts(
        device=read_device(root),
        architecture=platform.machine(),
        python=platform.python_version(),
        root_user=os.geteuid() == 0,
        power_mode=power_mode(read_bytes(root / "var/lib/nvpmodel/status") or b"", modes),
        power_modes=power_modes(modes),
        clocks_pinned=_clocks_pinned(root),
    )


def _clocks_pinned(root: Path) -> bool | None:
    """Return whether every processor clock is fixed at its maximum, as by jetson_clocks."""
    folder = root / "sys/devices/system/cpu/cpufreq"
    bounds = [
        (
            read_integer(folder / name / "scaling_min_freq"),
            read_integer(folder / name / "scaling_max_freq"),
        )
        for name in entries(folder)[:_MOST_POLICIES]
        if name.startswith("policy")
    ]
    known = [(low, high) for low, high in bounds if low is not None and high is not None]
    return all(low == high for low, high in known) if known else None


def gpu_facts(root: Path, environ: Mapping[str, str], nvml: Nvml | None = None) -> GpuFacts:
    """Describe the GPUs; ``nvml`` is the library, if it need not be loaded."""
    library = nvml is not None or load_pynvml() is not None
    nvml = nvml or Nvml()
    handles = [handle for handle in nvml.gpus() if handle is not None]
    amd = AmdSensor(root).read_memory()
    visible = visible_gpus(environ.get("CUDA_VISIBLE_DEVICES"))
    kfd = root / "dev/kfd"
    return GpuFacts(
        shown=gpus(root),
        nvidia_card=_has_nvidia_card(root),
        nvml_library=library,
        nvidia_names=tuple(
            clean_line(nvml.text("nvmlDeviceGetName", handle) or "NVIDIA GPU", limit=100)
            for handle in handles
        ),
        amd_names=tuple(gpu.name for gpu in amd),
        memory=(*nvidia_memory(nvml, visible), *amd_memory(amd)),
        kfd_usable=os.access(kfd, os.R_OK | os.W_OK) if kfd.exists() else None,
    )


def _has_nvidia_card(root: Path) -> bool:
    devices = root / "sys/bus/pci/devices"
    return any(
        read_line(devices / name / "vendor") == _NVIDIA_VENDOR
        and (read_line(devices / name / "class") or "").startswith(_DISPLAY_CLASS)
        for name in entries(devices)
    )


def llama_facts(settings: Settings, environ: Mapping[str, str]) -> LlamaFacts:
    """Probe the llama-server that the settings lead to."""
    vulkan = has_vulkan_driver(settings.system_root)
    path = None
    try:
        path = locate_llama_server(
            setting=settings.llama_server_path, data_dir=settings.data_dir, environ=environ
        ).resolve()
        binary = examine(path, environ, timeout=_PROGRAM_LIMIT)
    except NoLlamaServerError as error:
        way_out = error.hint
        if path is not None and settings.llama_server_path:
            # The setting is binding: installing another build would not help.
            way_out = (
                "Set llama_server_path to one that runs here, or remove it to use the installed "
                "one."
            )
        return LlamaFacts(problem=error.message, way_out=way_out, vulkan_driver=vulkan)
    layout = Layout(settings.data_dir)
    current = layout.current() if path.is_relative_to(layout.root.resolve()) else None
    return LlamaFacts(
        binary=binary,
        vulkan_driver=vulkan,
        # From the record of the last check, without network access.
        update=update_of(current, layout.newest()),
        source=current.source if current else "",
    )


def configuration_facts(loaded: LoadedSettings) -> ConfigurationFacts:
    """Describe the configuration that was read, and its file."""
    settings, path = loaded.settings, loaded.config_path
    refusal = way_out = ""
    try:
        check_credentials_possible(loaded, settings.host)
    except ConfigError as error:
        refusal, way_out = error.message, error.hint
    secrets = [
        name
        for name, key in KEYS.items()
        if loaded.sources[name] is SettingSource.FILE and holds_secret(key, getattr(settings, name))
    ]
    secrets += [
        clean_line(key_name((*table, name)))
        for table in tables_of(settings)
        for name, key in keys_of(table).items()
        if holds_secret(key, loaded.value(key, table))
    ]
    return ConfigurationFacts(
        path=path,
        exists=path.exists(),
        warnings=loaded.warnings,
        refusal=refusal,
        refusal_way_out=way_out,
        secrets=tuple(secrets),
        mode=_mode(path),
        open_host="" if is_loopback(settings.host) else settings.host,
        has_keys=bool(settings.api_keys),
        has_password=bool(settings.admin_password),
        to_be_made=missing_credentials(settings, settings.host),
    )


def broken_configuration(
    error: ConfigError, config: Path | None, environ: Mapping[str, str]
) -> ConfigurationFacts:
    """Describe an unreadable configuration. Raises ``ConfigError`` if its path is invalid."""
    path = config_path(config, environ)
    return ConfigurationFacts(
        path=path, exists=path.exists(), mistakes=tuple(str(error).splitlines())
    )


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def directory_facts(settings: Settings, container: Path) -> tuple[DirectoryFacts, ...]:
    """Describe the directories of the settings."""
    mounts = mount_table(read_bytes(container / "proc/mounts") or b"")
    if not mounts and container == Path("/"):
        # A system without /proc.
        mounts = {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    named = [("data_dir", settings.data_dir, True), ("models_dir", settings.models_dir, True)]
    named += [("model_dirs", path, False) for path in settings.model_dirs]
    storages = Storages()
    found = []
    for key, path, write in named:
        try:
            facts = storages.ask(path, partial(_directory, key, path, mounts, write=write))
        except StorageError:
            facts = DirectoryFacts(key=key, path=path, exists=True, silent=True, must_write=write)
        found.append(facts)
    return tuple(found)


def _directory(key: str, path: Path, mounts: Mapping[str, str], *, write: bool) -> DirectoryFacts:
    try:
        exists = path.exists()
        there = path
        while not there.exists() and there != there.parent:
            there = there.parent
        room = os.statvfs(there)
        free = room.f_bavail * room.f_frsize
        real = there.resolve()
    except (OSError, RuntimeError):
        # No access to a directory above, a loop of links, a missing network disk.
        return DirectoryFacts(key=key, path=path, exists=True, usable=False, must_write=write)
    needed = os.R_OK | os.X_OK | (os.W_OK if write else 0)
    return DirectoryFacts(
        key=key,
        path=path,
        exists=exists,
        is_directory=there.is_dir(),
        usable=os.access(there, needed),
        must_write=write,
        free=free if write else None,
        file_system=file_system_of(real, mounts),
    )


def mount_table(content: bytes) -> dict[str, str]:
    """Return file system types by mount point (``proc_mounts(5)``); later mounts win."""
    table = {}
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        fields = line.split(" ")
        if len(fields) >= 3:
            # Blanks, tabs, newlines and backslashes are encoded as \040 and so on.
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
            table[point] = clean_line(fields[2], limit=40)
    return table


def file_system_of(path: Path, mounts: Mapping[str, str]) -> str | None:
    """Return the type of the file system of ``path`` (absolute, no links)."""
    return next((mounts[str(one)] for one in (path, *path.parents) if str(one) in mounts), None)


def models_facts(settings: Settings, environ: Mapping[str, str]) -> ModelsFacts:
    """Describe the models that a service would list, including those of other programs.

    Unlike a service's scan, this one leaves no cache behind.
    """
    catalog = Library(
        models_dir=settings.models_dir,
        model_dirs=settings.model_dirs,
        model_settings=settings.models,
        stores=find_stores(environ) if settings.discover else Stores(),
    ).scan(_SCAN_LIMIT)
    return ModelsFacts(
        models=tuple(
            ModelFact(
                id=model.id,
                size=model.size_bytes,
                problem=model.problem,
                elsewhere=model.origin in _OTHER_PROGRAMS,
            )
            for model in catalog.models.values()
        ),
        problems=tuple(
            clean_line(f"{problem.where}: {problem.reason}") for problem in catalog.problems
        ),
        models_dir=settings.models_dir,
    )


def bench_results(settings: Settings) -> tuple[BenchResult, ...]:
    """Return all results of benches in the history, newest first; none if it cannot be read."""
    return tuple(read_benches(settings.data_dir / HISTORY_FILE))
