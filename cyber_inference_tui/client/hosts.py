"""The services that an app can switch to: that of this machine, and those it was attached to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cyber_inference_tui.client.service_url import service_address
from cyber_inference_tui.client.tunnel import SshAddress
from cyber_inference_tui.decoding import thread_safe
from cyber_inference_tui.errors import CyberError
from cyber_inference_tui.files import read_file, replace_file
from cyber_inference_tui.text import clean_line

if TYPE_CHECKING:
    from cyber_inference_tui.client.service_client import ServiceClient

HERE = ""
"""Stands for the address of this machine's service."""
HOSTS_KEPT = 12
_FILE = "hosts.json"
_MOST_BYTES = 64 * 1024


def proper_address(text: str) -> str:
    """Return an address of ``--attach`` in its one spelling. Raises ``InvalidRequestError``."""
    ssh = SshAddress.parse(text)
    return service_address(text) if ssh is None else str(ssh)


def host_name(address: str) -> str:
    """Return an address in few letters."""
    return clean_line(address.removeprefix("http://"), limit=200) or "this machine"


class Hosts:
    """The addresses in a file of ``data_dir``, the last used first.

    ``client`` makes a client for an address or ``HERE``; ``current`` is the one in use. All methods
    and ``client`` read files and raise ``CyberError``.
    """

    def __init__(
        self, data_dir: Path, current: str, client: Callable[[str], ServiceClient]
    ) -> None:
        self._path = data_dir / _FILE
        self.current = current
        self.client = client

    def choices(self) -> tuple[str, ...]:
        """Return the addresses that can be chosen: the current one, this machine, the known."""
        return tuple(dict.fromkeys((self.current, HERE, *self.known())))

    def known(self) -> tuple[str, ...]:
        """Return the addresses that are kept."""
        try:
            data = read_file(self._path, _MOST_BYTES)
            known = msgspec.json.decode(data, type=thread_safe(list[str]))
            return tuple(proper_address(one) for one in known[:HOSTS_KEPT])
        except (OSError, msgspec.MsgspecError, CyberError):
            return ()  # no file, or an invalid one

    def keep(self, address: str) -> None:
        """Put an address first, and forget the last of too many."""
        known = self.known()
        if known[:1] != (address,):
            self._write([address, *(one for one in known if one != address)])

    def forget(self, address: str) -> None:
        """Take an address away."""
        self._write([one for one in self.known() if one != address])

    def _write(self, addresses: list[str]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, msgspec.json.encode(addresses[:HOSTS_KEPT]), mode=0o600)
        except OSError as error:
            raise CyberError(
                f"The address cannot be kept in {self._path}: {error.strerror}."
            ) from error
