"""What this process wrote to ZooKeeper last, so that it need not be read again before each publication. Pure.

Each publication of an app changes its route node, so what was written stands for exactly as long as that node does:
the same session, the same node (czxid), the same last change of it (mzxid, version). A hand that changes addresses
alone is not seen here; the rebuild reads everything.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

#: (version, container id) -> address
Addresses = Mapping[tuple[str, str], str]
#: Session, czxid, mzxid and version of a route node.
Stands = tuple[int, int, int, int]


class Kept:
    """Of at most ``most`` addresses in all; the app that was not asked for the longest goes first. For any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._apps: OrderedDict[str, tuple[Stands, Addresses]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, app: str, stands: Stands) -> Addresses | None:
        """None unless exactly that was kept."""
        with self._lock:
            held = self._apps.get(app)
            if held is None or held[0] != stands:
                return None
            self._apps.move_to_end(app)
            return held[1]

    def put(self, app: str, stands: Stands, addresses: Addresses) -> None:
        """``addresses`` must not change any more."""
        with self._lock:
            self._drop(app)
            if _weight(addresses) > self._most:
                return
            self._apps[app] = (stands, addresses)
            self._size += _weight(addresses)
            while self._size > self._most:
                self._drop(next(iter(self._apps)))

    def drop(self, app: str) -> None:
        with self._lock:
            self._drop(app)

    def clear(self) -> None:
        with self._lock:
            self._apps.clear()
            self._size = 0

    def _drop(self, app: str) -> None:
        held = self._apps.pop(app, None)
        if held is not None:
            self._size -= _weight(held[1])


def _weight(addresses: Addresses) -> int:
    """An app without any takes room too."""
    return 1 + len(addresses)
