"""The changes of a model's settings that are worth a trial on a machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cyber_inference_tui.gguf.arguments import ServerOptions
from cyber_inference_tui.library.drafts import AUTO, OFF
from cyber_inference_tui.records.tuning import Goal, TuneRequest
from cyber_inference_tui.settings.schema import ModelSettings
from cyber_inference_tui.units import counted

MOST_TRIALS = 12

# Options of llama-server with their short names (common/arg.cpp of llama.cpp).
_FLASH = "--flash-attn"
_UBATCH = "--ubatch-size"
_BATCH = "--batch-size"
_CACHE_K = "--cache-type-k"
_CACHE_V = "--cache-type-v"
_EXPERTS = "--n-cpu-moe"
DRAFTED = "--spec-draft-n-max"
_SHORT: Mapping[str, tuple[str, ...]] = {
    _FLASH: ("-fa",),
    _UBATCH: ("-ub",),
    _BATCH: ("-b",),
    _CACHE_K: ("-ctk",),
    _CACHE_V: ("-ctv",),
    _EXPERTS: ("-ncmoe",),
    DRAFTED: (),
}
_FEW_DRAFTED, _MANY_DRAFTED = 3, 8
"""Tokens of each draft: llama-server's default, and as many as an easy text gains from."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a model's settings."""

    name: str
    """The change in a few words."""
    settings: Mapping[str, int | str] = {}
    """New values of keys of the model's table."""
    options: Mapping[str, str] = {}
    """New values of options in ``args``."""
    answers: bool = False
    """Answers may change, and have to be compared."""

    def applied_to(self, settings: ModelSettings) -> ModelSettings:
        """Return these settings with the change."""
        changes: dict[str, object] = dict(self.settings)
        if self.options:
            changes["args"] = with_options(settings.args, self.options)
        return msgspec.structs.replace(settings, **changes)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What decides which changes make sense: the machine, the model and its present server."""

    cores: int
    """Cores that its server may use."""
    fast_cores: int | None = None
    """Cores with the highest clock, where they differ."""
    gpus: bool = False
    spills: bool = False
    """The model does not fit on the GPUs as a whole."""
    blocks: int | None = None
    """Layers of the model."""
    is_mixture: bool = False
    """A mixture of experts."""
    threads: int = 0
    """As asked for; 0 = llama-server decides."""
    gpu_layers: int = -1
    """As asked for; -1 = llama-server decides."""
    slots: int = 0
    """Slots of the server that runs."""
    draft: str | None = None
    """The model's setting; ``None`` = nothing can draft its answers here, or ``args`` decide."""
    draft_lengths: bool = False
    """This build takes the number of tokens of each draft."""
    options: ServerOptions = ServerOptions()


def with_options(args: Sequence[str], options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the arguments with these options in place of their former values."""
    names = {name for option in options for name in (option, *_SHORT[option])}
    kept: list[str] = []
    words = iter(args)
    for word in words:
        if word.partition("=")[0] not in names:
            kept.append(word)
        elif "=" not in word:
            next(words, None)
    return (*kept, *(word for option in options.items() for word in option))


def candidates(facts: Facts, request: TuneRequest) -> tuple[Change, ...]:
    """Return the changes to try, those that usually matter most first; at most ``MOST_TRIALS``."""
    if request.goal is Goal.MEMORY:
        found = [
            *_drafts(facts, request),
            *_caches(facts, request),
            *_batches(facts, request),
            *_slots(facts, request),
        ]
        return tuple(found[:MOST_TRIALS])
    found = [
        *_placements(facts),
        *_drafts(facts, request),
        *_threads(facts),
        *_flash(facts),
        *_batches(facts, request),
        *_caches(facts, request),
        *_slots(facts, request),
    ]
    return tuple(found[:MOST_TRIALS])


def _placements(facts: Facts) -> Iterator[Change]:
    """Where the layers are: only of interest if GPUs cannot or may not hold all of them."""
    if not facts.gpus:
        return
    if facts.gpu_layers >= 0:
        yield Change(name="llama-server decides the layers on GPUs", settings={"gpu_layers": -1})
    if facts.spills and facts.is_mixture and facts.blocks:
        for count in dict.fromkeys((facts.blocks, facts.blocks // 2)):
            yield Change(
                name=f"experts of {count} layers in main memory", options={_EXPERTS: str(count)}
            )


def _threads(facts: Facts) -> Iterator[Change]:
    works = not facts.gpus or facts.spills or facts.gpu_layers >= 0
    wanted = (facts.fast_cores, facts.cores, facts.cores // 2, facts.cores - 1)
    for count in dict.fromkeys(wanted) if works else ():
        if count and count != facts.threads:
            yield Change(name=counted(count, "thread"), settings={"threads": count})


def _drafts(facts: Facts, request: TuneRequest) -> Iterator[Change]:
    """With drafts and without, and shorter or longer ones. They take memory and never save any."""
    if facts.draft is None:
        return
    present, draft = facts.options.drafted, facts.draft
    if draft != OFF:
        yield Change(name="no drafts", settings={"draft": OFF})
    if request.goal is Goal.MEMORY:
        return
    if draft == OFF:
        draft = AUTO
        yield Change(name=_drafts_of(present), settings={"draft": draft})
    if facts.draft_lengths:
        other = _MANY_DRAFTED if present < _MANY_DRAFTED else _FEW_DRAFTED
        yield Change(
            name=_drafts_of(other), settings={"draft": draft}, options={DRAFTED: str(other)}
        )


def _drafts_of(tokens: int) -> str:
    return f"drafts of {counted(tokens, 'token')}"


def _flash(facts: Facts) -> Iterator[Change]:
    if not facts.options.flash_attention:
        yield Change(name="flash attention", options={_FLASH: "on"})
    elif not _is_quantized(facts.options.cache_type_v):
        # llama-server refuses a quantized cache of values without it.
        yield Change(name="no flash attention", options={_FLASH: "off"})


def _batches(facts: Facts, request: TuneRequest) -> Iterator[Change]:
    """Batches of prompts: a prompt that fits into one is not split by a larger one."""
    present = facts.options.ubatch_size
    sizes = [present // 2, present // 4, present * 2, present * 4]
    for size in sizes if request.goal is not Goal.MEMORY else sizes[:2]:
        differs = request.goal is Goal.MEMORY or min(size, request.prompt) != min(
            present, request.prompt
        )
        if differs and 32 <= size <= 4096:
            options = {_UBATCH: str(size)}
            if size > facts.options.batch_size:
                options[_BATCH] = str(size)
            yield Change(name=f"batches of {size:,} tokens", options=options)


def _caches(facts: Facts, request: TuneRequest) -> Iterator[Change]:
    present = {facts.options.cache_type_k, facts.options.cache_type_v}
    if not facts.options.flash_attention:
        return
    for kind in ("q8_0", "q4_0") if request.goal is Goal.MEMORY else ("q8_0",):
        if present != {kind}:
            yield Change(
                name=f"{kind} cache", options={_CACHE_K: kind, _CACHE_V: kind}, answers=True
            )


def _slots(facts: Facts, request: TuneRequest) -> Iterator[Change]:
    """As many slots as there are requests at once, if somebody has said how many these are."""
    if 1 < request.parallel < facts.slots:
        yield Change(
            name=counted(request.parallel, "slot"), settings={"parallel": request.parallel}
        )


def _is_quantized(kind: str) -> bool:
    return kind not in {"f32", "f16", "bf16"}


def changed_values(before: ModelSettings, after: ModelSettings) -> dict[str, object]:
    """Return the keys of the table that differ, with their new values."""
    return {
        name: getattr(after, name)
        for name in ("threads", "gpu_layers", "parallel", "draft", "args")
        if getattr(after, name) != getattr(before, name)
    }
