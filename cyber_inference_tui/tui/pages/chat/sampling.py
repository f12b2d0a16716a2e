"""Options that are sent with every question: a system prompt and sampling values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.tui.widgets.text_line import TEXT_CHARACTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling options; ``None`` leaves a value to the model's server."""

    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def values(self) -> dict[str, Any]:
        """Return the values that are set, by their names in the API."""
        named = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in named.items() if value is not None}


FIELDS: dict[str, str] = {
    "temperature": "0 to 2; 0 = always the likeliest token",
    "top_p": "0 to 1; 1 = all tokens",
    "max_tokens": "maximum length of an answer",
    "seed": "the same seed gives the same answer",
}
_LEAST = {"temperature": 0.0, "top_p": 0.0, "max_tokens": 1, "seed": 0}
_MOST = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 1_000_000, "seed": 2**32 - 1}


def read_sampling(system: str, typed: Mapping[str, str]) -> Sampling:
    """Parse the typed values; raise ``InvalidRequestError`` with the field in ``param``."""
    if len(system) > TEXT_CHARACTERS:
        raise InvalidRequestError(
            f"The system prompt may have at most {TEXT_CHARACTERS:,} characters.", param="system"
        )
    values: dict[str, Any] = {}
    for name in FIELDS:
        text = typed.get(name, "").strip()
        if not text:
            continue
        whole = name in {"max_tokens", "seed"}
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            kind = "a whole number" if whole else "a number such as 0.7"
            raise InvalidRequestError(f"{name} has to be {kind}.", param=name) from None
        # This comparison refuses NaN, too.
        if not _LEAST[name] <= value <= _MOST[name]:
            raise InvalidRequestError(
                f"{name} has to be {_LEAST[name]:g} to {_MOST[name]:,.10g}.", param=name
            )
        values[name] = value
    return Sampling(system=system.strip(), **values)


def sampling_text(sampling: Sampling, dot: str) -> str:
    """Return the set options in a few words; empty if none is set."""
    parts = ["system prompt"] if sampling.system else []
    parts += [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in sampling.values().items()
    ]
    return f" {dot} ".join(parts)
