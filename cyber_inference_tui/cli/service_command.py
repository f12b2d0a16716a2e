"""``service``: the service as a unit of systemd; and the running service stopped or restarted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from cyber_inference_tui.cli.options import GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_lines

if TYPE_CHECKING:
    from cyber_inference_tui.cli.unit import Systemd
    from cyber_inference_tui.settings.load import Loaded
    from cyber_inference_tui.settings.schema import Settings

NOT_RUNNING = 3
"""Exit code of ``service status``: as of every command that finds no service."""

_system_option = click.option(
    "--system", is_flag=True, help="The whole machine's unit, started at boot; needs root."
)


@click.group()
def service() -> None:
    """Keep the service running with systemd, and stop or restart one that runs in the background.

    The unit is yours, or with --system the machine's.
    """


@service.command(short_help="Write the unit, and start the service.")
@_system_option
@click.option(
    "--run-as",
    metavar="USER",
    help="Whom a --system unit runs as: you, or who called sudo, if not given.",
)
@click.option("--print", "only_print", is_flag=True, help="Print the unit, and change nothing.")
@click.pass_obj
def install(options: GlobalOptions, system: bool, run_as: str | None, only_print: bool) -> None:
    """Write the unit, start the service, and have it started from now on.

    The global options that are given here (--config, --data-dir, …) are the service's.
    """
    from cyber_inference_tui.cli.background import stop_limit
    from cyber_inference_tui.cli.unit import UNIT_NAME, unit_text

    if run_as is not None and not system:
        raise click.UsageError("--run-as goes with --system.")
    me = _user_name()
    user = run_as or options.environ.get("SUDO_USER") or me if system else me
    if user != me:
        options = replace(options, environ=_environment_of(user, options))
    loaded = options.load()
    text = unit_text(
        command_of(options, loaded),
        stop_seconds=stop_limit(loaded.settings),
        user=user if system else None,
    )
    if only_print:
        click.echo(text, nl=False)
        return
    systemd = _systemd(options, system)
    systemd.check_there()
    _check_alone(loaded, systemd)
    if user == me:
        from cyber_inference_tui.settings.credentials import make_missing

        # Here somebody reads what is told; the journal would keep it.
        make_missing(
            loaded,
            loaded.settings.host,
            environ=options.environ,
            flags=options.flags,
            tell=partial(click.echo, err=True),
        )
    _tell_variables(options)
    systemd.install(text)
    click.echo(f"wrote    {systemd.path}")
    click.echo(f"started  {UNIT_NAME}")
    if not system:
        click.echo(
            "It runs while you are logged in. To have it run without a login, and from boot on: "
            "loginctl enable-linger"
        )


@service.command(short_help="Stop the service and remove the unit.")
@_system_option
@click.pass_obj
def uninstall(options: GlobalOptions, system: bool) -> None:
    """Stop the service and remove the unit; models, settings and data stay."""
    systemd = _systemd(options, system)
    systemd.uninstall()
    click.echo(f"removed  {systemd.path}")


@service.command(short_help="Show whether it is installed and runs.")
@_system_option
@json_option
@click.pass_obj
def status(options: GlobalOptions, system: bool, as_json: bool) -> int:
    """Show whether the unit is installed and runs; exit code 3 if it does not run."""
    found = _systemd(options, system).status()
    if as_json:
        print_json(found)
    else:
        lines = [
            f"unit       {found.path if found.installed else 'not installed'}",
            f"at start   {'enabled' if found.enabled else 'not enabled'}",
            f"state      {found.state}",
        ]
        if found.pid is not None:
            lines.append(f"pid        {found.pid}")
        print_lines(lines)
    return 0 if found.active else NOT_RUNNING


@service.command(short_help="End the service of the data directory.")
@json_option
@click.pass_obj
def stop(options: GlobalOptions, as_json: bool) -> None:
    """End the service of the data directory, however it was started.

    Requests in flight may finish first, for as long as shutdown_timeout says.
    """
    settings = options.load().settings
    pid = _running(settings)
    _end(pid, settings)
    if as_json:
        print_json({"pid": pid, "stopped": True})
    else:
        click.echo(f"stopped  pid {pid}")


@service.command(short_help="Start it again, with the same options.")
@json_option
@click.pass_obj
def restart(options: GlobalOptions, as_json: bool) -> None:
    """Start the service again, with the options that it was started with.

    For one in the background, or of your systemd unit. After an update it then runs the new
    program.
    """
    from cyber_inference_tui.cli.background import find_or_start, stop_limit
    from cyber_inference_tui.cli.unit import UNIT_NAME

    settings = options.load().settings
    pid = _running(settings)
    systemd = _systemd(options, system=False)
    if pid == _unit_pid(systemd):
        systemd.call("restart", UNIT_NAME, limit=stop_limit(settings))
        found = {"pid": _unit_pid(systemd), "unit": UNIT_NAME}
    else:
        same = _options_of(pid, options)
        same.load()  # a mistake in the settings must not cost the running service
        _end(pid, settings)
        started = find_or_start(same)
        found = {"pid": started.pid, "url": started.url}
    if as_json:
        print_json(found)
    else:
        click.echo(f"restarted  {found.get('url', UNIT_NAME)} (pid {found['pid']})")


def _running(settings: Settings) -> int:
    """The pid of the service that holds the data directory; ``NoServiceError`` if none does."""
    from cyber_inference_tui.errors import CyberError, NoServiceError
    from cyber_inference_tui.service.runtime import data_directory_holder

    pid = data_directory_holder(settings.data_dir)
    if pid is None:
        raise NoServiceError(
            f"No service runs in {settings.data_dir}.",
            hint="One with another data directory is named with --data-dir.",
        )
    if pid == 0:
        raise CyberError(
            f"A service runs in {settings.data_dir}, but its pid is not known.",
            hint="Its disk was full when it started: find it with ps, and stop it with kill.",
        )
    return pid


def _end(pid: int, settings: Settings) -> None:
    from cyber_inference_tui.cli.background import stop_limit, stop_service
    from cyber_inference_tui.errors import CyberError

    limit = stop_limit(settings)
    if not stop_service(pid, limit=limit):
        raise CyberError(
            f"The service (pid {pid}) did not end within {limit:g} s.",
            hint=f"A second signal ends it at once: kill {pid}",
        )


def _unit_pid(systemd: Systemd) -> int | None:
    """The pid of the unit's service; ``None`` where it does not run, or there is no systemd."""
    from cyber_inference_tui.errors import CyberError

    try:
        return systemd.status().pid
    except CyberError:
        return None


def _options_of(pid: int, options: GlobalOptions) -> GlobalOptions:
    """The options and the environment of a service that runs in the background."""
    import psutil

    from cyber_inference_tui.cli.main import PROGRAM, cli
    from cyber_inference_tui.errors import CyberError

    try:
        process = psutil.Process(pid)
        command, environ = process.cmdline(), process.environ()
    except psutil.Error as error:
        raise CyberError(f"The service (pid {pid}) cannot be looked at ({error}).") from error
    if "--background" not in command:
        raise CyberError(
            f"The service (pid {pid}) does not run in the background.",
            hint="Stop it and start it again where it was started.",
        )
    arguments = command[command.index("--background") :]
    with cli.make_context(
        PROGRAM, arguments, obj=replace(options, environ=environ, flags={}, config=None)
    ) as context:
        found: GlobalOptions = context.obj
        return found


def command_of(options: GlobalOptions, loaded: Loaded) -> list[str]:
    """The command line of the unit, by absolute paths.

    systemd starts it without the variables of this shell: where they lead to other files than the
    usual ones, the command line does.
    """
    from cyber_inference_tui.settings.environment import variable
    from cyber_inference_tui.settings.load import CONFIG_VARIABLE, Source

    command = [*_program(), "serve"]
    moved = variable(options.environ, "XDG_CONFIG_HOME") and loaded.config_path.exists()
    if options.config is not None or variable(options.environ, CONFIG_VARIABLE) or moved:
        command += ["--config", str(loaded.config_path)]
    flags = dict(options.flags)
    if loaded.sources["data_dir"] is Source.ENV or (
        loaded.sources["data_dir"] is Source.DEFAULT and variable(options.environ, "XDG_DATA_HOME")
    ):
        flags["data_dir"] = loaded.settings.data_dir
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return [*command, "--demo"] if options.demo else command


def _program() -> list[str]:
    """This program by its absolute path; as a module, where it has no script of its own."""
    import sys
    from pathlib import Path

    # Not resolved: in a virtual environment the link to Python is what makes it one.
    folder = Path(sys.executable).parent
    if folder.parent.parent.name == "versions":
        # install.sh puts each version into a folder of its own, and into bin the one to run.
        lasting = folder.parent.parent.parent / "bin" / "cyber-inference-tui"
        if lasting.is_symlink():
            return [str(lasting)]
    script = folder / "cyber-inference-tui"
    return [str(script)] if script.is_file() else [sys.executable, "-m", "cyber_inference_tui"]


def _systemd(options: GlobalOptions, system: bool) -> Systemd:
    from cyber_inference_tui.cli.unit import SYSTEM_UNITS, Systemd, user_units
    from cyber_inference_tui.errors import CyberError
    from cyber_inference_tui.kernel import on_macos

    if on_macos():
        raise CyberError(
            "macOS has no systemd.",
            hint="Have launchd run 'cyber-inference-tui serve': the project's docs/macos.md has an "
            "agent for it.",
        )
    folder = SYSTEM_UNITS if system else user_units(options.environ)
    return Systemd(environ=options.environ, folder=folder, system=system)


def _check_alone(loaded: Loaded, systemd: Systemd) -> None:
    """A service that runs already would keep the unit's from starting."""
    from cyber_inference_tui.errors import ConflictError
    from cyber_inference_tui.service.runtime import data_directory_holder

    holder = data_directory_holder(loaded.settings.data_dir)
    if holder is not None and holder != systemd.status().pid:
        raise ConflictError(
            f"A service runs in {loaded.settings.data_dir} already (pid {holder or 'unknown'}).",
            hint=f"Stop it first: kill {holder}" if holder else "Stop it first.",
        )


def _tell_variables(options: GlobalOptions) -> None:
    from cyber_inference_tui.settings.environment import ENV_PREFIX, variable
    from cyber_inference_tui.settings.load import CONFIG_VARIABLE

    known = {CONFIG_VARIABLE, f"{ENV_PREFIX}DATA_DIR"}
    set_here = [name for name in sorted(options.environ) if name.startswith(ENV_PREFIX)]
    others = [name for name in set_here if name not in known and variable(options.environ, name)]
    if others:
        click.echo(
            f"The unit does not have the variables of this shell ({', '.join(others)}): "
            "'cyber-inference-tui config set' puts their values into the file.",
            err=True,
        )


def _user_name() -> str:
    import os
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _environment_of(user: str, options: GlobalOptions) -> dict[str, str]:
    """What counts of another user's environment: systemd starts the service with no more."""
    import pwd

    from cyber_inference_tui.errors import NotFoundError

    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        raise NotFoundError(f"There is no user {user}.", hint="Give one with --run-as.") from None
    return {"HOME": home, "USER": user, "PATH": options.environ.get("PATH", "")}
