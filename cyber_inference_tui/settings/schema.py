"""All settings in one table: the structs below are the schema.

A field states its type and default; ``setting`` states its help, group, bounds and the rest.
Reading, checking, the settings page, the example file and the documentation are derived from them,
so a new setting is one field. Sizes are bytes and times seconds unless a help text says otherwise.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from cyber_inference_tui.errors import ConfigError
from cyber_inference_tui.settings.environment import platform_folder

MASK = "********"
"""Replaces a secret wherever settings are shown."""

ARGUMENTS = "arguments"
"""The form of a list of command-line words."""
LLAMA_ARGUMENTS = "llama_arguments"
"""The form of a list of command-line words for llama-server (see ``owned``)."""
ALIASES = "aliases"
"""The form of a list of names, or of a table from names to request rules."""
FIELDS = "fields"
"""The form of names, or of a table of values, in a request's JSON."""
PORTS = "ports"
"""The form of a list of port numbers."""
PASSWORD = "password"  # noqa: S105 - the name of a form
"""The form of a password that the file holds as a hash (see ``password_hash``)."""

_FILES = frozenset({"file", "program"})
"""The forms of a text that may be a path."""
NETWORK = "network"
"""The form of an IP address or a network."""

_YEAR = 31_536_000
"""Seconds: the upper bound of every duration, well within what timers can hold."""
_INT32 = 2**31 - 1
"""llama-server keeps its numbers in a C int."""


class Group(StrEnum):
    """Groups of settings, in the order of the settings page and of the example file."""

    MODELS = "Models"
    MEMORY = "Memory"
    LLAMA_SERVER = "llama-server"
    REQUESTS = "Requests"
    ACCESS = "Access"
    HUB = "Hub"
    SERVICE = "Service"
    TERMINAL = "Terminal"


def setting(
    text: str,
    group: Group | None = None,
    *,
    live: bool = True,
    secret: bool = False,
    guarded: bool = False,
    form: str = "",
    general: str = "",
    example: Any = None,
    **bounds: Any,
) -> Meta:
    """Describe a setting; ``bounds`` are those of ``msgspec.Meta``. The rest is as in ``Key``."""
    known = {
        "help": text,
        "group": group.value if group is not None else "",
        "live": live,
        "secret": secret,
        "guarded": guarded,
        "form": form,
        "general": general,
        "example": example,
    }
    return Meta(**bounds, extra=known)


def _default_data_dir() -> Path:
    try:
        return platform_folder("DATA", os.environ)
    except ConfigError:
        # Reading the settings asks a user without a home for a directory.
        return Path("~/.local/share/cyber-inference-tui")


_Defaults = Annotated[
    dict[str, Any],
    setting(
        "Fields added to a request that does not set them.",
        form=FIELDS,
        example={"temperature": 0.7},
    ),
]
_Overrides = Annotated[
    dict[str, Any],
    setting(
        "Fields set in every request, even if the client sets them.",
        form=FIELDS,
        example={"reasoning_format": "none"},
    ),
]
_Strip = Annotated[
    tuple[str, ...],
    setting(
        "Names of fields taken out of every request, before defaults are added.",
        form=FIELDS,
        example=["user"],
    ),
]


class RequestRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Changes to a request's JSON: ``request_strip``, then defaults, then overrides.

    They apply to the fields at the top of the JSON, whose values are replaced as a whole.
    """

    request_defaults: _Defaults = {}
    request_overrides: _Overrides = {}
    request_strip: _Strip = ()

    def __bool__(self) -> bool:
        """Return true if there is anything to change."""
        return bool(self.request_defaults or self.request_overrides or self.request_strip)


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[models."ID"]`` table; ``None`` = the general setting applies."""

    path: Annotated[
        Path | None,
        setting(
            "The model's GGUF file, if it is outside the folders.",
            guarded=True,
            example="/mnt/models/my-model-Q4_K_M.gguf",
        ),
    ] = None
    aliases: Annotated[
        tuple[str, ...] | dict[str, RequestRules],
        setting(
            "Further names under which clients may ask for it: a list, or a table from each name "
            "to request_defaults, request_overrides and request_strip of its own.",
            form=ALIASES,
            example=["my-model"],
        ),
    ] = ()
    context_size: Annotated[
        int | Literal["auto"] | None,
        setting(
            'Tokens of context; 0 = the model\'s own, "auto" = as many as memory holds, at least '
            "8192. Not capped by the maximum.",
            general="default_context_size",
            example=16384,
            ge=0,
            le=_INT32,
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        setting(
            "Layers on the GPU; -1 = llama-server decides.",
            general="llama_gpu_layers",
            example=99,
            ge=-1,
            le=_INT32,
        ),
    ] = None
    parallel: Annotated[
        int | None,
        setting(
            "Parallel requests (slots); 0 = llama-server decides.",
            general="llama_parallel",
            example=2,
            ge=0,
            le=256,
        ),
    ] = None
    threads: Annotated[
        int | None,
        setting(
            "CPU threads; 0 = llama-server decides.",
            general="llama_threads",
            example=4,
            ge=0,
            le=1024,
        ),
    ] = None
    mmproj: Annotated[
        Path | None,
        setting(
            "The projector file, if it is not the one beside the model.",
            guarded=True,
            example="/mnt/models/mmproj-my-model.gguf",
        ),
    ] = None
    draft: Annotated[
        str,
        setting(
            'Drafts for its answers, which speed them up: "off", "auto" (by prediction layers in '
            "its file, a head beside it, or a small model with the same tokens), or the id of a "
            "model.",
            form="name",
            example="auto",
        ),
    ] = "off"
    lora: Annotated[
        tuple[Path, ...] | None,
        setting(
            "LoRA adapters, each with its strength behind a colon (1 if there is none). Not set: "
            "those beside the model that fit are loaded with a strength of 0.",
            guarded=True,
            example=["/mnt/models/my-style-lora.gguf:0.5"],
        ),
    ] = None
    args: Annotated[
        tuple[str, ...],
        setting(
            "Further arguments for its server, which override all others.",
            guarded=True,
            form=LLAMA_ARGUMENTS,
            general="llama_args",
            example=["--cache-type-k", "q8_0"],
        ),
    ] = ()
    env: Annotated[
        dict[str, str],
        setting(
            "Further environment variables for its server.",
            secret=True,
            guarded=True,
            form="variable",
            example={"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"},
        ),
    ] = {}
    idle_timeout: Annotated[
        float | None,
        setting(
            "Seconds without a request until it is unloaded.",
            general="model_idle_timeout",
            example=900,
            ge=0,
            le=_YEAR,
        ),
    ] = None
    pinned: Annotated[
        bool, setting("Never evict it and never unload it when idle.", example=False)
    ] = False
    preload: Annotated[bool, setting("Load it when the service starts.", example=False)] = False
    max_concurrent_requests: Annotated[
        int | None,
        setting(
            "Requests to it at the same time; 0 = as many as its server takes.",
            general="max_concurrent_requests",
            example=8,
            ge=0,
            le=4096,
        ),
    ] = None
    split: Annotated[
        tuple[str, ...],
        setting(
            "Another box (a name in [peers]) that holds a part of it in its memory, for a model"
            " that does not fit on one. Experimental.",
            example=["workstation"],
        ),
    ] = ()
    request_defaults: _Defaults = {}
    request_overrides: _Overrides = {}
    request_strip: _Strip = ()
    command: Annotated[
        tuple[str, ...],
        setting(
            "Any other OpenAI-compatible server instead of llama-server;"
            " {port}, {host}, {path}, {id} and {key} are filled in.",
            guarded=True,
            form=ARGUMENTS,
            example=["my-server", "--host", "{host}", "--port", "{port}", "--model", "{path}"],
        ),
    ] = ()

    presets: dict[str, dict[str, Any]] = {}
    """By name the keys that a table ``[models."ID".presets.NAME]`` sets, all of ``PRESET_KEYS``."""

    def request_rules(self, alias: str | None = None) -> RequestRules:
        """Return the rules for requests under this alias: the alias' merged over the model's.

        The alias wins where both set a field; a field that either strips is stripped.
        """
        own = self.aliases.get(alias) if alias and isinstance(self.aliases, dict) else None
        return self._with_rules(own or _NO_RULES)

    def preset_rules(self, preset: str) -> RequestRules:
        """Return the rules for requests with this preset, merged as those of an alias."""
        own = self.presets[preset].items()
        rules = {key: value for key, value in own if key in ALIAS_KEYS}
        return self._with_rules(RequestRules(**rules))

    def _with_rules(self, own: RequestRules) -> RequestRules:
        return RequestRules(
            request_defaults={**self.request_defaults, **own.request_defaults},
            request_overrides={**self.request_overrides, **own.request_overrides},
            request_strip=(*self.request_strip, *own.request_strip),
        )

    def with_preset(self, preset: str) -> ModelSettings:
        """Return this table with the keys of a preset merged over it.

        Variables are merged one by one. A preset has names of its own, and does not take over what
        makes the model stay.
        """
        own = self.presets[preset]
        stay: dict[str, Any] = {"aliases": (), "pinned": False, "preload": False, "presets": {}}
        rules = msgspec.structs.asdict(self.preset_rules(preset))
        env = {**self.env, **own.get("env", {})}
        return msgspec.structs.replace(self, **stay | own | rules | {"env": env})

    def changes_server(self, preset: str) -> bool:
        """Return whether a preset needs a server of its own: it changes more than requests."""
        changed = self.with_preset(preset)
        return any(
            getattr(changed, key) != getattr(self, key)
            for key in self.presets[preset]
            if key not in ALIAS_KEYS
        )


_NO_RULES = RequestRules()


_WAKE = (
    r"^(?:(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"
    r"(?:@(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?)?)?$"
)


class PeerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[peers."NAME"]`` table: another box that runs this program. Pairing makes it."""

    url: Annotated[
        str,
        setting(
            "The address of the box. Empty: it asks this one, and is not asked.",
            guarded=True,
            example="https://192.168.1.20:8337",
        ),
    ] = ""
    role: Annotated[
        Literal["serve", "serve+admin"],
        setting(
            "What the box may do here: ask the models, or everything that the owner may.",
            guarded=True,
            example="serve",
        ),
    ] = "serve"
    insecure: Annotated[
        bool,
        setting(
            "Talk to it without TLS although it is another machine: prompts are readable on the "
            "way.",
            guarded=True,
            example=False,
        ),
    ] = False
    wake: Annotated[
        str,
        setting(
            "The hardware address (MAC) with which it is woken if only it has a model and it "
            "sleeps; behind an @ the IPv4 address for the packet, if not everybody's. Empty: it is "
            "not woken.",
            guarded=True,
            example="9c:6b:00:12:34:56",
            pattern=_WAKE,
        ),
    ] = ""
    worker: Annotated[
        bool,
        setting(
            "Lend memory here to models of that box that are split: it may have llama.cpp's RPC"
            " server run here, which is not hardened against whoever uses it.",
            guarded=True,
            example=False,
        ),
    ] = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force."""

    models_dir: Annotated[
        Path,
        setting("Where models are kept; <data_dir>/models if not set.", Group.MODELS, guarded=True),
    ] = msgspec.field(default_factory=lambda: _default_data_dir() / "models")
    model_dirs: Annotated[
        tuple[Path, ...],
        setting("Further directories to read models from, in place.", Group.MODELS, guarded=True),
    ] = ()
    discover: Annotated[
        bool,
        setting(
            "Also list the models that the Hugging Face tools, LM Studio and Ollama keep on this "
            "machine; read in place, never changed.",
            Group.MODELS,
        ),
    ] = True
    default_model: Annotated[
        str,
        setting('The model that the id "auto" means while none is loaded or pinned.', Group.MODELS),
    ] = ""
    default_context_size: Annotated[
        int,
        setting("Tokens of context; 0 = the model's own.", Group.MODELS, ge=0, le=_INT32),
    ] = 8192
    max_context_size: Annotated[
        int,
        setting(
            "No model is started with more tokens, unless its own table says so.",
            Group.MODELS,
            ge=1,
            le=_INT32,
        ),
    ] = 32768
    allow_smaller_context: Annotated[
        bool,
        setting("Start a model with less context if memory cannot hold all of it.", Group.MODELS),
    ] = False
    model_idle_timeout: Annotated[
        float,
        setting(
            "Seconds without a request until a model is unloaded; 0 = never.",
            Group.MODELS,
            ge=0,
            le=_YEAR,
        ),
    ] = 300.0

    max_loaded_models: Annotated[
        int,
        setting(
            "Models loaded at the same time; 0 = as many as memory allows.",
            Group.MEMORY,
            ge=0,
            le=_INT32,
        ),
    ] = 0
    max_memory_percent: Annotated[
        float, setting("How full memory may be after a load.", Group.MEMORY, gt=0, le=100)
    ] = 80.0
    max_gpu_memory_percent: Annotated[
        float, setting("How full a GPU's memory may be after a load.", Group.MEMORY, gt=0, le=100)
    ] = 90.0

    llama_server_path: Annotated[
        str,
        setting(
            "The llama-server to use; empty = the installed one, else that on PATH.",
            Group.LLAMA_SERVER,
            guarded=True,
            form="program",
        ),
    ] = ""
    llama_gpu_layers: Annotated[
        int,
        setting(
            "Layers on the GPU; -1 = llama-server decides.", Group.LLAMA_SERVER, ge=-1, le=_INT32
        ),
    ] = -1
    llama_threads: Annotated[
        int,
        setting("CPU threads; 0 = llama-server decides.", Group.LLAMA_SERVER, ge=0, le=1024),
    ] = 0
    llama_parallel: Annotated[
        int,
        setting(
            "Parallel requests (slots) per model; 0 = llama-server decides.",
            Group.LLAMA_SERVER,
            ge=0,
            le=256,
        ),
    ] = 0
    llama_args: Annotated[
        tuple[str, ...],
        setting(
            "Further arguments for every server.",
            Group.LLAMA_SERVER,
            guarded=True,
            form=LLAMA_ARGUMENTS,
        ),
    ] = ()
    keep_prompts: Annotated[
        bool,
        setting(
            "Keep the prompts in a llama-server's slots on the disk while it is unloaded.",
            Group.LLAMA_SERVER,
        ),
    ] = True
    confine_servers: Annotated[
        bool,
        setting(
            "Let a llama-server without a GPU use only its models, libraries and cache (Linux).",
            Group.LLAMA_SERVER,
            guarded=True,
        ),
    ] = True
    llama_server_base_port: Annotated[
        int,
        setting("First port for a model's server; 0 = any.", Group.LLAMA_SERVER, ge=0, le=65535),
    ] = 8338
    load_timeout: Annotated[
        float,
        setting("Seconds a load may show no progress.", Group.LLAMA_SERVER, gt=0, le=_YEAR),
    ] = 300.0
    stop_timeout: Annotated[
        float,
        setting(
            "Seconds a server has to stop before it is killed.",
            Group.LLAMA_SERVER,
            ge=0,
            le=_YEAR,
        ),
    ] = 10.0

    max_concurrent_requests: Annotated[
        int,
        setting(
            "Requests to one model at the same time; 0 = as many as its server takes.",
            Group.REQUESTS,
            ge=0,
            le=4096,
        ),
    ] = 0
    max_queue: Annotated[
        int, setting("Requests that may wait per model.", Group.REQUESTS, ge=0, le=_INT32)
    ] = 128
    queue_timeout: Annotated[
        float,
        setting("Seconds a request may wait; 0 = no limit.", Group.REQUESTS, ge=0, le=_YEAR),
    ] = 600.0
    max_overtake: Annotated[
        int,
        setting(
            "Later requests for other models that may be served before a waiting one.",
            Group.REQUESTS,
            ge=0,
            le=_INT32,
        ),
    ] = 8
    stall_timeout: Annotated[
        float,
        setting(
            "Seconds without a byte after which a server counts as hung; 0 = off.",
            Group.REQUESTS,
            ge=0,
            le=_YEAR,
        ),
    ] = 0.0
    max_body_size: Annotated[
        int, setting("Bytes a request's body may have.", Group.REQUESTS, ge=1, le=2**40)
    ] = 67108864
    max_body_memory: Annotated[
        int,
        setting(
            "Bytes that the bodies of all requests may take together; 0 = a sixteenth of the "
            "memory, at least 256 MiB.",
            Group.REQUESTS,
            ge=0,
            le=2**50,
        ),
    ] = 0

    host: Annotated[
        str,
        setting("Address to listen on.", Group.ACCESS, live=False, form="word", min_length=1),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        setting("Port to listen on; 0 = any free one.", Group.ACCESS, live=False, ge=0, le=65535),
    ] = 8337
    extra_ports: Annotated[
        tuple[int, ...],
        setting(
            "Further ports to listen on, each if it is free: clients look for Ollama on 11434 and "
            "for llama.cpp on 8080.",
            Group.ACCESS,
            form=PORTS,
        ),
    ] = ()
    api_keys: Annotated[
        tuple[str, ...],
        setting(
            "When set, model endpoints need one of these keys.",
            Group.ACCESS,
            secret=True,
            form="token",
        ),
    ] = ()
    admin_password: Annotated[
        str,
        setting(
            "When set, admin endpoints need a login. The file gets a hash of it.",
            Group.ACCESS,
            secret=True,
            form=PASSWORD,
        ),
    ] = ""
    allowed_hosts: Annotated[
        tuple[str, ...],
        setting(
            "Further host names to answer to, beyond this machine's own and addresses; "
            '"*.example.org" means all names below.',
            Group.ACCESS,
            form="word",
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        setting(
            'Origins whose web pages may use the service; "https://*.example.org" means all '
            "names below.",
            Group.ACCESS,
            form="origin",
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        setting(
            "Addresses or networks of proxies whose X-Forwarded-For and Forwarded name the client.",
            Group.ACCESS,
            form=NETWORK,
        ),
    ] = ()
    tls_cert: Annotated[
        str,
        setting(
            "File with the certificate (PEM) for https; read again when it changes. Empty = http.",
            Group.ACCESS,
            live=False,
            form="file",
        ),
    ] = ""
    tls_key: Annotated[
        str,
        setting(
            "File with the certificate's key; empty = it is in the file of tls_cert.",
            Group.ACCESS,
            live=False,
            form="file",
        ),
    ] = ""
    insecure_no_auth: Annotated[
        bool,
        setting(
            "Let other machines connect without key and login; otherwise both are made.",
            Group.ACCESS,
            live=False,
        ),
    ] = False
    mdns: Annotated[
        bool,
        setting(
            "Announce this box to the local network if other machines can reach it, and suggest "
            "boxes found there for pairing.",
            Group.ACCESS,
        ),
    ] = False

    hf_endpoint: Annotated[
        str,
        setting("The model hub; empty = the hub's default.", Group.HUB, guarded=True, form="url"),
    ] = ""
    hf_token: Annotated[
        str,
        setting(
            "Token for the hub; empty = HF_TOKEN or the hub's own token file.",
            Group.HUB,
            secret=True,
            form="token",
        ),
    ] = ""
    hf_allowed_hosts: Annotated[
        tuple[str, ...],
        setting(
            "Hosts the hub may send a download to, beyond its own; "
            '"name", "name:port" or "*.name".',
            Group.HUB,
            guarded=True,
            form="word",
        ),
    ] = ()

    data_dir: Annotated[
        Path, setting("Where state and logs are kept.", Group.SERVICE, live=False, guarded=True)
    ] = msgspec.field(default_factory=_default_data_dir)
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting("Log level: debug, info, warning or error.", Group.SERVICE),
    ] = "info"
    log_max_size: Annotated[
        int,
        setting("Bytes that one file of a log may have.", Group.SERVICE, ge=65_536, le=2**40),
    ] = 16777216
    log_keep: Annotated[
        int, setting("Files that are kept for each log.", Group.SERVICE, ge=1, le=1000)
    ] = 3
    shutdown_timeout: Annotated[
        float,
        setting(
            "Seconds that running requests have when the service stops.",
            Group.SERVICE,
            ge=0,
            le=_YEAR,
        ),
    ] = 30.0
    sample_interval: Annotated[
        float,
        setting(
            "Seconds between samples of the machine while a client watches.",
            Group.SERVICE,
            ge=0.2,
            le=60,
        ),
    ] = 1.0
    price_per_kwh: Annotated[
        float,
        setting(
            "What a kWh costs, for the cost of energy in totals; 0 = show none.",
            Group.SERVICE,
            ge=0,
            le=1_000_000,
        ),
    ] = 0.0
    system_root: Annotated[
        Path,
        setting(
            "Where proc/, sys/ and etc/ of the machine are.",
            Group.SERVICE,
            live=False,
            guarded=True,
        ),
    ] = Path("/")

    theme: Annotated[str, setting("The terminal app's theme.", Group.TERMINAL, form="name")] = ""
    refresh_rate: Annotated[
        float, setting("The terminal app's updates a second.", Group.TERMINAL, ge=0.1, le=60)
    ] = 4.0

    desktop_notices: Annotated[
        bool,
        setting(
            "The terminal app shows notices on the desktop, and its state in the terminal's title.",
            Group.TERMINAL,
        ),
    ] = True

    models: dict[str, ModelSettings] = {}
    peers: dict[str, PeerSettings] = {}


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as the schema describes it."""

    name: str
    type: Any
    """The annotated type, as ``msgspec.convert`` takes it."""
    default: Any
    help: str
    group: str = ""
    """Its group on the settings page; empty for a key of a table."""
    live: bool = True
    """Applies without a restart of the service."""
    secret: bool = False
    guarded: bool = False
    """Names a program, its arguments, a path or a receiver of secrets, so that only the owner may
    change it over HTTP."""
    form: str = ""
    """The form a text must have (see ``values``)."""
    general: str = ""
    """The setting for all models that applies if a model's table does not set this key."""
    example: Any = None
    """The value in the example file, for a key of a table."""

    @property
    def bare_type(self) -> Any:
        """The type without its annotations, and without the words beside a number."""
        return _bare(_bounded(self.type))

    @property
    def is_table(self) -> bool:
        """True if its value is a table."""
        return get_origin(self.bare_type) is dict

    @property
    def is_list(self) -> bool:
        """True if its value is a list; that of ``aliases`` may be a table, too."""
        return self.form == ALIASES or get_origin(self.bare_type) is tuple

    @property
    def is_arguments(self) -> bool:
        """True if its value is a command line, whose words may be secrets (see ``masks``)."""
        return self.form in {ARGUMENTS, LLAMA_ARGUMENTS}

    @property
    def is_path(self) -> bool:
        """True if its value is a path, or a list of paths."""
        return self.bare_type is Path or Path in get_args(self.bare_type)

    @property
    def names_file(self) -> bool:
        """True if its value is a path, a list of paths, or a text that may be a path."""
        return self.is_path or self.form in _FILES

    def is_path_in(self, text: str) -> bool:
        """Return whether ``text``, as the value or an item of it, is a path."""
        return self.is_path or self.form == "file" or (self.form == "program" and "/" in text)

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, if only some are allowed."""
        return get_args(self.bare_type) if get_origin(self.bare_type) is Literal else ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that are allowed beside a number."""
        if _bounded(self.type) is self.type:
            return ()
        return tuple(word for part in get_args(self.type)[1:] for word in get_args(part))

    @property
    def expected(self) -> str:
        """A description of a valid value, to follow the word "expected"."""
        if self.form == ALIASES:
            return "a list of names, or a table from names to tables"
        if self.form == PORTS:
            return "a list of port numbers"
        if self.is_list:
            return "a list of paths" if self.is_path else "a list of strings"
        if self.is_table:
            return "a table of strings" if self.form == "variable" else "a table"
        words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
        others = "".join(f', or "{word}"' for word in self.words)
        return words.get(self.bare_type, "a string") + self._bounds() + others

    def _bounds(self) -> str:
        meta = _meta(_bounded(self.type))
        if meta is None:
            return ""
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


def _meta(annotated: Any) -> Meta | None:
    return next((part for part in get_args(annotated)[1:] if isinstance(part, Meta)), None)


def _bounded(kind: Any) -> Any:
    """Return the type that has the bounds: of a number or words, that of the number."""
    return get_args(kind)[0] if get_origin(kind) is Union else kind


def _without_none(annotated: Any, meta: Meta) -> Any:
    """Return the type of a value that is set: TOML has no null, and bounds need a plain type."""
    bare = _bare(annotated)
    inner = [part for part in get_args(bare) if part is not type(None)]
    if type(None) not in get_args(bare):
        return annotated
    bounded: Any = Annotated[inner[0], meta]
    return Union[bounded, *inner[1:]]


def _keys(struct: type[msgspec.Struct]) -> dict[str, Key]:
    hints = get_type_hints(struct, include_extras=True)
    blank = struct()
    return {
        name: Key(
            name=name,
            type=_without_none(hints[name], meta),
            default=getattr(blank, name),
            **(meta.extra or {}),
        )
        for name in struct.__struct_fields__
        if (meta := _meta(hints[name])) is not None
    }


KEYS = _keys(Settings)
"""Every top-level key but ``models`` and ``peers``, in the order of the file."""

MODEL_KEYS = _keys(ModelSettings)
"""Every key of a ``[models."ID"]`` table."""

PEER_KEYS = _keys(PeerSettings)
"""Every key of a ``[peers."NAME"]`` table."""

PRESET_KEYS = {
    name: key for name, key in MODEL_KEYS.items() if name not in {"path", "aliases", "mmproj"}
}
"""Every key of a ``[models."ID".presets.NAME]`` table: all but those that say what a model is."""

TABLES = {"models": MODEL_KEYS, "peers": PEER_KEYS}
"""The keys of the tables that have names, by the key of all of them."""
_BLANK: dict[str, ModelSettings | PeerSettings] = {
    "models": ModelSettings(),
    "peers": PeerSettings(),
}

PRESETS = "presets"
TablePath = tuple[str, ...]
"""A table of the file: ``()`` is the top level, others are ``("models", ID)``, ``("models", ID,
"presets", NAME)`` and ``("peers", NAME)``."""


def keys_of(table: TablePath) -> dict[str, Key]:
    """Return the keys that a table may have."""
    if not table:
        return KEYS
    return TABLES[table[0]] if len(table) == 2 else PRESET_KEYS


def tables_of(settings: Settings) -> list[TablePath]:
    """Return all tables but the top level."""
    found: list[TablePath] = []
    for model_id, own in settings.models.items():
        found.append(("models", model_id))
        found += [("models", model_id, PRESETS, preset) for preset in own.presets]
    return found + [("peers", name) for name in settings.peers]


def value_in(settings: Settings, table: TablePath, key: Key) -> Any:
    """Return the value that a table gives to a key, or the key's default."""
    if not table:
        return getattr(settings, key.name)
    tables: dict[str, Any] = getattr(settings, table[0])
    own = tables.get(table[1], _BLANK[table[0]])
    if len(table) == 2:
        return getattr(own, key.name)
    return own.presets.get(table[3], {}).get(key.name, key.default)


ALIAS_KEYS = _keys(RequestRules)
"""Every key of an alias' own table."""


def effective(own: ModelSettings, settings: Settings, name: str) -> Any:
    """Return the value of a model's key: its table's, else the setting for all models."""
    value = getattr(own, name)
    general = MODEL_KEYS[name].general if value is None else ""
    return getattr(settings, general) if general else value
