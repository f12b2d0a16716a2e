"""Parse the model that a user types: a name, a name with a quantization, or an address."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from cyber_inference_tui.errors import HubError, InvalidRequestError
from cyber_inference_tui.hub.download_plan import check_repo
from cyber_inference_tui.hub.endpoint import PUBLIC_HUB
from cyber_inference_tui.text import escaped

_HOSTS: Final = {"huggingface.co", "www.huggingface.co", "hf.co"}
_FILE_PAGES: Final = {"blob", "resolve", "raw", "tree"}
_NO_MODELS: Final = {"datasets", "spaces", "papers", "collections", "docs"}


class ModelReference(NamedTuple):
    """Names a model on the hub."""

    repo: str
    filename: str | None = None
    """A path, a file name or a quantization; ``None`` = the default one."""
    revision: str | None = None
    """A commit, a branch or a tag; ``None`` = the newest commit."""


def parse_reference(
    text: str,
    *,
    filename: str | None = None,
    revision: str | None = None,
    endpoint: str = PUBLIC_HUB,
) -> ModelReference:
    """Parse ``ORG/NAME``, ``ORG/NAME:QUANT`` or the address of a page on the hub.

    ``filename`` and ``revision`` come from separate options. Raises ``InvalidRequestError`` for any
    other text, and if an option contradicts it.
    """
    text = text.strip()
    shown = escaped(text, limit=200)
    hosts = _HOSTS | {_host_of(endpoint)}
    host, _, rest = text.partition("/")
    if "://" in text:
        scheme = text.partition("://")[0].lower()
        if scheme not in {"http", "https"} or _host_of(text) not in hosts:
            raise InvalidRequestError(
                f"{shown} is no address of the hub.", hint=f"The hub is {endpoint}.", param="repo"
            )
        found = _from_path(urlsplit(text).path, shown)
    elif host.lower() in hosts:
        found = _from_path(rest.partition("?")[0].partition("#")[0], shown)
    else:
        found = _with_quantization(text)
    try:
        check_repo(found.repo)
    except HubError as error:
        raise InvalidRequestError(
            f"{shown} is not the name of a model on the hub.",
            hint="It looks like ORG/NAME or ORG/NAME:Q4_K_M; search-models finds some.",
            param="repo",
        ) from error
    return ModelReference(
        found.repo,
        _agreed(found.filename, filename, "file"),
        _agreed(found.revision, revision, "revision"),
    )


def _host_of(address: str) -> str | None:
    """Return the host and port of an address; ``None`` if it is not an address."""
    try:
        return urlsplit(address).netloc.lower() or None
    except ValueError:
        return None


def _from_path(path: str, shown: str) -> ModelReference:
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) < 2 or parts[0] in _NO_MODELS:
        raise InvalidRequestError(f"{shown} is not the page of a model.", param="repo")
    if len(parts) >= 4 and parts[2] in _FILE_PAGES:
        file = "/".join(parts[4:]) if parts[2] != "tree" else ""
        return ModelReference(f"{parts[0]}/{parts[1]}", file or None, parts[3])
    return _with_quantization(f"{parts[0]}/{parts[1]}")


def _with_quantization(text: str) -> ModelReference:
    repo, _, quantization = text.partition(":")
    return ModelReference(repo, quantization or None)


def _agreed(text: str | None, option: str | None, what: str) -> str | None:
    if text and option and text != option:
        raise InvalidRequestError(
            f"Which {what} is meant, {escaped(text, limit=200)} or {escaped(option, limit=200)}?",
            hint="Say it once.",
        )
    return option or text
