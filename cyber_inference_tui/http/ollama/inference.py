"""The paths of Ollama's API that ask a model for output."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cyber_inference_tui.http.body_fields import Body
from cyber_inference_tui.http.ollama.call import Call
from cyber_inference_tui.http.ollama.chat import read_chat
from cyber_inference_tui.http.ollama.embed import read_embed, read_embeddings_of_prompt
from cyber_inference_tui.http.ollama.generate import read_generate

Translator = Callable[[Body], Call]
"""Translates the body of a request."""

TRANSLATORS: Mapping[str, Translator] = {
    "/api/chat": read_chat,
    "/api/generate": read_generate,
    "/api/embed": read_embed,
    "/api/embeddings": read_embeddings_of_prompt,
}
