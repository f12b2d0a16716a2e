"""File descriptors: how many this process may have open, and how many of them clients may use.

Every connection takes one, and so do the pipes of each model's server, the connections to it, the
logs, the history and every look at a directory. Where clients take them all, nothing else works.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

LIMITS_AT_START: Final = resource.getrlimit(resource.RLIMIT_NOFILE)
"""Soft and hard, as this process was given them. Its children get them back: programs that use
select(2) break on descriptors above 1,023, which is why the usual soft limit is that low."""

LEAST: Final = 64
"""With fewer the service does not start: it opens some 30 itself, and a model takes about 8."""

_OWN: Final = 48
_MOST_CONNECTIONS: Final = 4096
_UNLIMITED: Final = 1 << 20
_OPEN_MAX: Final = 10_240
"""The largest soft limit on macOS where the hard limit is "unlimited": its setrlimit(2)."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one; how many descriptors there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # "unlimited" is refused where it is more than the kernel has.
        for limit in (hard, max(soft, _OPEN_MAX)):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                soft = limit
                break
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def most_connections(limit: int) -> int:
    """The number of clients that may be connected at once, of ``limit`` descriptors.

    A quarter, and 48 at least, is kept for the service itself and for models' servers. A client
    whose request is answered takes two: its own connection, and the one to the model's server.
    """
    return max(1, min(_MOST_CONNECTIONS, (limit - max(_OWN, limit // 4)) // 2))
