"""The gateway's own node: which zxid it serves."""

from __future__ import annotations

import time
from typing import Any

import structlog
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.handlers.threading import KazooTimeoutError

from gateway import contract

RETRY_SECONDS = 1.0
UNREACHABLE = (KazooException, KazooTimeoutError)

_log = structlog.get_logger(__name__)


class Node:
    """``own_zxid``: of the last writing, which is news to nobody else. ``unwritten``: to be tried at ``write_at``."""

    def __init__(self, gateway: str, stats: str, seconds: float) -> None:
        self.served = 0
        self.unwritten = False
        self.write_at = self.written_at = 0.0
        self.own_zxid = 0
        self._error = ""
        self._gateway = gateway
        self._stats = stats
        self._seconds = seconds

    def write(self, client: Any, epoch: str, served: int) -> Exception | None:
        """A node that cannot be written is tried again; following goes on. Returns an error that is new."""
        self.served, self.unwritten = served, True
        self.written_at = time.monotonic()
        try:
            self._write(client, contract.GatewayState(self._gateway, epoch, served, self._stats).to_json())
        except UNREACHABLE as error:
            self.write_at = time.monotonic() + RETRY_SECONDS
            told, self._error = self._error, repr(error)
            return error if self._error != told else None
        self.unwritten, self._error = False, ""
        self.own_zxid = client.last_zxid
        return None

    def _write(self, client: Any, value: bytes) -> None:
        path = contract.gateway_path(self._gateway)
        try:
            stat = client.set_async(path, value).get(timeout=self._seconds)
        except NoNodeError:
            client.create_async(path, value, ephemeral=True).get(timeout=self._seconds)
            return
        if stat.ephemeralOwner != (client.client_id or (0,))[0]:
            # Left by this gateway's former session, which has not ended yet. One transaction, because a
            # gateway that seems gone for a moment is one whose acknowledgement nobody waits for.
            _log.warning("zookeeper.node_taken_over", path=path, owner=hex(stat.ephemeralOwner))
            swap = client.transaction()
            swap.delete(path)
            swap.create(path, value, ephemeral=True)
            for result in swap.commit_async().get(timeout=self._seconds):
                if isinstance(result, Exception):
                    raise result
