"""``llama-fit-params``: the engine's own account of what a model would take.

GitHub releases ship it beside llama-server, Debian's packages do not. With ``--fit-print on`` it
lays out the model without reading its weights and prints, for each device and then for ``Host``,
``NAME MODEL CONTEXT COMPUTE`` in whole MiB (``common_fit_print`` in llama.cpp's common/fit.cpp).
That is where everything would go with these arguments, whether there is room for it or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cyber_inference_tui.llama.binary import option_names
from cyber_inference_tui.llama.descendants import MARK, Family, marked
from cyber_inference_tui.llama.footprint import is_host
from cyber_inference_tui.llama.guard import prepare_child
from cyber_inference_tui.llama.needs import Footprint
from cyber_inference_tui.text import clean_line

PROGRAM = "llama-fit-params"
_LIMIT = 10.0
_KILL_TIMEOUT = 5.0
_MOST_OUTPUT = 1 << 20
_MIB = 1 << 20
_ROW = re.compile(r"^(\S+) (\d{1,9}) (\d{1,9}) (\d{1,9}) *$", re.MULTILINE)
_NUMBER = re.compile(r"^-\d")

_logger = logging.getLogger(__name__)


async def fitted_footprint(
    llama_server: Path,
    arguments: Callable[[frozenset[str]], Sequence[str]],
    *,
    environment: Mapping[str, str],
    folder: Path = Path("/"),
    mapped: bool,
    needed: frozenset[str] = frozenset(),
    timeout: float = _LIMIT,
) -> Footprint | None:
    """What the program beside ``llama_server`` says; ``None`` where there is none or it fails.

    ``arguments`` gives those of llama-server for the options that this build knows; those of the
    server's alone are left out, unless they are ``needed`` for a true answer. ``mapped``: the
    weights in main memory are mapped from their file. ``folder`` is its working directory. Takes at
    most ``timeout`` seconds.
    """
    program = llama_server.with_name(PROGRAM)
    if not program.is_file():
        return None
    try:
        async with asyncio.timeout(timeout):
            known = frozenset(option_names(await _run([program, "--help"], environment, folder)))
            if "--fit-print" not in known or not needed <= known:
                _logger.debug("%s is too old to be asked", program)
                return None
            words = known_only(arguments(known), known)
            output = await _run([program, *words, "--fit-print", "on"], environment, folder)
    except TimeoutError:
        _logger.debug("%s did not end within %g s", program, timeout)
        return None
    except (OSError, ValueError, _FailedError) as error:
        _logger.debug("%s failed: %s", program, clean_line(str(error), limit=300))
        return None
    return read_fit_print(output, mapped=mapped)


def known_only(words: Sequence[str], known: frozenset[str]) -> list[str]:
    """The options that are ``known``, with their values; others are left out with theirs."""
    kept: list[str] = []
    keeps = False
    for word in words:
        if word.startswith("-") and not _NUMBER.match(word):
            keeps = word in known
        if keeps:
            kept.append(word)
    return kept


def read_fit_print(output: str, *, mapped: bool) -> Footprint | None:
    """What ``--fit-print on`` printed, log lines between it left out."""
    weights = host = device = 0
    complete = False
    for row in _ROW.finditer(output):
        model, context, compute = (int(number) * _MIB for number in row.groups()[1:])
        if is_host(row[1]):
            complete = complete or row[1] == "Host"
            weights += model
            host += context + compute
        else:
            device += model + context + compute
    if not complete or not weights + host + device:
        return None
    return Footprint(
        mapped=weights if mapped else 0, host=host + (0 if mapped else weights), device=device
    )


class _FailedError(Exception):
    """The program ended with an error."""


async def _run(argv: Sequence[str | Path], environment: Mapping[str, str], folder: Path) -> str:
    """Its output and log, a bounded amount; it is ended with us."""
    environment = marked(environment)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=prepare_child(),
    )
    family = Family(process.pid, environment[MARK])
    kept = bytearray()
    try:
        if process.stdout is not None:
            while chunk := await process.stdout.read(65_536):
                kept += chunk[: _MOST_OUTPUT - len(kept)]
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.to_thread(family.end, _KILL_TIMEOUT)
    output = kept.decode("utf-8", "replace")
    if code != 0:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        raise _FailedError(f"exit code {code}: {last}")
    return output
