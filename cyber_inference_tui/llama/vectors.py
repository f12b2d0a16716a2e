"""What a llama-server is told for a model that makes vectors or ranks texts: pure.

Without ``--embedding`` a llama-server refuses requests for vectors, without ``--reranking`` those
for ranks. Neither keeps it from writing text (build 11669).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cyber_inference_tui.gguf.architectures import WITHOUT_CACHE, makes_vectors
from cyber_inference_tui.gguf.arguments import CacheSettings, cache_settings, words_of_variables
from cyber_inference_tui.gguf.metadata import ModelMetadata

VECTOR_OPTIONS: Final = frozenset(
    {"--embedding", "--reranking", "--batch-size", "--ubatch-size", "--parallel"}
)
"""Options that ``vector_options`` gives."""

_DEFAULT_UBATCH: Final = CacheSettings().ubatch_size
_SWITCHES: Final = frozenset({"LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING"})
# They are made of all tokens; ``last`` and ``rank`` of a model that reads from left to right need
# only the last one, so llama-server reads its texts in parts.
_OF_ALL_TOKENS: Final = frozenset({"mean", "cls"})


def vector_options(
    facts: ModelMetadata | None,
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    context_size: int,
    slots: int = 0,
) -> list[tuple[str, ...]]:
    """Each option with its values; empty for a model that only writes text.

    ``words``, ``environment`` and ``slots`` (0 = not said) are a person's own for this server.
    Whether it is for vectors is theirs to say, and so are its batches and slots: what they speak of
    is left alone.

    A vector of all tokens is made in one batch, and an input that is longer is refused ("increase
    the physical batch size"). So the batch holds as many tokens as an input may have, which is
    what the context holds and no more than the model was trained for.

    A model with a cache gets one slot. Several would share the cache, and a request with some long
    inputs would fail as soon as those that are read at once exceed it.
    """
    if facts is None:
        return []
    said = [*words_of_variables(environment), *words]
    asked = cache_settings(said, base=CacheSettings(batch_size=0, ubatch_size=0, slots=slots))
    pooling = asked.pooling or facts.pooling
    with_cache = facts.architecture not in WITHOUT_CACHE
    options: list[tuple[str, ...]] = []
    for_vectors = asked.embedding
    if not for_vectors and makes_vectors(facts) and _SWITCHES.isdisjoint(environment):
        options.append(("--reranking" if pooling == "rank" else "--embedding",))
        for_vectors = True
    if for_vectors and makes_vectors(facts) and with_cache and not asked.slots:
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


def told_settings(
    facts: ModelMetadata | None,
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    base: CacheSettings,
) -> CacheSettings:
    """What a server is started with, on top of ``base``: by us, by variables, by ``words``."""
    ours = vector_options(
        facts, words, environment, context_size=base.context_size or 0, slots=base.slots
    )
    said = words_of_variables(environment)
    if base.slots:
        # An option that the service gives, so the variable for it has no effect.
        said += ["--parallel", str(base.slots)]
    return cache_settings([*(word for option in ours for word in option), *said, *words], base=base)
