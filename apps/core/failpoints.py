"""Places at which a process can be made to die, for tests that kill it there; nothing in production.

``BERTH_FAILPOINTS`` (settings dev and test only) names a file with a line for each armed one: ``NAME``, or
``NAME:APP`` for one app's work only. Whoever reaches it takes the line out, notes in FILE.hit that it did, and ends
itself by SIGKILL: once, so that what takes up its work gets past.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from django.conf import settings

#: In the order in which an app's rollout comes by.
FAILPOINTS = (
    # A rollout's moves: before they are written, and after what kind of change was.
    "app.seen",
    "rollout.beginning",
    "rollout.begun",
    "rollout.moving",
    "target.grown",
    "source.shrunk",
    "places.given",
    "traffic.shifted",
    "canary.stepped",
    "phase.judging",
    "phase.moving",
    "phase.keeping",
    "phase.ending",
    "rollout.ending",
    "rollout.ended",
    "rollout.giving_up",
    "rollout.given_up",
    "set.retired",
    # As many instances as are wanted.
    "instances.placed",
    "instances.drained",
    # Publication.
    "route.publishing",
    "route.unnoted",
    "route.noted",
    "gateways.acknowledged",
    # An instance on its way in, and out.
    "instance.starting",
    "container.made",
    "instance.running",
    "instance.answered",
    "instance.ready",
    "instance.unpublished",
    "instance.unrouted",
    "gateways.let_go",
    "container.removed",
    "instance.released",
    "place.handed_over",
)


def reached(name: str, app: str = "") -> None:
    """Ends this process if the failpoint is armed, for this app or for any."""
    if settings.FAILPOINTS_FILE and _taken(Path(settings.FAILPOINTS_FILE), {name, f"{name}:{app}"}):
        os.kill(os.getpid(), signal.SIGKILL)


def _taken(path: Path, lines: set[str]) -> bool:
    """Take the line out of the file; of several processes that come by at once one gets it."""
    try:
        file = path.open("r+")
    except FileNotFoundError:
        return False
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        armed = file.read().splitlines()
        found = next((line for line in armed if line in lines), None)
        if found is None:
            return False
        armed.remove(found)
        file.seek(0)
        file.truncate()
        file.write("".join(f"{line}\n" for line in armed))
        with path.with_name(f"{path.name}.hit").open("a") as hits:
            hits.write(f"{found} {os.getpid()}\n")
    return True
