"""The global options, which may come before the command or after it.

``GlobalOptions`` is the object that a command receives with ``@click.pass_obj``. Nothing heavy is
imported here, since ``--help`` has to answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cyber_inference_tui.files import typed_path

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from cyber_inference_tui.settings.load import LoadedSettings


LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class GlobalOptions:
    """The global options of a command line, and the environment.

    ``flags`` holds the settings given as flags, by their key (``host``, ``port``, …); absent flags
    are not in it.
    """

    config: Path | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    attach: str = ""
    """The address of a service elsewhere, as it was typed."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    demo: bool = False

    def load(self) -> LoadedSettings:
        """Load the effective settings. Raises ``ConfigError``, which names every mistake."""
        from cyber_inference_tui.settings.load import load

        return load(config=self.config, environ=self.environ, flags=self.flags)


class WholeNumber(click.types.IntParamType):
    """A whole number between two limits."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; fail if it is none, or outside the limits."""
        try:
            number = int(value)
        except ValueError:
            number = self._most + 1
        if not self._least <= number <= self._most:
            wanted = f"a whole number from {self._least} to {self._most:,}"
            self.fail(f"'{value}' is not {wanted}.", param, ctx)
        return number


class FilledText(click.types.StringParamType):
    """A text that is not empty, as one of a script's unset variable is."""

    name = "text"
    any_bytes = False
    """Bytes of another encoding are allowed, as in paths."""

    def __init__(self, most: int = 2000) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged; fail if it is empty, too long, or not UTF-8."""
        if not value.strip():
            self.fail("it is empty.", param, ctx)
        if len(value) > self._most:
            self.fail(f"it has more than {self._most:,} characters.", param, ctx)
        if not self.any_bytes and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self.fail("it is not UTF-8 text.", param, ctx)
        return str(value)


class TypedPath(FilledText):
    """A path relative to the working directory, unlike paths in the configuration file."""

    name = "path"
    any_bytes = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the absolute path, with ``~`` expanded."""
        try:
            return str(typed_path(super().convert(value, param, ctx)))
        except OSError as error:
            self.fail(f"{error.strerror}.", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the type of completion for directories, which all these options name."""
        return click.Path(file_okay=False).shell_complete(ctx, param, incomplete)


class GlobalOption(click.Option):
    """An option of the whole program: it changes the context's ``GlobalOptions``.

    Without ``change`` it is the flag for the setting of its name.
    """

    def __init__(
        self,
        name: str,
        *,
        change: Callable[[GlobalOptions, Any], GlobalOptions] | None = None,
        **attrs: Any,
    ) -> None:
        super().__init__([name], expose_value=False, callback=self._apply, **attrs)
        self._change = change or self._set_flag

    def _apply(self, ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is None or value is False:
            return
        options = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
        ctx.obj = self._change(options, value)

    def _set_flag(self, options: GlobalOptions, value: Any) -> GlobalOptions:
        return replace(options, flags={**options.flags, str(self.name): value})


def global_options(*, hidden: bool = False) -> list[click.Parameter]:
    """Return new option objects for one command; ``hidden`` leaves them out of its ``--help``."""
    made = [
        GlobalOption(
            "--config",
            type=FilledText(),
            metavar="FILE",
            help="Read settings from FILE.",
            shell_complete=click.Path().shell_complete,
            change=lambda options, value: replace(options, config=Path(value)),
        ),
        GlobalOption(
            "--host", type=FilledText(), metavar="ADDRESS", help="Address the service listens on."
        ),
        GlobalOption(
            "--port",
            type=WholeNumber(0, 65535),
            metavar="PORT",
            help="Port the service listens on.",
        ),
        GlobalOption(
            "--data-dir", type=TypedPath(), metavar="DIR", help="Where state and logs are kept."
        ),
        GlobalOption(
            "--models-dir", type=TypedPath(), metavar="DIR", help="Where models are kept."
        ),
        GlobalOption(
            "--log-level",
            type=click.Choice(LOG_LEVELS, case_sensitive=False),
            help="The service's log level.",
        ),
        GlobalOption(
            "--demo",
            is_flag=True,
            help="Add the built-in model 'demo'.",
            change=lambda options, _: replace(options, demo=True),
        ),
    ]
    for option in made:
        option.hidden = hidden
    return [*made]


def attach_option(*, hidden: bool = False) -> click.Option:
    """Return ``--attach``, for the commands that only talk to a service."""
    return GlobalOption(
        "--attach",
        type=FilledText(),
        metavar="ADDRESS",
        hidden=hidden,
        help="Use a service elsewhere: a URL, a host, or ssh://[user@]host.",
        change=lambda options, value: replace(options, attach=value),
    )


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, for every command that prints data; the parameter is ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON with stable keys.")(
        function
    )


def model_argument(
    name: str = "model_id", *, states: Collection[str] = (), also: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the argument ID: a model's id or alias.

    The shell completes it with the ids of the service's models in one of ``states`` (in any, if
    empty) and with the words in ``also``.
    """

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from cyber_inference_tui.cli.completion_values import model_ids

        return model_ids(ctx, incomplete, states=states, also=also)

    return click.argument(name, metavar="ID", type=FilledText(), shell_complete=complete)
