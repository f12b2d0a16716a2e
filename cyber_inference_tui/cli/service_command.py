"""``service``: manage the systemd unit, and stop or restart a running service."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.cli.options import FilledText, GlobalOptions, json_option
from cyber_inference_tui.cli.output import print_json, print_line, print_lines
from cyber_inference_tui.cli.usage import Group
from cyber_inference_tui.errors import ConflictError, CyberError, NoServiceError, NotFoundError
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.cli.unit import Systemd
    from cyber_inference_tui.settings.load import LoadedSettings
    from cyber_inference_tui.settings.schema import Settings

NOT_RUNNING = 3
"""Exit code of ``service status``, as of every command that finds no service."""

_system_option = click.option(
    "--system", is_flag=True, help="The whole machine's unit, started at boot; needs root."
)


@click.group(cls=Group)
def service() -> None:
    """Run the service with systemd, and stop or restart a running service.

    The unit is your own, or with --system the machine's.
    """


@service.command(short_help="Write the unit, and start the service.")
@_system_option
@click.option(
    "--run-as",
    metavar="USER",
    type=FilledText(),
    help="The user that runs a --system unit; the default is you, or the caller of sudo.",
)
@click.option(
    "--hardened", is_flag=True, help="Take away what only GPUs need, for a machine without one."
)
@click.option("--print", "only_print", is_flag=True, help="Print the unit, and change nothing.")
@click.pass_obj
def install(
    options: GlobalOptions, system: bool, run_as: str | None, hardened: bool, only_print: bool
) -> None:
    """Write the unit, start the service, and enable it.

    The global options (--config, --data-dir, …) become those of the service.
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
    writable = _writable(options, loaded) if system else []
    text = unit_text(
        command_of(options, loaded),
        stop_seconds=stop_limit(loaded.settings),
        user=user if system else None,
        writable=writable,
        hardened=hardened,
    )
    if only_print:
        click.echo(text, nl=False)
        return
    systemd = _systemd(options, system)
    systemd.check_there()
    _check_alone(loaded, systemd)
    if user == me:
        from cyber_inference_tui.settings.credentials import make_credentials

        # Made here, where somebody reads it: the journal would keep the secrets.
        make_credentials(
            loaded,
            loaded.settings.host,
            environ=options.environ,
            flags=options.flags,
            announce=partial(click.echo, err=True),
        )
    _warn_of_variables(options)
    if writable:
        _make_folders(writable, user)
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


@service.command(short_help="Show whether the unit is installed and runs.")
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


@service.command(short_help="Stop the service of the data directory.")
@json_option
@click.pass_obj
def stop(options: GlobalOptions, as_json: bool) -> None:
    """Stop the service of the data directory, however it was started.

    Requests in flight may finish first, for as long as shutdown_timeout says.
    """
    settings = options.load().settings
    pid = _running(settings)
    _end(pid, settings)
    if as_json:
        print_json({"pid": pid, "stopped": True})
    else:
        click.echo(f"stopped  pid {pid}")


@service.command(short_help="Restart it with the same options.")
@json_option
@click.pass_obj
def restart(options: GlobalOptions, as_json: bool) -> None:
    """Restart the service of the data directory with the same options.

    It has to run in the background or as your systemd unit. After an update, this starts the new
    version.
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
        same.load()  # check the settings before the running service is stopped
        _end(pid, settings)
        started = find_or_start(same)
        found = {"pid": started.pid, "url": started.url}
    if as_json:
        print_json(found)
    else:
        print_line(f"restarted  {found.get('url', UNIT_NAME)} (pid {found['pid']})")


def _running(settings: Settings) -> int:
    """Return the pid of the data directory's service. Raises ``NoServiceError`` if none runs."""
    from cyber_inference_tui.service.runtime import data_directory_holder

    pid = data_directory_holder(settings.data_dir)
    if pid is None:
        raise NoServiceError(
            f"No service runs in {settings.data_dir}.",
            hint="Name another data directory with --data-dir.",
        )
    if pid == 0:
        raise CyberError(
            f"A service runs in {settings.data_dir}, but its pid is unknown.",
            hint="Its disk was full when it started: find it with ps, and stop it with kill.",
        )
    return pid


def _end(pid: int, settings: Settings) -> None:
    from cyber_inference_tui.cli.background import stop_limit, stop_service

    limit = stop_limit(settings)
    if not stop_service(pid, limit=limit):
        raise CyberError(
            f"The service (pid {pid}) did not stop within {limit:g} s.",
            hint=f"A second signal stops it at once: kill {pid}",
        )


def _unit_pid(systemd: Systemd) -> int | None:
    """Return the pid of the unit's service; ``None`` if it does not run, or without systemd."""

    try:
        return systemd.status().pid
    except CyberError:
        return None


def _options_of(pid: int, options: GlobalOptions) -> GlobalOptions:
    """Return the options and the environment of a background service."""
    import psutil

    from cyber_inference_tui.cli.main import PROGRAM, cli

    try:
        process = psutil.Process(pid)
        command, environ = process.cmdline(), process.environ()
    except psutil.Error as error:
        raise CyberError(f"The service (pid {pid}) cannot be inspected ({error}).") from error
    if "--background" not in command:
        raise CyberError(
            f"The service (pid {pid}) does not run in the background.",
            hint="Restart it in the terminal or by the supervisor that started it.",
        )
    arguments = command[command.index("--background") :]
    with cli.make_context(
        PROGRAM, arguments, obj=replace(options, environ=environ, flags={}, config=None)
    ) as context:
        found: GlobalOptions = context.obj
        return found


def command_of(options: GlobalOptions, loaded: LoadedSettings) -> list[str]:
    """Return the command line of the unit, with absolute paths.

    systemd starts it without this shell's variables: files that the variables name become options.
    """
    from cyber_inference_tui.settings.environment import variable
    from cyber_inference_tui.settings.load import CONFIG_VARIABLE, SettingSource

    command = [*_program(), "serve"]
    moved = variable(options.environ, "XDG_CONFIG_HOME") and loaded.config_path.exists()
    if options.config is not None or variable(options.environ, CONFIG_VARIABLE) or moved:
        command += ["--config", str(loaded.config_path)]
    flags = dict(options.flags)
    if loaded.sources["data_dir"] is SettingSource.ENV or (
        loaded.sources["data_dir"] is SettingSource.DEFAULT
        and variable(options.environ, "XDG_DATA_HOME")
    ):
        flags["data_dir"] = loaded.settings.data_dir
    for name, value in flags.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return [*command, "--demo"] if options.demo else command


def _program() -> list[str]:
    """Return this program by its absolute path, or as a module if it has no script."""

    # Not resolved: the link to Python identifies a virtual environment.
    folder = Path(sys.executable).parent
    if folder.parent.parent.name == "versions":
        # install.sh installs each version into its own folder, and links bin to the current one.
        lasting = folder.parent.parent.parent / "bin" / "cyber-inference-tui"
        if lasting.is_symlink():
            return [str(lasting)]
    script = folder / "cyber-inference-tui"
    return [str(script)] if script.is_file() else [sys.executable, "-m", "cyber_inference_tui"]


def _systemd(options: GlobalOptions, system: bool) -> Systemd:
    from cyber_inference_tui.cli.unit import SYSTEM_UNITS, Systemd, user_units
    from cyber_inference_tui.kernel import on_macos

    if on_macos():
        raise CyberError(
            "macOS has no systemd.",
            hint="Have launchd run 'cyber-inference-tui serve': the project's docs/macos.md has an "
            "agent for it.",
        )
    folder = SYSTEM_UNITS if system else user_units(options.environ)
    return Systemd(environ=options.environ, folder=folder, system=system)


def _check_alone(loaded: LoadedSettings, systemd: Systemd) -> None:
    """Raise ``ConflictError`` if another service runs, since the unit's could not start."""
    from cyber_inference_tui.service.runtime import data_directory_holder

    holder = data_directory_holder(loaded.settings.data_dir)
    if holder is not None and holder != systemd.status().pid:
        raise ConflictError(
            f"A service runs in {loaded.settings.data_dir} already (pid {holder or 'unknown'}).",
            hint=f"Stop it first: kill {holder}" if holder else "Stop it first.",
        )


def _warn_of_variables(options: GlobalOptions) -> None:
    from cyber_inference_tui.settings.environment import ENV_PREFIX, variable
    from cyber_inference_tui.settings.load import CONFIG_VARIABLE

    known = {CONFIG_VARIABLE, f"{ENV_PREFIX}DATA_DIR"}
    set_here = [name for name in sorted(options.environ) if name.startswith(ENV_PREFIX)]
    others = [name for name in set_here if name not in known and variable(options.environ, name)]
    if others:
        click.echo(
            f"The unit does not get the variables of this shell ({', '.join(others)}): "
            "'cyber-inference-tui config set' puts their values into the file.",
            err=True,
        )


def _writable(options: GlobalOptions, loaded: LoadedSettings) -> list[str]:
    """Return the folders that a service needs to write to, caches of its servers included."""
    from cyber_inference_tui.settings.environment import home_of

    settings = loaded.settings
    folders = [settings.data_dir, settings.models_dir, loaded.config_path.parent]
    if home := home_of(options.environ):
        # .nv is CUDA's: without it, each start compiles anew what the driver does not have.
        folders += [Path(home, name) for name in (".cache", ".nv")]
    return [str(folder) for folder in dict.fromkeys(folders)]


def _make_folders(folders: list[str], user: str) -> None:
    """Make what does not exist yet, as the service's user: in its sandbox it could not."""
    as_user: dict[str, Any] = {}
    if user != _user_name():
        # Root with the rights of the user: a link of that user's leads no further than they do.
        as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    done = subprocess.run(
        ["/bin/mkdir", "-p", "-m", "700", "--", *folders],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **as_user,
    )
    for line in done.stderr.splitlines():
        click.echo(f"warning: {clean_line(line)}", err=True)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _environment_of(user: str, options: GlobalOptions) -> dict[str, str]:
    """Return the few variables that systemd starts a service of ``user`` with."""

    try:
        home = pwd.getpwnam(user).pw_dir
    except KeyError:
        raise NotFoundError(f"There is no user {user}.", hint="Give one with --run-as.") from None
    return {"HOME": home, "USER": user, "PATH": options.environ.get("PATH", "")}
