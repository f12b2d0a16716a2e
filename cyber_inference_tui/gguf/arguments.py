"""Reads llama-server arguments: what they decide about memory, context, GPUs and requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

_OFF: Final = frozenset({"off", "disabled", "false", "0"})
_SWITCH: Final = _OFF | {"on", "enabled", "true", "1", "auto", "-1"}
_LENGTH: Final = re.compile(r"(?:^|,)[^=,]+\.context_length=int:(\d{1,10})(?=,|$)")
_MOST: Final = 2**31 - 1  # llama-server reads numbers into 32 bits
_AUTO: Final = object()
"""A value that leaves the choice to llama-server."""


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that decide a server's memory, context and requests, with llama-server's defaults."""

    context_size: int | None = None
    """Tokens; 0 = the model's own length; ``None`` = not named."""
    slots: int = 0
    """0 = llama-server decides."""
    unified: bool | None = None
    """Whether slots share one cache; ``None`` = llama-server decides."""
    slot_context: int | None = None
    """The maximum tokens of one slot; ``None`` = its whole part of the cache."""
    trained: int | None = None
    """Overrides the trained context length; ``None`` = the header's counts."""
    yarn: bool = False
    """YaRN scales positions, so that the model reads more than its trained length."""
    rope_scale: float = 1.0
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    batch_size: int = 2048
    ubatch_size: int = 512
    swa_full: bool = False
    flash_attention: bool = True
    embedding: bool = False
    """For embeddings or reranking."""
    pooling: str | None = None
    """The method that combines the tokens' vectors; ``None`` = as in the model's header."""
    cache_on_device: bool = True
    """The cache is beside its layers on a GPU; otherwise in main memory."""
    http_threads: int | None = None
    """0 = llama-server decides; ``None`` = not named."""
    mapped: bool = True
    """Weights are mapped from the file; otherwise read into memory."""
    repack: bool = True
    """Weights are copied into the processor's own layout, if it has one."""
    gpu_layers: int | None = None
    """Layers on GPUs; ``None`` = as many as possible."""
    gpus: bool = True
    """GPUs are used, if there are any."""
    fits_itself: bool = True
    """llama-server may place fewer layers on GPUs than requested, if memory is short."""
    projector_on_gpu: bool = True
    drafted: int = 3
    """The most tokens of each draft."""
    keeps_parts_back: bool = False
    """Some parts of layers stay in main memory; their size is not computed here."""


def read_options(args: Sequence[str], *, base: ServerOptions | None = None) -> ServerOptions:
    """Read ``args`` on top of ``base`` (``None`` = llama-server's defaults).

    Takes ``--option value`` and ``--option=value``; the last one wins. Values that llama-server
    refuses are skipped: the server's own message explains them.
    """
    found: dict[str, object] = {}
    words = iter(args)
    word = next(words, None)
    while word is not None:
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            option = option.replace("_", "-")
        following = next(words, None)
        if option in _ALONE:
            found |= _ALONE[option]
        elif option in _WITH_VALUE:
            # Older servers take -fa without a value.
            alone = option in _SWITCHES and (following or "").lower() not in _SWITCH
            if not equals:
                value = "on" if alone else following or ""
            field, read = _WITH_VALUE[option]
            if (setting_read := read(value)) is not None:
                found[field] = None if setting_read is _AUTO else setting_read
            if not equals and not alone:
                following = next(words, None)
        word = following
    return msgspec.structs.replace(base or ServerOptions(), **found)


def _count(value: str) -> int | None:
    """Read a number from 0 on; like 0, a negative number leaves the choice to llama-server."""
    try:
        number = int(value)
    except ValueError:
        return None
    return max(0, number) if number <= _MOST else None


def _size(value: str) -> int | None:
    return _count(value) or None


def _name(value: str) -> str | None:
    return value or None


def _is_on(value: str) -> bool:
    return value.lower() not in _OFF


def _is_mapped(value: str) -> bool:
    return value.lower() not in {"none", "dio"}


def _is_yarn(value: str) -> bool:
    return value == "yarn"


def _scale(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number <= _MOST else None


def _inverse(value: str) -> float | None:
    number = _scale(value)
    return 1 / number if number else None


def _length_in_header(value: str) -> int | None:
    """Read the context length from overridden header fields, ``KEY=TYPE:VALUE,…``."""
    found = _LENGTH.findall(value)
    return _size(found[-1]) if found else None


def _pooling(value: str) -> str | None:
    return value if value in {"none", "mean", "cls", "last", "rank"} else None


def _layers(value: str) -> object:
    if value == "all":
        return _MOST
    try:
        number = int(value)
    except ValueError:
        return _AUTO
    return _AUTO if number < 0 else number


def _uses_gpus(value: str) -> bool:
    return value != "none"


def _yes(_: str) -> bool:
    return True


# Options of common/arg.cpp in llama.cpp, including older names, with their field and parser.
_WITH_VALUE: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    "-c": ("context_size", _count),
    "--ctx-size": ("context_size", _count),
    "-np": ("slots", _count),
    "--parallel": ("slots", _count),
    "--kv-unified-per-slot": ("slot_context", _size),
    "--override-kv": ("trained", _length_in_header),
    "--rope-scaling": ("yarn", _is_yarn),
    "--rope-scale": ("rope_scale", _scale),
    "--rope-freq-scale": ("rope_scale", _inverse),
    "--threads-http": ("http_threads", _count),
    "-ctk": ("cache_type_k", _name),
    "--cache-type-k": ("cache_type_k", _name),
    "-ctv": ("cache_type_v", _name),
    "--cache-type-v": ("cache_type_v", _name),
    "-b": ("batch_size", _size),
    "--batch-size": ("batch_size", _size),
    "-ub": ("ubatch_size", _size),
    "--ubatch-size": ("ubatch_size", _size),
    "-fa": ("flash_attention", _is_on),
    "--flash-attn": ("flash_attention", _is_on),
    "-lm": ("mapped", _is_mapped),
    "--load-mode": ("mapped", _is_mapped),
    "--pooling": ("pooling", _pooling),
    "-ngl": ("gpu_layers", _layers),
    "--gpu-layers": ("gpu_layers", _layers),
    "--n-gpu-layers": ("gpu_layers", _layers),
    "-dev": ("gpus", _uses_gpus),
    "--device": ("gpus", _uses_gpus),
    "-fit": ("fits_itself", _is_on),
    "--fit": ("fits_itself", _is_on),
    "--spec-draft-n-max": ("drafted", _size),
    "-ncmoe": ("keeps_parts_back", _yes),
    "--n-cpu-moe": ("keeps_parts_back", _yes),
    "-ncffn": ("keeps_parts_back", _yes),
    "--n-cpu-ffn": ("keeps_parts_back", _yes),
    "-ot": ("keeps_parts_back", _yes),
    "--override-tensor": ("keeps_parts_back", _yes),
}
_SWITCHES: Final = frozenset({"-fa", "--flash-attn"})
_ALONE: Final[Mapping[str, Mapping[str, object]]] = {
    "--swa-full": {"swa_full": True},
    "-kvu": {"unified": True},
    "--kv-unified": {"unified": True},
    "-no-kvu": {"unified": False},
    "--no-kv-unified": {"unified": False},
    "-kvo": {"cache_on_device": True},
    "--kv-offload": {"cache_on_device": True},
    "-nkvo": {"cache_on_device": False},
    "--no-kv-offload": {"cache_on_device": False},
    "--mmap": {"mapped": True},
    "--no-mmap": {"mapped": False},
    "-dio": {"mapped": False},
    "--direct-io": {"mapped": False},
    "-cmoe": {"keeps_parts_back": True},
    "--cpu-moe": {"keeps_parts_back": True},
    "--mmproj-offload": {"projector_on_gpu": True},
    "--no-mmproj-offload": {"projector_on_gpu": False},
    "--repack": {"repack": True},
    "--no-repack": {"repack": False},
    "-nr": {"repack": False},
    "--embedding": {"embedding": True},
    "--embeddings": {"embedding": True},
    "--rerank": {"embedding": True, "pooling": "rank"},
    "--reranking": {"embedding": True, "pooling": "rank"},
}

# Variables that llama-server reads; an option on the command line wins.
_VARIABLES: Final = {
    "LLAMA_ARG_N_PARALLEL": "--parallel",
    "LLAMA_ARG_BATCH": "--batch-size",
    "LLAMA_ARG_UBATCH": "--ubatch-size",
    "LLAMA_ARG_POOLING": "--pooling",
    "LLAMA_ARG_KV_UNIFIED_PER_SLOT": "--kv-unified-per-slot",
    "LLAMA_ARG_ROPE_SCALING_TYPE": "--rope-scaling",
    "LLAMA_ARG_ROPE_SCALE": "--rope-scale",
    "LLAMA_ARG_ROPE_FREQ_SCALE": "--rope-freq-scale",
    "LLAMA_ARG_THREADS_HTTP": "--threads-http",
    "LLAMA_ARG_SPEC_DRAFT_N_MAX": "--spec-draft-n-max",
}
_SWITCH_VARIABLES: Final = {
    "LLAMA_ARG_RERANKING": "--reranking",
    "LLAMA_ARG_EMBEDDINGS": "--embedding",
    "LLAMA_ARG_KV_UNIFIED": "--kv-unified",
}


def words_of_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the arguments that a server's environment is equivalent to, without the context size.

    The service always passes the context size itself, so a variable for it has no effect.
    """
    switches = [
        option
        for name, option in _SWITCH_VARIABLES.items()
        if environment.get(name, "0").lower() not in _OFF
    ]
    if (
        environment.get("LLAMA_ARG_REPACK", "1").lower() in _OFF
        or "LLAMA_ARG_NO_REPACK" in environment
    ):
        switches.append("--no-repack")
    values = [
        word
        for name, option in _VARIABLES.items()
        if name in environment
        for word in (option, environment[name])
    ]
    return switches + values
