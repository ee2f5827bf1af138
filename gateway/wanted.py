"""The apps that the gateway wants to serve, as readings from ZooKeeper come in. Pure: the clock is passed in.

What it protects: a reading that does not follow the contract leaves the app's last good route, and a new
epoch (ZooKeeper was emptied and is being rebuilt) does not drop apps that are not written yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from gateway.contract import Route
from gateway.model import AppState, Instances


@dataclass(frozen=True, slots=True)
class Reading:
    """One app as read at one moment. ``route`` is None when its payload does not follow the contract.

    ``instances`` holds the valid ones only: an address that cannot be read is not routed to.
    """

    route: Route | None
    instances: Instances
    faults: tuple[str, ...] = ()


class Wanted:
    """``epoch`` is the life of the ZooKeeper data that the apps come from ("" before the first).

    ``revision`` grows with every change of the two.
    """

    def __init__(self, apps: Mapping[str, AppState], epoch: str, grace_seconds: float) -> None:
        self.apps: dict[str, AppState] = dict(apps)
        self.epoch = epoch
        self.revision = 0
        self._changed: set[str] | None = None
        self._grace_seconds = grace_seconds
        self._unconfirmed: set[str] = set()
        self._grace_until = 0.0

    def enter(self, epoch: str, now: float) -> bool:
        """A new epoch begins: apps of the old one stay until they are read again or the grace is over.

        Returns whether the epoch is new.
        """
        if epoch == self.epoch:
            return False
        self.epoch = epoch
        self.revision += 1
        self._changed = None
        self._unconfirmed = set(self.apps)
        self._grace_until = now + self._grace_seconds
        return True

    def read(self, readings: Mapping[str, Reading | None]) -> None:
        """None: the app's route node is gone."""
        for app, reading in readings.items():
            if reading is None:
                self._gone([app])
                continue
            self._unconfirmed.discard(app)
            if reading.route is not None:
                self._set(app, AppState(reading.route, reading.instances))
            elif (last := self.apps.get(app)) is not None:
                # The route stays; an instance whose address was taken away or changed does not, because
                # its port may belong to somebody else from now on.
                self._set(app, AppState(last.route, _still_there(last.instances, reading.instances)))

    def listed(self, names: Collection[str]) -> None:
        """The complete list of apps that have a route node."""
        self._gone(self.apps.keys() - set(names))

    def version_of(self, app: str, container: str) -> str:
        """Of one of the app's instances; empty where it is none. May be called from any thread."""
        state = self.apps.get(app)
        instances = state.instances.items() if state is not None else ()
        return next((tag for tag, containers in instances if container in containers), "")

    @property
    def changed(self) -> frozenset[str] | None:
        """Apps that are there and changed since `planned`; None where it is more than that."""
        return frozenset(self._changed) if self._changed is not None else None

    def planned(self) -> None:
        self._changed = set()

    def expire(self, now: float) -> tuple[str, ...]:
        """Drops what the new epoch has not named within the grace; returns it."""
        if not self._unconfirmed or now < self._grace_until:
            return ()
        late = tuple(sorted(self._unconfirmed))
        self._unconfirmed.clear()
        self._gone(late)
        return late

    @property
    def in_grace(self) -> bool:
        """Apps of an older epoch are still served, so nothing of the new one may be acknowledged."""
        return bool(self._unconfirmed)

    def _gone(self, apps: Iterable[str]) -> None:
        for app in list(apps):
            if app not in self._unconfirmed and self.apps.pop(app, None) is not None:
                self.revision += 1
                self._changed = None

    def _set(self, app: str, state: AppState) -> None:
        if self.apps.get(app) != state:
            self.apps[app] = state
            self.revision += 1
            if self._changed is not None:
                self._changed.add(app)


def _still_there(last: Instances, now: Instances) -> Instances:
    kept = {
        tag: {name: address for name, address in containers.items() if now.get(tag, {}).get(name) == address}
        for tag, containers in last.items()
    }
    return {tag: containers for tag, containers in kept.items() if containers}
