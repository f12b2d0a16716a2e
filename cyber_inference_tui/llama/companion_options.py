"""The options of llama-server for drafts and LoRA adapters. Pure.

Names: ``common/arg.cpp`` of llama.cpp. Builds whose ``--spec-type`` has no ``draft-simple`` draft
as soon as they have a draft model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cyber_inference_tui.library.companions import Adapter, Draft, DraftKind

_MODEL: Final = "--model-draft"
_KIND: Final = "--spec-type"
_SCALED: Final = "--lora-scaled"
_LISTED: Final = "--lora-scaled FNAME:SCALE"
_KINDS: Final = re.compile(r"^--spec-type \[?([\w,|-]+)", re.MULTILINE)
_OWN: Final = frozenset(
    {_MODEL, _KIND, "-md", "--spec-draft-model", "-hfd", "-hfrd", "--hf-repo-draft"}
    | {"--spec-draft-hf", "--spec-default"}
)
_OWN_VARIABLES: Final = frozenset(
    {"LLAMA_ARG_SPEC_TYPE", "LLAMA_ARG_SPEC_DRAFT_MODEL", "LLAMA_ARG_MODEL_DRAFT"}
    | {"LLAMA_ARG_SPEC_DRAFT_HF_REPO", "LLAMA_ARG_HFD_REPO"}
)


def names_draft(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether the user's own arguments or variables decide how answers are drafted."""
    words = {word.partition("=")[0] for word in arguments}
    return not (_OWN.isdisjoint(words) and _OWN_VARIABLES.isdisjoint(environment))


def names_adapters(arguments: Sequence[str]) -> bool:
    """Return whether the user's own arguments name LoRA adapters."""
    return any(word.startswith("--lora") for word in arguments)


def companion_flags(help_text: str) -> set[str]:
    """Return what a ``--help`` says about the values of these options, as entries of the flags.

    They are ``--spec-type KIND`` for each kind of draft, and ``--lora-scaled FNAME:SCALE`` if that
    option takes a list.
    """
    kinds = _KINDS.search(help_text)
    found = {f"{_KIND} {kind}" for kind in re.split("[,|]", kinds[1])} if kinds else set()
    return found | ({_LISTED} if re.search(f"^{_LISTED},", help_text, re.MULTILINE) else set())


def can_draft(draft: Draft, flags: frozenset[str]) -> bool:
    """Return whether a build with these flags knows this kind of draft."""
    known = draft.kind is DraftKind.MODEL or f"{_KIND} {draft.kind}" in flags
    return known and (not draft.files or _MODEL in flags)


def draft_options(draft: Draft | None, flags: frozenset[str]) -> list[str]:
    """Return the options for a draft; none if the build does not know its kind."""
    if draft is None or not can_draft(draft, flags):
        return []
    kind = [_KIND, draft.kind.value] if f"{_KIND} {draft.kind}" in flags else []
    return kind + ([_MODEL, str(draft.files[0])] if draft.files else [])


def can_adapt(flags: frozenset[str]) -> bool:
    """Return whether a build with these flags takes a list of adapters with their strengths."""
    return _LISTED in flags


def adapter_options(adapters: Iterable[Adapter], flags: frozenset[str]) -> list[str]:
    """Return the option for adapters, in the order of their numbers in requests."""
    named = [f"{one.path}:{one.scale:g}" for one in adapters]
    return [_SCALED, ",".join(named)] if named and can_adapt(flags) else []
