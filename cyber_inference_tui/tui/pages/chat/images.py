"""Images of a message: read from a file, checked, and encoded for the API."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cyber_inference_tui.errors import InvalidRequestError
from cyber_inference_tui.files import read_file, typed_path
from cyber_inference_tui.records import ModelRecord
from cyber_inference_tui.text import clean_line
from cyber_inference_tui.units import size_text

IMAGE_BYTES = 10 * 1024 * 1024
IMAGES = 4
"""Of one message."""
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
)
"""The beginnings of the formats that llama-server reads (stb_image)."""
_OTHERS = ((b"WEBP", 8, "WebP"), (b"ftypavif", 4, "AVIF"), (b"ftyphei", 4, "HEIC"))
"""Formats that it does not read, and where their marks are."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a message. One of a saved conversation has no ``data``."""

    name: str
    kind: str = ""
    size: int = 0
    path: str = ""
    data: str = ""
    """Its file in base64."""

    @property
    def url(self) -> str:
        """The image as a data URL."""
        return f"data:image/{self.kind};base64,{self.data}"

    @property
    def text(self) -> str:
        """Its name, with format and size if its data are here."""
        known = f" {self.kind.upper()} {size_text(self.size)}" if self.data else ", not saved"
        return f"image {self.name}{known}"


def read_image(typed: str) -> Image:
    """Return the image in the file with a typed path; raises ``InvalidRequestError``. It blocks."""
    name = clean_line(typed, limit=200)
    try:
        path = typed_path(typed)
        data = read_file(path, IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", "") or "it is no path").lower()
        raise InvalidRequestError(f"{name} cannot be read: {reason}.") from error
    if len(data) > IMAGE_BYTES:
        raise InvalidRequestError(f"{name} is larger than {size_text(IMAGE_BYTES)}.")
    kind = next((kind for begin, kind in _KINDS if data.startswith(begin)), "")
    if not kind:
        other = next((kind for mark, at, kind in _OTHERS if data[at:].startswith(mark)), "")
        reason = f"is {other}, which llama-server cannot read" if other else "is no image"
        raise InvalidRequestError(f"{name} {reason}.", hint="PNG, JPEG, GIF and BMP are accepted.")
    encoded = base64.b64encode(data).decode()
    return Image(clean_line(path.name, limit=80), kind, len(data), str(path), encoded)


def takes_images(model: ModelRecord) -> bool:
    """Return whether a model sees images, as far as is known: nothing is of a ``command``."""
    return model.vision or (not model.capabilities and not model.unreadable)


def blind_text(model_id: str) -> str:
    """Return why a model takes no images."""
    return (
        f"{clean_line(model_id, limit=80)} takes no images: it has no projector (mmproj file). "
        "Choose a model with vision, or download the projector into the model's folder."
    )
