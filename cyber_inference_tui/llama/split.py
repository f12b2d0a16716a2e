"""Splits a model over this box and the memory of another one, by llama.cpp's RPC backend.

Splitting is for what does not fit on one box, never for speed: a token passes through both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from cyber_inference_tui.errors import CyberError, ModelLoadError
from cyber_inference_tui.gguf.repacking import Processor
from cyber_inference_tui.llama.binary import LlamaBinary
from cyber_inference_tui.llama.need_estimate import formula_need, memory_parts
from cyber_inference_tui.llama.needs import Footprint, Need, NeedSource
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.llama.worker import OVERHEAD

_ALL_LAYERS = 999


class Lender(msgspec.Struct, frozen=True, kw_only=True):
    """The memory that another box lends."""

    memory: int
    """Bytes."""
    devices: int = 1
    """Its GPUs; 1 also for a processor."""


class Channel(Protocol):
    """The connection to a worker on another box, which ends with it."""

    port: int
    """The port of 127.0.0.1 on which the worker can be reached."""
    lost: asyncio.Future[str]
    """Done with the reason, in plain words, when the worker cannot be used any more."""

    async def close(self) -> None:
        """End the worker, and free its memory there."""


class Lenders(Protocol):
    """The other boxes, as far as they lend memory."""

    def lends(self, box: str) -> int | None:
        """Return the bytes that a box would lend now; ``None`` = it lends nothing."""

    async def check(self, box: str) -> Lender:
        """Measure the link to a box. Raises ``CyberError`` if no model can be split over it."""

    async def open(self, box: str, *, model: str, memory: int) -> Channel:
        """Have a box start a worker with so many bytes. Raises ``CyberError``."""


class SplitPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a split model."""

    share: float
    """The share of its layers on the other box."""
    here: Footprint
    there: int
    """Bytes of its worker."""
    arguments: tuple[str, ...]
    """Options of llama-server."""


def plan_split(
    spec: ServerSpec,
    lender: Lender,
    *,
    free_here: int,
    devices: tuple[str, ...],
    processor: Processor,
) -> SplitPlan | None:
    """Divide a model by the memory that both boxes have free; ``None`` = its layers are unknown.

    ``free_here`` is in bytes, ``devices`` are the GPUs here. The devices of the worker come first,
    as in llama.cpp's own order (``llama_prepare_model_devices`` in src/llama.cpp), so that the last
    layers are here. That order leaves out a GPU without memory of its own beside a worker, so all
    are named. Without a GPU here, the worker has the last layers. The compute buffer is on both.
    """
    facts = spec.metadata
    if spec.weights_bytes is None or facts is None or not facts.layers:
        return None
    layers = facts.layers + 1
    free = max(0, free_here), max(1, lender.memory)
    # At least one layer for each.
    there_layers = min(max(round(layers * free[1] / sum(free)), 1), layers - 1)
    share = there_layers / layers
    on_gpus = layers if devices else there_layers
    offloaded = msgspec.structs.replace(
        spec, options=msgspec.structs.replace(spec.options, gpu_layers=on_gpus)
    )
    order = (*(f"RPC{number}" for number in range(lender.devices)), *devices)
    whole = formula_need(offloaded, devices=order, processor=processor).footprint
    compute = memory_parts(offloaded, devices=order, processor=processor).compute
    placed: tuple[str, ...]
    if not devices:
        here = msgspec.structs.replace(whole, host=whole.host + compute, device=0)
        there = whole.device
        placed = ("--gpu-layers", str(there_layers))
    else:
        parts = whole.device - compute
        there = round(parts * share) + compute
        here = msgspec.structs.replace(whole, device=whole.device - there + compute)
        shares = [share / lender.devices] * lender.devices
        shares += [(1 - share) / len(devices)] * len(devices)
        split = ",".join(f"{part:.4f}" for part in shares)
        placed = ("--gpu-layers", str(_ALL_LAYERS), "--tensor-split", split)
    return SplitPlan(
        share=share,
        here=here,
        there=there + OVERHEAD,
        # By rows or tensors, every layer would wait for the network, or hang.
        arguments=("--device", ",".join(order), *placed, "--split-mode", "layer", "--fit", "off"),
    )


class Splitter:
    """Plans split models, and opens their channels.

    ``lenders`` returns the other boxes, ``free_here`` the bytes that a model may have on this box.
    """

    def __init__(self, lenders: Callable[[], Lenders], free_here: Callable[[], int]) -> None:
        self._lenders = lenders
        self._free_here = free_here

    def _plan(
        self,
        spec: ServerSpec,
        lender: Lender,
        binary: LlamaBinary | None,
        processor: Processor,
    ) -> SplitPlan | None:
        return plan_split(
            spec,
            lender,
            free_here=self._free_here(),
            devices=(binary.devices if binary is not None else None) or (),
            processor=processor,
        )

    def need(self, spec: ServerSpec, binary: LlamaBinary | None, processor: Processor) -> Need:
        """Estimate the memory of a split model's part on this box."""
        lends = self._lenders().lends(spec.split[0])
        if lends is None:
            # The load says why.
            return Need()
        plan = self._plan(spec, Lender(memory=lends), binary, processor)
        if plan is None:
            return Need()
        return Need(footprint=plan.here, source=NeedSource.FORMULA, visible=spec.visible_gpus)

    async def open(
        self, spec: ServerSpec, binary: LlamaBinary, processor: Processor
    ) -> tuple[ServerSpec, Channel]:
        """Open the channel to the other box; return it and the specification that uses it.

        Raises ``ModelLoadError``.
        """
        box = spec.split[0]
        if "--rpc" not in binary.flags:
            raise ModelLoadError(
                f"{spec.model_id} cannot be split: this llama-server has no RPC backend.",
                hint="`cyber-inference-tui install-llama --force` gets one that has it.",
                needs_person=True,
            )
        try:
            plan = self._plan(spec, await self._lenders().check(box), binary, processor)
            if plan is None:
                raise ModelLoadError("the number of its layers is not known.", needs_person=True)
            channel = await self._lenders().open(box, model=spec.model_id, memory=plan.there)
        except CyberError as error:
            raise ModelLoadError(
                f"{spec.model_id} cannot be split over this box and {box}: {error.message}",
                hint=error.hint,
                needs_person=error.permanent,
            ) from error
        # Behind the user's own arguments, so these win. ``--rpc`` makes the names of the devices.
        added = ("--rpc", f"127.0.0.1:{channel.port}", *plan.arguments)
        return msgspec.structs.replace(spec, arguments=(*spec.arguments, *added)), channel
