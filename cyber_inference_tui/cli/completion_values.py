"""Values for shell completion: model ids from the running service, keys and values of settings.

Completion must never make the user wait, so every failure gives no suggestions.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

import click
import msgspec
from click.shell_completion import CompletionItem

from cyber_inference_tui.cli.completion import matching
from cyber_inference_tui.cli.options import GlobalOptions
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError, NotFoundError

ANSWER_LIMIT = 0.5
"""Seconds for the service to answer."""
WHOLE_LIMIT = 2.0
"""Seconds in all: the settings may be on a mount that hangs."""

_MOST_BYTES = 4 << 20


class _Model(msgspec.Struct):
    """An entry of ``/v1/models``, with the fields that completion needs."""

    id: str
    state: str
    preset_of: str = ""


class _Models(msgspec.Struct):
    data: tuple[_Model, ...]


def model_ids(
    ctx: click.Context, typed: str, *, states: Collection[str] = (), also: Sequence[str] = ()
) -> list[CompletionItem]:
    """Return the ids of the models in one of ``states`` (in any, if empty), and ``also``."""
    items = [
        CompletionItem(model.id, help=model.state)
        for model in _models(ctx)
        if not states or model.state in states
    ]
    return matching([*items, *map(CompletionItem, also)], typed)


def setting_keys(ctx: click.Context, typed: str) -> list[CompletionItem]:
    """Return the keys of settings; those of models once "models." is typed."""
    from cyber_inference_tui.settings.load import key_name
    from cyber_inference_tui.settings.schema import KEYS, keys_of

    found = {name: key.help for name, key in KEYS.items()}
    if typed.startswith("models."):
        found = {
            key_name((*table, name)): key.help
            for model in _models(ctx)
            for table in [_table_of(model)]
            for name, key in keys_of(table).items()
        }
    return matching([CompletionItem(name, help=text) for name, text in found.items()], typed)


def _table_of(model: _Model) -> tuple[str, ...]:
    if not model.preset_of:
        return "models", model.id
    return "models", model.preset_of, "presets", model.id.removeprefix(f"{model.preset_of}:")


def setting_values(ctx: click.Context, typed: str) -> list[CompletionItem]:
    """Return values for the key before the cursor: a few words, or a path."""
    from cyber_inference_tui.settings.edit import split_key

    try:
        _, key = split_key(str(ctx.params.get("key")))
    except NotFoundError:
        return []
    if key.names_file:
        return [CompletionItem(typed, type="file")]
    words = ("true", "false") if key.bare_type is bool else (*key.choices, *key.words)
    return matching([CompletionItem(word) for word in words], typed)


def _models(ctx: click.Context) -> list[_Model]:
    """Return the models of the service of this command line; none if it does not answer."""
    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    found: list[_Model] = []
    asking = threading.Thread(target=lambda: found.extend(_asked(options)), daemon=True)
    asking.start()
    asking.join(WHOLE_LIMIT)
    return list(found)


def _asked(options: GlobalOptions) -> tuple[_Model, ...]:
    from cyber_inference_tui.cli.service_access import certificate_of, service_url
    from cyber_inference_tui.client.service_url import service_address

    try:
        settings = options.load().settings
        url = service_address(options.attach) if options.attach else service_url(settings)
        place = urlsplit(url)
        lines = ["GET /v1/models HTTP/1.0", f"Host: {place.netloc}"]
        lines += [f"Authorization: Bearer {key}" for key in settings.api_keys[:1]]
        head = "".join(f"{line}\r\n" for line in [*lines, ""])
        # Importing an HTTP library would take longer than the rest of a completion.
        address = (place.hostname or "", place.port or (443 if place.scheme == "https" else 80))
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection(address, ANSWER_LIMIT))
            if place.scheme == "https":
                from cyber_inference_tui.certificates import trusting

                trust = trusting(certificate_of(url, settings))
                connection = stack.enter_context(
                    trust.wrap_socket(connection, server_hostname=place.hostname)
                )
            connection.sendall(head.encode())
            with connection.makefile("rb") as stream:
                answer = stream.read(_MOST_BYTES)
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=thread_safe(_Models)).data
    except (CyberError, OSError, msgspec.MsgspecError):
        return ()
