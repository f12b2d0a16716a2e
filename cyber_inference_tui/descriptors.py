"""Limits of file descriptors: for this process, and for its clients.

Every connection takes one. So do the pipes and connections of each model's server, the logs, the
history, and each look at a directory. If clients took all of them, nothing else would work.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

LIMITS_AT_START: Final = resource.getrlimit(resource.RLIMIT_NOFILE)
"""The soft and hard limit that this process started with. Its children get them back: programs
with select(2) fail on descriptors above 1,023, which is why the usual soft limit is that low."""

LEAST: Final = 64
"""With fewer the service does not start: it opens about 30 itself, and a model needs about 8."""

_OWN: Final = 48
_MOST_CONNECTIONS: Final = 4096
_UNLIMITED: Final = 1 << 20
_OPEN_MAX: Final = 10_240
"""The largest soft limit on macOS under a hard limit of "unlimited": its setrlimit(2)."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one; return the number of descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # The kernel may refuse "unlimited".
        for limit in (hard, max(soft, _OPEN_MAX)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
                break
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def most_connections(limit: int) -> int:
    """Return the number of clients that may be connected at once, for ``limit`` descriptors.

    A quarter, at least 48, is reserved for the service itself and for model servers. A client in a
    request takes two: its own connection, and the connection to the model's server.
    """
    return max(1, min(_MOST_CONNECTIONS, (limit - max(_OWN, limit // 4)) // 2))


def most_of_one(connections: int) -> int:
    """Return the number of ``connections`` that one address may have: not all of them.

    Half of them, because all clients of a reverse proxy or a container come from one address.
    """
    return max(1, connections // 2)
