"""The loop: what ZooKeeper says becomes wanted apps, those a data plane, and that is put in force.

One thread does it all but counting requests (`listener`), so nothing here needs a lock. The order of each turn
is what makes the gateway safe to kill at any line: the state goes to disk, then HAProxy is changed, and only then
may it be acknowledged.
"""

from __future__ import annotations

import fcntl
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import structlog

from gateway import diff, journal, plan
from gateway.accesslog import AccessLog, RedisStream
from gateway.certificates import Certificates
from gateway.dataplane import DataPlane, DataPlaneError
from gateway.frame import Frame
from gateway.haproxy import Haproxy
from gateway.listener import Listener
from gateway.model import Plane, Table
from gateway.settings import Settings
from gateway.state import Saved
from gateway.traffic import Counters
from gateway.wanted import Wanted
from gateway.watcher import Update, Watcher

TURN_SECONDS = 0.25
RETRY_SECONDS = 1.0
# A turn may hold a reload; one that takes longer than this is stuck.
STUCK_SECONDS = 90.0
FORGET_EVERY_SECONDS = 60.0
#: While more is being read, planning everything rests for so many times as long as it took.
REST_TIMES = 10.0
STATE = "state.json"
LOCK = "agent.lock"

_log = structlog.get_logger(__name__)


class AgentError(RuntimeError):
    """The agent cannot run here."""


class Agent:
    def __init__(self, settings: Settings) -> None:
        """Creates the directory, takes its lock and reads the last good state. Raises AgentError, OSError."""
        self._settings = settings
        self._directory = settings.directory
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self._directory / LOCK)
        saved = journal.load(self._directory / STATE)
        self._known = bool(saved.apps)
        self._wanted = Wanted(saved.apps, saved.epoch, settings.epoch_grace_seconds)
        self._slots = saved.slots
        self._owners = saved.owners
        self._seen = saved.seen
        self._expected = 0
        self._certificates = Certificates(self._directory, settings.certificate_keys if settings.https_bind else ())
        self._haproxy = Haproxy(self._directory, settings.haproxy)
        self.access_log: AccessLog | None = None
        if settings.access_log_redis:
            stream = RedisStream(settings.access_log_redis, settings.access_log_length)
            self.access_log = AccessLog(settings.gateway_id, stream, settings.access_log_rate)
        self.counters = Counters(
            settings.gateway_id,
            version_of=self._wanted.version_of,
            access=self.access_log.offer if self.access_log is not None else None,
        )
        self._listener = Listener(settings.log_bind, self.counters)
        self._forgot_at = time.monotonic()
        frame = Frame(
            http_bind=settings.http_bind,
            threads=settings.threads,
            max_connections=settings.max_connections,
            log_bind=settings.log_bind,
            gateway=settings.gateway_id,
            tcp_ports=settings.tcp_ports,
            https_bind=settings.https_bind,
            passthrough=settings.tls_passthrough,
            access_log=self.access_log is not None,
        )
        self._plane = DataPlane(self._haproxy, frame, settings.drain_seconds)
        self._watcher = Watcher(
            hosts=settings.zookeeper,
            credential=settings.zookeeper_credential,
            gateway=settings.gateway_id,
            session_seconds=settings.session_seconds,
            resync_seconds=settings.resync_seconds,
            stats=settings.stats_advertise,
            epoch=saved.epoch,
            seen=saved.seen,
        )
        self._target: Plane | None = None
        # Revisions of what is wanted: of apps, and of certificates.
        self._planned = (-1, -1)
        self._stored = (0, -1)
        self._journal = journal.Journal(self._directory / STATE)
        self._memory = diff.Memory()
        #: The plane that was in force, and the slots whose servers are others since; None where more is.
        self._patched: tuple[Plane, frozenset[int]] | None = None
        #: Apps that the disk does not hold as they are; None: all.
        self._to_store: set[str] | None = None
        self._rest_until = 0.0
        self._unapplied = True
        self._waits_for_all = False
        self._retry_at = 0.0
        self._turned_at = time.monotonic()
        self._error = ""
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serves until `stop`. What it serves first is what runs already, or what the disk says."""
        # An adopted HAProxy serves, and tells, before the first plan.
        self.counters.assign(self._slots)
        self._listener.begin()
        if self.access_log is not None:
            self.access_log.begin()
        adopted = self._plane.adopt(known=self._known)
        # An HAProxy that runs while the state is lost is the last good state: it is left alone until
        # ZooKeeper has said everything.
        self._waits_for_all = adopted and not self._known
        self._settle(Update())
        self._watcher.start()
        _log.info("gateway.started", gateway=self._settings.gateway_id, apps=len(self._wanted.apps))
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception as error:
                # Nothing may end the loop: HAProxy serves on, and the next turn tries again.
                self._fail("gateway.turn_failed", error)
                _log.exception("gateway.turn_failed")
                self._stopping.wait(RETRY_SECONDS)
        self._end()

    def stop(self) -> None:
        """May be called from a signal handler or another thread."""
        self._stopping.set()
        self._watcher.wake()

    def status(self) -> dict[str, object]:
        """A moment's picture for /status; may be called from any thread."""
        apps = list(self._wanted.apps.values())
        target = self._target
        return {
            "gateway": self._settings.gateway_id,
            "zookeeper": self._watcher.connected,
            "epoch": self._wanted.epoch,
            "served": self._watcher.served,
            "in_grace": self._wanted.in_grace,
            "apps": len(apps),
            "instances": sum(app.count() for app in apps),
            "certificates": len(self._certificates),
            "certificate_faults": dict(self._certificates.faults) | self._plane.refused_certificates,
            "slots": self._plane.slots,
            "haproxy_pid": self._haproxy.master,
            "haproxy_worker_pid": self._haproxy.worker,
            "haproxy_starts": self._plane.starts,
            "haproxy_reloads": self._plane.reloads,
            "in_force": not self._unapplied,
            "exact": self._plane.exact,
            "tables": {table.value: len(target.table(table)) for table in Table} if target is not None else {},
            "traffic": self.counters.health(),
            "access_log": self.access_log.health() if self.access_log is not None else {},
            "last_error": self._error or self._watcher.last_error,
        }

    def healthy(self) -> bool:
        return not self._stuck() and bool(self._haproxy.worker) and self._haproxy.lives(self._haproxy.master)

    def _stuck(self) -> bool:
        return time.monotonic() > self._turned_at + STUCK_SECONDS

    @property
    def _revision(self) -> tuple[int, int]:
        return self._wanted.revision, self._certificates.revision

    # One turn

    def _turn(self) -> None:
        update = self._watcher.step(TURN_SECONDS)
        now = time.monotonic()
        self._turned_at = now
        if update.epoch is not None:
            if self._wanted.enter(update.epoch, now):
                _log.info("gateway.epoch", epoch=update.epoch, apps=len(self._wanted.apps))
            if update.listed is not None:
                self._wanted.listed(update.listed)
            self._wanted.read(update.readings)
            self._certificates.read(update.certificates.payloads, update.certificates.listed)
            self._expected, self._seen = update.expected, update.seen
        if late := self._wanted.expire(now):
            _log.warning("gateway.dropped_after_grace", apps=late[:20], count=len(late))
        self._settle(update)
        self._plane.tick()
        self.counters.leaving(self._plane.busy())
        if now >= self._forgot_at + FORGET_EVERY_SECONDS:
            self._forgot_at = now
            instances = (state.instances.values() for state in self._wanted.apps.values())
            self.counters.forget({name for tags in instances for containers in tags for name in containers})

    def _settle(self, update: Update) -> None:
        """Puts what is wanted in force, and acknowledges."""
        if self._waits_for_all:
            if not update.complete:
                return
            self._waits_for_all = False
        now = time.monotonic()
        if self._planned != self._revision:
            if not update.complete and now < self._rest_until and self._many_are_new():
                # More is being read: thousands of apps are not planned anew for each hundred of them.
                return
            self._plan()
        stored = self._store()
        if self._unapplied or self._target is None or self._plane.needs(self._target):
            if now < self._retry_at:
                return
            self._apply(now)
        if self._unapplied or not stored or not self._plane.exact or self._wanted.in_grace:
            return
        if update.fence is not None:
            self._watcher.acknowledge(update.fence)
        self._watcher.in_force()

    def _plan(self) -> None:
        if not self._patch():
            self._plan_all()
        self._wanted.planned()
        self._planned = self._revision
        self._unapplied = True

    def _many_are_new(self) -> bool:
        changed = self._wanted.changed
        return changed is None or any(app not in self._slots for app in changed)

    def _patch(self) -> bool:
        """Most changes are of instances of a few apps: whether that was all."""
        changed = self._wanted.changed
        if changed is None or self._target is None or self._planned[1] != self._certificates.revision:
            return False
        found = plan.patch(self._target, self._wanted.apps, self._slots, changed, self._memory)
        if found is None:
            return False
        if self._patched is not None:
            self._patched = self._patched[0], self._patched[1] | found.slots
        if self._to_store is not None:
            self._to_store |= changed
        self._target = found.plane
        return True

    def _plan_all(self) -> None:
        began = time.monotonic()
        apps = self._wanted.apps
        self._patched = self._to_store = None
        planned = plan.plan(
            apps,
            plan.Before(self._slots, self._owners, self._plane.busy_slots(), self._plane.slots, self._plane.tcp_slots),
            spare=self._settings.spare_slots,
            expected=max(self._expected, len(apps)),
            memory=self._memory,
        )
        self._slots, self._owners = planned.slots, planned.owners
        self._target = replace(planned.plane, certificates=self._certificates.wanted())
        self.counters.assign(self._slots)
        # Storing and putting in force take as long again.
        now = time.monotonic()
        self._rest_until = now + REST_TIMES * (now - began)

    def _store(self) -> bool:
        """Whether the disk holds what is wanted. A full disk stops acknowledgements, not traffic."""
        if self._stored == self._revision:
            return True
        try:
            if self._stored[1] != self._certificates.revision:
                self._certificates.store()
                self._stored = (self._stored[0], self._certificates.revision)
            if self._stored[0] != self._wanted.revision:
                apps = self._wanted.apps
                if self._to_store is not None and self._journal.room:
                    self._journal.add(self._seen, {app: apps[app] for app in self._to_store})
                else:
                    saved = Saved(self._wanted.epoch, self._seen, apps, self._slots, self._owners)
                    self._journal.begin(saved)
                self._to_store = set()
        except OSError as error:
            self._fail("state.not_saved", error)
            return False
        self._stored = self._revision
        return True

    def _apply(self, now: float) -> None:
        if self._target is None:
            return
        self._unapplied = True
        try:
            base, slots = self._patched if self._patched is not None else (None, frozenset())
            self._plane.apply(self._target, base, slots)
            self.counters.leaving(self._plane.busy())
        except DataPlaneError as error:
            self._retry_at = now + RETRY_SECONDS
            self._fail("gateway.not_applied", error)
            return
        self._unapplied = False
        self._patched = self._target, frozenset()
        self._error = ""
        self._certificates.tidy()

    def _fail(self, event: str, error: Exception) -> None:
        text = f"{event}: {error}"
        if text != self._error:
            _log.error(event, error=str(error))
        self._error = text

    def _end(self) -> None:
        # HAProxy first: while it serves, the gateway's node must say that it does.
        if self._settings.keep_haproxy:
            self._plane.leave()
        else:
            self._plane.stop(self._settings.stop_seconds)
        self._watcher.stop()
        self._listener.end()
        if self.access_log is not None:
            self.access_log.end()
        self._lock.close()
        _log.info("gateway.stopped", haproxy_kept=self._settings.keep_haproxy)


def _lock(path: Path) -> IO[str]:
    """Two agents on one directory would take HAProxy from each other. The kernel frees it with the process."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AgentError(f"another agent runs in {path.parent}") from error
    return file
