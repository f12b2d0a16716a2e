"""Images of Ollama's requests as data URLs."""

from __future__ import annotations

import binascii
import re

from cyber_inference_tui.errors import InvalidRequestError

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")
_TYPES = {"/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}
"""By the beginning of their base64."""


def image_part(image: str) -> dict[str, object]:
    """Return an image, in base64, as a part of a message. Raises ``InvalidRequestError``."""
    if "\n" in image:
        image = image.replace("\r", "").replace("\n", "")
    try:
        binascii.a2b_base64(image, strict_mode=True)
    except ValueError:
        wrong = _NOT_BASE64.search(image)
        place = len(image) if wrong is None else wrong.start()
        raise InvalidRequestError(
            f"illegal base64 data at input byte {place}.",
            hint='An image is plain base64, without "data:" in front.',
            param="images",
        ) from None
    kind = next((kind for begin, kind in _TYPES.items() if image.startswith(begin)), "png")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}}
