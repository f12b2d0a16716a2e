"""Estimates the memory that a server needs, and its place, from the most reliable source.

Measurements with the same arguments come first, then ``llama-fit-params``, then the formula.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.errors import StorageError
from cyber_inference_tui.gguf.memory_estimate import (
    DEFAULT_SLOTS,
    MemoryEstimate,
    estimate,
    state_bytes,
)
from cyber_inference_tui.gguf.repacking import Processor
from cyber_inference_tui.kernel import Ruleset
from cyber_inference_tui.library.companions import DraftKind
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.command import child_environment, llama_argv
from cyber_inference_tui.llama.fit_params import fitted_footprint
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.placement import Placement, placement
from cyber_inference_tui.llama.spec import ServerSpec, smaller_contexts

_MOST_KEPT = 512
_F32 = 4


class NeedEstimator:
    """Estimates the needs of servers and keeps them.

    ``measured`` returns the measured use of servers with a signature. ``environ`` is our
    environment, ``folder`` the working directory of servers, ``processor`` the kind of this
    machine's processor. ``ruleset`` returns what confines a server, and so ``llama-fit-params``.
    """

    def __init__(
        self,
        *,
        measured: Callable[[str], Footprint | None],
        environ: Mapping[str, str],
        folder: Callable[[], Path] = lambda: Path("/"),
        processor: Processor = Processor.PLAIN,
        ruleset: Callable[[ServerSpec, LlamaBinary], Awaitable[Ruleset | None]] | None = None,
    ) -> None:
        self._measured = measured
        self._environ = environ
        self._folder = folder
        self._processor = processor
        self._ruleset = ruleset
        self._kept: dict[tuple[str, Path | None, tuple[str, ...] | None], Need] = {}

    async def need(
        self, spec: ServerSpec, binary: LlamaBinary | None, *, ask_engine: bool = True
    ) -> Need:
        """Estimate the memory that a server takes with ``binary`` (``None`` = not installed).

        Without ``ask_engine`` no program is run. Never raises for a broken model: its load reports
        that.
        """
        found = await self._need(spec, binary, ask_engine=ask_engine)
        found = msgspec.structs.replace(found, visible=spec.visible_gpus)
        if spec.least_context is None or found.source is NeedSource.UNKNOWN:
            return found
        devices = binary.devices if binary is not None else ()

        def formula(one: ServerSpec) -> Footprint:
            return formula_need(one, devices=devices, processor=self._processor).footprint

        # For 64 contexts it takes some ten milliseconds.
        return await asyncio.to_thread(with_smaller_contexts, found, spec, formula)

    async def _need(
        self, spec: ServerSpec, binary: LlamaBinary | None, *, ask_engine: bool
    ) -> Need:
        if spec.lent_bytes:
            return Need(footprint=lent_footprint(spec, binary), source=NeedSource.FORMULA)
        own_program = bool(spec.command)
        devices = binary.devices if binary is not None and not own_program else ()
        if (measured := self._measured(spec.signature)) is not None:
            if own_program:
                return Need(footprint=measured, source=NeedSource.MEASURED)
            formula = formula_need(spec, devices=devices, processor=self._processor)
            return msgspec.structs.replace(
                formula,
                footprint=measured,
                source=NeedSource.MEASURED,
                projector=min(formula.projector, measured.device),
            )
        if own_program:
            return Need()
        key = (spec.signature, binary.path if binary is not None else None, devices)
        if (kept := self._kept.get(key)) is None:
            kept = await self._find(spec, binary if ask_engine else None, devices)
            if not ask_engine:
                return kept
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            if kept.source is not NeedSource.UNKNOWN:
                self._kept[key] = kept
        return kept

    async def _find(
        self, spec: ServerSpec, binary: LlamaBinary | None, devices: tuple[str, ...] | None
    ) -> Need:
        formula = formula_need(spec, devices=devices, processor=self._processor)
        if binary is None or formula.source is NeedSource.UNKNOWN:
            return formula
        fitted = await self._ask_engine(spec, binary)
        if fitted is None:
            return formula
        # llama-fit-params leaves out projectors and repacked weights: common_fit_print adds up the
        # buffers of GPUs and the plain buffer of the CPU. It is not asked for companions.
        where = placement(spec, devices)
        found = _estimate(spec, where, self._processor)
        host, device = _beside(found, where)
        return msgspec.structs.replace(
            formula,
            footprint=Footprint(
                mapped=fitted.mapped,
                host=fitted.host + found.repacked + host,
                device=fitted.device + device,
            ),
            source=NeedSource.ENGINE,
        )

    async def _ask_engine(self, spec: ServerSpec, binary: LlamaBinary) -> Footprint | None:
        options = spec.options
        spec = msgspec.structs.replace(spec, draft=None, adapters=())
        try:
            ruleset = await self._ruleset(spec, binary) if self._ruleset is not None else None
        except StorageError:
            return None

        def arguments(known: frozenset[str]) -> Sequence[str]:
            argv = llama_argv(spec, program="", flags=known, host="", port=0, available_bytes=0)
            if options.slots == 0:
                # llama-server's default, which other programs do not share.
                argv += ["--parallel", str(DEFAULT_SLOTS)]
                argv += ["--kv-unified"] if options.unified is None else []
            return argv[1:]

        return await fitted_footprint(
            binary.path,
            arguments,
            environment=child_environment(self._environ, binary.env, spec.environment),
            folder=self._folder(),
            mapped=options.mapped,
            needed=frozenset({"--parallel"}) if _depends_on_slots(spec) else frozenset(),
            ruleset=ruleset,
        )


def with_smaller_contexts(
    need: Need, spec: ServerSpec, formula: Callable[[ServerSpec], Footprint]
) -> Need:
    """Return the need of a server whose context the service chooses, with those to choose from.

    The ``formula`` says how much less it is with a smaller context. No larger context than the
    least moves parts of the model from GPUs to main memory.
    """
    most = formula(spec)
    smaller = []
    for size in smaller_contexts(spec):
        one = formula(spec.with_context(size))
        footprint = Footprint(
            mapped=max(0, need.footprint.mapped - most.mapped + one.mapped),
            host=max(0, need.footprint.host - most.host + one.host),
            device=max(0, need.footprint.device - most.device + one.device),
        )
        spills = need.spills and size == spec.least_context
        smaller.append(
            msgspec.structs.replace(need, footprint=footprint, spills=spills, context=size)
        )
    return msgspec.structs.replace(
        need,
        spills=need.spills and not smaller,
        context=spec.context_size or 0,
        smaller=tuple(smaller),
    )


def lent_footprint(spec: ServerSpec, binary: LlamaBinary | None) -> Footprint:
    """Return the memory that a worker may use: that of the GPUs, if there are any.

    It allocates main memory bit by bit, and the rest counts as used from the start. Memory of a GPU
    counts by the readings of the machine, as for any server.
    """
    if binary is not None and binary.devices:
        return Footprint(device=spec.lent_bytes)
    return Footprint(host=spec.lent_bytes)


def _depends_on_slots(spec: ServerSpec) -> bool:
    """Return whether each slot has memory of its own besides its part of the cache."""
    facts = spec.metadata
    if spec.options.slots == 1:
        return False
    return facts is None or facts.recurrent is not None or facts.sliding_window is not None


def formula_need(
    spec: ServerSpec,
    *,
    devices: tuple[str, ...] | None = (),
    processor: Processor = Processor.PLAIN,
) -> Need:
    """Apply the formula to the header, and divide the result between main memory and ``devices``.

    ``devices`` is ``None`` if they are unknown (see ``placement``). The source is ``UNKNOWN`` if
    the size of the files is. llama-server places a model by layers, so a number of layers on the
    GPU is that share of the weights and of the cache (a GPU's layers include one more than the
    model has, for the output). Compute buffers are on the GPU if any layer is.
    """
    if spec.weights_bytes is None:
        return Need()
    where = placement(spec, devices)
    found = _estimate(spec, where, processor)
    on_device = round(found.weights * where.share)
    cache_on_device = round(found.kv_cache * where.cache_share)
    mapped = found.weights - found.repacked - on_device if where.mapped else 0
    host = found.weights - on_device - mapped + found.kv_cache - cache_on_device
    device = on_device + cache_on_device
    if where.share > 0:
        device += found.compute
    else:
        host += found.compute
    more_host, more_device = _beside(found, where)
    return Need(
        footprint=Footprint(
            mapped=mapped,
            host=host + more_host,
            device=device + more_device,
        ),
        source=NeedSource.UPPER_BOUND if found.upper_bound else NeedSource.FORMULA,
        spills=where.spills,
        projector=found.projector if where.projector_on_device else 0,
        visible=spec.visible_gpus,
    )


def _beside(found: MemoryEstimate, where: Placement) -> tuple[int, int]:
    """Divide the memory of the projector, the draft and the adapters between host and device.

    llama-server puts as many layers of a draft on GPUs as it can, and an adapter beside the layers
    that it changes.
    """
    companions = found.draft + found.adapters
    on_device = companions if where.share > 0 else 0
    on_device += found.projector if where.projector_on_device else 0
    return found.projector + companions - on_device, on_device


def memory_parts(
    spec: ServerSpec,
    *,
    devices: tuple[str, ...] | None = (),
    processor: Processor = Processor.PLAIN,
) -> MemoryEstimate:
    """Apply the formula to the header, and return the sizes by purpose."""
    return _estimate(spec, placement(spec, devices), processor)


def _estimate(spec: ServerSpec, where: Placement, processor: Processor) -> MemoryEstimate:
    facts, options, files = spec.metadata, spec.options, spec.weights_bytes or 0
    if facts is None or facts.architecture is None:
        return MemoryEstimate(
            weights=files,
            kv_cache=files // 10,
            projector=spec.projector_bytes,
            compute=0,
            upper_bound=True,
            note="its header is not known",
        )
    processor = processor if where.repacked and options.repack else Processor.PLAIN
    own = estimate(
        facts,
        weights_bytes=facts.tensor_bytes or files,
        projector_bytes=spec.projector_bytes,
        projector=spec.projector_facts,
        context_size=spec.context_size or 0,
        slots=options.slots,
        unified=options.unified,
        cache_type_k=options.cache_type_k,
        cache_type_v=options.cache_type_v,
        batch_size=options.batch_size,
        ubatch_size=options.ubatch_size,
        swa_full=options.swa_full,
        flash_attention=options.flash_attention,
        embedding=options.embedding,
        pooling=options.pooling,
        processor=processor,
    )
    return msgspec.structs.replace(
        own,
        draft=_draft_bytes(spec, processor),
        adapters=sum(adapter.size_bytes for adapter in spec.adapters),
    )


def _draft_bytes(spec: ServerSpec, processor: Processor) -> int:
    """Return the memory of the draft: a context of its own, as large as the model's.

    Its cache has 16 bits, whatever the model's has. A head reads the model's hidden states beside
    the embeddings, and llama-server keeps the states of a model with a head as they were before
    each drafted token, to return to them (``n_rs_seq`` in the log of build 11669).
    """
    draft, options = spec.draft, spec.options
    if draft is None:
        return 0
    facts, beside = draft.metadata, 0
    if draft.kind is not DraftKind.MODEL:
        states = state_bytes(spec.metadata, options.slots) if spec.metadata else 0
        inputs = 3 * (facts.embedding_length or 0) * options.ubatch_size * _F32
        beside = options.drafted * states + inputs
    if draft.kind is DraftKind.MTP and (last := facts.predict_layers):
        # The last layers of the model, which attend to all tokens.
        facts = msgspec.structs.replace(
            facts,
            layers=last,
            predict_layers=None,
            kv_heads=facts.kv_heads[-last:] if facts.kv_heads else None,
            recurrent=None,
            recurrent_layers=None,
            matrices=(),
        )
    own = estimate(
        facts,
        weights_bytes=draft.size_bytes,
        context_size=spec.context_size or 0,
        slots=options.slots,
        unified=options.unified,
        batch_size=options.batch_size,
        ubatch_size=options.ubatch_size,
        flash_attention=options.flash_attention,
        processor=processor,
    )
    return own.total + beside
