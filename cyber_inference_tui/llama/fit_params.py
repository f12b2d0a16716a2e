"""Runs ``llama-fit-params``, the engine's own estimate of a model's memory.

GitHub releases ship it beside llama-server; Debian's packages do not. With ``--fit-print on`` it
lays out the model without reading its weights and prints a line ``NAME MODEL CONTEXT COMPUTE`` in
whole MiB for each device and then for ``Host`` (``common_fit_print`` in llama.cpp's
common/fit.cpp). The numbers do not depend on the free memory.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.llama.binary import option_names
from cyber_inference_tui.llama.footprint import is_host
from cyber_inference_tui.llama.guard import MODEL_UMASK
from cyber_inference_tui.llama.needs import Footprint
from cyber_inference_tui.llama.program import last_line, read_output
from cyber_inference_tui.text import clean_line

PROGRAM = "llama-fit-params"
_LIMIT = 10.0
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
    ruleset: Ruleset | None = None,
) -> Footprint | None:
    """Run the program beside ``llama_server``; return ``None`` if it is missing or fails.

    ``arguments`` returns llama-server's arguments for the options of this build. Options that only
    the server knows are left out, unless they are ``needed`` for a correct answer. ``mapped``: the
    weights in main memory are mapped from their file. ``folder`` is the working directory. Takes at
    most ``timeout`` seconds. A ``ruleset`` confines the program.
    """
    program = llama_server.with_name(PROGRAM)
    if not program.is_file():
        return None
    run = partial(_run, environment=environment, folder=folder, time_limit=timeout, ruleset=ruleset)
    try:
        async with asyncio.timeout(timeout):
            known = frozenset(option_names(await run([program, "--help"])))
            if "--fit-print" not in known or not needed <= known:
                _logger.debug("%s is too old for --fit-print", program)
                return None
            words = known_only(arguments(known), known)
            output = await run([program, *words, "--fit-print", "on"])
    except TimeoutError:
        _logger.debug("%s did not end within %g s", program, timeout)
        return None
    except (OSError, ValueError) as error:
        _logger.debug("%s failed: %s", program, clean_line(str(error), limit=300))
        return None
    return read_fit_print(output, mapped=mapped)


def known_only(words: Sequence[str], known: frozenset[str]) -> list[str]:
    """Return only the ``known`` options, with their values."""
    kept: list[str] = []
    keeps = False
    for word in words:
        if word.startswith("-") and not _NUMBER.match(word):
            keeps = word in known
        if keeps:
            kept.append(word)
    return kept


def read_fit_print(output: str, *, mapped: bool) -> Footprint | None:
    """Parse the output of ``--fit-print on``; log lines in between are ignored."""
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


async def _run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    folder: Path,
    time_limit: float,
    ruleset: Ruleset | None,
) -> str:
    """Return the program's output and log. Raises ``OSError`` if it fails."""
    stop = threading.Event()
    try:
        code, output = await asyncio.to_thread(
            read_output,
            command,
            environ=environment,
            time_limit=time_limit,
            folder=folder,
            stop=stop,
            umask=MODEL_UMASK,
            ruleset=ruleset,
        )
    finally:
        stop.set()
    if code != 0:
        raise ChildProcessError(f"exit code {code}: {last_line(output)}")
    return output
