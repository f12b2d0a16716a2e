"""Finds what can draft the answers of a model, if the pair is certain. Pure.

A draft proposes the next tokens, and the model checks several at once (speculative decoding,
docs/speculative.md of llama.cpp). It is a prediction layer (MTP) in the model's own file, a head
made for the model beside it (MTP, EAGLE-3, DFlash), or a small model with the same tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple

from cyber_inference_tui.gguf.architectures import is_embedding_model
from cyber_inference_tui.gguf.metadata import ModelMetadata
from cyber_inference_tui.gguf.quantization import named_quantization, split_quantization
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Draft, DraftKind
from cyber_inference_tui.library.scan import ModelFile

OFF: Final = "off"
AUTO: Final = "auto"
GOOD: Final = "Q8_0"
"""The quantization of a head that is as good as larger ones."""

_HEADS: Final = {
    "eagle3": DraftKind.EAGLE3,
    "dflash": DraftKind.DFLASH,
    "gemma4-assistant": DraftKind.MTP,
}
"""The architectures of llama.cpp that are heads and cannot write a text alone."""

# Those whose prediction layers llama.cpp runs (``graph_mtp`` in src/models, build 11669).
_PREDICTING: Final = frozenset(
    {"bailingmoe3", "cohere2moe", "deepseek2", "deepseek32", "deepseek4", "glm-dsa", "glm4moe"}
    | {"glm5-next", "hy_v3", "mimo2", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"}
    | {"qwen4exp", "step35"}
)

_WORDS: Final = re.compile(r"[^a-z0-9]+")
_HEAD_WORDS: Final = frozenset(
    {"mtp", "eagle", "eagle3", "dflash", "draft", "drafter", "drafts", "assistant", "head"}
)
_TRUNK_TENSORS: Final = 7
"""A layer of a whole model has at least as many tensors."""
_TIMES_SMALLER: Final = 8
"""A model with more than this part of another one's parameters is no gain as its draft."""
_MOST_TOKENS_APART: Final = 128
"""llama.cpp takes vocabularies whose sizes differ by this (common/speculative.cpp)."""


class Head(NamedTuple):
    """The file of a draft head, and its header."""

    file: ModelFile
    metadata: ModelMetadata


def head_kind(facts: ModelMetadata) -> DraftKind | None:
    """Return the kind of a file that can only draft; ``None`` = it is a model."""
    if facts.architecture in _HEADS:
        return _HEADS[facts.architecture]
    trunk = (facts.layers or 0) - (facts.predict_layers or 0)
    if facts.predicts and facts.tensor_count < _TRUNK_TENSORS * trunk:
        return DraftKind.MTP
    return None


def by_tokens(models: Iterable[LocalModel]) -> dict[str, list[LocalModel]]:
    """Return the models that can draft for larger ones, by the digest of their vocabulary."""
    found: dict[str, list[LocalModel]] = {}
    for model in models:
        facts = model.metadata
        if facts is None or facts.vocabulary_digest is None or not model.shards:
            continue
        if model.problem is None and not is_embedding_model(facts):
            found.setdefault(facts.vocabulary_digest, []).append(model)
    return found


def find_draft(
    model: LocalModel, heads: Iterable[Head], alike: Mapping[str, Sequence[LocalModel]]
) -> Draft | None:
    """Return what certainly can draft the model's answers: what was made for it comes first.

    ``alike`` are models by the digest of their vocabulary.
    """
    facts = model.metadata
    if facts is None or model.settings.command or is_embedding_model(facts):
        return None
    if facts.predicts and facts.architecture in _PREDICTING:
        return Draft(kind=DraftKind.MTP, name=model.id, metadata=facts)
    fitting = [head for head in heads if _made_for(head, model, facts)]
    if fitting:
        return _of_head(min(fitting, key=lambda head: _order(head, facts)))
    same = alike.get(facts.vocabulary_digest or "", ())
    small = [one for one in same if _is_small(one, facts)]
    return _of_model(min(small, key=_size)) if small else None


def named_draft(
    model: LocalModel, heads: Iterable[Head], models: Sequence[LocalModel]
) -> Draft | str:
    """Return the draft that the model's table names by id, alias or file, or why there is none."""
    name = model.settings.draft.casefold()
    for one in models:
        if name in {text.casefold() for text in (one.id, *one.aliases)}:
            return _mismatch(one, model) or _of_model(one)
    for head in heads:
        if name in {head.file.stem.casefold(), head.file.path.name.casefold()}:
            return _of_head(head)
    return f'its draft {model.settings.draft} is no model here ("auto" looks for one)'


def _mismatch(draft: LocalModel, model: LocalModel) -> str | None:
    """Return why llama-server would refuse a draft model with certainty."""
    theirs, ours = draft.metadata, model.metadata
    if draft.problem is not None or theirs is None or not draft.shards:
        return f"its draft {draft.id} cannot be used: {draft.problem or 'it has no file'}"
    if ours is None or theirs.vocabulary is None or ours.vocabulary is None:
        return None
    apart = abs(theirs.vocabulary - ours.vocabulary)
    if theirs.tokenizer != ours.tokenizer or apart > _MOST_TOKENS_APART:
        return (
            f"its draft {draft.id} has other tokens ({theirs.vocabulary:,} of {theirs.tokenizer}"
            f" for {ours.vocabulary:,} of {ours.tokenizer})"
        )
    return None


def _of_head(head: Head) -> Draft:
    return Draft(
        kind=head_kind(head.metadata) or DraftKind.MTP,
        name=head.file.stem,
        files=(head.file.path,),
        size_bytes=head.file.size,
        modified=head.file.modified,
        metadata=head.metadata,
    )


def _of_model(model: LocalModel) -> Draft:
    return Draft(
        kind=DraftKind.MODEL,
        name=model.id,
        files=model.shards,
        size_bytes=(model.size_bytes or 0) - model.projector_bytes,
        modified=model.modified or 0,
        metadata=model.metadata or ModelMetadata(),
    )


def _made_for(head: Head, model: LocalModel, facts: ModelMetadata) -> bool:
    """Return whether places, names, tokens and sizes all say that the head is the model's."""
    own = head.metadata
    same_tokens = own.vocabulary_digest is not None and (
        own.vocabulary_digest == facts.vocabulary_digest
    )
    if model.path is None or not same_tokens or not is_near(head.file.path, model.path):
        return False
    words = model_words(head.file.stem)
    if words and words != model_words(model.path.stem):
        return False
    if own.architecture == "gemma4-assistant":
        return bool(words) and (facts.architecture or "").startswith("gemma4")
    if own.architecture in _HEADS:
        return own.target_width is not None and own.target_width == facts.embedding_length
    return (
        own.architecture == facts.architecture
        and own.architecture in _PREDICTING
        and own.embedding_length == facts.embedding_length
        and _trunk(own) == _trunk(facts)
    )


def is_near(head: PurePath, model: PurePath) -> bool:
    """Return whether a head is beside a model, or one of them in a folder named after its kind."""
    return (
        head.parent == model.parent
        or (
            head.parent == model.parent.parent and named_quantization(model.parent.name) is not None
        )
        or (head.parent.parent == model.parent and head.parent.name.lower() in _HEAD_WORDS)
    )


def model_words(stem: str) -> list[str]:
    """Return the words of a name without its quantization, shard number and kind of head."""
    name = split_quantization(re.sub(r"-\d{5}-of-\d{5}$", "", stem))[0].lower()
    return [word for word in _WORDS.split(name) if word and word not in _HEAD_WORDS]


def _trunk(facts: ModelMetadata) -> int:
    return (facts.layers or 0) - (facts.predict_layers or 0)


def _order(head: Head, model: ModelMetadata) -> tuple[int, bool, bool, int, str]:
    """Order heads by kind, then the model's quantization, then a good one, then a small one."""
    kind = head_kind(head.metadata) or DraftKind.MODEL
    quantization = head.metadata.quantization
    same, good = quantization == model.quantization, quantization == GOOD
    return list(DraftKind).index(kind), not same, not good, head.file.size, head.file.path.name


def _is_small(small: LocalModel, model: ModelMetadata) -> bool:
    parameters = small.metadata.parameters if small.metadata else None
    return 0 < _TIMES_SMALLER * (parameters or 0) <= (model.parameters or 0)


def _size(model: LocalModel) -> tuple[int, str]:
    return model.size_bytes or 0, model.id
