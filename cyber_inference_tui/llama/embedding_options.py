"""Chooses the options of a llama-server whose model makes embeddings or ranks texts.

Without ``--embedding`` a llama-server refuses requests for embeddings, and without ``--reranking``
requests for ranks. With them it still generates text (build 11669).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cyber_inference_tui.gguf.architectures import WITHOUT_CACHE, is_embedding_model
from cyber_inference_tui.gguf.arguments import ServerOptions
from cyber_inference_tui.gguf.metadata import ModelMetadata

_DEFAULT_UBATCH: Final = ServerOptions().ubatch_size
_SWITCHES: Final = frozenset({"LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"})
# These poolings use all tokens. ``last`` and ``rank`` of a causal model use only the last token,
# so llama-server splits their inputs into batches.
_OF_ALL_TOKENS: Final = frozenset({"mean", "cls"})


def embedding_options(
    facts: ModelMetadata | None,
    asked: ServerOptions,
    environment: Mapping[str, str],
    *,
    context_size: int,
) -> list[tuple[str, ...]]:
    """Return options with their values; none for a model that only generates text.

    ``asked`` and ``environment`` hold the user's choices. An option is added only if the user has
    not set it (a batch of 0).

    An embedding of all tokens is computed in one batch, and llama-server refuses a longer input
    ("increase the physical batch size"). So the batch holds as many tokens as the context, but no
    more than the model was trained with.

    A model with a cache gets one slot. Several slots would share the cache, and a request with
    several long inputs would fail as soon as the inputs in progress exceed it.
    """
    if facts is None:
        return []
    pooling = asked.pooling or facts.pooling
    with_cache = facts.architecture not in WITHOUT_CACHE
    options: list[tuple[str, ...]] = []
    for_vectors = asked.embedding
    if not for_vectors and is_embedding_model(facts) and _SWITCHES.isdisjoint(environment):
        options.append(("--reranking" if pooling == "rank" else "--embedding",))
        for_vectors = True
    if for_vectors and is_embedding_model(facts) and with_cache and not asked.slots:
        options.append(("--parallel", "1"))
    whole = not with_cache or pooling in _OF_ALL_TOKENS
    tokens = min(context_size, facts.context_length or context_size)
    if (
        for_vectors
        and whole
        and tokens > _DEFAULT_UBATCH
        and not asked.batch_size
        and not asked.ubatch_size
    ):
        # The logical batch bounds the physical one.
        options += [("--batch-size", str(tokens)), ("--ubatch-size", str(tokens))]
    return options
