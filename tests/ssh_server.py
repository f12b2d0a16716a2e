"""A real SSH server on the loopback address, and an ``ssh`` that reaches it by the name ``box``."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tools import tool
from tests.waiting import eventually

_PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Debian's server needs it when root starts it; its package leaves it to systemd."""


class SshServer:
    """Its host key, its user's key and all configuration are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        for name in ("host_key", "user_key"):
            keygen = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/{name}"]
            subprocess.run(keygen, check=True)
        (folder / "user_key.pub").rename(folder / "authorized_keys")
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        )
        (folder / "ssh_config").write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        )
        programs = folder / "bin"
        programs.mkdir()
        ssh = programs / "ssh"
        # OpenSSH does not look for its configuration in $HOME.
        ssh.write_text(
            f'#!/bin/sh\nexec {tool("ssh")} -F {shlex.quote(f"{folder}/ssh_config")} "$@"\n'
        )
        ssh.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"
        """``PATH`` for programs that are to find this ``ssh``."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "PATH": self.path}

    def start(self) -> None:
        """Start the server and wait until it listens."""
        if os.getuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
        # sshd wants its whole path.
        argv = [tool("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        eventually(self._listens, what="an SSH server")

    def stop(self) -> None:
        """Stop the server; its connections stay."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
