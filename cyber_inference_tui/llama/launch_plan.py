"""Plans the start of a server: its arguments, its environment, and the files that it may use."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import psutil

from cyber_inference_tui.errors import ModelLoadError
from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.command import (
    ALIAS_VARIABLE,
    KEY_VARIABLE,
    UPSTREAM_KEY_VARIABLE,
    child_environment,
    custom_argv,
    llama_argv,
)
from cyber_inference_tui.llama.confinement import confinement, named_files
from cyber_inference_tui.llama.http_get import ServerAddress
from cyber_inference_tui.llama.need_estimate import lent_footprint
from cyber_inference_tui.llama.needs import Footprint
from cyber_inference_tui.llama.prompt_rules import keeping_options
from cyber_inference_tui.llama.prompts import ServerPrompts
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.llama.worker import worker_argv, worker_program
from cyber_inference_tui.settings.masks import masked_words
from cyber_inference_tui.settings.schema import MASK
from cyber_inference_tui.storage import Storages

SERVER_HOST = "127.0.0.1"
ROUTER_ENVIRONMENT = {"LLAMA_SERVER_ROUTER_PORT": "1"}
"""Makes llama-server speak the protocol; a child ignores the value."""
_NO_PORT = "PORT"
"""A placeholder for a port that is not chosen yet."""

_logger = logging.getLogger(__name__)


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to start a server."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    address: ServerAddress
    speaks_protocol: bool
    by_command: bool = False
    """A user's own command starts it; the server may be another program."""
    working_directory: Path | None = None
    starter: Sequence[str] = ()
    """That of ``start_child``."""
    context_size: int | None = None
    """Tokens of context, if known."""
    most_requests: int | None = None
    """Requests that the server takes at once; ``None`` = no limit."""
    ruleset: Ruleset | None = None
    """The only files that it may use; ``None`` = all of this user's."""
    lent: Footprint | None = None
    """The memory of a worker of llama.cpp's RPC, which speaks no HTTP; ``None`` = it is none."""
    lost: asyncio.Future[str] | None = None
    """Done with the reason when something is gone without which it hangs: it is killed then."""
    prompts: ServerPrompts | None = None
    """Keeps what is in its slots from one start to the next."""

    @property
    def shown_argv(self) -> tuple[str, ...]:
        """Return the command line with masks for its secrets, the server's key among them."""
        return tuple(word.replace(self.address.key, MASK) for word in masked_words(self.argv))


class LaunchPlanner:
    """Plans starts with the environment ``environ``.

    ``folder`` is the directory of the configuration file: servers run in it, because relative paths
    in the user's arguments start there. ``available_memory`` returns the bytes that are free.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        folder: Path,
        available_memory: Callable[[], int],
        storages: Storages,
    ) -> None:
        self._environ = environ
        self._folder = folder
        self._available_memory = available_memory
        self._storages = storages

    def working_directory(self) -> Path:
        """Return the directory that servers run in."""
        # Without a configuration file its folder may be missing: then no path is relative to it.
        return self._folder if os.access(self._folder, os.X_OK) else Path("/")

    def files(self, spec: ServerSpec, binary: LlamaBinary) -> list[Path]:
        """Return the files that a server reads, and perhaps some that do not exist."""
        return [*spec.files, *named_files(spec, binary, self.working_directory())]

    async def ruleset(
        self, spec: ServerSpec, binary: LlamaBinary | None, prompts: Path | None = None
    ) -> Ruleset | None:
        """Return the files that the server may use; ``None`` = all, also without Landlock.

        ``prompts`` is the folder of its kept prompts.
        """
        if binary is None or (spec.path is None and not spec.lent_bytes):
            return None
        environment = child_environment(self._environ, binary.env, spec.environment)
        files = confinement(spec, binary, environment, self.working_directory(), prompts=prompts)
        if files is None:
            return None
        try:
            folder = (spec.path or binary.path).parent
            return await self._storages.ask_async(folder, partial(Ruleset, *files))
        except OSError as error:
            _logger.debug("servers are not confined: %s", error)
            return None

    def command(
        self, spec: ServerSpec, binary: LlamaBinary | None, *, prompts: Path | None, measure: bool
    ) -> list[str]:
        """Return the command line of a start, with a placeholder for its port."""
        if binary is None:
            return custom_argv(spec, host=SERVER_HOST, port=_NO_PORT, key=MASK)
        return self._argv(spec, binary, _NO_PORT, prompts=prompts, measure=measure)

    def plan(
        self,
        spec: ServerSpec,
        binary: LlamaBinary | None,
        port: int,
        *,
        measure: bool,
        starter: Sequence[str],
        ruleset: Ruleset | None,
        prompts: ServerPrompts | None,
        lost: asyncio.Future[str] | None = None,
    ) -> LaunchPlan:
        """Plan a start with a new key; without a ``binary``, by the user's own command.

        Raises ``ModelLoadError`` if this build cannot start it.
        """
        address = ServerAddress(SERVER_HOST, port, secrets.token_urlsafe())
        if binary is None:
            return LaunchPlan(
                name=spec.model_id,
                argv=tuple(custom_argv(spec, host=SERVER_HOST, port=port, key=address.key)),
                environment=child_environment(
                    self._environ, spec.environment, {UPSTREAM_KEY_VARIABLE: address.key}
                ),
                address=address,
                speaks_protocol=False,
                by_command=True,
                working_directory=self.working_directory(),
            )
        if spec.lent_bytes:
            return self._worker_plan(spec, binary, address, starter=starter, ruleset=ruleset)
        own = {name: value for name, value in spec.environment.items() if name != ALIAS_VARIABLE}
        folder = None if prompts is None else prompts.folder
        return LaunchPlan(
            name=spec.model_id,
            argv=tuple(self._argv(spec, binary, port, prompts=folder, measure=measure)),
            environment=child_environment(
                self._environ,
                binary.env,
                own,
                ROUTER_ENVIRONMENT if binary.router_child else {},
                {KEY_VARIABLE: address.key},
            ),
            address=address,
            speaks_protocol=binary.router_child,
            working_directory=self.working_directory(),
            starter=starter,
            context_size=spec.context_size,
            most_requests=spec.most_requests,
            ruleset=ruleset,
            lost=lost,
            prompts=prompts,
        )

    def _worker_plan(
        self,
        spec: ServerSpec,
        binary: LlamaBinary,
        address: ServerAddress,
        *,
        starter: Sequence[str],
        ruleset: Ruleset | None,
    ) -> LaunchPlan:
        program = worker_program(binary.path)
        if program is None:
            raise ModelLoadError("This llama-server comes without ggml-rpc-server.")
        threads = spec.threads or psutil.cpu_count(logical=False) or os.cpu_count() or 1
        return LaunchPlan(
            name=spec.model_id,
            argv=tuple(worker_argv(program, port=address.port, threads=threads)),
            environment=child_environment(self._environ, binary.env),
            address=address,
            speaks_protocol=False,
            working_directory=self.working_directory(),
            starter=starter,
            ruleset=ruleset,
            lent=lent_footprint(spec, binary),
        )

    def _argv(
        self,
        spec: ServerSpec,
        binary: LlamaBinary,
        port: int | str,
        *,
        prompts: Path | None,
        measure: bool,
    ) -> list[str]:
        argv = llama_argv(
            spec,
            program=str(binary.path),
            flags=binary.flags,
            host=SERVER_HOST,
            port=port,
            available_bytes=self._available_memory(),
            verbosity=binary.trace_level if measure else None,
        )
        return argv if prompts is None else [*argv, *keeping_options(prompts)]
