"""Leases in the database: one worker at a time on a row, and a dead worker's row is free again in seconds.

A lease only saves double work. What must never happen twice is kept by compare-and-swap and by constraints.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from django.conf import settings
from django.db import Error, connection, models
from django.db.models import Q

from apps.core.clock import after, now


def free(at: datetime | None = None) -> Q:
    """Rows that nobody works on."""
    return Q(lease_until=None) | Q(lease_until__lt=at or now())


@contextmanager
def held(model: type[models.Model], pk: object) -> Iterator[bool]:
    """Hold the row's lease for the length of the block; yields whether it was got.

    It is renewed every few seconds, so that a long engine call keeps it and a killed process does not.
    """
    owner = str(uuid.uuid4())
    if not _taken(model, owner, pk):
        yield False
        return
    heart = _Heart.of_process()
    heart.beat_for(owner, model, (pk,))
    try:
        yield True
    finally:
        heart.rest(owner)
        _given_back(model, owner, pk)


@contextmanager
def held_together(model: type[models.Model], pks: Sequence[int]) -> Iterator[str]:
    """Hold the leases of those of the rows that nobody holds; yields the ``lease_owner`` that stands in them."""
    owner = str(uuid.uuid4())
    if not _taken(model, owner, *pks):
        yield owner
        return
    heart = _Heart.of_process()
    heart.beat_for(owner, model, tuple(pks))
    try:
        yield owner
    finally:
        heart.rest(owner)
        _given_back(model, owner, *pks)


def _taken(model: type[models.Model], owner: str, *pks: object) -> bool:
    """By hand, as ``_given_back``: written by the ORM they would take longer than much of what is done in between."""
    table, column, keys = _rows(model, pks)
    time_of = connection.ops.adapt_datetimefield_value
    at = now()
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET lease_owner = %s, lease_until = %s "  # noqa: S608 - names of ours
            f"WHERE {column} IN ({_marks(keys)}) AND (lease_until IS NULL OR lease_until < %s)",
            [owner, time_of(at + timedelta(seconds=settings.LEASE_S)), *keys, time_of(at)],
        )
        return bool(cursor.rowcount)


def _given_back(model: type[models.Model], owner: str, *pks: object) -> None:
    table, column, keys = _rows(model, pks)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET lease_owner = '', lease_until = NULL "  # noqa: S608 - names of ours
            f"WHERE {column} IN ({_marks(keys)}) AND lease_owner = %s",
            [*keys, owner],
        )


def _marks(keys: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(keys))


def _rows(model: type[models.Model], pks: Sequence[object]) -> tuple[str, str, list[Any]]:
    """The table, its key's column, and the keys as the database wants them."""
    field: Any = model._meta.pk
    quoted = connection.ops.quote_name
    return (
        quoted(model._meta.db_table),
        quoted(field.column),
        [field.get_db_prep_value(pk, connection) for pk in pks],
    )


class _Heart:
    """One thread of the process renews all leases that it has held for a while: a thread for each would cost more than
    most of what is done under a lease.
    """

    _present: _Heart | None = None
    _making = threading.Lock()

    def __init__(self) -> None:
        self._pid = os.getpid()
        #: Owner -> which rows, and when they were got or renewed last.
        self._held: dict[str, tuple[type[models.Model], tuple[object, ...], float]] = {}
        self._some = threading.Condition()
        threading.Thread(target=self._run, name="leases", daemon=True).start()

    @classmethod
    def of_process(cls) -> _Heart:
        """A forked child has none of its parent's threads, so it gets its own."""
        with cls._making:
            if cls._present is None or cls._present._pid != os.getpid():
                cls._present = cls()
            return cls._present

    def beat_for(self, owner: str, model: type[models.Model], pks: tuple[object, ...]) -> None:
        with self._some:
            self._held[owner] = model, pks, time.monotonic()
            if len(self._held) == 1:
                self._some.notify()

    def rest(self, owner: str) -> None:
        with self._some:
            self._held.pop(owner, None)

    def _run(self) -> None:
        while True:
            with self._some:
                while not self._held:
                    connection.close()
                    self._some.wait()
            time.sleep(settings.LEASE_S / 10)
            due = self._due(time.monotonic() - settings.LEASE_S * 0.3)
            try:
                for model, rows in due.items():
                    owners = list(rows)
                    # By owner too: a lease that was given back meanwhile stays so.
                    mine = model._default_manager.filter(pk__in=chain(*rows.values()), lease_owner__in=owners)
                    mine.update(lease_until=after(settings.LEASE_S))
                    self._renewed(owners)
            except Error:
                # It may be back before the leases end; a new connection is made by the next try.
                connection.close()

    def _due(self, before: float) -> dict[type[models.Model], dict[str, tuple[object, ...]]]:
        """By model: owners whose leases were got or renewed before, and their rows."""
        found: dict[type[models.Model], dict[str, tuple[object, ...]]] = defaultdict(dict)
        with self._some:
            for owner, (model, pks, at) in self._held.items():
                if at <= before:
                    found[model][owner] = pks
        return found

    def _renewed(self, owners: list[str]) -> None:
        with self._some:
            for owner in owners:
                if owner in self._held:
                    self._held[owner] = (*self._held[owner][:2], time.monotonic())
