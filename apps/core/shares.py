"""Lasting work that is divided between the processes that ask for a part of it, such as watching hosts.

Each piece of work is a Duty with a lease. Unlike ``leases.held`` this renews them all at once, since a process may hold
hundreds. As there, a lease only saves double work.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection

from django.conf import settings
from django.db.models import QuerySet

from apps.core.clock import after
from apps.core.leases import free
from apps.core.models import Duty

#: So many more are taken in one turn, so that processes which start together find a part each.
TAKEN_AT_ONCE = 50


class Share:
    """One process's part of the work of this kind: at most ``limit`` pieces. Call ``renew`` every few seconds.

    A process that dies leaves its part to the others within the length of a lease.
    """

    def __init__(self, kind: str, *, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._owner = str(uuid.uuid4())

    def renew(self, ids: Collection[int]) -> set[int]:
        """Keep what is held, take what is free as far as there is room, forget what is no work any more.

        ``ids`` are all pieces that there are. Returns those that are this process's now.
        """
        names = {f"{self._kind}:{pk}": pk for pk in ids}
        self._held().update(lease_until=after(settings.LEASE_S))
        known = set(self._all().values_list("name", flat=True))
        if known - set(names):
            Duty.objects.filter(name__in=known - set(names)).delete()
        if set(names) - known:
            Duty.objects.bulk_create([Duty(name=name) for name in set(names) - known], ignore_conflicts=True)
        room = min(TAKEN_AT_ONCE, self._limit - self._held().count())
        if room > 0:
            unheld = [name for name in self._all().filter(free()).values_list("name", flat=True) if name in names]
            taken = random.sample(unheld, min(room, len(unheld)))
            if taken:
                Duty.objects.filter(free(), name__in=taken).update(
                    lease_owner=self._owner, lease_until=after(settings.LEASE_S)
                )
        return {names[name] for name in self._held().values_list("name", flat=True) if name in names}

    def give_back(self) -> None:
        """The others may have it at once."""
        self._held().update(lease_owner="", lease_until=None)

    def _all(self) -> QuerySet[Duty]:
        return Duty.objects.filter(name__startswith=f"{self._kind}:")

    def _held(self) -> QuerySet[Duty]:
        return self._all().filter(lease_owner=self._owner)
