"""llama-server's own web page at ``/ui/``.

The page finds its files and the API by paths relative to its own address. Its files come from the
server of a loaded model. They are the same for all models and contain nothing of the user's, and a
browser cannot send a key for them, so they need none, as in llama-server. Its calls of the API are
calls of the service, with all checks: ``/ui/v1/models`` is ``/v1/models``.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from cyber_inference_tui.errors import InvalidApiKeyError, NotFoundError
from cyber_inference_tui.http.access import ACCESS, Handler, limits_of
from cyber_inference_tui.http.allowed_models import check_allowed
from cyber_inference_tui.http.error_responses import method_not_allowed
from cyber_inference_tui.http.llama_paths import PATHS
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.http_get import http_get
from cyber_inference_tui.text import escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

_PREFIX = "/ui"
_API = frozenset({"models", "health", *(path.split("/")[1] for path in PATHS)})
"""The first segments of the paths that the page calls."""
# The page tries these and does without them. Tools and the proxy are off unless an argument of
# llama-server turns them on, and streams cannot be continued: no conversation's id is passed on.
_NOT_HERE = re.compile(r"/ui/(?:tools|cors-proxy|v1/streams?(?:/lookup)?)(?:\?.*)?")
# Without percent-encoding and without paths of the API, which have no extension.
_FILE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*\.[A-Za-z0-9]+")
_READS = ("GET", "HEAD")
_ANSWER_SECONDS = 5.0


def as_api_call(message: RawRequestMessage) -> RawRequestMessage:
    """Turn a call of the page into one of the service: ``/ui/v1/models`` into ``/v1/models``.

    Other requests do not change.
    """
    path = message.path
    if not path.startswith(f"{_PREFIX}/") or _NOT_HERE.fullmatch(path):
        return message
    if re.split("[/?]", path, maxsplit=3)[2] not in _API:
        return message
    path = path.removeprefix(_PREFIX)
    return message._replace(path=path, url=URL(path, encoded=True))


class WebPage:
    """Answers requests for the page's files; ``forward`` has a model's server answer them."""

    def __init__(self, service: Service, forward: Handler) -> None:
        self._service = service
        self._forward = forward

    async def redirect(self, request: web.Request) -> web.StreamResponse:
        """Send a client to the page's address, to which its relative paths belong."""
        query = f"?{request.query_string}" if request.query_string else ""
        return web.Response(status=308, headers={"Location": f"ui/{query}"})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer with the page, or with one of its files.

        The page loads the model of ``?model=`` if need be, or without that name the model that
        ``auto`` means among those with a llama-server.
        """
        file = request.raw_path.partition("?")[0].removeprefix(f"{_PREFIX}/")
        if file and _FILE.fullmatch(file) is None:
            raise NotFoundError(f"There is no endpoint {escaped(request.path)}.")
        if request.method not in _READS:
            raise method_not_allowed(request.method, request.path, _READS)
        model = self._model(request)
        if not file:
            await self._check_page(model)
        target = URL(f"/upstream/{quote(model.id, safe='')}/{file}", encoded=True)
        return await self._forward(request.clone(rel_url=target))

    def _model(self, request: web.Request) -> LocalModel:
        """Return the model whose server answers; only clients with a key may load one."""
        name, models = request.query.get("model"), self._service.models
        model = models.resolve(name) if name else models.auto(lambda one: not one.settings.command)
        if model.settings.command:
            raise NotFoundError(
                f"{model.id} has a server of its own.",
                hint=f"Its web page, if it has one, is at /upstream/{model.id}/.",
            )
        loaded = self._service.scheduler.loaded_ids
        if model.id in loaded:
            return model
        if not request.app[ACCESS].rules.allows_key(request.headers):
            raise InvalidApiKeyError(
                "The web page comes from a loaded model, and loading one needs a valid API key.",
                hint=f"Load one with 'cyber-inference-tui load {model.id}', and reload the page.",
            )
        check_allowed(limits_of(request), model)
        return model

    async def _check_page(self, model: LocalModel) -> None:
        """Raise ``NotFoundError`` if the model's llama-server has no page."""
        lease = await self._service.scheduler.acquire(model)
        status = 0
        try:
            # A server that does not answer is the forwarder's matter.
            with contextlib.suppress(OSError):
                status, _ = await http_get(
                    lease.address, "/", timeout=_ANSWER_SECONDS, most_bytes=0
                )
        finally:
            lease.release()
        if status == 404:
            raise NotFoundError(
                "This llama-server was built without its web page, or an argument turns it off.",
                hint="'cyber-inference-tui install-llama --from github' gets a build with it.",
            )
