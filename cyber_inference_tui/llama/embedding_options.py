"""Options that a llama-server needs for a model that makes vectors or ranks texts.

Without ``--embedding`` a llama-server refuses requests for vectors, without ``--reranking`` those
for ranks. Neither keeps it from writing text (build 11669).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cyber_inference_tui.gguf.architectures import WITHOUT_CACHE, is_embedding_model
from cyber_inference_tui.gguf.arguments import ServerOptions
from cyber_inference_tui.gguf.metadata import ModelMetadata

_DEFAULT_UBATCH: Final = ServerOptions().ubatch_size
_SWITCHES: Final = frozenset({"LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"})
# They are made of all tokens; ``last`` and ``rank`` of a model that reads from left to right need
# only the last one, so llama-server reads its texts in parts.
_OF_ALL_TOKENS: Final = frozenset({"mean", "cls"})


def embedding_options(
    facts: ModelMetadata | None,
    asked: ServerOptions,
    environment: Mapping[str, str],
    *,
    context_size: int,
) -> list[tuple[str, ...]]:
    """Each option with its values; empty for a model that only writes text.

    A person decides with ``asked`` and ``environment`` whether the server is for vectors, and what
    batches and slots it has: options for these are given only where the person names none (a batch
    of 0).

    A vector of all tokens is made in one batch, and an input that is longer is refused ("increase
    the physical batch size"). So the batch holds as many tokens as an input may have, which is
    what the context holds and no more than the model was trained for.

    A model with a cache gets one slot. Several would share the cache, and a request with some long
    inputs would fail as soon as those that are read at once exceed it.
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
