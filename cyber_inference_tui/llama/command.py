"""The command line and the environment of a model's server: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cyber_inference_tui.llama.companion_options import adapter_options, draft_options
from cyber_inference_tui.llama.descendants import MARK
from cyber_inference_tui.llama.spec import ServerSpec

MIB = 1 << 20

ALIAS_VARIABLE = "LLAMA_ARG_ALIAS"
"""A second way to name a model, besides ``--alias``: llama-server takes the names of both."""

KEY_VARIABLE = "LLAMA_API_KEY"
"""Gives llama-server the key that requests need, all but those for ``/health``."""

UPSTREAM_KEY_VARIABLE = "CYBER_INFERENCE_UPSTREAM_KEY"
"""Gives a model's own ``command`` the key that all requests have."""

_PLACEHOLDER = re.compile(r"\{(port|host|path|id|key)\}")

_CACHE_RAM_DEFAULT_MIB = 8192
_CACHE_RAM_SHARE = 10

_VERBOSITY_OPTIONS = frozenset(
    {"-v", "--verbose", "--log-verbose", "-lv", "--verbosity", "--log-verbosity"}
)
_VERBOSITY_VARIABLE = "LLAMA_ARG_LOG_VERBOSITY"

# The part of our environment that a server may need: the places of programs, libraries and
# drivers, and the language. Everything else stays here, tokens and passwords above all.
_ENVIRONMENT_NAMES = frozenset(
    {MARK, "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"}
    | {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"}
)
_ENVIRONMENT_PREFIXES = (
    *("LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "HSA_", "ROCR_", "ROCM_"),
    *("VK_", "ZE_", "ONEAPI_", "SYCL_", "OMP_", "OPENBLAS_", "MTL_"),
)


def cache_ram_mib(available_bytes: int) -> int:
    """Return the MiB for llama-server's prompt cache: a tenth of the available memory.

    llama-server's own default is 8192 MiB on every machine, which is too much for a small board.
    """
    return min(_CACHE_RAM_DEFAULT_MIB, available_bytes // _CACHE_RAM_SHARE // MIB)


def server_alias(model_id: str) -> str:
    """Return llama-server's name for the model with this id: the id without commas.

    llama-server reads ``--alias`` as a list and reports the first name in alphabetical order. So a
    comma becomes DEL, which no id contains and JSON text holds unescaped; ``http.name_replacer``
    restores it in responses.
    """
    return model_id.replace(",", "\x7f")


def _unnamed(arguments: Sequence[str]) -> list[str]:
    """Return the user's arguments without model names: the setting ``aliases`` gives these."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word in {"-a", "--alias"}:
            next(words, None)
        else:
            kept.append(word)
    return kept


def llama_argv(
    spec: ServerSpec,
    *,
    program: str,
    flags: frozenset[str],
    host: str,
    port: int | str,
    available_bytes: int,
    verbosity: int | None = None,
) -> list[str]:
    """Return the command line of a llama-server.

    ``port`` may be a placeholder for a port that is not chosen yet. ``flags`` are the options that
    this build knows (``--help``): newer or renamed options are passed only if the build has them.
    The user's own arguments come last, so they win; only a reduced context follows them.
    ``available_bytes`` of memory set the size of the prompt cache. ``verbosity`` is a log level,
    used unless the user asks for another.
    """
    argv = [program, "--host", host, "--port", str(port)]
    argv += ["--alias", server_alias(spec.model_id)]
    argv += ["--model", str(spec.path)]
    if spec.projector is not None:
        argv += ["--mmproj", str(spec.projector)]
    argv += draft_options(spec.draft, flags) + adapter_options(spec.adapters, flags)
    context = ["--ctx-size", str(spec.context_size)]
    argv += context
    for option, value, unset in (
        ("--gpu-layers", spec.gpu_layers, -1),
        ("--threads", spec.threads, 0),
        ("--parallel", spec.slots, 0),
    ):
        if value != unset:
            argv += [option, str(value)]
    argv += _if_known(flags, "--cache-ram", str(cache_ram_mib(available_bytes)))
    if spec.http_threads:
        argv += _if_known(flags, "--threads-http", str(spec.http_threads))
    argv += _if_known(flags, "--log-colors", "off")
    argv += _if_known(flags, "--offline")
    for option, *values in spec.embedding_options:
        argv += _if_known(flags, option, *values)
    if (
        verbosity is not None
        and "--verbosity" in flags
        and _VERBOSITY_OPTIONS.isdisjoint(spec.arguments)
        and _VERBOSITY_VARIABLE not in spec.environment
    ):
        argv += ["--verbosity", str(verbosity)]
    argv += _unnamed(spec.arguments)
    return argv + context if spec.overrides_context else argv


def _if_known(flags: frozenset[str], option: str, *values: str) -> list[str]:
    return [option, *values] if option in flags else []


def custom_argv(spec: ServerSpec, *, host: str, port: int | str, key: str) -> list[str]:
    """Fill in the placeholders of a model's own ``command``."""
    values = {"port": str(port), "host": host, "key": key}
    values |= {"path": str(spec.path or ""), "id": spec.model_id}
    # Not str.format: it would fail on other braces (JSON arguments are common), and a path that
    # is filled in may contain braces, too.
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in spec.command]


def child_environment(environ: Mapping[str, str], *additions: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server: the needed part of ours, then ``additions`` in order.

    By default CUDA numbers the fastest card first, and NVML, which the service reads the cards'
    memory with, numbers cards by their bus. Unless the user chose an order, servers get NVML's, so
    that a number in ``CUDA_VISIBLE_DEVICES`` means the same card to both.
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
