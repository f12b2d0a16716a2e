"""All settings in one table: the two structs below are the schema.

Type, default, help, bounds, secrecy and whether a change applies at once all stand at the field.
Everything else (reading, checking, the example file, the documentation) is derived from them.
Sizes are bytes and times seconds unless a help text says otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.environment import platform_folder

MASK = "********"
"""Stands in for a secret wherever settings are shown."""

ARGUMENTS = "arguments"
"""The form of a list of command-line words."""
LLAMA_ARGUMENTS = "llama_arguments"
"""The form of a list of command-line words for llama-server (see ``owned``)."""
ALIASES = "aliases"
"""The form of a list of names, or of a table from names to request rules."""
FIELDS = "fields"
"""The form of names, or of a table of values, that stand in a request's JSON."""

# ``form`` names what a text has to look like (see ``values``).
_LIVE: dict[str, Any] = {"live": True}
_RESTART: dict[str, Any] = {"live": False}
_SECRET: dict[str, Any] = {"live": True, "secret": True}

_YEAR = 31_536_000
"""Seconds: the bound of every duration, well within what timers can hold."""
_INT32 = 2**31 - 1
"""llama-server keeps its numbers in a C int."""


def _default_data_dir() -> Path:
    try:
        return platform_folder("DATA", os.environ)
    except ConfigError:
        # Whoever has no home has to give one: reading the settings asks for it.
        return Path("~/.local/share/cyber-inference-tui")


_Defaults = Annotated[
    dict[str, Any],
    Meta(description="Fields added to a request that does not set them.", extra={"form": FIELDS}),
]
_Overrides = Annotated[
    dict[str, Any],
    Meta(
        description="Fields put into every request, whatever the client sets.",
        extra={"form": FIELDS},
    ),
]
_Strip = Annotated[
    tuple[str, ...],
    Meta(
        description="Names of fields taken out of every request, before defaults are added.",
        extra={"form": FIELDS},
    ),
]


class RequestRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is changed in a request's JSON: ``request_strip``, then defaults, then overrides.

    Only fields at the top of the JSON are meant; their values are put in whole.
    """

    request_defaults: _Defaults = {}
    request_overrides: _Overrides = {}
    request_strip: _Strip = ()

    def __bool__(self) -> bool:
        """Whether there is anything to change."""
        return bool(self.request_defaults or self.request_overrides or self.request_strip)


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[models."ID"]`` table; ``None`` = the general setting applies."""

    path: Annotated[
        Path | None, Meta(description="The model's GGUF file, where it lies outside the folders.")
    ] = None
    aliases: Annotated[
        tuple[str, ...] | dict[str, RequestRules],
        Meta(
            description="Further names under which clients may ask for it: a list, or a table from "
            "each name to request_defaults, request_overrides and request_strip of its own.",
            extra={"form": ALIASES},
        ),
    ] = ()
    context_size: Annotated[
        int | None,
        Meta(
            ge=0,
            le=_INT32,
            description="Tokens of context; 0 = the model's own. Not capped by the maximum.",
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        Meta(ge=-1, le=_INT32, description="Layers on the GPU; -1 = llama-server decides."),
    ] = None
    parallel: Annotated[
        int | None, Meta(ge=0, le=256, description="Slots; 0 = llama-server's choice.")
    ] = None
    threads: Annotated[
        int | None, Meta(ge=0, le=1024, description="CPU threads; 0 = llama-server's choice.")
    ] = None
    mmproj: Annotated[
        Path | None, Meta(description="The projector file, where it is not the one beside it.")
    ] = None
    args: Annotated[
        tuple[str, ...],
        Meta(
            description="Further arguments for its server; they win.",
            extra={"form": LLAMA_ARGUMENTS},
        ),
    ] = ()
    env: Annotated[
        dict[str, str],
        Meta(
            description="Further environment variables for its server.",
            extra={"secret": True, "form": "variable"},
        ),
    ] = {}
    idle_timeout: Annotated[
        float | None,
        Meta(ge=0, le=_YEAR, description="Seconds without a request until it is unloaded."),
    ] = None
    pinned: Annotated[bool, Meta(description="Never evict it and never let it idle out.")] = False
    preload: Annotated[bool, Meta(description="Load it when the service starts.")] = False
    max_concurrent_requests: Annotated[
        int | None,
        Meta(
            ge=0,
            le=4096,
            description="Requests at it at once; 0 = as many as its server takes.",
        ),
    ] = None
    request_defaults: _Defaults = {}
    request_overrides: _Overrides = {}
    request_strip: _Strip = ()
    command: Annotated[
        tuple[str, ...],
        Meta(
            description="Any other OpenAI-compatible server instead of llama-server;"
            " {port}, {host}, {path} and {id} are filled in.",
            extra={"form": ARGUMENTS},
        ),
    ] = ()

    def request_rules(self, alias: str | None = None) -> RequestRules:
        """The rules for requests that use this alias, or none: the alias' merged over the model's.

        A name that stands in both tables is the alias' to set; what either strips is stripped.
        """
        own = self.aliases.get(alias) if alias and isinstance(self.aliases, dict) else None
        if own is None:
            own = _NO_RULES
        return RequestRules(
            request_defaults={**self.request_defaults, **own.request_defaults},
            request_overrides={**self.request_overrides, **own.request_overrides},
            request_strip=(*self.request_strip, *own.request_strip),
        )


_NO_RULES = RequestRules()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force."""

    host: Annotated[
        str,
        Meta(min_length=1, description="Address to listen on.", extra={**_RESTART, "form": "word"}),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535, description="Port to listen on; 0 = any free one.", extra=_RESTART),
    ] = 8337
    data_dir: Annotated[
        Path, Meta(description="Where state and logs are kept.", extra=_RESTART)
    ] = msgspec.field(default_factory=_default_data_dir)
    models_dir: Annotated[
        Path,
        Meta(description="Where models are kept; <data_dir>/models if not set.", extra=_LIVE),
    ] = msgspec.field(default_factory=lambda: _default_data_dir() / "models")
    model_dirs: Annotated[
        tuple[Path, ...],
        Meta(description="Further directories to read models from, in place.", extra=_LIVE),
    ] = ()
    discover: Annotated[
        bool,
        Meta(
            description="Also list the models that the Hugging Face tools, LM Studio and Ollama "
            "keep on this machine; read in place, never changed.",
            extra=_LIVE,
        ),
    ] = True
    log_level: Annotated[
        str,
        Meta(
            pattern="^(debug|info|warning|error)$",
            description="How much the service tells: debug, info, warning or error.",
            extra={**_LIVE, "form": "choice"},
        ),
    ] = "info"
    default_context_size: Annotated[
        int,
        Meta(ge=0, le=_INT32, description="Tokens of context; 0 = the model's own.", extra=_LIVE),
    ] = 8192
    max_context_size: Annotated[
        int,
        Meta(
            ge=1,
            le=_INT32,
            description="No model is started with more tokens, unless its own table says so.",
            extra=_LIVE,
        ),
    ] = 32768
    model_idle_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_YEAR,
            description="Seconds without a request until a model is unloaded; 0 = never.",
            extra=_LIVE,
        ),
    ] = 300.0
    max_loaded_models: Annotated[
        int,
        Meta(
            ge=0,
            le=_INT32,
            description="Models loaded at once; 0 = as many as memory allows.",
            extra=_LIVE,
        ),
    ] = 0
    max_memory_percent: Annotated[
        float,
        Meta(gt=0, le=100, description="How full memory may be after a load.", extra=_LIVE),
    ] = 80.0
    max_gpu_memory_percent: Annotated[
        float,
        Meta(gt=0, le=100, description="How full a GPU's memory may be after a load.", extra=_LIVE),
    ] = 90.0
    llama_server_path: Annotated[
        str,
        Meta(
            description="The llama-server to use; empty = the installed one, else that on PATH.",
            extra={**_LIVE, "form": "program"},
        ),
    ] = ""
    llama_server_base_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="First port for a model's server; 0 = any.", extra=_LIVE),
    ] = 8338
    llama_gpu_layers: Annotated[
        int,
        Meta(
            ge=-1,
            le=_INT32,
            description="Layers on the GPU; -1 = llama-server decides.",
            extra=_LIVE,
        ),
    ] = -1
    llama_threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="CPU threads; 0 = llama-server's choice.", extra=_LIVE),
    ] = 0
    llama_parallel: Annotated[
        int,
        Meta(ge=0, le=256, description="Slots per model; 0 = llama-server's choice.", extra=_LIVE),
    ] = 0
    llama_args: Annotated[
        tuple[str, ...],
        Meta(
            description="Further arguments for every server.",
            extra={**_LIVE, "form": LLAMA_ARGUMENTS},
        ),
    ] = ()
    load_timeout: Annotated[
        float,
        Meta(gt=0, le=_YEAR, description="Seconds a load may show no progress.", extra=_LIVE),
    ] = 300.0
    stop_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_YEAR,
            description="Seconds a server has to stop before it is killed.",
            extra=_LIVE,
        ),
    ] = 10.0
    shutdown_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_YEAR,
            description="Seconds that running requests have when the service stops.",
            extra=_LIVE,
        ),
    ] = 30.0
    max_concurrent_requests: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="Requests at one model at once; 0 = as many as its server takes.",
            extra=_LIVE,
        ),
    ] = 0
    max_queue: Annotated[
        int, Meta(ge=0, le=_INT32, description="Requests that may wait per model.", extra=_LIVE)
    ] = 128
    queue_timeout: Annotated[
        float,
        Meta(ge=0, le=_YEAR, description="Seconds a request may wait; 0 = no limit.", extra=_LIVE),
    ] = 600.0
    max_overtake: Annotated[
        int,
        Meta(
            ge=0,
            le=_INT32,
            description="Later requests for other models that may be served before one that waits.",
            extra=_LIVE,
        ),
    ] = 8
    stall_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=_YEAR,
            description="Seconds without a byte after which a server counts as hung; 0 = off.",
            extra=_LIVE,
        ),
    ] = 0.0
    allow_smaller_context: Annotated[
        bool,
        Meta(
            description="Start a model with less context where memory does not hold all of it.",
            extra=_LIVE,
        ),
    ] = False
    max_body_size: Annotated[
        int, Meta(ge=1, le=2**40, description="Bytes a request's body may have.", extra=_LIVE)
    ] = 67108864
    api_keys: Annotated[
        tuple[str, ...],
        Meta(
            description="When set, model endpoints need one of these keys.",
            extra={**_SECRET, "form": "token"},
        ),
    ] = ()
    admin_password: Annotated[
        str, Meta(description="When set, admin endpoints need a login.", extra=_SECRET)
    ] = ""
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Further host names to answer to, beyond this machine's own and addresses.",
            extra={**_LIVE, "form": "word"},
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins whose web pages may use the service.",
            extra={**_LIVE, "form": "origin"},
        ),
    ] = ()
    insecure_no_auth: Annotated[
        bool,
        Meta(
            description="Let other machines connect with no key and no login; else both are made.",
            extra=_RESTART,
        ),
    ] = False
    hf_endpoint: Annotated[
        str,
        Meta(
            description="The model hub; empty = the hub's default.", extra={**_LIVE, "form": "url"}
        ),
    ] = ""
    hf_token: Annotated[
        str,
        Meta(
            description="Token for the hub; empty = HF_TOKEN or the hub's own token file.",
            extra={**_SECRET, "form": "token"},
        ),
    ] = ""
    hf_allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts the hub may send a download to, beyond its own; "
            '"name", "name:port" or "*.name".',
            extra={**_LIVE, "form": "word"},
        ),
    ] = ()
    sample_interval: Annotated[
        float,
        Meta(
            ge=0.2,
            le=60,
            description="Seconds between samples of the machine while somebody watches.",
            extra=_LIVE,
        ),
    ] = 1.0
    system_root: Annotated[
        Path,
        Meta(description="Where proc/, sys/ and etc/ of the machine are.", extra=_RESTART),
    ] = Path("/")
    theme: Annotated[
        str, Meta(description="The terminal app's theme.", extra={**_LIVE, "form": "name"})
    ] = ""
    refresh_rate: Annotated[
        float,
        Meta(gt=0, le=60, description="The terminal app's updates a second.", extra=_LIVE),
    ] = 4.0
    models: dict[str, ModelSettings] = {}


GENERAL_KEYS = {
    "context_size": "default_context_size",
    "gpu_layers": "llama_gpu_layers",
    "parallel": "llama_parallel",
    "threads": "llama_threads",
    "args": "llama_args",
    "idle_timeout": "model_idle_timeout",
    "max_concurrent_requests": "max_concurrent_requests",
}
"""The setting for all models, by the key of a model's table that goes before it."""


def effective(own: ModelSettings, settings: Settings, name: str) -> Any:
    """The value of a model's key: its table's, else the setting for all models."""
    value = getattr(own, name)
    general = GENERAL_KEYS.get(name) if value is None else None
    return getattr(settings, general) if general else value


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one setting."""

    name: str
    type: Any
    """The annotated type, as ``msgspec.convert`` takes it."""
    default: Any
    help: str
    secret: bool = False
    live: bool = False
    form: str = ""

    @property
    def bare_type(self) -> Any:
        """The type without its annotations."""
        return _bare(self.type)

    @property
    def is_table(self) -> bool:
        """Whether its value is a table of its own."""
        return get_origin(_bare(self.type)) is dict

    @property
    def is_list(self) -> bool:
        """Whether its value is a list; that of ``aliases`` may be a table as well."""
        return self.form == ALIASES or get_origin(_bare(self.type)) is tuple

    @property
    def is_arguments(self) -> bool:
        """Whether its value is a command line, words of which may be secrets (see ``masks``)."""
        return self.form in {ARGUMENTS, LLAMA_ARGUMENTS}

    @property
    def is_path(self) -> bool:
        """Whether its value is a path, or a list of paths."""
        bare = _bare(self.type)
        return bare is Path or Path in get_args(bare)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be, where only some will do."""
        if self.form != "choice":
            return ()
        return tuple(str(self._meta.pattern).strip("^$()").split("|"))

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        bare = _bare(self.type)
        if self.form == ALIASES:
            return "a list of names, or a table from names to tables"
        if self.is_list:
            return "a list of paths" if self.is_path else "a list of strings"
        if self.is_table:
            return "a table of strings" if self.form == "variable" else "a table"
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        return words.get(bare, "a path" if bare is Path else "a string") + self._bounds()

    @property
    def _meta(self) -> Meta:
        return next(one for one in get_args(self.type)[1:] if isinstance(one, Meta))

    def _bounds(self) -> str:
        meta = self._meta
        if meta.min_length:
            return " that is not empty"
        if self.choices:
            return f" ({', '.join(self.choices)})"
        low = f"at least {meta.ge}" if meta.ge is not None else ""
        low = f"more than {meta.gt}" if meta.gt is not None else low
        high = f"at most {meta.le}" if meta.le is not None else ""
        both = " and ".join(bound for bound in (low, high) if bound)
        return f" of {both}" if both else ""


def _bare(annotated: Any) -> Any:
    return get_args(annotated)[0] if get_origin(annotated) is Annotated else annotated


def _without_none(annotated: Any, meta: Meta) -> Any:
    """The type of a value that is there: TOML has no null, and bounds go with plain types only."""
    bare = _bare(annotated)
    inner = [one for one in get_args(bare) if one is not type(None)]
    if type(None) in get_args(bare) and len(inner) == 1:
        return Annotated[inner[0], meta]
    return annotated


def _keys(struct: type[msgspec.Struct]) -> dict[str, Key]:
    hints = get_type_hints(struct, include_extras=True)
    blank = struct()
    found = {}
    for name in struct.__struct_fields__:
        meta = next((one for one in get_args(hints[name])[1:] if isinstance(one, Meta)), None)
        if meta is None:
            continue
        extra = meta.extra or {}
        found[name] = Key(
            name=name,
            type=_without_none(hints[name], meta),
            default=getattr(blank, name),
            help=meta.description or "",
            secret=bool(extra.get("secret")),
            live=bool(extra.get("live")),
            form=extra.get("form", ""),
        )
    return found


KEYS = _keys(Settings)
"""Every top-level key but ``models``, in the order of the file."""

MODEL_KEYS = _keys(ModelSettings)
"""Every key of a ``[models."ID"]`` table."""

ALIAS_KEYS = _keys(RequestRules)
"""Every key of an alias' own table."""
