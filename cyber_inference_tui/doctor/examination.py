"""Gathers all facts at once, each group within a time limit, and judges them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cyber_inference_tui.doctor import (
    checks,
    gather,
    gather_memory,
    gather_network,
    hardware_checks,
)
from cyber_inference_tui.doctor.facts import ConfigurationFacts, MachineReport
from cyber_inference_tui.doctor.records import Finding
from cyber_inference_tui.records import DeviceKind
from cyber_inference_tui.settings.load import LoadedSettings

LIMIT = 25.0
"""Seconds for everything: more than all limits within."""

_NAMES = {
    "machine": "machine",
    "gpus": "gpu",
    "llama": "llama-server",
    "configuration": "configuration",
    "directories": "directories",
    "service": "service",
    "memory": "memory",
    "models": "models",
    "benches": "directories",
    "hub": "hub",
}
"""The check that a group of facts belongs to."""


def examine(
    loaded: LoadedSettings | None,
    broken: ConfigurationFacts | None,
    *,
    environ: Mapping[str, str],
    offline: bool,
    container: Path = Path("/"),
    limit: float = LIMIT,
) -> tuple[Finding, ...]:
    """Return every finding; without the settings ``loaded`` only those that do not need them.

    ``broken`` describes a configuration that cannot be read. ``container`` contains this process's
    own ``proc/`` and ``sys/``. Blocks for at most ``limit`` seconds.
    """
    root = loaded.settings.system_root if loaded else Path("/")
    groups: dict[str, Callable[[], Any]] = {
        "machine": partial(gather.machine_facts, root),
        "gpus": partial(gather.gpu_facts, root, environ),
        "memory": partial(gather_memory.memory_facts, root, container),
    }
    if loaded is None:
        groups["configuration"] = lambda: broken
    else:
        settings = loaded.settings
        groups |= {
            "configuration": partial(gather.configuration_facts, loaded),
            "llama": partial(gather.llama_facts, settings, environ),
            "directories": partial(gather.directory_facts, settings, container),
            "service": partial(gather_network.service_facts, settings),
            "models": partial(gather.models_facts, settings, environ),
            "benches": partial(gather.bench_results, settings),
        }
        if not offline:
            groups["hub"] = partial(gather_network.hub_facts, settings, environ)
    return judge(gather_all(groups, limit))


def gather_all(groups: Mapping[str, Callable[[], Any]], limit: float) -> MachineReport:
    """Call all of ``groups`` at once and wait ``limit`` seconds; unfinished ones are ``late``.

    Raises an error of any group.
    """
    results: dict[str, Any] = {}
    errors: list[BaseException] = []

    def run(name: str, call: Callable[[], Any]) -> None:
        try:
            results[name] = call()
        except Exception as error:  # noqa: BLE001 - it is raised below, in the caller's thread
            errors.append(error)

    # Daemons: a dead network disk can hold a thread for ever, but not the end of the program.
    threads = {
        name: threading.Thread(target=run, args=(name, call), name=name, daemon=True)
        for name, call in groups.items()
    }
    deadline = time.monotonic() + limit
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    done = dict(results)
    return MachineReport(**done, late=tuple(name for name in groups if name not in done))


def judge(report: MachineReport) -> tuple[Finding, ...]:
    """Return the findings on all gathered facts, in the order of the output."""
    found: list[Finding] = []
    machine, configuration = report.machine, report.configuration
    if machine is not None:
        found += hardware_checks.check_machine(machine)
        found += hardware_checks.check_jetson(machine, report.memory, report.benches or ())
    if report.gpus is not None:
        found += hardware_checks.check_gpus(report.gpus, report.llama)
    if report.memory is not None:
        board = machine is not None and machine.device.kind is not DeviceKind.COMPUTER
        found += hardware_checks.check_memory(report.memory, report.models, board=board)
    if report.llama is not None:
        found += checks.check_llama(report.llama)
    if configuration is not None:
        found += checks.check_configuration(configuration)
        root_user = machine is not None and machine.root_user
        found += checks.check_security(configuration, root_user=root_user)
    if report.directories is not None:
        found += checks.check_directories(report.directories)
    if report.service is not None:
        found += checks.check_service(report.service)
    if report.models is not None:
        found += checks.check_models(report.models)
    if report.hub is not None:
        found += checks.check_hub(report.hub)
    found += [
        Finding.warning(
            _NAMES[name],
            "This could not be checked in time.",
            "Try again; look for a disk or a driver that hangs (`dmesg`).",
        )
        for name in report.late
    ]
    return tuple(found)
