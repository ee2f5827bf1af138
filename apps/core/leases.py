"""Leases in the database: one worker at a time on a row, and a dead worker's row is free again in seconds.

A lease only saves double work. What must never happen twice is kept by compare-and-swap and by constraints.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import DatabaseError, connection, models
from django.db.models import Q

from apps.core.clock import after, now

LEASE_S = 10.0
HEARTBEAT_S = 3.0


def free(at: datetime | None = None) -> Q:
    """Rows that nobody works on."""
    return Q(lease_until=None) | Q(lease_until__lt=at or now())


@contextmanager
def held(model: type[models.Model], pk: object) -> Iterator[bool]:
    """Hold the row's lease for the length of the block; yields whether it was got.

    A thread renews it every few seconds, so that a long engine call keeps it and a killed process does not.
    """
    rows = model._default_manager.filter(pk=pk)
    owner = str(uuid.uuid4())
    if not rows.filter(free()).update(lease_owner=owner, lease_until=after(LEASE_S)):
        yield False
        return
    done = threading.Event()

    def renew() -> None:
        try:
            while not done.wait(HEARTBEAT_S):
                try:
                    if not rows.filter(lease_owner=owner).update(lease_until=after(LEASE_S)):
                        return
                except DatabaseError:
                    # It may be back before the lease ends; a new connection is made by the next try.
                    connection.close()
        finally:
            connection.close()

    heart = threading.Thread(target=renew, name=f"lease-{model.__name__}-{pk}", daemon=True)
    heart.start()
    try:
        yield True
    finally:
        done.set()
        heart.join()
        rows.filter(lease_owner=owner).update(lease_owner="", lease_until=None)
