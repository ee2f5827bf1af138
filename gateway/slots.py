"""Which backend (slot) serves which app, and how many slots HAProxy needs. Pure.

HAProxy 2.6 cannot add a backend at run time, so backends are declared ahead and given to apps as they come.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import ceil

from gateway.model import TCP_FIRST

SPARE_SHARE = 0.25
FREE_SHARE = 0.05


def assign(apps: Collection[str], previous: Mapping[str, int], busy: Collection[int], first: int = 0) -> dict[str, int]:
    """Each app keeps its slot; a new app takes the lowest free one, past the declared ones if need be.

    A slot that an app has only now left, or that still holds servers (``busy``), is not given away yet: for
    a moment one app's host names could otherwise reach another app's instances. ``first``: TCP's begin there, HTTP's at
    0; one of the other kind is none of an app's.
    """
    kept = {app: previous[app] for app in apps if app in previous and (previous[app] >= TCP_FIRST) == bool(first)}
    taken = set(previous.values()) | set(busy)
    slot = first
    for app in sorted(set(apps) - kept.keys()):
        while slot in taken:
            slot += 1
        kept[app] = slot
        taken.add(slot)
    return kept


def capacity(slots: Mapping[str, int], declared: int, spare: int, expected: int = 0) -> int:
    """How many slots to declare: ``declared`` as long as that is enough, more when a reload is due.

    More are due when an app has no declared slot or fewer than 5 % are free; then 25 % (at least ``spare``)
    are added over the apps in sight (``expected``: apps known to come that have no slot yet).
    """
    used = max(len(slots), expected)
    highest = max(slots.values(), default=-1)
    if highest < declared and declared and declared - used >= declared * FREE_SHARE:
        return declared
    return max(declared, highest + 1, used + max(spare, ceil(used * SPARE_SHARE)))
