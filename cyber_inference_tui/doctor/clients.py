"""Checks connected clients: their files still say what was written, and their requests work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cyber_inference_tui.connect.client import Api, Client, Home
from cyber_inference_tui.connect.connected import ConnectedRecord
from cyber_inference_tui.connect.connection import Connection
from cyber_inference_tui.connect.probe import ask
from cyber_inference_tui.doctor.records import Finding
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import read_file

_MOST_BYTES = 16 << 20
_SHOWN = 4


def check_client(
    client: Client,
    record: ConnectedRecord,
    connect: Callable[[str], Connection],
    home: Home,
    ask: Callable[[Api, Connection], None] = ask,
) -> Iterator[Finding]:
    """Yield the findings on a connected client; sends a request, which loads its model.

    ``connect`` returns the present facts for a model's name.
    """
    again = f"Run `cyber-inference-tui connect {client.name} --model {record.model}` again."
    try:
        connection = connect(record.model)
    except CyberError as error:
        fix = f"Connect it to another: `cyber-inference-tui connect {client.name} --model ID`."
        yield Finding.error("clients", f"{client.title}: {error.message}", fix)
        return
    different = []
    for file in client.files(connection, home):
        try:
            text = read_file(file.path, _MOST_BYTES).decode("utf-8", "surrogateescape")
            different += [f"{name} in {file.path}" for name in file.differences(text)]
        except OSError as error:
            different.append(f"{file.path} ({error.strerror})")
        except ValueError as error:
            different.append(f"{file.path} ({error})")
    if different:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        yield Finding.warning(
            "clients",
            f"{client.title} does not have what this service needs now: "
            f"{', '.join(different[:_SHOWN])}{more}.",
            again,
        )
    if connection.model.context < client.least_context:
        yield Finding.hint(
            "clients",
            f"{client.title} needs about {client.least_context:,} tokens of context; "
            f"{record.model} has {connection.model.context:,}.",
            f"Set context_size and parallel in the model's table, then connect {client.name} "
            "again.",
        )
    try:
        ask(client.api, connection)
    except CyberError as error:
        yield Finding.error(
            "clients",
            f"{client.title}: {error.message}",
            error.hint or f"`cyber-inference-tui logs {record.model}` may show why.",
        )
    else:
        yield Finding.ok(
            "clients", f"{client.title}: {record.model} answers through the {client.api} API."
        )
