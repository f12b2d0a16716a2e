"""Derives what a model can do from its header, its projector, its settings and its server. Pure."""

from __future__ import annotations

from cyber_inference_tui.gguf.architectures import is_embedding_model
from cyber_inference_tui.gguf.chat_template import TemplateFacts
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.spec import ServerSpec
from cyber_inference_tui.records.checks import Ability, ModelCheck, Outcome

_TRIED = (Ability.TOOLS, Ability.THINKING, Ability.VISION)
"""The abilities that are capabilities by the same name."""


def capabilities_of(
    model: LocalModel,
    spec: ServerSpec,
    template: TemplateFacts | None = None,
    check: ModelCheck | None = None,
) -> tuple[str, ...]:
    """Return the model's capabilities; none if it is another program's or its file is unreadable.

    ``template`` has the facts of the template that its server uses, if they are known. What a
    ``check`` has found is more certain than what a file says.
    """
    facts = model.metadata
    if model.settings.command or (facts is None and model.problem is not None):
        return ()
    if makes_vectors(model, spec):
        return ("rerank",) if spec.options.pooling == "rank" else ("embeddings",)
    projector = model.projector_facts
    facts = facts or ModelMetadata()
    template = template or facts.template or TemplateFacts()
    has = {
        "completion": True,
        "chat": facts.template is not None,
        "tools": template.tools,
        "thinking": template.thinking,
        "vision": model.mmproj is not None and (projector is None or projector.vision),
        "audio": model.mmproj is not None and projector is not None and projector.audio,
        "infill": facts.infill,
    }
    for trial in check.trials if check is not None else ():
        if trial.ability in _TRIED and trial.outcome is not Outcome.NOT_TRIED:
            has[trial.ability.value] = trial.outcome is Outcome.YES
    return tuple(name for name, is_there in has.items() if is_there)


def makes_vectors(model: LocalModel, spec: ServerSpec) -> bool:
    """Return whether a model makes embeddings or rankings instead of text."""
    facts = model.metadata
    return spec.options.embedding or (facts is not None and is_embedding_model(facts))
