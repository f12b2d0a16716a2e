"""What a model is expected to take, and where: from the surest source that knows.

Before: what was measured with the same arguments, ``llama-fit-params``, the header's formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cyber_inference_tui.gguf.arguments import CacheSettings
from cyber_inference_tui.gguf.memory import (
    DEFAULT_SLOTS,
    MemoryEstimate,
    context_of_a_request,
    estimate,
)
from cyber_inference_tui.gguf.metadata import ProjectorFacts
from cyber_inference_tui.gguf.repacking import Processor
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.command import (
    child_environment,
    context_size,
    further_arguments,
    llama_argv,
    signature,
)
from cyber_inference_tui.llama.fit_params import fitted_footprint
from cyber_inference_tui.llama.needs import Footprint, Need, Source
from cyber_inference_tui.llama.placement import Placement, placement
from cyber_inference_tui.llama.vectors import told_settings
from cyber_inference_tui.settings.schema import Settings

_MOST_KEPT = 512


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files, as far as they matter here. Sizes in bytes."""

    model: int
    """All shards."""
    projector: int = 0
    projector_facts: ProjectorFacts | None = None


class Expectations:
    """Knows what models need, and keeps what it found out.

    ``measured`` gives what a server with this signature was seen to take. ``environ`` is ours.
    ``folder`` is where servers run, ``processor`` what they run on.
    """

    def __init__(
        self,
        *,
        measured: Callable[[str], Footprint | None],
        environ: Mapping[str, str],
        folder: Callable[[], Path] = lambda: Path("/"),
        processor: Processor = Processor.PLAIN,
    ) -> None:
        self._measured = measured
        self._environ = environ
        self._folder = folder
        self._processor = processor
        self._kept: dict[tuple[str, Path | None, tuple[str, ...] | None], Need] = {}

    async def need(
        self,
        model: LocalModel,
        settings: Settings,
        binary: LlamaBinary | None,
        *,
        context_limit: int | None = None,
        ask_engine: bool = True,
    ) -> Need:
        """What ``model`` would take, served by ``binary`` (``None`` = there is none yet).

        Without ``ask_engine`` no program is run for it. Never raises for what is wrong with the
        model: its load will tell.
        """
        found = await self._need(
            model, settings, binary, context_limit=context_limit, ask_engine=ask_engine
        )
        return msgspec.structs.replace(found, visible=_visible(model))

    async def _need(
        self,
        model: LocalModel,
        settings: Settings,
        binary: LlamaBinary | None,
        *,
        context_limit: int | None,
        ask_engine: bool,
    ) -> Need:
        own_program = bool(model.settings.command)
        name = signature(model, settings, context_limit)
        devices = binary.devices if binary is not None and not own_program else ()
        tokens = None if own_program else context_size(model, settings, context_limit)
        if (measured := self._measured(name)) is not None:
            return Need(
                footprint=measured,
                source=Source.MEASURED,
                context_size=tokens,
                spills=not own_program and placement(model, settings, devices).spills,
            )
        if own_program:
            return Need()
        key = (name, binary.path if binary is not None else None, devices)
        if (kept := self._kept.get(key)) is None:
            asked = binary if ask_engine else None
            kept = await self._find(model, settings, asked, context_limit, devices)
            if not ask_engine:
                return kept
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            if kept.source is not Source.UNKNOWN:
                self._kept[key] = kept
        return kept

    async def _find(
        self,
        model: LocalModel,
        settings: Settings,
        binary: LlamaBinary | None,
        context_limit: int | None,
        devices: tuple[str, ...] | None,
    ) -> Need:
        files = files_of(model)
        if files is None:
            return Need(context_size=context_size(model, settings, context_limit))
        formula = formula_need(
            model,
            settings,
            files,
            devices=devices,
            context_limit=context_limit,
            processor=self._processor,
        )
        if binary is None:
            return formula
        told = await self._ask_engine(model, settings, binary, context_limit)
        if told is None:
            return formula
        # It counts neither projectors nor weights that are repacked: common_fit_print sums up what
        # lies in buffers of GPUs and in the CPU's plain one.
        where = placement(model, settings, devices)
        found = _estimate(model, settings, files, context_limit, _effective(self._processor, where))
        return Need(
            footprint=Footprint(
                mapped=told.mapped,
                host=told.host
                + found.repacked
                + (0 if where.projector_on_device else found.projector),
                device=told.device + (found.projector if where.projector_on_device else 0),
            ),
            source=Source.ENGINE,
            context_size=formula.context_size,
            spills=formula.spills,
        )

    async def _ask_engine(
        self,
        model: LocalModel,
        settings: Settings,
        binary: LlamaBinary,
        context_limit: int | None,
    ) -> Footprint | None:
        cache = _cache_settings(model, settings, context_limit)

        def arguments(known: frozenset[str]) -> Sequence[str]:
            argv = llama_argv(
                program="",
                flags=known,
                model=model,
                settings=settings,
                host="",
                port=0,
                available_bytes=0,
                context_limit=context_limit,
            )
            if cache.slots == 0:
                # llama-server's own choice, which is not that of the other programs.
                argv += ["--parallel", str(DEFAULT_SLOTS)]
                argv += ["--kv-unified"] if cache.unified is None else []
            return argv[1:]

        return await fitted_footprint(
            binary.path,
            arguments,
            environment=child_environment(self._environ, binary.env, model.settings.env),
            folder=self._folder(),
            mapped=cache.mapped,
            needed=frozenset({"--parallel"}) if _depends_on_slots(model, cache) else frozenset(),
        )


def _depends_on_slots(model: LocalModel, cache: CacheSettings) -> bool:
    """Whether each slot has memory of its own, beyond its part of the whole cache."""
    facts = model.metadata
    if cache.slots == 1:
        return False
    return facts is None or facts.recurrent is not None or facts.sliding_window is not None


def files_of(model: LocalModel) -> Files | None:
    """How large the model's files are, from the last scan; ``None`` when that is not known."""
    if model.path is None or model.size_bytes is None:
        return None
    return Files(
        model=model.size_bytes - model.projector_bytes,
        projector=model.projector_bytes,
        projector_facts=model.projector_facts,
    )


def formula_need(
    model: LocalModel,
    settings: Settings,
    files: Files,
    *,
    devices: tuple[str, ...] | None = (),
    context_limit: int | None = None,
    processor: Processor = Processor.PLAIN,
) -> Need:
    """What the header's formula gives, laid out over main memory and the GPUs ``devices``.

    ``devices`` is ``None`` where they are not known (see ``placement``).
    A layer is the unit in which llama-server places a model, so a number of layers on the GPU is
    that share of the weights and of the cache (a GPU's own layers count one more than the model
    has, for the output). Buffers for computing are where layers are.
    """
    where = placement(model, settings, devices)
    found = _estimate(model, settings, files, context_limit, _effective(processor, where))
    on_device = round(found.weights * where.share)
    cache_on_device = round(found.kv_cache * where.cache_share)
    mapped = found.weights - found.repacked - on_device if where.mapped else 0
    host = found.weights - on_device - mapped + found.kv_cache - cache_on_device
    device = on_device + cache_on_device
    if where.share > 0:
        device += found.compute
    else:
        host += found.compute
    if where.projector_on_device:
        device += found.projector
    else:
        host += found.projector
    return Need(
        footprint=Footprint(
            mapped=mapped,
            host=host,
            device=device,
        ),
        source=Source.UPPER_BOUND if found.upper_bound else Source.FORMULA,
        context_size=context_size(model, settings, context_limit),
        spills=where.spills,
        visible=_visible(model),
    )


def _visible(model: LocalModel) -> str | None:
    return model.settings.env.get("CUDA_VISIBLE_DEVICES")


def with_context(model: LocalModel, context_size: int) -> LocalModel:
    """The model as if it were configured with this context size, whatever its arguments say."""
    own = model.settings
    args = (*own.args, "--ctx-size", str(context_size))
    changed = msgspec.structs.replace(own, context_size=context_size, args=args)
    return msgspec.structs.replace(model, settings=changed)


def memory_parts(
    model: LocalModel,
    settings: Settings,
    files: Files,
    *,
    devices: tuple[str, ...] | None = (),
    processor: Processor = Processor.PLAIN,
) -> MemoryEstimate:
    """What the header's formula gives, by what the memory is for."""
    where = placement(model, settings, devices)
    return _estimate(model, settings, files, None, _effective(processor, where))


def _effective(processor: Processor, where: Placement) -> Processor:
    """What weights are repacked for, where they lie."""
    return processor if where.repacked else Processor.PLAIN


def told(model: LocalModel, settings: Settings) -> CacheSettings:
    """What its server is told of slots and embeddings; nothing where it is another program's."""
    if model.settings.command:
        return CacheSettings()
    return _cache_settings(model, settings, None)


def context_length(model: LocalModel, settings: Settings, limit: int | None = None) -> int | None:
    """Tokens of context that one request may use once the model is loaded with these settings.

    ``limit`` caps the server's context. ``None`` = unknown, as for another program's model.
    """
    if model.settings.command or model.metadata is None:
        return None
    cache = _cache_settings(model, settings, limit)
    if limit is not None:
        # It is above a person's own arguments.
        cache = msgspec.structs.replace(cache, context_size=context_size(model, settings, limit))
    return context_of_a_request(cache, cache.trained or model.metadata.context_length)


def _estimate(
    model: LocalModel,
    settings: Settings,
    files: Files,
    context_limit: int | None,
    processor: Processor,
) -> MemoryEstimate:
    facts = model.metadata
    if facts is None or facts.architecture is None:
        return MemoryEstimate(
            weights=files.model,
            kv_cache=files.model // 10,
            projector=files.projector,
            compute=0,
            upper_bound=True,
            note="its header is not known",
        )
    cache = _cache_settings(model, settings, context_limit)
    return estimate(
        facts,
        weights_bytes=facts.tensor_bytes or files.model,
        projector_bytes=files.projector,
        projector=files.projector_facts,
        context_size=context_size(model, settings, context_limit),
        slots=cache.slots,
        unified=cache.unified,
        cache_type_k=cache.cache_type_k,
        cache_type_v=cache.cache_type_v,
        batch_size=cache.batch_size,
        ubatch_size=cache.ubatch_size,
        swa_full=cache.swa_full,
        flash_attention=cache.flash_attention,
        embedding=cache.embedding,
        pooling=cache.pooling,
        processor=processor if cache.repack else Processor.PLAIN,
    )


def _cache_settings(
    model: LocalModel, settings: Settings, context_limit: int | None
) -> CacheSettings:
    parallel = model.settings.parallel
    base = CacheSettings(
        context_size=context_size(model, settings, context_limit),
        slots=settings.llama_parallel if parallel is None else parallel,
    )
    words = further_arguments(model, settings)
    return told_settings(model.metadata, words, model.settings.env, base=base)
