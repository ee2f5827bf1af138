"""Follows ZooKeeper and says up to which transaction everything was delivered.

Why an acknowledgement is exact (read in kazoo 2.11, protocol/connection.py and handlers/threading.py):
- One thread reads the connection. It queues a watch's callback when it reads the event, and raises
  ``last_zxid`` when it reads a reply; a server sends the events of a transaction before any reply that bears
  its zxid. So once ``last_zxid`` is Z, the callbacks of every watched change <= Z are already queued.
- A fence with Z that is put behind them in the same queue therefore reaches our inbox after their marks.
- A change between a watch's firing and the read that sets it again is part of that read; one after it fires
  the new watch. An app whose read has not succeeded stays dirty, and a fence waits until nothing is dirty.
- kazoo drops all watches when the connection is lost, and tells us before it connects again. Each connection
  has a generation; a fence counts only in the generation in which everything was read from the start.
- A publication is one transaction, and an app is read in several requests: the route node is read first (with
  the watch) and looked at again last. If it moved between, the reading is torn, and is thrown away.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from kazoo.exceptions import NoNodeError
from kazoo.protocol.states import Callback, EventType, KazooState, WatchedEvent

from gateway import contract
from gateway.wanted import Reading
from gateway.watcher.apps import read_apps
from gateway.watcher.certificates import CertificateNews, CertificateNodes
from gateway.watcher.client import end_client, make_client
from gateway.watcher.node import UNREACHABLE, Node

CHUNK_APPS = 200
RESYNC_APPS_PER_SECOND = 100
IDLE_ACK_SECONDS = 5.0
RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought. ``fence``: once this is in force, everything up to that zxid is.

    ``epoch`` is None while it is not known or ZooKeeper is empty: then nothing else is filled in either.
    ``complete``: everything that is there has been read. ``expected``: how many apps are there.
    """

    epoch: str | None = None
    listed: frozenset[str] | None = None
    readings: dict[str, Reading | None] = field(default_factory=dict)
    expected: int = 0
    seen: int = 0
    complete: bool = False
    fence: int | None = None
    certificates: CertificateNews = field(default_factory=CertificateNews)


@dataclass(frozen=True, slots=True)
class _Fence:
    generation: int
    zxid: int


class Watcher:
    """Used from one thread: ``step``, put the update in force, ``in_force``; ``acknowledge`` what it fenced.

    ``seen`` and ``epoch`` come from the state on disk; ``stats`` is told in the gateway's node. ``wake`` may be called
    from any thread.
    """

    def __init__(
        self,
        *,
        hosts: str,
        credential: str,
        gateway: str,
        session_seconds: float,
        resync_seconds: float,
        stats: str = "",
        epoch: str = "",
        seen: int = 0,
    ) -> None:
        self._hosts = hosts
        self._credential = credential
        self._session_seconds = session_seconds
        self._resync_seconds = resync_seconds
        self._inbox: queue.SimpleQueue[_Fence | tuple[str, str] | None] = queue.SimpleQueue()
        self._client: Any = None
        # Written by kazoo's thread, read by ours.
        self._generation = 0
        self.connected = False
        self._lost_at = time.monotonic()
        # Of the current generation.
        self._following = -1
        self._needs_epoch = self._needs_list = False
        self._synced = False
        self._epoch: str | None = epoch
        self._seen = seen
        self._watched: set[str] = set()
        self._dirty: dict[str, None] = {}
        self._refused: dict[str, float] = {}
        self._faults: dict[str, tuple[str, ...]] = {}
        self._fence: int | None = None
        self._fence_out = False
        self._retry_at = 0.0
        self._checked_at = 0.0
        self._to_check: list[str] = []
        self._certificates = CertificateNodes()
        # The acknowledgement.
        self._node = Node(gateway, stats, session_seconds)
        self._news = self._owed = False
        self.last_error = ""

    @property
    def served(self) -> int:
        return self._node.served

    # Life

    def start(self) -> None:
        """Returns at once; kazoo connects, and connects again, for ever in the background."""
        client = make_client(self._hosts, self._credential, self._session_seconds)
        self._lost_at = time.monotonic()
        self._client = client

        def follow(state: str) -> None:
            if client is self._client:
                self._on_state(state)

        client.add_listener(follow)
        client.start_async()

    def stop(self) -> None:
        """Ends the session, which removes the gateway's node. Waits at most a few seconds."""
        client, self._client = self._client, None
        if client is not None:
            ending = threading.Thread(target=end_client, args=(client,), daemon=True)
            ending.start()
            ending.join(5)

    def wake(self) -> None:
        self._inbox.put(None)

    # Called by kazoo's threads

    def _on_state(self, state: str) -> None:
        self._generation += 1
        self.connected = state == KazooState.CONNECTED
        if not self.connected:
            self._lost_at = time.monotonic()
        self._inbox.put(None)

    def _mark(self, what: str) -> Callable[[WatchedEvent], None]:
        generation = self._generation

        def mark(event: WatchedEvent) -> None:
            # NONE is kazoo's word that the watch is dropped; the new generation reads everything anyway.
            if event.type != EventType.NONE and generation == self._generation:
                self._inbox.put((what, event.path))

        return mark

    # One step

    def step(self, timeout: float) -> Update:
        """Waits up to ``timeout`` seconds for something to happen, and reads what it touched."""
        self._drain(timeout)
        now = time.monotonic()
        if not self.connected:
            self._replace_dead_client(now)
            return Update()
        if self._following != self._generation:
            self._begin()
        if now < self._retry_at:
            return Update()
        try:
            return self._read_on(now)
        except UNREACHABLE as error:
            self._trouble("zookeeper.read_failed", error)
            return Update()

    def _busy(self) -> bool:
        """Whether something is known that has not been read yet."""
        if self._following != self._generation or self._needs_epoch:
            return True
        return self._epoch is not None and (self._needs_list or bool(self._dirty) or self._certificates.busy)

    def _drain(self, timeout: float) -> None:
        if self.connected and self._busy():
            timeout = min(timeout, max(0.0, self._retry_at - time.monotonic()))
        try:
            self._take(self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait())
            while True:
                self._take(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _take(self, event: _Fence | tuple[str, str] | None) -> None:
        if isinstance(event, _Fence):
            if event.generation == self._generation:
                self._fence = event.zxid
                self._fence_out = False
        elif event is not None:
            self._news = True
            what, path = event
            if what == "epoch":
                self._needs_epoch = True
            elif what == "list":
                self._needs_list = True
            elif what.startswith("certificate"):
                self._certificates.take(what, path)
            else:
                self._dirty[path.rpartition("/")[2]] = None

    def _begin(self) -> None:
        """A new connection: no watch is set, so everything is read again."""
        self._following = self._generation
        self._watched.clear()
        self._dirty.clear()
        self._refused.clear()
        self._fence, self._fence_out = None, False
        self._needs_epoch = self._needs_list = self._news = self._node.unwritten = True
        self._synced = False
        self._retry_at = self._checked_at = 0.0
        self._epoch_mark, self._list_mark = self._mark("epoch"), self._mark("list")
        self._route_mark = self._mark("app")
        self._certificates.begin(self._mark)
        # A server that lags behind the others catches up before it answers.
        self._client.sync_async(contract.ROOT)

    def _read_on(self, now: float) -> Update:
        if self._needs_epoch and not self._read_epoch():
            return Update()
        if self._node.unwritten and now >= self._node.write_at:
            self._publish(self.served)
        listed = None
        if self._epoch is not None and self._needs_list:
            listed = self._read_list()
        if self._epoch is None or not self._synced:
            return Update()
        self._check_some(now)
        for app in [app for app, until in self._refused.items() if now >= until]:
            del self._refused[app]
            self._dirty[app] = None
        chunk = list(self._dirty)[:CHUNK_APPS]
        readings = self._read_apps(chunk) if chunk else {}
        news = self._certificates.read(self._client, self._session_seconds) if self._certificates.busy else None
        self._seen = max(self._seen, self._client.last_zxid)
        complete = not (self._refused or self._busy())
        fence = None
        if complete:
            fence, self._fence = self._fence, None
            self._owed = self._owed or fence is not None
        return Update(
            epoch=self._epoch,
            listed=listed,
            readings=readings,
            expected=len(self._watched | self._dirty.keys()),
            seen=self._seen,
            complete=complete,
            fence=fence,
            certificates=news or CertificateNews(),
        )

    def _read_epoch(self) -> bool:
        """Returns whether ZooKeeper holds data that may be believed."""
        text: str | None = None
        if self._get(self._client.exists_async(contract.EPOCH_PATH, watch=self._epoch_mark)) is not None:
            try:
                value, _ = self._get(self._client.get_async(contract.EPOCH_PATH, watch=self._epoch_mark))
                text = value.decode("ascii", "replace")[:128]
            except NoNodeError:
                text = None
        if not text:
            self._needs_epoch = self._synced = False
            self._epoch, self._seen = None, 0
            self._needs_list = True
            self._trouble("zookeeper.empty", "there is no epoch; the last good state stays")
            self._publish(0)
            return False
        if text == self._epoch and self._client.last_zxid < self._seen:
            # An older past of the same data: believing it would bring removed instances back.
            self._trouble("zookeeper.behind", f"zxid {self._client.last_zxid} < {self._seen}")
            self._client.sync_async(contract.ROOT)
            return False
        if text != self._epoch:
            _log.info("zookeeper.epoch", old=self._epoch, new=text)
            self._epoch, self._seen = text, 0
            self._watched.clear()
            self._certificates.again()
            self._needs_list, self._synced = True, False
            self._publish(0)
        self._needs_epoch = False
        return True

    def _read_list(self) -> frozenset[str] | None:
        self._needs_list = False
        try:
            names = self._get(self._client.get_children_async(contract.ROUTE_PATH, watch=self._list_mark))
        except NoNodeError:
            there = self._get(self._client.exists_async(contract.ROUTE_PATH, watch=self._list_mark))
            self._needs_list, self._synced = there is not None, False
            self._trouble("zookeeper.empty", "there are no routes; the last good state stays")
            return None
        except UNREACHABLE:
            self._needs_list = True
            raise
        apps = frozenset(name for name in names if _is_app(name))
        if len(apps) < len(names):
            self._trouble("zookeeper.bad_node", f"{len(names) - len(apps)} names under route are not app ids", 0)
        self._watched &= apps
        self._dirty = {app: None for app in self._dirty if app in apps}
        self._dirty.update(dict.fromkeys(sorted(apps - self._watched)))
        self._synced = True
        return apps

    def _check_some(self, now: float) -> None:
        """Reads a slice of all apps again, so that each has its turn: a change without its route is found.

        At most 100 apps a second, so that thousands of apps take longer than the period instead of a core.
        """
        if now < self._checked_at + RETRY_SECONDS:
            return
        self._checked_at = now
        # Moves last_zxid on, which changes of other nodes alone would not.
        self._get(self._client.exists_async(contract.EPOCH_PATH))
        if not self._to_check:
            self._to_check = sorted(self._watched, reverse=True)
        share = -(-len(self._watched) // int(self._resync_seconds))
        for _ in range(min(share, RESYNC_APPS_PER_SECOND, len(self._to_check))):
            app = self._to_check.pop()
            if app in self._watched:
                self._dirty[app] = None

    def _read_apps(self, apps: list[str]) -> dict[str, Reading | None]:
        found = read_apps(self._client, apps, self._route_mark, self._session_seconds)
        until = time.monotonic() + RETRY_SECONDS
        for app in found.refused:
            if app not in self._refused:
                self._trouble("zookeeper.refused", f"{app} may not be read", 0)
            # One app that may not be read does not stop the others, but it does stop acknowledgements.
            self._refused[app] = until
            self._dirty.pop(app, None)
        self._watched -= found.gone
        self._watched |= set(apps) - found.gone
        for app, reading in found.readings.items():
            self._dirty.pop(app, None)
            self._report(app, reading.faults if reading is not None else ())
        return found.readings

    def _report(self, app: str, faults: tuple[str, ...]) -> None:
        """Once for each set of faults, however often it is read again."""
        if faults and self._faults.get(app) != faults:
            self._trouble("contract.broken", f"{app}: {'; '.join(faults[:5])}", 0)
        if faults:
            self._faults[app] = faults
        else:
            self._faults.pop(app, None)

    def _get(self, result: Any) -> Any:
        return result.get(timeout=self._session_seconds)

    # Acknowledging

    def in_force(self) -> None:
        """All updates so far are in force: sends a fence, if there may be something to acknowledge.

        Also now and then without news: somebody may wait for a zxid that changed nothing of ours.
        """
        if self._fence_out or not self.connected or not self._synced or self._busy() or self._refused:
            return
        generation = self._generation
        zxid = self._client.last_zxid
        # In this order: a zxid of a newer connection, whose watches are not set, must not pass for this one's.
        if generation != self._following or self._generation != generation:
            return
        only_own = zxid == self._node.own_zxid and self.served == zxid - 1
        idle = time.monotonic() >= self._node.written_at + IDLE_ACK_SECONDS
        if zxid > self.served and (self._news or self._owed or (idle and not only_own)):
            # A mark that is taken from now on may be of a change after zxid: marks come before replies.
            self._fence_out, self._news = True, False
            fence = Callback("watch", self._inbox.put, (_Fence(generation, zxid),))
            self._client.handler.dispatch_callback(fence)

    def acknowledge(self, zxid: int) -> None:
        """Says in the gateway's node that every change up to ``zxid`` is in force."""
        self._owed = False
        self._publish(max(zxid, self.served))

    def _publish(self, served: int) -> None:
        error = self._node.write(self._client, self._epoch or "", served)
        if error is not None:
            self._trouble("zookeeper.node_not_written", error, 0)

    # Trouble

    def _trouble(self, event: str, error: object, delay: float = RETRY_SECONDS) -> None:
        self.last_error = f"{event}: {error or type(error).__name__}"
        self._retry_at = max(self._retry_at, time.monotonic() + delay) if delay else self._retry_at
        _log.warning(event, error=str(error) or type(error).__name__)

    def _replace_dead_client(self, now: float) -> None:
        """kazoo sends the last zxid that it saw when it connects, and a ZooKeeper that was emptied turns such
        a client away for ever. When the session must be over anyway, a new client begins from nothing."""
        if self._client is None or now < self._lost_at + max(5.0, 1.5 * self._session_seconds):
            return
        dead, self._client = self._client, None
        self._generation += 1
        threading.Thread(target=end_client, args=(dead,), daemon=True).start()
        self.start()


def _is_app(name: str) -> bool:
    try:
        return contract.app_id(name) == name
    except contract.ContractError:
        return False
