"""Judges the software: llama-server, settings, directories, ports, models, the hub."""

from __future__ import annotations

from cyber_inference_tui.doctor.facts import (
    ConfigurationFacts,
    DirectoryFacts,
    HubFacts,
    LlamaFacts,
    ModelsFacts,
    PortState,
    ServiceFacts,
)
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.kernel import on_macos
from cyber_inference_tui.units import size_text

_LEAST_FREE = 200 << 20
_LITTLE_FREE = 2 << 30
_FEW_PORTS = 4
_MOST_LISTED = 10
# Types of file systems, as Linux or macOS ("msdos") names them.
_FOUR_GIB = frozenset({"vfat", "msdos"})
_NO_LINKS = frozenset({"vfat", "msdos", "exfat"})


def check_llama(facts: LlamaFacts) -> list[Finding]:
    """Judge whether there is a llama-server that runs."""
    if facts.binary is None:
        return [
            Finding.error(
                "llama-server",
                facts.problem,
                facts.way_out or "`cyber-inference-tui install-llama` gets another.",
            )
        ]
    if "--model" not in facts.binary.flags:
        # The program runs: only its help shows whether it is a llama-server.
        return [
            Finding.error(
                "llama-server",
                f"{facts.binary.path} is not a llama-server: its --help lists no --model.",
                "Set llama_server_path to a llama-server, or remove it to use the installed one.",
            )
        ]
    devices = "GPUs that it did not list"
    if facts.binary.devices is not None:
        devices = ", ".join(facts.binary.devices) or "the CPU alone"
    text = f"{facts.binary.path}: version {facts.binary.version}, for {devices}."
    found = [Finding.ok("llama-server", text)]
    if facts.update is not None:
        found.append(
            Finding.hint(
                "llama-server",
                f"There is a newer llama-server: {facts.update}.",
                f"`cyber-inference-tui install-llama --from {facts.source}` gets it; "
                "`install-llama --rollback` goes back.",
            )
        )
    return found


def check_configuration(facts: ConfigurationFacts) -> list[Finding]:
    """Report mistakes, warnings, and settings with which the service would not start."""
    found = [
        Finding.error(
            "configuration",
            mistake,
            "Correct it and run doctor again: checks that need the settings were left out.",
        )
        for mistake in facts.mistakes
    ]
    found += [
        Finding.warning("configuration", f"{warning}.", "Correct its spelling, or unset it.")
        for warning in facts.warnings
    ]
    if facts.refusal:
        found.append(Finding.error("configuration", facts.refusal, facts.refusal_way_out or None))
    if not found:
        text = "has no mistakes" if facts.exists else "is not there: the defaults apply"
        found.append(Finding.ok("configuration", f"{facts.path} {text}."))
    return found


def check_security(facts: ConfigurationFacts, *, root_user: bool) -> list[Finding]:
    """Judge who can read our secrets and use the service, and the rights of the service."""
    found = []
    if facts.secrets and facts.mode is not None and facts.mode & 0o077:
        found.append(
            Finding.warning(
                "security",
                f"{facts.path} holds {', '.join(facts.secrets)}, and other users may "
                f"read or change it (mode {facts.mode:04o}).",
                f"chmod 600 '{facts.path}'",
            )
        )
    if facts.open_host and not facts.refusal:
        found += _open_address(facts)
    if root_user:
        found.append(
            Finding.hint(
                "security",
                "This runs as root, which nothing in it needs.",
                "Run the service as an ordinary user.",
            )
        )
    return found


def _open_address(facts: ConfigurationFacts) -> list[Finding]:
    if facts.to_be_made:
        names = " and ".join(facts.to_be_made)
        return [
            Finding.hint(
                "security",
                f"host is {facts.open_host}, which other machines can reach: the service "
                f"makes {names} at its next start, and writes what it made to {facts.path}.",
                f"Set {names} yourself, or bind to 127.0.0.1 and use an SSH tunnel.",
            )
        ]
    unset = {"api_keys": facts.has_keys, "admin_password": facts.has_password}
    names = " and ".join(name for name, is_set in unset.items() if not is_set)
    if not names:
        return []
    right = "use its models" if facts.has_password else "use it and change its settings"
    return [
        Finding.warning(
            "security",
            f"host is {facts.open_host}, insecure_no_auth is set, and {names} not: "
            f"anybody who can reach this machine can {right}.",
            f"Set {names}, or bind to 127.0.0.1 and use an SSH tunnel.",
        )
    ]


def check_directories(directories: tuple[DirectoryFacts, ...]) -> list[Finding]:
    """Judge whether they exist, are writable, have space, and are on a suitable file system."""
    return [finding for facts in directories for finding in _directory(facts)]


def _directory(facts: DirectoryFacts) -> list[Finding]:
    place = f"{facts.key} {facts.path}"
    is_state = facts.key == "data_dir"
    bad = Level.ERROR if is_state else Level.WARNING
    if facts.silent:
        text = f"{place} does not answer."
        fix = "Look for its disk or network mount (`mount`, `dmesg`)."
        return [Finding(check="directories", level=bad, message=text, fix=fix)]
    if not facts.is_directory:
        text = f"{place} is not a directory, or lies below a file."
        return [
            Finding(
                check="directories", level=bad, message=text, fix=f"Set {facts.key} to a directory."
            )
        ]
    if not facts.exists and not facts.must_write:
        text = f"{place} does not exist."
        fix = "Create it, mount the disk, or take it out of model_dirs."
        return [Finding(check="directories", level=bad, message=text, fix=fix)]
    if not facts.usable:
        if not facts.must_write:
            can, fix = "read", f"Let this user read it, or take it out of {facts.key}."
        elif facts.exists:
            can, fix = "written to", f"`sudo chown $USER '{facts.path}'` if it is yours to have"
        else:
            can, fix = "created", f"`sudo install -d -o $USER '{facts.path}'` makes it"
        if facts.must_write:
            fix += f", or set {facts.key} to another directory."
        return [
            Finding(
                check="directories",
                level=bad,
                message=f"{place} cannot be {can} by this user.",
                fix=fix,
            )
        ]
    found = [*_room(facts, place), *_file_system(facts, place)]
    if not any(one.level in {Level.WARNING, Level.ERROR} for one in found):
        state = "" if facts.exists else " will be created when it is needed"
        free = f": {size_text(facts.free)} free" if facts.free is not None else ""
        found.insert(0, Finding.ok("directories", f"{place}{state}{free}."))
    return found


def _room(facts: DirectoryFacts, place: str) -> list[Finding]:
    if facts.free is None or facts.free >= _LITTLE_FREE:
        return []
    return [
        Finding(
            check="directories",
            level=Level.ERROR if facts.free < _LEAST_FREE else Level.WARNING,
            message=f"{place} has only {size_text(facts.free)} of free disk space.",
            fix=f"Free some, or set {facts.key} to a directory on another disk.",
        )
    ]


def _file_system(facts: DirectoryFacts, place: str) -> list[Finding]:
    kind = facts.file_system
    if kind in _FOUR_GIB:
        return [
            Finding.hint(
                "directories",
                f"{place} is on {kind}: no file can be larger than 4 GiB, and it has no "
                "symbolic links.",
                f"Set {facts.key} to a disk with ext4 or its like for larger models.",
            )
        ]
    if kind in _NO_LINKS:
        return [
            Finding.hint(
                "directories",
                f"{place} is on {kind}, which has no symbolic links and no permissions.",
                f"Set {facts.key} to a disk with ext4 or its like.",
            )
        ]
    return []


def check_service(facts: ServiceFacts) -> list[Finding]:
    """Judge the ports, and a running service."""
    return [*_port(facts), *_extra_ports(facts), *_running(facts), *_model_ports(facts)]


def _port(facts: ServiceFacts) -> list[Finding]:
    place = f"Port {facts.port} on {facts.host}"
    if facts.state is PortState.FREE:
        text = f"{place} is free." if facts.port else "The system chooses the port (port 0)."
        return [Finding.ok("ports", text)]
    if facts.state is PortState.OURS:
        return [Finding.ok("ports", f"{place} is held by the running service.")]
    if facts.state is PortState.REFUSED:
        return [
            Finding.error(
                "ports",
                f"{place} cannot be listened on: {facts.reason}.",
                "Set port to one from 1024 up, and host to an address of this machine.",
            )
        ]
    who = "another program"
    if facts.state is PortState.ANOTHER:
        who = "a service with another data directory"
    return [
        Finding.error(
            "ports",
            f"{place} is held by {who}.",
            f"Set port to another, or end what holds it (`{_holder(facts.port)}` names it).",
        )
    ]


def _extra_ports(facts: ServiceFacts) -> list[Finding]:
    free = [str(one.port) for one in facts.extra_ports if one.problem is None]
    state = "Open" if facts.answers else "Free"
    found = [Finding.ok("ports", f"{state} of extra_ports: {', '.join(free)}.")] if free else []
    return found + [
        Finding.warning(
            "ports",
            f"Port {one.port} of extra_ports cannot be opened: {one.problem}.",
            f"End what holds it (`{_holder(one.port)}` names it) and restart the service, or take "
            "it out of extra_ports.",
        )
        for one in facts.extra_ports
        if one.problem is not None
    ]


def _holder(port: int) -> str:
    """Return a command that shows which program listens on ``port``."""
    if on_macos():
        return f"lsof -nP -iTCP:{port} -sTCP:LISTEN"
    return f"ss -ltnp 'sport = :{port}'"


def _running(facts: ServiceFacts) -> list[Finding]:
    if facts.answers and facts.state is not PortState.FOREIGN:
        found = [Finding.ok("service", f"A service answers at {facts.url}.")]
        if facts.running_version not in {None, facts.own_version}:
            found.append(
                Finding.warning(
                    "service",
                    f"The running service is version {facts.running_version}, this "
                    f"program is {facts.own_version}.",
                    "Restart the service.",
                )
            )
        elsewhere = facts.port and facts.state is PortState.FREE
        if elsewhere:
            found.append(
                Finding.warning(
                    "service",
                    f"The service of this data directory is at {facts.url}, not at the "
                    "configured address.",
                    "Restart it to use the address of the settings, or give its --host and --port.",
                )
            )
        return found
    if facts.pid is not None:
        return [
            Finding.error(
                "service",
                f"A service (pid {facts.pid}) should be at {facts.url}, but does not answer.",
                f"If it still does not answer in a minute, end it with `kill {facts.pid}` "
                "and start it again.",
            )
        ]
    return [Finding.ok("service", "No service runs.")]


def _model_ports(facts: ServiceFacts) -> list[Finding]:
    if facts.base_port == 0:
        return [Finding.ok("ports", "The system chooses the ports of models.")]
    if facts.free_model_ports >= _FEW_PORTS:
        text = f"Ports for models are free from {facts.base_port} up."
        return [Finding.ok("ports", text)]
    none = facts.free_model_ports == 0
    count = "no port" if none else f"only {facts.free_model_ports} free"
    return [
        Finding(
            check="ports",
            level=Level.ERROR if none else Level.WARNING,
            message=f"llama_server_base_port is {facts.base_port}, and from there up there is "
            f"{count}{' free' if none else ''} for models.",
            fix="Set llama_server_base_port to a free range above 1023, or to 0.",
        )
    ]


def check_models(facts: ModelsFacts) -> list[Finding]:
    """Count the models, and report unusable ones."""
    broken = [f"{one.id}: {one.problem}" for one in facts.models if one.problem]
    usable = len(facts.models) - len(broken)
    found = []
    if usable:
        models = "model" if usable == 1 else "models"
        others = sum(one.elsewhere for one in facts.models if not one.problem)
        whose = f", {others} of them kept by other programs" if others else ""
        found.append(Finding.ok("models", f"{usable} local {models}{whose}."))
    else:
        found.append(
            Finding.hint(
                "models",
                "There is no local model yet.",
                f"Put GGUF files into {facts.models_dir}, or try "
                "`cyber-inference-tui serve --demo`.",
            )
        )
    listed = [
        *((text, "Download it again, or remove it.") for text in broken),
        *((text, "Correct or remove it.") for text in facts.problems),
    ]
    found += [
        Finding.warning("models", f"{text.rstrip('.')}.", fix)
        for text, fix in listed[:_MOST_LISTED]
    ]
    if (more := len(listed) - _MOST_LISTED) > 0:
        found.append(
            Finding.warning(
                "models",
                f"{more} more cannot be used.",
                "`cyber-inference-tui list-models` names them.",
            )
        )
    return found


def check_hub(facts: HubFacts) -> list[Finding]:
    """Judge whether downloads will work."""
    if not facts.problem:
        return [Finding.ok("hub", f"{facts.url} answers.")]
    return [
        Finding.hint(
            "hub",
            f"{facts.url} cannot be reached ({facts.problem.rstrip('.')}): downloads "
            "will not work; local models do.",
            "Check the network and proxies, or set hf_endpoint to a mirror; `--offline` "
            "skips this check.",
        )
    ]
