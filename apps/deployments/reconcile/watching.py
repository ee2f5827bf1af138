"""Following engines' events, so that a crash is seen when it happens and not at the next look at its host.

An event is only a nudge: it says where to look. What is missed all the same, the poll of the hosts finds.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from apps.core import jobs
from apps.core.shares import Share
from apps.deployments.reconcile.clients import Clients
from apps.deployments.reconcile.hosts import container_ended, containers_look
from apps.hosts.engines.base import EngineError, EventKind
from apps.hosts.selectors import HostMissing, host_with_engine, hosts_to_observe

log = structlog.get_logger(__name__)

#: A stream is opened anew so often, with what the host's address and our certificate are then. Seconds.
RENEW_S = 300.0
#: The wait after a stream broke, doubling; one that lasted for longer than the last begins anew. Seconds.
BACKOFF_S = (0.5, 30.0)
#: Containers that are looked at at once. Each of these threads has a connection to the database while it does.
LOOKERS = 8
#: How long the end of the process waits for those that are at it. Seconds.
STOP_S = 3.0

Ended = Callable[[int, str], None]


class HostWatch:
    """Follows one host's events until ``stop`` is called, or the host is removed. ``ended`` gets the host's id and the
    instance's short id for each container that is said to have ended, and must be quick.
    """

    def __init__(
        self, host_id: int, clients: Clients, ended: Ended, nudge: Callable[[jobs.Nudge], None] = jobs.send
    ) -> None:
        self._host_id = host_id
        self._clients = clients
        self._ended = ended
        self._nudge = nudge
        self._since: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.run, name=f"watch-{host_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def run(self) -> None:
        with jobs.handed_to(self._nudge):
            self._run()

    def _run(self) -> None:
        failures, missed = 0, True
        wait_s = 0.0
        while not self._stopped.wait(wait_s):
            began = time.monotonic()
            try:
                self._follow(missed=missed)
                failures, missed, wait_s = 0, False, 0.0
            except HostMissing:
                return
            except Exception as error:  # the thread is the host's only one: it goes on whatever happens
                expected = isinstance(error, EngineError | DatabaseError)
                failures = failures + 1 if time.monotonic() - began < BACKOFF_S[1] else 1
                # With jitter: what broke many streams at once must not see all of them come back at once.
                wait_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2 ** min(failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
                missed = True
                log.warning("watch_broken", host=self._host_id, error=str(error)[:300], exc_info=not expected)
            finally:
                connection.close()

    def _follow(self, *, missed: bool) -> None:
        """Until it is time to open the stream anew. Raises EngineError when it breaks."""
        host = host_with_engine(self._host_id)
        if missed:
            containers_look(self._host_id, self._clients)
            jobs.enqueue(jobs.OBSERVE_HOST, self._host_id)
        engine = self._clients.engine(host)
        connection.close()  # a quiet host is quiet for long
        until = time.monotonic() + RENEW_S

        def over() -> bool:
            return self._stopped.is_set() or time.monotonic() >= until

        for event in engine.events(settings.PLATFORM_ID, since=self._since, stop=over):
            self._since = event.at
            if event.kind is not EventKind.START:
                self._ended(self._host_id, event.instance)


class Watcher:
    """One process's part of the hosts, each followed by a thread; the threads that look at what ended; and one that
    sends their nudges, since a broker that is away takes seconds for each try and nobody must wait for that.
    """

    def __init__(self, clients: Clients, *, limit: int, lookers: int = LOOKERS) -> None:
        self._clients = clients
        self._share = Share("watch", limit=limit)
        self._watches: dict[int, HostWatch] = {}
        self._ends: queue.SimpleQueue[tuple[int, str] | None] = queue.SimpleQueue()
        self._nudges: queue.SimpleQueue[jobs.Nudge | None] = queue.SimpleQueue()
        self._lookers = [threading.Thread(target=self._look, name=f"look-{at}", daemon=True) for at in range(lookers)]
        self._nudger = threading.Thread(target=self._send, name="nudges", daemon=True)
        for thread in (*self._lookers, self._nudger):
            thread.start()

    @property
    def hosts(self) -> set[int]:
        return set(self._watches)

    def turn(self) -> bool:
        """Take and give up hosts as they come and go. False where the database is away: what is watched stays so."""
        try:
            close_old_connections()
            wanted = self._share.renew(list(hosts_to_observe().values_list("pk", flat=True)))
        except DatabaseError as error:
            log.warning("watch_unrenewed", error=str(error))
            return False
        for pk in set(self._watches) - wanted:
            self._watches.pop(pk).stop()
        for pk in wanted:
            if pk not in self._watches or not self._watches[pk].alive:
                self._watches[pk] = HostWatch(pk, self._clients, self._say_ended, self._nudges.put)
                self._watches[pk].start()
        return True

    def close(self) -> None:
        """Give the hosts to others and end. What is still waiting for an engine then is cut off."""
        for watch in self._watches.values():
            watch.stop()
        for _ in self._lookers:
            self._ends.put(None)
        until = time.monotonic() + STOP_S
        for thread in self._lookers:
            thread.join(max(0.0, until - time.monotonic()))
        self._nudges.put(None)
        self._nudger.join(max(0.0, until - time.monotonic()))
        try:
            self._share.give_back()
        except DatabaseError as error:
            log.warning("watch_not_given_back", error=str(error))
        connection.close()

    def _say_ended(self, host_id: int, short_id: str) -> None:
        self._ends.put((host_id, short_id))

    def _send(self) -> None:
        while (nudge := self._nudges.get()) is not None:
            jobs.send(nudge)

    def _look(self) -> None:
        with jobs.handed_to(self._nudges.put):
            self._look_at_all()

    def _look_at_all(self) -> None:
        while (end := self._ends.get()) is not None:
            try:
                container_ended(*end, self._clients)
            except Exception:  # of one instance; the poll of its host finds it again
                log.exception("end_unhandled", host=end[0], instance=end[1])
            finally:
                connection.close()
