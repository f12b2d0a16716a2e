"""Finds the model of a request, and changes the request by the model's rules."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

import msgspec
from aiohttp import hdrs

from cyber_inference_tui.errors import (
    CyberError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
)
from cyber_inference_tui.http.allowed_models import allows, check_allowed
from cyber_inference_tui.http.body_fields import (
    Body,
    BodyFields,
    read_fields,
    try_read_fields,
    with_fields,
    with_model_field,
    with_system,
)
from cyber_inference_tui.http.error_responses import method_not_allowed
from cyber_inference_tui.http.form import FormSearch
from cyber_inference_tui.http.llama_paths import PATHS, Kind, is_ours, kind_of, methods_of
from cyber_inference_tui.http.model_list import RUNNING
from cyber_inference_tui.http.model_request import RequestHead
from cyber_inference_tui.http.name_replacer import NameReplacer
from cyber_inference_tui.http.ollama.call import Call, OnlyLoadError
from cyber_inference_tui.http.ollama.inference import TRANSLATORS, Translator
from cyber_inference_tui.http.translation import Translation
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.llama.command import server_alias
from cyber_inference_tui.llama.prompt_rules import SAVE_OPTION, has_own_folder
from cyber_inference_tui.peers.peers import Remote
from cyber_inference_tui.records import KeyLimits
from cyber_inference_tui.settings.schema import RequestRules
from cyber_inference_tui.text import clean_line, escaped

if TYPE_CHECKING:
    from cyber_inference_tui.service.service import Service

# Methods whose requests mostly have no body. An empty body is not an error then.
BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NAME_IT = (
    "A model with a command takes any path from a request that names the model (in the field"
    ' "model" of JSON or a form, in ?model= or in the header X-Model).'
)
_LISTED = 10
"""The most models that a message lists."""
_NO_FIELDS = BodyFields()
_NO_RULES = RequestRules()
_SYSTEM = "system"


class Target(msgspec.Struct, frozen=True):
    """A request's model, and the request that its server gets."""

    model: LocalModel
    path: str
    """Path and query, with the percent-encoding unchanged."""
    body: Body | memoryview
    """In memory, or in a file while the request waits (``spooled_body``)."""
    stream: bool
    is_work: bool
    """Whether it asks the model for output, not only its server for information."""
    translation: Translation | None = None
    """Makes the answer an answer of another API; it serves this request only."""
    is_remote: bool = False
    """Whether only other boxes have the model."""

    @property
    def is_renamed(self) -> bool:
        """Whether the server uses another name for the model than its id."""
        return "," in self.model.id and not (self.model.settings.command or self.is_remote)

    @property
    def replacer(self) -> NameReplacer | None:
        """What restores the model's id in answers, if its server uses another name."""
        model_id = self.model.id
        return NameReplacer(server_alias(model_id), model_id) if self.is_renamed else None


class _Addressed(NamedTuple):
    """The parts of ``/upstream/NAME/PATH``."""

    model: LocalModel
    name: str
    path: str


class Route(NamedTuple):
    """The place of a request's path among those of the models' servers."""

    path: str
    """The path for the server, with the percent-encoding unchanged."""
    query: str
    asks: bool
    """Whether it asks for model output with a JSON object."""
    is_v1: bool
    addressed: _Addressed | None = None
    refusal: CyberError | None = None
    """The error, unless the model has a command, which may serve more than llama-server does."""
    translator: Translator | None = None
    """Translates the body, if the path belongs to another API."""


MODEL_ROUTES = {
    path: Route(path, "", kind_of(path) is Kind.INFERENCE, path.startswith("/v1/"))
    for path in PATHS
    if "POST" in methods_of(path)
} | {
    path: Route(path, "", asks=True, is_v1=False, translator=translator)
    for path, translator in TRANSLATORS.items()
}
"""The routes of plain POST requests."""


class TargetFinder:
    """Finds the targets of requests among the models of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def is_unchanged(self, route: Route, name: str) -> bool:
        """Return whether all bodies that name this model pass unchanged."""
        model = self._service.models.catalog.models.get(name)
        if model is None:
            return False
        return not ((route.asks or model.settings.command) and model.request_rules(name))

    def route(self, head: RequestHead) -> Route:
        """Return the route of a request.

        Raises ``ModelNotFoundError``, ``NotFoundError`` (no such endpoint) and
        ``MethodNotAllowedError``.
        """
        if head.method == "POST" and (known := MODEL_ROUTES.get(head.target)) is not None:
            return known
        raw_path, _, query = head.target.partition("?")
        addressed = None
        if raw_path.startswith("/upstream/"):
            addressed = self._addressed(raw_path.removeprefix("/upstream/"))
            raw_path = addressed.path
        path = unquote(raw_path)
        if addressed is None and path in TRANSLATORS:
            if head.method != "POST":
                raise method_not_allowed(head.method, path, ("POST",))
            return MODEL_ROUTES[path]
        refusal = None if addressed else _refusal(head.method, path)
        # An answer to TRACE is the request as the server got it, with the server's key.
        is_trace = head.method == hdrs.METH_TRACE
        if refusal is not None and (is_trace or is_ours(path) or not self._has_commands()):
            raise refusal
        if is_trace:
            raise method_not_allowed(head.method, path, _METHODS)
        asks = kind_of(path) is Kind.INFERENCE
        return Route(raw_path, query, asks, path.startswith("/v1/"), addressed, refusal)

    def find(
        self, route: Route, head: RequestHead, body: Body, form: FormSearch | None = None
    ) -> Target:
        """Find the model of a request, and apply the model's rules.

        ``form`` has searched the body, if that is a form. Raises ``ModelNotFoundError``, the
        refusal of the route, and the errors of ``body_fields`` or of the route's translator;
        ``OnlyLoadError`` if there is nothing to forward.
        """
        if route.translator is not None:
            return self._translated(route.translator(body), head)
        addressed, refusal = route.addressed, route.refusal
        found, id_there = _NO_FIELDS, ""
        if head.method not in BODYLESS or body:
            if refusal or (addressed and not route.asks):
                found = try_read_fields(body, form)
            else:
                found = read_fields(body, must_be_object=route.asks, form=form)
        name = found.model or head.named
        if addressed is not None:
            model = addressed.model
            # The body's name may be the engine's own. An alias of this model is this model.
            name = name if name and self._means(name, model) else addressed.name
        else:
            if isinstance(refusal, NotFoundError):
                refusal.hint += f" {found.problem or _NAME_IT}"
            try:
                model = self._resolve(name, refusal, head.limits)
            except ModelNotFoundError:
                if (remote := self._remote(name, head)) is None or refusal is not None:
                    raise
                model, id_there = _remote_model(remote), remote.model_id
        check_allowed(head.limits, model)
        is_command = bool(model.settings.command)
        if refusal is not None and not is_command:
            raise refusal
        if not (is_command or id_there) and "/slots/" in unquote(route.path):
            self._check_slots(model)
        stream = found.stream
        if found.is_object:
            rules = model.request_rules(name) if route.asks or is_command else _NO_RULES
            overrides = rules.request_overrides
            if id_there or self._is_renamed(found.model, model):
                overrides = {**overrides, "model": id_there or model.id}
            if rules or overrides:
                body = changed_by_rules(route.path, body, rules, overrides)
                stream = read_fields(body, must_be_object=True).stream
        elif form is not None and (id_there or self._is_renamed(found.model, model)):
            body = with_model_field(body, form, id_there or model.id)
        path, query = route.path, route.query
        if query:
            if not id_there:
                self._check_autoload(query, model)
            path = f"{path}?{self._with_id(query, model, name, id_there)}"
        is_work = route.asks or (head.method == "POST" and (route.is_v1 or is_command))
        return Target(model, path, body, stream, is_work, is_remote=bool(id_there))

    def _remote(self, name: str | None, head: RequestHead) -> Remote | None:
        """Return the model of other boxes with this name. What a box asks goes no further."""
        return None if not name or head.from_box else self._service.peers.find(name)

    def _translated(self, call: Call, head: RequestHead) -> Target:
        """Return the target of a translated request."""
        models, limits = self._service.models, head.limits
        remote = None
        try:
            model = self._named(call.model, limits)
        except ModelNotFoundError:
            if (remote := self._remote(call.model, head)) is None:
                raise
            model = _remote_model(remote)
        check_allowed(limits, model)
        can = models.capabilities(model) if remote is None else remote.record.capabilities
        call.check(can)
        if call.asks_nothing and remote is None:
            raise OnlyLoadError(model, call)
        id_there = model.id if remote is None else remote.model_id
        own: dict[str, Any] = {"model": id_there, "stream": call.stream}
        if call.stream and model.settings.command:
            # llama-server reports the numbers of tokens without it.
            own["stream_options"] = {"include_usage": True}
        body: Body = msgspec.json.encode(call.fields | own)
        if rules := model.request_rules(call.model):
            body = changed_by_rules(call.path, body, rules, {**rules.request_overrides, **own})
        return Target(
            model, call.path, body, call.stream, True, call.answer, is_remote=remote is not None
        )

    def _is_renamed(self, name: str | None, model: LocalModel) -> bool:
        """Check whether the model's id replaces this name in a body.

        A llama-server repeats any name in its answer. Another engine may have its own names.
        """
        if name is None or name == model.id:
            return False
        return not model.settings.command or self._means(name, model)

    def _check_autoload(self, query: str, model: LocalModel) -> None:
        """Raise ``InvalidRequestError`` if the query forbids the load that the model needs.

        As in llama-server's router, any value of ``autoload`` but ``1`` and ``true`` forbids it.
        """
        said = dict(parse_qsl(query)).get("autoload", "1") if "autoload" in query else "1"
        state = self._service.scheduler.state(model.id)
        if said not in {"1", "true"} and (state is None or state.status not in RUNNING):
            raise InvalidRequestError(
                f"{model.id} is not loaded, and the request says autoload={clean_line(said)}.",
                hint="Load it with POST /models/load, or leave autoload out.",
                param="autoload",
            )

    def _check_slots(self, model: LocalModel) -> None:
        """Raise ``InvalidRequestError`` unless the user gave clients a folder to save slots in.

        The folder that a server has for its kept prompts is not for them.
        """
        if not has_own_folder(self._service.scheduler.spec(model)):
            raise InvalidRequestError(
                f"Clients cannot save or restore slots of {model.id}.",
                hint=f"{SAVE_OPTION} in its args gives them a folder.",
            )

    def _with_id(self, query: str, model: LocalModel, asked: str | None, id_there: str) -> str:
        """Return the query with the model's id in place of an alias.

        ``id_there`` is the id on another box of the model that was ``asked`` for.
        """
        if "model" not in query:
            return query
        model_id = id_there or model.id
        return "&".join(
            f"model={quote(model_id, safe='')}"
            if unquote_plus(key) == "model"
            and (name := unquote_plus(value)) != model_id
            and ((id_there and name == asked) or self._means(name, model))
            else f"{key}{equals}{value}"
            for key, equals, value in (part.partition("=") for part in query.split("&"))
        )

    def _means(self, name: str, model: LocalModel) -> bool:
        """Check whether ``name`` is a name of this model."""
        try:
            return self._service.models.resolve(name).id == model.id
        except ModelNotFoundError:
            return False

    def _addressed(self, rest: str) -> _Addressed:
        """Split ``NAME/PATH``. Names may contain slashes: the longest known name wins."""
        end = len(rest)
        while end > 0:
            name = unquote(rest[:end])
            with contextlib.suppress(ModelNotFoundError):
                return _Addressed(self._service.models.resolve(name), name, rest[end:] or "/")
            end = rest.rfind("/", 0, end)
        raise self._unknown(unquote(rest.partition("/")[0]))

    def _unknown(self, name: str) -> CyberError:
        try:
            self._service.models.resolve(name)
        except CyberError as error:
            return error
        return ModelNotFoundError(f"There is no model {name}.")

    def _has_commands(self) -> bool:
        return any(model.settings.command for model in self._service.models.catalog.models.values())

    def _named(self, name: str, limits: KeyLimits) -> LocalModel:
        """Return the model with this name, which may be ``auto``: one that the key may use."""
        models = self._service.models
        if limits.models and models.catalog.is_auto(name):
            return models.auto(lambda model: allows(limits, model))
        return models.resolve(name)

    def _resolve(
        self, name: str | None, refusal: CyberError | None, limits: KeyLimits
    ) -> LocalModel:
        """Return the model with this name, or without a name the only candidate for the key.

        A path with a ``refusal`` needs a name, unless there is only one model.
        """
        if name:
            return self._named(name, limits)
        models = self._service.models.catalog.models
        if limits.models:
            models = {key: model for key, model in models.items() if allows(limits, model)}
        if refusal is not None and len(models) != 1:
            raise refusal
        loaded = [one for one in self._service.scheduler.loaded_ids if one in models]
        models = {key: model for key, model in models.items() if not model.preset_of}
        here = sorted(loaded) or [one.id for one in models.values() if not one.problem]
        here = here or list(models)
        if len(here) == 1:
            return self._service.models.resolve(here[0])
        if not here:
            raise ModelNotFoundError(
                "There is no model yet.", hint="Download one, or start with --demo."
            )
        shown = ", ".join([*here[:_LISTED], *(["…"] if len(here) > _LISTED else [])])
        state = "are loaded" if loaded else "could be meant"
        raise InvalidRequestError(
            f"The request names no model, and {len(here)} {state}: {shown}.",
            hint='Name one in the field "model", in ?model= or in the header X-Model.',
            param="model",
        )


def _remote_model(remote: Remote) -> LocalModel:
    """Return a model of other boxes as the request's model: it has no file and no rules here."""
    return LocalModel(id=remote.name)


def changed_by_rules(
    path: str, body: Body, rules: RequestRules, overrides: Mapping[str, Any]
) -> Body:
    """Return a request for ``path``, changed by rules with these overrides.

    A default ``system`` is a system prompt, in the form that the API of the path has.
    """
    defaults = rules.request_defaults
    prompt = defaults.get(_SYSTEM)
    in_messages, in_field = "/chat/completions" in path, "/responses" in path
    if isinstance(prompt, str) and (in_messages or in_field):
        defaults = {name: value for name, value in defaults.items() if name != _SYSTEM}
        if in_messages:
            body = with_system(body, prompt)
        else:
            defaults.setdefault("instructions", prompt)
    return with_fields(body, strip=rules.request_strip, defaults=defaults, overrides=overrides)


def _refusal(method: str, path: str) -> CyberError | None:
    """Return the error for a path that llama-server does not serve, or for a wrong method."""
    methods = methods_of(path)
    if not methods:
        return NotFoundError(
            f"There is no endpoint {escaped(path)}.",
            hint="Any path of a model's server is under /upstream/MODEL/.",
        )
    if method not in methods:
        return method_not_allowed(method, path, tuple(sorted(methods)))
    return None
