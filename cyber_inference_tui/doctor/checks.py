"""Judges the program's own side: llama-server, settings, directories, ports, models, the hub."""

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
from cyber_inference_tui.doctor.hardware_checks import finding_of
from cyber_inference_tui.doctor.records import Finding, Level
from cyber_inference_tui.kernel import on_macos
from cyber_inference_tui.units import size_text

_LEAST_FREE = 200 << 20
_LITTLE_FREE = 2 << 30
_FEW_PORTS = 4
_MOST_LISTED = 10
# What is said of a file system depends on its type alone, as Linux or macOS ("msdos") names it.
_FOUR_GIB = frozenset({"vfat", "msdos"})
_NO_LINKS = frozenset({"vfat", "msdos", "exfat"})


def check_llama(facts: LlamaFacts) -> list[Finding]:
    """Whether there is a llama-server that runs."""
    finding = finding_of("llama-server")
    if facts.binary is None:
        return [
            finding(
                level=Level.ERROR,
                message=facts.problem,
                fix=facts.way_out or "`cyber-inference-tui install-llama` gets another.",
            )
        ]
    if "--model" not in facts.binary.flags:
        # Whatever it is, it ran: only its own help tells what it takes.
        return [
            finding(
                level=Level.ERROR,
                message=f"{facts.binary.path} is no llama-server: its --help tells of no --model.",
                fix="Set llama_server_path to a llama-server, or remove it to use the installed "
                "one.",
            )
        ]
    devices = "GPUs that it did not list"
    if facts.binary.devices is not None:
        devices = ", ".join(facts.binary.devices) or "the CPU alone"
    text = f"{facts.binary.path}: version {facts.binary.version}, for {devices}."
    found = [finding(level=Level.OK, message=text)]
    if facts.update is not None:
        found.append(
            finding(
                level=Level.HINT,
                message=f"There is a newer llama-server: {facts.update}.",
                fix=f"`cyber-inference-tui install-llama --from {facts.source}` gets it; "
                "`install-llama --rollback` goes back.",
            )
        )
    return found


def check_configuration(facts: ConfigurationFacts) -> list[Finding]:
    """Mistakes, oddities, and what the service would refuse to start with."""
    finding = finding_of("configuration")
    found = [
        finding(
            level=Level.ERROR,
            message=mistake,
            fix="Correct it and ask again; what depends on the settings was not looked at.",
        )
        for mistake in facts.mistakes
    ]
    found += [
        finding(
            level=Level.WARNING,
            message=f"{warning}.",
            fix="Correct its spelling, or unset it.",
        )
        for warning in facts.warnings
    ]
    if facts.refusal:
        found.append(
            finding(level=Level.ERROR, message=facts.refusal, fix=facts.refusal_way_out or None)
        )
    if not found:
        text = "has no mistakes" if facts.exists else "is not there: the defaults apply"
        found.append(finding(level=Level.OK, message=f"{facts.path} {text}."))
    return found


def check_security(facts: ConfigurationFacts, *, root_user: bool) -> list[Finding]:
    """Who may read our secrets, use the service, and what it may do itself."""
    finding = finding_of("security")
    found = []
    if facts.secrets and facts.mode is not None and facts.mode & 0o077:
        found.append(
            finding(
                level=Level.WARNING,
                message=f"{facts.path} holds {', '.join(facts.secrets)}, and other users may "
                f"read or change it (mode {facts.mode:04o}).",
                fix=f"chmod 600 '{facts.path}'",
            )
        )
    if facts.open_host and not facts.refusal:
        found += _open_address(facts)
    if root_user:
        found.append(
            finding(
                level=Level.HINT,
                message="This runs as root, which nothing in it needs.",
                fix="Run the service as an ordinary user.",
            )
        )
    return found


def _open_address(facts: ConfigurationFacts) -> list[Finding]:
    finding = finding_of("security")
    if facts.to_be_made:
        names = " and ".join(facts.to_be_made)
        return [
            finding(
                level=Level.HINT,
                message=f"host is {facts.open_host}, which other machines can reach: the service "
                f"makes {names} at its next start, and writes what it made to {facts.path}.",
                fix=f"Set {names} yourself, or bind to 127.0.0.1 and use an SSH tunnel.",
            )
        ]
    unset = {"api_keys": facts.has_keys, "admin_password": facts.has_password}
    names = " and ".join(name for name, is_set in unset.items() if not is_set)
    if not names:
        return []
    right = "use its models" if facts.has_password else "use it and change its settings"
    return [
        finding(
            level=Level.WARNING,
            message=f"host is {facts.open_host}, insecure_no_auth is set, and {names} not: "
            f"whoever reaches this machine may {right}.",
            fix=f"Set {names}, or bind to 127.0.0.1 and use an SSH tunnel.",
        )
    ]


def check_directories(directories: tuple[DirectoryFacts, ...]) -> list[Finding]:
    """Whether they are there, may be written to, have room, and are on a fit file system."""
    return [finding for facts in directories for finding in _directory(facts)]


def _directory(facts: DirectoryFacts) -> list[Finding]:
    finding = finding_of("directories")
    place = f"{facts.key} {facts.path}"
    is_state = facts.key == "data_dir"
    bad = Level.ERROR if is_state else Level.WARNING
    if facts.silent:
        text = f"{place} does not answer."
        fix = "Look for its disk or network mount (`mount`, `dmesg`)."
        return [finding(level=bad, message=text, fix=fix)]
    if not facts.is_directory:
        text = f"{place} is not a directory, or lies below a file."
        return [finding(level=bad, message=text, fix=f"Set {facts.key} to a directory.")]
    if not facts.exists and not facts.must_write:
        text = f"{place} does not exist."
        fix = "Create it, mount the disk, or take it out of model_dirs."
        return [finding(level=bad, message=text, fix=fix)]
    if not facts.usable:
        if not facts.must_write:
            can, fix = "read", f"Let this user read it, or take it out of {facts.key}."
        elif facts.exists:
            can, fix = "written to", f"`sudo chown $USER '{facts.path}'` if it is yours to have"
        else:
            can, fix = "created", f"`sudo install -d -o $USER '{facts.path}'` makes it"
        if facts.must_write:
            fix += f", or set {facts.key} to another directory."
        return [finding(level=bad, message=f"{place} cannot be {can} by this user.", fix=fix)]
    found = [*_room(facts, place), *_file_system(facts, place)]
    if not any(one.level in {Level.WARNING, Level.ERROR} for one in found):
        state = "" if facts.exists else " will be created when it is needed"
        free = f": {size_text(facts.free)} free" if facts.free is not None else ""
        found.insert(0, finding(level=Level.OK, message=f"{place}{state}{free}."))
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
    finding = finding_of("directories")
    kind = facts.file_system
    if kind in _FOUR_GIB:
        return [
            finding(
                level=Level.HINT,
                message=f"{place} is on {kind}: no file can be larger than 4 GiB, and it has no "
                "symbolic links.",
                fix=f"Set {facts.key} to a disk with ext4 or its like for larger models.",
            )
        ]
    if kind in _NO_LINKS:
        return [
            finding(
                level=Level.HINT,
                message=f"{place} is on {kind}, which has no symbolic links and no permissions.",
                fix=f"Set {facts.key} to a disk with ext4 or its like.",
            )
        ]
    return []


def check_service(facts: ServiceFacts) -> list[Finding]:
    """The ports, and the service if one runs."""
    return [*_port(facts), *_running(facts), *_model_ports(facts)]


def _port(facts: ServiceFacts) -> list[Finding]:
    finding = finding_of("ports")
    place = f"Port {facts.port} on {facts.host}"
    if facts.state is PortState.FREE:
        text = f"{place} is free." if facts.port else "The system chooses the port (port 0)."
        return [finding(level=Level.OK, message=text)]
    if facts.state is PortState.OURS:
        return [finding(level=Level.OK, message=f"{place} is held by the running service.")]
    if facts.state is PortState.REFUSED:
        return [
            finding(
                level=Level.ERROR,
                message=f"{place} cannot be listened on: {facts.reason}.",
                fix="Set port to one from 1024 up, and host to an address of this machine.",
            )
        ]
    who = "another program"
    if facts.state is PortState.ANOTHER:
        who = "a service with another data directory"
    return [
        finding(
            level=Level.ERROR,
            message=f"{place} is held by {who}.",
            fix=f"Set port to another, or end what holds it (`{_holder(facts.port)}` names it).",
        )
    ]


def _holder(port: int) -> str:
    """A command that tells which program listens on ``port``."""
    if on_macos():
        return f"lsof -nP -iTCP:{port} -sTCP:LISTEN"
    return f"ss -ltnp 'sport = :{port}'"


def _running(facts: ServiceFacts) -> list[Finding]:
    finding = finding_of("service")
    if facts.answers and facts.state is not PortState.FOREIGN:
        found = [finding(level=Level.OK, message=f"A service answers at {facts.url}.")]
        if facts.running_version not in {None, facts.own_version}:
            found.append(
                finding(
                    level=Level.WARNING,
                    message=f"The running service is version {facts.running_version}, this "
                    f"program is {facts.own_version}.",
                    fix="Restart the service.",
                )
            )
        elsewhere = facts.port and facts.state is PortState.FREE
        if elsewhere:
            found.append(
                finding(
                    level=Level.WARNING,
                    message=f"The service of this data directory is at {facts.url}, not at the "
                    "configured address.",
                    fix="Restart it to use the address of the settings, or give its --host and "
                    "--port.",
                )
            )
        return found
    if facts.pid is not None:
        return [
            finding(
                level=Level.ERROR,
                message=f"A service (pid {facts.pid}) should be at {facts.url}, but does not "
                "answer.",
                fix=f"If it still does not answer in a minute, end it with `kill {facts.pid}` "
                "and start it again.",
            )
        ]
    return [finding(level=Level.OK, message="No service runs.")]


def _model_ports(facts: ServiceFacts) -> list[Finding]:
    finding = finding_of("ports")
    if facts.base_port == 0:
        return [finding(level=Level.OK, message="The system chooses the ports of models.")]
    if facts.free_model_ports >= _FEW_PORTS:
        text = f"Ports for models are free from {facts.base_port} up."
        return [finding(level=Level.OK, message=text)]
    none = facts.free_model_ports == 0
    count = "no port" if none else f"only {facts.free_model_ports} free"
    return [
        finding(
            level=Level.ERROR if none else Level.WARNING,
            message=f"llama_server_base_port is {facts.base_port}, and from there up there is "
            f"{count}{' free' if none else ''} for models.",
            fix="Set llama_server_base_port to a free range above 1023, or to 0.",
        )
    ]


def check_models(facts: ModelsFacts) -> list[Finding]:
    """How many there are, and which cannot be used."""
    finding = finding_of("models")
    broken = [f"{one.id}: {one.problem}" for one in facts.models if one.problem]
    usable = len(facts.models) - len(broken)
    found = []
    if usable:
        models = "model" if usable == 1 else "models"
        others = sum(one.elsewhere for one in facts.models if not one.problem)
        whose = f", {others} of them kept by other programs" if others else ""
        found.append(finding(level=Level.OK, message=f"{usable} local {models}{whose}."))
    else:
        found.append(
            finding(
                level=Level.HINT,
                message="There is no local model yet.",
                fix=f"Put GGUF files into {facts.models_dir}, or try "
                "`cyber-inference-tui serve --demo`.",
            )
        )
    listed = [
        *((text, "Download it again, or remove it.") for text in broken),
        *((text, "Correct or remove it.") for text in facts.problems),
    ]
    found += [
        finding(level=Level.WARNING, message=f"{text.rstrip('.')}.", fix=fix)
        for text, fix in listed[:_MOST_LISTED]
    ]
    if (more := len(listed) - _MOST_LISTED) > 0:
        found.append(
            finding(
                level=Level.WARNING,
                message=f"{more} more cannot be used.",
                fix="`cyber-inference-tui list-models` names them.",
            )
        )
    return found


def check_hub(facts: HubFacts) -> list[Finding]:
    """Whether downloads will work."""
    finding = finding_of("hub")
    if not facts.problem:
        return [finding(level=Level.OK, message=f"{facts.url} answers.")]
    return [
        finding(
            level=Level.HINT,
            message=f"{facts.url} cannot be reached ({facts.problem.rstrip('.')}): downloads "
            "will not work; local models do.",
            fix="Check the network and proxies, or set hf_endpoint to a mirror; `--offline` "
            "skips this check.",
        )
    ]
