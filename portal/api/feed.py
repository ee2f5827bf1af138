"""New events, as they are committed: one question a second to the database per process, for all streams together.

Ids are given when a row is inserted and seen when its transaction commits, so a smaller id may be seen later than a
larger one. News therefore come in the order of their ids, and what stands behind a gap waits up to GAP_S for it to be
filled (a transaction that rolled back leaves one for ever). So a reader needs to remember nothing but the last id, and
misses nothing. What comes later still is told late, out of order.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import structlog
from asgiref.sync import sync_to_async
from django.db import DatabaseError, connections
from django.db.models import Q

from apps.core.clock import now
from apps.core.models import Event
from apps.deployments.models import App

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Seconds.
POLL_S = 1.0
GAP_S = 3.0
#: A transaction that filled its gap within this is told of, late.
LATE_S = 60.0
#: A stream whose viewer may not see it any more ends within CHECK_S and a poll.
CHECK_S = 3.0
BATCH = 1000
#: Ids of gaps that are remembered: a database that was restored or crashed jumps by thousands, and nothing comes there.
GAPS_KEPT = 1000
#: News that a slow reader may be behind; then its stream ends, and it resumes from the last id that it has.
QUEUE = 1000


class Order:
    """Which of the ids that are seen may be told, and in which order. ``settled``: what follows is news."""

    def __init__(self, settled: int) -> None:
        self.settled = settled
        self._seen: dict[int, float] = {}
        self._gaps: dict[int, float] = {}

    @property
    def gaps(self) -> list[int]:
        """Ids that were given up, and may be seen yet."""
        return list(self._gaps)

    def take(self, ids: Iterable[int], at: float) -> tuple[list[int], list[int]]:
        """The news in order, and what is late. ``ids`` is all that is seen above ``settled`` and in ``gaps``, rising;
        what is held back must be given again. ``at``: seconds, of one clock.
        """
        ids = list(ids)
        late = [one for one in ids if self._gaps.pop(one, None) is not None]
        news = []
        for one in ids:
            self._seen.setdefault(one, at)
        for one in ids:
            if one <= self.settled:
                continue
            if one > self.settled + 1:
                if at - self._seen[one] < GAP_S:
                    break
                first = max(self.settled + 1, one - GAPS_KEPT)
                self._gaps.update(dict.fromkeys(range(first, one), at))
            self.settled = one
            news.append(one)
        self._seen = {one: since for one, since in self._seen.items() if one > self.settled}
        kept = [(one, since) for one, since in self._gaps.items() if at - since < LATE_S]
        self._gaps = dict(kept[-GAPS_KEPT:])
        return news, late


@dataclass(slots=True)
class News:
    """``app``: its slug, where it is an app's. ``late``: readers must not take its id for the last one that they have.

    ``text`` is for whoever writes it out first; the others take it from here.
    """

    event: Event
    app: str
    late: bool = False
    text: bytes = b""


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. ``may`` asks the database whether its viewer may still see it; None in the queue is the end."""

    wants: Callable[[Event], bool]
    may: Callable[[], bool]
    queue: asyncio.Queue[News | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    checked_at: float = field(default_factory=time.monotonic)

    def tell(self, news: Sequence[News]) -> bool:
        """False where it is too far behind."""
        try:
            for one in news:
                if self.wants(one.event):
                    self.queue.put_nowait(one)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Feed:
    """The poller of one event loop; it runs while somebody reads."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._order: Order | None = None
        self._begun = asyncio.Event()
        self._polls = 0

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def join(self, reader: Reader) -> int:
        """From now on the reader is told. Returns the id from which on it is: what came before is history."""
        if not self._tasks:
            # Not in the context of whoever came first: their request's id and thread are not the feed's.
            self._order, self._begun = None, asyncio.Event()
            self._tasks = [
                asyncio.create_task(work(), context=contextvars.Context()) for work in (self._poll, self._check)
            ]
        self._readers.add(reader)
        await self._begun.wait()
        if self._order is None:
            raise AssertionError("a feed that has begun has an order")
        # No news comes between these two lines and the caller's next one: they are one step of the loop.
        while not reader.queue.empty():
            reader.queue.get_nowait()
        return self._order.settled

    def leave(self, reader: Reader) -> None:
        self._readers.discard(reader)
        if not self._readers:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    def _end(self, reader: Reader) -> None:
        reader.end()
        self.leave(reader)

    async def _poll(self) -> None:
        while True:
            full = False
            self._polls += 1
            try:
                if self._order is None:
                    self._order = await in_thread(_begin)
                    self._begun.set()
                full = await self._tell(self._order)
            except DatabaseError as error:
                log.warning("feed_blind", error=str(error))
            if not full:
                await asyncio.sleep(POLL_S)

    async def _tell(self, order: Order) -> bool:
        """Ask once, and tell. True where more may be there already."""
        seen = await in_thread(lambda: _read(order))
        by_id = {one.event.pk: one for one in seen}
        news, late = order.take(by_id, time.monotonic())
        for pk in late:
            by_id[pk].late = True
        told = [by_id[pk] for pk in (*late, *news)]
        for reader in list(self._readers):
            if told and not reader.tell(told):
                self._end(reader)
        return len(seen) >= BATCH and bool(news)

    async def _check(self) -> None:
        """Ends the streams of those who may not see them any more. While the database is away nothing is told."""
        while True:
            await asyncio.sleep(min(1.0, CHECK_S / 2))
            at = time.monotonic()
            due = [reader for reader in self._readers if at - reader.checked_at >= CHECK_S]
            try:
                over = await in_thread(lambda readers: [one for one in readers if not one.may()], due) if due else []
            except DatabaseError as error:
                log.warning("feed_unchecked", error=str(error))
                continue
            for reader in due:
                reader.checked_at = at
            for reader in over:
                self._end(reader)


_FEEDS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Feed] = weakref.WeakKeyDictionary()


def feed() -> Feed:
    """The running loop's: a process of the portal has one loop."""
    return _FEEDS.setdefault(asyncio.get_running_loop(), Feed())


def _begin() -> Order:
    """Begins before the events of the last moment: a transaction may be about to commit among them."""
    recent = now() - timedelta(seconds=GAP_S)
    lowest = None
    for pk, at in Event.objects.order_by("-pk").values_list("pk", "at")[:BATCH]:
        if at < recent:
            return Order(pk)
        lowest = pk
    return Order(lowest - 1 if lowest is not None else 0)


def _read(order: Order) -> list[News]:
    return news_of(Event.objects.filter(Q(pk__gt=order.settled) | Q(pk__in=order.gaps)).order_by("pk")[:BATCH])


def news_of(rows: Iterable[Event]) -> list[News]:
    events = list(rows)
    named = {event.app_id for event in events if event.app_id is not None}
    slugs = dict(App.objects.filter(pk__in=named).values_list("pk", "slug")) if named else {}
    return [News(event, slugs.get(event.app_id or 0, "")) for event in events]


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run it in any thread; its database connection is given back before this returns."""

    def closing() -> T:
        try:
            return work(*arguments)
        finally:
            connections_close()

    return await sync_to_async(closing, thread_sensitive=False)()


def connections_close() -> None:
    """Those of this thread, but one whose transaction somebody further up holds (in tests)."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
