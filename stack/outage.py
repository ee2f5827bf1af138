"""All of the platform's own processes and what they keep their state in, away at once: a power cut beside the hosts.

The gateway and the Docker hosts stay: what serves the apps.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stack.platform import Platform
from stack.processes import descendants

#: What serves the apps, what tenants push to, and what they ask: the portal is down without its database anyway.
_STAYS = ("gateway", "registry", "web")
_STATE = ("postgres", "redis", "zookeeper")


def parts_away(platform: Platform) -> list[str]:
    """Those that an outage takes, in the order in which they come back."""
    ours = [name for name in platform.stack.parts if name not in _STAYS and not name.startswith("host-")]
    return [name for name in _STATE if name in ours] + [name for name in ours if name not in _STATE]


@contextmanager
def outage(platform: Platform) -> Iterator[None]:
    """Killed at once (SIGKILL, with their children), and away until the block ends; then started again."""
    names = parts_away(platform)
    pids = [pid for name in reversed(names) for pid in _tree(platform.stack.pid(name))]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in names:
        # Or the supervisor would have them back in a second.
        platform.stack.stop_part(name)
    try:
        yield
    finally:
        for name in names:
            platform.stack.start_part(name)


def _tree(pid: int) -> list[int]:
    return [pid, *descendants(pid)] if pid else []
