"""Resolves a model and the settings into the specification of its server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from cyber_inference_tui.gguf.arguments import ServerOptions, read_options, words_of_variables
from cyber_inference_tui.gguf.memory_estimate import (
    DEFAULT_SLOTS,
    context_of_a_request,
    longest_request,
    separate_caches,
)
from cyber_inference_tui.gguf.metadata import ModelMetadata, ProjectorFacts
from cyber_inference_tui.library.catalog import LocalModel
from cyber_inference_tui.library.companions import Adapter, Draft
from cyber_inference_tui.library.drafts import OFF
from cyber_inference_tui.llama.companion_options import names_draft
from cyber_inference_tui.llama.embedding_options import embedding_options
from cyber_inference_tui.settings.schema import ModelSettings, Settings, effective

STREAMS = 256
"""Requests that a llama-server takes at once, unless the settings say otherwise."""

LEAST_CHOSEN_CONTEXT = 8192
"""Tokens for one request that a model with ``context_size = "auto"`` gets at least."""
_LEAST_STEP = 256
"""llama-server's contexts are multiples of this."""

SPARE_THREADS = 8
"""HTTP threads of llama-server beyond its requests. Every open connection holds a thread: an idle
connection for up to 5 s, a check of its health or slots, an answer whose client has left."""

_THREADS_HTTP_VARIABLE = "LLAMA_ARG_THREADS_HTTP"
_PROJECTOR_KEPT_BACK = "--no-mmproj-offload"
_DEFAULTS = ServerOptions()


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The specification of one model's server, and the facts that decide its memory.

    It leaves out facts that are known only at the start: the port, the build of llama-server, the
    size of the prompt cache. ``resolve`` makes it. Sizes are in bytes.
    """

    model_id: str
    path: Path | None = None
    """The file to load; ``None`` for another program's model."""
    projector: Path | None = None
    files: tuple[Path, ...] = ()
    """All files that the server reads."""
    size_bytes: int | None = None
    """The size of the model with its projector."""
    problem: str | None = None
    """The reason why the model cannot be used."""
    metadata: ModelMetadata | None = None
    weights_bytes: int | None = None
    projector_bytes: int = 0
    projector_facts: ProjectorFacts | None = None
    draft: Draft | None = None
    """The model or head that drafts its answers; ``None`` = none, or as the arguments say."""
    adapters: tuple[Adapter, ...] = ()

    command: tuple[str, ...] = ()
    """The command line of another program, with placeholders; empty = llama-server."""
    environment: Mapping[str, str] = {}
    """Variables from the model's table."""
    arguments: tuple[str, ...] = ()
    """The user's arguments for every server, then those for this one: the last one wins."""
    context_size: int | None = None
    """Tokens; ``None`` for another program's model."""
    context_source: str = ""
    """The general setting that decided ``context_size``; empty = the model's own table."""
    least_context: int | None = None
    """The service chooses the context of a load: from this many tokens to ``context_size``.
    ``None`` = ``context_size`` is given."""
    limited: bool = False
    """The context is smaller than the settings ask for, for lack of memory."""
    projector_kept_back: bool = False
    """The projector stays in main memory, for lack of memory on the GPU."""
    gpu_layers: int = -1
    """Layers that ``--gpu-layers`` asks for; -1 = llama-server decides."""
    threads: int = 0
    """0 = llama-server decides."""
    slots: int = 0
    """Slots that ``--parallel`` asks for; 0 = llama-server decides."""
    embedding_options: tuple[tuple[str, ...], ...] = ()
    """Options that an embedding model needs, each with its values."""
    http_threads: int = 0
    """HTTP threads that the service asks for; 0 = a variable decides."""
    most_requests: int | None = None
    """Requests that the server takes at once; ``None`` = no limit (a ``command``)."""
    confined: bool = False
    """It gets only the files that it needs, if this machine and its build allow that."""
    split: tuple[str, ...] = ()
    """The other box that holds a part of it."""
    lent_bytes: int = 0
    """Memory for a model of another box: the server is a worker of llama.cpp's RPC."""

    asked: ServerOptions = ServerOptions()
    """The options in the user's settings, arguments and variables; a batch of 0 = not named."""
    options: ServerOptions = ServerOptions()
    """All options of the server: ``asked``, completed by ours and the defaults."""

    @cached_property
    def signature(self) -> str:
        """A short text that is equal for servers that are started alike.

        A loaded model restarts when its signature changes, and measurements are valid for one
        signature.
        """
        facts: tuple[object, ...] = (
            (self.model_id, self.path, self.projector, self.size_bytes),
            (self.command, sorted(self.environment.items()), self.arguments),
            (self.context_size, self.overrides_context),
            (self.gpu_layers, self.threads, self.slots, self.embedding_options),
        )
        if self.least_context is not None:
            facts += ((self.least_context,),)
        if self.draft is not None or self.adapters:
            draft = self.draft
            facts += (
                (draft.kind, draft.files, draft.size_bytes) if draft is not None else (),
                tuple((one.path, one.size_bytes, one.scale) for one in self.adapters),
            )
        if self.split or self.lent_bytes:
            facts += (self.split, self.lent_bytes)
        encoded = msgspec.json.encode(facts, enc_hook=str)
        return hashlib.sha256(encoded).hexdigest()[:16]

    @property
    def overrides_context(self) -> bool:
        """True if the context has to come after the user's arguments, to win over them."""
        return self.limited and self.asked.context_size is not None

    @property
    def visible_gpus(self) -> str | None:
        """The model's own ``CUDA_VISIBLE_DEVICES``; ``None`` = it sees what the service sees."""
        return self.environment.get("CUDA_VISIBLE_DEVICES")

    @property
    def request_context(self) -> int | None:
        """Tokens of context for one request; ``None`` = unknown."""
        if self.command or self.metadata is None:
            return None
        trained = self.options.trained or self.metadata.context_length
        return context_of_a_request(self.options, trained)

    def with_context(self, tokens: int) -> ServerSpec:
        """Return the same server with this context, regardless of settings and arguments."""
        return _complete(msgspec.structs.replace(self, context_size=tokens, limited=True))

    def with_projector_kept_back(self) -> ServerSpec:
        """Return the same server with its projector in main memory instead of on the GPU."""
        return _complete(
            msgspec.structs.replace(
                self,
                arguments=(*self.arguments, _PROJECTOR_KEPT_BACK),
                asked=msgspec.structs.replace(self.asked, projector_on_gpu=False),
                projector_kept_back=True,
            )
        )


def resolve(model: LocalModel, settings: Settings) -> ServerSpec:
    """Work out the specification of ``model``'s server from its own and the general settings."""
    own = model.settings
    known_size = model.path is not None and model.size_bytes is not None
    spec = ServerSpec(
        model_id=model.id,
        path=model.path,
        projector=model.mmproj,
        files=tuple(path for path in (*model.shards, model.mmproj) if path is not None),
        size_bytes=model.size_bytes,
        problem=model.problem,
        metadata=model.metadata,
        weights_bytes=(model.size_bytes or 0) - model.projector_bytes if known_size else None,
        projector_bytes=model.projector_bytes,
        projector_facts=model.projector_facts,
        command=own.command,
        environment=own.env,
        split=own.split,
    )
    if own.command:
        return spec
    spec = msgspec.structs.replace(
        spec,
        threads=effective(own, settings, "threads"),
        confined=settings.confine_servers,
        lent_bytes=model.lent_bytes,
    )
    if model.lent_bytes:
        return spec
    arguments = (*settings.llama_args, *own.args)
    slots = effective(own, settings, "parallel")
    gpu_layers = effective(own, settings, "gpu_layers")
    words = words_of_variables(own.env)
    if slots:
        # The service passes this option, so the variable for it has no effect.
        words += ["--parallel", str(slots)]
    base = ServerOptions(
        slots=slots,
        gpu_layers=None if gpu_layers < 0 else gpu_layers,
        batch_size=0,
        ubatch_size=0,
    )
    asked = read_options([*words, *arguments], base=base)
    context_size, source = _context(model, settings, asked)
    least_context = None
    if own.context_size == "auto" and asked.context_size is None:
        least_context, context_size = _context_range(asked, context_size)
    draft = None if own.draft == OFF or names_draft(arguments, own.env) else model.draft
    return _complete(
        msgspec.structs.replace(
            spec,
            arguments=arguments,
            context_size=context_size,
            context_source=source,
            least_context=least_context,
            gpu_layers=gpu_layers,
            slots=slots,
            http_threads=_http_threads(own, settings),
            asked=asked,
            draft=draft,
            files=(
                *spec.files,
                *(draft.files if draft is not None else ()),
                *(one.path for one in model.adapters),
            ),
            adapters=model.adapters,
        )
    )


def asked_requests(own: ModelSettings, settings: Settings) -> int:
    """Return the settings' limit of a model's concurrent requests; 0 = the server's limit."""
    return int(effective(own, settings, "max_concurrent_requests"))


def _http_threads(own: ModelSettings, settings: Settings) -> int:
    if own.env.get(_THREADS_HTTP_VARIABLE):
        return 0
    return max(STREAMS, asked_requests(own, settings)) + SPARE_THREADS


def _context(model: LocalModel, settings: Settings, asked: ServerOptions) -> tuple[int, str]:
    """Return the tokens of context and the deciding general setting (empty = the model's table).

    The user's own argument wins. A model's own ``context_size`` is used as it is (0 = the trained
    length); ``default_context_size`` is limited by ``max_context_size`` and by the model's trained
    length.
    """
    trained = asked.trained or (model.metadata.context_length if model.metadata else None)
    if asked.context_size is not None:
        mine = read_options(model.settings.args).context_size is not None
        size = asked.context_size or trained or settings.max_context_size
        return size, "" if mine else "llama_args"
    own = model.settings.context_size
    if own is not None:
        return (own if isinstance(own, int) and own else trained or settings.max_context_size), ""
    wanted = settings.default_context_size or trained or settings.max_context_size
    return min(wanted, settings.max_context_size, trained or wanted), "default_context_size"


def _context_range(asked: ServerOptions, trained: int) -> tuple[int, int]:
    """Return the least and the most context to choose, so that each request can have
    ``LEAST_CHOSEN_CONTEXT`` tokens, or all that the model was trained with."""
    longest = longest_request(asked, trained) or trained
    caches = separate_caches(asked)
    return min(LEAST_CHOSEN_CONTEXT, longest) * caches, longest * caches


def smaller_contexts(spec: ServerSpec) -> list[int]:
    """Return the smaller contexts among which a load chooses, ascending.

    Each is at most a sixteenth larger than the one before. So the same size is chosen again though
    the free memory differs a little, and what was measured with it stays valid.
    """
    if spec.least_context is None or spec.context_size is None:
        return []
    caches = separate_caches(spec.asked)
    least, most = spec.least_context // caches, spec.context_size // caches
    sizes = []
    while least < most:
        sizes.append(least * caches)
        step = max(_LEAST_STEP, 1 << least.bit_length() - 1 >> 4)
        least = (least // step + 1) * step
    return sizes


def _complete(spec: ServerSpec) -> ServerSpec:
    """Fill in what follows from the context."""
    tokens = spec.context_size or 0
    ours = embedding_options(spec.metadata, spec.asked, spec.environment, context_size=tokens)
    asked = msgspec.structs.replace(
        spec.asked,
        batch_size=spec.asked.batch_size or _DEFAULTS.batch_size,
        ubatch_size=spec.asked.ubatch_size or _DEFAULTS.ubatch_size,
    )
    # Our options set only values that the user left open.
    options = read_options([word for option in ours for word in option], base=asked)
    if spec.limited or options.context_size is None:
        options = msgspec.structs.replace(options, context_size=tokens)
    return msgspec.structs.replace(
        spec,
        embedding_options=tuple(ours),
        options=options,
        most_requests=_most_requests(options, spec.http_threads),
    )


def _most_requests(options: ServerOptions, http_threads: int) -> int:
    """Return llama-server's HTTP threads less the spare ones."""
    threads = http_threads if options.http_threads is None else options.http_threads
    if threads == 0:
        # llama-server's default is at least this (tools/server/server-http.cpp).
        threads = (options.slots or DEFAULT_SLOTS) + 2
    return max(1, threads - min(SPARE_THREADS, threads // 2))
