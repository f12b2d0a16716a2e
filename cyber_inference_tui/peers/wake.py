"""Wakes a box that sleeps: the packet of Wake-on-LAN, and the models that the box is known to have.

The packet is six bytes 0xFF and sixteen times the hardware address, in a UDP datagram to everybody
(AMD, "Magic Packet Technology", 1995). The models are kept in ``sleepers.json`` in the data
directory, because a box that sleeps cannot be asked for them.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.files import read_file, replace_file, write_problem
from cyber_inference_tui.records.models import Fit, ModelRecord
from cyber_inference_tui.records.peers import PeerName

WAKE_SECONDS = 60.0
"""How long a request waits for a box to wake."""
PACKET_INTERVAL = 5.0
"""Seconds between two packets to a box: each may be lost."""
_EVERYBODY, _PORT = "255.255.255.255", 9
_FILE = "sleepers.json"
_MAX_BYTES = 4 << 20
_MOST_MODELS = 1000

_logger = logging.getLogger(__name__)

Known = dict[PeerName, tuple[ModelRecord, ...]]
"""The models of each box."""


def send_packet(wake: str) -> None:
    """Send a packet to ``MAC`` or ``MAC@ADDRESS:PORT``. What fails is only logged."""
    mac, _, where = wake.partition("@")
    host, _, port = where.partition(":")
    data = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "").replace("-", "")) * 16
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(data, (host or _EVERYBODY, int(port or _PORT)))
    except (OSError, OverflowError) as error:
        _logger.warning("no packet could be sent to wake %s: %s", wake, error)


def asleep(models: Mapping[str, ModelRecord]) -> tuple[ModelRecord, ...]:
    """Return what is true of a box's models while it sleeps, of a limited number of them."""
    return tuple(
        ModelRecord(
            id=one.id,
            aliases=one.aliases,
            preset_of=one.preset_of,
            size_bytes=one.size_bytes,
            architecture=one.architecture,
            parameters=one.parameters,
            quantization=one.quantization,
            context_length=one.context_length,
            trained_context_length=one.trained_context_length,
            capabilities=one.capabilities,
            vision=one.vision,
            embedding=one.embedding,
            fits=Fit.NEVER if one.fits is Fit.NEVER else None,
            unreadable=one.unreadable,
        )
        for one in list(models.values())[:_MOST_MODELS]
    )


def read_known(data_dir: Path) -> Known:
    """Return the models of each box as they were written; none if that cannot be read. Blocks."""
    try:
        return msgspec.json.decode(read_file(data_dir / _FILE, _MAX_BYTES), type=thread_safe(Known))
    except FileNotFoundError:
        pass
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _logger.warning("the models of sleeping boxes are not known: %s", error)
    return {}


def write_known(data_dir: Path, known: Known) -> None:
    """Write the models of each box. What fails is only logged. Blocks."""
    path = data_dir / _FILE
    try:
        replace_file(path, msgspec.json.encode(known), mode=0o600)
    except OSError as error:
        _logger.warning("%s", write_problem(path, error))
