"""The argument list and environment of a model's server: pure functions, no look at the machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from cyber_inference_tui.gguf.arguments import CacheSettings, cache_settings
from cyber_inference_tui.gguf.memory import DEFAULT_SLOTS
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.descendants import MARK
from cyber_inference_tui.llama.vectors import VECTOR_OPTIONS, told_settings, vector_options
from cyber_inference_tui.settings.schema import Settings

MIB = 1 << 20

STREAMS = 256
"""Requests that a llama-server takes at once, unless more or less is asked for."""

SPARE_THREADS = 8
"""HTTP threads of llama-server beyond these requests. Every open connection holds a thread: an idle
one for up to 5 s, a question for its health or its slots, an answer that its client left."""

ALIAS_VARIABLE = "LLAMA_ARG_ALIAS"
"""A second way to name a model, beside ``--alias``: the names add up."""

_PLACEHOLDER = re.compile(r"\{(port|host|path|id)\}")

_CACHE_RAM_DEFAULT_MIB = 8192
_CACHE_RAM_SHARE = 10

_VERBOSITY_OPTIONS = frozenset(
    {"-v", "--verbose", "--log-verbose", "-lv", "--verbosity", "--log-verbosity"}
)
_VERBOSITY_VARIABLE = "LLAMA_ARG_LOG_VERBOSITY"
_THREADS_HTTP_VARIABLE = "LLAMA_ARG_THREADS_HTTP"

# What a server may need of our own environment: where programs, libraries and drivers are, and
# the language. Everything else, our tokens and passwords above all, stays here.
_ENVIRONMENT_NAMES = frozenset(
    {MARK, "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"}
    | {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"}
)
_ENVIRONMENT_PREFIXES = (
    *("LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "HSA_", "ROCR_", "ROCM_"),
    *("VK_", "ZE_", "ONEAPI_", "SYCL_", "OMP_", "OPENBLAS_", "MTL_"),
)


def context_size(model: LocalModel, settings: Settings, limit: int | None = None) -> int:
    """Tokens of context the model's server is started with.

    An argument of a person's own wins. A model's own ``context_size`` is taken as it is (0 = what
    the model was trained with); ``default_context_size`` is capped by ``max_context_size`` and by
    the model's own length. ``limit`` caps all of these.
    """
    wanted = _unlimited_context(model, settings)
    return wanted if limit is None else min(wanted, limit)


def _unlimited_context(model: LocalModel, settings: Settings) -> int:
    asked = cache_settings(further_arguments(model, settings))
    trained = asked.trained or (model.metadata.context_length if model.metadata else None)
    own = asked.context_size
    if own is None:
        own = model.settings.context_size
    if own is not None:
        return own or trained or settings.max_context_size
    wanted = settings.default_context_size or trained or settings.max_context_size
    return min(wanted, settings.max_context_size, trained or wanted)


def further_arguments(model: LocalModel, settings: Settings) -> list[str]:
    """What a person added for every server and for this one; the last one wins."""
    return [*settings.llama_args, *model.settings.args]


def most_requests(model: LocalModel, settings: Settings) -> int | None:
    """Requests that the model's server takes at once; ``None`` = no limit (a ``command``).

    For llama-server, its HTTP threads without a few that are spare. A person's own
    ``--threads-http`` counts, as an argument before the variable in ``env``.
    """
    if model.settings.command:
        return None
    own = model.settings
    base = CacheSettings(slots=settings.llama_parallel if own.parallel is None else own.parallel)
    words = further_arguments(model, settings)
    told = told_settings(model.metadata, words, own.env, base=base)
    threads = told.http_threads
    if threads is None:
        threads = _threads_for_requests(model, settings)
    elif threads == 0:
        # llama-server's own choice is at least this (tools/server/server-http.cpp).
        threads = (told.slots or DEFAULT_SLOTS) + 2
    return max(1, threads - min(SPARE_THREADS, threads // 2))


def asked_requests(model: LocalModel, settings: Settings) -> int:
    """Requests that the model may get at once by the settings; 0 = as many as its server takes."""
    own = model.settings.max_concurrent_requests
    return settings.max_concurrent_requests if own is None else own


def _threads_for_requests(model: LocalModel, settings: Settings) -> int:
    return max(STREAMS, asked_requests(model, settings)) + SPARE_THREADS


def cache_ram_mib(available_bytes: int) -> int:
    """MiB for llama-server's prompt cache: a tenth of the memory that is available now.

    llama-server's own default is 8192 MiB whatever the machine has, which can end a small board.
    """
    return min(_CACHE_RAM_DEFAULT_MIB, available_bytes // _CACHE_RAM_SHARE // MIB)


def server_alias(model_id: str) -> str:
    """What llama-server calls the model of this id: the id, but for commas.

    It takes ``--alias`` for a list, and answers with the first of its names in alphabetical order.
    So a comma becomes DEL, which no id has and JSON text holds as it is; ``http.renaming`` turns
    it back in the answers.
    """
    return model_id.replace(",", "\x7f")


def _unnamed(arguments: list[str]) -> list[str]:
    """A person's arguments without names for the model: ``aliases`` is the setting for these."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word in {"-a", "--alias"}:
            next(words, None)
        else:
            kept.append(word)
    return kept


def llama_argv(
    *,
    program: str,
    flags: frozenset[str],
    model: LocalModel,
    settings: Settings,
    host: str,
    port: int | str,
    available_bytes: int,
    context_limit: int | None = None,
    verbosity: int | None = None,
) -> list[str]:
    """The command line of llama-server for one model.

    A ``port`` that is not chosen yet is a word that stands for it.
    ``flags`` are the options this build knows (``--help``): options that came later or were
    renamed are only given where they exist. A model for vectors is started for them. A person's
    own arguments come last, so they win; only ``context_limit`` and the model's id are above
    them. ``verbosity`` is a log level that is asked for unless the person asks for one.
    """
    own = model.settings
    argv = [program, "--host", host, "--port", str(port)]
    argv += ["--alias", server_alias(model.id)]
    argv += ["--model", str(model.path)]
    if model.mmproj is not None:
        argv += ["--mmproj", str(model.mmproj)]
    tokens = context_size(model, settings, context_limit)
    argv += ["--ctx-size", str(tokens)]
    for option, mine, general, unset in (
        ("--gpu-layers", own.gpu_layers, settings.llama_gpu_layers, -1),
        ("--threads", own.threads, settings.llama_threads, 0),
        ("--parallel", own.parallel, settings.llama_parallel, 0),
    ):
        value = general if mine is None else mine
        if value != unset:
            argv += [option, str(value)]
    argv += _if_known(flags, "--cache-ram", str(cache_ram_mib(available_bytes)))
    if not own.env.get(_THREADS_HTTP_VARIABLE):
        argv += _if_known(flags, "--threads-http", str(_threads_for_requests(model, settings)))
    argv += _if_known(flags, "--log-colors", "off")
    argv += _if_known(flags, "--offline")
    argv += _if_known(flags, "--no-webui") or _if_known(flags, "--no-ui")
    further = further_arguments(model, settings)
    for option, *values in vector_options(
        model.metadata,
        further,
        own.env,
        context_size=tokens,
        slots=settings.llama_parallel if own.parallel is None else own.parallel,
    ):
        argv += _if_known(flags, option, *values)
    if (
        verbosity is not None
        and "--verbosity" in flags
        and _VERBOSITY_OPTIONS.isdisjoint(further)
        and _VERBOSITY_VARIABLE not in own.env
    ):
        argv += ["--verbosity", str(verbosity)]
    argv += _unnamed(further)
    if context_limit is not None and cache_settings(further).context_size is not None:
        argv += ["--ctx-size", str(tokens)]
    return argv


def _if_known(flags: frozenset[str], option: str, *values: str) -> list[str]:
    return [option, *values] if option in flags else []


def signature(model: LocalModel, settings: Settings, context_limit: int | None = None) -> str:
    """A short text that is equal when a server would be started alike.

    A restart is due when it changes, and what a server was seen to take is valid while it does
    not. Left out is what differs from start to start (address, prompt cache, log level) and the
    build of llama-server.
    """
    own = model.settings
    if own.command:
        argv = custom_argv(model, host="", port=0)
    else:
        argv = llama_argv(
            program="",
            flags=VECTOR_OPTIONS,
            model=model,
            settings=settings,
            host="",
            port=0,
            available_bytes=0,
            context_limit=context_limit,
        )
    facts = (argv, sorted(own.env.items()), model.size_bytes)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]


def custom_argv(model: LocalModel, *, host: str, port: int | str) -> list[str]:
    """The command line of a model with a ``command`` of its own, its placeholders filled in."""
    values = {"port": str(port), "host": host, "path": str(model.path or ""), "id": model.id}
    # Not str.format: other braces (JSON arguments are common) are left as they are, and what is
    # filled in is not looked at again (a path may hold braces, too).
    return [
        _PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in model.settings.command
    ]


def child_environment(environ: Mapping[str, str], *additions: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: the needed part of ours, then ``additions`` in order.

    CUDA numbers the fastest card first unless it is asked not to, NVML (by which the service reads
    the cards' memory) in the order of the bus. Servers get NVML's order where nobody chose one,
    so that a number in ``CUDA_VISIBLE_DEVICES`` means the same card to both.
    """
    result = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    result.update(
        (name, value)
        for name, value in environ.items()
        if name in _ENVIRONMENT_NAMES or name.startswith(_ENVIRONMENT_PREFIXES)
    )
    for addition in additions:
        result.update(addition)
    return result
